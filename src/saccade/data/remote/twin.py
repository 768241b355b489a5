"""The local copy of one remote file, made of the blocks that were needed so far.

    <digest>-<file name>           sparse, as long as the remote file: its twin
    <digest>-<file name>.blocks    which version it is of, and which blocks are there

A block counts as there once its bytes have reached the disk and its checksum is written down; the
checksum is compared when a process first uses the block. So a download that was killed goes on
where it was, and a damaged block is fetched again.
"""

import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from crc32c import crc32c
from jaxtyping import UInt32

from saccade.checkpoint import space_for
from saccade.data.remote.transfer import Address, Item, fetch
from saccade.errors import DataError
from saccade.progress import progress

BLOCK = 2**20  # bytes, the unit of what is there
PIECE = 8 * BLOCK  # bytes asked for in one request
PARALLEL = 8  # requests
SYNCED = 4  # blocks after which what arrived is secured
HEAD, ENTRY, ALL_BITS = 4096, 8, 0xFFFFFFFF  # bytes of the two parts of a .blocks file
VERIFIED = 0x600D600D  # the entry after the last block: the store's checksum was compared
LOUD = 64 * 2**20  # bytes from which a download shows its progress

Locate = Callable[[], Address]


class Twin:
    """One local copy, opened (or begun) by ``Twins``; ``path`` is a file of the full length."""

    file = -1

    def __init__(self, path: Path, label: str, item: Item, known: tuple[int, bytes]) -> None:
        self.path, self.label, self.item, self.users = path, label, item, 0
        self.blocks = -(-item.size // BLOCK)
        self.file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(self.file, fcntl.LOCK_SH)  # in use: nobody deletes it
        self.inode = os.fstat(self.file).st_ino
        self._verified = False
        size = item.size
        self.bytes = mmap.mmap(self.file, size, access=mmap.ACCESS_READ) if size else b""
        self.checked = bytearray(known[1] if known[0] == self.inode else bytes(self.blocks))

    def close(self) -> bool:
        """Close it, unless someone still looks at its bytes."""
        try:
            if isinstance(self.bytes, mmap.mmap):
                self.bytes.close()
        except BufferError:
            return False
        self.__del__()
        return True

    def __del__(self) -> None:
        """Give up the lock; views of the bytes stay good even if the file is deleted then."""
        file, self.file = self.file, -1
        if file >= 0:
            os.close(file)

    def missing(self, start: int, end: int) -> list[int]:
        """List the blocks of a span that are not there, or not what was written."""
        first, last = start // BLOCK, -(-end // BLOCK)
        if self.checked.find(0, first, last) < 0:
            return []
        table, lost = self._table(), []
        for block in range(first, last):
            if not self.checked[block]:
                crc, complement = table[block]
                span = slice(block * BLOCK, (block + 1) * BLOCK)
                there = crc ^ complement == ALL_BITS and crc32c(memoryview(self.bytes)[span]) == crc
                self.checked[block] = bool(there)
                if not there:
                    lost.append(block)
        return lost

    def intact(self) -> bool:
        """Whether the file is still as long as it must be (beyond its end lies a crash)."""
        return os.fstat(self.file).st_size == self.item.size

    def named(self) -> bool:
        """Whether its path still leads to it."""
        try:
            return self.path.stat().st_ino == self.inode and blocks_of(self.path).is_file()
        except OSError:
            return False

    def complete(self, span: tuple[int, int], locate: Locate, room: Callable[[int], None]) -> None:
        """Fetch what is missing of a span; of several processes, one fetches a block.

        Raises:
            DataError: it cannot be had.
            ChangedError: the remote file is another one by now.
            SpaceError: the disk is full.
        """
        lost = self.missing(*span)
        if not lost:
            return
        whole = (0, self.item.size)
        span = span if self.item.ranges else whole
        with blocks_of(self.path).open("r+b", buffering=0) as record, ExitStack() as stack:
            stack.enter_context(_range_locked(record, lost[0], lost[-1] + 1 - lost[0]))
            lost = self.missing(*span)
            pieces = self._pieces(lost) if self.item.ranges else [whole] * bool(lost)
            if not pieces:
                return
            need = sum(end - start for start, end in pieces)
            room(need)
            self._verified = False
            _write_at(record.fileno(), bytes(ENTRY), HEAD + self.blocks * ENTRY)
            sinks = [_Sink(self, record, start) for start, _ in pieces]
            told = nullcontext(None)
            if need >= LOUD:
                told = progress(f"downloading {self.label}", need // 10**6, "MB")
            work = partial(self._fetch, locate, _teller(stack.enter_context(told), sinks))
            with ThreadPoolExecutor(min(PARALLEL, len(pieces))) as pool:
                try:
                    list(pool.map(work, pieces, sinks))
                finally:
                    pool.shutdown(cancel_futures=True)
        lost = self.missing(*span)
        if lost:
            raise DataError(
                f"{self.label}: block {lost[0]} is damaged in {self.path} right after it was "
                "written; check the disk, or set SACCADE_CACHE to another one"
            )

    def verified(self) -> bool:
        """Whether the whole was once compared with the store's checksum."""
        if not self._verified:
            crc, complement = self._table()[-1]
            self._verified = bool(crc == VERIFIED and crc ^ complement == ALL_BITS)
        return self._verified

    def mark_verified(self) -> None:
        """Write down that it was."""
        with blocks_of(self.path).open("r+b", buffering=0) as record:
            _write_entry(record, self.blocks, VERIFIED)

    def _table(self) -> UInt32[np.ndarray, "_ 2"]:
        """Read checksum and complement of each block; zeros where there is none."""
        length = (self.blocks + 1) * ENTRY
        try:
            data = blocks_of(self.path).read_bytes()[HEAD:]
        except FileNotFoundError:
            data = b""
        data = data if len(data) == length else bytes(length)
        return np.frombuffer(data, "<u4").reshape(-1, 2)

    def _pieces(self, lost: list[int]) -> list[tuple[int, int]]:
        """Merge blocks into requests of bounded length."""
        pieces: list[tuple[int, int]] = []
        for block in lost:
            start, end = block * BLOCK, min((block + 1) * BLOCK, self.item.size)
            if pieces and pieces[-1][1] == start and end - pieces[-1][0] <= PIECE:
                start = pieces.pop()[0]
            pieces.append((start, end))
        return pieces

    def _fetch(
        self, locate: Locate, told: Callable[[], None], span: tuple[int, int], sink: "_Sink"
    ) -> None:
        def take(data: bytes) -> None:
            sink.take(data)
            told()

        try:
            fetch(locate, self.label, span, self.item, take)
        finally:
            sink.secure()


class _Sink:
    """Writes what arrives of one span, block by block."""

    def __init__(self, twin: Twin, record: BinaryIO, start: int) -> None:
        self.twin, self.record, self.block, self.got = twin, record, start // BLOCK, 0
        self.buffer, self.written = bytearray(), []

    def take(self, data: bytes) -> None:
        self.buffer += data
        self.got += len(data)
        while True:
            length = min(BLOCK, self.twin.item.size - self.block * BLOCK)
            if length <= 0 or len(self.buffer) < length:
                return
            data = bytes(self.buffer[:length])
            del self.buffer[:length]
            with space_for(self.twin.path):
                _write_at(self.twin.file, data, self.block * BLOCK)
            self.written.append((self.block, crc32c(data)))
            self.block += 1
            if len(self.written) == SYNCED:
                self.secure()

    def secure(self) -> None:
        """Wait until the disk has the blocks, then write down that they are there."""
        with space_for(self.twin.path):
            os.fdatasync(self.twin.file)
            for block, crc in self.written:
                _write_entry(self.record, block, crc)
        self.written.clear()


def _teller(told: Callable[[int], None] | None, sinks: list[_Sink]) -> Callable[[], None]:
    """Return what says how many megabytes have arrived."""
    return lambda: told(sum(sink.got for sink in sinks) // 10**6) if told else None


def blocks_of(path: Path) -> Path:
    """Return the record of a twin."""
    return path.with_name(f"{path.name}.blocks")


def _write_entry(record: BinaryIO, block: int, crc: int) -> None:
    _write_at(record.fileno(), struct.pack("<II", crc, crc ^ ALL_BITS), HEAD + block * ENTRY)


def _write_at(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(file, view, offset)
        view, offset = view[count:], offset + count


@contextmanager
def _range_locked(file: BinaryIO, first: int, count: int) -> Iterator[None]:
    """Hold a lock on some blocks; it excludes threads as well as processes (Linux)."""
    kinds = (fcntl.F_WRLCK, fcntl.F_UNLCK)
    take, free = (struct.pack("hhqqi4x", kind, os.SEEK_SET, first, count, 0) for kind in kinds)
    fcntl.fcntl(file, fcntl.F_OFD_SETLKW, take)
    try:
        yield
    finally:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, free)
