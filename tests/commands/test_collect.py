import io
from collections.abc import Callable
from pathlib import Path

import pytest

from saccade.commands.collect import Line, tell
from saccade.sim.collect import Progress, Summary
from tests.conftest import Outcome

Saccade = Callable[..., Outcome]
SMALL = (
    *("collect", "metaworld", "--tasks", "reach", "--episodes", 2, "--size", 16),
    *("--supersample", 1, "--max-steps", 6, "--keep-failures"),
)


def test_a_collection_is_made_once(saccade: Saccade, tmp_path: Path) -> None:
    out = tmp_path / "data"
    first = saccade(*SMALL, "--out", out)
    assert (first.code, first.out) == (0, f"2 episodes, 12 frames in {out}\n")
    assert "episode 2/2" in first.err
    made = (out / "meta" / "info.json").stat().st_mtime_ns
    assert saccade(*SMALL, "--out", out) == first._replace(err="")
    assert (out / "meta" / "info.json").stat().st_mtime_ns == made
    other = saccade(*SMALL, "--out", out, "--seed", 1)
    assert other.code == 2
    assert "'seed': 0" in other.err
    assert saccade("data", "inspect", out).code == 0


def test_a_dry_run_writes_nothing(saccade: Saccade, tmp_path: Path) -> None:
    done = saccade(*SMALL, "--out", tmp_path / "data", "--dry-run")
    assert (done.code, done.out) == (0, "would collect 2 episodes of each of reach\n")
    assert not (tmp_path / "data").exists()


def test_the_folders_of_others_are_not_deleted(saccade: Saccade, lerobot: Path) -> None:
    done = saccade(*SMALL, "--out", lerobot, "--overwrite")
    assert done.code == 2
    assert "has no collection.json, so saccade did not write it" in done.err
    assert (lerobot / "meta" / "info.json").exists()


@pytest.mark.parametrize("args", [(), ("libero",), ("--out", "x")])
def test_the_simulator_is_named(saccade: Saccade, args: tuple[str, ...]) -> None:
    done = saccade("collect", *args)
    assert done.code == 2
    assert "saccade collect metaworld" in done.out


def test_episodes_that_were_given_up_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    tell(Summary(3, 60, ("push-v3 episode 1",), 2.0), "data")
    told = capsys.readouterr().out
    assert told.startswith("3 episodes, 60 frames in data\n")
    assert "failed every time: push-v3 episode 1" in told


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_progress_is_one_line_on_a_terminal_and_few_elsewhere(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO
) -> None:
    monkeypatch.setattr("sys.stderr", stream)
    for done in range(1, 26):
        Line()(Progress(done, 25, 90.0, 65.0))
    shown = stream.getvalue()
    assert "episode 25/25  90 frames/s  ETA 1:05\n" in shown
    assert shown.count("\n") == (1 if stream.isatty() else 3)
