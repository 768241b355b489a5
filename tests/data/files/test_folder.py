"""A folder on disk is read in place, lists what a person would, and says what is wrong."""

import mmap
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from saccade.data.files.folder import OPEN_FILES, Folder, natural, open_folder, visible
from saccade.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    names = ["im_10.jpg", "im_2.jpg", "a b%20.txt", "sub/im_1.jpg", "sub/deep/x.jpg", ".git/config"]
    names += ["sub/y.jpg.part", "z.incomplete.gstmp", "sub/.hidden", "café.txt", "empty.bin"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode() if name != "empty.bin" else b"")
    (tmp_path / "nothing in it").mkdir()
    return tmp_path


def test_lists_in_the_order_of_numbers_without_hidden_and_unfinished_files(root: Path) -> None:
    folder = open_folder(root)
    files = ["a b%20.txt", "café.txt", "empty.bin", "im_2.jpg", "im_10.jpg"]
    assert folder.children() == [*files, "nothing in it/", "sub/"]
    assert folder.children("sub") == ["deep/", "im_1.jpg"]
    assert folder.children("sub/") == ["deep/", "im_1.jpg"]
    assert folder.children("nothing in it") == []
    assert folder.children("absent") == folder.children("im_2.jpg") == []
    assert folder.names() == [*files, "sub/deep/x.jpg", "sub/im_1.jpg"]
    assert folder.names("sub") == ["sub/deep/x.jpg", "sub/im_1.jpg"]
    assert folder.names("sub/") == ["sub/deep/x.jpg", "sub/im_1.jpg"]
    assert folder.names(suffix="0.jpg") == ["im_10.jpg"]
    assert folder.names("absent") == []


def test_knows_files_and_their_sizes(root: Path) -> None:
    folder = Folder(root)
    assert "im_2.jpg" in folder
    assert "sub/deep/x.jpg" in folder
    assert "sub" not in folder
    assert "absent" not in folder
    assert folder.size("im_2.jpg") == 8
    assert folder.read("café.txt") == "café.txt".encode()
    assert folder.read("empty.bin") == b""
    assert folder.path("sub/im_1.jpg") == root / "sub" / "im_1.jpg"
    assert folder.label("a b") == f"{root}/a b"
    for use in (folder.size, folder.stamp, folder.read, folder.path):
        with pytest.raises(DataError, match=r"sub/absent.jpg cannot be read \(.*No such file"):
            use("sub/absent.jpg")


def test_a_stamp_changes_when_a_file_does(root: Path) -> None:
    folder, path = Folder(root), root / "im_2.jpg"
    before = folder.stamp("im_2.jpg")
    assert folder.stamp("im_2.jpg") == before
    os.utime(path, ns=(1, 1))
    touched = folder.stamp("im_2.jpg")
    path.write_bytes(b"longer than it was")
    os.utime(path, ns=(1, 1))
    assert len({before, touched, folder.stamp("im_2.jpg")}) == 3


def test_views_are_parts_of_the_file_and_stay_good(root: Path) -> None:
    data = np.random.default_rng(0).bytes(10_000)
    for number in range(3 * OPEN_FILES):
        (root / f"{number}.bin").write_bytes(data[number:])
    folder = Folder(root)
    views = [folder.view(f"{n}.bin", 100, 50) for n in range(3 * OPEN_FILES)]
    assert all(bytes(view) == data[n + 100 : n + 150] for n, view in enumerate(views))
    assert isinstance(views[0].obj, mmap.mmap), "nothing is copied"
    assert views[0].readonly
    assert len(folder._maps) == OPEN_FILES
    assert bytes(folder.view("0.bin", 0, 0)) == b""
    (root / "0.bin").unlink()
    assert bytes(views[0]) == data[100:150]


@pytest.mark.parametrize("span", [(0, 9), (8, 1), (9, 0), (-1, 2), (2, -1), (0, 2**62)])
def test_views_end_where_the_file_does(root: Path, span: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"im_2.jpg ends at 8 bytes, needed are"):
        Folder(root).view("im_2.jpg", *span)


def test_views_of_what_cannot_be_mapped(root: Path) -> None:
    folder = Folder(root)
    with pytest.raises(DataError, match=r"absent cannot be read"):
        folder.view("absent", 0, 1)
    with pytest.raises(DataError, match=r"sub cannot be read"):
        folder.view("sub", 0, 1)
    with pytest.raises(DataError, match=r"empty.bin"):
        folder.view("empty.bin", 0, 1)


def look(folder: Folder) -> bytes:
    return bytes(folder.view("im_10.jpg", 3, 2))


def test_a_folder_travels_to_other_processes_and_threads(root: Path) -> None:
    folder = Folder(root)
    assert look(folder) == b"10"
    copy = pickle.loads(pickle.dumps(folder))
    assert not copy._maps
    assert look(copy) == b"10"
    with get_context("fork").Pool(1) as pool:
        assert pool.apply(look, (folder,)) == b"10"
    with ThreadPoolExecutor(8) as threads:
        names = [f"im_{n}.jpg" for n in (2, 10)] * 500
        found = list(threads.map(lambda name: bytes(folder.view(name, 0, 4)), names))
    assert found == [b"im_2", b"im_1"] * 500


@pytest.mark.parametrize(
    ("name", "found"), [("absent", "nothing is there"), ("im_2.jpg", "a file")]
)
def test_what_is_no_folder_is_said(root: Path, name: str, found: str) -> None:
    with pytest.raises(DataError, match=rf"{name} is no folder \(.*{found}"):
        open_folder(root / name)


def test_names_that_are_no_text_do_not_stop_a_listing(root: Path) -> None:
    odd = os.fsencode(root) + b"/\xff\xfe.jpg"
    Path(os.fsdecode(odd)).write_bytes(b"odd")
    folder = Folder(root)
    assert [name for name in folder.names() if folder.read(name) == b"odd"] == ["\udcff\udcfe.jpg"]


def test_a_loop_of_links_ends(root: Path) -> None:
    (root / "sub" / "loop").symlink_to(root / "sub")
    assert Folder(root).names("sub") == ["sub/deep/x.jpg", "sub/im_1.jpg"]
    (root / "other").symlink_to(root / "sub" / "deep")
    assert Folder(root).names("other") == ["other/x.jpg"], "other links are followed"


def test_natural_order_and_visibility() -> None:
    names = ["b1", "a10b2", "a9", "a10b10", "a", "a010b", "a1²2"]
    assert sorted(names, key=natural) == ["a", "a1²2", "a9", "a010b", "a10b2", "a10b10", "b1"]
    assert visible("a.jpg")
    hidden = (".a", "a.part", "a.tmp", "a.tmp/", "x.mp4.partial", "y.gstmp", "z.crdownload")
    assert not any(map(visible, hidden))
