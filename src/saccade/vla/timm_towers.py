"""Towers as timm publishes them, for trainings of OpenVLA that left theirs alone.

Such a training's file has projector and language model only, and its towers are those of the hub:
timm/vit_large_patch14_reg4_dinov2.lvd142m (of 518 pixels) and
timm/vit_so400m_patch14_siglip_224.webli. timm resamples the places of patches to the size that is
asked for, and so is done here.
"""

import json
import re
from collections.abc import Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from saccade.checkpoint import CONFIG, read_weights
from saccade.errors import CheckpointError
from saccade.models.hub_folder import read_json

HUB = (
    "timm/vit_large_patch14_reg4_dinov2.lvd142m",
    "timm/vit_so400m_patch14_siglip_224.webli",
)


def read_towers(
    folders: Sequence[Path], settings: Mapping[str, Any], dtype: torch.dtype, source: str
) -> tuple[list[str], list[dict[str, Tensor]]]:
    """Return timm's names and tensors of towers, at the size that a training says it used.

    Raises:
        CheckpointError: a folder has none, or the settings name no size.
    """
    side = trained_size(settings, source)
    names = [str(read_json(folder, CONFIG).get("architecture", "")) for folder in folders]
    return names, [read_tower(folder, side, dtype) for folder in folders]


def trained_size(settings: Mapping[str, Any], source: str) -> int:
    """Return the side of the pictures that a training's settings name, as in ``...-224px...``.

    Raises:
        CheckpointError: they name none, or several.
    """
    said = settings.get("model") or settings.get("vla")
    sides = set(re.findall(r"(?<!\d)(\d+)px", json.dumps(said)))
    if len(sides) != 1:
        raise CheckpointError(
            f"{source} names {' and '.join(sorted(sides)) or 'no'} pixels as the size of pictures; "
            "one is needed, as in its model_id `prism-qwen25-extra-dinosiglip-224px+0_5b`"
        )
    return int(sides.pop())


def read_tower(folder: Path, side: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Read a tower for pictures of another size than it was trained on.

    Raises:
        CheckpointError: these are no weights of a ViT of timm, or patches do not fill the picture.
    """
    weights = {name: value.to(dtype) for name, value in read_weights(folder).items()}
    places, kernel = weights.get("pos_embed"), weights.get("patch_embed.proj.weight")
    if places is None or kernel is None or places.ndim != 3 or kernel.ndim != 4:
        raise CheckpointError(
            f"{folder} holds no ViT of timm; fetch it with `hf download {HUB[0]}`, or {HUB[1]}"
        )
    if side % kernel.shape[2] or isqrt(places.shape[1]) ** 2 != places.shape[1]:
        raise CheckpointError(
            f"{folder} has patches of {kernel.shape[2]} pixels and {places.shape[1]} places, which "
            f"make no square of {side} pixels; give the tower that the training used"
        )
    return weights | {"pos_embed": resample_places(places, side // kernel.shape[2])}


def resample_places(
    places: Float[Tensor, "1 n d"], grid: int
) -> Float[Tensor, "1 {grid}*{grid} d"]:
    """Resample the places of patches to another square grid, bicubic and antialiased, as timm."""
    before = isqrt(places.shape[1])
    if before == grid:
        return places
    plane = rearrange(places.float(), "1 (y x) d -> 1 d y x", y=before)
    plane = F.interpolate(plane, (grid, grid), mode="bicubic", antialias=True)
    return rearrange(plane, "1 d y x -> 1 (y x) d").to(places.dtype)
