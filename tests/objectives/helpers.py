"""A batch that every objective's tests share."""

from torch import Tensor

from saccade.data.loader import fixed_batches
from saccade.data.synthetic import SyntheticConfig
from saccade.data.windows import ClipWindow, PairWindow, Window
from saccade.recipes.sizes import Shape
from saccade.types import Clip, Objective

LEAKS = {"six_channel": {"later"}, "early_fusion": {"later"}}  # negative controls
SHAPE = Shape(image_size=32, dim=24, depth=3, heads=2)
SHAPE_64 = Shape(image_size=64, dim=24, depth=3, heads=2)


def batch(window: Window | None = None, size: int = 4, image_size: int = 32) -> Clip:
    """Read a few synthetic samples."""
    episodes = SyntheticConfig(image_size=image_size, length=24).build()
    (clip,) = fixed_batches(episodes, window or PairWindow(max_gap=5), "front", size, size, seed=0)
    return clip


def clip_batch(num_frames: int) -> Clip:
    """Read a few synthetic clips."""
    return batch(ClipWindow(num_frames=num_frames))


def moved_inputs(objective: Objective, clip: Clip) -> set[str]:
    """Name the inputs that react to the target pixels."""
    a, b = objective.inputs(clip), objective.inputs(objective.without_target(clip))
    return {name for name in a if (a[name] != b[name]).any()}


def still(clip: Clip) -> Clip:
    """Return the clip with its first frame in place of all others."""
    video = clip["video"]
    return with_video(clip, video[:, :1].expand_as(video).contiguous())


def with_video(clip: Clip, video: Tensor) -> Clip:
    """Return the clip with other frames."""
    changed = clip.copy()
    changed["video"] = video
    return changed
