"""Batches of images as PNG strips."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from einops import rearrange
from jaxtyping import Float
from matplotlib.image import imsave
from torch import Tensor

from saccade.checkpoint import write_atomic

GUTTER = 4  # white pixels between two samples


def save_pictures(
    pictures: Mapping[str, Float[Tensor, "b c h w"]], folder: Path
) -> dict[str, Path]:
    """Write one strip per name, samples side by side; values in [0, 1], 1 or 3 channels."""
    return {name: save_strip(each, folder / f"{name}.png") for name, each in pictures.items()}


def save_strip(images: Float[Tensor, "b c h w"], path: Path) -> Path:
    """Write images side by side."""
    pixels = (images.clamp(0, 1) * 255).round().byte().numpy()
    rows = rearrange(
        np.broadcast_to(pixels, (len(pixels), 3, *pixels.shape[2:])), "b c h w -> b h w c"
    )
    gap = np.full((rows.shape[1], GUTTER, 3), 255, np.uint8)
    strip = np.concatenate([part for row in rows for part in (row, gap)][:-1], axis=1)
    file = io.BytesIO()
    imsave(file, np.ascontiguousarray(strip), format="png")
    write_atomic(path, file.getvalue())
    return path
