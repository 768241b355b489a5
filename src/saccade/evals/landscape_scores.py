"""What a landscape is worth, in numbers: of one moment, over episodes, and of two models.

Of one moment (``measure``); distances are between *one-step* actions, in metres for x, y and z:

    distance         of the lowest cell's position from the true one, in all of x, y and z, also
                     where the grid holds one at zero; the mean, where several cells are lowest
    in_slice_*       the same along the axes that vary only, of each kind: position in metres,
                     rotation in radians (Euler angles or rotation vectors subtracted), gripper
    nearest_cell     distance of the cell nearest to the truth: no model can do better on this grid
    refined          ``distance`` of the minimum of a quadratic around the lowest cell, where it
                     is convex with its minimum inside
    no_change        distance of standing still from the truth
    rank             share of candidates with a lower energy than the truth, ties counted half:
                     0 is best, one half is chance
    sharpness        (highest - lowest energy) / mean
    gap              energy of the truth - lowest; below 0 where the truth, between the cells,
                     is lower than all of them
    relative_gap     the same over (highest - lowest); 0 where the landscape is flat
    curvature_*      smallest and largest eigenvalue of the quadratic's second derivatives
    convex           whether all are positive
    on_edge          whether the lowest cell is on the border of the grid, ties counted by share
    energy_*         of the true action, of standing still, and of predicting no change

The truth in ``rank`` and ``gap`` has the values of the candidates along the axes that do not
vary. Moments whose truth lies outside the grid cannot have their minimum at it: they are counted
and scored apart.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from saccade.errors import ConfigError, DataError
from saccade.evals.curvature import fit_bowl
from saccade.evals.landscape import Grid, Landscape, kind_of
from saccade.evals.planning import mean_over_episodes

FLOORS = ("no_change", "shuffled_actions")
Scores = Mapping[str, float | None]
LOWER: Mapping[str, bool] = {  # whether less is better, of the scores for which one is
    "distance": True,
    "in_slice_position": True,
    "in_slice_rotation": True,
    "in_slice_gripper": True,
    "in_slice_other": True,
    "refined": True,
    "rank": True,
    "sharpness": False,
    "relative_gap": True,
    "convex": False,
}


def measure(landscape: Landscape) -> dict[str, float | None]:
    """Score one landscape; None where a score is not defined."""
    energy, grid = landscape.energy, landscape.grid
    lowest, highest = float(energy.min()), float(energy.max())
    gap, spread = landscape.at_projection - lowest, highest - lowest
    below = (energy < landscape.at_projection).mean()
    equal = (energy == landscape.at_projection).mean()
    edge = np.isclose(np.abs(landscape.lowest), grid.half_width, rtol=1e-9).any(1)
    return {
        "distance": _mean(_distances(landscape, landscape.lowest)),
        **_in_slice(landscape),
        "nearest_cell": _least(_distances(landscape, grid.cells)),
        "no_change": _mean(_distances(landscape, np.zeros((1, len(grid.names))))),
        "rank": float(below + equal / 2),
        "sharpness": spread / float(energy.mean()) if energy.mean() else None,
        "gap": gap,
        "relative_gap": gap / spread if spread else 0.0,
        "on_edge": float(edge.mean()),
        **_bowl(landscape),
        "energy_lowest": lowest,
        "energy_at_truth": landscape.at_truth,
        "energy_at_zero": landscape.at_zero,
        "energy_no_change": landscape.no_change,
    }


def summarise(
    landscapes: Sequence[Landscape], resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Average over episodes, with 95 % bootstrap intervals, as JSON values.

    Returns:
        ``episodes``, ``moments``, ``grid``, ``resolution`` (spacing of the cells, and half a
        cell's diagonal: no truth in range is further from a cell, along varied positions), and
        for each of ``all``, ``in_range`` and ``out_of_range`` its counts, ``scores[name]`` of
        ``{value, low, high, moments}``, and ``better_by``: how much smaller the distance is than
        that of two floors (above 0 is better), ``no_change`` (standing still) and
        ``shuffled_actions`` (from the lowest cell to the true actions of other episodes).

    Raises:
        DataError: no landscape.
        ConfigError: landscapes of several grids, axes, metrics or horizons.
    """
    first = _one_kind(landscapes)
    rows = [measure(landscape) for landscape in landscapes]
    shuffled = _shuffled(landscapes)
    for row, value in zip(rows, shuffled, strict=True):
        row["shuffled_actions"] = value
    episode = np.array([landscape.episode for landscape in landscapes])
    inside = np.array([one.grid.covers(one.truth, one.names) for one in landscapes])
    chosen = {"all": np.full(len(rows), True), "in_range": inside, "out_of_range": ~inside}
    parts = {
        name: _section(rows, episode, which, resamples, seed) for name, which in chosen.items()
    }
    return {
        "episodes": len(np.unique(episode)),
        "moments": len(rows),
        "metric": first.metric,
        "horizon": first.horizon,
        "grid": first.to_json()["grid"],
        "resolution": _resolution(first.grid),
        **parts,
    }


def compare(
    base: Sequence[Landscape],
    other: Sequence[Landscape],
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare a model with a base on the same moments, as JSON values.

    Returns:
        Counts, and ``scores[name]``: the means ``base`` and ``other`` over the moments where both
        are defined, their mean difference (other - base) as ``value`` with its 95 % interval
        ``low`` and ``high``, ``d``: the mean of the episodes' differences over their standard
        deviation (Cohen's d of paired samples), and ``wins``: the share of episodes in which the
        other is better, ties counted half; None where no direction is better.

    Raises:
        ConfigError: not the same moments, grids, axes and metrics in the same order.
        DataError: no landscape.
    """
    _one_kind([*base, *other])
    places = [[(one.episode, one.start) for one in side] for side in (base, other)]
    if places[0] != places[1] or not all(
        np.array_equal(a.truth, b.truth) for a, b in zip(base, other, strict=True)
    ):
        raise ConfigError(
            "two models are compared on the same moments, in the same order; these differ: "
            "compute both from one list of moments"
        )
    before, after = ([measure(one) for one in side] for side in (base, other))
    episode = np.array([one.episode for one in base])
    scores = {
        name: _paired(_column(before, name), _column(after, name), name, episode, resamples, seed)
        for name in before[0]
        if name not in ("nearest_cell", "no_change")  # of the data, not of a model
    }
    return {"episodes": len(np.unique(episode)), "moments": len(base), "scores": scores}


def _distances(
    landscape: Landscape,
    cells: Float64[np.ndarray, "m d"],
    truths: Float64[np.ndarray, "n a"] | None = None,
) -> Float64[np.ndarray, "m n"] | None:
    """Return how far the positions of cells are from true ones; by default from the moment's own.

    Axes that every candidate shares with the truth do not count. None without a varied position.
    """
    grid, names = landscape.grid, landscape.names
    if not any(kind_of(name) == "position" for name in grid.names):
        return None
    free = grid.names if grid.others == "truth" else names
    counts = [i for i, name in enumerate(names) if kind_of(name) == "position" and name in free]
    actions = np.zeros((len(cells), len(names)))
    actions[:, grid.places(names)] = cells
    truths = landscape.truth[None] if truths is None else truths
    return np.linalg.norm((actions[:, None] - truths)[..., counts], axis=-1)


def _in_slice(landscape: Landscape) -> dict[str, float | None]:
    """Return the distance of the lowest cells along the axes of each kind that vary."""
    grid = landscape.grid
    apart = landscape.lowest - landscape.truth[grid.places(landscape.names)]
    kinds = [kind_of(name) for name in grid.names]
    return {
        f"in_slice_{kind}": _mean(np.linalg.norm(apart[:, [k == kind for k in kinds]], axis=1))
        if kind in kinds
        else None
        for kind in ("position", "rotation", "gripper", "other")
    }


def _bowl(landscape: Landscape) -> dict[str, float | None]:
    bowl = fit_bowl(landscape.grid.values, landscape.energy)
    if bowl is None:
        names = ("refined", "curvature_least", "curvature_most", "convex")
        return dict.fromkeys(names)
    refined = None if bowl.minimum is None else _distances(landscape, bowl.minimum[None])
    return {
        "refined": _mean(refined),
        "curvature_least": float(bowl.eigenvalues[0]),
        "curvature_most": float(bowl.eigenvalues[-1]),
        "convex": float(bowl.convex),
    }


def _shuffled(landscapes: Sequence[Landscape]) -> list[float | None]:
    """Return how far each lowest cell is from the true actions of all other episodes."""
    truths = np.stack([one.truth for one in landscapes])
    episode = np.array([one.episode for one in landscapes])
    return [
        _mean(_distances(one, one.lowest, truths[episode != one.episode])) for one in landscapes
    ]


def _one_kind(landscapes: Sequence[Landscape]) -> Landscape:
    """Return the first, after making sure that numbers of all mean the same."""
    if not landscapes:
        raise DataError("there is no landscape to score; the episodes are shorter than one action")
    kinds = {(one.grid, one.names, one.metric, one.horizon) for one in landscapes}
    if len(kinds) > 1:
        raise ConfigError(
            "landscapes of several grids, axes, metrics or horizons have no common mean; score "
            "those of each apart"
        )
    return landscapes[0]


def _section(
    rows: Sequence[Scores], episode: np.ndarray, which: np.ndarray, resamples: int, seed: int
) -> dict[str, Any]:
    """Average the scores of some moments."""
    columns = {name: _column(rows, name) for name in rows[0]}

    def average(values: Float64[np.ndarray, " n"]) -> dict[str, Any]:
        return mean_over_episodes(values[which], episode[which], resamples, seed)

    distance = columns["distance"]
    return {
        "episodes": len(np.unique(episode[which])),
        "moments": int(which.sum()),
        "scores": {name: average(values) for name, values in columns.items()},
        "better_by": {name: average(columns[name] - distance) for name in FLOORS},
    }


def _paired(
    before: Float64[np.ndarray, " n"],
    after: Float64[np.ndarray, " n"],
    name: str,
    episode: np.ndarray,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Compare one score of two models, moment by moment."""
    change = after - before
    found = mean_over_episodes(change, episode, resamples, seed)
    known = np.isfinite(change)
    if not known.any():
        return {**found, "base": None, "other": None, "d": None, "wins": None}
    each = np.array([change[known & (episode == one)].mean() for one in np.unique(episode[known])])
    spread = float(each.std(ddof=1)) if len(each) > 1 else 0.0
    better = -each if LOWER.get(name) else each
    wins = ((better > 0) + (better == 0) / 2).mean()
    return {
        **found,
        "base": float(before[known].mean()),
        "other": float(after[known].mean()),
        "d": float(each.mean()) / spread if spread else None,
        "wins": float(wins) if name in LOWER else None,
    }


def _resolution(grid: Grid) -> dict[str, Any]:
    """Say how finely a grid can tell positions apart."""
    spacing = dict(zip(grid.names, grid.spacing, strict=True))
    sides = [size for name, size in spacing.items() if kind_of(name) == "position"]
    worst = float(np.linalg.norm(sides)) / 2 if sides else None
    return {"spacing": spacing, "worst_within": worst}


def _column(rows: Sequence[Scores], name: str) -> Float64[np.ndarray, " n"]:
    values = [row[name] for row in rows]
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _mean(values: np.ndarray | None) -> float | None:
    return None if values is None or not values.size else float(values.mean())


def _least(values: np.ndarray | None) -> float | None:
    return None if values is None else float(values.min())
