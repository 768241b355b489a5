"""What is checked of an HDF5 file because the library does not: who writes, what was written.

Where a length in a file is damaged, the library allocates what it says, or goes round in circles.
Files with metadata of the newer kind (``libver="latest"``) have checksums there; h5py and most
tools write the older kind.

https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html
"""

import fcntl
import math
from collections.abc import Callable
from contextlib import suppress

import h5py

from saccade.errors import DataError

LARGEST = 1 << 24  # bytes of an attribute; more is a damaged file
ATTRIBUTE, CONTINUATION = 0x0C, 0x10  # kinds of messages in the header of an object
VARIABLE = 9  # the class of texts and lists whose length is part of the value
REFERENCE = 16  # bytes of such a value: a length of 4, where it lies 8, and a number 4


def check_unlocked(descriptor: int, label: str) -> None:
    """Refuse a file that HDF5 has open for writing."""
    with suppress(OSError):  # a disk without locks
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        except BlockingIOError as error:
            raise DataError(
                f"{label} is open for writing; wait until its writer is done"
            ) from error


def check_heap(block: bytes) -> None:
    """Refuse a heap of texts in which HDF5 2.0 would go round in circles.

    16 bytes of header, 8 of which are its size; then objects with a header of 16 bytes each, whose
    first two are 0 for the free space at the end and whose last eight are its size.
    https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html (III.E, global heap)
    """
    at, end = 16, _number(block[8:16])
    while at + 16 <= min(end, len(block)):
        size = _number(block[at + 8 : at + 16])
        free = block[at : at + 2] == b"\0\0"
        at += size if free else 16 + size + -size % 8
        if at > end or (free and size < 16):
            raise OSError("its heap of texts is damaged")


def check_written(data: h5py.Dataset, label: str) -> None:
    """Refuse what reads as zeros because a writer was killed before it came to it."""
    if not data.size:
        return
    have, expected = int(data.id.get_storage_size() > 0), 1
    if data.chunks:
        have = data.id.get_num_chunks()
        expected = math.prod(-(-n // c) for n, c in zip(data.shape, data.chunks, strict=True))
    if have < expected:
        raise DataError(
            f"{label}: {have} of {expected} parts were written, its writer was killed or still "
            "writes; record or download it again"
        )


def check_texts(read: Callable[[int, int], bytes], address: int, base: int) -> None:
    """Refuse attributes of an object whose texts claim to be longer than any is allowed to be.

    Args:
        read: returns bytes of the file, of a position and a length.
        address: where the header of the object begins: 16 bytes, then messages, each after 8
            bytes of its own (IV.A.1.a); they go on in other places, which some of them name.
        base: the position from which addresses in the file count.

    Raises:
        OSError: a text or list has more than ``LARGEST`` elements, or the header is damaged.
    """
    head = read(address, 16)
    if head[:1] != b"\x01":  # the newer kind
        return
    places = [(address + 16, _number(head[8:12]))]
    for start, length in places:
        if sum(length for _, length in places) > LARGEST:  # or they go round in circles
            raise OSError("its header is damaged")
        block, at = read(start, length), 0
        while at + 8 <= len(block):
            kind, size = _number(block[at : at + 2]), _number(block[at + 2 : at + 4])
            body = block[at + 8 : at + 8 + size]
            if kind == ATTRIBUTE:
                _check_attribute(body)
            elif kind == CONTINUATION:
                places.append((base + _number(body[:8]), _number(body[8:16])))
            at += 8 + size


def _check_attribute(body: bytes) -> None:
    """Check one attribute (IV.A.2.m): version, flags, sizes of the next three, then the values."""
    version, shared = body[:1], _number(body[1:2]) & 1
    unit = 8 if version == b"\x01" else 1  # to which name, type and shape are filled up
    sizes = [_number(body[i : i + 2]) for i in (2, 4, 6)]
    name, kind, shape = (-(-size // unit) * unit for size in sizes)
    begin = 8 + (version == b"\x03")
    if shared or _number(body[begin + name : begin + name + 1]) & 0xF != VARIABLE:
        return
    values = body[begin + name + kind + shape :]
    for i in range(0, len(values) - REFERENCE + 1, REFERENCE):
        length = _number(values[i : i + 4])
        if length > LARGEST:
            raise OSError(f"a text in it claims {length} characters, {LARGEST} are allowed")


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")
