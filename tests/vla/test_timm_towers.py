"""Parity with timm 1.0.31's loading of a checkpoint of another size: fixtures/timm.npz."""

from pathlib import Path

import numpy as np
import pytest
import torch

from saccade.checkpoint import write_weights
from saccade.errors import CheckpointError
from saccade.vla.timm_towers import read_tower, resample_places, trained_size

TIMM = dict(np.load(Path(__file__).parent / "fixtures" / "timm.npz"))


@pytest.mark.parametrize(("case", "grid"), [("down", 4), ("up", 4), ("large", 16)])
def test_places_are_resampled_as_timm_does(case: str, grid: int) -> None:
    before = torch.from_numpy(TIMM[f"positions/{case}/before"]).float()
    expected = torch.from_numpy(TIMM[f"positions/{case}/after"])
    found = resample_places(before, grid)
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert resample_places(found, grid) is found


@pytest.mark.parametrize(
    "said",
    [
        {"model": {"model_id": "prism-qwen25-extra-dinosiglip-224px+0_5b"}},
        {"model": {"vision_backbone_id": "dinosiglip-vit-so-224px", "reduce_in_float32": 1}},
        {"vla": {"base_vlm": "prism-dinosiglip-224px+7b"}},
    ],
)
def test_the_size_is_read_off_what_the_training_was_called(said: dict) -> None:
    assert trained_size(said, "config.json") == 224


def test_two_sizes_or_none_are_an_error() -> None:
    for said in ({}, {"model": {"a": "224px", "b": "384px"}}):
        with pytest.raises(CheckpointError, match="as the size of pictures"):
            trained_size(said, "config.json")


def test_patches_that_do_not_fill_the_picture_are_an_error(tmp_path: Path) -> None:
    tower = {"pos_embed": torch.zeros(1, 9, 4), "patch_embed.proj.weight": torch.zeros(4, 3, 8, 8)}
    write_weights(tmp_path, tower)
    assert read_tower(tmp_path, 32, torch.bfloat16)["pos_embed"].shape == (1, 16, 4)
    with pytest.raises(CheckpointError, match="make no square of 28 pixels"):
        read_tower(tmp_path, 28, torch.float32)
