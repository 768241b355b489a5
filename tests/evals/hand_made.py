"""Rows, pairs and sums as a comparison writes them, with numbers that a test chooses."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from saccade.evals import statistics
from saccade.evals.features import StateReader
from saccade.evals.probe import Probed, Representation, Scored
from saccade.evals.probes.base import Answer, Key, ProbeConfig

ALL = ProbeConfig(
    probes=("action", "flow", "order", "clusters", "factors", "curves", "robustness"),
    resamples=200,
)
ACTION = ProbeConfig(resamples=200)
QUESTION = {
    "probe": "action",
    "target": "displacement",
    "group": "position",
    "frame": "camera",
    "readout": "linear",
    "gap": 5,
    "split": "test",
    "metric": "r2",
    "better": "higher",
}
FLOW = {
    "probe": "flow",
    "target": "simulator",
    "group": "all cells",
    "frame": "image",
    "metric": "epe",
    "better": "lower",
    "chance": None,
}
ORDER = {
    "probe": "order",
    "target": "two orders",
    "group": "",
    "frame": "",
    "metric": "accuracy",
    "chance": 0.5,
}
CLUSTERS = {
    "probe": "clusters",
    "target": "task",
    "group": "",
    "frame": "",
    "readout": "",
    "metric": "purity",
    "chance": 0.2,
}


def row(name: str, value: float | None, floor_of: str | None = None, **changed: Any) -> dict:
    """Write a score with an interval of 0.05 to either side; ``floor_of=""`` is any floor."""
    known = value is not None
    return {
        "representation": name,
        "reading": "",
        "kind": "floor" if floor_of is not None else "method",
        "floor_of": floor_of or None,
        "seeds": [0, 1, 2],
        **QUESTION,
        "condition": "",
        "labels": 1.0,
        "value": value,
        "low": value - 0.05 if known else None,
        "high": value + 0.05 if known else None,
        "chance": 0.0,
        "tolerance": None,
        "episodes": 24,
        "samples": 480,
        "dims": 64,
        "penalty": 1.0,
    } | changed


def floor(name: str, value: float | None, **changed: Any) -> dict:
    return row(name, value, floor_of="", **changed)


def pair(a: str, b: str, difference: float, half: float = 0.04, **changed: Any) -> dict:
    """Write a paired difference with its interval, and a p that agrees with it."""
    p = 0.001 if abs(difference) > half else 0.4
    bounds = {"difference": difference, "low": difference - half, "high": difference + half}
    return {"a": a, "b": b, **QUESTION, **bounds, "p": p, "p_holm": p} | changed


def asked(changed: dict[str, Any]) -> dict[str, Any]:
    """Leave out of a question what only rows have."""
    return {name: value for name, value in changed.items() if name != "chance"}


def scored(question: dict[str, Any], table: np.ndarray, condition: str = "") -> tuple[Key, Scored]:
    """Turn the sums of every seed and episode into a score of a question."""
    known = QUESTION | question
    key = Key(
        **{name: known[name] for name in Key._fields if name in known},
        condition=condition,
        labels=1.0,
    )
    statistic = {
        "epe": statistics.mean_error,
        "accuracy": statistics.accuracy,
        "purity": statistics.mean_error,
        "r2": statistics.r2,
    }[known["metric"]]
    answer = Answer(
        key,
        table[0],
        statistic,
        samples=int(table[0, :, 0].sum()),
        better=known["better"],
        chance=known.get("chance"),
    )
    return key, Scored(answer, table)


def probed(
    name: str,
    scores: Sequence[tuple[Key, Scored]],
    floor_of: str | None = None,
    seeds: Sequence[int] = (0, 1, 2),
) -> Probed:
    """Say that a representation gave these answers; ``floor_of=""`` is any floor."""
    who = Representation(
        name=name,
        kind="method" if floor_of is None else "floor",
        readers={seed: StateReader({}) for seed in seeds},  # its sums are given, nothing is read
        floor_of=floor_of or None,
    )
    return Probed(who, dict(scores))
