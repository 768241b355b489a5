import tarfile
from pathlib import Path

import pytest

from saccade.errors import DataError
from saccade.sim.libero import package
from saccade.sim.libero.assets import PARTS, VARIABLE, find_assets, standins


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like the assets."""
    for part in PARTS:
        (tmp_path / "in" / "assets" / part).mkdir(parents=True)
    (tmp_path / "in" / "assets" / "scenes" / "lamp.msh").write_bytes(b"mesh")
    return tmp_path / "in" / "assets"


def test_a_folder_is_taken_as_it_is_or_with_one_around_it(folder: Path, monkeypatch) -> None:
    assert find_assets(folder) == folder
    assert find_assets(folder.parent) == folder
    monkeypatch.setenv(VARIABLE, str(folder))
    assert find_assets() == folder


def test_an_archive_is_unpacked_into_the_cache_once(folder: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "cache"))
    archive = tmp_path / "assets.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(folder, "libero_assets")
    found = find_assets(archive)
    assert found.is_relative_to(tmp_path / "cache")
    assert (found / "scenes" / "lamp.msh").read_bytes() == b"mesh"
    (found / "scenes" / "lamp.msh").write_bytes(b"kept")
    assert find_assets(archive) == found
    assert (found / "scenes" / "lamp.msh").read_bytes() == b"kept"


def test_what_holds_no_assets_is_refused(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(DataError, match="holds no LIBERO assets, expected the folders articulated"):
        find_assets(tmp_path)
    with pytest.raises(DataError, match="nothing does not exist"):
        find_assets(tmp_path / "nothing")
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "cache"))
    archive = tmp_path / "assets.tar"
    with tarfile.open(archive, "w") as tar:
        link = tarfile.TarInfo("scenes")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    with pytest.raises(DataError, match="its member 'scenes' is no plain file or folder"):
        find_assets(archive)


def test_without_any_the_sentence_names_the_variable(tmp_path: Path, monkeypatch) -> None:
    def offline() -> Path:
        raise OSError("Cannot reach\nthe hub")

    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(package, "root", lambda: tmp_path / "package")
    monkeypatch.setattr(package, "download_assets", offline)
    with pytest.raises(DataError, match=rf"package/assets .*Cannot reach the hub.*set {VARIABLE}"):
        find_assets()


def test_substitutes_are_counted(folder: Path) -> None:
    assert standins(folder) == 0
    (folder / "STANDINS.txt").write_text("Not authentic:\nscenes/lamp.msh\nscenes/absent.msh\n")
    assert standins(folder) == 1
