import json
import threading
from pathlib import Path
from typing import Any

import pytest

from saccade import sabotage
from saccade.errors import NumericError, SpaceError
from saccade.train import checkpoint
from saccade.train.saver import Saver
from tests.train import toy
from tests.train.test_engine import metrics


def test_work_is_done_beside_and_one_at_a_time() -> None:
    saver, gate, done = Saver(background=True), threading.Event(), list[int]()

    def first() -> None:
        gate.wait(10)
        done.append(1)

    saver.begin(first)
    assert done == []
    gate.set()
    saver.begin(lambda: done.append(2))
    saver.settle()
    assert done == [1, 2]
    Saver(background=False).begin(lambda: done.append(3))
    assert done == [1, 2, 3]


def full() -> None:
    raise SpaceError("full")


def test_an_error_is_raised_once_by_who_waits() -> None:
    saver = Saver(background=True)
    saver.begin(full)
    while not saver.failed:
        pass
    with pytest.raises(SpaceError, match="full"):
        saver.begin(lambda: None)
    saver.settle()
    saver.begin(full)
    saver.close()


def files(run_dir: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(run_dir)): path.read_bytes()
        for name in ("checkpoints", "best", "encoder")
        for path in sorted((run_dir / name).rglob("*"))
        if path.is_file()
    }


def test_what_is_written_beside_training_is_what_would_have_been_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"save_every": 1, "keep": 99, "eval_every": 1}
    toy.run(tmp_path / "once", save_async=False, **settings)
    monkeypatch.setenv(sabotage.VARIABLE, "save.shard:hang=0.05;export:hang=0.05")  # a slow disk
    toy.run(tmp_path / "beside", save_async=True, **settings)
    assert checkpoint.steps(tmp_path / "once") == list(range(1, 13))
    one, other = (files(tmp_path / key) for key in ("once", "beside"))
    assert one == other
    assert metrics(tmp_path / "once") == metrics(tmp_path / "beside")


def test_a_full_disk_is_told_before_the_next_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = "write.data:raise=ENOSPC@file=optimizer,call=3;save.begin:hang=0.05"
    monkeypatch.setenv(sabotage.VARIABLE, fault)
    with pytest.raises(
        SpaceError, match=r"optimizer.safetensors .*kept step-00000002, step-00000004"
    ):
        toy.run(tmp_path, save_every=2, eval_every=4, keep=2)
    assert checkpoint.steps(tmp_path)[-1] < 12
    monkeypatch.delenv(sabotage.VARIABLE)
    toy.run(tmp_path, save_every=2, eval_every=4, keep=2, resume=True)
    toy.run(tmp_path / "whole", save_every=2, eval_every=4, keep=2)
    assert metrics(tmp_path) == metrics(tmp_path / "whole")


def test_another_error_is_not_hidden_by_that_of_a_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = (
        "save.begin:hang=0.3@step=6;save.begin:raise=DataError@step=6;step:raise=MemoryError@step=7"
    )
    monkeypatch.setenv(sabotage.VARIABLE, fault)
    with pytest.raises(MemoryError):
        toy.run(tmp_path)
    assert json.loads(metrics(tmp_path).splitlines()[-1])["step"] == 6
    monkeypatch.setenv(sabotage.VARIABLE, "save.begin:hang=0.3@step=6;loss:nan@step=7")
    with pytest.raises(NumericError, match="last checkpoint: step 6"):
        toy.run(tmp_path / "nan")
