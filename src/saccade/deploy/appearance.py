"""Does what a policy sees now look like what it saw in training, or like that upside down?

Training keeps a thumbnail of each camera: the mean of many frames. A scene looks more like its
own mean than like the mean turned over or with red and blue exchanged, even where lighting and
objects differ, so that a pipeline that turns pictures once too often is found before it acts.
"""

from collections.abc import Callable, Mapping

from jaxtyping import Float32, UInt8
from torch import Tensor
from torch.nn import functional as F

from saccade.errors import ConfigError

SIDE = 16
MARGIN = 0.9  # of the distance as it is: what another way must come below to be suspected
TURNS: dict[str, Callable[[Tensor], Tensor]] = {
    "with rows in reverse": lambda picture: picture.flip(1),
    "with columns in reverse": lambda picture: picture.flip(2),
    "turned by 180 degrees": lambda picture: picture.flip(1, 2),
    "with red and blue exchanged": lambda picture: picture.flip(0),
}


def thumbnail(video: UInt8[Tensor, "t 3 h w"]) -> Float32[Tensor, "3 16 16"]:
    """Return the mean of frames in small, in grey levels."""
    return F.interpolate(video.float().mean(0, keepdim=True), (SIDE, SIDE), mode="area")[0]


def check_appearance(
    reference: Mapping[str, Float32[Tensor, "3 16 16"]],
    seen: Mapping[str, UInt8[Tensor, "t 3 h w"]],
) -> dict[str, float]:
    """Compare frames, prepared for a policy, with thumbnails of its training, by camera.

    Returns:
        How many grey levels each camera is away from its thumbnail.

    Raises:
        ConfigError: a camera has no thumbnail, or its frames look more like it in another way.
    """
    if absent := sorted(seen.keys() - reference.keys()):
        raise ConfigError(
            f"training kept no thumbnail of camera {', '.join(absent)}, only of "
            f"{', '.join(sorted(reference)) or 'none'}; train again with this version"
        )
    found = {}
    for camera, video in seen.items():
        picture = thumbnail(video)
        ways = {way: _apart(turn(picture), reference[camera]) for way, turn in TURNS.items()}
        found[camera] = _apart(picture, reference[camera])
        way = min(ways, key=ways.__getitem__)
        if ways[way] < MARGIN * found[camera]:
            raise ConfigError(
                f"camera {camera} looks more like training {way} ({ways[way]:.1f} grey levels "
                f"apart) than as it is ({found[camera]:.1f}); look at the orientation of frames"
            )
    return found


def _apart(picture: Float32[Tensor, "3 h w"], other: Float32[Tensor, "3 h w"]) -> float:
    """Return the root mean square difference but for a change of light, the same everywhere."""
    off = picture - other
    return float((off - off.mean()).square().mean().sqrt())
