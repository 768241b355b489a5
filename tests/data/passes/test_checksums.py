"""Every file is compared: what changed, is missing, is new or cannot be read has a sentence."""

import hashlib
from pathlib import Path

import pytest

from saccade.data.passes.checksums import checksums, compare, from_json, load_checksums, merged
from saccade.data.passes.shards import Shard
from saccade.errors import DataError

EMPTY = hashlib.sha256(b"").hexdigest()
NAMES = ("a.bin", "deep/b 2.bin", "deep/b 10.bin", "ünï\nline\\n.txt")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(number))
    (tmp_path / "data" / ".hidden").write_bytes(b"x")
    (tmp_path / "data" / "c.part").write_bytes(b"x")
    return tmp_path / "data"


def faults(path: Path, root: Path) -> list[str]:
    _, found = compare(path, checksums(str(root), [path]))
    assert all(fault["episode"] == -1 for fault in found)
    return [fault["error"] for fault in found]


def test_a_line_for_each_file(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "sums" / "list.sha256"
    about, found = compare(path, checksums(str(root), jobs=2))
    assert about == {"file": str(path), "files": 4, "bytes": 0 + 1 + 2 + 3, "written": True}
    assert found == []
    first, second, third, fourth = path.read_text().splitlines()
    assert first == f"{EMPTY}  0  a.bin"
    assert second == f"{hashlib.sha256(bytes(1)).hexdigest()}  1  deep/b 2.bin"
    assert third.endswith("  2  deep/b 10.bin")
    assert fourth.endswith("  3  ünï\\nline\\\\n.txt")
    assert set(load_checksums(path)) == set(NAMES)
    about, found = compare(path, checksums(f"{root}/"))
    assert (about["written"], found) == (False, [])


def test_what_is_not_as_it_was_is_named(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "sums"
    assert faults(path, root) == []
    written = path.read_bytes()
    (root / "a.bin").write_bytes(b"longer")
    (root / "deep" / "b 2.bin").write_bytes(b"\x01")  # one bit
    (root / "deep" / "b 10.bin").unlink()
    (root / "new").touch()
    a, b, gone, new = faults(path, root)
    assert a == (
        f"a.bin changed: it has 6 bytes, not 0; restore it, or delete {path} if that is meant"
    )
    assert "deep/b 2.bin changed: its SHA-256 is 4bf5122f3445..., not 6e340b9cffb3..." in b
    assert gone.startswith(f"deep/b 10.bin is missing, though {path} names it; restore it")
    assert new.startswith(f"new is new, {path} does not name it; remove it")
    assert path.read_bytes() == written


def test_what_cannot_be_read_is_no_checksum(root: Path, tmp_path: Path) -> None:
    (root / "lost").symlink_to(root / "nowhere")
    about, (fault,) = compare(tmp_path / "sums", checksums(str(root)))
    assert f"{root}/lost cannot be read" in fault["error"]
    assert not about["written"]
    assert not (tmp_path / "sums").exists()
    (root / "lost").unlink()
    assert faults(tmp_path / "sums", root) == []
    (root / "a.bin").unlink()
    (root / "a.bin").symlink_to(root / "nowhere")
    (fault,) = faults(tmp_path / "sums", root)  # and not missing as well
    assert "a.bin cannot be read" in fault


def test_our_own_files_do_not_count(root: Path) -> None:
    path = root / "sums"
    (root / "report.json.parts").mkdir()
    (root / "report.json.parts" / "0-of-2.json").touch()
    ours = [path, root / "report.json"]
    for _ in range(2):
        _, found = compare(path, checksums(str(root), ours))
        assert found == []
    assert len(load_checksums(path)) == 4


def test_shards_find_the_same(root: Path) -> None:
    whole = checksums(str(root))
    parts = [checksums(str(root), shard=Shard(i, 3)) for i in range(3)]
    assert [list(part.found) for part in parts] == [["a.bin", NAMES[3]], [NAMES[1]], [NAMES[2]]]
    assert merged([from_json(part._asdict()) for part in parts]) == whole
    (root / "new").touch()
    with pytest.raises(DataError, match="saw different files"):
        merged([*parts[:2], checksums(str(root), shard=Shard(2, 3))])


def test_a_single_file_is_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x_demo.hdf5").write_bytes(b"")
    (tmp_path / "y_demo.hdf5").write_bytes(b"")
    assert checksums(str(tmp_path / "x_demo.hdf5")).found == {"x_demo.hdf5": (0, EMPTY)}
    monkeypatch.chdir(tmp_path)
    assert checksums("x_demo.hdf5").found == {"x_demo.hdf5": (0, EMPTY)}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        (f"{EMPTY}  0  a\n{EMPTY[:-1]}  0  b\n", 2),
        (f"{EMPTY}  0  a\n{EMPTY}  0  a\n", 2),
        (f"{EMPTY}  0  a\n{EMPTY}  0", 2),
        (f"{EMPTY}  a\n", 1),
    ],
)
def test_a_damaged_list_is_an_error(root: Path, tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "sums"
    path.write_text(text)
    with pytest.raises(DataError, match=f"sums, line {line} is .*expected the SHA-256"):
        compare(path, checksums(str(root)))
    assert path.read_text() == text
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)"):
        compare(tmp_path, checksums(str(root)))
