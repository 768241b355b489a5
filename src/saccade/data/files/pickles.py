"""Pickled numbers and texts, read without running anything that a pickle asks for.

Python's pickle is a program for a small stack machine that may import and call whatever it names.
Here only NumPy arrays, scalars and types, and plain containers can be named, from protocol 0
(Python 2) to 5 and from NumPy 1 and 2; our own machine refuses every other name. NumPy's own
``__setstate__`` is not called either, as it trusts what it is given. Memory is bounded by the size
of the file; arrays are views of it where they can be, and may be read-only.

What an array is pickled as:
https://github.com/numpy/numpy/blob/main/numpy/_core/src/multiarray/methods.c
"""

import io
import math
import re
import struct
from collections import OrderedDict
from typing import Any

import numpy as np

from saccade.data.files.folder import Folder
from saccade.data.files.pickle_machine import Global, Machine, Refused, Unbuilt, keys, mapping
from saccade.errors import DataError

Buffer = bytes | bytearray | memoryview

DIMENSIONS = 32
TYPE = re.compile(r"[biufcSUO]\d{1,9}")
REMEDY = "only NumPy arrays and plain containers are read; convert it in a sandbox"


def load_pickle(folder: Folder, name: str) -> Any:
    """Load a file that holds one pickle.

    Raises:
        DataError: as ``loads``, or there is no such file.
    """
    return loads(folder.view(name, 0, folder.size(name)), folder.label(name))


def load_npy(folder: Folder, name: str) -> np.ndarray:
    """Load a NumPy file, whose objects (if it holds such) may be what ``loads`` reads.

    Raises:
        DataError: it is damaged, or asks for anything else.
    """
    data, source = folder.view(name, 0, folder.size(name)), folder.label(name)
    header = io.BytesIO(bytes(data[: 1 << 16]))
    try:
        version = np.lib.format.read_magic(header)
        read = np.lib.format.read_array_header_1_0
        read = read if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(header)
    except (MemoryError, RecursionError, SyntaxError, TypeError, ValueError) as error:
        raise DataError(f"{source} is no NumPy file ({error!s:.80}); download it again") from error
    rest = data[header.tell() :]
    if dtype == np.dtype(object):
        found = loads(rest, source)
        if isinstance(found, np.ndarray) and found.size == math.prod(shape):
            return found.reshape(shape, order="F" if fortran else "C")
        raise DataError(f"{source} holds no array of shape {shape}; download it again")
    try:
        return _array(shape, dtype, fortran, rest)
    except ValueError as error:
        raise DataError(f"{source} is damaged ({error}); download it again") from error


def loads(data: Buffer, source: str) -> Any:
    """Load one pickle; ``source`` says in errors where it came from.

    Raises:
        DataError: it is damaged, or asks for more than arrays, plain containers, text and numbers.
    """
    machine = Machine(memoryview(data), GLOBALS)
    try:
        return machine.run()
    except Refused as error:
        raise DataError(f"{source} is refused: its pickle asks for {error}; {REMEDY}") from error
    except LookupError as error:  # beyond the end, an empty stack, or nothing in the memo
        raise DataError(
            f"{source} is no whole pickle (at byte {machine.at} of {len(data)} something is "
            "missing); download it again"
        ) from error
    except (
        ArithmeticError, AttributeError, MemoryError, RecursionError,
        TypeError, ValueError, struct.error,
    ) as error:  # fmt: skip
        raise DataError(
            f"{source} is no whole pickle (at byte {machine.at} of {len(data)}: {error!s:.80}); "
            "download it again"
        ) from error


def _reconstruct(kind: Any, shape: Any, code: Any) -> Unbuilt:
    if kind is not NDARRAY:
        raise Refused("an array of a class of its own")
    return Unbuilt(lambda state: _array(*state[-4:]))


def _type(code: Any, align: Any = False, copy: Any = False) -> Unbuilt:
    if not isinstance(code, str) or not TYPE.fullmatch(code):
        raise Refused(f"numbers of type {code!r:.40}")
    dtype = np.dtype(code)

    def build(state: tuple[Any, ...]) -> np.dtype:
        version, order, *structure = state[:5]
        if version not in (3, 4) or order not in ("<", ">", "|", "=") or structure != [None] * 3:
            raise Refused("numbers of a structured type")
        ordered = dtype if order == "|" else dtype.newbyteorder(order)
        return dtype if ordered == dtype else ordered  # the machine's own order is called so

    return Unbuilt(build)


def _array(shape: Any, dtype: Any, fortran: Any, data: Any) -> np.ndarray:
    """Make an array of as many values as its shape says, and its data hold."""
    order = "F" if fortran else "C"
    count = _count(shape)
    if isinstance(dtype, np.dtype) and dtype.kind == "O":
        if not isinstance(data, list) or len(data) != count:
            raise ValueError(f"an array of shape {shape!r:.40} has other data")
        flat = np.empty(count, object)
        for i, item in enumerate(data):
            flat[i] = item
        return flat.reshape(shape, order=order)
    return _numbers(data, dtype).reshape(shape, order=order)


def _numbers(data: Any, dtype: Any) -> np.ndarray:
    if isinstance(data, str):  # of Python 2
        data = data.encode("latin-1")
    if not isinstance(data, Buffer) or not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise ValueError(f"numbers of type {dtype!r:.40} are in a {type(data).__name__}")
    if not dtype.itemsize or len(data) % dtype.itemsize:
        raise ValueError(f"{len(data)} bytes hold no whole numbers of type {dtype}")
    return np.frombuffer(data, dtype) if len(data) else np.empty(0, dtype)


def _count(shape: Any) -> int:
    """Return how many values an array has; the data must be as many."""
    small = isinstance(shape, tuple) and len(shape) <= DIMENSIONS
    if not small or not all(type(n) is int and 0 <= n < 1 << 48 for n in shape):
        raise ValueError(f"{shape!r:.40} is no shape")
    return math.prod(shape)


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    _count(shape)
    array = _numbers(data, dtype)
    if order == "K" and axes is not None:
        return array.reshape(shape).transpose(axes)
    if order not in ("C", "F"):
        raise ValueError(f"{order!r:.20} is no order of axes")
    return array.reshape(shape, order=order)


def _scalar(dtype: Any, data: Any) -> Any:
    return _numbers(data, dtype).reshape(())[()]


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused(f"the encoding {encoding!r:.40}")
    return text.encode("latin-1")


def _make_bytes(data: Any = b"", encoding: Any = None) -> bytes:
    data = data if encoding is None else _encode(data, encoding)
    if not isinstance(data, Buffer):
        raise Refused("bytes of something else")
    return bytes(data)


def _ordered(pairs: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict(mapping([item for key, value in pairs for item in (key, value)]))


NDARRAY = Global()
GLOBALS = {
    ("numpy", "ndarray"): NDARRAY,
    ("numpy", "dtype"): Global(_type),
    ("collections", "OrderedDict"): Global(_ordered),
    ("_codecs", "encode"): Global(_encode),
}
for _core in ("numpy.core", "numpy._core"):
    GLOBALS[f"{_core}.multiarray", "_reconstruct"] = Global(_reconstruct)
    GLOBALS[f"{_core}.multiarray", "scalar"] = Global(_scalar)
    GLOBALS[f"{_core}.numeric", "_frombuffer"] = Global(_from_buffer)
for _builtins in ("builtins", "__builtin__"):
    GLOBALS[_builtins, "bytes"] = Global(_make_bytes)
    GLOBALS[_builtins, "bytearray"] = Global(lambda *args: bytearray(_make_bytes(*args)))
    GLOBALS[_builtins, "set"] = Global(lambda items=(): set(keys(items)))
    GLOBALS[_builtins, "frozenset"] = Global(lambda items=(): frozenset(keys(items)))
    GLOBALS[_builtins, "complex"] = Global(lambda a, b: complex(float(a), float(b)))
