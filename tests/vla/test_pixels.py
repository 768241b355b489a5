"""Parity with TensorFlow 2.21's own functions, whose outputs are in fixtures/tensorflow.npz."""

from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange

from saccade.errors import ConfigError
from saccade.vla.pixels import (
    PixelsConfig,
    crop_and_resize,
    jpeg,
    lanczos,
    lanczos_weights,
    to_bytes,
    turn_colours,
)

TF = dict(np.load(Path(__file__).parent / "fixtures" / "tensorflow.npz"))
PICTURES = ("picture", "noise")


def chw(name: str) -> torch.Tensor:
    return rearrange(torch.from_numpy(TF[name]), "h w c -> 1 c h w")


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize(("size", "kind"), [(28, "lanczos"), (48, "lanczos_up")])
def test_lanczos_is_tensorflows(name: str, size: int, kind: str) -> None:
    found, expected = lanczos(chw(name), size), chw(f"{kind}_{name}")
    off = (found.int() - expected.int()).abs()
    assert off.max() <= 1
    assert off.gt(0).float().mean() < 0.002


@pytest.mark.parametrize("name", PICTURES)
def test_the_crop_is_tensorflows(name: str) -> None:
    side = 0.9**0.5
    found = to_bytes(crop_and_resize(chw(name) / 255.0, (1 - side) / 2, (1 - side) / 2, side))
    off = (found.int() - chw(f"crop_{name}").int()).abs()
    assert off.max() <= 1
    assert off.gt(0).float().mean() < 0.01


@pytest.mark.parametrize("name", PICTURES)
def test_colours_turn_as_tensorflows_do(name: str) -> None:
    x = chw(name) / 255.0
    assert turn_colours(x, 1.15, 0.0).numpy() == pytest.approx(
        chw(f"saturation_{name}").numpy(), abs=2e-6
    )
    assert turn_colours(x, 1.0, 0.04).numpy() == pytest.approx(chw(f"hue_{name}").numpy(), abs=5e-6)


@pytest.mark.parametrize("name", PICTURES)
def test_jpeg_is_tensorflows(name: str) -> None:
    assert jpeg(chw(name)).equal(chw(f"jpeg_{name}"))


def test_lanczos_keeps_a_plain_picture_and_weighs_to_one() -> None:
    grey = torch.full((1, 3, 20, 20), 77, dtype=torch.uint8)
    assert lanczos(grey, 14).eq(77).all()
    assert lanczos_weights(20, 14).sum(1).numpy() == pytest.approx(np.ones(14), abs=1e-6)
    assert lanczos(grey, 20) is grey


def test_no_change_of_colour_changes_nothing() -> None:
    x = torch.rand(2, 3, 4, 4)
    assert turn_colours(x, 1.0, 0.0).numpy() == pytest.approx(x.numpy(), abs=1e-6)
    assert crop_and_resize(x, 0.0, 0.0, 1.0).numpy() == pytest.approx(x.numpy(), abs=1e-6)


def test_at_work_the_middle_is_seen_and_in_training_any_place() -> None:
    video = torch.randint(0, 256, (2, 2, 3, 32, 32), dtype=torch.uint8)
    config = PixelsConfig(frame=32, size=28, jpeg=False)
    shown = config.shown(video)
    assert shown.shape == (2, 2, 3, 28, 28)
    assert shown.equal(config.shown(video))
    keys = torch.tensor([5, 6])
    varied = config.varied(video, keys)
    assert varied.equal(config.varied(video, keys))
    assert not varied.equal(config.varied(video, keys + 1))
    assert not varied.equal(shown)
    still = PixelsConfig(
        frame=32,
        size=28,
        jpeg=False,
        area=1.0,
        brightness=0.0,
        contrast=0.0,
        saturation=0.0,
        hue=0.0,
    )
    off = still.varied(video, keys).int() - still.shown(video).int()
    assert off.abs().max() <= 1


def test_frames_of_a_sample_are_varied_alike() -> None:
    frame = torch.randint(0, 256, (1, 1, 3, 32, 32), dtype=torch.uint8)
    found = PixelsConfig(frame=32, size=28).varied(frame.expand(1, 2, 3, 32, 32), torch.tensor([3]))
    assert found[0, 0].equal(found[0, 1])


@pytest.mark.parametrize("wrong", [{"area": 0.0}, {"area": 1.5}, {"size": 1}])
def test_impossible_pixels_are_refused(wrong: dict[str, float | int]) -> None:
    settings: dict = {"frame": 32, "size": 28, **wrong}
    with pytest.raises(ConfigError, match="at most 1"):
        PixelsConfig(**settings).check()
