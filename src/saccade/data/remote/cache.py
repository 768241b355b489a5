"""The local copies of remote files in one folder, and the room that they take.

    FOLDER/<aa>/<digest>-<file name>     a twin, and its record beside it: see ``remote_twin``
           lock                          held while twins are begun or deleted

Twins that no process has open are deleted, the longest unused first, when all together outgrow
their limit.
"""

import fcntl
import json
import os
import re
import shutil
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path

from saccade.checkpoint import write_atomic
from saccade.data.remote.transfer import Item
from saccade.data.remote.twin import BLOCK, ENTRY, HEAD, Twin, blocks_of
from saccade.errors import ConfigError, DataError, SpaceError

VERSION = 1
OPEN, RECENT = 16, 4  # twins kept open per process; those of them that are closed last
KEPT_FREE = 2**30  # bytes of the disk that are never filled


class Twins:
    """The twins in one folder, as one process sees them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lock, self.warned = folder, threading.RLock(), False
        self.open: OrderedDict[Path, Twin] = OrderedDict()
        self.known: OrderedDict[Path, tuple[int, bytes]] = OrderedDict()  # checked before
        self.allowed = 0  # bytes that may be fetched before the folder is measured again

    @contextmanager
    def using(self, label: str, item: Item) -> Iterator[Twin]:
        """Open or begin the twin of a file; it stays open while the block runs, and some longer.

        Raises:
            DataError: the cache folder cannot be written to.
        """
        path = _place(self.folder, label)
        with self.lock:
            twin = self.open.pop(path, None)
            if twin is None or twin.item != item or not (twin.intact() and twin.named()):
                with _writing(self.folder):
                    twin = self._opened(path, label, item)
            self.open[path] = twin
            twin.users += 1
            self._close(OPEN)
        try:
            yield twin
        finally:
            with self.lock:
                twin.users -= 1

    def drop(self, twin: Twin) -> None:
        """Delete a twin whose content is wrong."""
        with self.lock, _locked(self.folder / "lock"):
            self.open.pop(twin.path, None)
            self.known.pop(twin.path, None)
            if twin.named():
                _delete(twin.path)

    def make_room(self, twin: Twin, need: int) -> None:
        """Delete what has not been used for long, so that ``need`` more bytes may be fetched.

        Raises:
            SpaceError: that is not enough.
        """
        with self.lock:
            free = shutil.disk_usage(self.folder).free
            if need <= self.allowed and free - need >= KEPT_FREE:
                self.allowed -= need
                return
            limit = _limit()
            with _locked(self.folder / "lock"):
                used, free = self._shrink(limit, need, RECENT)
                if used + need > limit or free - need < KEPT_FREE:
                    used, free = self._shrink(limit, need, 1)
            own = _allocated(twin.path) + need
            if own > limit or free - need < KEPT_FREE:
                raise SpaceError(
                    f"no room for {need / 1e9:.2f} GB of {twin.label} in {self.folder}: "
                    f"{free / 1e9:.2f} GB are free, downloads may use {limit / 1e9:.2f} GB; raise "
                    "SACCADE_REMOTE_CACHE_GB or set SACCADE_CACHE to a larger disk"
                )
            if used + need > limit and not self.warned:
                self.warned = True
                warnings.warn(
                    f"the downloads in use need {(used + need) / 1e9:.2f} GB in {self.folder}, "
                    f"more than SACCADE_REMOTE_CACHE_GB ({limit / 1e9:.2f})",
                    stacklevel=2,
                )
            self.allowed = max(limit - used - need, 0) // 8

    def _opened(self, path: Path, label: str, item: Item) -> Twin:
        about = {"version": VERSION, "size": item.size, "block": BLOCK, "tag": item.tag}
        text = json.dumps(about | {"file": label})
        record = f"{sha256(text.encode()).hexdigest()} {text}".encode()[:HEAD].ljust(HEAD)
        blocks = -(-item.size // BLOCK)
        with _locked(self.folder / "lock"):
            if not _fits(path, record, item.size, HEAD + (blocks + 1) * ENTRY):
                _delete(path)
                write_atomic(blocks_of(path), record + bytes((blocks + 1) * ENTRY))
                path.write_bytes(b"")
                os.truncate(path, item.size)
            os.utime(blocks_of(path))  # used now
            return Twin(path, label, item, self.known.get(path, (0, b"")))

    def _close(self, keep: int) -> None:
        """Close the twins that were not used for longest."""
        for path, twin in list(self.open.items())[: max(len(self.open) - keep, 0)]:
            if not twin.users and twin.close():
                del self.open[path]
                self.known[path] = (twin.inode, bytes(twin.checked))
                while len(self.known) > 4096:
                    self.known.popitem(last=False)
                if blocks_of(path).is_file():
                    os.utime(blocks_of(path))

    def _shrink(self, limit: int, need: int, keep: int) -> tuple[int, int]:
        """Delete twins that nobody has open until there is room; return bytes used and free."""
        found = []
        for record in self.folder.glob("??/*.blocks"):
            path = _twin_of(record)
            found.append((record.stat().st_mtime_ns, path, _allocated(path)))
        used, free = sum(size for _, _, size in found), shutil.disk_usage(self.folder).free
        if used + need <= limit and free - need >= KEPT_FREE:
            return used, free
        self._close(keep)
        for _, path, size in sorted(found):
            if used + need <= 0.9 * limit and free - need >= KEPT_FREE:
                break
            if _unused(path):
                _delete(path)
                used, free = used - size, free + size
        return used, free


@cache
def twins(folder: Path) -> Twins:
    """Return this process's view of a folder of twins."""
    return Twins(folder)


os.register_at_fork(after_in_child=twins.cache_clear)  # locks may be held, maps are the parent's


@lru_cache(maxsize=2**16)
def _place(folder: Path, label: str) -> Path:
    digest = sha256(label.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    name = re.sub(r"[^\w.-]", "_", label.rpartition("/")[2], flags=re.ASCII)[-100:]
    return folder / digest[:2] / f"{digest}-{name}"


def _twin_of(record: Path) -> Path:
    return record.with_name(record.name.removesuffix(".blocks"))


def _fits(path: Path, head: bytes, size: int, length: int) -> bool:
    """Whether a twin is of that version and whole as a file."""
    try:
        record = blocks_of(path)
        if path.stat().st_size != size or record.stat().st_size != length:
            return False
        with record.open("rb") as file:
            return file.read(HEAD) == head
    except FileNotFoundError:
        return False


def _allocated(path: Path) -> int:
    """Return the bytes of the disk that a twin and its record take: it is sparse."""
    try:
        return sum(file.stat().st_blocks * 512 for file in (path, blocks_of(path)))
    except FileNotFoundError:
        return 0


def _unused(path: Path) -> bool:
    """Whether no process has a twin open."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False


def _delete(path: Path) -> None:
    blocks_of(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _limit() -> int:
    text = os.environ.get("SACCADE_REMOTE_CACHE_GB", "50")
    try:
        return int(float(text) * 1e9)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"SACCADE_REMOTE_CACHE_GB is {text!r}, expected a number") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of the folder, waiting for it."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # a child forked meanwhile has the file open, too


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Make the folder; say which setting moves it where it cannot be written to."""
    try:
        (folder / "aa").mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if isinstance(error, SpaceError):
            raise
        raise DataError(
            f"{folder} cannot keep downloads ({error}); set SACCADE_CACHE to a folder that can be "
            "written to"
        ) from error
