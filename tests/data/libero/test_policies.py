"""What policies need of LIBERO's files: how many windows there are, and what recorded them."""

import json
from pathlib import Path
from typing import Any

import h5py
import pytest

from saccade.data.libero.reader import Alignment, LiberoConfig
from saccade.data.windows import ChunkWindow
from saccade.errors import DataError
from tests.fixtures.libero import write_libero

DRAWER = "libero_90/KITCHEN_SCENE10_close_the_top_drawer_demo.hdf5"
MILK = "libero_object/pick_up_the_milk_demo.hdf5"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_libero(tmp_path, "original", 16)


def collected(path: Path, record: Any) -> None:
    with h5py.File(path, "r+") as file:
        file["data"].attrs["collection"] = json.dumps(record)


def test_windows_of_whole_chunks_are_counted_by_formula(root: Path) -> None:
    """As the documents count, ``before``; a frame less each where no action follows the last.

    LIBERO-Object: 74,507 rows of 500 demonstrations are 70,007 windows, or truly 69,507.
    """
    rows, window = (24, 27, 30, 33, 36, 39), ChunkWindow(chunk=10, every=1, tail="drop")
    assert 74_507 - 500 * 9 == 70_007
    lost: dict[Alignment, int] = {"before": 0, "after": 1}
    for alignment, frames in lost.items():
        data = LiberoConfig(root=root, alignment=alignment).build()
        assert len(window.plan(data, 0, 0)) == sum(rows) - len(rows) * (9 + frames)
    longest = LiberoConfig(root=root).build()  # no length is too long: 39 here, 505 in libero_10
    assert window.plan(longest, 0, 0)[:, 1].max() == 38 - 10


def test_a_file_of_ours_tells_what_it_was_recorded_with(root: Path) -> None:
    made = {"by": "saccade collect libero", "versions": {"mujoco": "3.3.1"}}
    collected(root / MILK, made)
    data = LiberoConfig(root=root).build()
    assert data.about(3)["versions"] == {"mujoco": "3.3.1"}
    assert "versions" not in data.about(0)
    collected(root / DRAWER, [1])
    with pytest.raises(DataError, match=r"drawer_demo\.hdf5: collection is not what saccade"):
        LiberoConfig(root=root).build().about(0)


def test_one_file_leaves_nothing_in_the_cache(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every check of a scene reads back a file of its own."""
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "cache"))
    assert len(LiberoConfig(root=root / MILK).build().lengths) == 3
    assert not (tmp_path / "cache").exists()
    LiberoConfig(root=root).build()
    assert (tmp_path / "cache" / "index").exists()
