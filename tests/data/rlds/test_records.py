"""Records read what TFDS wrote, byte for byte; a damaged one is named, and never believed."""

import hashlib
import json
import os
import pickle
import re
import shutil
import threading
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saccade.data.rlds import records as rlds_records
from saccade.data.rlds import tfrecord
from saccade.data.rlds.records import Records, interleave
from saccade.errors import DataError
from tests.data.rlds.test_shards import edit, opened, shard
from tests.fixtures.rlds import EDGES, edges, image, tensor, text, write_droid, write_rlds

CAMERA = "steps/observation/wrist_image_left"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def check_numbers(records: Records, record: int, expected: dict[str, Any]) -> None:
    for key, values in expected.items():
        found = records.numbers(record, f"steps/{key}")
        assert list(found.shape) == values["shape"], key
        assert str(found.dtype) == values["stored_as"], key
        assert sha(found.tobytes()) == values["sha256_le"], key


def check_pictures(records: Records, record: int, expected: dict[str, Any]) -> None:
    for camera, values in expected.items():
        key = f"steps/observation/{camera}"
        stored = records.jpegs(record, key)
        assert sha(b"".join(stored)) == values["sha256_all_jpeg_concat"]
        for when in ("first", "middle", "last"):
            about = values[when]
            assert sha(stored[about["step"]]) == about["jpeg_sha256"]
            picture = records.pictures(record, key, np.array([about["step"]]))[0]
            assert list(picture.shape) == [3, *about["size_wh"][::-1]]
            means = picture.double().mean((1, 2)).numpy()
            np.testing.assert_allclose(means, about["pil_mean_rgb"], atol=0.5)


@pytest.mark.parametrize("name", ["droid_tiny", "bridge_tiny", "droid_edge"])
def test_everything_is_as_tfds_reads_it(shared_data: Path, name: str) -> None:
    told = json.loads((shared_data / name / "expected.json").read_text())
    for split, expected in told["splits"].items():
        records = opened(shared_data / name, (split,))
        places = [
            f"{shard['file']}: record {i} at byte {record['offset']}"
            for shard in expected["shards"]
            for i, record in enumerate(shard["records"])
        ]
        assert len(records) == expected["num_examples"] == len(places)
        for record, episode in enumerate(expected["episodes"]):
            assert records.where(record).endswith(places[record])
            assert records.steps[record] == episode["num_steps"]
            assert records.metadata(record) == episode["episode_metadata"]
            for key, texts in episode["text"].items():
                assert records.note(record)["texts"][f"steps/{key}"] == texts
                assert list(dict.fromkeys(records.texts(record, f"steps/{key}"))) == texts
            check_numbers(records, record, episode["low_dim"])
            check_pictures(records, record, episode["images"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two shards, of two records and one."""
    return write_droid(tmp_path / "droid", (5, 4, 3), (16, 24))


def test_a_key_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    points = {"sequence": {"feature": tensor("float32", 3), "length": "-1"}}
    features = {**EDGES, "steps/observation/points": points, "steps/words": text()}
    root = write_rlds(tmp_path / "set", "set", features, {"train": [[edges(3)]]})
    records = opened(root)
    with pytest.raises(DataError, match=r"points cannot be read as number .lists inside of steps"):
        records.numbers(0, "steps/observation/points")
    with pytest.raises(DataError, match=r"steps/words cannot be read as number .it is none"):
        records.numbers(0, "steps/words")
    with pytest.raises(DataError, match=r"set-train.*steps/words: it has 0 values, expected 3"):
        records.texts(0, "steps/words")


@pytest.mark.parametrize(
    ("key", "values", "reason"),
    [
        ("steps/a", np.zeros(5), r"it has 5 values, expected 6 \(3 steps of 2\)"),
        ("steps/a", np.zeros(6, int), "it is a list of integers, expected floats"),
        ("steps/text", [b"one", b"two"], "it has 2 values, expected 3"),
        ("steps/text", [b"\xff"] * 3, "is no UTF-8"),
        ("steps/picture", [b"x"] * 4, "it has 4 values, expected 3"),
    ],
)
def test_what_contradicts_the_features_is_named(tmp_path: Path, key, values, reason: str) -> None:
    features = {**EDGES, "steps/a": tensor("float32", 2), "steps/text": text()}
    features["steps/picture"] = image(4, 4)
    good = {"steps/a": np.zeros(6), "steps/text": [b""] * 3, "steps/picture": [b"x"] * 3}
    shards = {"train": [[edges(3) | good | {key: values}]]}
    root = write_rlds(tmp_path / "set", "set", features, shards)

    def read() -> None:
        records = opened(root)
        ways = {"steps/a": records.numbers, "steps/text": records.texts}
        ways.get(key, records.jpegs)(0, key)

    with pytest.raises(DataError, match=rf"record 0 at byte 0.*{reason}"):
        read()


def test_pictures_of_another_size_than_described_are_refused(root: Path) -> None:
    def widen(features: dict[str, Any]) -> None:
        node = features
        for name in ("steps", "observation", "wrist_image_left"):
            node = node.get("sequence", {}).get("feature", node)["featuresDict"]["features"][name]
        node["image"]["shape"]["dimensions"][0] = "99"

    edit("features.json", widen)(root)
    with pytest.raises(DataError, match=r"step 1 has 16 x 24 pixels, features.json says 99 x 24"):
        opened(root).pictures(0, CAMERA, np.array([1]))


def test_a_damaged_picture_is_named_with_its_step(root: Path) -> None:
    at = shard(root).read_bytes().index(opened(root).jpegs(0, CAMERA)[2])
    data = bytearray(shard(root).read_bytes())
    data[at + 300 : at + 400] = bytes(100)
    shard(root).write_bytes(data)
    records = opened(root, checksums=False)
    with pytest.raises(DataError, match=f"record 0 at byte 0, {CAMERA}, step 2 is not a readable"):
        records.pictures(0, CAMERA, np.array([0, 2]))


def test_damage_anywhere_ends_in_our_error(root: Path) -> None:
    """Without checksums too: what is read is of the right shape, or refused with its place."""
    whole, rng, refused = shard(root).read_bytes(), np.random.default_rng(0), []
    for _ in range(60):
        broken = bytearray(whole)
        for place in rng.integers(0, len(whole), 30):
            broken[place] ^= 1 << rng.integers(8)
        shard(root).write_bytes(broken)
        try:
            records = opened(root, checksums=False)
            for record, steps in enumerate(records.steps):
                assert records.rows(record, ["steps/action"]).shape == (steps, 7)
                assert len(records.pictures(record, CAMERA, np.arange(steps))) == steps
        except DataError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert all(re.search(r"record \d at byte \d+", message) for message in refused)


def test_numbers_that_are_none_are_named(tmp_path: Path) -> None:
    rows = np.array([[0, 1], [np.nan, 0], [0, 0]])
    features = {**EDGES, "steps/a": tensor("float32", 2)}
    shards = {"train": [[edges(3) | {"steps/a": rows}]]}
    records = opened(write_rlds(tmp_path / "set", "set", features, shards))
    assert np.isnan(records.numbers(0, "steps/a")[1, 0])
    with pytest.raises(DataError, match=r"steps/a: step 1 is .nan"):
        records.rows(0, ["steps/a"])


def test_a_record_is_compared_once(root: Path, monkeypatch) -> None:
    compared: list[int] = []
    true = tfrecord.intact
    monkeypatch.setattr(tfrecord, "intact", lambda *a: (compared.append(a[2]), true(*a))[1])
    records = opened(root)
    assert not compared
    for _ in range(3):
        records.numbers(1, "steps/action")
        records.pictures(1, CAMERA, np.array([0]))
    assert len(compared) == 1
    pickle.loads(pickle.dumps(records)).numbers(1, "steps/action")
    assert len(compared) == 2


def test_memory_is_bounded(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(rlds_records, "PARSED", 2)
    records = opened(write_droid(tmp_path / "droid", (2,) * 5, (16, 24)))
    for record in range(5):
        records.texts(record, "steps/language_instruction")
    assert list(records._layouts) == [3, 4]


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
def test_what_was_read_does_not_stay_resident(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(1 << 20)
    features = {**EDGES, "steps/picture": image(4, 4)}
    episodes = [edges(32) | {"steps/picture": [noise] * 32} for _ in range(3)]
    records = opened(write_rlds(tmp_path / "set", "set", features, {"train": [episodes]}))

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[2]) * os.sysconf("SC_PAGESIZE")

    before = resident()
    for record in range(3):
        records.jpegs(record, "steps/picture")  # compares 32 MB with the checksum
    assert resident() - before < 24 << 20


def test_lists_take_turns_as_in_tensorflow() -> None:
    """The example of tf.data's documentation: cycle length 2, block length 4, five sixes."""
    turns = [number + 1 for number, _ in interleave([6] * 5, 2, 4)]
    assert "".join(map(str, turns)) == "111122221122333344443344555555"
    assert sorted(interleave([3, 0, 5], 16, 2)) == [(0, i) for i in range(3)] + [
        (2, i) for i in range(5)
    ]
    assert list(interleave([], 2, 2)) == []


def test_ranks_share_the_shards(tmp_path: Path) -> None:
    records = opened(write_droid(tmp_path / "droid", (1, 2, 3, 1, 2), (16, 24)))
    assert records.order(cycle=2, block=2) == [0, 1, 3, 4, 2]
    for ranks in (1, 2, 3, 5):
        parts = [records.order(rank, ranks) for rank in range(ranks)]
        assert sorted(chain(*parts)) == [0, 1, 2, 3, 4]
    assert [records.order(rank, 2) for rank in (0, 1)] == [[0, 1, 2], [3, 4]]


@pytest.mark.parametrize("threads", [1, 3])
def test_reading_ahead_keeps_the_order(root: Path, threads: int) -> None:
    records, main = opened(root), threading.get_ident()
    names: set[int] = set()

    def work(record: int) -> int:
        names.add(threading.get_ident())
        return len(records.jpegs(record, CAMERA))

    order = [2, 0, 1] * 10
    assert list(records.scan(work, order, threads)) == [(i, records.steps[i]) for i in order]
    assert main not in names


def test_an_error_ends_reading_ahead(root: Path) -> None:
    def work(record: int) -> int:
        if record == 1:
            raise DataError("record 1 is broken")
        return record

    found = []
    with pytest.raises(DataError, match="record 1 is broken"):
        found += [value for _, value in opened(root).scan(work, [0, 2, 1, 0], threads=1)]
    running = threading.active_count()
    reading = opened(root).scan(lambda record: record, [0] * 50)
    assert next(reading) == (0, 0)
    reading.close()
    assert threading.active_count() <= running


def test_the_digest_tells_contents_apart(root: Path, tmp_path: Path) -> None:
    digest = opened(root).digest("")
    shutil.copytree(root, tmp_path / "copy")
    assert opened(tmp_path / "copy").digest("") == digest != opened(root).digest("options")
    shutil.rmtree(root)
    write_droid(root, (5, 4, 2), (16, 24))
    assert opened(root).digest("") != digest
