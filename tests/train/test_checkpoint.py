import errno
import json
import os
import random
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch

from saccade.checkpoint import write_atomic
from saccade.errors import BusyError, CheckpointError, SpaceError
from saccade.train import checkpoint, manifest
from saccade.train.checkpoint import newest, prune, read, require_same, save, steps
from tests.train import toy

OLD = Path(__file__).parent / "fixtures" / "schema-1"
FILES = ("objective.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json")


def write(run_dir: Path, step: int) -> Path:
    weights = {"a.weight": torch.full((3, 2), float(step)), "a.bias": torch.zeros(3)}
    state = {"step": step, "best": None, "identity": {"lr": 0.1}}
    return save(run_dir, weights, {"a.bias.step": torch.tensor(float(step))}, state)


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    found = read(write(tmp_path, 7))
    assert torch.equal(found.objective["a.weight"], torch.full((3, 2), 7.0))
    assert found.optimizer["a.bias.step"] == 7
    assert found.state == {"step": 7, "best": None, "identity": {"lr": 0.1}}


def test_the_newest_is_the_largest_step_whatever_the_clock_says(tmp_path: Path) -> None:
    write(tmp_path, 10)
    os.utime(write(tmp_path, 9), (4e9, 4e9))
    assert newest(tmp_path) == (checkpoint.folder_of(tmp_path, 10), [])


def test_an_unfinished_checkpoint_is_ignored_and_removed(tmp_path: Path) -> None:
    left = write(tmp_path, 3).with_name("step-00000004.tmp-99")
    shutil.copytree(checkpoint.folder_of(tmp_path, 3), left)
    assert steps(tmp_path) == [3]
    half = tmp_path / "best" / "encoder" / ".model.safetensors.tmp-99-1"  # of a killed write
    half.parent.mkdir(parents=True)
    half.write_bytes(b"")
    assert checkpoint.tidy(tmp_path) == ["step-00000004.tmp-99"]
    assert not left.exists()
    assert not half.exists()


def test_a_manifest_names_files_of_its_folder_only(tmp_path: Path) -> None:
    path = write(tmp_path, 3) / "MANIFEST.json"
    (tmp_path / "secret").write_text("s")
    content = json.loads(path.read_text())
    del content["sha256"]
    content["files"]["../../secret"] = content["files"]["state.json"]
    path.write_text(json.dumps(content | {"sha256": manifest._digest(content)}))
    with pytest.raises(CheckpointError, match=r"names '../../secret', which is no file beside it"):
        read(path.parent)


def test_who_holds_a_folder_may_hold_it_again(tmp_path: Path) -> None:
    with checkpoint.lock(tmp_path):
        with checkpoint.lock(tmp_path):
            pass
        child = toy.CHILDREN.Process(target=toy.run_slowly, args=(tmp_path, 0.0))
        child.start()
        child.join(60)
    assert child.exitcode == BusyError.exit_code


def test_a_checkpoint_of_the_first_version_is_read_and_goes_on(tmp_path: Path) -> None:
    shutil.copytree(OLD, run := tmp_path / "run")
    assert read(checkpoint.folder_of(run, 6)).optimizer["head.bias.exp_avg"].shape == (48,)
    toy.run(run, resume=True, allow_change=["versions"])
    toy.run(tmp_path / "whole")
    lines, whole = (
        [list(json.loads(line).values()) for line in path.read_text().splitlines()]
        for path in (run / "metrics.jsonl", tmp_path / "whole" / "metrics.jsonl")
    )
    for mine, theirs in zip(lines, whole, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)  # the first half is another machine's


def test_a_checkpoint_of_a_version_to_come_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, 3) / "MANIFEST.json"
    content = json.loads(path.read_text()) | {"schema": 9}
    del content["sha256"]
    path.write_text(json.dumps(content | {"sha256": manifest._digest(content)}))
    with pytest.raises(CheckpointError, match="has schema 9, this version reads up to 2"):
        read(path.parent)


def test_damage_is_told_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "BLOCK", 50)
    path = write(tmp_path, 3) / "objective.safetensors"
    bad = bytearray(path.read_bytes())
    bad[10] ^= 1
    bad[-1] ^= 1
    path.write_bytes(bad)
    last = (len(bad) - 1) // 50 * 50
    with pytest.raises(CheckpointError, match=f"in bytes 0-49, {last}-{len(bad) - 1}: sha256"):
        read(path.parent)


def test_rows_of_several_files_are_joined(tmp_path: Path) -> None:
    entries = {}
    for place, rows in enumerate((2, 1, 0)):
        name = manifest.shard_name("objective", place, 3)
        held = {"w": torch.full((rows, 2), float(place))}
        held |= {} if place else {"single": torch.tensor(3)}
        entries[name] = manifest.write_tensors(tmp_path, name, held, 1)
    found = manifest.tensors(tmp_path, "objective", entries)
    assert found["w"].tolist() == [[0, 0], [0, 0], [1, 1]]
    assert found["single"] == 3
    assert list(found) == ["single", "w"]
    with pytest.raises(KeyError):
        found["other"]


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_and_every_cut_is_found(tmp_path: Path, name: str) -> None:
    path, rng = write(tmp_path, 5) / name, random.Random(name)
    good = path.read_bytes()
    for _ in range(60):
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match=name):
            read(path.parent)
    for size in (0, 1, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(CheckpointError, match=name):
            read(path.parent)
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        read(path.parent)


def test_files_of_another_step_are_found(tmp_path: Path) -> None:
    older, newer = write(tmp_path, 1), write(tmp_path, 2)
    shutil.copy(older / "objective.safetensors", newer / "objective.safetensors")
    with pytest.raises(CheckpointError, match="damaged"):
        read(newer)
    shutil.copytree(older, checkpoint.folder_of(tmp_path, 8))
    with pytest.raises(CheckpointError, match="another step"):
        read(checkpoint.folder_of(tmp_path, 8))


def test_damage_falls_back_to_the_older_one_and_says_so(tmp_path: Path) -> None:
    older, newer = write(tmp_path, 1), write(tmp_path, 2)
    (newer / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"state.json.*--resume auto"):
        newest(tmp_path)
    found, (note,) = newest(tmp_path, fall_back=True)
    assert found == older
    assert "state.json" in note
    assert "step-00000001" in note
    (older / "MANIFEST.json").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        newest(tmp_path, fall_back=True)


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(tmp_path: Path) -> None:
    (write(tmp_path, 2) / "state.json").write_text("{}")
    read(write(tmp_path, 2))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


@pytest.mark.parametrize("fatal", range(1, 9))
def test_a_full_disk_keeps_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    older, calls = write(tmp_path, 1), 0
    real = os.fsync

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == fatal:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SpaceError, match="kept step-00000001"):
        write(tmp_path, 2)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [older.name]
    read(older)


def test_free_space_is_looked_at_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 1)
    usage: Any = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 90, 10))
    with pytest.raises(SpaceError, match=r"kept step-00000001"):
        write(tmp_path, 2)
    assert steps(tmp_path) == [1]


def test_a_disk_that_returns_other_bytes_is_found_out_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lossy(path: Path, data: bytes | str) -> None:
        write_atomic(path, data[:-1] if path.name == "optimizer.safetensors" else data)

    monkeypatch.setattr(manifest, "write_atomic", lossy)
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors has"):
        write(tmp_path, 2)


def test_pruning_keeps_the_newest_and_the_protected(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        write(tmp_path, step)
    prune(tmp_path, keep=2, every=0, protect={2})
    assert steps(tmp_path) == [2, 4, 5]


def test_another_experiment_is_refused_with_a_table() -> None:
    saved = {"data": {"print": "a"}, "train": {"lr": 0.1, "betas": [0.9, 0.95]}}
    require_same(
        saved, {"data": {"print": "a"}, "train": {"lr": 0.1, "betas": (0.9, 0.95)}}, Path()
    )
    with pytest.raises(CheckpointError) as caught:
        require_same(saved, {"data": {"print": "b"}, "train": {"lr": 0.1}}, Path("run"))
    assert "data.print: saved 'a', now 'b'" in str(caught.value)
    assert "train.betas: saved [0.9, 0.95], now None" in str(caught.value)
    assert "train.lr" not in str(caught.value)
