"""SIGKILL at random moments and at every named point: nothing is lost, and the end is the same."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from saccade import sabotage
from saccade.train import checkpoint
from tests import children
from tests.children import Child
from tests.faults import score
from tests.train import toy

SETTINGS: dict[str, Any] = {"save_every": 1, "eval_every": 3, "keep": 2, "keep_every": 5}
PHASES = (  # where a run of the toy world comes by
    *("look", "forward", "step", "log", "eval", "export"),
    *("save.begin", "save.shard", "save.manifest", "save.renamed", "save.synced"),
    *("keep.before", "keep.after", "write.data", "write.synced", "write.renamed"),
)
Kill = Callable[[Path, random.Random], int | None]


def work(run_dir: Path, fault: str, wait: float) -> None:
    os.environ[sabotage.VARIABLE] = fault
    toy.exit_as_told(lambda: toy.run(run_dir, wait=wait, resume="auto", **SETTINGS))


def at_a_random_moment(run_dir: Path, rng: random.Random) -> int | None:
    child = toy.CHILDREN.Process(target=work, args=(run_dir, "", 0.005))
    child.start()
    child.join(rng.uniform(0.02, 0.4))
    child.kill()
    child.join(60)
    return child.exitcode


def at_a_named_point(run_dir: Path, rng: random.Random) -> int | None:
    fault = f"{rng.choice(PHASES)}:kill9@call={rng.randint(1, 6)}"
    child = toy.CHILDREN.Process(target=work, args=(run_dir, fault, 0.0))
    child.start()
    child.join(60)
    if child.exitcode is None:
        score.add(hangs=1)
        child.kill()
    return child.exitcode


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Train without interruption."""
    run_dir = tmp_path_factory.mktemp("whole")
    toy.run(run_dir, **SETTINGS)
    return left(run_dir)


def left(run_dir: Path) -> dict[str, bytes]:
    """Return all that a finished run leaves but for times."""
    return {
        str(path.relative_to(run_dir)): path.read_bytes()
        for path in sorted(run_dir.rglob("*"))
        if path.is_file() and path.name not in ("timing.jsonl", ".lock")
    }


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kill", "count"), [(at_a_random_moment, (6, 150)), (at_a_named_point, (6, 100))]
)
def test_kills_lose_nothing(
    tmp_path: Path, whole: dict[str, bytes], kill: Kill, count: tuple[int, int]
) -> None:
    rng, kills, runs = random.Random(0), 0, 0
    while kills < score.scaled(*count):
        runs += 1
        run_dir, reached = tmp_path / str(runs), 0
        for _ in range(5):
            killed = kill(run_dir, rng) == -signal.SIGKILL
            kills += killed
            newest, _ = checkpoint.newest(run_dir)  # whatever is there is intact
            step = int(newest.name[5:]) if newest else 0
            score.add(kills=killed, survived=killed and step >= reached)
            assert step >= reached, "a checkpoint was lost"
            reached = step
        toy.run(run_dir, resume="auto", **SETTINGS)
        found = left(run_dir)
        other = {k for k in found.keys() | whole.keys() if found.get(k) != whole.get(k)}
        score.add(losses=bool(other))
        assert not other


RUN = ("two_stream:debug", "--train.samples", "480", "--train.save-every", "3")


@pytest.mark.timeout(900)
def test_kills_of_the_command_line_lose_nothing(tmp_path: Path) -> None:
    """Data wait, workers and exports included."""
    rng, kills = random.Random(1), 0

    def start(folder: str) -> Child:
        out = ("--out", str(tmp_path / folder), "--resume", "auto", "--train.workers", "1")
        (place := tmp_path / f"streams-{folder}").mkdir(exist_ok=True)
        return Child(place, children.command, "train", *RUN, *out)

    assert start("whole").wait().returncode == 0
    for _ in range(score.scaled(1, 50)):
        child = start("killed")
        child.process.join(rng.uniform(0.2, 2.5))
        if ended := child.process.exitcode is not None:
            child.wait()
        else:
            with suppress(ProcessLookupError):  # it has no group of its own yet
                os.killpg(child.pid, signal.SIGKILL)
            child.process.kill()
            child.process.join(60)
        kills += not ended
        score.add(kills=not ended, survived=not ended)
    done = start("killed").wait(300)
    assert done.returncode == 0, done.stderr
    assert kills
    for name in ("metrics.jsonl", "encoder/model.safetensors", "experiment.json"):
        same = (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
        score.add(losses=not same)
        assert same, name
    lines = (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(set(steps))


def interrupted(run_dir: Path, fault: str) -> None:
    """Leave a run at a signal; a hang is a failure of its own."""
    os.environ[sabotage.VARIABLE] = fault
    toy.exit_as_told(
        lambda: toy.run(run_dir, resume="auto", **SETTINGS), run_dir.with_suffix(".told")
    )


@pytest.mark.parametrize(("word", "code"), [("term", 75), ("int", 130), ("usr1", 75)])
def test_a_signal_at_any_point_saves_and_the_end_is_the_same(
    tmp_path: Path, whole: dict[str, bytes], word: str, code: int
) -> None:
    for point in PHASES[:: score.scaled(5, 1)]:
        run_dir = tmp_path / point
        fault = f"{point}:{word}@call=2"
        child = toy.CHILDREN.Process(target=interrupted, args=(run_dir, fault))
        began = time.monotonic()
        child.start()
        child.join(60)
        score.add(hangs=child.exitcode is None)
        assert child.exitcode in (code, 0), (point, child.exitcode)  # 0: the point came once only
        assert time.monotonic() - began < 30
        toy.run(run_dir, resume="auto", **SETTINGS)
        assert left(run_dir) == whole, point
