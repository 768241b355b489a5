"""Which frames a probe looks at: a few frames of one episode, shown in a stated order."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from saccade.data.episodes import Episodes, Subset
from saccade.errors import ConfigError, DataError

# Of 2^32. Multiples of an irrational share of a turn lie evenly on the circle, however many.
GOLDEN, SILVER = 2_654_435_769, 1_779_033_703


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
    """List every ``stride``-th clip of each episode, thinned to at most ``most``.

    Offsets begin at 0. Starts lie on the same grid whatever the offsets; ``most`` takes as many
    of one episode as of another, as far as they reach, spread over its length. Nothing is drawn,
    and what is taken is nested, so that probes share frames: fewer clips are some of the more,
    and starts of a gap are starts of every longer one that fits into the episode there.

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
    grid = [np.arange(0, length, stride) for length in episodes.lengths]
    start = np.concatenate([*grid, np.zeros(0, np.int64)])
    episode = np.repeat(np.arange(len(grid)), list(map(len, grid)))
    fits = np.flatnonzero(start + reach < np.array(episodes.lengths)[episode])
    if not len(fits):
        longest = max(episodes.lengths, default=0)
        raise DataError(
            f"no episode of {episodes.fingerprint} is longer than the gap of {reach} steps (the "
            f"longest has {longest} frames); probe smaller gaps"
        )
    if 0 < most < len(fits):
        fits = fits[_evenly(episode[fits], start[fits] // stride, most)]
    return Clips(episode[fits], start[fits], (*offsets,))


def _evenly(
    episode: Int[np.ndarray, " n"], place: Int[np.ndarray, " n"], most: int
) -> Int[np.ndarray, " m"]:
    """Choose rows: first one of every episode, then a second one far from it, and so on."""
    turn = (place * GOLDEN + episode * SILVER) % 2**32
    order = np.lexsort((turn, episode))
    counts = np.unique(episode, return_counts=True)[1]
    rank = np.empty_like(order)
    rank[order] = np.concatenate([np.arange(count) for count in counts])
    return np.sort(np.lexsort((episode * GOLDEN % 2**32, rank))[:most])


def read_video(
    episodes: Episodes, clips: Clips, camera: str, batch: int
) -> Iterator[UInt8[Tensor, "b t 3 h w"]]:
    """Yield the clips in order, ``batch`` at a time but for the last; a batch may span episodes."""
    offsets = np.array(clips.offsets)
    waiting: list[Tensor] = []
    for episode, starts in clips.by_episode():
        for low in range(0, len(starts), batch):
            wanted = starts[low : low + batch, None] + offsets
            frames, place = np.unique(wanted, return_inverse=True)
            video = episodes.read(episode, frames, (camera,))["video"][:, 0]
            waiting.append(video[place.reshape(wanted.shape)])
            if sum(map(len, waiting)) >= batch:
                full, *waiting = torch.cat(waiting).split(batch)
                yield full
    if waiting:
        yield torch.cat(waiting)


def rooted(episodes: Episodes) -> tuple[Episodes, Int[np.ndarray, " e"]]:
    """Return the data set that holds these episodes, and which of it they are."""
    keep = np.arange(len(episodes.lengths))
    while type(episodes) is Subset:
        keep, episodes = np.asarray(episodes.keep)[keep], episodes.episodes
    return episodes, keep
