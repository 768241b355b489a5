"""Windows: which frames, states and actions of an episode make one sample.

A window does not hold data. Its *plan* for an epoch is an array of rows ``(episode, start, gap,
key)`` and a pure function of (seed, epoch); a resumed run and four ranks all slice the same plan.
Steps are recorded frames, or ``step_seconds`` of real time: then frames are found by their
timestamps, never by trusting a container's frame rate.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from saccade.data.episodes import Episodes
from saccade.errors import ConfigError, DataError
from saccade.types import Clip

GapLaw = Literal["exponential", "uniform", "linear", "triangular"]
Plan = Int64[np.ndarray, "n 4"]  # rows of (episode, first frame, gap in steps, key of the sample)

# Of a frame interval. Half is what an even clock needs; a robot's is late by some milliseconds, and
# 4 Hz out of 15 asks for the middle between two frames half of the time. A lost frame is a hole.
TOLERANCE = 0.75


def gap_probabilities(law: GapLaw, max_gap: int, decay: float = 0.8) -> Float64[np.ndarray, " k"]:
    """Return p(gap = 1 .. max_gap).

    exponential exp(-decay (k - 1)); uniform; linear k; triangular with its peak in the middle
    and a floor of 1 % of it. All normalised.
    """
    k, centre = np.arange(1, max_gap + 1), (max_gap + 1) // 2
    weight = {
        "exponential": np.exp(-decay * (k - 1.0)),
        "uniform": np.ones(max_gap),
        "linear": k.astype(float),
        "triangular": np.maximum(1 - np.abs(k - centre) / max(centre, max_gap - centre), 0.01),
    }[law]
    return weight / weight.sum()


@dataclass(frozen=True, kw_only=True)
class Window(ABC):
    """What all windows share.

    Args:
        step_seconds: length of one step; 0 means one recorded frame.
        per_episode: samples drawn from each episode per epoch; 0 means one for every frame.
    """

    step_seconds: float = 0.0
    per_episode: int = 0

    @abstractmethod
    def gaps(self) -> tuple[Int64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
        """Return the possible gaps, smallest first, and their probabilities."""

    @abstractmethod
    def frame_steps(self, gap: int) -> Int64[np.ndarray, " t"]:
        """Return when the frames are, in steps from the start. Negative ones are history."""

    @abstractmethod
    def action_steps(self, gap: int) -> Int64[np.ndarray, " k"]:
        """Return when the actions are, in steps from the start; the number never varies."""

    def reach(self, gap: int) -> int:
        """Return the last step that must lie within the episode. Default: the last frame's."""
        return int(self.frame_steps(gap).max(initial=0))

    def starts(self, episodes: Episodes, gaps: Int64[np.ndarray, " k"], every: int = 1) -> "Starts":
        """Find the frames at which a window may start: every n-th one from which all is in reach.

        Each episode's times are asked for once.
        """
        after = np.array([self.reach(int(gap)) for gap in gaps])
        lengths = np.asarray(episodes.lengths, np.int64)
        counts = np.maximum(lengths[:, None] - after, 0)
        first, listed, total = np.full_like(counts, -1), [np.empty(0, np.int64)], 0
        for episode in np.flatnonzero(lengths).tolist() if self.step_seconds else ():
            times = episodes.timestamps(episode)
            last = times[-1] - after * self.step_seconds + 0.5 / episodes.fps
            counts[episode] = np.searchsorted(times, last, side="right")
            if np.diff(times).max(initial=0) <= 2 * TOLERANCE / episodes.fps:
                continue  # no hole
            for k, gap in enumerate(gaps):
                steps = np.concatenate([self.frame_steps(int(gap)), self.action_steps(int(gap))])
                frames = np.arange(0, counts[episode, k], every)
                wanted = times[frames, None] + steps * self.step_seconds
                off = _nearest(times, wanted, episodes.fps)[2]
                usable = frames[(off <= 0).all(1)]
                first[episode, k], counts[episode, k] = total, len(usable) * every
                listed.append(usable)
                total += len(usable)
        return Starts(-(-counts // every), every, first, np.concatenate(listed))

    def plan(self, episodes: Episodes, seed: int, epoch: int) -> Plan:
        """Draw the samples of one epoch: shuffled episodes, then a gap, then a start.

        A gap that an episode is too short for becomes the smallest gap; an episode that is too
        short even for that is left out. No window reaches into a hole in the times.

        Raises:
            DataError: no episode is long enough.
        """
        rng = np.random.default_rng((seed, epoch))
        gaps, law = self.gaps()
        starts = self.starts(episodes, gaps)
        room = starts.counts
        lengths = np.asarray(episodes.lengths)
        counts = np.full_like(lengths, self.per_episode) if self.per_episode else lengths
        counts = np.where(room[:, 0] > 0, counts, 0)
        if not counts.sum():
            raise self._too_long(episodes)
        episode = rng.permutation(np.repeat(np.arange(len(lengths)), counts))
        choice = rng.choice(len(gaps), size=len(episode), p=law)
        choice = np.where(room[episode, choice] > 0, choice, 0)
        number = (rng.random(len(episode)) * room[episode, choice]).astype(np.int64)
        start = starts.frames(episode, choice, number)
        key = rng.integers(2**63 - 1, size=len(episode))
        return np.stack([episode, start, gaps[choice], key], axis=1)

    def read(
        self,
        episodes: Episodes,
        row: Int64[np.ndarray, "4"],
        cameras: Sequence[str] | None = None,
    ) -> Clip:
        """Load one row of a plan; no pixels, where the episodes keep features of the frames."""
        episode, start, gap, _ = row.tolist()
        number = torch.from_numpy(row.copy())  # as tensors: one call for all
        frames, _ = self.resolve(episodes, episode, start, self.frame_steps(gap))
        commands, beyond = self.resolve(episodes, episode, start, self.action_steps(gap))
        kept = episodes.features(episode, frames)
        seen = episodes.read(episode, frames, cameras if kept is None else ())
        _, action = episodes.numbers(episode, commands)  # within the episode: no need to check
        clip = Clip(
            video=seen["video"],
            state=seen["state"],
            action=torch.from_numpy(action),
            is_pad=torch.from_numpy(beyond),
            gap=number[2],
            episode=number[0],
            key=number[3],
            text=episodes.tasks[episode],
        )
        if kept is not None:
            clip["features"] = kept
        return clip

    def _too_long(self, episodes: Episodes) -> DataError:
        needed = self.reach(int(self.gaps()[0][0])) + 1
        each = f" of {self.step_seconds:g} s, without a hole" if self.step_seconds else ""
        return DataError(
            f"no episode is as long as the shortest window ({needed} steps{each}); the longest of "
            f"{len(episodes.lengths)} has {max(episodes.lengths, default=0)} frames: "
            "lower the gap or the clip"
        )

    def resolve(
        self, episodes: Episodes, episode: int, start: int, steps: Int64[np.ndarray, " t"]
    ) -> tuple[Int64[np.ndarray, " t"], Bool[np.ndarray, " t"]]:
        """Turn steps into frame numbers, clamped to the episode, and mark the clamped ones.

        Raises:
            DataError: the frame nearest to a wanted time is more than ``TOLERANCE`` away from it.
        """
        length = episodes.lengths[episode]
        if not self.step_seconds:
            frames = start + steps
            inside = np.minimum(np.maximum(frames, 0), length - 1)  # np.clip takes twice as long
            return inside, inside != frames
        times = episodes.timestamps(episode)
        wanted = times[start] + steps * self.step_seconds
        near, beyond, off = _nearest(times, wanted, episodes.fps)
        if (off > 0).any():
            raise DataError(
                f"episode {episode} has a hole: the nearest frame is {off.max():.3f} s away from "
                f"{wanted[off.argmax()]:.3f} s, at {episodes.fps:g} frames per second; start "
                "elsewhere (plans do)"
            )
        return near, beyond


class Starts(NamedTuple):
    """Where windows may start in each episode, for each gap.

    Place ``i`` is frame ``i * every``; where times have a hole, it is that of a list.
    """

    counts: Int64[np.ndarray, "e k"]  # places
    every: int
    first: Int64[np.ndarray, "e k"]  # where the list of an episode begins; -1: it has none
    listed: Int64[np.ndarray, " n"]

    def frames(
        self,
        episode: Int64[np.ndarray, " r"],
        gap: Int64[np.ndarray, " r"],
        place: Int64[np.ndarray, " r"],
    ) -> Int64[np.ndarray, " r"]:
        """Return the frame of each place; ``gap`` is the number of a column."""
        first = self.first[episode, gap]
        found, holed = place * self.every, first >= 0
        found[holed] = self.listed[first[holed] + place[holed]]
        return found


def _nearest(
    times: Float64[np.ndarray, " t"], wanted: Float64[np.ndarray, "*n"], fps: float
) -> tuple[Int64[np.ndarray, "*n"], Bool[np.ndarray, "*n"], Float64[np.ndarray, "*n"]]:
    """Find the nearest frames, which times are beyond the episode, and how far off others are.

    What is off by no more than the tolerance, or beyond, is not off: 0.
    """
    half = 0.5 / fps
    beyond = (wanted < times[0] - half) | (wanted > times[-1] + half)
    near = np.searchsorted((times[1:] + times[:-1]) / 2, wanted)  # between two midpoints
    off = np.abs(times[near] - wanted)
    return near, beyond, np.where(beyond | (off <= TOLERANCE / fps * 1.001), 0.0, off)


@dataclass(frozen=True, kw_only=True)
class PairWindow(Window):
    """Two frames with a random gap between them: the sample of future prediction.

    Args:
        max_gap: largest gap, in steps.
        law: how often each gap is drawn.
        sample_decay: steepness of the exponential law.
    """

    max_gap: int = 10
    law: GapLaw = "exponential"
    sample_decay: float = 0.8

    def gaps(self) -> tuple[Int64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
        """Return 1 .. max_gap under the law."""
        if self.max_gap < 1:
            raise ConfigError(f"max_gap is {self.max_gap}; a pair needs a gap of at least 1")
        law = gap_probabilities(self.law, self.max_gap, self.sample_decay)
        return np.arange(1, self.max_gap + 1), law

    def frame_steps(self, gap: int) -> Int64[np.ndarray, " t"]:
        """Return now and later."""
        return np.array([0, gap])

    def action_steps(self, gap: int) -> Int64[np.ndarray, " k"]:
        """Return the commands of the longest gap; those past this one's are beside the point."""
        return np.arange(self.max_gap)


@dataclass(frozen=True, kw_only=True)
class SpacedWindow(Window):
    """A window of one gap, which may be listed instead of drawn.

    Args:
        every: frames from one window's start to the next one's, 8 for 16 frames that overlap by
            half, 1 for every start; each comes once per epoch. 0 draws starts at random instead.
    """

    every: int = 0

    def plan(self, episodes: Episodes, seed: int, epoch: int) -> Plan:
        """Shuffle the windows that start at every n-th frame, or draw starts where ``every`` is 0.

        Raises:
            ConfigError: both ``every`` and ``per_episode`` say how many clips there are.
            DataError: no episode is long enough.
        """
        if not self.every:
            return super().plan(episodes, seed, epoch)
        if self.every < 0 or self.per_episode:
            raise ConfigError(
                f"every is {self.every} and per_episode {self.per_episode}; "
                "set one of them, above 0"
            )
        rng = np.random.default_rng((seed, epoch))
        gaps = self.gaps()[0]
        starts = self.starts(episodes, gaps, self.every)
        counts = starts.counts[:, 0]
        if not counts.sum():
            raise self._too_long(episodes)
        episode = np.repeat(np.arange(len(counts)), counts)
        number = np.arange(len(episode)) - np.repeat(np.cumsum(counts) - counts, counts)
        key = rng.integers(2**63 - 1, size=len(episode))
        start = starts.frames(episode, np.zeros_like(episode), number)
        rows = np.stack([episode, start, np.full_like(episode, gaps[0]), key], axis=1)
        return rows[rng.permutation(len(rows))]


@dataclass(frozen=True, kw_only=True)
class ClipWindow(SpacedWindow):
    """Evenly spaced frames: the sample of video models.

    Args:
        num_frames: length of the clip.
        stride: steps between frames.
    """

    num_frames: int = 16
    stride: int = 1

    def gaps(self) -> tuple[Int64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
        """Return the one span that the clip has."""
        return np.array([(self.num_frames - 1) * self.stride]), np.ones(1)

    def frame_steps(self, gap: int) -> Int64[np.ndarray, " t"]:
        """Return the frames of the clip."""
        return np.arange(self.num_frames) * self.stride

    def action_steps(self, gap: int) -> Int64[np.ndarray, " k"]:
        """Return the command at each frame."""
        return self.frame_steps(gap)


@dataclass(frozen=True, kw_only=True)
class TransitionWindow(SpacedWindow):
    """A frame, the commands that follow, and the frame they lead to: the sample of dynamics.

    Args:
        gap: steps from one frame to the other.
    """

    gap: int = 1

    def gaps(self) -> tuple[Int64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
        """Return the one gap."""
        return np.array([self.gap]), np.ones(1)

    def frame_steps(self, gap: int) -> Int64[np.ndarray, " t"]:
        """Return before and after."""
        return np.array([0, gap])

    def action_steps(self, gap: int) -> Int64[np.ndarray, " k"]:
        """Return every command in between."""
        return np.arange(self.gap)


@dataclass(frozen=True, kw_only=True)
class ChunkWindow(SpacedWindow):
    """Recent frames and the next commands: the sample of a policy.

    Outside the episode its first and last frame repeat; such commands are marked ``is_pad``.

    Args:
        history: frames up to and including the current one.
        chunk: commands to predict.
        stride: steps between frames of the history.
        tail: ``pad`` starts at every frame; ``drop`` only where the whole chunk was recorded, and
            so at none of the last ``chunk - 1`` frames, which may show a release.
        past_actions: add the commands since the oldest frame, for policies that learn at each
            moment: what follows moment ``i`` is then ``action[i * stride : i * stride + chunk]``.
    """

    history: int = 1
    chunk: int = 10
    stride: int = 1
    tail: Literal["pad", "drop"] = "pad"
    past_actions: bool = False

    def gaps(self) -> tuple[Int64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
        """Return 0: the last frame is the current one."""
        return np.zeros(1, dtype=np.int64), np.ones(1)

    def frame_steps(self, gap: int) -> Int64[np.ndarray, " t"]:
        """Return the history, oldest first."""
        return np.arange(-(self.history - 1), 1) * self.stride

    def action_steps(self, gap: int) -> Int64[np.ndarray, " k"]:
        """Return the chunk, after the commands since the oldest frame where these are wanted."""
        first = -(self.history - 1) * self.stride if self.past_actions else 0
        return np.arange(first, self.chunk)

    def reach(self, gap: int) -> int:
        """Return the last command's step where the tail is dropped, else now."""
        return self.chunk - 1 if self.tail == "drop" else 0


def stack(clips: Sequence[Clip]) -> Clip:
    """Make a batch of samples."""

    def rows(name: str) -> Tensor:
        return torch.stack([clip[name] for clip in clips])

    batch = Clip(
        video=rows("video"),
        state=rows("state"),
        action=rows("action"),
        is_pad=rows("is_pad"),
        gap=rows("gap"),
        episode=rows("episode"),
        key=rows("key"),
        text=[str(clip["text"]) for clip in clips],
    )
    if "features" in clips[0]:
        batch["features"] = rows("features")
    return batch
