"""One line says how far we are; nothing is said of what is quick, or by others."""

import io
import sys
from itertools import pairwise
from multiprocessing import get_context

import pytest

from saccade import progress as module
from saccade.progress import duration, line, progress


class Screen(io.StringIO):
    """An error stream that is a terminal, or a file."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.delenv("RANK", raising=False)
    return clock


def run(clock: Clock, screen: Screen, monkeypatch: pytest.MonkeyPatch, seconds: float) -> str:
    """Do a hundred things that take so many seconds each, ten of which were done before."""
    monkeypatch.setattr(sys, "stderr", screen)
    with progress("indexing set", 100, "files") as told:
        told(10)
        for done in range(11, 101):
            clock.now += seconds
            told(done)
    return screen.getvalue()


def test_what_is_quick_says_nothing(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(clock, Screen(True), monkeypatch, 0.02) == ""
    assert run(clock, Screen(False), monkeypatch, 0.02) == ""


def test_a_terminal_is_redrawn(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    text = run(clock, Screen(True), monkeypatch, 1.0)
    lines = text.split("\r")[1:]
    assert lines[0].rstrip() == "indexing set: 12 of 100 files (12 %), 1 files/s, 88 s left"
    assert lines[-1].split("  ")[0] == "indexing set: 100 of 100 files (100 %), 1 files/s"
    assert lines[-1].endswith(" \n"), "what was longer is written over"
    assert len(lines) == 89
    assert all(len(new) >= len(old.rstrip()) for old, new in pairwise(lines))


def test_a_file_gets_a_line_every_ten_seconds(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = run(clock, Screen(False), monkeypatch, 1.0).splitlines()
    assert len(lines) == 10
    assert lines[1].startswith("indexing set: 22 of 100 files")
    assert lines[-1].startswith("indexing set: 100 of 100 files")


def test_other_ranks_are_silent(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run(clock, Screen(False), monkeypatch, 1.0) == ""
    monkeypatch.setenv("RANK", "0")
    assert run(clock, Screen(False), monkeypatch, 1.0) != ""


def speak(patience: float) -> str:
    module.PATIENCE = patience
    sys.stderr = Screen(False)
    with progress("working", 2, "steps") as told:
        told(0)
        told(2)
    return sys.stderr.getvalue()


def test_worker_processes_are_silent() -> None:
    with get_context("fork").Pool(1) as pool:
        assert pool.apply(speak, (-1.0,)) == ""


def test_the_line_ends_when_work_fails(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(True)
    monkeypatch.setattr(sys, "stderr", screen)
    with pytest.raises(KeyError), progress("working", 9, "steps") as told:  # noqa: PT012
        told(0)
        clock.now += 5
        told(3)
        raise KeyError
    assert screen.getvalue().endswith("\n")


def test_the_line_without_a_rate_or_a_total() -> None:
    assert line("a", 0, 0, "b", 0.0) == "a: 0 of 0 b, 0 b/s"
    assert line("a", 0, 5, "b", 0.0) == "a: 0 of 5 b (0 %), 0 b/s"
    assert (
        line("a", 1000, 4000, "b", 1234.5) == "a: 1,000 of 4,000 b (25 %), 1.23e+03 b/s, 2 s left"
    )


def test_times_are_said_as_people_do() -> None:
    spoken = {0.0: "0 s", 8.4: "8 s", 89.0: "89 s", 90.0: "2 min", 60.0 * 89: "89 min"}
    spoken |= {60.0 * 90: "1 h 30 min", 12_000.0: "3 h 20 min", 400_000.0: "111 h 7 min"}
    assert {seconds: duration(seconds) for seconds in spoken} == spoken
