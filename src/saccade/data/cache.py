"""Frames of any reader, decoded once, then read from a memory map.

    FOLDER/<digest of data set, camera, size and version>/frames.u8   [n, 3, size, size]
                                                          done.u8     one byte per episode

Training reads pairs at random, which costs a video decoder milliseconds and a memory map a copy.
An episode's byte in ``done.u8`` is set after its pixels have reached the disk, so a build that is
killed goes on where it was.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from saccade.checkpoint import space_for, write_atomic
from saccade.data.episodes import Episodes, Frames
from saccade.errors import DataError, SpaceError

VERSION = 1  # of what ``fit`` computes; a new one makes new caches
BLOCK = 64  # frames decoded at once: bounds the memory of a build


class CachedEpisodes(Episodes):
    """The episodes of a reader with square frames of ``size`` pixels that need no decoding.

    The cache is completed when this is constructed; ``progress`` is told how many of all frames
    are there. ``cameras=None`` keeps every camera. Of several processes that build the same
    cache, one works and the others wait.

    Raises:
        DataError: the reader cannot read a frame.
        SpaceError: the cache does not fit on the disk.
    """

    def __init__(
        self,
        episodes: Episodes,
        folder: Path,
        size: int,
        cameras: Sequence[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.fps = episodes.fps
        self.cameras = episodes.cameras if cameras is None else tuple(cameras)
        self.lengths, self.tasks = episodes.lengths, episodes.tasks
        self.state_names, self.action_names = episodes.state_names, episodes.action_names
        known = episodes.world_to_camera
        self.world_to_camera = {name: known[name] for name in self.cameras if name in known}
        self.fingerprint = f"{episodes.fingerprint}@{size}"
        self.episodes, self.size = episodes, size
        self._starts = [0, *accumulate(self.lengths)]
        self._folders = {camera: folder / self._digest(camera) for camera in self.cameras}
        self._maps: dict[str, UInt8[np.ndarray, "n 3 _ _"]] = {}
        self._complete(folder, progress or (lambda done, total: None))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}  # each process maps the files itself

    def read(
        self,
        episode: int,
        frames: Int[np.ndarray, " t"],
        cameras: Sequence[str] | None = None,
    ) -> Frames:
        """Copy frames of one episode from the memory map."""
        found = self.episodes.read(episode, frames, ())
        names = self.cameras if cameras is None else cameras
        absent = set(names) - set(self.cameras)
        if absent:
            raise DataError(f"cameras {sorted(absent)} are not cached; only {self.cameras} are")
        rows = self._starts[episode] + np.asarray(frames, np.int64)
        views = [torch.from_numpy(self._map(name)[rows]) for name in names]
        if views:
            found["video"] = torch.stack(views, 1) if len(views) > 1 else views[0][:, None]
        return found

    def timestamps(self, episode: int) -> Float64[np.ndarray, " t"]:
        """Return what the reader says."""
        return self.episodes.timestamps(episode)

    def _digest(self, camera: str) -> str:
        key = json.dumps([self.episodes.fingerprint, camera, self.size, VERSION])
        return hashlib.sha256(key.encode()).hexdigest()[:16]

    def _map(self, camera: str) -> UInt8[np.ndarray, "n 3 _ _"]:
        if camera not in self._maps:
            path, shape = self._folders[camera] / "frames.u8", (3, self.size, self.size)
            self._maps[camera] = np.asarray(np.memmap(path, np.uint8, "r")).reshape(-1, *shape)
        return self._maps[camera]

    def _missing(self, camera: str) -> list[int]:
        """List the episodes still to be decoded; all of them where a file has the wrong size."""
        frames, done = (self._folders[camera] / name for name in ("frames.u8", "done.u8"))
        sizes = [path.stat().st_size if path.is_file() else 0 for path in (frames, done)]
        if sizes != [self._bytes(self._starts[-1]), len(self.lengths)]:
            return list(range(len(self.lengths)))
        return [i for i, mark in enumerate(done.read_bytes()) if not mark]

    def _bytes(self, frames: int) -> int:
        return frames * 3 * self.size**2

    def _complete(self, folder: Path, progress: Callable[[int, int], None]) -> None:
        missing = {camera: self._missing(camera) for camera in self.cameras}
        left = sum(self.lengths[i] for members in missing.values() for i in members)
        if not left:
            return
        folder.mkdir(parents=True, exist_ok=True)
        need, free = self._bytes(left), shutil.disk_usage(folder).free
        if need > free:
            raise SpaceError(
                f"the frame cache needs {need / 1e9:.2f} GB in {folder}, {free / 1e9:.2f} GB are "
                "free; free some space, choose another folder or a smaller size"
            )
        total = self._starts[-1] * len(self.cameras)
        done = total - left
        for camera, members in missing.items():
            with space_for(folder):
                for episode in self._build(camera) if members else ():
                    done = min(done + self.lengths[episode], total)
                    progress(done, total)
        progress(total, total)

    def _build(self, camera: str) -> Iterator[int]:
        """Decode the missing episodes of one camera, yielding each when it is safe."""
        folder = self._folders[camera]
        frames, done = folder / "frames.u8", folder / "done.u8"
        with _locked(folder):
            missing = self._missing(camera)  # another process may have built it while we waited
            if len(missing) == len(self.lengths):
                write_atomic(done, bytes(len(self.lengths)))
                frames.write_bytes(b"")
                os.truncate(frames, self._bytes(self._starts[-1]))
            with frames.open("r+b") as pixels, done.open("r+b", buffering=0) as marks:
                for episode in missing:
                    pixels.seek(self._bytes(self._starts[episode]))
                    for block in self._blocks(camera, episode):
                        pixels.write(block.numpy().data)
                    pixels.flush()
                    os.fsync(pixels.fileno())
                    marks.seek(episode)
                    marks.write(b"\1")
                    yield episode

    def _blocks(self, camera: str, episode: int) -> Iterator[UInt8[Tensor, "t 3 h w"]]:
        steps = np.arange(self.lengths[episode])
        for start in range(0, len(steps), BLOCK):
            frames = self.episodes.read(episode, steps[start : start + BLOCK], (camera,))
            yield fit(frames["video"][:, 0], self.size)


def fit(video: UInt8[Tensor, "t 3 h w"], size: int) -> UInt8[Tensor, "t 3 {size} {size}"]:
    """Cut out the central square and resize it, antialiased."""
    height, width = video.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = video[..., top : top + side, left : left + side].contiguous()
    if side == size:
        return square
    return F.interpolate(square, (size, size), mode="bilinear", antialias=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, waiting for it; the system frees it when a process dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
