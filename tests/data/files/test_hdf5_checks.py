"""What the HDF5 library would take gigabytes or for ever to find is refused before."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from h5py import h5o  # pyright: ignore[reportAttributeAccessIssue]

from saccade.data.files.folder import Folder
from saccade.data.files.hdf5 import Hdf5Files
from saccade.data.files.hdf5_checks import check_texts
from saccade.errors import DataError

WORDS = ["hello", "a text of 27 characters ..."]
LISTS = np.array([np.arange(5, dtype="i4"), np.arange(27, dtype="i4")], object)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.hdf5"


def test_damaged_texts_are_refused_where_the_library_hangs(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["text"] = "hello"
    whole = bytearray(path.read_bytes())
    first = whole.index(b"GCOL") + 16
    for size in (0, 2**64 - 32):  # of what is said to be free: on and on, or backwards
        whole[first : first + 16] = bytes(8) + size.to_bytes(8, "little")
        path.write_bytes(whole)
        with pytest.raises(DataError, match=r"attributes of / cannot be read \(its heap of texts"):
            Hdf5Files(Folder(path.parent)).attrs(path.name)


@pytest.mark.parametrize("begin", [0, 1024])  # of the HDF5 data in the file
@pytest.mark.parametrize("name", ["words", "lists", "grün"])
@pytest.mark.parametrize("many", [0, 30])  # attributes before: they go on in another place
def test_texts_of_gigabytes_are_refused(path: Path, begin: int, name: str, many: int) -> None:
    with h5py.File(path, "w", userblock_size=begin) as file:
        group = file.create_group("g")
        for i in range(many):
            group.attrs[f"number {i}"] = "x" * i
        group.attrs[name] = WORDS
        if name == "lists":
            del group.attrs[name]
            group.attrs.create(name, LISTS, dtype=h5py.vlen_dtype("i4"))
    files = Hdf5Files(Folder(path.parent))
    assert len(files.attrs(path.name, "g")) == many + 1
    whole = bytearray(path.read_bytes())
    at = next(i for i in range(len(whole)) if refers(whole, i, 27, begin))
    whole[at + 3] |= 128  # one bit: two gigabytes and more
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"attributes of g cannot be read \(a text in it claims 21"):
        Hdf5Files(Folder(path.parent)).attrs(path.name, "g")


def refers(whole: bytearray, at: int, length: int, begin: int) -> bool:
    """Whether a text of a length in a heap is referred to here."""
    heap = begin + int.from_bytes(whole[at + 4 : at + 12], "little")
    return whole[at : at + 4] == length.to_bytes(4, "little") and whole[heap : heap + 4] == b"GCOL"


def test_a_header_in_circles_ends(path: Path) -> None:
    with h5py.File(path, "w") as file:
        group = file.create_group("g")
        for i in range(30):
            group.attrs[f"number {i}"] = i
        address = h5o.get_info(group.id).addr
    whole, kinds = path.read_bytes(), []

    def read(position: int, length: int) -> bytes:
        kinds.append(length)
        part = whole[position : position + length]
        back = (16).to_bytes(2, "little") + (16).to_bytes(2, "little") + bytes(4)
        back += (address + 16).to_bytes(8, "little") + (1 << 20).to_bytes(8, "little")
        return part if position == address else back

    with pytest.raises(OSError, match="its header is damaged"):
        check_texts(read, address, 0)
    assert len(kinds) < 30
