"""Put every probe to every representation, and compare what they answer.

Parts are made of whole episodes: ``train`` to fit, ``select`` to choose penalties and stopping,
and all others to report on: ``test`` (tasks seen in training), ``unseen`` (held-out tasks),
perturbed copies of ``test``, or another data set. Trained encoders, their untrained networks and
floors go through the same code; per-episode sums stay beside the rows, so that two representations
can be compared on the very same episodes.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np

from saccade.errors import ConfigError
from saccade.evals import statistics
from saccade.evals.features import Reader
from saccade.evals.leaks import check_parts
from saccade.evals.probes import action
from saccade.evals.probes.base import Answer, Data, Key, Prepared, ProbeConfig, ProbeName
from saccade.evals.probes.clusters import ClustersProbe
from saccade.evals.probes.flow import FlowProbe
from saccade.evals.probes.order import OrderProbe

ALL: tuple[ProbeName, ...] = (
    "action", "flow", "order", "clusters", "factors", "curves", "robustness",
)  # fmt: skip
HEADLINE = {"action": "r2", "flow": "epe", "order": "accuracy", "clusters": "purity"}


@dataclass(frozen=True, kw_only=True)
class Representation:
    """A named source of features, one reader per training seed.

    A floor without seeds has seed 0 only; one without readers predicts what costs nothing.
    ``floor_of`` names the method whose untrained network this is.
    """

    name: str
    kind: Literal["method", "floor"]
    readers: Mapping[int, Reader]
    floor_of: str | None = None
    reading: str = ""


COPY = Representation(name="copy", kind="floor", readers={})  # predicts no motion


class Scored(NamedTuple):
    """One score over all seeds: an answer, and the sums of every seed and episode."""

    answer: Answer
    table: statistics.Table


class Probed(NamedTuple):
    """What one representation answered."""

    representation: Representation
    scores: dict[Key, Scored]


def prepare(data: Data, config: ProbeConfig) -> dict[str, Prepared]:
    """Choose and label the clips of every probe that is asked.

    Raises:
        ConfigError: nothing is asked, or a gap is.
        DataError: an episode is in two parts, a part is missing, or the data cannot answer.
    """
    if not config.probes or not config.gaps or not config.readouts:
        raise ConfigError("probes, gaps and readouts must each name at least one")
    check_parts(data.parts, data.camera)
    builders: dict[str, Callable[[Data, ProbeConfig], Prepared]] = {
        "action": action.prepared,
        "flow": FlowProbe,
        "order": OrderProbe,
        "clusters": ClustersProbe,
    }
    wanted = set(config.probes)
    if wanted & {"factors", "curves"} or wanted == {"robustness"}:
        wanted.add("action")  # they are variants of it
    return {name: build(data, config) for name, build in builders.items() if name in wanted}


def probe(
    representation: Representation,
    prepared: Mapping[str, Prepared],
    config: ProbeConfig,
    report: Callable[[str], None] = lambda _: None,
) -> Probed:
    """Compute features once, then fit and score every probe for every training seed."""
    found: dict[Key, list[Answer]] = {}
    readers: dict[int, Reader | None] = dict(representation.readers) or {0: None}
    for seed, reader in readers.items():
        if reader is not None:
            reader.prepare([r for each in prepared.values() for r in each.requests()])
        for name, each in prepared.items():
            report(f"asking {representation.name} about {name}")
            for answer in each.answers(reader, seed + config.seed):
                found.setdefault(answer.key, []).append(answer)
    scores = {
        key: Scored(merged(answers), np.stack([answer.sums for answer in answers]))
        for key, answers in found.items()
    }
    return Probed(representation, scores)


def merged(answers: Sequence[Answer]) -> Answer:
    """Return the first seed's answer, with the penalty that is typical of all seeds."""
    penalties = [answer.penalty for answer in answers if answer.penalty is not None]
    typical = float(np.exp(np.mean(np.log(penalties)))) if penalties else None
    return answers[0]._replace(penalty=typical)


def rows_of(probed: Probed, config: ProbeConfig) -> Iterator[dict[str, Any]]:
    """Write every score as the report's schema has it; None where a number is not defined."""
    who = probed.representation
    for key, (answer, table) in probed.scores.items():
        found = statistics.estimate(table, answer.statistic, config.resamples, config.seed)
        yield {
            "representation": who.name,
            "reading": who.reading,
            "kind": who.kind,
            "floor_of": who.floor_of,
            "seeds": list(who.readers) or [0],
            **key._asdict(),
            "better": answer.better,
            **{name: _number(value) for name, value in found._asdict().items()},
            "chance": answer.chance,
            "tolerance": answer.tolerance,
            "episodes": table.shape[1],
            "samples": answer.samples,
            "dims": answer.dims,
            "penalty": answer.penalty,
        }


def compare(
    probed: Sequence[Probed], config: ProbeConfig, references: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Compare every method with every other method and floor, on the same episodes.

    With ``references``, methods are compared with those and with floors only: pairs of all grow
    with the square of the methods, and so does Holm's correction.

    One row for each headline score of the first readout, in the frame that the image determines
    where it is known; a method's untrained network is compared with that method alone.
    Permutation tests, at the headline gap, are corrected (Holm) within a question and split,
    those between methods apart from those against floors.
    """
    rows: list[dict[str, Any]] = []
    families: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for first, second in combinations(probed, 2):
        a, b = sorted((first, second), key=lambda each: each.representation.kind != "method")
        who, other = a.representation, b.representation
        wanted = other.kind == "floor" or not references or {who.name, other.name} & {*references}
        if who.kind == "method" and other.floor_of in (None, who.name) and wanted:
            for row in _compare(a, b, config):
                question = (row[name] for name in Key._fields if name in row)
                families.setdefault((other.kind, *question), []).append(row)
                rows.append(row)
    for members in families.values():
        raw = [np.nan if row["p"] is None else row["p"] for row in members]
        for row, p in zip(members, statistics.holm(raw), strict=True):
            row["p_holm"] = _number(p)
    return rows


def _compare(a: Probed, b: Probed, config: ProbeConfig) -> list[dict[str, Any]]:
    rows = []
    frame = label_frame(key.frame for key in a.scores)
    for key in [key for key in a.scores if key in b.scores]:
        first = key.readout in (config.readouts[0], "")
        main = key.metric == HEADLINE.get(key.probe) and not key.condition and key.labels == 1
        if not (first and main and key.frame in (frame, "image", "")):
            continue
        statistic = a.scores[key].answer.statistic
        one, other = a.scores[key].table, b.scores[key].table
        found = statistics.paired_difference(one, other, statistic, config.resamples, config.seed)
        p = float("nan")
        if key.gap == config.main_gap:
            p = statistics.paired_permutation(one, other, statistic, seed=config.seed)
        where = {n: v for n, v in key._asdict().items() if n not in ("condition", "labels")}
        rows.append(
            {
                "a": a.representation.name,
                "b": b.representation.name,
                **where,
                "better": a.scores[key].answer.better,
                "difference": _number(found.value),
                "low": _number(found.low),
                "high": _number(found.high),
                "p": _number(p),
                "p_holm": None,
            }
        )
    return rows


def label_frame(frames: Any) -> Literal["camera", "world"]:
    """Name the frame that headlines use: the camera's where any score has it, else the world's."""
    return "camera" if "camera" in frames else "world"


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
