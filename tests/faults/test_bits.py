"""Flipped bits, cut and exchanged files: found before any number reaches a network."""

import os
import random
import shutil
from pathlib import Path

import pytest

from saccade.errors import CheckpointError
from saccade.train import checkpoint
from tests.faults import score
from tests.train import toy


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("run")
    toy.run(run_dir, keep=5)
    return run_dir


def found(folder: Path) -> bool:
    try:
        checkpoint.read(folder)
    except CheckpointError:
        return True
    return False


def test_every_flipped_bit_is_found(run: Path) -> None:
    folder = checkpoint.folder_of(run, 12)
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    sizes, rng = [path.stat().st_size for path in files], random.Random(0)
    assert not found(folder)
    for _ in range(score.scaled(60, 1000)):
        (path,) = rng.choices(files, sizes)
        good = path.read_bytes()
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        detected = found(folder)
        score.add(flips=1, detected=detected)
        path.write_bytes(good)
        assert detected


def test_every_cut_is_found(run: Path) -> None:
    folder, rng = checkpoint.folder_of(run, 12), random.Random(0)
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    for _ in range(score.scaled(12, 100)):
        path = rng.choice(files)
        good = path.read_bytes()
        path.write_bytes(good[: rng.randrange(len(good))])
        detected = found(folder)
        score.add(cuts=1, found=detected)
        path.write_bytes(good)
        assert detected


def test_exchanged_files_are_found(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    toy.run(other, toy.shift(dropout=0.2), keep=5)
    shutil.copytree(run, mine := tmp_path / "mine")
    names = ("objective.safetensors", "optimizer.safetensors")
    twelve, nine = (checkpoint.folder_of(mine, step) for step in (12, 9))
    for source, target in [
        (checkpoint.folder_of(other, 12) / names[0], twelve / names[0]),  # of another run
        (nine / names[1], twelve / names[1]),  # of another step
        (twelve / names[0], nine / names[1]),  # one for the other
    ]:
        good = target.read_bytes()
        shutil.copyfile(source, target)
        assert found(target.parent), target
        target.write_bytes(good)
    os.truncate(twelve / "MANIFEST.json", 0)
    assert found(twelve)
    with pytest.raises(CheckpointError, match="resume auto"):
        toy.run(mine, resume=True, keep=5)
    toy.run(mine, resume="auto", keep=5)
    assert not found(twelve)
