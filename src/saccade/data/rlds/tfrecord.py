"""TFRecord files and the ``tf.train.Example`` messages in them, without TensorFlow.

    file     record after record, no header, no footer
    record   uint64 length | crc of the length | payload | crc of the payload  (little endian)
    payload  Example {1: Features {1: map entry {1: key, 2: Feature {1 bytes | 2 float | 3 int64}}}}

Checksums are CRC-32C, rotated and shifted ("masked"). A message is parsed into the places of its
values; what is not asked for is never touched.
https://www.tensorflow.org/tutorials/load_data/tfrecord and
https://protobuf.dev/programming-guides/encoding
"""

import mmap
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from crc32c import crc32c
from jaxtyping import Float32, Int64, UInt8

from saccade.data.files.folder import Folder
from saccade.errors import DataError

HEADER, FOOTER = struct.Struct("<QI"), struct.Struct("<I")
OVERHEAD = HEADER.size + FOOTER.size
PIECE = 1 << 20  # bytes summed up at once: bounds what is resident of a large record
UNSET, BYTES, FLOATS, INTS = range(4)  # kinds of a Feature, by field number
MOST_KEYS = 10_000  # of one message; more is no episode
MOST_VALUES = 1_000_000  # of one list, where each is a field of its own: 18 hours at 15 Hz
COMPRESSED = {b"\x1f\x8b": "GZIP", b"\x78\x01": "ZLIB", b"\x78\x9c": "ZLIB", b"\x78\xda": "ZLIB"}


class Values(NamedTuple):
    """Where the values of one key are: the kind of the list, and the places of its parts."""

    kind: int
    parts: tuple[tuple[int, int], ...]  # start and end of list messages; nearly always one


def masked_crc(data: memoryview | bytes) -> int:
    """Return the checksum that a record stores of its bytes."""
    return _mask(crc32c(data))


def records(folder: Folder, name: str) -> Iterator[tuple[int, int]]:
    """Yield start and length of each payload, by jumping from header to header.

    Raises:
        DataError: a length fails its checksum, or the file ends inside a record. What follows in
            the file cannot be found; the records yielded before are intact in this respect.
    """
    at, size, number = 0, folder.size(name), 0
    while at < size:
        place = f"{folder.label(name)}: record {number} at byte {at}"
        if at + OVERHEAD > size:
            raise DataError(f"{place} is cut off after {size - at} bytes; download the file again")
        header = bytes(folder.view(name, at, HEADER.size))
        length, crc = HEADER.unpack(header)
        if masked_crc(header[:8]) != crc:
            packed = COMPRESSED.get(header[:2]) if at == 0 else None
            if packed:
                raise DataError(
                    f"{folder.label(name)} is compressed as a whole ({packed}), which has no "
                    "random access; unpack it first"
                )
            raise DataError(
                f"{place} has a length ({length}) that fails its checksum, so the rest of the file "
                "cannot be read; download it again"
            )
        if at + OVERHEAD + length > size:
            raise DataError(
                f"{place} needs {OVERHEAD + length} bytes, the file has {size - at} left; it is "
                "cut off: download it again"
            )
        yield at + HEADER.size, length
        at, number = at + OVERHEAD + length, number + 1


def intact(folder: Folder, name: str, start: int, length: int) -> bool:
    """Whether a payload matches its checksum. Little of it stays resident."""
    crc = 0
    for at in range(start, start + length, PIECE):
        piece = folder.view(name, at, min(PIECE, start + length - at))
        crc = crc32c(piece, crc)
        release(folder, piece, at)
    (stored,) = FOOTER.unpack(folder.view(name, start + length, FOOTER.size))
    return _mask(crc) == stored


def release(folder: Folder, view: memoryview, start: int) -> None:
    """Let go of the memory behind a view that begins at byte ``start`` of a file on disk.

    Pages of a memory map count as memory of the process until they are given back. The view stays
    valid: what is touched again is mapped again.
    """
    if isinstance(view.obj, mmap.mmap) and type(folder) is Folder:
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        view.obj.madvise(mmap.MADV_DONTNEED, first, start + len(view) - first)


class Window:
    """A part of a file whose bytes are fetched when they are looked at, some at a time."""

    SIZE = 1 << 16

    def __init__(self, folder: Folder, name: str, start: int, length: int) -> None:
        self._file, self._start, self._length = (folder, name), start, length
        self._first, self._held = 0, b""

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, at: slice) -> bytes:
        start, stop, _ = at.indices(self._length)
        if not self._first <= start <= stop <= self._first + len(self._held):
            folder, name = self._file
            length = min(max(stop - start, self.SIZE), self._length - start)
            view = folder.view(name, self._start + start, length)
            self._first, self._held = start, bytes(view)
            release(folder, view, self._start + start)
        return self._held[start - self._first : stop - self._first]


Bytes = memoryview | bytes | Window


def parse(data: Bytes) -> dict[str, Values]:
    """Return where a ``tf.train.Example`` has the values of each key.

    Keys come in any order (TFDS writes them in that of a hash table); unknown fields are passed
    over; of a key that occurs twice the last counts.

    Raises:
        DataError: the bytes are no such message.
    """
    found: dict[str, Values] = {}
    for number, kind, start, end in _fields(data, 0, len(data), MOST_KEYS):
        if (number, kind) == (1, 2):
            for field, wire, first, last in _fields(data, start, end, MOST_KEYS):
                if (field, wire) == (1, 2):
                    key, values = _entry(data, first, last)
                    found[key] = values
    return found


def spans(data: Bytes, values: Values) -> Int64[np.ndarray, "n 2"]:
    """Return start and end of each value of a list of bytes.

    Raises:
        DataError: it is another list, or malformed.
    """
    _expect(values, BYTES)
    found: list[tuple[int, int]] = []
    for start, end in values.parts:
        for number, kind, first, last in _fields(data, start, end, MOST_VALUES):
            if (number, kind) == (1, 2):
                found.append((first, last))
    return np.array(found, np.int64).reshape(-1, 2)


def floats(data: Bytes, values: Values) -> Float32[np.ndarray, " n"]:
    """Return a copy of a list of floats.

    Raises:
        DataError: it is another list, or malformed.
    """
    _expect(values, FLOATS)
    pieces = []
    for start, end in _runs(data, values, plain=5):
        if (end - start) % 4:
            raise DataError(f"{end - start} bytes at byte {start} are no whole floats")
        pieces.append(np.frombuffer(data[start:end], "<f4"))
    return np.concatenate(pieces, dtype=np.float32) if pieces else np.empty(0, np.float32)


def integers(data: Bytes, values: Values) -> Int64[np.ndarray, " n"]:
    """Return a list of integers; negative ones are stored as ten bytes.

    Raises:
        DataError: it is another list, or malformed.
    """
    _expect(values, INTS)
    runs = _runs(data, values, plain=0)
    pieces = [_varints(np.frombuffer(data[start:end], np.uint8)) for start, end in runs]
    return np.concatenate(pieces) if pieces else np.empty(0, np.int64)


def _mask(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _expect(values: Values, kind: int) -> None:
    names = ("nothing", "bytes", "floats", "integers")
    if values.kind not in (UNSET, kind):
        raise DataError(f"it is a list of {names[values.kind]}, expected {names[kind]}")


def _entry(data: Bytes, start: int, end: int) -> tuple[str, Values]:
    """Parse one key and its Feature: a list of one kind, whose parts are joined if it is split."""
    key, values = b"", Values(UNSET, ())
    for number, kind, first, last in _fields(data, start, end, MOST_KEYS):
        if (number, kind) == (1, 2):
            key = bytes(data[first:last])
        elif (number, kind) == (2, 2):
            values = Values(UNSET, ())
            for number, kind, low, high in _fields(data, first, last, MOST_KEYS):
                if kind == 2 and number in (BYTES, FLOATS, INTS):
                    before = values.parts if values.kind == number else ()
                    values = Values(number, (*before, (low, high)))
    try:
        return key.decode(), values
    except UnicodeDecodeError as error:
        raise DataError(f"the key {key!r:.60} is no UTF-8") from error


def _runs(data: Bytes, values: Values, plain: int) -> Iterator[tuple[int, int]]:
    """Yield the places of packed values, and of each value that is stored alone."""
    for start, end in values.parts:
        for number, kind, first, last in _fields(data, start, end, MOST_VALUES):
            if number == 1 and kind in (2, plain):
                yield first, last


def _fields(data: Bytes, at: int, end: int, most: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, wire type, and start and end of the value of each field of a message.

    Heads are read 24 bytes at a time: a tag and a length take at most ten each.
    """
    while at < end:
        head = data[at : min(at + 24, end)]
        most -= 1
        if most < 0:
            raise DataError(f"it has too many fields by byte {at}")
        tag, width = (head[0], 1) if head[0] < 128 else _varint(head, 0)
        kind = tag & 7
        if kind == 2:
            low = head[width] if width < len(head) else 128
            size, width = (low, width + 1) if low < 128 else _varint(head, width)
        elif kind == 0:
            size = _varint(head, width)[1] - width
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise DataError(f"the field at byte {at} has the wire type {kind}")
        start = at + width
        at = start + size
        if at > end:
            raise DataError(f"the field at byte {start - width} ends at {at}, its message at {end}")
        yield tag >> 3, kind, start, at


def _varint(data: Sequence[int], at: int) -> tuple[int, int]:
    """Return a number of up to ten bytes, seven bits each, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
    raise DataError("a number has no end")


def _varints(data: UInt8[np.ndarray, " n"]) -> Int64[np.ndarray, " m"]:
    """Decode packed numbers all at once."""
    if not len(data) or data.max() < 128:
        return data.astype(np.int64)
    ends = np.flatnonzero(data < 128)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if not len(ends) or ends[-1] != len(data) - 1 or lengths.max() > 10:
        raise DataError("a number has no end")
    shifts = 7 * (np.arange(len(data)) - np.repeat(starts, lengths)).astype(np.uint64)
    return np.add.reduceat((data & 127).astype(np.uint64) << shifts, starts).view(np.int64)
