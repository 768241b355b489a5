"""Decode episodes into one file, in several processes, so that a kill loses a second of work."""

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from crc32c import crc32c

from saccade.data.episodes import Episodes
from saccade.data.transforms import Framing
from saccade.errors import DataError
from saccade.processes import die_with_parent, forkserver

BLOCK = 16  # frames decoded at once: bounds the memory of a process, 100 MB of 1080p
QUEUE = 4096  # episodes handed to the processes at once
SETTLE = 1.0  # seconds of work that are brought to the disk together
DONE = 1 << 32  # beside the checksum of an episode
MARK = np.dtype("<u8")


class Work(NamedTuple):
    """What a process needs in order to decode an episode."""

    episodes: Episodes
    camera: str
    framing: Framing
    frames: Path
    starts: list[int]

    def decode(self, episode: int) -> int:
        """Write one episode to its place in the file; return its checksum."""
        start, end = self.starts[episode : episode + 2]
        each, checksum = 3 * self.framing.size**2, 0
        with self.frames.open("r+b") as file:
            file.seek(start * each)
            for first in range(0, end - start, BLOCK):
                steps = np.arange(first, min(first + BLOCK, end - start))
                video = self.framing(self.episodes.pixels(episode, self.camera, steps))
                pixels = np.ascontiguousarray(video.numpy())
                if pixels.nbytes != len(steps) * each:
                    raise DataError(
                        f"episode {episode} gave {len(pixels)} frames of camera {self.camera} for "
                        f"{len(steps)}; its reader is broken"
                    )
                checksum = crc32c(pixels.data, checksum)
                file.write(pixels.data)
        return checksum


class Marker:
    """Writes the checksums of episodes after their pixels have reached the disk."""

    def __init__(self, frames: Path, done: Path) -> None:
        self._frames, self._done = frames.open("r+b"), done.open("r+b", buffering=0)
        self._ready: dict[int, int] = {}
        self._settled = time.monotonic()

    def __enter__(self) -> "Marker":
        return self

    def __exit__(self, *exception: object) -> None:
        self._settle()
        self._frames.close()
        self._done.close()

    def mark(self, episode: int, checksum: int) -> None:
        """Note an episode whose pixels are written."""
        self._ready[episode] = checksum
        if time.monotonic() - self._settled > SETTLE:
            self._settle()

    def _settle(self) -> None:
        os.fsync(self._frames.fileno())
        for episode, checksum in self._ready.items():
            mark = np.array(DONE | checksum, MARK).tobytes()
            os.pwrite(self._done.fileno(), mark, episode * MARK.itemsize)
        self._ready.clear()
        self._settled = time.monotonic()


def built(
    work: Work, members: Sequence[int], workers: int
) -> Iterator[tuple[int, int | DataError]]:
    """Decode episodes, here or in other processes; yield checksums or what went wrong."""
    if not workers or multiprocessing.parent_process() is not None:
        yield from ((episode, _attempt(work, episode)) for episode in members)
        return
    context = forkserver()
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(work,)) as pool:
        try:
            for start in range(0, len(members), QUEUE):
                some = members[start : start + QUEUE]
                yield from zip(some, pool.map(_attempt_here, some), strict=True)
        except BrokenProcessPool as error:
            raise DataError(
                f"a process that decoded frames for {work.frames} was killed, maybe for want of "
                "memory, or ended by what is told above; run again to go on, with fewer workers"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _attempt(work: Work, episode: int) -> int | DataError:
    try:
        return work.decode(episode)
    except DataError as error:
        return error


_work: list[Work] = []  # in a worker process: what to decode


def _begin(work: Work) -> None:
    die_with_parent()
    torch.set_num_threads(1)
    _work[:] = [work]


def _attempt_here(episode: int) -> int | DataError:
    return _attempt(_work[0], episode)
