"""A folder is scanned once: later only what changed in it, and damage of the table is mended."""

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from saccade.data.files import index as module
from saccade.data.files.folder import Folder
from saccade.data.files.index import cache_folder, index
from saccade.errors import DataError


def scan(folder: Folder, name: str) -> Any:
    """Count the letters, and leave a trace of having done so."""
    text = folder.read(name).decode()
    with Path(folder.root, "..", "trace").open("a") as trace:
        trace.write(f"{name}\n")
    if "x" in text:
        raise DataError(f"{folder.label(name)} has an x")
    return {"letters": len(text), "in": multiprocessing.parent_process() is not None}


def killed(folder: Folder, name: str) -> Any:
    os.kill(os.getpid(), 9)


def other_scan(folder: Folder, name: str) -> Any:
    return [name]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    for number in range(5):
        (tmp_path / "set" / f"{number}.txt").write_text("a" * number)
    return Folder(tmp_path / "set")


def scanned(folder: Folder) -> list[str]:
    """Return which files were scanned since the last call."""
    trace = Path(folder.root, "..", "trace")
    names = trace.read_text().split() if trace.exists() else []
    trace.unlink(missing_ok=True)
    return names


def letters(folder: Folder, **options: Any) -> dict[str, int]:
    found, _ = index(folder, folder.names(), scan, 1, **options)
    return {name: value["letters"] for name, value in found.items()}


def test_scans_once_and_then_what_changed(folder: Folder) -> None:
    expected = {f"{n}.txt": n for n in range(5)}
    assert letters(folder) == expected
    assert scanned(folder) == list(expected)
    assert letters(Folder(folder.root)) == expected
    assert letters(Folder(os.path.relpath(folder.root))) == expected
    assert scanned(folder) == []
    Path(folder.root, "2.txt").write_text("b" * 20)
    Path(folder.root, "9.txt").write_text("new")
    Path(folder.root, "4.txt").unlink()
    assert letters(folder) == {"0.txt": 0, "1.txt": 1, "2.txt": 20, "3.txt": 3, "9.txt": 3}
    assert scanned(folder) == ["2.txt", "9.txt"]
    found, _ = index(folder, ["9.txt", "0.txt"], scan, 1)
    assert list(found) == ["9.txt", "0.txt"], "in the order asked for"
    assert scanned(folder) == []


def test_another_scan_or_version_or_folder_has_its_own_table(folder: Folder) -> None:
    letters(folder)
    scanned(folder)
    assert index(folder, ["0.txt"], other_scan, 1)[0] == {"0.txt": ["0.txt"]}
    index(folder, ["0.txt"], scan, 2)
    assert scanned(folder) == ["0.txt"]
    assert len(list((cache_folder() / "index").iterdir())) == 3


def test_no_names_no_table(folder: Folder) -> None:
    assert index(folder, [], scan, 1) == ({}, {})
    assert not (cache_folder() / "index").exists()


def test_a_broken_file_is_an_error_and_what_was_learned_is_kept(folder: Folder) -> None:
    Path(folder.root, "3.txt").write_text("axa")
    with pytest.raises(DataError, match=r"3\.txt has an x"):
        letters(folder)
    assert scanned(folder) == ["0.txt", "1.txt", "2.txt", "3.txt"]
    Path(folder.root, "3.txt").write_text("mended")
    assert letters(folder)["3.txt"] == 6
    assert scanned(folder) == ["3.txt", "4.txt"]


def test_broken_files_may_be_skipped_up_to_a_share(folder: Folder) -> None:
    Path(folder.root, "3.txt").write_text("axa")
    found, lost = index(folder, folder.names(), scan, 1, "skip", 0.2)
    assert list(found) == ["0.txt", "1.txt", "2.txt", "4.txt"]
    assert lost == {"3.txt": f"{folder.root}/3.txt has an x"}
    again = index(folder, folder.names(), scan, 1, "skip", 0.2)
    assert again == (found, lost)
    assert scanned(folder)[-1] == "3.txt", "the fault is found again, not forgotten"
    with pytest.raises(DataError, match=r"1 of 5 files are broken, more than the 19.00%"):
        index(folder, folder.names(), scan, 1, "skip", 0.19)


def test_a_link_that_leads_nowhere_is_a_broken_file(folder: Folder) -> None:
    Path(folder.root, "9.txt").symlink_to("gone")
    with pytest.raises(DataError, match=r"9\.txt cannot be read"):
        letters(folder)
    assert len(letters(folder, on_error="skip", most_skipped=0.5)) == 5


def test_a_killed_process_is_said(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PARALLEL", 2)
    with pytest.raises(DataError, match="was killed, probably for want of memory; open the data"):
        index(folder, folder.names(), killed, 1)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
        lambda data: b"no parquet at all",
    ],
)
def test_a_damaged_table_is_built_again(folder: Folder, spoil) -> None:
    expected = letters(folder)
    [store] = (cache_folder() / "index").iterdir()
    store.write_bytes(spoil(store.read_bytes()))
    scanned(folder)
    assert letters(folder) == expected
    assert len(scanned(folder)) == 5


def test_a_cache_that_cannot_be_written_is_said_and_does_not_matter(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=r"cannot be written .*set SACCADE_CACHE"):
        assert letters(folder) == {f"{n}.txt": n for n in range(5)}


def test_many_files_are_scanned_by_several_processes(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PARALLEL", 3)
    Path(folder.root, "3.txt").write_text("axa")
    found, lost = index(folder, folder.names(), scan, 1, "skip", 0.5)
    assert [value["in"] for value in found.values()] == [True] * 4
    assert list(lost) == ["3.txt"]
    assert sorted(scanned(folder)) == [f"{n}.txt" for n in range(5)]


def test_the_cache_is_where_it_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SACCADE_CACHE", "~/there")
    assert cache_folder() == Path("~/there").expanduser()
    assert cache_folder("/here") == Path("/here")
    monkeypatch.delenv("SACCADE_CACHE")
    assert cache_folder() == Path("~/.cache/saccade").expanduser()


def test_values_are_what_json_makes_of_them(folder: Folder) -> None:
    first, _ = index(folder, ["0.txt"], other_scan, 1)
    second, _ = index(folder, ["0.txt"], other_scan, 1)
    assert first == second
    assert json.dumps(second)
