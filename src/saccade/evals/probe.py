"""The action probe: how much of a robot's motion can be read off frozen features?

For every gap, readout, split, frame and group it gives one row of numbers with 95 % intervals over
episodes; per-episode sums stay beside the rows, so that two representations can be compared on
the very same episodes. Methods and floors go through the same code. Parts are made of whole
episodes: ``train`` to fit, ``select`` to choose penalties and stopping, ``test`` (tasks seen in
training) and, where tasks were held out, ``unseen`` to report.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from saccade.data.episodes import Episodes, Subset
from saccade.errors import DataError
from saccade.evals import statistics
from saccade.evals.features import EncoderFeatures, Features, Pairs, enumerate_pairs, floors
from saccade.evals.readouts import Readout, fitter
from saccade.evals.targets import Motion, Target, targets


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """``gaps`` and ``stride`` (between the start frames of pairs) are in steps of the data."""

    gaps: tuple[int, ...] = (1, 5, 10)
    stride: int = 2
    readouts: tuple[Readout, ...] = ("linear",)
    target: Motion = "displacement"
    resamples: int = 2000
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Representation:
    """A named source of features, one per training seed; a floor without seeds has seed 0 only.

    ``floor_of`` names the method whose untrained network this is.
    """

    name: str
    kind: Literal["method", "floor"]
    runs: Mapping[int, Features]
    floor_of: str | None = None


COPY = Representation(name="copy", kind="floor", runs={})  # predicts no motion; nothing is fitted


def baselines(train: Episodes, camera: str) -> list[Representation]:
    """List every floor that needs no encoder; untrained encoders are the caller's to add."""
    sources = floors(train, camera).items()
    plain = [Representation(name=name, kind="floor", runs={0: source}) for name, source in sources]
    return [*plain, COPY]


class Key(NamedTuple):
    """Where a score belongs, whatever the representation."""

    readout: str
    gap: int
    split: str
    frame: str
    group: str


class Probed(NamedTuple):
    """The rows of one representation, and the per-episode sums behind each of them."""

    representation: Representation
    rows: list[dict[str, Any]]
    tables: dict[Key, statistics.Table]


class Part(NamedTuple):
    """Pairs of one part with their labels."""

    episodes: Episodes
    pairs: Pairs
    targets: list[Target]


class Score(NamedTuple):
    """One seed's sums per episode for one target, with what was fitted."""

    sums: Float64[np.ndarray, "e c"]
    penalty: float | None
    dims: int


def probe(
    representation: Representation,
    parts: Mapping[str, Episodes],
    camera: str,
    config: ProbeConfig,
) -> Probed:
    """Fit every readout at every gap and score it on held-out episodes.

    ``copy`` has no action to repeat, so it is scored on displacements only; representations
    without tokens (raw floors) have no attentive readout.

    Raises:
        DataError: an episode is in two parts, a part is missing, or a part has no pair.
    """
    check_parts(parts)
    probed = Probed(representation, [], {})
    for gap in config.gaps:
        data = {name: _part(episodes, camera, gap, config) for name, episodes in parts.items()}
        for readout in config.readouts:
            runs = _runs(representation, data, readout, config)
            _report(probed, runs, data, (readout, gap), config)
    return probed


def check_parts(parts: Mapping[str, Episodes]) -> None:
    """Refuse parts that share an episode, or that lack one to fit, choose or report on.

    Raises:
        DataError: it names the parts and the episode.
    """
    missing = {"train", "select", "test"} - set(parts)
    if missing:
        raise DataError(f"a probe lacks the parts {sorted(missing)}; split the episodes into them")
    held = {name: identities(episodes) for name, episodes in parts.items()}
    for first, second in combinations(held, 2):
        shared = sorted(held[first] & held[second])
        if shared:
            raise DataError(
                f"episode {shared[0][1]} of {shared[0][0]} is in {first!r} and in {second!r} "
                f"({len(shared)} such); split by episode, each into one part"
            )


def identities(episodes: Episodes) -> set[tuple[str, int]]:
    """Name every episode by the data set that holds it, whatever subsets lie between."""
    keep = list(range(len(episodes.lengths)))
    while isinstance(episodes, Subset):
        keep, episodes = [episodes.keep[i] for i in keep], episodes.episodes
    return {(episodes.fingerprint, i) for i in keep}


def _part(episodes: Episodes, camera: str, gap: int, config: ProbeConfig) -> Part:
    pairs = enumerate_pairs(episodes, gap, config.stride)
    return Part(episodes, pairs, targets(episodes, pairs, camera, config.target))


Scores = dict[tuple[str, str, str], Score]  # by split, frame and group


def _runs(
    representation: Representation, data: Mapping[str, Part], readout: Readout, config: ProbeConfig
) -> list[Scores]:
    """Score every training seed; none where the representation has no such readout."""
    runs = representation.runs
    if not runs:
        return [_score_copy(data)] if config.target == "displacement" else []
    if readout == "attentive" and not all(isinstance(s, EncoderFeatures) for s in runs.values()):
        return []
    return [_score(source, data, readout, seed + config.seed) for seed, source in runs.items()]


def _score(source: Features, data: Mapping[str, Part], readout: Readout, seed: int) -> Scores:
    """Fit one run's features to every target and sum up its errors on the reported splits."""
    read: Callable[[Episodes, Pairs], Tensor] = source
    if readout == "attentive" and isinstance(source, EncoderFeatures):
        read = source.tokens
    x = {name: read(part.episodes, part.pairs) for name, part in data.items()}
    fit, scores = fitter(readout, x["train"], seed), Scores()
    for i, target in enumerate(data["train"].targets):
        fitted = fit(target.values, x["select"], data["select"].targets[i].values)
        for split in reported(data):
            sums = _sums(fitted.predict(x[split]), data[split], i)
            score = Score(sums, fitted.penalty, x[split].shape[-1])
            scores[split, target.frame, target.group] = score
    return scores


def _score_copy(data: Mapping[str, Part]) -> Scores:
    """Score the prediction that nothing moves."""
    return {
        (split, target.frame, target.group): Score(
            _sums(np.zeros_like(target.values), data[split], i), None, 0
        )
        for split in reported(data)
        for i, target in enumerate(data[split].targets)
    }


def reported(parts: Mapping[str, Any]) -> list[str]:
    """List the splits to report on: the seen tasks, and the unseen where some were held out."""
    return [split for split in ("test", "unseen") if split in parts]


def _sums(predicted: Float64[np.ndarray, "n a"], part: Part, i: int) -> Float64[np.ndarray, "e c"]:
    target = part.targets[i]
    return statistics.episode_sums(predicted, target.values, part.pairs.episode, target.tolerance)


def _report(
    probed: Probed,
    runs: Sequence[Scores],
    data: Mapping[str, Part],
    fitted: tuple[str, int],
    config: ProbeConfig,
) -> None:
    """Append one row, and keep one table, for every target and split."""
    for split, frame, group in runs[0] if runs else ():
        scores = [run[split, frame, group] for run in runs]
        key = Key(*fitted, split, frame, group)
        probed.tables[key] = np.stack([score.sums for score in scores])
        probed.rows.append(_row(probed, key, scores, data[split], config))


def _row(
    probed: Probed, key: Key, scores: Sequence[Score], part: Part, config: ProbeConfig
) -> dict[str, Any]:
    """Write one score as the report's schema has it; None where a number is not defined."""
    target = next(t for t in part.targets if (t.frame, t.group) == (key.frame, key.group))
    penalties = [score.penalty for score in scores if score.penalty is not None]
    row = {
        "representation": probed.representation.name,
        "kind": probed.representation.kind,
        "floor_of": probed.representation.floor_of,
        "seeds": list(probed.representation.runs) or [0],
        **key._asdict(),
        "target": config.target,
        "tolerance": target.tolerance,
        "episodes": len(scores[0].sums),
        "windows": len(target.values),
        "dims": scores[0].dims,
        "penalty": float(np.exp(np.mean(np.log(penalties)))) if penalties else None,
    }
    shown = {
        "r2": statistics.r2,
        "cosine": statistics.cosine if target.values.shape[1] > 1 else None,  # one is only a sign
        "within": statistics.within if target.tolerance is not None else None,
    }
    for name, statistic in shown.items():
        found = (float("nan"),) * 3
        if statistic is not None:
            table = probed.tables[key]
            found = statistics.bootstrap(table, statistic, config.resamples, config.seed)
        for suffix, value in zip(("", "_low", "_high"), found, strict=True):
            row[name + suffix] = _number(value)
    return row


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def compare(probed: Sequence[Probed], config: ProbeConfig) -> list[dict[str, Any]]:
    """Compare R2 of every method with every other method and floor, on the same episodes.

    One row per gap, split and group, for the first readout and the frame that the image
    determines where it is known (else the world's). Intervals are not corrected for their number.
    """
    rows = []
    for first, second in combinations(probed, 2):
        a, b = sorted((first, second), key=lambda each: each.representation.kind != "method")
        if a.representation.kind == "method":
            rows += _compare(a, b, config)
    return rows


def _compare(a: Probed, b: Probed, config: ProbeConfig) -> list[dict[str, Any]]:
    rows, frame = [], label_frame(a.rows)
    for key in [key for key in a.tables if key in b.tables]:
        if (key.readout, key.frame) != (config.readouts[0], frame):
            continue
        found = statistics.paired_difference(
            a.tables[key], b.tables[key], statistics.r2, config.resamples, config.seed
        )
        names = {"a": a.representation.name, "b": b.representation.name}
        where = {"gap": key.gap, "split": key.split, "group": key.group}
        numbers = dict(zip(("difference", "low", "high", "p"), map(_number, found), strict=True))
        rows.append(names | where | numbers)
    return rows


def label_frame(rows: Sequence[Mapping[str, Any]]) -> Literal["camera", "world"]:
    """Name the frame that headlines use: the camera's where any row has it, else the world's."""
    return "camera" if any(row["frame"] == "camera" for row in rows) else "world"
