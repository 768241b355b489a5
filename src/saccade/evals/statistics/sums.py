"""Scores of sums that each episode contributes, so that resampling episodes costs one product.

    R2          1 - sum SSE / sum SST, pooled over the dimensions of a group. SST is taken around
                the mean of the split that is scored (of the resample, inside the bootstrap), so 0
                is what knowing that split's mean would give; a readout that only knows the
                training mean scores a little below 0.
    cosine      mean over windows of cos(predicted, true), where the truth moves at all
    within      share of windows whose error is below the tolerance
    accuracy    share of windows that are right
    mean error  mean over windows, such as an end-point error
    NMI         2 I(C; L) / (H(C) + H(L)) of clusters and labels (Strehl & Ghosh, 2002, with the
                arithmetic mean): 0 if knowing one says nothing about the other, 1 if it says all

Column 0 of every table of sums counts windows.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Integer

Table = Float64[np.ndarray, "k e c"]  # seeds, episodes, sums
COUNT, SSE, SQUARES, COSINES, MOVING, WITHIN, SUMS = range(
    7
)  # SUMS starts one column per dimension
TOTAL = 1  # column of what is averaged: windows that are right, or errors
LABELS, CELLS = 1, 2  # windows times labels (the shape, in any sum of rows); cells, by cluster
STILL = 0.01  # of the tolerance: below it a true displacement has no direction worth scoring
Statistic = Callable[[Float64[np.ndarray, "*b c"]], Float64[np.ndarray, "*b"]]


class Estimate(NamedTuple):
    """A value with its 95 % interval, in the value's unit; NaN where it is not defined."""

    value: float
    low: float
    high: float


def episode_sums(
    predicted: Float64[np.ndarray, "n a"],
    true: Float64[np.ndarray, "n a"],
    episode: np.ndarray,
    tolerance: float | None,
) -> Float64[np.ndarray, "e c"]:
    """Add up, for each episode, what the scores of a regression need."""
    centred = true - true.mean(0)  # SST does not depend on the origin, its rounding does
    error = np.linalg.norm(predicted - true, axis=-1)
    length, guess = np.linalg.norm(true, axis=-1), np.linalg.norm(predicted, axis=-1)
    moving = length > STILL * (tolerance or 0)
    product = np.where(moving & (guess > 0), length * guess, 1)
    cosine = np.where(moving, (predicted * true).sum(-1) / product, 0)
    within = error < tolerance if tolerance is not None else np.full(len(error), np.nan)
    columns = [np.ones(len(true)), error**2, (centred**2).sum(-1), cosine, moving, within]
    return _added(np.column_stack([*columns, centred]), episode)


def accuracy_sums(
    correct: Bool[np.ndarray, " n"], episode: np.ndarray
) -> Float64[np.ndarray, "e c"]:
    """Count, for each episode, its windows and those that are right."""
    return _added(np.column_stack([np.ones(len(correct)), correct]), episode)


def error_sums(errors: Float[np.ndarray, " n"], episode: np.ndarray) -> Float64[np.ndarray, "e c"]:
    """Count, for each episode, its windows, and add up their errors."""
    return _added(np.column_stack([np.ones(len(errors)), errors]), episode)


def contingency_sums(
    cluster: Integer[np.ndarray, " n"],
    label: Integer[np.ndarray, " n"],
    episode: np.ndarray,
    clusters: int,
    labels: int,
) -> Float64[np.ndarray, "e c"]:
    """Count, for each episode, how often each cluster meets each label.

    Raises:
        ValueError: a cluster or label is not among so many.
    """
    for name, found, count in (("cluster", cluster, clusters), ("label", label, labels)):
        if len(found) and not 0 <= found.min() <= found.max() < count:
            raise ValueError(
                f"a {name} is numbered {found.min()} to {found.max()}; {count} of them are "
                f"numbered 0 to {count - 1}"
            )
    cells = np.zeros((len(cluster), clusters * labels))
    cells[np.arange(len(cluster)), cluster * labels + label] = 1
    shape = np.full((len(cluster), 2), [1, labels])
    return _added(np.column_stack([shape, cells]), episode)


def _added(rows: Float64[np.ndarray, "n c"], episode: np.ndarray) -> Float64[np.ndarray, "e c"]:
    _, place = np.unique(episode, return_inverse=True)
    sums = np.zeros((place.max() + 1, rows.shape[1]))
    np.add.at(sums, place, rows)
    return sums


def r2(sums: Float64[np.ndarray, "*b c"]) -> Float64[np.ndarray, "*b"]:
    """Score sums by R2; NaN where the truth does not vary."""
    squares = sums[..., SQUARES]
    total = squares - (sums[..., SUMS:] ** 2).sum(-1) / sums[..., COUNT]
    return 1 - _ratio(sums[..., SSE], total, total > 1e-9 * squares)


def cosine(sums: Float64[np.ndarray, "*b c"]) -> Float64[np.ndarray, "*b"]:
    """Average the cosine; NaN where nothing moves."""
    return _ratio(sums[..., COSINES], sums[..., MOVING], sums[..., MOVING] > 0)


def within(sums: Float64[np.ndarray, "*b c"]) -> Float64[np.ndarray, "*b"]:
    """Return the share of windows inside the tolerance."""
    return sums[..., WITHIN] / sums[..., COUNT]


def accuracy(sums: Float64[np.ndarray, "*b c"]) -> Float64[np.ndarray, "*b"]:
    """Return the share of windows that are right."""
    return sums[..., TOTAL] / sums[..., COUNT]


def mean_error(sums: Float64[np.ndarray, "*b c"]) -> Float64[np.ndarray, "*b"]:
    """Return the mean error of a window."""
    return sums[..., TOTAL] / sums[..., COUNT]


def nmi(sums: Float64[np.ndarray, "*b c"]) -> Float64[np.ndarray, "*b"]:
    """Score a contingency table by NMI; NaN where there is one cluster and one label.

    Chance alone raises it, the more so the fewer windows there are (Vinh, Epps & Bailey, 2010),
    and a resample of episodes is raised twice; ``bootstrap`` takes that off.
    """
    cells = _cells(sums) / sums[..., COUNT, None, None]
    of_clusters, of_labels = _entropy(cells.sum(-1)), _entropy(cells.sum(-2))
    both = _entropy(cells.reshape(*cells.shape[:-2], -1))
    apart = of_clusters + of_labels
    return 2 * _ratio(apart - both, apart, apart > 1e-12)


RAISED = (nmi,)  # scores that chance raises


def truth(table: Table, statistic: Statistic) -> Float64[np.ndarray, "k e d"]:
    """Return the sums that only depend on the windows and their truth, alike for every method."""
    columns = [COUNT]
    if statistic in (r2, cosine, within):
        columns += [SQUARES, *range(SUMS, table.shape[-1])]
    if statistic is nmi:
        return _cells(table).sum(-2)
    return table[..., columns]


def _cells(sums: Float64[np.ndarray, "*b c"]) -> Float64[np.ndarray, "*b i j"]:
    """Return clusters by labels."""
    labels = round(float(np.max(sums[..., LABELS] / sums[..., COUNT])))
    return sums[..., CELLS:].reshape(*sums.shape[:-1], -1, labels)


def _entropy(shares: Float64[np.ndarray, "*b c"]) -> Float64[np.ndarray, "*b"]:
    return -(shares * np.log(np.where(shares > 0, shares, 1))).sum(-1)


def _ratio(
    above: Float64[np.ndarray, "*b"],
    below: Float64[np.ndarray, "*b"],
    defined: Bool[np.ndarray, "*b"],
) -> Float64[np.ndarray, "*b"]:
    return np.where(defined, above / np.where(defined, below, 1), np.nan)
