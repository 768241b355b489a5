import json
import math
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saccade.errors import BusyError, CheckpointError, ConfigError, Stopped
from saccade.nn.batch_norm import SyncedBatchNorm
from saccade.train import checkpoint
from saccade.train.engine import train
from saccade.train.log import Progress
from saccade.types import Clip, Encoder
from tests.train import toy


def metrics(run_dir: Path) -> bytes:
    return (run_dir / "metrics.jsonl").read_bytes()


def final_state(run_dir: Path) -> dict[str, bytes]:
    folder = checkpoint.folder_of(run_dir, toy.CONFIG.steps)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train without interruption."""
    run_dir = tmp_path_factory.mktemp("whole")
    toy.run(run_dir)
    return run_dir


class Interrupt:
    """Send signals to this process when a step is shown."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.step, self.number = step, number
        self.notes: list[str] = []

    def __call__(self, progress: Progress) -> None:
        if progress.note:
            self.notes.append(progress.note)
        elif progress.step == self.step:
            signal.raise_signal(self.number)


def test_a_run_leaves_what_it_promises(whole: Path) -> None:
    records = [json.loads(text) for text in metrics(whole).splitlines()]
    assert [record["step"] for record in records] == list(range(13))
    assert [r["step"] for r in records if "eval/loss" in r] == [0, 4, 8, 12]
    assert records[-1]["eval/loss"] < records[0]["eval/loss"]
    assert records[-1]["samples"] == 96
    assert {"lr", "train/loss", "train/pixels", "grad_norm"} < records[1].keys()
    parts = [records[1][f"grad_norm/{name}"] for name in ("encoder", "head")]
    assert math.hypot(*parts) == pytest.approx(records[1]["grad_norm"])
    assert checkpoint.steps(whole) == [9, 12]
    Encoder.from_pretrained(whole / "encoder")
    Encoder.from_pretrained(whole / "best" / "encoder")
    assert json.loads((whole / "alarms.json").read_text())["alarms"] == []


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)]
)
def test_a_signal_saves_first_and_the_resumed_run_equals_the_whole(
    tmp_path: Path, whole: Path, number: int, code: int
) -> None:
    handler = signal.getsignal(number)
    with pytest.raises(Stopped) as caught:
        toy.run(tmp_path, progress=Interrupt(5, number))
    assert caught.value.exit_code == code
    assert signal.getsignal(number) is handler
    assert checkpoint.steps(tmp_path)[-1] == 5
    digest = json.loads((checkpoint.folder_of(tmp_path, 5) / "MANIFEST.json").read_text())["sha256"]
    watcher = Interrupt(-1)
    toy.run(tmp_path, resume=True, progress=watcher)
    assert watcher.notes == [
        f"resumed from step 5 of 12 (sha256 {digest[:8]}), 40 samples into epoch 1"
    ]
    assert metrics(tmp_path) == metrics(whole)
    assert final_state(tmp_path) == final_state(whole)


class Interrupted(toy.Samples):
    """Its workers die of the signal that also reaches the trainer, in a certain batch."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def batches(self, first_step: int) -> Iterator[Clip]:
        for step, clip in enumerate(super().batches(first_step), start=first_step):
            if step == self.step:
                signal.raise_signal(signal.SIGTERM)
                raise RuntimeError("DataLoader worker (pid 1) exited unexpectedly")
            yield clip


@pytest.mark.parametrize("step", [0, 4])
def test_a_signal_that_ends_the_loader_too_still_saves(
    tmp_path: Path, whole: Path, step: int
) -> None:
    data = Interrupted(step)
    with pytest.raises(Stopped, match=f"{step} of 12 steps"):
        train(toy.shift(), data, toy.HELD_OUT, toy.CONFIG, tmp_path, identity=toy.IDENTITY)
    toy.run(tmp_path, resume=True)
    assert metrics(tmp_path) == metrics(whole)


def test_a_signal_after_the_last_step_is_not_forgotten(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(Stopped, match="12 of 12 steps"):
        toy.run(tmp_path, progress=Interrupt(12))
    toy.run(tmp_path, resume=True)
    assert metrics(tmp_path) == metrics(whole)
    assert final_state(tmp_path) == final_state(whole)
    assert (tmp_path / "encoder").is_dir()


class Alarmed(list[Clip]):
    """Held-out clips; a signal comes when the first is looked at for the n-th time."""

    def __init__(self, looks: int) -> None:
        super().__init__(toy.HELD_OUT)
        self.left = looks

    def __getitem__(self, index: Any) -> Any:
        self.left -= isinstance(index, slice)  # as an evaluation takes its share
        if not self.left:
            signal.raise_signal(signal.SIGTERM)
        return super().__getitem__(index)


@pytest.mark.parametrize(("evaluation", "step"), [(1, 0), (2, 4), (4, 12)])
def test_a_signal_does_not_wait_for_an_evaluation(
    tmp_path: Path, whole: Path, evaluation: int, step: int
) -> None:
    with pytest.raises(Stopped, match=f"{step} of 12 steps"):
        train(
            toy.shift(),
            toy.Samples(),
            Alarmed(evaluation),
            toy.CONFIG,
            tmp_path,
            identity=toy.IDENTITY,
        )
    assert len(metrics(tmp_path).splitlines()) == step  # all but the one that lacks its scores
    toy.run(tmp_path, resume=True)
    assert metrics(tmp_path) == metrics(whole)
    assert final_state(tmp_path) == final_state(whole)


def test_a_signal_outside_the_steps_ends_at_once(tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if "trivial" in progress.note:  # the last alarm, long after the last step
            signal.raise_signal(signal.SIGUSR1)

    with pytest.raises(Stopped, match=r"SIGUSR1 came; all 12 steps are done and saved"):
        toy.run(tmp_path, Unmoved(), progress=interrupt)
    assert not (tmp_path / "encoder").exists()
    toy.run(tmp_path, Unmoved(), resume=True)
    assert (tmp_path / "encoder").is_dir()


def killed_in_a_write(run_dir: Path, rng: random.Random) -> int | None:
    child = toy.CHILDREN.Process(target=toy.run_and_die, args=(run_dir, rng.randint(2, 60)))
    child.start()
    child.join(60)
    return child.exitcode


def killed_at_any_moment(run_dir: Path, rng: random.Random) -> int | None:
    child = toy.CHILDREN.Process(target=toy.run_slowly, args=(run_dir, 0.02))
    child.start()
    child.join(rng.uniform(0.1, 0.6))
    child.kill()
    child.join(60)
    return child.exitcode


@pytest.mark.parametrize("attempt", [killed_in_a_write, killed_at_any_moment])
def test_kills_leave_no_trace(
    tmp_path: Path, whole: Path, attempt: Callable[[Path, random.Random], int | None]
) -> None:
    rng, kills, runs = random.Random(0), 0, 1
    while kills < 6:
        run_dir = tmp_path / str(runs)
        if attempt(run_dir, rng) == -signal.SIGKILL:
            kills += 1
        else:  # it reached the end: kill another run
            runs += 1
    toy.run(tmp_path / str(runs), resume=True)
    for run_dir in (tmp_path / str(i + 1) for i in range(runs)):
        assert metrics(run_dir) == metrics(whole)
        assert final_state(run_dir) == final_state(whole)
    assert not list(tmp_path.glob("*/checkpoints/*.tmp-*"))


def wait_for_steps(run_dir: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    path = run_dir / "metrics.jsonl"
    while not (path.exists() and path.read_bytes().count(b"\n") > count):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_busy_folder_is_refused_and_its_owner_unharmed(tmp_path: Path, whole: Path) -> None:
    child = toy.CHILDREN.Process(target=toy.run_slowly, args=(tmp_path, 0.3))
    child.start()
    wait_for_steps(tmp_path, 2)
    began = time.monotonic()
    with pytest.raises(BusyError, match=f"pid {child.pid} on "):
        toy.run(tmp_path, resume=True)
    assert time.monotonic() - began < 1
    child.terminate()
    child.join(60)
    assert child.exitcode == 75
    toy.run(tmp_path, resume=True)
    assert metrics(tmp_path) == metrics(whole)


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    child = toy.CHILDREN.Process(target=toy.run_slowly, args=(tmp_path, 2.0))
    child.start()
    wait_for_steps(tmp_path, 0)
    time.sleep(0.2)
    began = time.monotonic()
    for _ in range(2):
        child.terminate()
        time.sleep(0.1)
    child.join(60)
    assert child.exitcode == -signal.SIGTERM
    assert time.monotonic() - began < 1.5


def test_damage_is_told_and_the_older_checkpoint_used_if_it_may(
    tmp_path: Path, whole: Path
) -> None:
    with pytest.raises(Stopped):
        toy.run(tmp_path, progress=Interrupt(7))
    newest = checkpoint.folder_of(tmp_path, 7) / "optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"\xff")
    with pytest.raises(CheckpointError, match=r"optimizer.safetensors is damaged.*--resume auto"):
        toy.run(tmp_path, resume=True)
    watcher = Interrupt(-1)
    toy.run(tmp_path, resume="auto", progress=watcher)
    assert "optimizer.safetensors is damaged" in watcher.notes[0]
    assert "using step-00000006 instead" in watcher.notes[0]
    assert metrics(tmp_path) == metrics(whole)


def test_another_config_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        toy.run(tmp_path, progress=Interrupt(4))
    before, objective = metrics(tmp_path), toy.shift()
    weights = objective.head.weight.detach().clone()
    with pytest.raises(CheckpointError, match=r"train\.lr: saved 0\.01, now 0\.5"):
        toy.run(tmp_path, objective, resume=True, lr=0.5)
    assert metrics(tmp_path) == before
    assert torch.equal(objective.head.weight, weights)
    with pytest.raises(
        CheckpointError, match=r"--allow-change KEY:\n  train\.seed: saved 0, now 1$"
    ):
        toy.run(tmp_path, resume=True, allow_change=("train.lr",), lr=0.5, seed=1)
    assert metrics(tmp_path) == before
    watcher = Interrupt(-1)
    toy.run(
        tmp_path,
        resume=True,
        allow_change=("train.lr",),
        progress=watcher,
        workers=5,
        keep=1,
        lr=0.5,
    )
    assert watcher.notes[0] == "changed train.lr: saved 0.01, now 0.5"
    saved = checkpoint.read(checkpoint.folder_of(tmp_path, 12)).state["identity"]
    assert saved["train"]["lr"] == 0.5


def test_a_loss_of_whole_batches_is_not_cut_into_slices(tmp_path: Path) -> None:
    normed, spread = toy.shift(), toy.shift()
    normed.norm = SyncedBatchNorm(2)
    spread.whole_batch = True
    for objective in (normed, spread):
        with pytest.raises(ConfigError, match=r"accumulate is 2, but Shift needs .*whole batches"):
            toy.run(tmp_path, objective, accumulate=2)
    toy.run(tmp_path, spread)


def test_a_run_is_not_overwritten(whole: Path) -> None:
    before = metrics(whole)
    with pytest.raises(ConfigError, match="holds a run"):
        toy.run(whole)
    assert metrics(whole) == before


def test_a_finished_run_can_be_finished_again(tmp_path: Path, whole: Path) -> None:
    first = toy.run(tmp_path)
    again = toy.run(tmp_path, resume=True)
    assert metrics(tmp_path) == metrics(whole)
    assert (again.scores, again.best_step) == (first.scores, first.best_step)


class Worsens(toy.Shift):
    """Its held-out loss grows with every step."""

    age: Tensor

    def terms(self, clip: Clip) -> Mapping[str, Tensor]:
        age = 0.0 if self.training else float(self.age)
        return {"pixels": super().terms(clip)["pixels"] + age}

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("age", torch.zeros(()))

    def after_step(self, step: int) -> None:
        self.age.fill_(step)


def test_the_best_outlives_later_checkpoints(tmp_path: Path) -> None:
    summary = toy.run(tmp_path, Worsens(), keep=1)
    assert summary.best_step == 4
    assert checkpoint.steps(tmp_path) == [4, 12]
    best = Encoder.from_pretrained(tmp_path / "best" / "encoder").state_dict()
    saved = checkpoint.read(checkpoint.folder_of(tmp_path, 4)).objective
    for name, value in best.items():
        assert torch.equal(value, saved[f"encoder.{name}"])


class Unmoved(toy.Shift):
    """It predicts that nothing moves, beside a module that the loss forgot."""

    def __init__(self) -> None:
        super().__init__(dropout=0.0)
        self.forgotten = torch.nn.Linear(1, 1)

    def predict(self, clip: Clip) -> Tensor:
        return clip["video"][:, 0].flatten(1) / 255 + 0 * super().predict(clip)


def test_alarms_ring_on_the_screen_in_the_file_and_in_the_summary(tmp_path: Path) -> None:
    watcher = Interrupt(-1)
    summary = toy.run(tmp_path, Unmoved(), progress=watcher)
    assert [alarm.name for alarm in summary.alarms] == ["dead gradients"] * 3 + ["trivial"]
    assert "forgotten" in watcher.notes[2]
    stored = json.loads((tmp_path / "alarms.json").read_text())["alarms"]
    assert [alarm["name"] for alarm in stored] == ["dead gradients"] * 3 + ["trivial"]


def test_no_held_out_clip_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="held_out"):
        train(toy.shift(), toy.Samples(), [], toy.CONFIG, tmp_path, identity={})


def test_noise_does_not_depend_on_what_else_draws_numbers(tmp_path: Path, whole: Path) -> None:
    def draw(progress: Progress) -> None:
        torch.rand(3)

    toy.run(tmp_path, progress=draw)
    assert metrics(tmp_path) == metrics(whole)
