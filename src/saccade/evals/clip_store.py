"""What a frozen encoder makes of the clips of a data set: computed once, then read by every probe.

    ROOT/<digest>/about.json            what the digest covers, and so what the features depend on
    ROOT/<digest>/<shard>/vectors/      one pooled vector per clip, float32
    ROOT/<digest>/<shard>/cells/        tokens averaged over g x g cells of the picture, float16

A shard holds the clips of one shape, such as ``0_5``: a frame and the one 5 steps later. Row
``i`` is the clip that begins at frame ``i``, counted over all episodes; rows that nobody asked
for take no space. Each has a checksum that is compared when it is read, and a build that is
killed goes on where it was (``data/cache/store.py``).
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from saccade.checkpoint import space_for, write_atomic
from saccade.data.cache.store import Store, require_room
from saccade.data.episodes import Episodes
from saccade.errors import NumericError
from saccade.evals.clips import Clips, read_video, rooted

Kind = Literal["vectors", "cells"]
ON_DISK: Mapping[Kind, str] = {"vectors": "<f4", "cells": "<f2"}
Report = Callable[[str], None]
Put = Callable[[Iterable[int], np.ndarray], None]


class Encoded(NamedTuple):
    """Features of some clips."""

    vectors: Float[Tensor, "b f"]
    cells: Float[Tensor, "b g g d"] | None  # where they were asked for


Encode = Callable[[Tensor, bool], Encoded]  # of a video, with its cells or without


class ClipStore:
    """Features of one encoder on one data set, seen by one camera.

    Args:
        root: folder of all stores.
        about: all that the features depend on besides the frames, as JSON values.
        whole: the data set, whole.
        camera: the one to look through.
    """

    def __init__(self, root: Path, about: Mapping[str, Any], whole: Episodes, camera: str) -> None:
        self.about = {**about, "data": whole.fingerprint, "camera": camera}
        text = json.dumps(self.about, sort_keys=True)
        self.folder = root / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.whole, self.camera = whole, camera
        self.starts = np.array([0, *accumulate(whole.lengths)])
        self._stores: dict[tuple[str, Kind], Store] = {}

    def rows(self, clips: Clips) -> Int64[np.ndarray, " n"]:
        """Number clips of the whole data set by the frame that they begin at."""
        return self.starts[clips.episode] + clips.start

    def read(self, shard: str, kind: Kind, rows: Int64[np.ndarray, " n"]) -> Float[Tensor, "n _*d"]:
        """Copy features as they are stored, comparing each with its checksum once.

        Raises:
            DataError: a file was changed after it was written.
        """
        store = self._store(shard, kind)
        store.refresh(rows)  # another reader may have written in the meantime
        for row in rows.tolist():
            if not store.checked(row):
                store.check(row, f"features of frame {row}")
        return torch.from_numpy(store.read(rows))

    def complete(
        self, wanted: Clips, cells: bool, encode: Encode, batch: int, report: Report
    ) -> None:
        """Encode the clips of one shard that are missing; several processes may ask at once.

        Raises:
            NumericError: a feature is not finite, or too large to be stored.
            SpaceError: the features do not fit on the disk.
        """
        kinds: tuple[Kind, ...] = ("vectors", "cells") if cells else ("vectors",)
        shard, rows = shard_name(wanted.offsets), np.unique(self.rows(wanted))
        if not self._missing(shard, kinds, rows):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "about.json").exists():
            write_atomic(self.folder / "about.json", json.dumps(self.about, indent=2) + "\n")
        guard = Store(self.folder / shard / "guard", (1,), "<u1", [0])
        with guard.locked(), space_for(self.folder), ExitStack() as files:
            # another process may have been at it while we waited
            lacking = {kind: self._missing(shard, (kind,), rows) for kind in kinds}
            missing = np.array(sorted(set().union(*lacking.values())), np.int64)
            put: dict[Kind, Put] = {}
            for some, found in self._encoded(missing, wanted.offsets, cells, encode, batch):
                for kind in kinds:
                    values = _stored(getattr(found, kind), kind, some)
                    if kind not in put:
                        store = self._made(shard, kind, values.shape[1:])
                        need = len(lacking[kind]) * store.row_bytes
                        require_room(self.folder, need, "the feature store", "probe fewer clips")
                        put[kind] = files.enter_context(store.writing())
                    new = np.isin(some, lacking[kind])  # what is there keeps its bytes
                    put[kind](some[new].tolist(), values[new])
                report(f"encoded {len(some)} clips of shape {shard}")

    def missing(self, wanted: Clips, cells: bool) -> set[int]:
        """Return the rows of the clips of one shard that are not there yet."""
        kinds: tuple[Kind, ...] = ("vectors", "cells") if cells else ("vectors",)
        return set(self._missing(shard_name(wanted.offsets), kinds, np.unique(self.rows(wanted))))

    def _missing(
        self, shard: str, kinds: tuple[Kind, ...], rows: Int64[np.ndarray, " r"]
    ) -> list[int]:
        missing: set[int] = set()
        for kind in kinds:
            known = self._meta(shard, kind).exists()
            missing |= set(
                self._store(shard, kind).missing(rows.tolist()) if known else rows.tolist()
            )
        return sorted(missing)

    def _encoded(
        self,
        rows: Int64[np.ndarray, " r"],
        offsets: tuple[int, ...],
        cells: bool,
        encode: Encode,
        batch: int,
    ) -> Iterator[tuple[Int64[np.ndarray, " b"], Encoded]]:
        """Encode in the order of the frames."""
        episode = np.searchsorted(self.starts, rows, side="right") - 1
        clips = Clips(episode, rows - self.starts[episode], offsets)
        done = 0
        for video in read_video(self.whole, clips, self.camera, batch):
            yield rows[done : done + len(video)], encode(video, cells)
            done += len(video)

    def _meta(self, shard: str, kind: Kind) -> Path:
        return self.folder / shard / kind / "row.json"

    def _made(self, shard: str, kind: Kind, row: tuple[int, ...]) -> Store:
        """Open a file of rows for writing, its shape beside it; hold the lock of the shard."""
        meta = self._meta(shard, kind)
        if not meta.exists():
            meta.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(meta, json.dumps(list(row)))
        store = self._store(shard, kind)
        store.prepare()
        return store

    def _store(self, shard: str, kind: Kind) -> Store:
        """Open a file of rows that somebody has begun to write."""
        if (shard, kind) not in self._stores:
            meta = self._meta(shard, kind)
            row = tuple(json.loads(meta.read_text()))
            records = range(int(self.starts[-1]) + 1)  # each clip is one
            self._stores[shard, kind] = Store(
                meta.with_name("rows.bin"), row, ON_DISK[kind], records
            )
        return self._stores[shard, kind]

    @property
    def size_on_disk(self) -> int:
        """How many bytes the features take that are written."""
        files = self.folder.rglob("rows.bin")
        return sum(path.stat().st_blocks * 512 for path in files)


def shard_name(offsets: tuple[int, ...]) -> str:
    """Name the shape of a clip; its first offset is 0, the others may lie before it."""
    return "_".join(map(str, offsets))


def whole_clips(episodes: Episodes, clips: Clips) -> tuple[Episodes, Clips]:
    """Return the data set that holds some episodes, and the clips counted in it."""
    whole, keep = rooted(episodes)
    return whole, clips._replace(episode=keep[clips.episode])


def _stored(values: Tensor, kind: Kind, rows: Int64[np.ndarray, " b"]) -> np.ndarray:
    """Return the numbers as the file holds them."""
    with np.errstate(over="ignore"):  # what half precision cannot hold is found below
        stored = values.detach().float().cpu().numpy().astype(ON_DISK[kind])
    bad = ~np.isfinite(stored).reshape(len(stored), -1).all(1)
    if bad.any():
        raise NumericError(
            f"{bad.sum()} of {len(stored)} clips (the first begins at frame {rows[bad][0]}) have "
            f"{kind} that are not finite; look at the run that trained the encoder"
        )
    return stored
