"""A picture that is upside down, mirrored or blue is found by what training kept of it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from saccade.deploy.appearance import check_appearance, thumbnail
from saccade.errors import ConfigError
from tests.deploy.toy import picture


def clip(seed: int, light: float = 1.0) -> Tensor:
    """Three frames of one scene, each with noise of its own."""
    views = np.stack([picture(10 * seed + t, 64, 48) for t in range(3)])
    return torch.from_numpy((views * light).astype(np.uint8)).permute(0, 3, 1, 2)


REFERENCE = {"front": thumbnail(clip(0)), "wrist": thumbnail(clip(1))}


def test_a_thumbnail_is_the_mean_of_areas() -> None:
    video = clip(0)
    found = thumbnail(video)
    cells = video.double().mean(0).reshape(3, 16, 4, 16, 3).mean((2, 4))
    torch.testing.assert_close(found.double(), cells, atol=1e-3, rtol=0)


def test_frames_of_the_same_place_pass_in_another_light() -> None:
    found = check_appearance(REFERENCE, {"front": clip(2), "wrist": clip(3, 0.8)})
    assert found["front"] < found["wrist"] < 30


@pytest.mark.parametrize(
    ("turn", "found"),
    [
        (lambda video: video.flip(2), "rows in reverse"),
        (lambda video: video.flip(3), "columns in reverse"),
        (lambda video: video.flip(2, 3), "turned by 180 degrees"),
        (lambda video: video.flip(1), "red and blue exchanged"),
    ],
)
def test_frames_that_are_turned_are_refused(turn: Callable[[Tensor], Tensor], found: str) -> None:
    with pytest.raises(ConfigError, match=f"camera wrist looks more like training .*{found}"):
        check_appearance(REFERENCE, {"front": clip(2), "wrist": turn(clip(3))})


def test_what_looks_the_same_both_ways_is_not_accused() -> None:
    grey = torch.full((1, 3, 64, 48), 90, dtype=torch.uint8)
    found = check_appearance({"front": thumbnail(grey)}, {"front": grey + 5})
    assert found == {"front": pytest.approx(0, abs=1e-3)}


def test_a_camera_without_a_thumbnail_is_refused() -> None:
    with pytest.raises(ConfigError, match="no thumbnail of camera top, only of front, wrist"):
        check_appearance(REFERENCE, {"top": clip(0)})
