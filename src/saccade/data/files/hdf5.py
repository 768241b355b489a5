"""HDF5 files of a data set: opened once per process, read at random, never trusted.

What makes it fast: data sets are looked up once (the path costs ten times the data), and those
that are stored in one piece, as LIBERO's are, are read from the file without HDF5. What makes it
safe: only numbers inside the file are read, all of which were written; memory does not grow.

https://support.hdfgroup.org/documentation/hdf5/latest/ and https://docs.h5py.org
"""

import atexit
import io
import math
import os
import resource
import threading
from collections import OrderedDict, deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakSet

import h5py
import numpy as np
from h5py import h5o  # pyright: ignore[reportAttributeAccessIssue]
from jaxtyping import Int, Shaped

from saccade.data.files.folder import Folder, natural
from saccade.data.files.hdf5_checks import (
    LARGEST,
    check_heap,
    check_texts,
    check_unlocked,
    check_written,
)
from saccade.errors import DataError

OPEN_FILES = 64  # kept per process, fewer where little may be open
OPEN_HANDLES = 8  # of the HDF5 library with their caches, kept per process
SPAN = 1 << 16  # bytes: scattered rows within so many are read at once
MOST_CHUNK = 1 << 28  # bytes that are decompressed to read one row
MOST_LINKS = 8  # soft links on the way to one data set
KINDS = "biuf"  # of numbers

MENDS = {  # what HDF5 says of a broken file, and what helps
    "truncated file": "it is cut off: download it again",
    "file signature not found": "it is no HDF5 file: download it again",
    "unable to find the file signature": "it is no HDF5 file: download it again",
    "already open for write": "its writer was killed or still writes: record or download it again",
    "bad object header": "its writer was killed or still writes: record or download it again",
    "required filter": "its compression is not installed here: rewrite it with h5repack -f GZIP=4",
    "plugin": "its compression is not installed here: rewrite it with h5repack -f GZIP=4",
}

FAILURES = (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError, OverflowError)

# The library, and h5py's own lock, crash or hang where several threads use them at once
# (https://github.com/h5py/h5py/issues/2920), or where a process forks while another thread does.
LOCK = threading.RLock()
os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release)


class Column:
    """A data set of numbers: ``shape``, ``dtype``, and rows (along its first axis).

    Raises:
        DataError: it is no array of numbers, lies in another file, or was never written.
    """

    def __init__(self, data: h5py.Dataset, source: "_Bytes", label: str) -> None:
        self.shape: tuple[int, ...] = tuple(data.shape or ())
        self.dtype, self.label = data.dtype, label
        if data.shape is None or data.dtype.kind not in KINDS or data.dtype.subdtype:
            raise DataError(f"{label} holds {data.dtype}, expected numbers; read another key")
        if data.is_virtual or data.id.get_create_plist().get_external_count():
            raise DataError(f"{label} lies in another file; rewrite it with h5repack")
        chunk = math.prod(data.chunks or ()) * self.dtype.itemsize
        if chunk > MOST_CHUNK:
            raise DataError(
                f"{label} has chunks of {chunk} bytes, at most {MOST_CHUNK} are read at once; "
                "rewrite it with h5repack"
            )
        check_written(data, label)
        self._row = self.dtype.itemsize * math.prod(self.shape[1:])
        self._source, self._offset = source, _offset(data)
        self._data = None if self.plain else data  # which would keep HDF5's handle
        if self._offset is not None and self._offset + data.nbytes > source.size:
            end = self._offset + data.nbytes
            raise OSError(f"it ends at byte {end}, its file at {source.size}")

    @property
    def plain(self) -> bool:
        """Whether the numbers lie in one piece and as they are, so that they are read fastest."""
        return self._offset is not None

    def rows(self, frames: Int[np.ndarray, " t"]) -> Shaped[np.ndarray, "t ..."]:
        """Read rows in the order given; they may repeat.

        Raises:
            DataError: there are no such rows, or they cannot be read.
        """
        if not len(frames):
            return np.empty((0, *self.shape[1:]), self.dtype)
        first, last = int(frames.min()), int(frames.max())
        count = self.shape[0] if self.shape else 0
        if not 0 <= first <= last < count:
            raise DataError(
                f"{self.label} has {count} rows, needed are {first} to {last}; it is cut off: "
                "download it again"
            )
        with reading(self.label):
            if (last + 1 - first) * self._row <= SPAN:
                return self._run(first, last + 1)[frames - first]
            wanted, places = np.unique(frames, return_inverse=True)
            runs = np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1)
            rows = [self._run(int(run[0]), int(run[-1]) + 1) for run in runs]
            return np.concatenate(rows)[places]

    def _run(self, start: int, stop: int) -> Shaped[np.ndarray, "t ..."]:
        if self._data is not None:
            with LOCK:
                return self._data[start:stop]
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        self.fill(out, start)
        return out

    def fill(self, out: Shaped[np.ndarray, "..."], start: int) -> None:
        """Fill an array with rows of a plain column from ``start`` on; they must be there.

        Raises:
            DataError: they cannot be read.
        """
        assert self._offset is not None
        try:
            lack = out.nbytes - self._source.read_at(self._offset + start * self._row, out)
            if lack:
                raise OSError(f"the file was cut off while it was read, {lack} bytes lack")
        except OSError as error:
            raise unreadable(self.label, error) from error


class Hdf5Files:
    """The HDF5 files of a folder. Picklable; may be used by threads and by forked processes.

    Every method raises a ``DataError`` that names the file, and the key or the fault.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most_files = max(1, min(OPEN_FILES, limit // 8))
        self._process, self._files = os.getpid(), OrderedDict[str, _File]()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": OrderedDict()}

    def dataset(self, name: str, key: str) -> Column:
        """Find a data set of numbers."""
        with LOCK:
            file = self._file(name)
            found = file.columns.get(key)
            if found is None:
                label = f"{file.label}: {key}"
                with reading(label):
                    data = self._find(file, key)
                    if not isinstance(data, h5py.Dataset):
                        raise DataError(f"{label} is a group of {_some(data)}, expected numbers")
                    found = file.columns[key] = Column(data, file.bytes, label)
        return found

    def rows(
        self, name: str, key: str, frames: Int[np.ndarray, " t"]
    ) -> Shaped[np.ndarray, "t ..."]:
        """Read rows of a data set in the order given; they may repeat."""
        return self.dataset(name, key).rows(frames)

    def keys(self, name: str, group: str = "") -> list[str]:
        """List what is in a group, numbers in names sorted by their value."""
        with LOCK, reading(f"{self.folder.label(name)}: {group or '/'}"):
            found = self._find(self._file(name), group)
            if not isinstance(found, h5py.Group):
                raise OSError("it is a data set, expected a group")
            return sorted(found, key=natural)

    def attrs(self, name: str, key: str = "", only: Collection[str] = ()) -> dict[str, Any]:
        """Return the attributes of a group or data set as plain values; ``only`` some, if there."""
        with LOCK, reading(f"{self.folder.label(name)}: attributes of {key or '/'}"):
            file = self._file(name)
            place = self._find(file, key)
            found = place.attrs
            names = [each for each in found if not only or each in only]
            address = place.file.userblock_size + h5o.get_info(place.id).addr
            check_texts(file.bytes.part, address, place.file.userblock_size)
            for each in names:
                stored = found.get_id(each)
                points = stored.get_space().get_simple_extent_npoints()
                size = points * stored.get_type().get_size()
                if size > LARGEST:
                    raise OSError(f"{each} claims to have {size} bytes, {LARGEST} are allowed")
            return {each: _plain(found[each]) for each in names}

    def _file(self, name: str) -> "_File":
        if self._process != os.getpid():  # forked: leave the other process its handles
            self._process, self._files = os.getpid(), OrderedDict()
        file = self._files.pop(name, None) or _File(self.folder, name)
        self._files[name] = file
        while len(self._files) > self._most_files:
            self._files.popitem(last=False)  # closed when its last reader is done
        return file

    def _find(self, file: "_File", key: str) -> h5py.Group | h5py.Dataset:
        handle = file.handle()
        opened = [each for each in list(self._files.values()) if each.is_open() and each != file]
        for each in opened[: max(0, len(opened) + 1 - OPEN_HANDLES)]:
            each.close_handle()
        return find(handle, key, file.label)


class _Bytes(io.RawIOBase):
    """A file on disk, for us and for HDF5, to which it is no path.

    So HDF5 takes no lock, which fails on some network disks, and nobody else in this process
    who opens the same file, or writes another in its place, gets into our way. It is read and
    not mapped: pages of a map count as memory of the process, and a file that is cut off
    meanwhile would end it.
    """

    def __init__(self, path: Path, label: str) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size, self._position = os.fstat(self.number).st_size, 0
        check_unlocked(self.number, label)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._position = (0, self._position, self.size)[whence] + offset
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        if not 0 <= self._position < self.size:  # where a damaged file points to
            return 0
        got = self.read_at(self._position, buffer)
        self._position += got
        if bytes(buffer[:4]) == b"GCOL":
            check_heap(bytes(buffer[:got]))
        return got

    def part(self, position: int, length: int) -> bytes:
        """Return some bytes, fewer where the file ends before."""
        return os.pread(self.number, length, position)

    def read_at(self, position: int, buffer: Any) -> int:
        """Fill a buffer; return how many bytes of it the file has."""
        got = total = os.preadv(self.number, [buffer], position)
        while got and total < buffer.nbytes:  # the kernel may return less than asked
            left = memoryview(buffer).cast("B")[total:]
            got = os.preadv(self.number, [left], position + total)
            total += got
        return total


class _File:
    """One file: its columns, and a handle of the HDF5 library while more are looked up."""

    def __init__(self, folder: Folder, name: str) -> None:
        self.label = folder.label(name)
        self.columns: dict[str, Column] = {}
        self._handle: h5py.File | None = None
        path = folder.path(name)
        with reading(self.label):
            self.bytes = _Bytes(path, self.label)

    def handle(self) -> h5py.File:
        """Open the file with HDF5, if it is not."""
        if self._handle is None:
            with reading(self.label):
                handle = h5py.File(self.bytes, "r", rdcc_nbytes=0)  # reads are random
                if handle.id.get_create_plist().get_sizes() != (8, 8):
                    raise OSError("its offsets have not 8 bytes, rewrite it with h5py")
                self._handle = handle
                _OPEN.add(self)
        return self._handle

    def is_open(self) -> bool:
        """Whether HDF5 holds it."""
        return self._handle is not None

    def close_handle(self) -> None:
        """Let HDF5 go; columns that it reads are looked up again."""
        self._handle = None
        stay = {key: each for key, each in self.columns.items() if each.plain}
        self.columns = stay


_OPEN: WeakSet[_File] = WeakSet()


@atexit.register
def _close_all() -> None:
    """Close what is open before Python ends: the library would call it for that when it is gone."""
    for file in list(_OPEN):
        if file.is_open():
            file.handle().close()


def find(file: h5py.File, key: str, label: str) -> h5py.Group | h5py.Dataset:
    """Go down to a group or data set, by links that stay in the file.

    Raises:
        DataError: there is none, or a link leaves the file or runs in circles.
    """
    place: Any = file["/"]
    parts, links = deque(key.split("/")), 0
    while parts:
        part = parts.popleft()
        if part in ("", "."):
            continue
        link = place.get(part, getlink=True) if isinstance(place, h5py.Group) else None
        if isinstance(link, h5py.SoftLink) and links < MOST_LINKS:
            links += 1
            place = file["/"] if link.path.startswith("/") else place
            parts.extendleft(reversed(link.path.split("/")))
        elif isinstance(link, h5py.HardLink):
            place = place[part]
        elif link is None:
            above = place.name if isinstance(place, h5py.Group) else f"the data set {place.name}"
            raise DataError(
                f"{label}: there is no {key}, {above} has {_some(place)}; download "
                "it again or read another key"
            )
        else:
            raise DataError(
                f"{label}: {key} is a link that leaves the file or runs in circles; "
                "store the data themselves"
            )
    return place


@contextmanager
def reading(label: str) -> Iterator[None]:
    """Turn errors of HDF5 into ours; ``label`` names file and key."""
    try:
        yield
    except DataError:
        raise
    except FAILURES as error:
        raise unreadable(label, error) from error


def unreadable(label: str, error: Exception) -> DataError:
    """Say what HDF5 could not read, and what helps."""
    reason = " ".join(str(error).split())
    mend = next((mend for sign, mend in MENDS.items() if sign in reason), "download it again")
    return DataError(f"{label} cannot be read ({reason:.160}); {mend}")


def _offset(data: h5py.Dataset) -> int | None:
    """Return where in the file the numbers lie, if they do so in one piece and as they are."""
    stored = data.id.get_create_plist()
    same = data.id.get_type() == h5py.h5t.py_create(data.dtype)
    if data.size and same and stored.get_layout() == h5py.h5d.CONTIGUOUS:
        return data.id.get_offset()
    return None


def _some(place: h5py.Group | h5py.Dataset) -> list[str]:
    """List the first names in a group, for messages."""
    names = sorted(place, key=natural) if isinstance(place, h5py.Group) else []
    return names[:10] + ["..."] * (len(names) > 10)


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return None if isinstance(value, h5py.Empty) else value
