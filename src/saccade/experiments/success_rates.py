"""What rollouts show: rates by task, beside floors and other evaluations, as ``results.json``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from saccade.errors import DataError
from saccade.evals import success
from saccade.evals.rollout_log import FILE, Name, read_log
from saccade.evals.rollout_workers import Job
from saccade.evals.rollouts import Key
from saccade.experiments.evidence import commit, machine, versions
from saccade.report.success_page import FORMAT, KIND
from saccade.scenes import Task

SETTINGS = "evaluation.json"
NEEDED = {"name": str, "suite": str, "versions": dict, "protocol": dict, "players": dict}
Records = Mapping[Name, dict[str, Any]]


class Other(NamedTuple):
    """Another evaluation, from its folder."""

    folder: Path
    settings: dict[str, Any]
    outcomes: dict[Key, bool]


def load(folder: Path) -> Other:
    """Read the outcomes of the player of an evaluation.

    Raises:
        DataError: the folder holds none, or is damaged.
    """
    settings = read_settings(folder)
    return Other(folder, settings, outcomes_of(read_log(folder / FILE), settings["name"]))


def read_settings(folder: Path) -> dict[str, Any]:
    """Read what an evaluation was begun with.

    Raises:
        DataError: the folder holds none, or is damaged.
    """
    try:
        settings = json.loads((folder / SETTINGS).read_text())
        if wrong := [key for key in NEEDED if not isinstance(settings[key], NEEDED[key])]:
            raise TypeError(", ".join(wrong))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} holds no evaluation ({SETTINGS}: {type(error).__name__} {error!s:.80}); "
            "give the --out of saccade evaluate"
        ) from error
    return settings


def outcomes_of(records: Records, who: str) -> dict[Key, bool]:
    """Return whether each rollout of a player was a success; crashed ones are neither."""
    return {
        key: found["success"]
        for (name, key), found in records.items()
        if name == who and found["crashed"] is None
    }


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Name what two evaluations did not do alike, so that their difference may come from it."""
    ours, theirs = one["protocol"], other["protocol"]
    names = ("horizon", "settle", "settle_gripper", "env_seed", "env_seed_per_trial")
    found = [
        f"{name.replace('_', ' ')} {ours[name]} and {theirs[name]}"
        for name in names
        if ours.get(name) != theirs.get(name)
    ]
    return found + [
        f"{name} {one['versions'].get(name)} and {other['versions'].get(name)}"
        for name in sorted(one["versions"].keys() | other["versions"].keys())
        if one["versions"].get(name) != other["versions"].get(name)
    ]


def judge(
    settings: Mapping[str, Any],
    tasks: Sequence[Task],
    jobs: Sequence[Job],
    records: Records,
    others: Sequence[Other],
    command: str,
    films: Sequence[Mapping[str, Any]],
    alarms: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Compute everything that the page shows from the records that were asked for."""
    name = settings["name"]
    asked = {(job.who, job.key) for job in jobs}
    kept = {key: found for key, found in records.items() if key in asked}
    won = {who: outcomes_of(kept, who) for who in dict.fromkeys(job.who for job in jobs)}
    mine = won[name]
    floors = {
        who: success.compare(mine, won[who]) if mine.keys() & won[who].keys() else None
        for who in won
        if who != name
    }
    crashed = [found for found in kept.values() if found["crashed"] is not None]
    wanted = sum(job.who == name for job in jobs)
    overall = success.rate(mine.values())
    ended = [found for found in kept.values() if found["crashed"] is None]
    return {
        **_origin(settings, command),
        "name": name,
        "protocol": settings["protocol"] | _states(asked),
        "players": settings["players"],
        "asked": len(jobs),
        "rollouts": len(kept) - len(crashed),
        "crashed": crashed,
        "missing": len(asked) - len(kept),
        "overall": overall._asdict(),
        "seeds": success.over_seeds(mine),
        "tasks": [_task(task, name, won, kept) for task in tasks],
        "floors": {
            who: {
                "overall": success.rate(won[who].values())._asdict(),
                "compared": _json(found),
            }
            for who, found in floors.items()
            if found is not None
        },
        "against": [
            _against(settings, mine, other)
            for other in others
            if mine.keys() & other.outcomes.keys()
        ],
        "latency": _latency([found for found in ended if found["who"] == name]),
        "videos": list(films),
        "alarms": [*alarms, *_alarms(settings, kept, won, others)],
        "verdict": success.verdict(name, overall, floors, wanted, settings["remark"]),
        "seconds": {"all rollouts": sum(found["seconds"] for found in ended)},
    }


def _origin(settings: Mapping[str, Any], command: str) -> dict[str, Any]:
    """Say what was evaluated where, when and by which command."""
    return {
        "kind": KIND,
        "format": FORMAT,
        "title": f"{settings['name']} in {settings['suite']}",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commands": [command],
        "versions": versions() | settings["versions"],
        "machine": machine(),
        "commit": commit(),
        "suite": {"name": settings["suite"], "remark": settings["remark"]},
    }


def _states(asked: Iterable[Name]) -> dict[str, Any]:
    """Say which initial states and seeds were asked for."""
    states = sorted({key.initial_state for _, key in asked})
    dense = len(states) > 1 and states == list(range(states[0], states[-1] + 1))
    told = f"{states[0]} to {states[-1]}" if dense else ", ".join(map(str, states))
    seeds = len({key.seed for _, key in asked})
    return {"trials": len(states), "initial_states": told, "seeds": seeds}


def _json(found: success.Paired) -> dict[str, Any]:
    return {**found._asdict(), "better": found.better}


def _task(
    task: Task, name: str, won: Mapping[str, Mapping[Key, bool]], records: Records
) -> dict[str, Any]:
    """Return the rates of one task, and how many steps its successes took."""
    mine = [found for (who, key), found in records.items() if who == name and key.task == task.name]
    steps = [found["steps"] for found in mine if found["crashed"] is None and found["success"]]
    rates = {
        who: success.rate(y for key, y in found.items() if key.task == task.name)._asdict()
        for who, found in won.items()
    }
    return {
        "task": task.name,
        "instruction": task.instruction,
        "rate": rates.pop(name),
        "floors": rates,
        "steps": median(steps) if steps else None,
        "crashed": sum(found["crashed"] is not None for found in mine),
    }


def _against(settings: Mapping[str, Any], mine: Mapping[Key, bool], other: Other) -> dict[str, Any]:
    """Compare with another evaluation on the keys that both played."""
    found = success.compare(mine, other.outcomes)
    shared = [key for key in other.outcomes if key in mine]
    return {
        "name": other.settings["name"],
        "folder": str(other.folder),
        "overall": success.rate(other.outcomes[key] for key in shared)._asdict(),
        "compared": _json(found),
        "differences": differences(settings, other.settings),
    }


def _latency(records: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return how long a chunk took, over rollouts; None where no network answered."""
    known = [found["latency_ms"] for found in records if found["latency_ms"] is not None]
    if not known:
        return None
    return {
        "median_ms": float(np.median(known)),
        "slow_ms": float(np.quantile(known, 0.95)),
        "chunks": sum(found["chunks"] for found in records),
        "steps": sum(found["steps"] for found in records),
    }


def _alarms(
    settings: Mapping[str, Any],
    records: Records,
    won: Mapping[str, Mapping[Key, bool]],
    others: Sequence[Other],
) -> list[dict[str, str]]:
    """List what speaks against the numbers."""
    found = [
        {"name": "crashed", "where": f"{who}: {key}", "detail": record["crashed"]}
        for (who, key), record in records.items()
        if record["crashed"] is not None
    ]
    idle = sum(won.get("nothing", {}).values())
    if idle:
        detail = f"{success.count_of(idle)} of {len(won['nothing']):,} succeed without an action"
        found.append({"name": "solved by itself", "where": settings["suite"], "detail": detail})
    for other in others:
        if apart := differences(settings, other.settings):
            found.append(
                {"name": "not alike", "where": str(other.folder), "detail": "; ".join(apart)}
            )
    return found
