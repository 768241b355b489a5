"""The files of a data set by their names, wherever they lie.

A reader asks a ``Folder`` for names, small files, local copies and views of parts, and never
learns whether the data set is on disk or in a bucket. A data set on disk is read in place.
"""

import mmap
import os
import re
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from saccade.errors import DataError

OPEN_FILES = 16  # memory maps kept per process
UNFINISHED = (".part", ".partial", ".tmp", ".gstmp", ".crdownload")  # of downloads under way


class Folder:
    """A folder on disk. Names are relative and use ``/``; hidden and unfinished files are not seen.

    Picklable; each process opens files itself and keeps a bounded number of them open.

    Raises:
        DataError: there is no such folder.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = str(root)
        self._maps: OrderedDict[str, mmap.mmap] = OrderedDict()
        if not Path(root).is_dir():
            found = "it is a file" if Path(root).is_file() else "nothing is there"
            raise DataError(f"{root} is no folder ({found}); give the folder of a data set")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": OrderedDict()}

    def children(self, under: str = "") -> list[str]:
        """List the names directly under a folder (without its name), folders with a final ``/``."""
        place = Path(self.root, under)
        if not place.is_dir():
            return []
        try:
            with os.scandir(place) as entries:
                names = [entry.name + "/" * entry.is_dir() for entry in entries]
        except OSError as error:
            raise self._lost(under, error) from error
        return sorted(filter(visible, names), key=natural)

    def names(self, under: str = "", suffix: str = "") -> list[str]:
        """List every file below a folder, in natural order (im_2 before im_10)."""
        return [name for name in self._walk(under) if name.endswith(suffix)]

    def __contains__(self, name: str) -> bool:
        """Whether there is such a file."""
        return Path(self.root, name).is_file()

    def size(self, name: str) -> int:
        """Return the size of a file in bytes.

        Raises:
            DataError: there is no such file.
        """
        return self._stat(name).st_size

    def stamp(self, name: str) -> str:
        """Return what changes when a file is replaced or written to."""
        found = self._stat(name)
        return f"{found.st_size}-{found.st_mtime_ns}"

    def read(self, name: str) -> bytes:
        """Return a small file whole."""
        try:
            return Path(self.root, name).read_bytes()
        except OSError as error:
            raise self._lost(name, error) from error

    def path(self, name: str) -> Path:
        """Return the path of a local copy of a file: on disk, the file itself.

        Raises:
            DataError: there is no such file, or it cannot be fetched whole.
        """
        self._stat(name)
        return Path(self.root, name)

    def view(self, name: str, start: int, length: int) -> memoryview:
        """Return some bytes of a file without copying them.

        Raises:
            DataError: there is no such file, or it ends before.
        """
        # Threads may come here at once: each step is one that the interpreter does not interrupt.
        mapped = self._maps.pop(name, None) or self._map(self.path(name), name)
        self._maps[name] = mapped
        while len(self._maps) > OPEN_FILES:
            self._maps.popitem(last=False)  # closed when the last view of it is gone
        if not 0 <= start <= start + length <= len(mapped):
            raise DataError(
                f"{self.label(name)} ends at {len(mapped)} bytes, needed are {start} to "
                f"{start + length}; it is cut off: download it again"
            )
        return memoryview(mapped)[start : start + length]

    def label(self, name: str) -> str:
        """Return the full name of a file, for messages."""
        return os.path.join(self.root, name)

    def _walk(self, under: str, above: tuple[Any, ...] = ()) -> Iterator[str]:
        """Yield the files below a folder; a link to a folder above it is not followed."""
        place = self._identity(under)
        for child in () if place in above else self.children(under):
            name = str(PurePosixPath(under, child))
            if child.endswith("/"):
                yield from self._walk(name, (*above, place))
            else:
                yield name

    def _identity(self, under: str) -> Any:
        """Return what two names of one folder share."""
        try:
            found = os.stat(os.path.join(self.root, under))
            return found.st_dev, found.st_ino
        except OSError:
            return under

    def _stat(self, name: str) -> os.stat_result:
        try:
            return os.stat(os.path.join(self.root, name))
        except OSError as error:
            raise self._lost(name, error) from error

    def _map(self, path: Path, name: str) -> mmap.mmap:
        try:
            with path.open("rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise self._lost(name, error) from error

    def _lost(self, name: str, error: Exception) -> DataError:
        return DataError(f"{self.label(name)} cannot be read ({error}); download it again")


def open_folder(root: str | Path) -> Folder:
    """Open a folder on disk, or in a bucket where ``root`` is like ``gs://bucket/folder``."""
    if re.match(r"[a-z0-9+.-]+://", str(root)):
        from saccade.data.remote.folder import RemoteFolder  # needs the extra `remote`

        return RemoteFolder(str(root))
    return Folder(root)


def visible(name: str) -> bool:
    """Whether a file is neither hidden nor a download under way."""
    return not name.startswith(".") and not name.rstrip("/").endswith(UNFINISHED)


def natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts numbers in names by their value."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]
