"""What is in a data set, and what is odd about it, from a look at some of its episodes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor
from torch.nn import functional as F

from saccade.data.episodes import Episodes, state_groups
from saccade.data.passes.convert import times_are_recorded
from saccade.data.passes.statistics import Numbers
from saccade.data.passes.words import counted
from saccade.errors import DataError
from saccade.progress import progress

SHORT = 16  # frames; fewer give no clip
GLIMPSES = 24  # episodes of which some frames are looked at
STRIP, HEIGHT = 8, 240  # frames of a picture strip, and at most so many pixels high
FLAT, DARK = 2, 8  # grey levels: less range is a constant picture, none brighter a black one
JITTER = 0.25  # of an interval
BEYOND = 0.01  # how far a gripper may lie outside 0 to 1


@dataclass
class View:
    """What was seen of one camera."""

    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # (height, width), episodes
    lacking: int = 0  # episodes without it
    seen: int = 0  # frames looked at
    black: int = 0
    constant: int = 0
    strip_of: int = -1  # the episode that ``strip`` shows
    strip: UInt8[Tensor, "t 3 h w"] | None = None


@dataclass
class Survey:
    """What was found. Of ``looked_at`` are ranges, rates and pictures; the rest is of all."""

    looked_at: list[int]
    unreadable: dict[int, str] = field(default_factory=dict)
    state: Numbers = field(default_factory=lambda: Numbers(0))
    action: Numbers = field(default_factory=lambda: Numbers(0))
    interval: float = 0.0  # seconds from frame to frame, median; 0 where no times are recorded
    jitter: float = 0.0  # the largest deviation from it, in seconds
    backwards: list[int] = field(default_factory=list)  # episodes in which time does not go on
    still: list[int] = field(default_factory=list)  # episodes whose actions are all zero
    invalid: list[int] = field(default_factory=list)  # episodes with values that are not finite
    views: dict[str, View] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)  # success, failure, unknown
    scenes: Counter[str] = field(default_factory=Counter)


def survey(episodes: Episodes, sample: int = 200) -> Survey:
    """Look at up to ``sample`` episodes, evenly spread; 0 looks at all of them."""
    usable = [i for i, length in enumerate(episodes.lengths) if length]
    count = min(sample or len(usable), len(usable))
    spread = np.linspace(0, len(usable) - 1, count).astype(int) if usable else []
    found = Survey(sorted({usable[i] for i in spread}))
    found.state, found.action = (
        Numbers(len(episodes.state_names)),
        Numbers(len(episodes.action_names)),
    )
    found.views = {camera: View() for camera in episodes.cameras}
    _of_all(episodes, found)
    intervals: list[Float64[np.ndarray, " t"]] = []
    glimpses = set(found.looked_at[:: max(1, len(found.looked_at) // GLIMPSES)])
    with progress("looking at episodes", len(found.looked_at), "episodes") as told:
        for done, i in enumerate(found.looked_at, 1):
            try:
                intervals.append(_numbers(episodes, i, found))
                for camera in episodes.cameras_of(i) if i in glimpses else ():
                    _glimpse(episodes, i, camera, found.views[camera])
            except DataError as error:
                found.unreadable[i] = str(error)
            told(done)
    gaps = np.concatenate([*intervals, np.zeros(0)])
    if len(gaps) and times_are_recorded(episodes):
        found.interval = float(np.median(gaps))
        found.jitter = float(np.abs(gaps - found.interval).max())
    return found


def oddities(episodes: Episodes, found: Survey) -> list[str]:
    """Say in sentences what a user should look into before training."""
    lengths = np.array(episodes.lengths)
    lines = [
        _some(
            found.unreadable, "cannot/cannot be read", "saccade data verify lists what is broken"
        ),
        _some(np.flatnonzero(lengths == 0), "is/are empty"),
        _some(np.flatnonzero((lengths > 0) & (lengths < SHORT)), f"is/are under {SHORT} frames"),
        _some(found.backwards, "has/have times that do not increase"),
        _some(found.still, "has/have no action but zero"),
        _some(found.invalid, "has/have states or actions that are not finite"),
    ]
    if found.interval:
        header = 1 / episodes.fps
        if abs(found.interval - header) > 0.02 * header:
            lines.append(f"times say {1 / found.interval:.4g} Hz, the header {episodes.fps:g} Hz")
        if found.jitter > JITTER * found.interval:
            lines.append(f"a frame is {found.jitter:.3g} s off the {found.interval:.3g} s interval")
    for kind, names, numbers in (
        ("state", episodes.state_names, found.state),
        ("action", episodes.action_names, found.action),
    ):
        lines += _ranges(kind, names, numbers)
    for camera, view in found.views.items():
        if len(view.sizes) > 1:
            sizes = ", ".join(f"{h} x {w}" for h, w in view.sizes)
            lines.append(f"camera {camera} has frames of several sizes: {sizes}")
        for word, count in (("black", view.black), ("constant", view.constant)):
            if count:
                lines.append(f"camera {camera}: {count} of {view.seen} frames seen are {word}")
    return [line for line in lines if line]


def _of_all(episodes: Episodes, found: Survey) -> None:
    """Count what is known without reading frames."""
    for i, length in enumerate(episodes.lengths):
        if not length:
            continue
        for camera in set(episodes.cameras) - set(episodes.cameras_of(i)):
            found.views[camera].lacking += 1
        try:
            about = episodes.about(i)
        except DataError as error:
            found.unreadable[i] = str(error)
            continue
        success = about.get("success")
        found.outcomes["unknown" if success is None else "success" if success else "failure"] += 1
        if about.get("scene"):
            found.scenes[about["scene"]] += 1


def _numbers(episodes: Episodes, i: int, found: Survey) -> Float64[np.ndarray, " t"]:
    """Count states and actions of an episode; return the intervals between its frames."""
    frames = episodes.read(i, np.arange(episodes.lengths[i]), ())
    state, action = frames["state"].numpy(), frames["action"].numpy()
    if not (np.isfinite(state).all() and np.isfinite(action).all()):
        found.invalid.append(i)
    else:
        found.state.update(state)
        found.action.update(action)
    if action.size and not action.any():
        found.still.append(i)
    gaps = np.diff(episodes.timestamps(i))
    if not (gaps > 0).all():
        found.backwards.append(i)
    return gaps


def _glimpse(episodes: Episodes, i: int, camera: str, view: View) -> None:
    """Look at frames of an episode; the first is shown as a strip."""
    length = episodes.lengths[i]
    count = STRIP if view.strip is None else 2
    frames = np.unique(np.linspace(0, length - 1, count).astype(int))
    video = episodes.read(i, frames, (camera,))["video"][:, 0]
    view.sizes[int(video.shape[2]), int(video.shape[3])] += 1
    view.seen += len(video)
    flat = video.flatten(1)
    dark = flat.amax(1) <= DARK
    constant = flat.amax(1).int() - flat.amin(1).int() <= FLAT
    view.black += int(dark.sum())
    view.constant += int((constant & ~dark).sum())
    if view.strip is None:
        view.strip_of, view.strip = i, shrunk(video)


def shrunk(video: UInt8[Tensor, "t 3 h w"]) -> UInt8[Tensor, "t 3 _ _"]:
    """Make frames small enough for a strip, antialiased."""
    height, width = video.shape[2:]
    if height <= HEIGHT:
        return video.contiguous()
    size = (HEIGHT, max(1, round(width * HEIGHT / height)))
    return F.interpolate(video.contiguous(), size, mode="bilinear", antialias=True).to(torch.uint8)


def _ranges(kind: str, names: Sequence[str], numbers: Numbers) -> list[str]:
    """Find dimensions that never change, and grippers that are not from 0 to 1."""
    if not numbers.count:
        return []
    found: dict[str, Any] = numbers.describe()
    low, high = found["min"], found["max"]
    constant = [name for name, a, b in zip(names, low, high, strict=True) if a == b]
    lines = [f"{kind} never changes in {', '.join(constant)}"] if constant else []
    for i in state_groups(names).get("gripper", ()):
        if low[i] < -BEYOND or high[i] > 1 + BEYOND:
            lines.append(
                f"{kind} {names[i]} is from {low[i]:.3g} to {high[i]:.3g}, expected 0 (closed) to "
                "1 (open)"
            )
    return lines


def _some(members: Any, what: str, mend: str = "") -> str:
    """Say of which episodes something is so; ``what`` begins with the verb for one / for many."""
    numbers = [int(i) for i in members]
    if not numbers:
        return ""
    first = ", ".join(map(str, numbers[:5])) + (" ..." if len(numbers) > 5 else "")
    verbs, _, rest = what.partition(" ")
    verb = verbs.split("/")[len(numbers) > 1]
    told = f"{counted(len(numbers), 'episode')} {verb} {rest} ({first})"
    return f"{told}; {mend}" if mend else told
