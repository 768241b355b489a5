"""Which frames a probe looks at: a few frames of one episode, shown in a stated order."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from torch import Tensor

from saccade.data.episodes import Episodes, Subset
from saccade.errors import ConfigError, DataError


class Clips(NamedTuple):
    """Frames ``start + offset`` of ``episode``, for each of ``offsets`` in the order shown."""

    episode: Int[np.ndarray, " n"]
    start: Int[np.ndarray, " n"]
    offsets: tuple[int, ...]

    @property
    def gap(self) -> int:
        """How many steps lie between the earliest and the latest frame."""
        return max(self.offsets) - min(self.offsets)

    def by_episode(self) -> Iterator[tuple[int, Int[np.ndarray, " m"]]]:
        """Yield every episode with the start frames of its clips."""
        for episode in np.unique(self.episode):
            yield int(episode), self.start[self.episode == episode]

    def shown(self, *offsets: int) -> "Clips":
        """Return the same moments with other frames shown."""
        return self._replace(offsets=offsets)

    def taken(self, rows: Int[np.ndarray, " m"]) -> "Clips":
        """Return some of the clips."""
        return self._replace(episode=self.episode[rows], start=self.start[rows])


def pairs(episode: Int[np.ndarray, " n"], start: Int[np.ndarray, " n"], gap: int) -> Clips:
    """Return pairs of frames ``gap`` steps apart."""
    return Clips(np.asarray(episode), np.asarray(start), (0, gap))


def enumerate_clips(
    episodes: Episodes, offsets: Sequence[int], stride: int, most: int = 0
) -> Clips:
    """List every ``stride``-th clip of each episode, thinned evenly to at most ``most``.

    Offsets begin at 0. Starts lie on the same grid whatever the offsets, so that frames are
    shared between gaps that are multiples of the stride.

    Raises:
        ConfigError: an offset is negative or repeated, or the stride is below 1.
        DataError: no episode is as long as a clip.
    """
    reach = max(offsets)
    if min(offsets) < 0 or len(set(offsets)) < len(offsets) or stride < 1 or most < 0:
        raise ConfigError(
            f"offsets {list(offsets)}, stride {stride} and at most {most} clips: offsets are 0 and "
            "more and differ (a gap is at least 1), a stride is at least 1, 0 clips means all"
        )
    starts = [np.arange(0, max(0, length - reach), stride) for length in episodes.lengths]
    counts = [len(start) for start in starts]
    if not sum(counts):
        longest = max(episodes.lengths, default=0)
        raise DataError(
            f"no episode of {episodes.fingerprint} is longer than the gap of {reach} steps (the "
            f"longest has {longest} frames); probe smaller gaps"
        )
    clips = Clips(np.repeat(np.arange(len(starts)), counts), np.concatenate(starts), (*offsets,))
    if 0 < most < len(clips.start):
        clips = clips.taken(np.linspace(0, len(clips.start) - 1, most).astype(int))
    return clips


def read_video(
    episodes: Episodes, clips: Clips, camera: str, batch: int
) -> Iterator[UInt8[Tensor, "b t 3 h w"]]:
    """Yield the clips in order, at most ``batch`` at a time and of one episode at a time."""
    offsets = np.array(clips.offsets)
    for episode, starts in clips.by_episode():
        for low in range(0, len(starts), batch):
            wanted = starts[low : low + batch, None] + offsets
            frames, place = np.unique(wanted, return_inverse=True)
            video = episodes.read(episode, frames, (camera,))["video"][:, 0]
            yield video[place.reshape(wanted.shape)]


def rooted(episodes: Episodes) -> tuple[Episodes, Int[np.ndarray, " e"]]:
    """Return the data set that holds these episodes, and which of it they are."""
    keep = np.arange(len(episodes.lengths))
    while type(episodes) is Subset:
        keep, episodes = np.asarray(episodes.keep)[keep], episodes.episodes
    return episodes, keep
