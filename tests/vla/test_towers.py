"""Parity with timm 1.0.31, whose weights and outputs are in fixtures/timm.npz (float16 weights)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saccade.checkpoint import load_weights
from saccade.errors import ConfigError
from saccade.models.vit import ViTConfig
from saccade.vla.published import from_timm, to_timm, tower_config
from saccade.vla.towers import EncoderTowerConfig, PublishedTowerConfig, resample

TIMM = dict(np.load(Path(__file__).parent / "fixtures" / "timm.npz"))
KINDS = ("dinov2", "siglip")
SMALL: dict[str, Any] = {"dim": 32, "depth": 3, "heads": 2, "hidden": 64, "image_size": 28}


def weights(kind: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(f"{kind}/"): torch.from_numpy(value).float()
        for name, value in TIMM.items()
        if name.startswith(kind) and not name.endswith(("/video", "/features"))
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_tower_gives_what_timms_gives(kind: Any) -> None:
    theirs = weights(kind)
    sizes = tower_config(theirs, "", "a file")
    assert (sizes.kind, sizes.dim, sizes.depth, sizes.patch) == (kind, 32, 3, 7)
    assert (sizes.image_size, sizes.hidden) == (28, 128 if kind == "dinov2" else 96)
    config = PublishedTowerConfig(**{**vars(sizes), "heads": 2})
    tower = config.build().eval()
    load_weights(tower.network, from_timm(theirs, kind, 3), "timm")
    with torch.no_grad():
        found = tower(torch.from_numpy(TIMM[f"{kind}/video"]))
    expected = torch.from_numpy(TIMM[f"{kind}/features"])
    assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_has_its_place_and_finds_back(kind: Any) -> None:
    theirs = weights(kind)
    back = to_timm(from_timm(theirs, kind, 3), kind, 3)
    assert back.keys() == theirs.keys()
    for name, value in theirs.items():
        assert back[name].equal(value), name


def test_training_files_say_gamma_where_the_hub_says_scale_factor() -> None:
    theirs = weights("dinov2")
    trained = {name.replace("scale_factor", "gamma"): value for name, value in theirs.items()}
    assert trained.keys() != theirs.keys()
    one, two = from_timm(theirs, "dinov2", 3), from_timm(trained, "dinov2", 3)
    assert one.keys() == two.keys()


def test_the_last_block_is_read_by_nothing() -> None:
    tower = PublishedTowerConfig(kind="siglip", **SMALL).build().eval()
    video = torch.randint(0, 256, (1, 1, 3, 28, 28), dtype=torch.uint8)
    with torch.no_grad():
        before = tower(video)
        for name in tower.unused():
            for value in tower.get_submodule(name).parameters():
                value.fill_(torch.nan)
        assert tower(video).equal(before)
    whole = PublishedTowerConfig(kind="siglip", layer="last", pooling=False, **SMALL).build()
    assert whole.unused() == []
    assert not whole(video).equal(before)


def test_only_the_newest_frame_is_seen() -> None:
    tower = PublishedTowerConfig(kind="dinov2", **SMALL).build().eval()
    video = torch.randint(0, 256, (1, 2, 3, 28, 28), dtype=torch.uint8)
    other = video.clone()
    other[:, 0] = 0
    with torch.no_grad():
        assert tower(video).equal(tower(other))


@pytest.mark.parametrize("wrong", [{"heads": 3}, {"image_size": 30}, {"depth": 1}, {"hidden": 63}])
def test_impossible_towers_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        PublishedTowerConfig(kind="dinov2", **{**SMALL, **wrong}).build()


def test_frames_of_another_size_are_refused() -> None:
    tower = PublishedTowerConfig(kind="siglip", **SMALL).build()
    with pytest.raises(ConfigError, match="28 pixels, not"):
        tower(torch.zeros(1, 1, 3, 56, 56, dtype=torch.uint8))


OURS = ViTConfig(image_size=32, num_frames=2, tubelet=2, patch=8, dim=48, depth=1, heads=2)


def test_an_encoder_stands_on_the_grid_that_is_asked_for() -> None:
    tower = EncoderTowerConfig(encoder=OURS, grid=2, adapter=10).build()
    assert (tower.grid, tower.dim, tower.frames) == (2, 10, 2)
    video = torch.randint(0, 256, (3, 1, 3, 56, 56), dtype=torch.uint8)
    assert tower(video).shape == (3, 4, 10)
    assert tower.features(video).shape == (3, 4, 48)
    assert not tower.features(video).requires_grad
    assert tower(video).requires_grad  # by the adapter
    assert not tower.train().encoder.training


def test_a_single_frame_stands_for_the_clip() -> None:
    tower = EncoderTowerConfig(encoder=OURS).build().eval()
    video = torch.randint(0, 256, (1, 1, 3, 32, 32), dtype=torch.uint8)
    assert tower(video).equal(tower(video.expand(1, 2, 3, 32, 32)))


def test_tokens_move_to_another_grid_by_hand() -> None:
    plane = torch.arange(16.0).view(1, 16, 1)  # 4 x 4, rising to the right and down
    assert resample(plane, 2)[0, :, 0].tolist() == [2.5, 4.5, 10.5, 12.5]
    assert resample(plane, 4) is plane
    with pytest.raises(ConfigError, match="15 tokens make no square"):
        resample(plane[:, 1:], 2)
