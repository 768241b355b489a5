"""Messages between a robot and a policy: msgpack, with arrays as openpi lays them out.

    array   {b"__ndarray__": True, b"data": bytes, b"dtype": "<f4", b"shape": [k, a]}
    scalar  {b"__npgeneric__": True, b"data": 0.5, b"dtype": "<f4"}

Nothing is ever unpickled: what comes from outside becomes plain values and arrays of numbers, or
an error. Sizes are bounded before memory is taken, so that a small message cannot grow.

https://github.com/Physical-Intelligence/openpi (``packages/openpi-client``, ``msgpack_numpy``)
"""

import math
import re
from typing import Any

import msgpack
import numpy as np
from jaxtyping import Float32

from saccade.errors import DataError

NUMBERS = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")  # bool, integers, floats
MOST_VALUES, MOST_CONTAINERS = 4096, 256  # of a list or map; of a message
MOST_AXES, LONGEST_AXIS = 8, 2**31
ARRAY, SCALAR, DATA, DTYPE, SHAPE = b"__ndarray__", b"__npgeneric__", b"data", b"dtype", b"shape"


def pack(message: Any) -> bytes:
    """Encode plain values and arrays of numbers."""
    data = msgpack.packb(message, default=_encode)
    assert data is not None
    return data


def unpack(data: bytes) -> Any:
    """Decode a message; arrays cannot be written to.

    Raises:
        DataError: it is damaged, too large, or holds anything but plain values and numbers.
    """
    containers = 0

    def counted(value: Any) -> Any:
        nonlocal containers
        containers += 1
        if containers > MOST_CONTAINERS:
            raise DataError(f"the message has more than {MOST_CONTAINERS} lists and maps")
        return _decode(value) if isinstance(value, dict) else value

    try:
        message = msgpack.unpackb(
            data,
            object_hook=counted,
            list_hook=counted,
            ext_hook=_refuse,
            max_array_len=MOST_VALUES,
            max_map_len=MOST_VALUES,
        )
        _check_plain(message)
    except DataError:
        raise
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        told = f"{type(error).__name__} {error}".strip()
        raise DataError(f"the message is not msgpack ({told:.200}); send one packed map") from error
    return message


def numbers(value: Any, shape: tuple[int | None, ...], name: str) -> Float32[np.ndarray, "..."]:
    """Return an array, or lists, as finite numbers of a shape; None fits any length but 0.

    Raises:
        DataError: the shape is another, or a number is not finite.
    """
    try:
        found = np.asarray(value)
    except ValueError as error:
        raise DataError(f"{name} has rows of several lengths, expected numbers") from error
    if found.dtype.kind not in "biuf":
        raise DataError(f"{name} is a {type(value).__name__} of {found.dtype}, expected numbers")
    fits = len(shape) == found.ndim and all(
        length == size or (size is None and length > 0)
        for length, size in zip(found.shape, shape, strict=True)
    )
    if not fits:
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        raise DataError(f"{name} has the shape {list(found.shape)}, expected [{expected}]")
    with np.errstate(over="ignore"):
        found = found.astype(np.float32)
    if not np.isfinite(found).all():
        raise DataError(f"{name} holds numbers that are not finite; look at where they come from")
    return found


def _encode(value: Any) -> dict[bytes, Any]:
    if not isinstance(value, (np.ndarray, np.generic)) or not NUMBERS.fullmatch(value.dtype.str):
        raise DataError(f"a {type(value).__name__} cannot be sent; send numbers, texts and arrays")
    if isinstance(value, np.generic):
        return {SCALAR: True, DATA: value.item(), DTYPE: value.dtype.str}
    data = np.ascontiguousarray(value).data if value.size else b""
    return {ARRAY: True, DATA: data, DTYPE: value.dtype.str, SHAPE: value.shape}


def _decode(value: dict[Any, Any]) -> Any:
    """Turn a map that stands for an array or a scalar into it."""
    if ARRAY not in value and SCALAR not in value:
        return value
    text = value.get(DTYPE)
    if not isinstance(text, str) or not NUMBERS.fullmatch(text):
        raise DataError(f"an array has the dtype {text!r:.40}, expected bool, integers or floats")
    dtype, data = np.dtype(text), value.get(DATA)
    if SCALAR in value:
        if not isinstance(data, (bool, int, float)):
            raise DataError(f"a scalar is a {type(data).__name__}, expected a number")
        return dtype.type(data)
    shape = value.get(SHAPE)
    if (
        not isinstance(shape, list)
        or len(shape) > MOST_AXES
        or not all(type(size) is int and 0 <= size < LONGEST_AXIS for size in shape)
    ):
        raise DataError(f"an array has the shape {shape!r:.60}, expected a few lengths")
    needed = math.prod(shape) * dtype.itemsize
    if not isinstance(data, bytes) or len(data) != needed:
        found = len(data) if isinstance(data, bytes) else type(data).__name__
        raise DataError(f"an array {text}{shape} needs {needed} bytes, sent are {found}")
    array = np.ndarray(shape, dtype, buffer=data)
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


def _refuse(code: int, data: bytes) -> Any:
    del data
    raise DataError(f"the message holds an extension type {code}; send numbers, texts and arrays")


def _check_plain(value: Any) -> None:
    """Refuse whatever msgpack knows beyond plain values, such as its timestamps."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise DataError(f"a key is {key!r:.40}, expected a text")
            _check_plain(item)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item)
    elif not (value is None or isinstance(value, (bool, int, float, str, np.ndarray, np.generic))):
        raise DataError(f"the message holds a {type(value).__name__}; send numbers and texts")
