"""What becomes of a picture between the camera and OpenVLA's towers, the same in training.

    recorded frame -> JPEG and back -> Lanczos to 224 -> a crop of 90 % of the area -> 224 again

The first two are how its training data came to be, and leaving them out costs points (71.0 to
76.2 % on LIBERO together with the crop, by the account of allenai/vla-evaluation-harness). In
training the crop is anywhere and light and colours vary; at work it is in the middle. All of it is
part of the policy, so that nobody can forget it.

Written after TensorFlow's documented formulas: antialiased ``tf.image.resize`` (lanczos3),
``tf.image.crop_and_resize`` and the adjustments that https://github.com/kvablack/dlimp calls.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from saccade.errors import ConfigError
from saccade.types import Crop

RADIUS = 3  # of Lanczos' kernel
QUALITY = 95  # of tf.io.encode_jpeg


@dataclass(frozen=True, kw_only=True)
class PixelsConfig:
    """The contract of the pictures.

    Args:
        frame: side of the squares that the policy is given, those that were recorded.
        crop: how frames that are no squares become such before that: ``stretch`` squashes them, as
            OpenVLA's training data; ``pad`` puts bars around, as pi0's.
        size: side of what the towers see.
        filter: of resizing: OpenVLA's ``lanczos``, or pi0's ``linear``.
        jpeg: compress and decompress frames first.
        area: share of the picture's area that is cropped; 1 crops nothing.
        brightness: largest change, of [0, 1].
        contrast: largest relative change.
        saturation: largest relative change.
        hue: largest turn, of a full circle.
    """

    frame: int = 256
    crop: Crop = "square"
    size: int = 224
    filter: Literal["lanczos", "linear"] = "lanczos"
    jpeg: bool = True
    area: float = 0.9
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.05

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            ConfigError: a side or a share is out of range.
        """
        if min(self.frame, self.size) < 2 or not 0 < self.area <= 1:
            raise ConfigError(
                f"pixels have frame {self.frame}, size {self.size} and area {self.area}; sides are "
                "at least 2, an area is above 0 and at most 1"
            )

    def resized(self, video: UInt8[Tensor, "b t 3 h w"]) -> UInt8[Tensor, "b t 3 s s"]:
        """Return frames as the training data of OpenVLA hold them."""
        flat = video.flatten(0, 1)
        if self.jpeg:
            flat = jpeg(flat)
        small = lanczos(flat, self.size) if self.filter == "lanczos" else linear(flat, self.size)
        return small.unflatten(0, video.shape[:2])

    def shown(self, video: UInt8[Tensor, "b t 3 h w"]) -> UInt8[Tensor, "b t 3 s s"]:
        """Return what the towers see at work: the middle of each frame."""
        found = self.resized(video)
        if self.area == 1:
            return found
        side = math.sqrt(self.area)
        return to_bytes(crop_and_resize(found / 255.0, (1 - side) / 2, (1 - side) / 2, side))

    def varied(self, video: UInt8[Tensor, "b t 3 h w"], keys: Tensor) -> UInt8[Tensor, "b t 3 s s"]:
        """Return what they see in training: any crop, any light; the frames of a sample alike."""
        samples = []
        for frames, key in zip(self.resized(video), keys.tolist(), strict=True):
            rng = np.random.default_rng(int(key) % 2**63)
            down, right, *change = rng.random(6).tolist()
            light, contrast, saturation, hue = (2 * value - 1 for value in change)
            side = math.sqrt(self.area)
            x = frames / 255.0
            if self.area < 1:
                x = crop_and_resize(x, down * (1 - side), right * (1 - side), side)
            x = (x + light * self.brightness).clamp(0, 1)
            mean = x.mean((-2, -1), keepdim=True)
            x = (mean + (x - mean) * (1 + contrast * self.contrast)).clamp(0, 1)
            samples.append(
                turn_colours(x, 1 + saturation * self.saturation, hue * self.hue).clamp(0, 1)
            )
        return to_bytes(torch.stack(samples))


def jpeg(frames: UInt8[Tensor, "n 3 h w"]) -> UInt8[Tensor, "n 3 h w"]:
    """Compress each frame as ``tf.io.encode_jpeg`` does by default, and decompress it."""
    import cv2  # its encoder and TensorFlow's give the same bytes; simplejpeg's is another

    pictures = rearrange(frames.flip(1).cpu(), "n c h w -> n h w c").contiguous().numpy()
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    found = [
        simplejpeg.decode_jpeg(cv2.imencode(".jpg", picture, options)[1].tobytes(), fastdct=True)
        for picture in pictures
    ]
    return rearrange(torch.from_numpy(np.stack(found)), "n h w c -> n c h w").to(frames.device)


def lanczos(frames: UInt8[Tensor, "n 3 h w"], size: int) -> UInt8[Tensor, "n 3 s s"]:
    """Resize to a square, antialiased."""
    height, width = frames.shape[-2:]
    if (height, width) == (size, size):
        return frames
    rows = lanczos_weights(height, size).to(frames.device)
    columns = lanczos_weights(width, size).to(frames.device)
    return (rows @ frames.float() @ columns.T).round().clamp(0, 255).to(torch.uint8)


def linear(frames: UInt8[Tensor, "n 3 h w"], size: int) -> UInt8[Tensor, "n 3 s s"]:
    """Resize to a square, bilinearly and antialiased."""
    if frames.shape[-2:] == (size, size):
        return frames
    small = F.interpolate(frames.float(), (size, size), mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8)


@lru_cache(16)
def lanczos_weights(source: int, target: int) -> Float[Tensor, "{target} {source}"]:
    """Return how much of each pixel of a row goes into each pixel of the resized one."""
    scale = source / target
    wide = max(scale, 1.0)
    middle = (torch.arange(target, dtype=torch.float64) + 0.5) * scale
    x = (torch.arange(source, dtype=torch.float64) + 0.5 - middle[:, None]).abs() / wide
    turned = torch.pi * x.clamp_min(1e-3)
    weight = RADIUS * turned.sin() * (turned / RADIUS).sin() / turned.square()
    weight = torch.where(x <= 1e-3, 1.0, weight).masked_fill(x > RADIUS, 0.0)
    return (weight / weight.sum(1, keepdim=True)).float()


def crop_and_resize(
    frames: Float[Tensor, "*n 3 s s"], down: float, right: float, side: float
) -> Float[Tensor, "*n 3 s s"]:
    """Cut the same square out of every frame and stretch it, corner on corner, to its size.

    ``down``, ``right`` and ``side`` are shares of the frame's side.
    """
    size = frames.shape[-1]
    rows, columns = (_between(start, side, size).to(frames) for start in (down, right))
    return rows @ frames @ columns.T


def _between(start: float, side: float, size: int) -> Float[Tensor, "{size} {size}"]:
    """Return the weights of linear interpolation along one axis."""
    place = (torch.linspace(start, start + side, size, dtype=torch.float64) * (size - 1)).clamp(
        0, size - 1
    )
    low = place.floor().long().clamp_max(max(size - 2, 0))
    weights = torch.zeros(size, size, dtype=torch.float64)
    weights.scatter_(1, low[:, None], (1 - (place - low))[:, None])
    weights.scatter_add_(1, (low + 1).clamp_max(size - 1)[:, None], (place - low)[:, None])
    return weights.float()


def to_bytes(frames: Float[Tensor, "*b"]) -> UInt8[Tensor, "*b"]:
    """Return [0, 1] as grey levels, as ``tf.image.convert_image_dtype`` does."""
    return (frames.clamp(0, 1) * 255.5).to(torch.uint8)


def turn_colours(
    frames: Float[Tensor, "*n 3 h w"], saturation: float, hue: float
) -> Float[Tensor, "*n 3 h w"]:
    """Scale saturation and turn the hue (as a share of the circle) of pictures, in HSV."""
    high, low = frames.amax(-3, keepdim=True), frames.amin(-3, keepdim=True)
    spread = high - low
    red, green, blue = frames.unbind(-3)
    width = spread.squeeze(-3).clamp_min(1e-12)
    top = high.squeeze(-3)
    angle = torch.where(
        top == red,
        (green - blue) / width % 6,
        torch.where(top == green, (blue - red) / width + 2, (red - green) / width + 4),
    )
    wanted = (spread * saturation).minimum(high).squeeze(-3)  # no more than full saturation
    channels = []
    for turn in (5, 3, 1):
        k = (turn + angle + 6 * hue) % 6
        channels.append(top - wanted * k.minimum(4 - k).clamp(0, 1))
    return torch.stack(channels, -3)
