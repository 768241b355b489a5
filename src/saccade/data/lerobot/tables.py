"""Parquet files of a LeRobot data set: the numbers of episodes, and pictures beside them.

A data file holds one episode or thousands. Its row groups are loaded when an episode in them is
read; a few files stay open, and a bounded number of bytes in memory.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Float32, Float64, Int64

from saccade.data.files.folder import Folder
from saccade.errors import DataError

T = TypeVar("T")

STATE, ACTION = "observation.state", "action"
TIME = "recorded_time"  # ours: when a frame was exposed; ``timestamp`` is the frame number / fps
OPEN_FILES = 8
IN_MEMORY = 128 * 2**20  # bytes of row groups


@dataclass(frozen=True)
class Columns:
    """The numbers of some rows; ``first`` is the number of the first one in its file."""

    first: int
    timestamp: Float64[np.ndarray, " n"]
    state: Float32[np.ndarray, "n s"]
    action: Float32[np.ndarray, "n a"]

    def rows(self, start: int, count: int) -> "Columns":
        """Return some of them, by their numbers in the file."""
        part = slice(start - self.first, start - self.first + count)
        return Columns(start, self.timestamp[part], self.state[part], self.action[part])


@dataclass(frozen=True)
class Table:
    """An open data file: where its row groups end, first row and length of each episode in it."""

    file: pq.ParquetFile
    label: str
    ends: Int64[np.ndarray, " g"]
    spans: dict[int, tuple[int, int]]


class Tables:
    """The data files of one data set, for one process.

    Args:
        folder: where they are.
        state: width of the states.
        action: width of the actions.
    """

    def __init__(self, folder: Folder, state: int, action: int) -> None:
        self.folder, self.widths = folder, {STATE: state, ACTION: action}
        self.process, self._lock = os.getpid(), Lock()
        self._open: OrderedDict[str, Table] = OrderedDict()
        self._loaded: OrderedDict[Hashable, Any] = OrderedDict()
        self._bytes: dict[Hashable, int] = {}

    def numbers(self, name: str, index: int, length: int) -> Columns:
        """Return the rows of one episode.

        Raises:
            DataError: the file is missing or damaged, a value is missing or not finite, or rows
                are lost or out of order.
        """
        if not length:
            state, action = (np.zeros((0, width), np.float32) for width in self.widths.values())
            return Columns(0, np.zeros(0), state, action)
        with self._lock:
            table = self._table(name)
            first = self._first(table, index, length)
            low, high = np.searchsorted(table.ends, (first, first + length - 1), "right").tolist()
            load = partial(self._columns, table, list(range(low, high + 1)))
            return self._kept((name, low, high), load).rows(first, length)

    def pictures(
        self, name: str, key: str, index: int, length: int, frames: Int64[np.ndarray, " t"]
    ) -> list[bytes]:
        """Return embedded pictures as they are stored.

        Raises:
            DataError: the file or the column is missing or damaged, or a cell has no picture.
        """
        with self._lock:
            table = self._table(name)
            rows = self._first(table, index, length) + frames
            starts = np.concatenate([[0], table.ends])
            found = []
            for row in rows.tolist():
                group = int(np.searchsorted(table.ends, row, "right"))
                cells = self._kept((name, key, group), partial(self._pictures, table, key, group))
                cell = cells[row - int(starts[group])].as_py()
                if not cell:
                    raise DataError(
                        f"{table.label}, row {row}, {key}: there is no picture in it (a path to a "
                        "file is not followed); convert the data set again"
                    )
                found.append(cell)
        return found

    def _table(self, name: str) -> Table:
        if name not in self._open:
            while len(self._open) >= OPEN_FILES:
                self._open.popitem(last=False)[1].file.close()
            self._open[name] = self._opened(name)
        self._open.move_to_end(name)
        return self._open[name]

    def _opened(self, name: str) -> Table:
        path, label = self.folder.path(name), self.folder.label(name)
        with reading(label):
            file = pq.ParquetFile(path, page_checksum_verification=True)
            sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
        numbers = _read(file, None, ["episode_index", "frame_index"], label)
        episode, frame = (
            _matrix(numbers, column, 1, label)[:, 0] for column in numbers.schema.names
        )
        indices, first, count = np.unique(episode, return_index=True, return_counts=True)
        expected = np.arange(len(frame)) - np.repeat(first, count)
        if np.any(np.diff(episode) < 0) or not np.array_equal(frame, expected):
            file.close()
            raise DataError(f"{label} has rows out of order or lost; download or convert it again")
        spans = zip(first.tolist(), count.tolist(), strict=True)
        by_index = dict(zip(indices.astype(int).tolist(), spans, strict=True))
        return Table(file, label, np.cumsum(sizes, dtype=np.int64), by_index)

    def _first(self, table: Table, index: int, length: int) -> int:
        first, count = table.spans.get(index, (0, 0))
        if count != length:
            raise DataError(
                f"{table.label} has {count} rows of episode {index}, its metadata say {length}; "
                "download or convert the data set again"
            )
        return first

    def _columns(self, table: Table, groups: list[int]) -> Columns:
        time = TIME if TIME in table.file.schema_arrow.names else "timestamp"
        names = [time, *(key for key, width in self.widths.items() if width)]
        rows = _read(table.file, groups, names, table.label)
        first = int(table.ends[groups[0] - 1]) if groups[0] else 0
        state, action = (
            _matrix(rows, key, width, table.label).astype(np.float32)
            for key, width in self.widths.items()
        )
        return Columns(first, _matrix(rows, time, 1, table.label)[:, 0], state, action)

    def _pictures(self, table: Table, key: str, group: int) -> pa.Array:
        cells = _read(table.file, [group], [key], table.label)[key].combine_chunks()
        if not pa.types.is_struct(cells.type) or cells.type.get_field_index("bytes") < 0:
            raise DataError(
                f"{table.label}, column {key} is {cells.type}, expected struct<bytes, path>; "
                "convert the data set again"
            )
        return cells.field("bytes")

    def _kept(self, key: Hashable, load: Callable[[], T]) -> T:
        """Return what was loaded before, or load it and forget what was not used for longest."""
        if key not in self._loaded:
            value: Any = load()
            arrays = vars(value).values() if isinstance(value, Columns) else (value,)
            self._bytes[key] = sum(getattr(array, "nbytes", 0) for array in arrays)
            self._loaded[key] = value
            while len(self._loaded) > 1 and sum(self._bytes.values()) > IN_MEMORY:
                del self._bytes[self._loaded.popitem(last=False)[0]]
        self._loaded.move_to_end(key)
        return self._loaded[key]


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Load a parquet file, or some of its columns.

    Raises:
        DataError: the file or a column is missing, or a checksum or the structure is wrong.
    """
    with reading(str(path)), pq.ParquetFile(path, page_checksum_verification=True) as file:
        return _read(file, None, columns, str(path))


def column_names(path: Path) -> list[str]:
    """Return the columns of a parquet file.

    Raises:
        DataError: the file is missing or damaged.
    """
    with reading(str(path)):
        return pq.read_schema(path).names


def _read(
    file: pq.ParquetFile, groups: list[int] | None, columns: Sequence[str] | None, label: str
) -> pa.Table:
    """Load columns of some row groups, or of all."""
    with reading(label):
        absent = set(columns or ()) - set(file.schema_arrow.names)
        if absent:
            raise DataError(f"{label} has no columns {sorted(absent)}; convert it again")
        names = None if columns is None else list(columns)
        if groups is None:
            return file.read(names, use_threads=False)
        return file.read_row_groups(groups, names, use_threads=False)


def _matrix(table: pa.Table, name: str, width: int, label: str) -> Float[np.ndarray, "n w"]:
    """Convert a column of numbers or (nested) lists to a matrix."""
    if not width:
        return np.zeros((len(table), 0))
    flat = table[name].combine_chunks()
    while pa.types.is_list(flat.type) or pa.types.is_fixed_size_list(flat.type):
        flat = flat.flatten()
    if not (pa.types.is_integer(flat.type) or pa.types.is_floating(flat.type)):
        raise DataError(
            f"{label}, column {name} is {flat.type}, expected numbers; convert it again"
        )
    values = flat.to_numpy(zero_copy_only=False).astype(np.float64)
    if len(values) != len(table) * width or not np.isfinite(values).all():
        raise DataError(
            f"{label}, column {name}: {len(values)} numbers ({np.isfinite(values).sum()} finite) "
            f"in {len(table)} rows of {width}; mend or convert the data set"
        )
    return values.reshape(-1, width)


@contextmanager
def reading(label: str) -> Iterator[None]:
    """Turn errors of Arrow into ours, with the file's name."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: names that are no text
        if isinstance(error, DataError):
            raise
        reason = " ".join(str(error).split())
        raise DataError(f"{label} cannot be read ({reason:.160}); download it again") from error
