"""Which shards belong to a data set, what their index knows, and what happens to broken ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from saccade.data.rlds import records as rlds_records
from saccade.data.rlds import shards as rlds_shards
from saccade.data.rlds import tfrecord
from saccade.data.rlds.generic import checked_scan, scan
from saccade.data.rlds.records import Records, RecordsOptions
from saccade.errors import DataError
from tests.fixtures.rlds import framed, write_droid


def opened(root: Path, splits: tuple[str, ...] = (), **options: Any) -> Records:
    config = RecordsOptions(root=root, splits=splits, **options)
    return Records(config, scans=(scan, checked_scan))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two shards, of two records and one."""
    return write_droid(tmp_path / "droid", (5, 4, 3), (16, 24))


def shard(root: Path, number: int = 0) -> Path:
    return sorted(root.glob("*/*.tfrecord-*"))[number]


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def place_of(root: Path, record: int) -> tuple[int, int]:
    """Return where a record's payload starts in its file, and its length."""
    _, _, start, length, _ = opened(root)._rows[record].tolist()
    return start, length


def test_the_index_looks_at_no_picture(root: Path, monkeypatch) -> None:
    looked: list[int] = []
    monkeypatch.setattr(tfrecord.Window, "SIZE", 256)
    monkeypatch.setattr(rlds_records, "index", lambda f, names, scan, version: (
        {name: scan(Spy(f.root, looked), name) for name in names}, {}
    ))  # fmt: skip
    assert opened(root).steps == [5, 4, 3]
    assert sum(looked) < 0.7 * sum(path.stat().st_size for path in root.glob("*/*.tfrecord-*"))


class Spy(rlds_shards.Folder):
    """Counts the bytes that are looked at."""

    def __init__(self, root: str, looked: list[int]) -> None:
        super().__init__(root)
        self.looked = looked

    def view(self, name: str, start: int, length: int) -> memoryview:
        self.looked.append(length)
        return super().view(name, start, length)


@pytest.mark.parametrize("picture", [True, False])
def test_a_flipped_bit_is_found_when_the_record_is_read(root: Path, picture: bool) -> None:
    start, length = place_of(root, 1)
    at = bytes(shard(root).read_bytes()).index(b"\xff\xd8", start) + 40 if picture else start + 3
    flip(shard(root), at)
    message = rf"{shard(root)}: record 1 at byte {start - 12} fails its checksum"
    if not picture:  # the message itself is torn: the index cannot be made
        with pytest.raises(DataError, match=message):
            opened(root)
        return
    records = opened(root)
    assert records.numbers(0, "steps/action").shape == (5, 7)
    for _ in range(2):
        with pytest.raises(DataError, match=message):
            records.numbers(1, "steps/action")
    assert records.numbers(2, "steps/action").shape == (3, 7)
    assert opened(root, checksums=False).numbers(1, "steps/action").shape == (4, 7)
    assert length


def test_broken_records_can_be_left_out(root: Path) -> None:
    flip(shard(root), place_of(root, 0)[0] + 2000)
    with pytest.raises(DataError, match=r"1 of 3 records are broken.*record 0 at byte 0"):
        opened(root, on_error="skip")
    records = opened(root, on_error="skip", most_skipped=0.5)
    assert records.steps == [4, 3]
    (name,) = records.skipped
    assert name == f"1.0.0/{shard(root).name}, record 0"
    assert "fails its checksum" in records.skipped[name]
    assert records.numbers(0, "steps/action").shape == (4, 7)


def test_behind_a_broken_length_all_is_lost(root: Path) -> None:
    flip(shard(root), 3)
    with pytest.raises(DataError, match=r"record 0 at byte 0 has a length .* rest of the file"):
        opened(root)
    records = opened(root, on_error="skip", most_skipped=0.7)
    assert records.steps == [3]
    assert len(records.skipped) == 2


def cut_between(root: Path) -> None:
    start, _ = place_of(root, 1)
    shard(root).write_bytes(shard(root).read_bytes()[: start - 12])


def add_one(root: Path) -> None:
    shard(root).write_bytes(shard(root).read_bytes() + shard(root, 1).read_bytes())


def rename(root: Path) -> None:
    shard(root).rename(str(shard(root)).replace("-of-00002", "-of-00003"))


def beyond(root: Path) -> None:
    shard(root, 1).rename(str(shard(root, 1)).replace("-00001-of", "-00007-of"))


def another(root: Path) -> None:
    shutil.copy(shard(root), str(shard(root)).replace("r2d2_faceblur", "other"))


def edit(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def changed(root: Path) -> None:
        path = root / "1.0.0" / name
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    return changed


def remove(pattern: str) -> Callable[[Path], None]:
    def removed(root: Path) -> None:
        for path in root.glob(f"*/{pattern}"):
            path.unlink()

    return removed


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut_between, "has 1 records, dataset_info.json says 2; it is cut off between records"),
        (add_one, "has 3 records, dataset_info.json says 2"),
        (rename, "do not belong together"),
        (beyond, "is beyond the last"),
        (another, "do not belong together"),
        (lambda root: shard(root).write_bytes(b""), "has 0 records, dataset_info.json says 2"),
        (lambda root: shard(root).write_bytes(framed(b"") * 2), "record 0 at byte 0: it is empty"),
        (lambda root: shard(root).write_bytes(framed(b"text") * 2), "wire type"),
        (remove("*.tfrecord*"), "has no shards of train"),
        (remove("features.json"), "has no features.json"),
        (remove("dataset_info.json"), "dataset_info.json cannot be read"),
        (edit("dataset_info.json", lambda i: i.update(fileFormat="array_record")), "array_record"),
        (edit("dataset_info.json", lambda i: i.update(splits=[])), "lists no splits"),
        (edit("dataset_info.json", lambda i: i.update(splits=[{}])), "no splits that we under"),
        *(
            (
                edit("dataset_info.json", lambda i, n=n: i["splits"][0].update(shardLengths=[n])),
                "no splits that we under",
            )
            for n in (10**30, -1, float("inf"))
        ),
    ],
)
def test_a_damaged_data_set_is_named(root: Path, damage, reason: str) -> None:
    damage(root)
    with pytest.raises(DataError, match=reason):
        opened(root)


def test_some_shards_suffice(root: Path) -> None:
    shard(root).rename(f"{shard(root)}.part")
    (root / "1.0.0" / "statistics_cache.json").write_text("{}")
    assert opened(root).steps == [3]


def test_counts_need_not_be_known(root: Path) -> None:
    edit("dataset_info.json", lambda info: info["splits"][0].pop("shardLengths"))(root)
    assert opened(root).steps == [5, 4, 3]


def test_the_highest_version_is_read(root: Path) -> None:
    write_droid(root, (6,), (16, 24), more=True)
    shutil.copytree(root / "1.0.1", root / "1.0.10")
    assert opened(root).place == "1.0.10/"
    assert opened(root, version="1.0.0").steps == [5, 4, 3]
    assert opened(root / "1.0.1").steps == [6]
    with pytest.raises(DataError, match=r"has no version 2.0.0; it has \['1.0.0/', '1.0.1/'"):
        opened(root, version="2.0.0")
    with pytest.raises(DataError, match=r"has no splits \['test'\]; it has \['train'\]"):
        opened(root, ("test",))
