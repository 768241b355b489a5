"""An array in a file that is written piece by piece, so that a kill loses seconds of work.

    FOLDER/NAME        rows of one shape and type; those that are not written take no space
    FOLDER/done.u64    one number per record, which is one row or several
    FOLDER/lock        held by the process that writes

A record's number is its checksum and a bit that says that there is one. It is written after the
record's rows have reached the disk, so a build that is killed goes on where it was; and it is
compared with them when a process first touches the record.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from crc32c import crc32c
from jaxtyping import Int64, Shaped

from saccade.checkpoint import write_atomic
from saccade.data.cache.build import DONE, MARK, Marker
from saccade.errors import DataError, SpaceError


class Store:
    """Rows on disk. Picklable: each process maps the file itself.

    Args:
        path: the file of rows; its folder holds nothing else than the three files.
        row: shape of a row.
        dtype: of the numbers, little-endian.
        starts: first row of each record, and last the number of rows.
    """

    def __init__(self, path: Path, row: tuple[int, ...], dtype: str, starts: Sequence[int]) -> None:
        self.path, self.done = path, path.with_name("done.u64")
        self.row, self.dtype, self.starts = row, np.dtype(dtype), starts
        self._opened: _Opened | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    @property
    def row_bytes(self) -> int:
        """How many bytes a row takes."""
        return prod(self.row) * self.dtype.itemsize

    @property
    def size_on_disk(self) -> int:
        """How many bytes the rows take that are written."""
        return self.path.stat().st_blocks * 512 if self.path.exists() else 0

    @property
    def intact(self) -> bool:
        """Whether both files are there and of the right sizes."""
        sizes = [p.stat().st_size if p.is_file() else -1 for p in (self.path, self.done)]
        return sizes == [self.starts[-1] * self.row_bytes, self._records * MARK.itemsize]

    def missing(self, wanted: Iterable[int]) -> list[int]:
        """List the records still to be written; all of them where a file has the wrong size."""
        if not self.intact:
            return list(wanted)
        marks = np.fromfile(self.done, MARK)
        return [record for record in wanted if not marks[record]]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock, waiting for it; the system frees it when a process dies."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name("lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def prepare(self) -> None:
        """Make empty files where they are missing or of the wrong size; hold the lock."""
        if not self.intact:
            write_atomic(self.done, bytes(self._records * MARK.itemsize))
            self.path.write_bytes(b"")
            os.truncate(self.path, self.starts[-1] * self.row_bytes)

    def marker(self) -> Marker:
        """Open what notes that records are written; hold the lock."""
        self._opened = None  # the marks that were read before will be old
        return Marker(self.path, self.done)

    @contextmanager
    def writing(self) -> Iterator[Callable[[Iterable[int], np.ndarray], None]]:
        """Give what writes rows, each a record of its own, and marks them; hold the lock."""
        with self.marker() as marker, self.path.open("r+b") as file:

            def put(rows: Iterable[int], found: np.ndarray) -> None:
                numbered = list(zip(rows, np.ascontiguousarray(found), strict=True))
                for row, values in numbered:
                    file.seek(row * self.row_bytes)
                    file.write(values.data)
                file.flush()  # before the marker brings it to the disk
                for row, values in numbered:
                    marker.mark(row, crc32c(values.data))

            yield put

    def read(self, rows: Int64[np.ndarray, " r"]) -> Shaped[np.ndarray, "r *row"]:
        """Copy rows of records that were checked."""
        return self._files.rows[rows]

    def refresh(self, records: Int64[np.ndarray, " r"]) -> None:
        """Read the marks anew if some of these records were not there yet when they were read."""
        if self._opened is not None and not self._opened.marks[records].all():
            self._opened = None

    def checked(self, record: int) -> bool:
        """Whether this process has compared a record with its checksum."""
        return bool(self._files.checked[record])

    def check(self, record: int, what: str) -> None:
        """Compare a record with its checksum; ``what`` it is goes into the message.

        Raises:
            DataError: it was changed after it was written.
        """
        rows = self._files.rows[self.starts[record] : self.starts[record + 1]]
        if int(self._files.marks[record]) != DONE | crc32c(rows.data):
            raise DataError(
                f"{what} in {self.path} have not the checksum with which they were written; "
                "delete that folder and run again"
            )
        self._files.checked[record] = True

    @property
    def _records(self) -> int:
        return len(self.starts) - 1

    @property
    def _files(self) -> "_Opened":
        if self._opened is None:
            if self.starts[-1]:
                rows = np.asarray(np.memmap(self.path, self.dtype, "r")).reshape(-1, *self.row)
            else:  # nothing cannot be mapped
                rows = np.empty((0, *self.row), self.dtype)
            marks = np.fromfile(self.done, MARK)
            self._opened = _Opened(rows, marks, np.zeros(len(marks), bool))
        return self._opened


class _Opened(NamedTuple):
    rows: np.ndarray
    marks: np.ndarray
    checked: np.ndarray  # bool, per record: compared with its checksum in this process


def require_room(folder: Path, need: int, what: str, remedy: str) -> None:
    """Refuse to begin what does not fit.

    Raises:
        SpaceError: fewer than ``need`` bytes are free in the folder, which exists.
    """
    free = shutil.disk_usage(folder).free
    if need > free:
        raise SpaceError(
            f"{what} needs {need / 1e9:.2f} GB in {folder}, {free / 1e9:.2f} GB are free; free "
            f"some space, choose another folder or {remedy}"
        )
