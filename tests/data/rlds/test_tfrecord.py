"""Records are found by jumps, messages by what the wire says, and nothing broken is believed."""

import struct
import time
from pathlib import Path

import numpy as np
import pytest

from saccade.data.files.folder import Folder
from saccade.data.rlds import tfrecord
from saccade.data.rlds.tfrecord import (
    Values,
    Window,
    floats,
    intact,
    integers,
    parse,
    records,
    spans,
)
from saccade.errors import DataError
from tests.fixtures.rlds import delimited, example, framed, listed, varint

EPISODE = {
    "a/pictures": [b"first", b"", b"third" * 40],
    "b/floats": np.array([0.5, -1.25, 3e38], np.float32),
    "c/integers": np.array([0, 127, 128, -1, 2**63 - 1, -(2**63)]),
    "d/empty": np.zeros(0),
}


def values_of(data: bytes, key: str) -> Values:
    return parse(memoryview(data))[key]


def store(tmp_path: Path, *payloads: bytes) -> Folder:
    (tmp_path / "file").write_bytes(b"".join(map(framed, payloads)))
    return Folder(tmp_path)


def test_a_checksum_of_the_specification() -> None:
    # RFC 3720, B.4: crc32c of 32 zero bytes is 8a9136aa
    crc = 0x8A9136AA
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
    assert tfrecord.masked_crc(bytes(32)) == masked


def test_values_come_back() -> None:
    data = example(EPISODE)
    found = parse(memoryview(data))
    assert list(found) == list(EPISODE)
    places = spans(data, found["a/pictures"]).tolist()
    assert [data[a:b] for a, b in places] == EPISODE["a/pictures"]
    np.testing.assert_array_equal(floats(data, found["b/floats"]), EPISODE["b/floats"])
    np.testing.assert_array_equal(integers(data, found["c/integers"]), EPISODE["c/integers"])
    assert len(floats(data, found["d/empty"])) == 0


def test_a_window_reads_what_a_view_reads(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Window, "SIZE", 7)
    folder = store(tmp_path, b"before", data := example(EPISODE))
    (_, (start, length)) = records(folder, "file")
    window = Window(folder, "file", start, length)
    assert len(window) == len(data)
    assert window[3:3] == b""
    assert window[len(data) - 2 : len(data) + 9] == data[-2:]
    assert parse(window) == parse(data)
    found = parse(window)["c/integers"]
    np.testing.assert_array_equal(integers(window, found), EPISODE["c/integers"])


def test_protobuf_freedoms() -> None:
    """Unpacked numbers, unknown fields, keys after values, split lists, keys that occur twice."""
    unknown = varint(7 << 3) + varint(300) + varint(9 << 3 | 5) + bytes(4) + varint(8 << 3 | 1)
    unknown += bytes(8) + delimited(6, b"later")
    loose = b"".join(b"\x0d" + struct.pack("<f", x) for x in (1.0, 2.0))
    single = b"".join(b"\x08" + varint(n % 2**64) for n in (5, -5))
    packed = delimited(1, struct.pack("<f", 3.0))
    entries = [
        unknown + delimited(2, unknown + delimited(2, loose + packed)) + delimited(1, b"floats"),
        delimited(1, b"ints") + delimited(2, delimited(3, single) + delimited(3, b"\x08\x07")),
        delimited(1, b"twice") + delimited(2, listed([b"old"])),
        delimited(1, b"twice") + delimited(2, listed([b"new"])),
        delimited(1, b"unset") + delimited(2, b""),
        delimited(1, b"valueless"),
        delimited(1, b"changed") + delimited(2, listed([b"x"]) + delimited(3, single)),
    ]
    data = unknown + delimited(1, unknown + b"".join(delimited(1, e) for e in entries)) + unknown
    assert floats(data, values_of(data, "floats")).tolist() == [1.0, 2.0, 3.0]
    assert integers(data, values_of(data, "ints")).tolist() == [5, -5, 7]
    assert integers(data, values_of(data, "changed")).tolist() == [5, -5]
    ((start, end),) = spans(data, values_of(data, "twice")).tolist()
    assert data[start:end] == b"new"
    for key in ("unset", "valueless"):
        assert values_of(data, key) == Values(tfrecord.UNSET, ())
        assert len(spans(data, values_of(data, key))) == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x0a", "a number has no end"),
        (b"\x0a\x05ab", "ends at 7, its message at 4"),
        (b"\x80" * 30, "a number has no end"),
        (b"\x0b", "wire type 3"),
        (delimited(1, delimited(1, delimited(1, b"\xff"))), "no UTF-8"),
        (b"\x08\x01" * 10_001, "too many fields"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        parse(memoryview(data))


def test_a_list_of_another_kind_is_refused() -> None:
    data = example({"a": [b"text"], "b": np.zeros(2), "c": np.arange(2)})
    for key, read in (("a", floats), ("b", integers), ("c", spans)):
        with pytest.raises(DataError, match="it is a list of"):
            read(data, values_of(data, key))
    for body in (delimited(2, delimited(1, b"12345")), delimited(3, delimited(1, b"\x01\x80"))):
        data = delimited(1, delimited(1, delimited(1, b"k") + delimited(2, body)))
        read = floats if body[0] >> 3 == 2 else integers
        with pytest.raises(DataError, match=r"no whole floats|no end"):
            read(data, values_of(data, "k"))


def test_records_are_found_and_compared(tmp_path: Path) -> None:
    folder = store(tmp_path, b"one", b"", b"three" * 5000)
    places = list(records(folder, "file"))
    assert places == [(12, 3), (31, 0), (47, 25_000)]
    assert all(intact(folder, "file", *place) for place in places)
    data = bytearray((tmp_path / "file").read_bytes())
    data[47 + 24_000] ^= 4
    (tmp_path / "broken").write_bytes(data)
    broken = [intact(folder, "broken", *place) for place in records(folder, "broken")]
    assert broken == [True, True, False]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d[:-1], r"record 1 at byte 20 needs 22 bytes, the file has 21 left"),
        (lambda d: d[:25], r"record 1 at byte 20 is cut off after 5 bytes"),
        (lambda d: d + bytes(64), r"record 2 at byte 42 has a length \(0\) that fails"),
        (lambda d: d[:20] + b"\x07" + d[21:], r"record 1 at byte 20 has a length \(7\)"),
        (lambda d: d[:27] + b"\x80" + d[28:], r"record 1 at byte 20 has a length"),
        (lambda d: framed(b"")[:0] + struct.pack("<Q", 2**60) + d[8:], r"record 0 at byte 0"),
    ],
)
def test_a_broken_file_is_named_with_the_place(tmp_path: Path, change, reason: str) -> None:
    intact_file = framed(b"good") + framed(b"better")
    (tmp_path / "file").write_bytes(change(intact_file))
    with pytest.raises(DataError, match=f"{tmp_path}/file: {reason}"):
        list(records(Folder(tmp_path), "file"))


def test_a_length_that_lies_with_a_right_checksum_reads_nothing(tmp_path: Path) -> None:
    length = struct.pack("<Q", 2**60)
    header = length + struct.pack("<I", tfrecord.masked_crc(length))
    (tmp_path / "file").write_bytes(header + bytes(100))
    with pytest.raises(DataError, match="the file has 112 left"):
        list(records(Folder(tmp_path), "file"))


@pytest.mark.parametrize("magic", [b"\x1f\x8b\x08", b"\x78\x9c\x00"])
def test_compression_of_the_whole_is_recognised(tmp_path: Path, magic: bytes) -> None:
    (tmp_path / "file").write_bytes(magic + bytes(50))
    with pytest.raises(DataError, match="is compressed as a whole"):
        list(records(Folder(tmp_path), "file"))


def test_damage_ends_in_our_error_and_soon() -> None:
    """Flips and cuts at every place: values or a DataError, never anything else."""
    data, rng = example(EPISODE), np.random.default_rng(0)
    begun, refused = time.monotonic(), 0
    for trial in range(3000):
        broken = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            broken[place] = rng.integers(0, 256)
        part = memoryview(broken)[: len(data) if trial % 2 else rng.integers(0, len(data))]
        try:
            for values in parse(part).values():
                (spans, floats, integers)[max(values.kind, 1) - 1](part, values)
        except DataError:
            refused += 1
    assert 1000 < refused < 3000
    assert time.monotonic() - begun < 20


def test_a_list_of_a_hundred_million_texts_is_refused() -> None:
    data = memoryview(bytearray(b"\x0a\x00" * 1_000_001))
    with pytest.raises(DataError, match="too many fields"):
        spans(data, Values(tfrecord.BYTES, ((0, len(data)),)))
