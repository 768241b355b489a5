"""Frames of any reader, decoded once, then read from a memory map.

    FOLDER/<digest of data set, camera, framing and version>/frames.u8   [n, 3, size, size]
                                                             done.u64    one number per episode

Training reads pairs at random, which costs a video decoder milliseconds and a memory map a copy.
A build that is killed goes on where it was, and an episode is compared with its checksum when a
process first touches it: see ``store.py``.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from saccade.checkpoint import space_for
from saccade.data.cache.build import Work, built
from saccade.data.cache.store import Store, require_room
from saccade.data.episodes import Episodes
from saccade.data.files.faults import OnError, Skipped
from saccade.data.framed import SquareEpisodes
from saccade.data.transforms import Framing
from saccade.errors import DataError
from saccade.processes import require_own_main
from saccade.progress import progress as shown

VERSION = 2  # of what ``Framing`` computes and of the files; a new one makes new caches


class CachedEpisodes(SquareEpisodes):
    """The episodes of a reader with square frames that need no decoding.

    The cache is completed when this is constructed. An episode without a camera, or one that is
    broken and was skipped, has no such camera here: see ``cameras_of`` and ``skipped``.

    Args:
        episodes: the reader.
        folder: where caches are; each camera gets a folder of its own in it.
        size: side of the square, or a ``Framing``.
        cameras: which cameras to keep; None keeps every one.
        workers: processes that decode; 0 decodes in this one. The bytes are the same. With
            more, a script must be importable (``if __name__ == "__main__"``).
        on_error: ``raise`` stops at the first episode that cannot be decoded, ``skip`` lists it
            in ``skipped`` and goes on.
        most_skipped: share of the episodes of a camera that may be skipped.
        progress: told how many of all frames are there, instead of a line on the screen.

    Raises:
        DataError: the reader has no such camera or cannot read a frame, or too many episodes
            were skipped, or a worker was killed.
        SpaceError: the cache does not fit on the disk.
    """

    def __init__(
        self,
        episodes: Episodes,
        folder: Path,
        size: int | Framing,
        cameras: Sequence[str] | None = None,
        *,
        workers: int = 0,
        on_error: OnError = "raise",
        most_skipped: float = 0.01,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        framing = size if isinstance(size, Framing) else Framing(size=size)
        super().__init__(episodes, framing, cameras)
        self.size = framing.size
        self.folders = {camera: folder / self._digest(camera) for camera in self.cameras}
        self.skipped = {}  # reasons, by names such as "episode 3, camera front"
        self._starts = [0, *accumulate(self.lengths)]
        self._broken: set[tuple[int, str]] = set()
        row = (3, self.size, self.size)
        self._stores = {
            camera: Store(place / "frames.u8", row, "u1", self._starts)
            for camera, place in self.folders.items()
        }
        self._complete(folder, workers, on_error, most_skipped, progress)

    def pixels(
        self, episode: int, camera: str, frames: Int64[np.ndarray, " t"]
    ) -> UInt8[Tensor, "t 3 {self.size} {self.size}"]:
        """Copy frames of one episode from the memory map.

        Raises:
            DataError: the file was changed after it was written.
        """
        store = self._stores[camera]
        if not store.checked(episode):
            self._check(episode, camera)
        return torch.from_numpy(store.read(self._starts[episode] + frames))

    def verify(self) -> None:
        """Compare every cached frame with its checksum.

        Raises:
            DataError: a file was changed after it was written.
        """
        for camera in self.cameras:
            for episode in range(len(self.lengths)):
                if camera in self.cameras_of(episode):
                    self._check(episode, camera)

    def cameras_of(self, episode: int) -> tuple[str, ...]:
        """Return the cached cameras that the episode has, and that are not broken."""
        has = super().cameras_of(episode)
        return tuple(camera for camera in has if (episode, camera) not in self._broken)

    @property
    def size_on_disk(self) -> int:
        """How many bytes the frames take."""
        return sum(store.size_on_disk for store in self._stores.values())

    def _digest(self, camera: str) -> str:
        key = json.dumps([self.episodes.fingerprint, camera, self.framing.tag, VERSION])
        return hashlib.sha256(key.encode()).hexdigest()[:16]

    def _check(self, episode: int, camera: str) -> None:
        self._stores[camera].check(episode, f"frames of episode {episode}")

    def _missing(self, camera: str) -> list[int]:
        """List the episodes still to be decoded."""
        having = [i for i in range(len(self.lengths)) if camera in self.episodes.cameras_of(i)]
        return self._stores[camera].missing(having)

    def _complete(
        self,
        folder: Path,
        workers: int,
        on_error: OnError,
        most_skipped: float,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        missing = {camera: self._missing(camera) for camera in self.cameras}
        if not any(missing.values()):
            return
        require_own_main()
        left = sum(self.lengths[i] for members in missing.values() for i in members)
        folder.mkdir(parents=True, exist_ok=True)
        need = left * 3 * self.size**2
        require_room(folder, need, "the frame cache", "a smaller size")
        total = self._starts[-1] * len(self.cameras)
        done = total - left
        with _reporting(f"caching {self.size} px frames in {folder}", total, progress) as told:
            told(done)
            for camera, members in missing.items():
                skipped = Skipped(on_error, most_skipped)
                with space_for(folder):
                    for episode in self._build(camera, workers, skipped) if members else ():
                        done = min(done + self.lengths[episode], total)
                        told(done)
                skipped.settle(len(self.lengths), "episodes")
                self.skipped = {**self.skipped, **skipped.found}
            if done < total:  # the rest was done by another process
                told(total)

    def _build(self, camera: str, workers: int, skipped: Skipped) -> Iterator[int]:
        """Decode the missing episodes of one camera, yielding each when it is written."""
        store = self._stores[camera]
        with store.locked():
            missing = self._missing(camera)  # another process may have built it while we waited
            store.prepare()
            work = Work(self.episodes, camera, self.framing, store.path, self._starts)
            with store.marker() as marker:
                for episode, result in built(work, missing, workers):
                    if isinstance(result, DataError):
                        skipped.add(f"episode {episode}, camera {camera}", result)
                        self._broken.add((episode, camera))
                    else:
                        marker.mark(episode, result)
                    yield episode


@contextmanager
def _reporting(
    what: str, total: int, progress: Callable[[int, int], None] | None
) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how much is done, and tells the caller or the screen."""
    if progress is not None:
        yield lambda done: progress(done, total)
    else:
        with shown(what, total, "frames") as told:
            yield told
