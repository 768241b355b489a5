"""What a frozen encoder makes of each frame, computed once, then read from a memory map.

    FOLDER/rows.bin    [frames, n, d], in the precision that was asked for
    FOLDER/done.u64    one number per frame: see ``store.py``

Only frames of the episodes that are asked for are encoded; the others take no space.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from saccade.checkpoint import space_for
from saccade.data.cache.store import Store, require_room
from saccade.data.episodes import Episodes, Subset
from saccade.errors import NumericError
from saccade.progress import progress

VERSION = 1  # of the files; a new one makes new caches
BATCH = 32  # frames encoded at once
Precision = Literal["float32", "float16", "bfloat16"]
Encode = Callable[[UInt8[Tensor, "b 3 h w"]], Float[Tensor, "b n d"]]

# NumPy has no bfloat16: its bits are stored
ON_DISK: dict[Precision, str] = {"float32": "<f4", "float16": "<f2", "bfloat16": "<i2"}


class FeatureStore:
    """Features of the frames of a data set. Picklable.

    Args:
        folder: of this data set, camera and encoder alone; its name is a digest of them.
        lengths: frames of each episode.
        shape: tokens of a frame, and their width.
        precision: of the numbers on disk.
    """

    def __init__(
        self, folder: Path, lengths: Sequence[int], shape: tuple[int, int], precision: Precision
    ) -> None:
        self.folder, self.precision = folder, precision
        self._starts = np.array([0, *accumulate(lengths)])
        rows = range(int(self._starts[-1]) + 1)  # each frame is a record
        self.store = Store(folder / "rows.bin", shape, ON_DISK[precision], rows)

    def missing(self, members: Sequence[int]) -> list[int]:
        """List the frames of some episodes that are not there yet, counted over all episodes."""
        starts = self._starts.tolist()
        return self.store.missing([i for e in members for i in range(starts[e], starts[e + 1])])

    def read(
        self, episode: int, frames: Int64[np.ndarray, " t"]
    ) -> Float[Tensor, "t {self.store.row[0]} {self.store.row[1]}"]:
        """Copy the features of frames of one episode, as they are stored.

        Raises:
            DataError: the file was changed after it was written.
        """
        rows = self._starts[episode] + frames
        for row, frame in zip(rows.tolist(), frames.tolist(), strict=True):
            if not self.store.checked(row):
                self.store.check(row, f"features of frame {frame} of episode {episode}")
        found = torch.from_numpy(self.store.read(rows))
        return found.view(torch.bfloat16) if self.precision == "bfloat16" else found

    def complete(
        self,
        episodes: Episodes,
        camera: str,
        members: Sequence[int],
        encode: Encode,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Encode the frames of some episodes that are missing.

        Raises:
            SpaceError: they do not fit on the disk.
            NumericError: a feature is not finite, or too large for the precision.
            DataError: a frame cannot be read.
        """
        missing = len(self.missing(members))
        if not missing:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        need = missing * self.store.row_bytes
        report(
            f"features of {missing:,} frames will take {need / 1e9:.3g} GB in {self.folder} "
            f"({self.precision}, {self.store.row_bytes / 1e3:.4g} kB each)"
        )
        remedy = "a precision of half the size"
        require_room(self.folder, need, "the feature cache", remedy)
        with self.store.locked():
            rows = self.missing(members)  # another process may have been at it while we waited
            self.store.prepare()
            with space_for(self.folder):
                self._write(episodes, camera, np.array(rows, np.int64), encode)

    def _write(
        self, episodes: Episodes, camera: str, rows: Int64[np.ndarray, " r"], encode: Encode
    ) -> None:
        """Encode frames and mark each of them when it is on the disk."""
        with (
            progress(f"encoding frames into {self.folder}", len(rows), "frames") as told,
            self.store.writing() as put,
        ):
            told(0)
            for low in range(0, len(rows), BATCH):
                some = rows[low : low + BATCH]
                found = self._stored(encode(self._pixels(episodes, camera, some)), some)
                put(some.tolist(), found)
                told(low + len(some))

    def _pixels(
        self, episodes: Episodes, camera: str, rows: Int64[np.ndarray, " r"]
    ) -> UInt8[Tensor, "r 3 h w"]:
        episode = np.searchsorted(self._starts, rows, side="right") - 1
        seen = [
            episodes.read(int(e), rows[episode == e] - self._starts[e], (camera,))["video"][:, 0]
            for e in np.unique(episode)
        ]
        return torch.cat(seen)

    def _stored(
        self, features: Float[Tensor, "r n d"], rows: Int64[np.ndarray, " r"]
    ) -> np.ndarray:
        """Return the numbers as the file holds them."""
        stored = features.to(getattr(torch, self.precision)).cpu().contiguous()
        fine = stored.isfinite().flatten(1).all(1).numpy()
        if not fine.all():
            row = rows[~fine][0]
            episode = int(np.searchsorted(self._starts, row, side="right") - 1)
            raise NumericError(
                f"features of frame {row - self._starts[episode]} of episode {episode} are not "
                f"finite in {self.precision}; look at the encoder, or keep them in float32"
            )
        return stored.view(torch.int16).numpy() if self.precision == "bfloat16" else stored.numpy()


class FeaturedEpisodes(Subset):
    """Some episodes of a reader, with kept features of their frames.

    What is rounded is not the same data to train on: the fingerprint says so, unless features are
    in float32.
    """

    def __init__(self, episodes: Episodes, keep: Sequence[int], kept: FeatureStore) -> None:
        super().__init__(episodes, keep)
        self.kept = kept
        if kept.precision != "float32":
            self.fingerprint += f"~{kept.precision}"

    def features(
        self, episode: int, frames: Int64[np.ndarray, " t"]
    ) -> Float[Tensor, "t n d"] | None:
        """Return the features of frames of the ``episode``-th kept episode."""
        return self.kept.read(self.keep[episode], frames)
