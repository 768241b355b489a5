"""Transforms of video: what models were trained to see, and what training varies.

**Preparation** (``shortest_edge_crop``, ``ac_crop``, ``normalise``) is the same for every frame.
Shrinking with antialiasing averages all the pixels that a new one covers; without, it reads the
nearest four, and fine texture becomes noise that moves. Each function says which of the two its
model was trained with. Frames are fastest in memory as ``[t, h, w, 3]``.

**Augmentation** is one draw per sample, shared by all its frames and cameras. Cropping the two
frames of a pair apart from each other would turn their difference into crop jitter, which a
motion channel then learns. A flip mirrors the labels too, so that a displacement still points
where the picture says.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, UInt8
from torch import Tensor
from torch.nn import functional as F

from saccade.data.episodes import Episodes, state_groups
from saccade.errors import ConfigError
from saccade.types import Clip, Crop

GREY = (0.2126, 0.7152, 0.0722)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for RGB in 0 to 1
ASPECTS = (0.75, 1.35)  # width / height that V-JEPA 2-AC's crop leaves alone


def shortest_edge_crop(
    video: UInt8[Tensor, "t 3 h w"], edge: int = 292, crop: int = 256
) -> UInt8[Tensor, "t 3 {crop} {crop}"]:
    """Resize so that the shorter edge has ``edge`` pixels, then cut out the central square.

    Bilinear, **antialiased**, in 8-bit integers: at most one grey level off Pillow's. The longer
    edge is rounded down and the crop's corner to the nearest even, as in torchvision and as in
    V-JEPA 2's evaluation and processor (https://github.com/facebookresearch/vjepa2): 292 and 256.

    Raises:
        ConfigError: the crop is larger than the edge.
    """
    if crop > edge:
        raise ConfigError(f"cannot crop {crop} pixels out of a shortest edge of {edge}; lower it")
    height, width = video.shape[2:]
    short = min(height, width)
    size = (edge * height // short, edge * width // short)
    video = video.contiguous(memory_format=torch.channels_last)  # has the faster kernel
    if size != (height, width):
        video = F.interpolate(video, size, mode="bilinear", antialias=True)
    top, left = (round((side - crop) / 2) for side in size)
    return video[..., top : top + crop, left : left + crop]


def fit(video: UInt8[Tensor, "t 3 h w"], size: int) -> UInt8[Tensor, "t 3 {size} {size}"]:
    """Cut out the central square and resize it, antialiased."""
    height, width = video.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = video[..., top : top + side, left : left + side]
    if side == size:
        return square
    return stretch(square, size, size)


def stretch(
    video: UInt8[Tensor, "t 3 h w"], rows: int, columns: int
) -> UInt8[Tensor, "t 3 {rows} {columns}"]:
    """Resize whole frames, antialiased, whatever becomes of their shape."""
    if tuple(video.shape[2:]) == (rows, columns):
        return video
    video = video.contiguous(memory_format=torch.channels_last)  # has the faster kernel
    return F.interpolate(video, (rows, columns), mode="bilinear", antialias=True)


def pad_box(height: int, width: int, size: int) -> tuple[int, int, int, int]:
    """Return where ``pad`` puts a frame: top, left, height and width, in pixels."""
    longer = max(height, width)
    rows, columns = max(1, height * size // longer), max(1, width * size // longer)
    return (size - rows) // 2, (size - columns) // 2, rows, columns


def pad(video: UInt8[Tensor, "t 3 h w"], size: int) -> UInt8[Tensor, "t 3 {size} {size}"]:
    """Resize whole frames so that the longer side fits, antialiased, between black bars.

    As pi0's pictures (https://github.com/Physical-Intelligence/openpi, ``resize_with_pad``): sides
    are rounded down, and of an odd number of rows one more goes below.
    """
    height, width = video.shape[2:]
    top, left, rows, columns = pad_box(height, width, size)
    bars = (left, size - left - columns, top, size - top - rows)
    return F.pad(stretch(video, rows, columns), bars)


@dataclass(frozen=True, kw_only=True)
class Framing:
    """How a frame becomes a square.

    Args:
        size: side of the square, in pixels.
        edge: pixels of the shortest edge before the centre is cropped, 292 for V-JEPA 2 at 256;
            0 keeps the whole central square and resizes that.
        how: ``square`` cuts it out of the centre; ``ac`` crops and squashes as V-JEPA 2-AC was
            trained (``ac_crop``), to whole grey levels; ``stretch`` squashes the whole frame, as
            OpenVLA; ``pad`` keeps it whole and as it is, between black bars, as pi0.
    """

    size: int
    edge: int = 0
    how: Literal["ac", "pad", "square", "stretch"] = "square"

    def __post_init__(self) -> None:
        if self.how != "square" and self.edge:
            raise ConfigError(
                f"a frame is cropped in one way, not by edge {self.edge} and {self.how}"
            )

    @staticmethod
    def named(crop: Crop, size: int) -> "Framing":
        """Return the framing that a model's metadata name."""
        if crop == "centre":
            return Framing(size=size, edge=size * 256 // 224)
        return Framing(size=size, how=crop)

    @property
    def tag(self) -> str:
        """Return what tells framings apart, in names of caches and data."""
        how = self.edge or ("" if self.how == "square" else self.how)
        return f"{self.size}/{how}" if how else f"{self.size}"

    def __call__(self, video: UInt8[Tensor, "t 3 h w"]) -> UInt8[Tensor, "t 3 _ _"]:
        """Return the squares, antialiased but for ``ac``."""
        if self.how == "ac":
            return ac_crop(video, self.size).round().to(torch.uint8)
        if self.how == "stretch":
            return stretch(video, self.size, self.size)
        if self.how == "pad":
            return pad(video, self.size)
        return (
            shortest_edge_crop(video, self.edge, self.size) if self.edge else fit(video, self.size)
        )

    def matrix(self, height: int, width: int) -> Float64[np.ndarray, "3 3"]:
        """Return what a camera's matrix is multiplied by, for frames of this size."""
        if self.how != "square":
            ac = self.how == "ac"
            top, left, tall, wide = ac_box(height, width) if ac else (0, 0, height, width)
            down, right, rows, columns = 0, 0, self.size, self.size
            if self.how == "pad":
                down, right, rows, columns = pad_box(height, width, self.size)
            x, y = columns / wide, rows / tall
            moved = [right + x * (0.5 - left) - 0.5, down + y * (0.5 - top) - 0.5]
            return np.array([[x, 0, moved[0]], [0, y, moved[1]], [0, 0, 1.0]])
        short = min(height, width)
        scale = (self.edge or self.size) / short
        sides = [self.edge * side // short if self.edge else self.size for side in (width, height)]
        left, top = (round((side - self.size) / 2) for side in sides)
        before = [0, 0] if self.edge else [(width - short) // 2, (height - short) // 2]
        scales = [sides[0] / width, sides[1] / height] if self.edge else [scale, scale]
        moved = [  # the centre of the first pixel is at 0, of its corner at -0.5
            factor * (0.5 - start) - 0.5 - corner
            for factor, start, corner in zip(scales, before, (left, top), strict=True)
        ]
        return np.array([[scales[0], 0, moved[0]], [0, scales[1], moved[1]], [0, 0, 1.0]])


def ac_box(height: int, width: int) -> tuple[int, int, int, int]:
    """Return what ``ac_crop`` keeps of a frame: top, left, height and width, in pixels."""
    low, high = ASPECTS
    kept = (height, width)
    if width / height > high:
        kept = (height, round(height * high))
    elif width / height < low:
        kept = (round(width / low), width)
    return (height - kept[0]) // 2, (width - kept[1]) // 2, *kept


def ac_crop(
    video: UInt8[Tensor, "t 3 h w"], size: int = 256
) -> Float32[Tensor, "t 3 {size} {size}"]:
    """Crop as V-JEPA 2-AC was trained, in grey levels 0 to 255 that are not rounded.

    Its random crop never finds room for the area it asks for and falls back: of a frame wider
    than 1.35 times its height (or narrower than 0.75 times) the central part of that aspect is
    kept, else the whole frame. That is squashed to a square, bilinear, **not antialiased**
    (https://github.com/facebookresearch/vjepa2, ``app/vjepa_droid/transforms.py``).
    """
    top, left, height, width = ac_box(*video.shape[2:])
    part = video[..., top : top + height, left : left + width].float()
    return F.interpolate(part, (size, size), mode="bilinear", align_corners=False)


def normalise(
    video: UInt8[Tensor, "t 3 h w"] | Float32[Tensor, "t 3 h w"],
    out: Float32[Tensor, "3 t h w"] | None = None,
) -> Float32[Tensor, "3 t h w"]:
    """Subtract ImageNet's mean and divide by its deviation, with the channels first.

    ``out`` is written to and returned: a kept buffer is several times as fast as a new one. The
    memory of a new one is ``[t, h, w, 3]``.
    """
    frames, height, width = len(video), *video.shape[2:]
    if out is None:
        out = torch.empty(frames, height, width, 3).permute(3, 0, 1, 2)
    source, target = video.permute(0, 2, 3, 1), out.permute(1, 2, 3, 0)
    std, mean = torch.tensor(STD), torch.tensor(MEAN)
    scale, shift = 1 / (255 * std), -mean / std
    if source.stride()[2:] == target.stride()[2:] == (3, 1):  # whole rows: long vectors
        source, target = source.flatten(2), target.flatten(2)
        scale, shift = scale.repeat(width), shift.repeat(width)
    for frame, row in zip(source, target, strict=True):  # a frame fits into the CPU's cache
        row.copy_(frame).mul_(scale).add_(shift)
    return out


def vjepa_clip(
    clip: Clip,
    crop: Literal["centre", "ac"] = "centre",
    view: int = 0,
    out: Float32[Tensor, "3 t 256 256"] | None = None,
) -> Float32[Tensor, "3 t 256 256"]:
    """Return what V-JEPA 2 takes, of one camera of a sample: float32 [3, 16, 256, 256].

    ``centre`` resizes the shortest edge to 292 and crops 256; ``ac`` is the action-conditioned
    model's crop. Draw samples with ``ClipWindow(num_frames=16, every=8)``.
    """
    video = clip["video"][:, view]
    return normalise(shortest_edge_crop(video) if crop == "centre" else ac_crop(video), out)


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
        if not (self.margin or self.jitter or self.flip):
            return clip
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
        ConfigError: the camera's orientation is unknown, or the labels are more than one position
            and grippers.
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
    position, others = groups.get("position", []), set(range(len(names)))
    axes = [names[i].lower().rpartition(".")[2] for i in position]
    others -= {*position, *groups.get("gripper", ())}
    if others or axes not in ([], ["x", "y", "z"]):
        raise ConfigError(
            f"cannot mirror {names}: they are not one position (x, y, z) and grippers alone, and "
            "what rotations, joints or two hands become is not known; set flip to 0"
        )
    if position:
        values = values.clone()
        values[..., position] = values[..., position] @ reflect.T
    return values
