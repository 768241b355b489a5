"""Scores with their uncertainty, from sums that each episode contributes.

    R2      1 - sum SSE / sum SST, pooled over the dimensions of a group. SST is taken around the
            mean of the split that is scored (of the resample, inside the bootstrap), so 0 is what
            knowing that split's mean would give; a readout that only knows the training mean
            scores a little below 0.
    cosine  mean over windows of cos(predicted, true), where the truth moves at all
    within  share of windows whose error is below the tolerance

Windows of one episode are near-copies, so the unit of resampling is the episode (percentile
intervals; Efron & Tibshirani, 1993). With several training seeds the value is their mean, and
seeds are resampled too, all on the same resampled episodes. Two or three seeds are too few for
that part to be trusted: it understates the spread between seeds.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

Table = Float64[np.ndarray, "k e c"]  # seeds, episodes, sums
COUNT, SSE, SQUARES, COSINES, MOVING, WITHIN, SUMS = range(
    7
)  # SUMS starts one column per dimension
STILL = 0.01  # of the tolerance: below it a true displacement has no direction worth scoring
Statistic = Callable[[Float64[np.ndarray, "*b c"]], Float64[np.ndarray, "*b"]]


class Estimate(NamedTuple):
    """A value with its 95 % interval, in the value's unit; NaN where it is not defined."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """The mean difference of two representations, its 95 % interval and two-sided p."""

    value: float
    low: float
    high: float
    p: float


def episode_sums(
    predicted: Float64[np.ndarray, "n a"],
    true: Float64[np.ndarray, "n a"],
    episode: np.ndarray,
    tolerance: float | None,
) -> Float64[np.ndarray, "e c"]:
    """Add up, for each episode, what the scores need."""
    centred = true - true.mean(0)  # SST does not depend on the origin, its rounding does
    error = np.linalg.norm(predicted - true, axis=-1)
    length, guess = np.linalg.norm(true, axis=-1), np.linalg.norm(predicted, axis=-1)
    moving = length > STILL * (tolerance or 0)
    product = np.where(moving & (guess > 0), length * guess, 1)
    cosine = np.where(moving, (predicted * true).sum(-1) / product, 0)
    within = error < tolerance if tolerance is not None else np.full(len(error), np.nan)
    columns = [np.ones(len(true)), error**2, (centred**2).sum(-1), cosine, moving, within]
    _, place = np.unique(episode, return_inverse=True)
    sums = np.zeros((place.max() + 1, len(columns) + true.shape[1]))
    np.add.at(sums, place, np.column_stack([*columns, centred]))
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


def _ratio(
    above: Float64[np.ndarray, "*b"],
    below: Float64[np.ndarray, "*b"],
    defined: Bool[np.ndarray, "*b"],
) -> Float64[np.ndarray, "*b"]:
    return np.where(defined, above / np.where(defined, below, 1), np.nan)


def bootstrap(table: Table, statistic: Statistic, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Average the statistic over seeds and bound it by resampling seeds and episodes."""
    value = statistic(table.sum(1)).mean()
    rng = np.random.default_rng(seed)
    drawn = _resampled(table, statistic, _weights(table, resamples, rng), rng)
    return Estimate(float(value), *_interval(drawn, table))


def paired_difference(
    a: Table,
    b: Float64[np.ndarray, "j e c"],  # of as many seeds as it has
    statistic: Statistic,
    resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """Compare two representations on the same episodes, by resampling those for both at once.

    Raises:
        ValueError: the two were not scored on the same windows.
    """
    same = a.shape[1:] == b.shape[1:] and all(
        np.allclose(a[0, :, columns], b[0, :, columns])
        for columns in (COUNT, SQUARES, slice(SUMS, None))
    )
    if not same:
        raise ValueError("a paired difference needs the same windows of the same episodes")
    value = statistic(a.sum(1)).mean() - statistic(b.sum(1)).mean()
    rng = np.random.default_rng(seed)
    weights = _weights(a, resamples, rng)
    drawn = _resampled(a, statistic, weights, rng) - _resampled(b, statistic, weights, rng)
    low, high = _interval(drawn, a)
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
    p = min(1.0, 2 * (tail + 1) / (np.isfinite(drawn).sum() + 1))
    return Difference(float(value), low, high, p if np.isfinite(low) else float("nan"))


def _weights(table: Table, resamples: int, rng: np.random.Generator) -> Float64[np.ndarray, "r e"]:
    """Draw how often each episode occurs in each resample."""
    episodes = table.shape[1]
    return rng.multinomial(episodes, np.full(episodes, 1 / episodes), resamples).astype(float)


def _resampled(
    table: Table,
    statistic: Statistic,
    weights: Float64[np.ndarray, "r e"],
    rng: np.random.Generator,
) -> Float64[np.ndarray, " r"]:
    each = statistic(np.einsum("re,kec->rkc", weights, table, optimize=True))
    seeds = rng.integers(0, len(table), each.shape)
    return np.take_along_axis(each, seeds, axis=1).mean(1)


def _interval(drawn: Float64[np.ndarray, " r"], table: Table) -> tuple[float, float]:
    """Take the 2.5 and 97.5 percentiles; one episode, or no defined draw, bounds nothing."""
    drawn = drawn[np.isfinite(drawn)]
    if table.shape[1] < 2 or not len(drawn):
        return float("nan"), float("nan")
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def wilson(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Bound a proportion with Wilson's score interval (1927), 95 % by default."""
    if trials == 0:
        return 0.0, 1.0
    share, extra = successes / trials, z**2 / trials
    middle = (share + extra / 2) / (1 + extra)
    half = z / (1 + extra) * np.sqrt(share * (1 - share) / trials + extra / (4 * trials))
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))


def disjoint(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Tell whether two (low, high) intervals share no point; NaN bounds are never disjoint."""
    return a[0] > b[1] or b[0] > a[1]
