"""The records of an RLDS data set, one episode each, in the shards of a TFDS folder.

What is needed of every episode (its place, length and texts) is read once and kept in the index;
the rest is read when asked for. Formats with a meaning of their own build on this.
"""

import hashlib
import json
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, pairwise, repeat
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int, Shaped, UInt8
from torch import Tensor

from saccade.data.files.faults import OnError, Skipped
from saccade.data.files.folder import open_folder
from saccade.data.files.index import Scan, index
from saccade.data.rlds import tfrecord
from saccade.data.rlds.episode import Episode, Layout
from saccade.data.rlds.features import load_features
from saccade.data.rlds.shards import (
    FEATURES,
    INFO,
    VERSION,
    blamed,
    faults_of,
    find_shards,
    load_splits,
    locate,
    place_of,
)
from saccade.data.video.images import decode_images
from saccade.errors import DataError

T = TypeVar("T")

PARSED = 64  # records whose layout is remembered in a process


@dataclass(frozen=True, kw_only=True)
class RecordsOptions:
    """What every reader of RLDS may be told of its files.

    Args:
        root: the folder of a version, or the one above.
        splits: which, in this order; empty for all.
        version: like ``1.0.1``; empty for the highest.
        checksums: compare a record with its checksum when it is first read in a process.
        on_error: ``skip`` compares all records with their checksums when the data set is first
            opened and leaves out the broken ones (listed in ``skipped``), up to ``most_skipped``
            of all. After a damaged length the rest of a shard is lost.
        most_skipped: see there.
    """

    root: str | Path
    splits: tuple[str, ...] = ()
    version: str = ""
    checksums: bool = True
    on_error: OnError = "raise"
    most_skipped: float = 0.01


class Records:
    """The episodes of a TFDS folder by number: split by split, shard by shard.

    Picklable and thread-safe; what is kept open or in memory is bounded, but for the index.

    Args:
        options: where and which.
        scans: what to learn of each shard, without and with checks (see ``scan_shard``).
        keys: what there must be, with the numbers that each has in a step (0: no numbers).

    Raises:
        DataError: the folder is no such data set, or a shard is damaged.
    """

    def __init__(
        self,
        options: RecordsOptions,
        *,
        scans: tuple[Scan, Scan],
        keys: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.folder, self.checksums = open_folder(options.root), options.checksums
        self.place = locate(self.folder, options.version)
        self.features = load_features(self.folder, self.place + FEATURES)
        self._require(keys)
        known = load_splits(self.folder, self.place + INFO)
        absent = sorted(set(options.splits) - known.keys())
        if absent:
            raise DataError(f"{options.root} has no splits {absent}; it has {sorted(known)}")
        counts = {split: known[split] for split in options.splits or known}
        self.shards, expected = find_shards(self.folder, self.place, counts)
        skipped = Skipped(options.on_error, options.most_skipped)
        scan = scans[options.on_error == "skip"]
        found, _ = index(self.folder, self.shards, scan, VERSION)
        rows: list[tuple[int, int, int, int, int]] = []
        notes: list[str] = []
        self.tasks: list[str] = []
        for i, name in enumerate(self.shards):
            faults = faults_of(self.folder.label(name), found[name], expected[i])
            for number, fault in sorted(faults.items()):
                skipped.add(f"{name}, record {number}", fault)
            for number, start, length, steps, task, note in found[name]["records"]:
                if number not in faults:
                    rows.append((i, number, start, length, steps))
                    self.tasks.append(sys.intern(task))
                    notes.append(note)
        skipped.settle(len(rows) + len(skipped.found), "records")
        self.skipped = skipped.found
        self._rows = np.array(rows, np.int64).reshape(-1, 5)
        self._notes = pa.array(notes, pa.large_string())
        self.steps: list[int] = self._rows[:, 4].tolist()
        self._checked = bytearray(len(self))
        self._layouts: OrderedDict[int, Layout] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_checked": bytearray(len(self)), "_layouts": OrderedDict()}

    def _require(self, keys: Mapping[str, int]) -> None:
        root, advice = self.folder.root, "so it is another data set; read it as rlds"
        lacking = sorted(keys.keys() - self.features.keys())
        if lacking:
            raise DataError(f"{root} has no {lacking}, {advice}")
        for key, size in keys.items():
            feature = self.features[key]
            if size and (feature.kind not in ("number", "packed") or feature.size != size):
                raise DataError(
                    f"{root} has {feature.kind}s of shape {list(feature.shape or ())} as {key}, "
                    f"expected {size} numbers, {advice}"
                )

    def digest(self, options: str) -> str:
        """Digest names and sizes of the shards, what is known of the episodes, and options."""
        sizes = [(name, self.folder.size(name)) for name in self.shards]
        known = hashlib.sha256(self.folder.read(self.place + FEATURES))
        known.update(json.dumps([sizes, options]).encode())
        known.update(self._rows.tobytes())
        return known.hexdigest()[:16]

    def where(self, record: int) -> str:
        """Name the file and the record in it."""
        shard, number, start, *_ = self._rows[record].tolist()
        return place_of(self.folder.label(self.shards[shard]), number, start)

    def source(self, record: int) -> str:
        """Name the shard, relative to the data set, and the record in it."""
        shard, number, *_ = self._rows[record].tolist()
        return f"{self.shards[shard]}, record {number}"

    def note(self, record: int) -> dict[str, Any]:
        """Return what the index keeps: ``metadata``, ``texts`` (distinct ones by key), and more."""
        return json.loads(self._notes[record].as_py())

    def metadata(self, record: int) -> dict[str, Any]:
        """Return the small values of the whole episode, without ``episode_metadata/``."""
        return self.note(record)["metadata"]

    def numbers(self, record: int, key: str) -> Shaped[np.ndarray, "..."]:
        """Return the numbers of each step [t, *shape], or of the episode, as stored.

        Floats are float32, integers and truth values int64.
        """
        with self.episode(record, key, "number", "packed") as episode:
            return episode.numbers(key)

    def rows(self, record: int, keys: Sequence[str]) -> Float32[np.ndarray, "t d"]:
        """Return vectors of each step side by side.

        Raises:
            DataError: a key is missing, the record is damaged, or a number is not finite.
        """
        steps = self.steps[record]
        parts = [self.numbers(record, k).reshape(steps, self.features[k].size) for k in keys]
        rows = np.concatenate([np.empty((steps, 0)), *parts], 1, dtype=np.float32)
        for key, part in zip(keys, parts, strict=True):
            broken = np.flatnonzero(~np.isfinite(part).all(1))
            if len(broken):
                raise DataError(
                    f"{self.where(record)}, {key}: step {broken[0]} is {part[broken[0]]}, expected "
                    "finite numbers; leave the episode out"
                )
        return rows

    def texts(self, record: int, key: str) -> list[str]:
        """Return the text of each step."""
        with self.episode(record, key, "text") as episode:
            return episode.texts(key)

    def jpegs(
        self, record: int, key: str, steps: Int[np.ndarray, " t"] | None = None
    ) -> list[memoryview]:
        """Return pictures as they are stored (JPEG or PNG): views of the file."""
        with self.episode(record, key, "image") as episode:
            spans = episode.spans(key) if steps is None else episode.spans(key)[steps]
            return [memoryview(episode.data[a:b]) for a, b in spans.tolist()]

    def pictures(
        self, record: int, key: str, steps: Int[np.ndarray, " t"]
    ) -> UInt8[Tensor, "t 3 h w"]:
        """Decode pictures of some steps."""
        with self.episode(record, key, "image") as episode:
            spans = episode.spans(key)[steps].tolist()
            place = f"{self.where(record)}, {key}, step"
            video = decode_images(
                [memoryview(episode.data[a:b]) for a, b in spans],
                lambda i: f"{place} {steps[i]}",
            )
        shape = self.features[key].shape
        if shape and len(steps) and tuple(video.shape[2:]) != shape[:2]:
            raise DataError(
                f"{place} {steps[0]} has {video.shape[2]} x {video.shape[3]} pixels, features.json "
                f"says {shape[0]} x {shape[1]}; download both again"
            )
        return video

    @contextmanager
    def episode(self, record: int, key: str, *kinds: str) -> Iterator[Episode]:
        """Open a record, to read values of a key; afterwards its memory is let go of.

        Raises:
            DataError: there is no such key of these kinds, or the record is damaged.
        """
        feature = self.features.get(key)
        if feature is None or feature.kind not in kinds:
            found = sorted(k for k, f in self.features.items() if f.kind in kinds)
            reason = feature.why if feature and feature.why else "it is none"
            raise DataError(
                f"{self.folder.label(self.place)}: {key} cannot be read as {kinds[0]} ({reason}); "
                f"readable are {found}"
            )
        shard, number, start, length, steps = self._rows[record].tolist()
        name = self.shards[shard]
        with blamed(self.folder, name, number, start, length, key):
            if self.checksums and not self._checked[record]:
                if not tfrecord.intact(self.folder, name, start, length):
                    raise DataError("its data are damaged")
                self._checked[record] = 1
            data = self.folder.view(name, start, length)
            layout = self._layouts.pop(record, None)
            episode = Episode(data, self.features, layout, steps)
            self._layouts[record] = episode.layout
            while len(self._layouts) > PARSED:
                self._layouts.popitem(last=False)
            yield episode
            tfrecord.release(self.folder, data, start)

    def order(self, rank: int = 0, ranks: int = 1, cycle: int = 16, block: int = 16) -> list[int]:
        """Return the records in which ``cycle`` shards take turns, ``block`` records at a time.

        Of several ranks each has its own shards, or where those are too few, its own records.
        """
        bounds = np.searchsorted(self._rows[:, 0], np.arange(len(self.shards) + 1)).tolist()
        shards = list(pairwise(bounds))
        if len(shards) >= ranks:
            shards, rank, ranks = shards[rank::ranks], 0, 1
        turns = interleave([end - start for start, end in shards], cycle, block)
        return [shards[i][0] + j for i, j in turns][rank::ranks]

    def scan(
        self, work: Callable[[int], T], order: Sequence[int], threads: int = 2
    ) -> Generator[tuple[int, T], None, None]:
        """Yield each record of ``order`` with what ``work`` makes of it, reading ahead in threads.

        ``work`` calls our methods: reading, checksums and decoding run beside the interpreter.
        """
        with ThreadPoolExecutor(threads) as pool:
            try:
                ahead: list[tuple[int, Future[T]]] = []
                for record in order:
                    ahead.append((record, pool.submit(work, record)))
                    if len(ahead) > threads:
                        record, future = ahead.pop(0)
                        yield record, future.result()
                for record, future in ahead:
                    yield record, future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def interleave(counts: Sequence[int], cycle: int, block: int) -> Iterator[tuple[int, int]]:
    """Yield (list, item) in which up to ``cycle`` lists take turns, ``block`` items at a time.

    A list that ends is followed by the next one on its turn, as in tf.data's ``interleave``.
    """
    waiting = deque(range(len(counts)))
    slots: list[Iterator[tuple[int, int]] | None] = [None] * cycle
    while waiting or any(slots):
        for slot in range(cycle):
            if slots[slot] is None and waiting:
                number = waiting.popleft()
                count = counts[number]
                slots[slot] = zip(repeat(number, count), range(count), strict=True)
            turn = list(islice(slots[slot] or (), block))
            yield from turn
            if len(turn) < block:
                slots[slot] = None
