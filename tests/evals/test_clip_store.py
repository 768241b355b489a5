"""Features on disk: kills, damage, and several processes at once."""

import json
import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from saccade.errors import DataError, NumericError
from saccade.evals.clips import enumerate_clips
from saccade.evals.features import Request
from tests.evals.readable import WORLD, Patches, encode_slowly, marks, reader, request


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_the_folder_says_what_its_features_depend_on(tmp_path: Path) -> None:
    found = reader(Patches(), "concatenation", tmp_path)
    found.prepare([request()])
    (folder,) = tmp_path.iterdir()
    about = json.loads((folder / "about.json").read_text())
    assert about == {
        "code": "clips-1",
        "encoder": found.digest,
        "grid": 8,
        "precision": "float32",
        "data": WORLD.fingerprint,
        "camera": "front",
    }
    assert sorted(p.name for p in (folder / "0").iterdir() if p.is_dir()) == ["cells", "vectors"]
    assert found.size_on_disk >= 72 * (5 * 4 + 16 * 5 * 2)  # every frame is used by some pair


def test_a_killed_build_goes_on_and_gives_the_same_bytes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=encode_slowly, args=(tmp_path / "killed",))
    process.start()
    deadline = time.monotonic() + 60
    while not any(np.fromfile(path, "<u8").any() for path in marks(tmp_path / "killed")):
        assert time.monotonic() < deadline, "nothing was written"
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    rows = [int((np.fromfile(path, "<u8") > 0).sum()) for path in marks(tmp_path / "killed")]
    assert 0 < max(rows) < 72
    rest = encode_rest(tmp_path / "killed")
    assert rest == 72 - min(rows)
    encode_rest(tmp_path / "whole")
    for name, value in contents(tmp_path / "whole").items():
        assert contents(tmp_path / "killed")[name] == value, name


def encode_rest(root: Path) -> int:
    """Fill a store without waiting, under the name of the slow encoder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.sleep", lambda _: None)
        return encode_slowly(root)


@pytest.mark.parametrize("kind", ["vectors", "cells"])
def test_a_flipped_byte_is_found(tmp_path: Path, kind: str) -> None:
    asked = request()
    reader(Patches(), "concatenation", tmp_path).prepare([asked])
    (path,) = tmp_path.glob(f"*/0/{kind}/rows.bin")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    again = reader(Patches(), "concatenation", tmp_path)
    read = again.vectors if kind == "vectors" else again.cells
    with pytest.raises(DataError, match=r"have not the checksum .* delete that folder"):
        read("train", asked.clips)
    assert again.encoded == 0


def test_a_file_that_lost_its_end_is_made_again(tmp_path: Path) -> None:
    asked = request(cells=False)
    first = reader(Patches(), "concatenation", tmp_path).vectors("train", asked.clips)
    (path,) = tmp_path.glob("*/0/vectors/rows.bin")
    path.write_bytes(path.read_bytes()[:-5])
    again = reader(Patches(), "concatenation", tmp_path)
    assert torch.equal(again.vectors("train", asked.clips), first)
    assert again.encoded == 72


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(1, context) as pool:
        there = pool.submit(encode_slowly, tmp_path, 8)
        deadline = time.monotonic() + 60
        while not list(tmp_path.rglob("lock")):
            assert time.monotonic() < deadline, "the other process does not begin"
            time.sleep(0.01)
        here = encode_slowly(tmp_path, 8)  # waits, and finds it done
        assert sorted([here, there.result()]) == [0, 72]


def test_what_another_reader_wrote_in_the_meantime_is_found(tmp_path: Path) -> None:
    few = Request("train", enumerate_clips(WORLD, (0, 4), 4), True)
    one = reader(Patches(), "concatenation", tmp_path)
    one.vectors("train", few.clips)  # its marks are in memory now
    other = reader(Patches(), "concatenation", tmp_path)
    other.prepare([request(cells=False)])
    before = one.encoded
    expected = other.vectors("train", request().clips)
    assert torch.equal(one.vectors("train", request().clips), expected)
    assert one.encoded == before


def test_cells_that_are_asked_for_later_leave_the_vectors_as_they_are(tmp_path: Path) -> None:
    reader(Patches(), "concatenation", tmp_path, batch=3).prepare([request(cells=False)])
    (path,) = tmp_path.glob("*/0/vectors/rows.bin")
    before = path.read_bytes(), path.stat().st_mtime_ns
    later = reader(Patches(), "concatenation", tmp_path, batch=7)
    later.prepare([request(cells=True)])
    assert later.encoded == 72
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_features_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    encoder = Patches()
    encoder.map.weight.data.fill_(torch.nan)
    with pytest.raises(NumericError, match=r"72 of 72 clips .* vectors that are not finite"):
        reader(encoder, "concatenation", tmp_path).prepare([request()])


def test_cells_too_large_for_half_precision_are_an_error(tmp_path: Path) -> None:
    encoder = Patches()
    encoder.map.bias.data.fill_(1e6)
    found = reader(encoder, "concatenation", tmp_path)
    assert torch.isfinite(found.vectors("train", request().clips)).all()
    with pytest.raises(NumericError, match="cells that are not finite"):
        found.cells("train", request().clips)
