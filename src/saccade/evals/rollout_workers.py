"""Rollouts in several processes, each with one scene: what hangs or dies is replaced.

A worker says what it does next ("open", "reset", "step", "film"), and each of these has a time
limit. The rollout of a worker that broke is played once more by a new one; if that breaks too, it
is recorded as crashed, with the reason. Errors that would meet every rollout alike end the
evaluation.
"""

import multiprocessing
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from saccade.errors import CheckpointError, ConfigError, DataError, SaccadeError
from saccade.evals.protocols import Protocol
from saccade.evals.rollouts import Film, Key, Player, PlayerConfig, play
from saccade.processes import die_with_parent
from saccade.scenes import Scene, Suite

QUIET = 0.2  # seconds between two words of a worker about the same thing
IN_A_ROW = 3  # crashed rollouts, with nothing in between, that end an evaluation


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Seconds after which a worker is taken to hang.

    Args:
        open: to load a task and the player.
        reset: to begin an episode.
        step: for one action, with the player's thinking.
        film: to write a video.
    """

    open: float = 300.0
    reset: float = 120.0
    step: float = 60.0
    film: float = 300.0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What every worker gets a copy of.

    Args:
        suite: opens scenes.
        players: by name.
        protocol: of all rollouts.
        limits: of time.
    """

    suite: Suite
    players: Mapping[str, PlayerConfig]
    protocol: Protocol
    limits: Limits = field(default_factory=Limits)


class Job(NamedTuple):
    """A rollout to play: by whom, which, and where its video goes, if anywhere."""

    who: str
    key: Key
    film: Path | None = None


class Crash(NamedTuple):
    """Why a rollout has no result."""

    reason: str


class Refusal(NamedTuple):
    """An error that every other rollout would meet too."""

    error: SaccadeError


class _Worker:
    """A process that plays one rollout at a time."""

    def __init__(self, stage: Stage) -> None:
        self.limits, self.doing, self.deadline = stage.limits, "open", 0.0
        self.job: Job | None = None
        self.last: Job | None = None
        context = multiprocessing.get_context("spawn")  # OpenGL contexts do not survive a fork
        self.pipe, far_end = context.Pipe()
        self.process = context.Process(target=_work, args=(stage, far_end), daemon=True)
        self.process.start()
        far_end.close()  # so that the death of the worker ends our pipe

    def give(self, job: Job) -> None:
        """Send a rollout; that the process died is for ``answer`` to find."""
        self.job = self.last = job
        self._begins("open")
        with suppress(ConnectionError):
            self.pipe.send(job)

    def answer(self) -> dict[str, Any] | Crash | Refusal | None:
        """Return what the worker says; None: it goes on."""
        try:
            told = self.pipe.recv()
        except (ConnectionResetError, EOFError):
            self.process.join()
            code = self.process.exitcode
            return Crash(f"the process ended with code {code}" + " (killed)" * (code == -9))
        if isinstance(told, str):
            self._begins(told)
            return None
        return told

    def overdue(self) -> Crash:
        """Say what took too long."""
        limit = getattr(self.limits, self.doing)
        return Crash(f"{self.doing} took longer than {limit:g} s")

    def stop(self) -> None:
        """End the process at once, even one that is stuck in a library."""
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def _begins(self, what: str) -> None:
        self.doing = what
        self.deadline = time.monotonic() + getattr(self.limits, what) + QUIET


def play_all(
    stage: Stage, jobs: Sequence[Job], workers: int
) -> Generator[tuple[Job, dict[str, Any] | Crash]]:
    """Deal rollouts to workers; yield each with its record, or with a ``Crash``, as they end.

    Workers are spawned: a script that calls this needs ``if __name__ == "__main__":``.

    Raises:
        SaccadeError: of a worker, where every other rollout would meet it too.
        DataError: several rollouts crashed in a row.
    """
    left, again, crew = list(jobs), set[Job](), list[_Worker]()
    crashes = 0
    try:
        while left or any(worker.job for worker in crew):
            busy = _deal(stage, left, crew, workers)
            for worker, answer in _answers(busy):
                job = worker.job
                assert job is not None
                worker.job = None
                if isinstance(answer, Refusal):
                    raise answer.error
                if isinstance(answer, Crash):
                    worker.stop()
                    crew.remove(worker)
                    if job not in again:
                        again.add(job)
                        left.insert(0, job)
                        continue
                crashes = crashes + 1 if isinstance(answer, Crash) else 0
                yield job, answer
                if crashes == IN_A_ROW and isinstance(answer, Crash):
                    raise DataError(
                        f"{crashes} rollouts crashed one after the other, each twice, the last "
                        f"({job.key}) because {answer.reason}; mend that, then --resume"
                    )
    finally:
        for worker in crew:
            worker.stop()


def _deal(stage: Stage, left: list[Job], crew: list[_Worker], workers: int) -> list[_Worker]:
    """Give every idle worker a rollout, start workers where some are missing; return the busy."""
    idle = [worker for worker in crew if worker.job is None]
    while left and (idle or len(crew) < workers):
        if not idle:
            crew.append(_Worker(stage))
            idle.append(crew[-1])
        worker = idle.pop()
        worker.give(_take(left, worker.last))
    return [worker for worker in crew if worker.job is not None]


def _answers(
    busy: Sequence[_Worker],
) -> Iterator[tuple[_Worker, dict[str, Any] | Crash | Refusal]]:
    """Wait until a worker says something, or is overdue; yield who has ended, and how."""
    patience = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
    ready = wait([worker.pipe for worker in busy], patience)
    for worker in busy:
        if worker.pipe in ready:
            answer = worker.answer()
            if answer is not None:
                yield worker, answer
        elif time.monotonic() > worker.deadline and not worker.pipe.poll():
            # what it said while we were busy, or asleep ourselves, would be there
            yield worker, worker.overdue()


def _take(left: list[Job], last: Job | None) -> Job:
    """Remove a rollout: one of the worker's own player and task, else of the longest queue.

    Loading a task takes seconds.
    """
    queues = [(job.who, job.key.task) for job in left]
    own = None if last is None else (last.who, last.key.task)
    if own in queues:
        return left.pop(queues.index(own))
    first = [queue for queue in queues if queue[0] == queues[0][0]]
    return left.pop(queues.index(max(first, key=first.count)))


class _Actors:
    """What a worker keeps between rollouts: the scene, and players by name."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.players = stage, dict[str, Player]()
        self.scene: Scene | None = None
        self.checked = set[str]()  # players that were compared with the scene

    def scene_of(self, key: Key) -> Scene:
        """Return the scene of a task; the one before is closed."""
        if self.scene is None or self.scene.task.name != key.task:
            if self.scene is not None:
                self.scene.close()
                self.scene = None
            (task,) = [task for task in self.stage.suite.tasks if task.name == key.task]
            self.scene, self.checked = self.stage.suite.open(task), set()
        return self.scene

    def player_of(self, job: Job, scene: Scene, tick: Callable[[str], None]) -> Player:
        """Return a player that may act in the scene."""
        if job.who not in self.players:
            self.players[job.who] = self.stage.players[job.who].build()
        player = self.players[job.who]
        if job.who not in self.checked:
            tick("reset")
            scene.reset(job.key.initial_state, job.key.scene_seed(self.stage.protocol))
            tick("open")
            player.check(scene)
            self.checked.add(job.who)
        return player


def _work(stage: Stage, pipe: Connection) -> None:
    """Play the rollouts that arrive; answer with a record, or with what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    die_with_parent()
    actors, told = _Actors(stage), {"what": "open", "at": time.monotonic()}

    def tick(what: str) -> None:
        now = time.monotonic()
        if what != told["what"] or now - told["at"] > QUIET:
            told.update(what=what, at=now)
            pipe.send(what)

    with suppress(EOFError, BrokenPipeError):
        while True:
            job: Job = pipe.recv()
            told.update(what="open", at=time.monotonic())
            try:
                scene = actors.scene_of(job.key)
                player = actors.player_of(job, scene, tick)
                film = None if job.film is None else Film(job.film)
                pipe.send(play(scene, player, job.key, stage.protocol, tick, film))
            except BrokenPipeError:
                raise
            except Exception as error:  # noqa: BLE001  a simulator may raise anything
                crash = Crash(f"{type(error).__name__}: {error}")
                pipe.send(_refusal(error, actors.scene is not None) or crash)
                return  # nobody knows what state the simulator is in


def _refusal(error: Exception, opened: bool) -> Refusal | None:
    """Tell what would meet every rollout alike: whatever a user must mend first."""
    if isinstance(error, ModuleNotFoundError):
        return Refusal(ConfigError(f"{error.name} is not installed; run saccade doctor"))
    alike = (ConfigError, CheckpointError)
    if isinstance(error, alike if opened else (*alike, DataError)):  # a scene's file is damaged
        return Refusal(type(error)(str(error)))
    return None
