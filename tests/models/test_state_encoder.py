"""Sizes of the documents, the order of tokens and who sees whom, and a folder that is enough."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from saccade.errors import CheckpointError, ConfigError, DataError
from saccade.models.language import HashLanguageConfig, TableLanguageConfig, write_table
from saccade.models.pretrained import PretrainedConfig
from saccade.models.state_encoder import (
    PretrainedStateEncoderConfig,
    StateEncoder,
    StateEncoderConfig,
    load_state_encoder,
    moment,
)
from saccade.models.vit import ViTConfig
from saccade.types import Observation
from tests.objectives.helpers import clip_batch

TINY = StateEncoderConfig(
    language=HashLanguageConfig(dim=8),
    image_size=16,
    patch=8,
    cameras=2,
    state_size=3,
    dim=16,
    depth=2,
    d_state=4,
)
TEXTS = ["pick up the butter", "open the drawer"]
ORDER = ["language", "robot", *["camera 0"] * 4, *["camera 1"] * 4, "cls"]


def built(**options: Any) -> StateEncoder:
    torch.manual_seed(0)
    return replace(TINY, **options).build()


def observed(encoder: StateEncoder, t: int = 1) -> Observation:
    torch.manual_seed(1)
    side, config = encoder.preprocessing.image_size, encoder.config
    return Observation(
        video=torch.randint(256, (2, t, config.cameras, 3, side, side), dtype=torch.uint8),
        state=torch.randn(2, t, config.state_size),
        text=TEXTS,
    )


def count(*parts: nn.Module | nn.Parameter) -> int:
    return sum(
        part.numel()
        if isinstance(part, nn.Parameter)
        else sum(p.numel() for p in part.parameters())
        for part in parts
    )


def test_sizes_of_the_documents() -> None:
    encoder = StateEncoderConfig(language=HashLanguageConfig(dim=512)).build()
    tokeniser = encoder.tokeniser
    assert count(tokeniser.views) == 494_080
    assert count(tokeniser.text, tokeniser.text_position) == 131_584
    assert count(tokeniser.robot, tokeniser.robot_position) == 68_608
    assert count(tokeniser.cls, tokeniser.modality) == 1_280
    assert count(tokeniser) == 695_552
    assert count(encoder.context) == 5_256_960
    assert count(encoder.state_proj) == 66_304
    assert count(encoder) == 695_552 + 5_256_960 + 66_304
    with torch.no_grad():
        assert encoder.embed(observed(encoder)).shape == (2, 395, 256)
    encoder.context.mamba.layers = encoder.context.mamba.layers[:1]  # all look alike; time
    with torch.no_grad():
        assert encoder(observed(encoder)).shape == (2, 256)


def test_shapes_and_only_the_last_moment() -> None:
    encoder = built()
    three = observed(encoder, t=3)
    last = Observation(video=three["video"][:, 2:], state=three["state"][:, 2:], text=TEXTS)
    assert encoder(three).shape == (2, encoder.dim) == (2, 16)
    assert encoder.tokens(three).shape == encoder.embed(three).shape == (2, len(ORDER), 16)
    assert torch.equal(encoder(three), encoder(last))
    assert encoder.preprocessing.num_frames == 1
    z = encoder(three)
    torch.testing.assert_close(z.mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.square().mean(1), torch.ones(2), atol=1e-3, rtol=0)


def changed(observation: Observation, what: str) -> Observation:
    video, state, text = observation["video"].clone(), observation["state"], observation["text"]
    if what == "language":
        text = ["put it back"] * 2
    elif what == "robot":
        state = state + 1
    else:
        video[:, :, int(what[-1])] = 255 - video[:, :, int(what[-1])]
    return Observation(video=video, state=state, text=text)


@pytest.mark.parametrize("what", ["language", "robot", "camera 0", "camera 1"])
def test_the_order_is_causal(what: str) -> None:
    """Before Mamba a change is where it was made; after it, from there on to the end."""
    encoder = built()
    plain = observed(encoder)
    other = changed(plain, what)
    before = (encoder.embed(plain) != encoder.embed(other)).any(-1).all(0).tolist()
    assert before == [name == what for name in ORDER]
    after = (encoder.tokens(plain) != encoder.tokens(other)).any(-1).all(0).tolist()
    first = ORDER.index(what)
    assert after == [i >= first for i in range(len(ORDER))]
    assert not torch.allclose(encoder(plain), encoder(other), rtol=0, atol=1e-6)


def test_cls_is_last_and_changes_nothing_but_itself() -> None:
    encoder = built()
    plain = observed(encoder)
    before = encoder.tokens(plain)
    with torch.no_grad():
        encoder.tokeniser.cls.add_(1)
    moved = (encoder.tokens(plain) != before).any(-1).any(0).tolist()
    assert moved == [False] * (len(ORDER) - 1) + [True]


def test_every_trained_weight_has_a_gradient() -> None:
    encoder = built(modality_std=0.02)
    encoder(observed(encoder)).square().mul(torch.arange(16)).sum().backward()
    idle = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


def test_initial_values_of_the_documents() -> None:
    torch.manual_seed(0)
    tokeniser = replace(TINY, dim=256).build().tokeniser
    assert tokeniser.modality.std().item() == pytest.approx(1, abs=0.1)
    assert tokeniser.cls.std().item() == pytest.approx(0.02, abs=0.005)
    assert tokeniser.text_position.std().item() == pytest.approx(0.02, abs=0.005)
    assert not tokeniser.text.bias.any()
    convolution = tokeniser.views[0].get_submodule("project")
    assert isinstance(convolution, nn.Conv2d)
    bound = (6 / (3 * 8 * 8 + 256)) ** 0.5  # Xavier, of a patch's pixels and the width
    assert convolution.weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
    small = built(modality_std=0.02).tokeniser.modality
    assert small.std().item() == pytest.approx(0.02, abs=0.005)


def test_smaller_frames_are_resized_smoothly() -> None:
    encoder = built(frame_size=12)
    assert encoder.preprocessing.image_size == 12
    plain = observed(encoder)
    pixels = encoder.sense(plain).views
    frame = plain["video"][1, 0, 1].float()[None] / 255
    expected = F.interpolate(frame, (16, 16), mode="bilinear", antialias=True)[0]
    torch.testing.assert_close(pixels[1, 1], expected)
    same = built()
    seen = same.sense(observed(same)).views
    assert torch.equal(seen, observed(same)["video"][:, 0] / 255)


def test_standardised_states() -> None:
    encoder = built(standardise_state=True)
    plain = observed(encoder)
    assert encoder.sense(plain).state.isnan().all(), "not told"
    mean, std = torch.tensor([1.0, 2, 3]), torch.tensor([2.0, 4, 0])
    encoder.set_statistics(mean, std)
    found = encoder.sense(plain).state
    torch.testing.assert_close(found[:, :2], (plain["state"][:, 0, :2] - mean[:2]) / std[:2])
    assert found.isfinite().all()
    with pytest.raises(ConfigError, match="standardise_state"):
        built().set_statistics(mean, std)


def test_a_frozen_encoder_in_place_of_patches(tmp_path: Path) -> None:
    vit = ViTConfig(image_size=16, num_frames=2, patch=4, dim=12, depth=1, heads=2)
    vit.build().save_pretrained(tmp_path / "vision", vit)
    encoder = built(vision=PretrainedConfig(folder=tmp_path / "vision"), frame_size=8).train()
    plain = observed(encoder)
    assert encoder.tokens(plain).shape == (2, 1 + 1 + 2 * 16 + 1, 16)
    assert encoder.vision is not None
    assert not any(p.requires_grad for p in encoder.vision.parameters())
    assert not encoder.vision.training
    whole = (255 * encoder.resize(plain["video"][:, -1])).round().to(torch.uint8)
    expected = encoder.vision(whole[1, 1].expand(1, 2, -1, -1, -1))[0, 0]
    torch.testing.assert_close(encoder.sense(plain).views[1, 1], expected)
    encoder.save_pretrained(tmp_path / "saved")
    for file in (tmp_path / "vision").iterdir():
        file.unlink()
    assert torch.equal(load_state_encoder(tmp_path / "saved")(plain), encoder(plain))


def test_it_comes_back_from_its_folder_alone(tmp_path: Path) -> None:
    table = tmp_path / "table"
    write_table(table, {text: torch.randn(3, 5) for text in TEXTS})
    encoder = built(language=TableLanguageConfig(file=table), standardise_state=True)
    encoder.set_statistics(torch.ones(3), torch.full((3,), 2.0))
    encoder.save_pretrained(tmp_path / "run" / "state_encoder", "# A card")
    table.unlink()
    plain = observed(encoder)
    for folder in (tmp_path / "run" / "state_encoder", tmp_path / "run"):
        loaded = PretrainedStateEncoderConfig(folder=folder).build()
        assert torch.equal(loaded(plain), encoder(plain))
        assert not loaded.training
        assert not any(p.requires_grad for p in loaded.parameters())
    assert loaded.tokens(plain).shape[1] == len(ORDER) + 2


def test_other_folders_are_refused(tmp_path: Path) -> None:
    vit = ViTConfig(image_size=16, num_frames=1, tubelet=1, patch=8, dim=12, depth=1, heads=2)
    vit.build().save_pretrained(tmp_path / "vit", vit)
    with pytest.raises(CheckpointError, match="holds a ViT, not the state encoder of a phase-1"):
        load_state_encoder(tmp_path / "vit")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_state_encoder(tmp_path / "nowhere")
    built().save_pretrained(tmp_path / "mine")
    path = tmp_path / "mine" / "config.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"preprocessing": {"image_size": 8}}))
    with pytest.raises(CheckpointError, match="was trained on"):
        load_state_encoder(tmp_path / "mine")


@pytest.mark.parametrize(
    "wrong", [{"cameras": 1}, {"state_size": 4}, {"frame_size": 8}], ids=lambda w: next(iter(w))
)
def test_other_observations_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(DataError, match="this encoder takes"):
        built()(observed(built(**wrong)))


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="patches of 7"):
        built(patch=7)
    with pytest.raises(ConfigError, match="at least 1"):
        built(cameras=0)


def test_a_moment_of_a_clip() -> None:
    clip = clip_batch(4)
    for t in (1, -1):
        seen = moment(clip, t)
        assert torch.equal(seen["video"][:, 0], clip["video"][:, t])
        assert torch.equal(seen["state"][:, 0], clip["state"][:, t])
        assert seen["text"] == clip["text"]
