"""What a published network expects of pixels: how frames become squares, and how those are scaled.

A folder of the hub says so (``preprocessor_config.json``). What it does not say, or says twice and
differently, is an error: features of wrongly prepared pixels look plausible. Geometry is that of
transformers' own processors, in 8-bit integers as Pillow does it, without torchvision.
"""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from saccade.errors import CheckpointError

PIXELS = "preprocessor_config.json"
TOLERANCE = 1e-6
Filter = Literal["bilinear", "bicubic"]
FILTERS: dict[int, Filter] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


class Pixels(NamedTuple):
    """Squares of ``size``, in [0, 1], minus the mean, over the std.

    Frames are resized so that their shortest edge has ``edge`` pixels, or both edges where they are
    stretched, whatever their shape was. Then the centre is cut out.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    edge: int
    stretched: bool
    filter: Filter


def read_pixels(said: dict[str, Any], filter: Filter = "bilinear", source: str = PIXELS) -> Pixels:
    """Read what ``preprocessor_config.json`` says; what it may leave out is as in transformers.

    ``filter`` is that of the family's processor, for files that name none.

    Raises:
        CheckpointError: it says too little, what we do not do, or contradicts itself.
    """
    factor = said.get("rescale_factor", 1 / 255)
    if said.get("do_rescale", True) is not True or abs(factor * 255 - 1) > TOLERANCE:
        raise CheckpointError(
            f"{source} has do_rescale {said.get('do_rescale')!r} and rescale_factor {factor!r}; "
            "only 1/255, pixels in [0, 1], is known here"
        )
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if said.get("do_normalize", True):
        mean, std = _colours(said, "image_mean", source), _colours(said, "image_std", source)
    if min(std) <= 0:
        raise CheckpointError(f"{source} has image_std {std}; deviations are above 0")
    resized = _side(said, "size", source) if said.get("do_resize", True) else 0
    cropped = _side(said, "crop_size", source) if said.get("do_center_crop", False) else 0
    if not resized or cropped > resized:
        raise CheckpointError(
            f"{source} resizes to {resized} and crops {cropped}; correct size or crop_size, so "
            "that they say what square the network takes"
        )
    if said.get("resample", 2) not in FILTERS:
        raise CheckpointError(
            f"{source} has resample {said['resample']!r}; only {FILTERS} are known here"
        )
    filter = FILTERS[said["resample"]] if "resample" in said else filter
    size = said["size"]
    stretched = not cropped or (isinstance(size, dict) and "height" in size)
    return Pixels(cropped or resized, mean, std, resized, stretched, filter)


def _colours(said: dict[str, Any], name: str, source: str) -> tuple[float, ...]:
    values = said.get(name)
    if not isinstance(values, list | tuple) or len(values) != 3:
        raise CheckpointError(f"{source} has {name} {values!r}, not three numbers, one per colour")
    return tuple(float(value) for value in values)


def _side(said: dict[str, Any], name: str, source: str) -> int:
    """Return the side of a square, or the shortest edge from which one is cropped."""
    value = said.get(name)
    given = value.values() if isinstance(value, dict) else [value]
    sides = [side for side in given if isinstance(side, int) and side > 0]
    cropped = name == "size" and said.get("do_center_crop", False)
    if len(set(sides)) != 1 or len(sides) != len(given):
        raise CheckpointError(f"{source} has {name} {value!r}, not the side of a square in pixels")
    if isinstance(value, dict) and "shortest_edge" in value and not cropped:
        raise CheckpointError(
            f"{source} has {name} {value!r} and crops no square out of it; set do_center_crop and "
            "crop_size"
        )
    return sides[0]


def require_size(size: int, trained: int, patch: int, any_size: bool) -> None:
    """Compare both files of a folder.

    Raises:
        CheckpointError: the network cannot take pictures of that size.
    """
    if size % patch or (size != trained and not any_size):
        raise CheckpointError(
            f"{PIXELS} prepares {size} pixels, but the network takes {trained} in patches of "
            f"{patch}; correct one of the two files"
        )


def cut(video: UInt8[Tensor, "b t 3 h w"], pixels: Pixels) -> UInt8[Tensor, "b t 3 s s"]:
    """Resize frames and cut out the centre, as the network's processor does."""
    height, width = video.shape[-2:]
    size, edge, short = pixels.size, pixels.edge, min(height, width)
    resized = (edge * height // short, edge * width // short)
    if pixels.stretched:
        resized = (edge, edge)
    if resized != (height, width):
        frames = resize(rearrange(video, "b t c h w -> (b t) c h w"), resized, pixels.filter)
        video = rearrange(frames, "(b t) c h w -> b t c h w", b=len(video))
    top, left = ((side - size) // 2 for side in resized)
    return video[..., top : top + size, left : left + size]


def resize(
    frames: UInt8[Tensor, "b 3 h w"], size: tuple[int, int], filter: Filter
) -> UInt8[Tensor, "b 3 s1 s2"]:
    """Resize with antialiasing, in Pillow's order: rows, rounded, then columns."""
    if frames.device.type == "cpu":
        frames = frames.contiguous(memory_format=torch.channels_last)  # has the faster kernel
        return F.interpolate(frames, size, mode=filter, antialias=True)
    return resize_in_floats(frames, size, filter)  # other devices have no kernel for integers


def resize_in_floats(
    frames: UInt8[Tensor, "b 3 h w"], size: tuple[int, int], filter: Filter
) -> UInt8[Tensor, "b 3 s1 s2"]:
    """Do the same with a kernel for floats; bicubic overshoots must be cut off in between."""
    wide = frames.float()
    for shape in ((frames.shape[2], size[1]), size):
        wide = F.interpolate(wide, shape, mode=filter, antialias=True).round_().clamp_(0, 255)
    return wide.to(torch.uint8)
