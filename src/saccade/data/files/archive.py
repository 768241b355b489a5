"""Unpacking what data sets come in: zip, and tar that may be compressed by gzip, bzip2 or xz.

An archive is not trusted: nothing in it is written outside the folder, through a link or over
something else of it, and it may not grow without limit.
"""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from saccade.checkpoint import space_for, sync_folder
from saccade.errors import DataError, SpaceError
from saccade.progress import progress

CHUNK = 1 << 20
RATIO, FREE = 200, 1 << 28  # an archive may hold so many times its size, and so many bytes anyway
HEADER = 1 << 22  # bytes of the longest header of a tar member
BLOCK = bytes(512)  # what a tar ends with
DECOMPRESS: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
FAULTS = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError,
    NotImplementedError, RuntimeError, ValueError, OverflowError, MemoryError,
)  # fmt: skip


class Member(NamedTuple):
    """A file in an archive; a zip says the checksum (CRC-32) of its content."""

    name: str
    size: int
    crc: int | None
    content: IO[bytes]


def extract(archive: Path, out: Path) -> int:
    """Unpack an archive into a new folder; return how many files there are.

    The folder appears when all is in it. A run that was ended is continued by the next: what is
    whole is not written again. Rights, owners and times of the files are not taken over.

    Raises:
        DataError: the archive is missing, damaged or cut off, a member is no plain file or folder
            or would be written outside or over another, it grows to more than ``RATIO`` times its
            size, or the folder exists and is not empty.
        SpaceError: the disk is full.
    """
    out = Path(os.path.abspath(out))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists already; remove it or give another folder")
    with _blamed(archive, ""), archive.open("rb") as file, space_for(out):
        size = os.fstat(file.fileno()).st_size
        known = hashlib.sha256(f"{archive.name}, {size}".encode()).hexdigest()[:8]
        place = out.parent / f".{out.name}.part-{known}"
        place.mkdir(parents=True, exist_ok=True)
        taken: dict[str, bool] = {}  # names, and whether each is a file
        with progress(f"unpacking {archive.name}", size, "bytes") as told:
            for member in _members(archive, file, size, taken):
                with _blamed(archive, member.name), space_for(out):
                    _place(member, place / member.name)
                told(min(file.tell(), size))
        if not taken:
            raise DataError(f"{archive} is empty; download it again")
        for name, is_file in taken.items():
            if not is_file:
                (place / name).mkdir(parents=True, exist_ok=True)
        _forget_others(place, taken)
        place.replace(out)
        sync_folder(out.parent)
    return sum(taken.values())


def _members(archive: Path, file: IO[bytes], size: int, taken: dict[str, bool]) -> Iterator[Member]:
    """Yield every file, in the order of the archive, after a check of all that is said of it."""
    with _blamed(archive, ""):
        magic = file.read(6)
        file.seek(0)
    if magic[:2] == b"PK":
        yield from _zipped(archive, file, size, taken)
        return
    for start, decompress in DECOMPRESS.items():
        if magic.startswith(start):
            with decompress(file) as plain:
                yield from _tarred(archive, plain, size, taken)
            return
    yield from _tarred(archive, file, size, taken)


def _zipped(archive: Path, file: IO[bytes], size: int, taken: dict[str, bool]) -> Iterator[Member]:
    with _blamed(archive, ""):
        opened = zipfile.ZipFile(file)
    with opened:
        infos = opened.infolist()
        _check_growth(archive, sum(info.file_size for info in infos), size)
        for info in infos:
            kind = stat.S_IFMT(info.external_attr >> 16)
            folder = info.is_dir()
            if kind not in (0, stat.S_IFDIR if folder else stat.S_IFREG):
                raise _refused(archive, info.orig_filename, "is no plain file or folder")
            name = _claimed(archive, info.orig_filename, not folder, taken)
            if not folder:
                with _blamed(archive, name):
                    content = opened.open(info)
                with content:
                    yield Member(name, info.file_size, info.CRC, content)


def _tarred(archive: Path, file: Any, size: int, taken: dict[str, bool]) -> Iterator[Member]:
    bounded: Any = _Bounded(archive, file, size)
    with _blamed(archive, ""):
        opened: Any = tarfile.TarFile(fileobj=bounded)
    while True:
        with _blamed(archive, next(reversed(taken), "")):
            info = opened.next()
        if info is None:
            break
        opened.members.clear()  # which grow with the archive
        if not (info.isfile() or info.isdir()) or info.issparse():
            raise _refused(archive, info.name, "is no plain file or folder")
        if info.isdir() and not PurePosixPath(info.name).parts:
            continue  # the folder itself, as `./`
        name = _claimed(archive, info.name, info.isfile(), taken)
        if info.isfile():
            content = opened.extractfile(info)
            assert content is not None
            yield Member(name, info.size, None, content)
    with _blamed(archive, next(reversed(taken), "")):
        if bounded.last != BLOCK:  # tarfile takes a damaged header for the end
            raise DataError("what follows it is no header of a member: it is cut off or damaged")
        while bounded.read(CHUNK):  # to the checksum of what was compressed
            pass


class _Bounded(io.RawIOBase):
    """What a tar is read from, in pieces of bounded size, up to a bounded end."""

    def __init__(self, archive: Path, file: Any, size: int) -> None:
        self.archive, self.file, self.size = archive, file, size
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= HEADER:
            raise DataError(f"{self.archive} has a header of {size} bytes; download it again")
        self.last = self.file.read(size)
        _check_growth(self.archive, self.file.tell(), self.size)
        return self.last

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def seekable(self) -> bool:
        return True


def _claimed(archive: Path, name: str, is_file: bool, taken: dict[str, bool]) -> str:
    """Return a member's name as a safe relative path, which no other file has or is below."""
    path = PurePosixPath(name)
    unsafe = path.is_absolute() or ".." in path.parts or not path.parts
    if unsafe or any(c in name for c in "\\\0") or name[1:2] == ":":
        raise _refused(archive, name, "would lie outside of the folder")
    parents = [str(parent) for parent in path.parents if parent.parts]
    short = str(path)
    over = short in taken and (is_file or taken[short])
    if over or any(taken.get(parent) for parent in parents):
        raise _refused(archive, name, "would lie over another member")
    taken.update(dict.fromkeys(parents, False))
    taken[short] = is_file
    return short


def _place(member: Member, path: Path) -> None:
    """Write a file whole, unless it is there already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if _is_whole(path, member):
        return
    part = path.with_name(f".{os.getpid()}.part")
    written, crc = 0, 0
    try:
        with part.open("wb") as file:
            while data := member.content.read(CHUNK):
                written, crc = written + len(data), zlib.crc32(data, crc)
                file.write(data)
        if written != member.size or member.crc not in (crc, None):
            raise DataError(f"it has {written} bytes and CRC {crc:08x}, not what is said of it")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _is_whole(path: Path, member: Member) -> bool:
    """Whether a file is as the checksum says; where there is none, as what is in the archive."""
    if not path.is_file() or path.stat().st_size != member.size:
        return False
    crc = 0
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            crc = zlib.crc32(data, crc)
            if member.crc is None and member.content.read(len(data)) != data:
                member.content.seek(0)
                return False
    return member.crc in (crc, None)


def _forget_others(place: Path, taken: dict[str, bool]) -> None:
    """Remove what is of no member: pieces that a run left when it was ended."""
    for folder, folders, files in os.walk(place, topdown=False):
        for name in (*folders, *files):
            path = Path(folder, name)
            if str(path.relative_to(place)) not in taken:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _check_growth(archive: Path, total: int, size: int) -> None:
    if total > RATIO * size + FREE:
        raise DataError(
            f"{archive} has {size} bytes and would grow to {total} or more, more than {RATIO} "
            "times its size; it is refused: unpack it by hand if you trust it"
        )


def _refused(archive: Path, name: str, why: str) -> DataError:
    return DataError(f"{archive} is refused: its member {name!r:.200} {why}; get it elsewhere")


@contextmanager
def _blamed(archive: Path, member: str) -> Iterator[None]:
    """Turn errors of a kind that damaged archives make into ours, with the member's name."""
    place = f"{archive}, {member}," if member else f"{archive}"
    try:
        yield
    except DataError as error:
        if str(archive) in str(error) or not member:
            raise
        raise DataError(f"{place} cannot be unpacked ({error}); download it again") from error
    except SpaceError:
        raise
    except FAULTS as error:
        raise DataError(f"{place} cannot be unpacked ({error}); download it again") from error
