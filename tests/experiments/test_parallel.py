import signal
from dataclasses import replace
from pathlib import Path

import pytest

from saccade.errors import OutOfMemory, SaccadeError, Stopped
from saccade.experiments.parallel import train_all
from saccade.experiments.training import with_budget
from saccade.recipes import video_mae

QUICK = with_budget(video_mae.debug(), samples=8, seed=0)


def test_the_first_failure_ends_all_with_its_own_code(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = replace(QUICK, train=replace(QUICK.train, lr=0.0))
    told: list[str] = []
    with pytest.raises(SaccadeError, match="bad ended with exit code 2") as caught:
        train_all(
            {"bad": (wrong, tmp_path / "bad"), "late": (QUICK, tmp_path / "late")},
            jobs=1,
            report=told.append,
        )
    assert caught.value.exit_code == 2
    assert "bad: the training config cannot work: lr must be above 0" in capfd.readouterr().err
    assert told == ["training bad (1 of 2)"]
    assert not (tmp_path / "late").exists()


def test_a_want_of_memory_is_told_as_such(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    huge = replace(QUICK, train=replace(QUICK.train, batch_size=2**40, samples=2**40))
    with pytest.raises(OutOfMemory, match="a ran out of memory; give fewer --jobs") as caught:
        train_all({"a": (huge, tmp_path / "a")}, jobs=1)
    assert caught.value.exit_code == 7
    assert "a: out of memory" in capfd.readouterr().err


def test_a_signal_before_the_first_step_is_obeyed(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped) as caught:
        train_all(
            {"a": (QUICK, tmp_path / "a")},
            jobs=1,
            report=lambda _: signal.raise_signal(signal.SIGTERM),
        )
    assert caught.value.exit_code == 75
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (tmp_path / "a").exists()


def test_nothing_to_train_is_done_at_once(tmp_path: Path) -> None:
    train_all({}, jobs=2)
    assert not list(tmp_path.iterdir())
