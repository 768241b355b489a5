"""Landscapes of world models on the same moments, their controls, and what they sum up to.

It knows interfaces only: any ``WorldModel`` will do, a trained one or one that is right by
construction.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from saccade.errors import ConfigError
from saccade.evals.energy import Metric
from saccade.evals.landscape import Landscape, backwards, landscapes, with_other_goals
from saccade.evals.landscape_findings import alarms, turned, verdict, worse_by
from saccade.evals.landscape_scores import compare, measure, summarise
from saccade.evals.planning import Moment
from saccade.experiments.energy_grids import Grids
from saccade.experiments.moments import Recorded, Scene
from saccade.progress import progress
from saccade.types import WorldModel


class Controls(NamedTuple):
    """Moments that a sound model must answer otherwise, and why one is left out."""

    reversed: list[Moment] | None
    other_goals: list[Moment] | None
    skipped: list[str]

    @property
    def computed(self) -> int:
        """Count those that are not left out."""
        return sum(part is not None for part in (self.reversed, self.other_goals))


class Explored(NamedTuple):
    """Landscapes of one model: for each grid of ``Grids.every``, one for each moment."""

    grids: list[list[Landscape]]
    reversed: list[Landscape] | None
    other_goals: list[Landscape] | None

    @property
    def main(self) -> list[Landscape]:
        """Landscapes on the main grid."""
        return self.grids[0]


class Asked(NamedTuple):
    """How landscapes are computed and averaged, the same for every model."""

    grids: Grids
    metric: Metric
    memory: float
    drawn: int
    resamples: int
    seed: int


def explore(
    model: WorldModel, scenes: Sequence[Scene], aside: Controls, asked: Asked, name: str
) -> Explored:
    """Compute every landscape of one model."""
    grids, each = asked.grids.every, asked.grids.evaluations(aside.computed)
    columns: list[list[Landscape]] = [[] for _ in grids]
    found: dict[str, list[Landscape]] = {"reversed": [], "other_goals": []}
    with progress(f"imagining with {name}", each * len(scenes), "actions") as told:
        told(0)
        for i, scene in enumerate(scenes):
            made = landscapes(model, scene.moment, grids, asked.metric, asked.memory)
            for column, one in zip(columns, made, strict=True):
                column.append(one)
            for control, moments in (
                ("reversed", aside.reversed),
                ("other_goals", aside.other_goals),
            ):
                if moments is not None:
                    found[control] += landscapes(
                        model, moments[i], [asked.grids.main], asked.metric, asked.memory
                    )
            told(each * (i + 1))
    return Explored(columns, found["reversed"] or None, found["other_goals"] or None)


def controls_of(scenes: Sequence[Scene], names: tuple[str, ...], seed: int) -> Controls:
    """Turn moments round, and give them foreign goals; what cannot be done is said."""
    moments, skipped = [scene.moment for scene in scenes], []
    reverse = other = None
    try:
        reverse = [backwards(scene.moment, scene.after, names) for scene in scenes]
    except ConfigError as error:
        skipped.append(f"Reversed time was left out: {error}.")
    if len({moment.episode for moment in moments}) > 1:
        other = with_other_goals(moments, seed)
    else:
        skipped.append("Goals of other episodes were left out: there is only one episode.")
    return Controls(reverse, other, skipped)


def entry(
    name: str, found: Explored, base: Explored | None, asked: Asked, step: int | None = 0
) -> dict[str, Any]:
    """Summarise one model's landscapes as JSON values; ``base`` is None for the base itself."""
    grids, how = asked.grids, (asked.resamples, asked.seed)
    wide, slices = len(grids.widened) + 1, len(grids.widened) + 1 + len(grids.slices)
    aside: dict[str, Any] = {"reversed": None, "other_goals": None}
    if found.reversed is not None:
        control = brief(summarise(found.reversed, *how))
        control["turned"] = turned(found.main, found.reversed, *how)
        aside["reversed"] = control
    if found.other_goals is not None:
        control = brief(summarise(found.other_goals, *how))
        control["worse_by"] = worse_by(found.main, found.other_goals, *how)
        aside["other_goals"] = control
    changed = None
    if base is not None:
        changed = any(
            not np.array_equal(a.energy, b.energy)
            for a, b in zip(base.main, found.main, strict=True)
        )
    factors = [factor for factor, _ in grids.widened]
    return {
        "name": name,
        "step": step,
        "summary": summarise(found.main, *how),
        "widened": [
            {"factor": factor, "summary": brief(summarise(column, *how))}
            for factor, column in zip(factors, found.grids[1:wide], strict=True)
        ],
        "slices": [brief(summarise(column, *how)) for column in found.grids[wide:slices]],
        "sweeps": [brief(summarise(column, *how)) for column in found.grids[slices:]],
        "controls": aside,
        "paired": None if base is None else compare(base.main, found.main, *how),
        "changed": changed,
        "moments": [
            {"episode": one.episode, "start": one.start, **measure(one)} for one in found.main
        ],
        "drawn": [_drawn(found, i, wide, slices) for i in spread(len(found.main), asked.drawn)],
    }


def judged(entries: list[dict[str, Any]], found: Recorded, asked: Asked) -> dict[str, Any]:
    """Return the models' part of the results, with alarms and the verdict."""
    truths = np.stack([moment.action.double().mean(0).cpu().numpy() for moment in found.moments])
    names = entries[0]["drawn"][0]["main"]["names"]
    return {
        "models": entries,
        "alarms": alarms(entries, truths, asked.grids.main.places(names)),
        "verdict": verdict(entries),
    }


def brief(summary: dict[str, Any]) -> dict[str, Any]:
    """Leave out the scores of moments in range and out of it; their counts stay."""
    counts = {
        part: {key: summary[part][key] for key in ("episodes", "moments")}
        for part in ("in_range", "out_of_range")
    }
    return {**summary, **counts}


def spread(there: int, wanted: int) -> list[int]:
    """Choose moments to draw, evenly spread."""
    wanted = min(there, wanted)
    return [int((i + 0.5) * there / wanted) for i in range(wanted)]


def _drawn(found: Explored, i: int, wide: int, slices: int) -> dict[str, Any]:
    def one(column: list[Landscape] | None) -> dict[str, Any] | None:
        return None if column is None else column[i].to_json()

    return {
        "main": one(found.main),
        "widened": [one(column) for column in found.grids[1:wide]],
        "slices": [one(column) for column in found.grids[wide:slices]],
        "sweeps": [one(column) for column in found.grids[slices:]],
        "reversed": one(found.reversed),
        "other_goals": one(found.other_goals),
    }
