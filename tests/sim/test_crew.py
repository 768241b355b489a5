"""Slots, workers and the record, without a simulator."""

import json
import os
from pathlib import Path

import pytest

from saccade.errors import BusyError, ConfigError, DataError, SpaceError
from saccade.sim.crew import Progress, Record, Slot, fill, lock, outcomes, slots_of, take


class Counting:
    """Stages a file per slot, and gives up those of ``weak``."""

    def __init__(self, folder: Path, weak: tuple[int, ...] = (), fatal: int = -1) -> None:
        self.folder, self.weak, self.fatal = folder, weak, fatal

    def store(self, slot: Slot) -> int:
        if slot.index == self.fatal:
            raise SpaceError("the disk is full")
        (self.folder / str(slot.index)).write_text(str(os.getpid()))
        return 0 if slot.index in self.weak else 10


def test_workers_stay_with_their_task_and_help_where_most_is_left() -> None:
    slots = [Slot("a", 0, 0), Slot("b", 0, 1), Slot("b", 1, 2), Slot("c", 0, 3)]
    assert take(slots, None) == Slot("b", 0, 1)
    assert take(slots, Slot("b", 0, 1)) == Slot("b", 1, 2)
    assert take(slots, Slot("b", 1, 2)) == Slot("a", 0, 0)
    assert slots == [Slot("c", 0, 3)]


def test_only_what_is_missing_is_recorded_and_failures_are_remembered(tmp_path: Path) -> None:
    slots, seen = slots_of(["a", "b"], 2), list[Progress]()
    assert [str(slot) for slot in slots] == [
        "a episode 0",
        "a episode 1",
        "b episode 0",
        "b episode 1",
    ]
    record = Record.open(tmp_path, {"seed": 0}, foreign=False)
    record.give_up(3)
    fill(Counting(tmp_path, weak=(2,)), slots, {0}, record, 1, seen.append)
    assert sorted(path.name for path in tmp_path.glob("?")) == ["1", "2"]
    assert [(progress.done, progress.total) for progress in seen] == [(3, 4), (4, 4)]
    again = Record.open(tmp_path, {"seed": 0}, foreign=True)
    assert again.given_up == [2, 3]
    assert json.loads((tmp_path / "collection.json").read_text())["given_up"] == [2, 3]
    with pytest.raises(ConfigError, match=r"begun with \{'seed': 0\}, not \{'seed': 1\}"):
        Record.open(tmp_path, {"seed": 1}, foreign=False)


def test_an_error_of_a_worker_keeps_its_kind_and_names_the_slot(tmp_path: Path) -> None:
    slots = slots_of(["a"], 2)
    with pytest.raises(SpaceError, match="a episode 1 cannot be recorded: the disk is full"):
        list(outcomes(Counting(tmp_path, fatal=1), slots, 1))
    assert (tmp_path / "0").exists()


def test_a_folder_is_locked_and_a_foreign_one_refused(tmp_path: Path) -> None:
    with lock(tmp_path), pytest.raises(BusyError, match="another process collects"), lock(tmp_path):
        raise DataError("two at once")
    with pytest.raises(ConfigError, match="holds another data set"):
        Record.open(tmp_path, {}, foreign=True)
