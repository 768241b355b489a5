"""Messages have openpi's layout, byte for byte, and nothing from outside becomes more than data."""

import pickle
import struct

import msgpack
import numpy as np
import pytest

from saccade.deploy.wire import MOST_CONTAINERS, numbers, pack, unpack
from saccade.errors import DataError

# {"a": float32 [[1.5], [-2]]}, written by hand from the specification of msgpack
BYTES = b"".join(
    [
        b"\x81\xa1a",  # a map of one, a text of one
        b"\x84",  # a map of four
        *(b"\xc4\x0b__ndarray__", b"\xc3"),  # bytes, true
        *(b"\xc4\x04data", b"\xc4\x08", struct.pack("<2f", 1.5, -2)),
        *(b"\xc4\x05dtype", b"\xa3<f4"),
        *(b"\xc4\x05shape", b"\x92\x02\x01"),
    ]
)


def array(**changes: object) -> bytes:
    """Pack an array of which something is wrong."""
    fields = {"__ndarray__": True, "data": bytes(8), "dtype": "<f4", "shape": [2]} | changes
    return msgpack.packb({key.encode(): value for key, value in fields.items()})  # type: ignore


def test_the_layout_is_that_of_openpi() -> None:
    value = np.array([[1.5], [-2]], np.float32)
    assert pack({"a": value}) == BYTES
    found = unpack(BYTES)
    assert list(found) == ["a"]
    assert found["a"].dtype == np.float32
    np.testing.assert_array_equal(found["a"], value)
    assert not found["a"].flags.writeable


@pytest.mark.parametrize("dtype", ["?", "u1", "i8", "f2", "<f4", ">f4", "f8", ">i2"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3, 4)])
def test_arrays_return_as_they_were(dtype: str, shape: tuple[int, ...]) -> None:
    value = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    found = unpack(pack([value]))[0]
    assert found.dtype == value.dtype.newbyteorder("=")
    assert found.shape == shape
    np.testing.assert_array_equal(found, value)


def test_views_and_plain_values_return_as_they_were() -> None:
    turned = np.arange(24).reshape(2, 3, 4)[::-1, :, ::2].transpose(2, 0, 1)
    message = {"text": "grün", "list": [1, 2.5, None, True, {"deep": []}], "one": np.float32(0.5)}
    found = unpack(pack(message | {"view": turned}))
    np.testing.assert_array_equal(found.pop("view"), turned)
    assert found == message
    assert type(found["one"]) is np.float32


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (pickle.dumps({"a": print}), "is not msgpack"),
        (b"", "is not msgpack"),
        (BYTES[:-3], "is not msgpack"),
        (BYTES + b"\x00", "is not msgpack"),
        (b"\xc1", "is not msgpack"),
        (b"\xa2\xff\xfe", "is not msgpack"),  # a text that is none
        (b"\x91" * 100_000, "is not msgpack"),  # a list in a list in a list ...
        (b"\xdd\xff\xff\xff\xff", "is not msgpack"),  # four milliards of values, they say
        (b"\xdf\xff\xff\xff\xff", "is not msgpack"),
        (b"\xc6\xff\xff\xff\xff", "is not msgpack"),
        (b"\xdc\x0f\xff" + b"\x90" * 4095, f"more than {MOST_CONTAINERS} lists and maps"),
        (b"\xd4\x05\x00", "extension type 5"),
        (msgpack.packb(msgpack.Timestamp(1)), "holds a Timestamp"),
        (msgpack.packb({b"key": 1}), "a key is b'key'"),
        (msgpack.packb({1: 1}), "is not msgpack"),
        (msgpack.packb([b"bytes"]), "holds a bytes"),
        (array(dtype="|O"), "dtype '|O'"),
        (array(dtype="|V8"), "expected bool, integers or floats"),
        (array(dtype="f4,f4"), "expected bool, integers or floats"),
        (array(dtype="<U2"), "expected bool, integers or floats"),
        (array(dtype="<M8"), "expected bool, integers or floats"),
        (array(dtype=["<f4"]), "expected bool, integers or floats"),
        (array(shape=[3]), "needs 12 bytes, sent are 8"),
        (array(shape=[2**20, 2**20, 2**20]), "sent are 8"),
        (array(shape=[0, 2**40], data=b""), "expected a few lengths"),
        (array(shape=[-2]), "expected a few lengths"),
        (array(shape=[2.0]), "expected a few lengths"),
        (array(shape=[True, 2]), "expected a few lengths"),
        (array(shape=[1] * 9), "expected a few lengths"),
        (array(shape=None), "expected a few lengths"),
        (array(data="a text"), "sent are str"),
        (array(__npgeneric__=True, data=[1]), "a scalar is a list"),
        (array(__npgeneric__=True, data=1000, dtype="|i1"), "is not msgpack"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, found: str) -> None:
    with pytest.raises(DataError, match=found.replace("|", r"\|")):
        unpack(data)


def test_garbage_is_refused_and_nothing_else_happens() -> None:
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        data = bytearray(BYTES)
        for place in rng.integers(len(data), size=rng.integers(1, 6)):
            data[place] = rng.integers(256)
        try:
            unpack(bytes(data))
        except DataError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    "value", [np.array([None]), np.array(["a"]), {1, 2}, object(), np.zeros(2, "V4"), 1j]
)
def test_what_is_no_number_is_not_sent(value: object) -> None:
    with pytest.raises(DataError, match="cannot be sent"):
        pack({"a": value})


def test_numbers_have_a_shape_and_are_finite() -> None:
    for value in ([[1, 2.5]], np.array([[1, 2.5]]), np.array([[1, 2.5]], np.float16)):
        found = numbers(value, (None, 2), "it")
        assert found.dtype == np.float32
        assert found.tolist() == [[1, 2.5]]
    faults = {
        "it has the shape": ([1, 2], [[1]], [[1, 2, 3]], np.zeros((0, 2)), 3),
        "it holds numbers that are not finite": ([[1, np.nan]], [[1, 1e300]], [[np.inf, 0]]),
        "expected numbers": ([["1", "2"]], [[1], [1, 2]], [[None, 1]], None, {"a": 1}),
    }
    for message, values in faults.items():
        for value in values:
            with pytest.raises(DataError, match=message):
                numbers(value, (None, 2), "it")
