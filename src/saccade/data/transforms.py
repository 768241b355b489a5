"""Augmentation of samples: one draw per sample, shared by all its frames and cameras.

Cropping the two frames of a pair apart from each other would turn their difference into crop
jitter, which a motion channel then learns. A flip mirrors the labels too, so that a displacement
still points where the picture says.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from saccade.data.episodes import Episodes, state_groups
from saccade.errors import ConfigError
from saccade.types import Clip

GREY = (0.2126, 0.7152, 0.0722)


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What to vary. The default varies nothing.

    Args:
        margin: pixels by which frames are read larger than needed and then cropped: at random
            in training, in the middle in evaluation.
        jitter: largest relative change of brightness, contrast and saturation.
        flip: chance of mirroring left and right, labels included.
    """

    margin: int = 0
    jitter: float = 0.0
    flip: float = 0.0

    def __call__(self, clip: Clip, episodes: Episodes, camera: str) -> Clip:
        """Return the sample as its key says it should look."""
        rng = np.random.default_rng(int(clip["key"]) % 2**63)
        place, tones, mirrored = rng.random(2), rng.random(3), rng.random() < self.flip
        video = clip["video"]
        if self.margin:
            video = crop(video, video.shape[-1] - self.margin, *place)
        if self.jitter:
            video = jitter(video, *(1 + self.jitter * (2 * tones - 1)))
        clip = {**clip, "video": video}
        return mirror(clip, episodes, camera) if mirrored else clip


@dataclass(frozen=True, kw_only=True)
class CentreCrop:
    """The middle of a frame, ``margin`` pixels smaller."""

    margin: int = 0

    def __call__(self, clip: Clip, episodes: Episodes, camera: str) -> Clip:
        """Return the sample, cropped."""
        side = clip["video"].shape[-1] - self.margin
        return {**clip, "video": crop(clip["video"], side, 0.5, 0.5)} if self.margin else clip


def crop(video: UInt8[Tensor, "*b h w"], side: int, down: float, right: float) -> Tensor:
    """Cut the same square out of every frame; ``down`` and ``right`` are in [0, 1)."""
    height, width = video.shape[-2:]
    if min(height, width) < side:
        raise ConfigError(f"cannot crop {side} pixels out of {height} x {width}; lower margin")
    y, x = int(down * (height - side + 1)), int(right * (width - side + 1))
    return video[..., y : y + side, x : x + side]


def jitter(
    video: UInt8[Tensor, "*b 3 h w"], brightness: float, contrast: float, saturation: float
) -> UInt8[Tensor, "*b 3 h w"]:
    """Scale light, contrast (around the clip's mean) and colour (around grey) of all frames."""
    x = video.float() * brightness
    x = x.mean() + (x - x.mean()) * contrast
    grey = (x * x.new_tensor(GREY).view(3, 1, 1)).sum(-3, keepdim=True)
    return (grey + (x - grey) * saturation).round().clamp(0, 255).to(torch.uint8)


def mirror(clip: Clip, episodes: Episodes, camera: str) -> Clip:
    """Swap left and right, in the picture and in positions of the state and the action.

    Positions are reflected in the plane through the origin that the camera sees edge-on, which
    is exact for displacements.

    Raises:
        ConfigError: the camera's orientation is unknown, or the labels hold rotations.
    """
    if camera not in episodes.world_to_camera:
        raise ConfigError(
            f"cannot mirror labels: the orientation of camera {camera!r} is unknown; set flip to 0"
        )
    rotation = torch.from_numpy(np.asarray(episodes.world_to_camera[camera])).float()
    reflect = rotation.T @ torch.diag(torch.tensor([-1.0, 1.0, 1.0])) @ rotation
    return {
        **clip,
        "video": clip["video"].flip(-1),
        "state": _reflected(clip["state"], episodes.state_names, reflect),
        "action": _reflected(clip["action"], episodes.action_names, reflect),
    }


def _reflected(
    values: Float[Tensor, "*b s"], names: tuple[str, ...], reflect: Float[Tensor, "3 3"]
) -> Float[Tensor, "*b s"]:
    groups = state_groups(names)
    if "rotation" in groups:
        raise ConfigError(f"cannot mirror the rotations among {names}; set flip to 0")
    position = groups.get("position", [])
    if len(position) == 3:
        values = values.clone()
        values[..., position] = values[..., position] @ reflect.T
    return values
