"""A collection in general: slots that worker processes fill, a record, and nothing done twice.

A slot is one episode of one task. Workers stage whole episodes; the record beside them holds the
settings, the versions and the episodes that were given up, so that a rerun of the same command
goes on where the last one stopped. Who collects brings a ``Job``, which knows the simulator and
the format.
"""

import fcntl
import json
import multiprocessing
import signal
import time
from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from saccade.checkpoint import write_atomic
from saccade.config import to_dict
from saccade.errors import BusyError, ConfigError, DataError, SaccadeError
from saccade.processes import die_with_parent

ATTEMPTS = 3  # trials before an episode is given up
RECORD = "collection.json"


@dataclass(frozen=True)
class Progress:
    """How far a collection is."""

    done: int
    total: int
    frames_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class Summary:
    """What a collection produced; ``given_up`` names episodes whose expert failed every time."""

    episodes: int
    frames: int
    given_up: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Slot:
    """The ``number``-th episode of a task, the ``index``-th of the collection."""

    task: str
    number: int
    index: int

    def __str__(self) -> str:
        return f"{self.task} episode {self.number}"


@runtime_checkable
class Job(Protocol):
    """Records slots. Picklable: each worker gets a copy, and opens what it needs."""

    def store(self, slot: Slot) -> int:
        """Record and stage a slot; return its number of frames, 0 when it was given up."""
        ...


def slots_of(tasks: Sequence[str], episodes: int) -> list[Slot]:
    """Return the slots of a collection, task by task."""
    places = [(task, number) for task in tasks for number in range(episodes)]
    return [Slot(task, number, index) for index, (task, number) in enumerate(places)]


def settings_of(config: Any, without: Sequence[str] = ("out", "workers")) -> dict[str, Any]:
    """Return what determines the data: everything but the place and the number of workers."""
    settings = json.loads(json.dumps(to_dict(config)))
    return {key: value for key, value in settings.items() if key not in ("type", *without)}


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keep other collections out of a folder.

    Raises:
        BusyError: one is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".collect.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(f"another process collects into {folder}; wait for it") from error
        yield


@dataclass
class Record:
    """The settings of a collection, what it is made with, and the slots that were given up."""

    folder: Path
    settings: dict[str, Any]
    given_up: list[int] = field(default_factory=list)  # their indices
    made_with: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def open(folder: Path, settings: dict[str, Any], foreign: bool) -> "Record":
        """Read the record of an earlier run, or begin one where there is none.

        Raises:
            ConfigError: the folder holds something else (``foreign``), or other settings.
        """
        record, path = Record(folder, settings), folder / RECORD
        if not path.is_file():
            if foreign:
                raise ConfigError(f"{folder} holds another data set; choose another --out")
            record.write()
            return record
        found = json.loads(path.read_text())
        before = found["settings"]
        changed = [key for key in settings if before.get(key) != settings[key]]
        if changed:
            old, new = ({key: s.get(key) for key in changed} for s in (before, settings))
            raise ConfigError(
                f"{folder} was begun with {old}, not {new}; repeat those or choose another --out"
            )
        record.given_up = found["given_up"]
        record.made_with = found.get("made_with", {})
        return record

    def go_on_with(self, versions: dict[str, str]) -> None:
        """Remember what all episodes are made with: pictures of two versions are not mixed.

        Raises:
            ConfigError: the collection was begun with something else.
        """
        if self.made_with not in ({}, versions):
            raise ConfigError(
                f"{self.folder} was begun with {self.made_with}, and here is {versions}; install "
                "those, or begin again with --overwrite"
            )
        self.made_with = versions
        self.write()

    def give_up(self, index: int) -> None:
        """Remember a slot that cannot be filled."""
        insort(self.given_up, index)
        self.write()

    def write(self) -> None:
        """Write the record beside the data."""
        record = {"settings": self.settings, "made_with": self.made_with}
        record |= {"given_up": self.given_up}
        write_atomic(self.folder / RECORD, json.dumps(record, indent=2) + "\n")


def fill(
    job: Job,
    slots: Sequence[Slot],
    staged: set[int],
    record: Record,
    workers: int,
    progress: Callable[[Progress], None],
) -> None:
    """Have the slots recorded that are neither staged nor given up."""
    start, frames = time.monotonic(), 0
    missing = [slot for slot in slots if slot.index not in staged | set(record.given_up)]
    for count, (slot, length) in enumerate(outcomes(job, list(missing), workers), 1):
        if not length:
            record.give_up(slot.index)
        frames += length
        seconds, left = time.monotonic() - start, len(missing) - count
        rate = frames / seconds
        progress(Progress(len(slots) - left, len(slots), rate, left * seconds / count))


class Worker:
    """A process that records one slot at a time."""

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")  # OpenGL contexts do not survive a fork
        self.pipe, far_end = context.Pipe()
        self.process = context.Process(target=_work, args=(job, far_end), daemon=True)
        self.process.start()
        far_end.close()  # so that the death of the worker ends our pipe
        self.slot: Slot | None = None

    def give(self, slot: Slot) -> None:
        """Send the next slot; that the process died is for ``outcome`` to find."""
        self.slot = slot
        with suppress(BrokenPipeError):
            self.pipe.send(slot)

    def outcome(self) -> tuple[Slot, int]:
        """Return the slot and its number of frames, 0 when it was given up."""
        assert self.slot is not None
        try:
            outcome = self.pipe.recv()
        except (ConnectionResetError, EOFError) as error:
            self.process.join()
            raise DataError(
                f"the worker that recorded {self.slot} ended with exit code "
                f"{self.process.exitcode}; its message is above (-9: out of memory?)"
            ) from error
        if isinstance(outcome, SaccadeError):
            raise type(outcome)(f"{self.slot} cannot be recorded: {outcome}")
        return self.slot, outcome

    def stop(self) -> None:
        """End the process, at once."""
        self.process.terminate()
        self.process.join()
        self.pipe.close()


def outcomes(job: Job, slots: list[Slot], count: int) -> Iterator[tuple[Slot, int]]:
    """Deal slots to workers and yield their outcomes in the order in which they arrive."""
    workers: list[Worker] = []
    try:
        for _ in range(min(count, len(slots))):
            workers.append(Worker(job))
            workers[-1].give(take(slots, None))
        busy = list(workers)
        while busy:
            ready = wait([worker.pipe for worker in busy])
            for worker in [worker for worker in busy if worker.pipe in ready]:
                yield worker.outcome()
                if slots:
                    worker.give(take(slots, worker.slot))
                else:
                    busy.remove(worker)
    finally:
        for worker in workers:
            worker.stop()


def take(slots: list[Slot], last: Slot | None) -> Slot:
    """Remove a slot: one of the worker's own task, else of the task with the most slots left.

    Loading a task takes as long as half an episode.
    """
    left = [slot.task for slot in slots]
    own = last is not None and last.task in left
    task = last.task if last is not None and own else max(left, key=left.count)
    return slots.pop(left.index(task))


def _work(job: Job, pipe: Connection) -> None:
    """Record the slots that arrive; answer with the number of frames, or with an error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    die_with_parent()
    with suppress(EOFError):
        while True:
            slot: Slot = pipe.recv()
            try:
                pipe.send(job.store(slot))
            except SaccadeError as error:
                pipe.send(error)
