"""Evaluation: rollouts of a policy and of floors in a suite, what they show, and a page of it.

Rollouts go to ``rollouts.jsonl`` as they end; everything else is computed from that file, so that
an evaluation that was stopped, or is asked for more trials, goes on where it was.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from saccade.checkpoint import write_atomic
from saccade.data.passes.shards import Shard
from saccade.errors import CheckpointError, ConfigError, Stopped
from saccade.evals.protocols import Protocol
from saccade.evals.rollout_log import FILE, Name, RolloutLog, read_log
from saccade.evals.rollout_workers import Crash, Job, Limits, Stage, play_all
from saccade.evals.rollouts import Key, PlayerConfig, plan
from saccade.evals.success import compare
from saccade.experiments.parallel import stopped_by_sigterm
from saccade.experiments.success_rates import SETTINGS, judge, load, read_settings
from saccade.report.results import RESULTS
from saccade.report.success_page import write_success_report
from saccade.scenes import Suite, Task
from saccade.train.checkpoint import lock, require_same

SHARDS = "shards"  # folder of what other machines have played


class Played(NamedTuple):
    """How far an evaluation is."""

    done: int  # rollouts of this and of earlier runs
    total: int
    name: str  # of the player whose successes are counted
    successes: int
    trials: int
    seconds: float  # of this run
    fresh: int  # rollouts of this run


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Which rollouts, by whom.

    Args:
        suite: opens scenes.
        name: what the player is called.
        player: whose success is asked for.
        protocol: how success is measured.
        tasks: numbers of tasks of the suite; none means all.
        initial_states: that the trials of each task begin in; none means the first ones.
        seeds: repetitions of each trial.
        floors: players that are no policy, by name, on the same keys.
        floor_trials: initial states that floors play; 0 takes all.
        workers: processes, one scene each.
        videos: successes and failures of each kind to film, by playing them again.
        limits: of time, after which a worker is taken to hang.
        against: folders of other evaluations to compare with, on the keys in common.
    """

    suite: Suite
    name: str
    player: PlayerConfig
    protocol: Protocol
    tasks: tuple[int, ...] = ()
    initial_states: tuple[int, ...] = ()
    seeds: int = 1
    floors: Mapping[str, PlayerConfig] = field(default_factory=dict)
    floor_trials: int = 0
    workers: int = 1
    videos: int = 0
    limits: Limits = field(default_factory=Limits)
    against: tuple[Path, ...] = ()

    def chosen(self) -> list[Task]:
        """Return the tasks.

        Raises:
            ConfigError: the suite has no such task, or one is named twice.
        """
        count = len(self.suite.tasks)
        wrong = [i for i in self.tasks if not 0 <= i < count]
        if wrong or len(set(self.tasks)) < len(self.tasks):
            raise ConfigError(
                f"tasks {list(self.tasks)}: {self.suite.name} has tasks 0 to {count - 1}; name "
                "each at most once"
            )
        return [self.suite.tasks[i] for i in self.tasks or range(count)]

    def keys(self) -> list[Key]:
        """List the rollouts.

        Raises:
            ConfigError: tasks, initial states or seeds that are not there.
        """
        return plan(self.chosen(), self.protocol.trials, self.initial_states, self.seeds)

    def jobs(self) -> list[Job]:
        """List who plays what, the player first."""
        if self.name in self.floors:
            raise ConfigError(f"{self.name} is a floor too; leave it out of --floors")
        for name in ("workers", "videos", "floor_trials"):
            low = int(name == "workers")
            if getattr(self, name) < low:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {low}")
        keys = self.keys()
        states = list(dict.fromkeys(key.initial_state for key in keys))
        few = set(states[: self.floor_trials or None])
        return [Job(self.name, key) for key in keys] + [
            Job(name, key) for name in self.floors for key in keys if key.initial_state in few
        ]

    def settings(self) -> dict[str, Any]:
        """Return what decides outcomes, as JSON values: nothing of it may change on the way."""
        return {
            "name": self.name,
            "suite": self.suite.name,
            "remark": self.suite.remark,
            "versions": self.suite.versions(),
            "protocol": self.protocol.card(self.suite.name),
            "players": {
                name: player.about()
                for name, player in {self.name: self.player, **self.floors}.items()
            },
        }

    def run(
        self,
        folder: Path,
        *,
        command: str,
        resume: bool = False,
        report: Callable[[Played], None] = lambda _: None,
    ) -> dict[str, Any]:
        """Play what is missing; write ``results.json`` and ``report.html``.

        Raises:
            ConfigError: settings that do not fit one another, the suite or the folder.
            CheckpointError: the folder was begun with other settings.
            DataError: an evaluation to compare with has no rollout in common; or several rollouts
                crashed in a row, and the finished ones are kept.
            Stopped: a signal came; the finished rollouts are kept.
        """
        self.protocol.horizon(self.suite.name)
        jobs = self.jobs()
        others = [load(place) for place in self.against]
        for other in others:  # to say so now, not when all is played
            compare(dict.fromkeys(self.keys(), False), other.outcomes)
        began = time.perf_counter()
        with lock(folder):
            self._begin(folder, resume)
            self._gather(folder)
            with _stoppable(folder, jobs):
                self._play(folder, jobs, report)
                records = read_log(folder / FILE)
                films, alarms = self._film(folder, records)
            results = judge(
                self.settings(), self.chosen(), jobs, records, others, command, films, alarms
            )
            results["seconds"]["this run"] = time.perf_counter() - began
            write_atomic(folder / RESULTS, json.dumps(results, indent=1, allow_nan=False) + "\n")
            write_success_report(results, folder)
        return results

    def run_shard(
        self, folder: Path, share: Shard, report: Callable[[Played], None] = lambda _: None
    ) -> int:
        """Play a share of the rollouts into ``folder/shards``; return how many crashed.

        Rollouts are dealt by key, so that all players of a key meet on one machine. ``run`` into
        the same folder takes what shards have left. A share that was begun is gone on with.

        Raises:
            ConfigError, CheckpointError, DataError, Stopped: as ``run``.
        """
        self.protocol.horizon(self.suite.name)
        mine = set(share.of(self.keys()))
        jobs = [job for job in self.jobs() if job.key in mine]
        place = folder / SHARDS / str(share)
        with lock(place):
            self._begin(place, resume=True)
            with _stoppable(place, jobs):
                self._play(place, jobs, report)
        records = read_log(place / FILE)
        asked = {(job.who, job.key) for job in jobs}
        return sum(found["crashed"] is not None for k, found in records.items() if k in asked)

    def _gather(self, folder: Path) -> None:
        """Take what shards have played, once each.

        Raises:
            CheckpointError: a shard was played with other settings.
        """
        known = {n: r for n, r in read_log(folder / FILE).items() if r["crashed"] is None}
        now = self.settings()
        for place in sorted((folder / SHARDS).glob(f"*/{SETTINGS}")):
            before = read_settings(place.parent)
            shared = before["players"].keys() & now["players"].keys()
            require_same(_decisive(before, shared), _decisive(now, shared), place)
            with RolloutLog(folder / FILE) as log:
                for name, record in read_log(place.parent / FILE).items():
                    if name not in known and record["crashed"] is None:
                        log.append(record)
                        known[name] = record

    def _begin(self, folder: Path, resume: bool) -> None:
        """Open a new folder, or one that these settings began."""
        path, now = folder / SETTINGS, self.settings()
        if (folder / FILE).exists() and not path.is_file():
            raise CheckpointError(
                f"{folder} has {FILE} but no {SETTINGS}, so nobody knows what was played; give "
                "another --out, or delete the file"
            )
        if path.is_file():
            if not resume:
                raise ConfigError(
                    f"{folder} holds an evaluation; give --resume to go on with it, --overwrite "
                    "to delete it, or another --out"
                )
            before = read_settings(folder)
            # Floors may be added and left out on the way: a floor's outcomes are its own.
            shared = before["players"].keys() & now["players"].keys()
            require_same(_decisive(before, shared), _decisive(now, shared), path)
            now["players"] = before["players"] | now["players"]
        write_atomic(path, json.dumps(now, indent=1) + "\n")

    def _play(self, folder: Path, jobs: Sequence[Job], report: Callable[[Played], None]) -> None:
        """Play what the log lacks, and what crashed when it was last tried."""
        found = read_log(folder / FILE)
        asked = {(job.who, job.key): job for job in jobs}
        done = {name for name in asked if name in found and found[name]["crashed"] is None}
        missing = [job for name, job in asked.items() if name not in done]
        wins = {
            who: [found[name]["success"] for name in done if name[0] == who] for who, _ in asked
        }
        began, fresh = time.monotonic(), 0
        with (
            RolloutLog(folder / FILE) as log,
            closing(play_all(self._stage(), missing, self.workers)) as played,
        ):
            for job, answer in played:
                log.append(_record(job, answer))
                fresh += 1
                if not isinstance(answer, Crash):
                    wins[job.who].append(answer["success"])
                won, seconds = wins[job.who], time.monotonic() - began
                told = len(done) + fresh, len(jobs), job.who, sum(won), len(won)
                report(Played(*told, seconds, fresh))

    def _stage(self) -> Stage:
        players = {self.name: self.player, **self.floors}
        return Stage(suite=self.suite, players=players, protocol=self.protocol, limits=self.limits)

    def _film(
        self, folder: Path, records: Mapping[Name, dict[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Play the first successes and failures again, with pictures; tell where that differs."""
        finished = [
            (key, found)
            for key in self.keys()
            if (found := records.get((self.name, key))) is not None and found["crashed"] is None
        ]
        jobs, films, alarms = [], [], []
        for won, kind in ((True, "success"), (False, "failure")):
            some = [pair for pair in finished if pair[1]["success"] is won][: self.videos]
            for number, (key, _) in enumerate(some):
                path = Path("videos") / f"{kind}-{number}.mp4"
                jobs.append(Job(self.name, key, folder / path))
                films.append({"path": str(path), "success": won, **key._asdict()})
        with closing(play_all(self._stage(), jobs, self.workers)) as played:
            for job, answer in played:
                found = records[self.name, job.key]
                if isinstance(answer, Crash):
                    detail = f"crashed when played again: {answer.reason}"
                    films = [film for film in films if folder / film["path"] != job.film]
                elif answer["actions"] == found["actions"]:
                    continue
                else:
                    detail = "the second time, the actions were others"
                alarms.append({"name": "not repeatable", "where": str(job.key), "detail": detail})
        return films, alarms


@contextmanager
def _stoppable(folder: Path, jobs: Sequence[Job]) -> Iterator[None]:
    """Say, when a signal comes, what is kept and how to go on."""
    try:
        with stopped_by_sigterm():
            yield
    except (KeyboardInterrupt, Stopped) as stop:
        code = stop.exit_code if isinstance(stop, Stopped) else 130
        kept = read_log(folder / FILE).keys() & {(job.who, job.key) for job in jobs}
        raise Stopped(
            f"stopped by a signal; {len(kept):,} of {len(jobs):,} rollouts are kept in {folder}, "
            "give --resume to go on",
            code,
        ) from stop


def _decisive(settings: Mapping[str, Any], players: Iterable[str]) -> dict[str, Any]:
    """Return what must not change on the way; how many trials there are may."""
    words = ("title", "changes", "trials")
    protocol = {key: value for key, value in settings["protocol"].items() if key not in words}
    about = {name: settings["players"][name] for name in players}
    return {**settings, "protocol": protocol, "players": about}


def _record(job: Job, answer: dict[str, Any] | Crash) -> dict[str, Any]:
    if isinstance(answer, Crash):
        return {"who": job.who, **job.key._asdict(), "crashed": answer.reason}
    return {"who": job.who, **answer, "crashed": None}
