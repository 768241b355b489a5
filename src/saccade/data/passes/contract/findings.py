"""What a check of a data set looks at, and what it says."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

import numpy as np
from jaxtyping import Float64, Int64

from saccade.data.episodes import Episodes, Subset
from saccade.data.passes.words import counted
from saccade.data.windows import ClipWindow
from saccade.errors import ConfigError, DataError
from saccade.geometry import Matrices, euler_xyz_to_matrix, rotation_vector_to_matrix
from saccade.progress import progress

Verdict = Literal["ok", "warning", "fails", "not decidable"]
POSITION, EULER, VECTOR = ("x", "y", "z"), ("roll", "pitch", "yaw"), ("rx", "ry", "rz")
OVERSHOOT = 0.1  # of a gripper beyond 0 to 1: how it is calibrated
AXES = (*POSITION, *EULER, "gripper")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found, on how much, and what to do about it.

    ``not decidable`` says that the data hold no evidence for either answer.
    """

    check: str
    verdict: Verdict
    found: str
    expected: str
    mend: str = ""
    episodes: int = 0
    frames: int = 0
    numbers: dict[str, Any] = field(default_factory=dict)  # JSON values


class Size(TypedDict):
    """How much a check looked at."""

    episodes: int
    frames: int


@dataclass(frozen=True)
class Recording:
    """The numbers of one episode, and which of its frames are one step apart."""

    episode: int
    state: Float64[np.ndarray, "t s"]
    action: Float64[np.ndarray, "t a"]
    times: Float64[np.ndarray, " t"]  # seconds
    before: Int64[np.ndarray, " n"]
    after: Int64[np.ndarray, " n"]


@dataclass(frozen=True)
class Sample:
    """Some episodes of a data set. Those without finite numbers or rising times are only named."""

    source: Episodes
    step_seconds: float
    recordings: list[Recording] = field(default_factory=list)
    unreadable: dict[int, str] = field(default_factory=dict)
    invalid: list[int] = field(default_factory=list)
    backwards: list[int] = field(default_factory=list)

    @property
    def frames(self) -> int:
        """Frames of all recordings."""
        return sum(len(r.times) for r in self.recordings)

    @property
    def size(self) -> Size:
        """How much was looked at, for a ``Finding``."""
        return Size(episodes=len(self.recordings), frames=self.frames)

    def states(self, axes: Sequence[str]) -> list[Float64[np.ndarray, "t k"]] | None:
        """Return these axes of each recording; None where the state lacks one, or there is none."""
        columns = columns_of(self.source.state_names, axes)
        if columns is None or not self.recordings:
            return None
        return [r.state[:, columns] for r in self.recordings]

    def actions(self, axes: Sequence[str]) -> list[Float64[np.ndarray, "t k"]] | None:
        """Return these axes of each recording's actions, as ``states`` does."""
        columns = columns_of(self.source.action_names, axes)
        if columns is None or not self.recordings:
            return None
        return [r.action[:, columns] for r in self.recordings]

    def rotations(self) -> list[Matrices] | None:
        """Return the rotation of each frame, from extrinsic xyz angles or a rotation vector."""
        if (angles := self.states(EULER)) is not None:
            return [euler_xyz_to_matrix(a) for a in angles]
        if (vectors := self.states(VECTOR)) is not None:
            return [rotation_vector_to_matrix(v) for v in vectors]
        return None

    def undecided(self, check: str, expected: str, found: str, mend: str = "") -> Finding:
        """Say that there is no evidence."""
        return Finding(
            check=check,
            verdict="not decidable",
            found=found,
            expected=expected,
            mend=mend,
            **self.size,
        )


def columns_of(names: Sequence[str], axes: Sequence[str]) -> list[int] | None:
    """Find axes by the last part of their names; None unless each is there once."""
    last = [name.lower().rsplit(".", 1)[-1] for name in names]
    if any(last.count(axis) != 1 for axis in axes):
        return None
    return [last.index(axis) for axis in axes]


def gather(episodes: Episodes, step_seconds: float, sample: int = 200) -> Sample:
    """Read the numbers of up to ``sample`` episodes, evenly spread; 0 reads all of them.

    Raises:
        ConfigError: the step is no time, or the sample no number of episodes.
        DataError: no episode has frames.
    """
    if not 0 < step_seconds < 60:
        raise ConfigError(f"step_seconds is {step_seconds:g}, expected above 0 and under 60 s")
    if sample < 0:
        raise ConfigError(f"sample is {sample}, expected 0 (all) or more")
    usable = np.flatnonzero(episodes.lengths)
    if not len(usable):
        raise DataError(f"none of {counted(len(episodes.lengths), 'episode')} has frames")
    spread = np.linspace(0, len(usable) - 1, min(sample or len(usable), len(usable))).astype(int)
    found = Sample(episodes, step_seconds)
    with progress("reading states and actions", len(spread), "episodes") as told:
        for done, i in enumerate(usable[spread].tolist(), 1):
            try:
                _add(found, i)
            except DataError as error:
                found.unreadable[i] = str(error)
            told(done)
    return found


def nearest(
    times: Float64[np.ndarray, " t"], wanted: Float64[np.ndarray, "*n"]
) -> Int64[np.ndarray, "*n"]:
    """Return the frame nearest to each time."""
    return np.searchsorted((times[1:] + times[:-1]) / 2, wanted)


def listed(names: Sequence[str], most: int = 9) -> str:
    """List names, and of many only the first."""
    more = f" ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "none"


def named(episodes: Sequence[int] | dict[int, str]) -> str:
    """List the numbers of episodes, the first few of many."""
    numbers = list(episodes)
    return ", ".join(map(str, numbers[:5])) + (" ..." if len(numbers) > 5 else "")


def _add(sample: Sample, i: int) -> None:
    source = sample.source
    frames = source.read(i, np.arange(source.lengths[i]), ())
    state, action = frames["state"].double().numpy(), frames["action"].double().numpy()
    times = source.timestamps(i)
    if not (np.isfinite(state).all() and np.isfinite(action).all()):
        sample.invalid.append(i)
    elif not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
        sample.backwards.append(i)
    else:
        window = ClipWindow(num_frames=2, step_seconds=sample.step_seconds)
        starts = window.starts(Subset(source, [i]), window.gaps()[0])
        first = np.zeros(int(starts.counts[0, 0]), np.int64)
        before = starts.frames(first, first, np.arange(len(first)))
        after = nearest(times, times[before] + sample.step_seconds)
        sample.recordings.append(Recording(i, state, action, times, before, after))
