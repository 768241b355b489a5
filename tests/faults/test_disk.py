"""Disks that are full, failing or closed: one sentence, older checkpoints kept, no half file."""

import errno
import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from saccade import sabotage
from saccade.train import checkpoint
from tests.faults import score
from tests.train import toy

FAULTS = {"ENOSPC": 5, "EDQUOT": 5, "EIO": 4, "EROFS": 4, "ENAMETOOLONG": 4}
PLACES = ("write.data", "write.synced")


def trained(run_dir: Path, fault: str = "", limit: int = 0) -> None:
    os.environ[sabotage.VARIABLE] = fault
    if limit:  # bytes of the largest file
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    toy.exit_as_told(
        lambda: toy.run(run_dir, resume="auto", save_every=3, eval_every=99),
        run_dir.with_suffix(".told"),
    )


def in_a_child(*args: Any) -> int | None:
    child = toy.CHILDREN.Process(target=trained, args=args)
    child.start()
    child.join(60)
    score.add(hangs=child.exitcode is None)
    return child.exitcode


def numbers(run_dir: Path) -> list[float]:
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    assert in_a_child(run_dir) == 0
    return numbers(run_dir)


@pytest.mark.parametrize("name", FAULTS)
def test_a_disk_that_fails_is_told_and_the_run_goes_on_from_what_was_kept(
    tmp_path: Path, whole: list[float], name: str
) -> None:
    files = ("objective", "optimizer", "state", "MANIFEST")
    for place in PLACES:
        for file in files[:: score.scaled(3, 1)]:
            run_dir = tmp_path / f"{place}-{file}"
            fault = f"{place}:raise={name}@file={file},call=2"
            assert in_a_child(run_dir, fault) == FAULTS[name], (place, file)
            told = run_dir.with_suffix(".told").read_text()
            assert os.strerror(getattr(errno, name)) in told
            assert "\n" not in told
            steps = checkpoint.steps(run_dir)
            assert steps == [3], "the second checkpoint has no final name"
            checkpoint.verify(checkpoint.folder_of(run_dir, 3))
            assert not list(run_dir.glob("checkpoints/*.tmp-*"))
            assert in_a_child(run_dir) == 0
            assert numbers(run_dir) == whole


def test_a_limit_on_files_is_a_full_disk(tmp_path: Path, whole: list[float]) -> None:
    for limit in range(1000, 14000, 13000 // score.scaled(3, 26)):
        run_dir = tmp_path / str(limit)
        assert in_a_child(run_dir, "", limit) in (5, 0)
        for step in checkpoint.steps(run_dir):
            checkpoint.verify(checkpoint.folder_of(run_dir, step))
        assert in_a_child(run_dir) == 0
        assert numbers(run_dir) == whole
