"""A folder to hand on is complete or absent, and packs to the same bytes."""

import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from saccade.errors import ConfigError
from saccade.experiments.bundle import manifest, whole, zip_folder


def filled(folder: Path) -> Path:
    with whole(folder) as place:
        (place / "part").mkdir()
        (place / "part" / "b.txt").write_text("second")
        (place / "a.txt").write_text("first")
    return folder


def test_a_folder_takes_its_place_when_it_is_complete(tmp_path: Path) -> None:
    filled(tmp_path / "new" / "out")
    (tmp_path / "empty").mkdir()
    filled(tmp_path / "empty")
    assert (tmp_path / "empty" / "part" / "b.txt").read_text() == "second"
    with pytest.raises(FileExistsError), whole(tmp_path / "failed") as place:
        place.mkdir()
    assert sorted(os.listdir(tmp_path)) == ["empty", "new"]
    with pytest.raises(ConfigError, match="empty holds files already; give a new folder"):
        filled(tmp_path / "empty")
    with pytest.raises(ConfigError, match="holds files already"):
        filled(tmp_path / "empty" / "a.txt")


def test_every_file_is_listed_with_its_checksum(tmp_path: Path) -> None:
    files = manifest(filled(tmp_path / "out"))["files"]
    assert list(files) == ["a.txt", "part/b.txt"]
    assert files["a.txt"] == {"bytes": 5, "sha256": hashlib.sha256(b"first").hexdigest()}


def test_the_same_files_pack_to_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        filled(tmp_path / name / "out")
        zip_folder(tmp_path / name / "out", tmp_path / f"{name}.zip")
        os.utime(tmp_path / name / "out" / "a.txt", (1, 1))
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as packed:
        assert packed.namelist() == ["out/a.txt", "out/part/b.txt"]
        assert packed.testzip() is None
        packed.extractall(tmp_path / "unpacked")
    assert (tmp_path / "unpacked" / "out" / "part" / "b.txt").read_text() == "second"
    assert sorted(os.listdir(tmp_path)) == ["one", "one.zip", "two", "two.zip", "unpacked"]
