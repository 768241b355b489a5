"""HDF5 files are read exactly, in any process, and what is not all there is refused."""

import os
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext, ForkServerContext
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from saccade.data.files import hdf5
from saccade.data.files.folder import Folder
from saccade.data.files.hdf5 import Hdf5Files
from saccade.errors import DataError

NAME = "x.hdf5"
VALUES = np.arange(40 * 3, dtype=np.float32).reshape(40, 3)
ORDERS = ([], [7], [3, 4, 5], [0, 39], [39, 0, 0, 12], [5, 4, 3], list(range(40)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / NAME


def write(path: Path, **options: Any) -> Hdf5Files:
    """Write ``VALUES`` as ``group/values``."""
    with h5py.File(path, "w") as file:
        file.create_dataset("group/values", data=VALUES, **options)
    return Hdf5Files(Folder(path.parent))


def read(files: Hdf5Files, frames: list[int], name: str = NAME) -> np.ndarray:
    return files.rows(name, "group/values", np.array(frames, np.int64))


LAYOUTS: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "big endian": {"dtype": ">f8"},
    "one row per chunk": {"chunks": (1, 3)},
    "chunks across rows and columns": {"chunks": (7, 2), "compression": "gzip", "shuffle": True},
    "checksums": {"chunks": (8, 3), "fletcher32": True},
    "lzf": {"compression": "lzf"},
    "may grow": {"maxshape": (None, 3)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("span", [0, 1 << 16])  # bytes that are read at once for scattered rows
def test_rows_come_in_the_order_asked_for(
    path: Path, layout: str, span: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hdf5, "SPAN", span)
    files = write(path, **LAYOUTS[layout])
    for order in ORDERS:
        np.testing.assert_array_equal(read(files, order), VALUES[np.array(order, np.int64)])
    column = files.dataset(NAME, "group/values")
    assert (column.shape, column.dtype) == ((40, 3), np.dtype(LAYOUTS[layout].get("dtype", "f4")))
    assert column.plain == (layout in ("contiguous", "big endian"))
    for outside in ([40], [-1, 3], [3, 99]):
        with pytest.raises(DataError, match=r"x\.hdf5: group/values has 40 rows, needed are"):
            read(files, outside)


def test_kinds_of_numbers(path: Path) -> None:
    stored = {
        "bool": np.array([True, False, True]),
        "bytes": np.arange(3, dtype=np.uint8),
        "half": np.array([0.5, 2, 3], np.float16),
        "deep": np.arange(24, dtype=np.int64).reshape(3, 2, 4),
        "thin": np.empty((3, 0), np.float32),
    }
    with h5py.File(path, "w", userblock_size=1024) as file:  # data lie behind other data
        file.update(stored)
    files = Hdf5Files(Folder(path.parent))
    for key, values in stored.items():
        rows = files.rows(NAME, key, np.array([2, 0]))
        assert rows.dtype == values.dtype
        np.testing.assert_array_equal(rows, values[[2, 0]])


def test_attributes_are_plain_values(path: Path) -> None:
    with h5py.File(path, "w") as file:
        group = file.create_group("g")
        group.attrs["text"], group.attrs["bytes"] = "grün", np.bytes_(b"abc")
        group.attrs["number"], group.attrs["flag"] = np.int32(3), np.bool_(True)
        group.attrs["many"], group.attrs["words"] = np.array([1.5, 2]), ["a", "b"]
        group.attrs["nothing"] = h5py.Empty("f4")
    files = Hdf5Files(Folder(path.parent))
    found = files.attrs(NAME, "g")
    assert found == {
        "text": "grün",
        "bytes": "abc",
        "number": 3,
        "flag": True,
        "many": [1.5, 2.0],
        "words": ["a", "b"],
        "nothing": None,
    }
    assert type(found["number"]) is int
    assert files.attrs(NAME, "g", only=("number", "absent")) == {"number": 3}
    assert files.attrs(NAME) == {}


def test_keys_are_in_natural_order(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for name in ("demo_10", "demo_2", "demo_0"):
            file.create_group(f"data/{name}")
    files = Hdf5Files(Folder(path.parent))
    assert files.keys(NAME, "data") == ["demo_0", "demo_2", "demo_10"]
    assert files.keys(NAME) == ["data"]


def test_links_are_followed_inside_the_file_only(path: Path) -> None:
    write(path.with_name("other.hdf5"))
    with h5py.File(path, "w") as file:
        file["group/values"] = VALUES
        file["there"] = h5py.SoftLink("/group")
        file["group/again"] = h5py.SoftLink("values")
        file["circle"] = h5py.SoftLink("/circle")
        file["outside"] = h5py.ExternalLink("other.hdf5", "/group")
        file["hidden"] = h5py.SoftLink("/outside")
    files = Hdf5Files(Folder(path.parent))
    for key in ("there/values", "there/again"):
        np.testing.assert_array_equal(files.rows(NAME, key, np.arange(40)), VALUES)
    for key in ("outside/values", "hidden/values", "circle"):
        with pytest.raises(DataError, match=rf"{key} is a link that leaves the file or runs in"):
            files.dataset(NAME, key)


def test_data_in_other_files_are_refused(path: Path) -> None:
    layout = h5py.VirtualLayout(shape=(40, 3), dtype="f4")
    layout[:] = h5py.VirtualSource(str(path.with_name("other.hdf5")), "group/values", (40, 3))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("virtual", layout)
        raw = [(str(path.with_name("raw")), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("raw", (4,), "f4", external=raw)
    for key in ("virtual", "raw"):
        with pytest.raises(DataError, match=rf"x\.hdf5: {key} lies in another file"):
            Hdf5Files(Folder(path.parent)).dataset(NAME, key)


def test_what_is_no_array_of_numbers_is_refused(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["group/values"], file["text"] = VALUES, "hello"
        file["pairs"] = np.zeros(3, [("a", "f4")])
        file["empty"] = h5py.Empty("f4")
        file["scalar"] = 1.5
    files = Hdf5Files(Folder(path.parent))
    for key in ("text", "pairs", "empty"):
        with pytest.raises(DataError, match=rf"x\.hdf5: {key} holds .*, expected numbers"):
            files.dataset(NAME, key)
    with pytest.raises(DataError, match=r"scalar has 0 rows"):
        files.rows(NAME, "scalar", np.array([0]))
    with pytest.raises(DataError, match=r"group is a group of \['values'\], expected numbers"):
        files.dataset(NAME, "group")
    with pytest.raises(
        DataError, match=r"group/values cannot be read \(it is a data set, expected a group"
    ):
        files.keys(NAME, "group/values")
    for key in ("group/none", "none/values", "group/values/none"):
        with pytest.raises(DataError, match=rf"x\.hdf5: there is no {key}, .* has \["):
            files.attrs(NAME, key)


def test_chunks_of_gigabytes_are_refused(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("group/values", (9, 1 << 27), "f8", chunks=(1, 1 << 27))
    with pytest.raises(DataError, match=r"group/values has chunks of 1073741824 bytes, at most"):
        Hdf5Files(Folder(path.parent)).dataset(NAME, "group/values")


CHUNKED = {"chunks": (1, 3), "compression": "gzip"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda whole: b"", "no HDF5 file"),
        (lambda whole: b"not HDF5 " * 100, "no HDF5 file"),
        (lambda whole: whole[:100], "download it again"),
        (lambda whole: whole[: len(whole) * 7 // 10], "is cut off"),
        (lambda whole: whole[:-1], "is cut off"),
        (lambda whole: whole.replace(b"TREE", b"EERT"), "download it again"),
        (lambda whole: whole.replace(b"HEAP", b"PAEH"), "download it again"),
    ],
)
def test_damaged_files_are_refused(
    path: Path, spoil: Callable[[bytes], bytes], message: str
) -> None:
    write(path)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError, match=rf"x\.hdf5.*{message}"):
        read(Hdf5Files(Folder(path.parent)), [0])


def test_huge_attributes_are_refused(path: Path) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs["huge"] = np.zeros(3_000_000)
    with pytest.raises(DataError, match=r"huge claims to have 24000000 bytes, 16777216 are"):
        Hdf5Files(Folder(path.parent)).attrs(NAME)


def test_a_missing_file_is_named(path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.hdf5"):
        Hdf5Files(Folder(path.parent)).keys(NAME)


def test_a_flipped_byte_of_a_compressed_row_is_noticed(path: Path) -> None:
    write(path, chunks=(1, 3), compression="gzip", fletcher32=True)
    with h5py.File(path) as file:
        data = file["group/values"]
        assert isinstance(data, h5py.Dataset)
        offset = data.id.get_chunk_info_by_coord((7, 0)).byte_offset
    whole = bytearray(path.read_bytes())
    whole[offset + 4] ^= 1
    path.write_bytes(whole)
    files = Hdf5Files(Folder(path.parent))
    np.testing.assert_array_equal(read(files, [6]), VALUES[6:7])
    with pytest.raises(DataError, match=r"x\.hdf5: group/values cannot be read"):
        read(files, [7])


def test_a_file_cut_off_while_it_is_read_is_an_error_and_no_crash(path: Path) -> None:
    files = write(path)
    assert len(read(files, [0])) == 1
    os.truncate(path, 100)
    with pytest.raises(DataError, match=r"group/values cannot be read \(the file was cut off"):
        read(files, [39])


def test_a_missing_filter_is_named(path: Path) -> None:
    with h5py.File(path, "w") as file:
        data = file.create_dataset("group/values", (4, 3), "f4", chunks=(4, 3), compression="gzip")
        data.id.write_direct_chunk((0, 0), b"x" * 20)
    # the number of the filter (1, gzip) becomes one that nobody registered (400)
    whole, old = path.read_bytes(), (1).to_bytes(2, "little") + (8).to_bytes(2, "little")
    at = whole.index(b"deflate") - 8
    assert whole[at : at + 4] == old
    path.write_bytes(whole[:at] + (400).to_bytes(2, "little") + whole[at + 2 :])
    with pytest.raises(DataError, match=r"its compression is not installed here"):
        read(Hdf5Files(Folder(path.parent)), [0])


WRITER = """
import sys
import h5py
file = h5py.File(sys.argv[1], "w", libver=sys.argv[2])
data = file.create_dataset("group/values", (40, 3), "f4", chunks=(1, 3))
file.create_dataset("later", (40, 3), "f4")
data[:20] = 1
file.flush()
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_a_killed_writer_leaves_no_zeros(path: Path, version: str) -> None:
    command = [sys.executable, "-c", WRITER, str(path), version]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(DataError, match=r"x\.hdf5 is open for writing; wait"):
            read(Hdf5Files(Folder(path.parent)), [0])
        writer.kill()
    files = Hdf5Files(Folder(path.parent))
    with pytest.raises(DataError, match=r"group/values: 20 of 40 parts were written, its writer"):
        read(files, [0])
    with pytest.raises(DataError, match=r"later: 0 of 1 parts were written"):
        files.dataset(NAME, "later")


def test_a_killed_writer_that_wrote_no_end_is_named(path: Path) -> None:
    code = WRITER.replace("file.flush()", "")
    command = [sys.executable, "-c", code, str(path), "earliest"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        writer.kill()
    with pytest.raises(DataError, match=r"x\.hdf5 cannot be read"):
        read(Hdf5Files(Folder(path.parent)), [0])


def descriptors(folder: Path) -> int:
    """Count what this process has open in a folder."""
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return sum(os.readlink(link).startswith(str(folder)) for link in links if os.path.islink(link))


def test_few_files_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "OPEN_FILES", 4)
    monkeypatch.setattr(hdf5, "OPEN_HANDLES", 2)
    names = [f"{i}.hdf5" for i in range(10)]
    before = h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)
    for i, name in enumerate(names):
        write(tmp_path / name, chunks=(1, 3) if i % 2 else None)
    files = Hdf5Files(Folder(tmp_path))
    for name in names * 3:
        np.testing.assert_array_equal(read(files, [5], name), VALUES[5:6])
        assert descriptors(tmp_path) <= 4
        assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE) <= before + 2
    del files
    assert descriptors(tmp_path) == 0


def child(files: Hdf5Files, told: Connection) -> None:
    same = bool((read(files, [3, 39]) == VALUES[[3, 39]]).all())
    told.send((same, descriptors(Path(files.folder.root))))


@pytest.mark.parametrize("options", [{}, CHUNKED])
@pytest.mark.parametrize("context", [get_context("fork"), get_context("forkserver")])
def test_other_processes_open_their_own(
    path: Path, options: dict[str, Any], context: ForkContext | ForkServerContext
) -> None:
    files = write(path, **options)
    read(files, [0])
    assert len(pickle.dumps(files)) < 1000
    assert descriptors(path.parent) == 1
    here, there = context.Pipe()
    process = context.Process(target=child, args=(files, there))  # forked: these very files
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch has threads: we fork anyway
        process.start()
    assert here.recv() == (True, 1)
    process.join()
    read(files, [1])


def test_threads_may_share_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "OPEN_FILES", 2)
    monkeypatch.setattr(hdf5, "OPEN_HANDLES", 1)
    for i in range(4):
        write(tmp_path / f"{i}.hdf5", **(CHUNKED if i % 2 else {}))
    files, wrong = Hdf5Files(Folder(tmp_path)), []

    def work(seed: int) -> None:
        for which, row in np.random.default_rng(seed).integers((4, 40), size=(100, 2)).tolist():
            try:
                if not (read(files, [row], f"{which}.hdf5") == VALUES[row]).all():
                    wrong.append(f"{which} {row}")
            except DataError as error:
                wrong.append(str(error))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_nobody_who_opens_the_same_file_is_disturbed(path: Path) -> None:
    files = write(path, chunks=(1, 3))
    read(files, [0])
    for locking in (True, False):
        with h5py.File(path, locking=locking) as file:
            assert "group" in file
    with h5py.File(path, "r+") as file:  # nor who writes
        file.attrs["seen"] = 1
    np.testing.assert_array_equal(read(files, [4]), VALUES[4:5])


KEPT_TO_THE_END = """
import ctypes, sys
import numpy as np
from saccade.data.files.folder import Folder
from saccade.data.files.hdf5 import Hdf5Files
files = Hdf5Files(Folder(sys.argv[1]))
column = files.dataset("x.hdf5", "group/values")
for kept in (files, column):
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
"""


@pytest.mark.parametrize("options", [{}, CHUNKED])
def test_a_process_may_end_with_files_open(path: Path, options: dict[str, Any]) -> None:
    write(path, **options)
    command = [sys.executable, "-c", KEPT_TO_THE_END, str(path.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
