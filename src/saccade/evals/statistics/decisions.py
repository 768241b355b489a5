"""What may be concluded: intervals of shares, exact tests, many tests, the sample that decides.

one share      Wilson's score interval (1927); of windows in episodes, with the sample that
               counts (Korn & Graubard, Survey Methodology 24, 1998)
two shares     on the same trials: McNemar's exact test on the trials where they differ, and
               the interval of Newcombe (Statist. Med. 17, 1998, method 10)
many tests     Holm's adjusted p (Scand. J. Statist. 6, 1979)
power          trials until McNemar's test sees a difference with a given probability, normal
               approximation with correction for continuity (Connor, Biometrics 43, 1987);
               episodes until a paired difference is seen, by Student's t
"""

from collections.abc import Sequence
from functools import cache
from math import atan2, cos, isfinite, isnan, pi, sin, sqrt
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np

from saccade.errors import ConfigError
from saccade.evals.statistics.sums import COUNT, TOTAL, Estimate, Table

MANY = 1000  # degrees of freedom from which the first term of the expansion gives six digits


class Power(NamedTuple):
    """What a number of trials can tell."""

    rate: float
    other: float
    trials: int


class Decision(NamedTuple):
    """Whether an interval lies beyond a bar, and how many episodes would decide if it does not.

    ``needed`` is None where it is decided, and where no number would do: the value is the bar.
    """

    outcome: Literal["pass", "fail", "undecided"]
    needed: int | None


def student_tail(t: float, degrees: int) -> float:
    """Return how often Student's t with so many degrees of freedom exceeds ``t``.

    A finite sum of powers of a cosine (Abramowitz & Stegun, 1964, 26.7.3 and 26.7.4).
    """
    angle = atan2(t, sqrt(degrees))
    odd, square = degrees % 2, cos(angle) ** 2
    steps = np.arange(2 + odd, degrees - 1, 2)
    series = 1 + np.cumprod(square * (steps - 1) / steps).sum()
    if odd:
        middle = 2 / pi * (angle + (sin(angle) * cos(angle) * series if degrees > 1 else 0))
    else:
        middle = sin(angle) * series
    return float((1 - middle) / 2)


@cache
def student(share: float, degrees: int) -> float:
    """Return the quantile of Student's t, by halving; of very many degrees, by its expansion."""
    if share < 0.5:
        return -student(1 - share, degrees)
    if degrees > MANY:
        normal = NormalDist().inv_cdf(share)
        return normal + (normal**3 + normal) / (4 * degrees)
    low, high = 0.0, 1.0
    while student_tail(high, degrees) > 1 - share:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_tail(middle, degrees) > 1 - share else (low, middle)
    return (low + high) / 2


def wilson(successes: int | float, trials: int | float, z: float = 1.959964) -> tuple[float, float]:
    """Bound a proportion with Wilson's score interval (1927), 95 % by default."""
    if trials == 0:
        return 0.0, 1.0
    share, extra = successes / trials, z**2 / trials
    middle = (share + extra / 2) / (1 + extra)
    half = z / (1 + extra) * np.sqrt(share * (1 - share) / trials + extra / (4 * trials))
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))


def clustered_wilson(table: Table) -> Estimate:
    """Bound an accuracy over episodes with Wilson's interval of as many trials as they are worth.

    That many independent trials would be as uncertain as the share is over episodes and seeds, by
    its linearised variance; never more than there are windows, and where nothing varies (all are
    right) as many as there are episodes. Student's t with episodes - 1 degrees stands for the
    normal. In 600 simulated data sets each it held an accuracy of 0.97 in .968, .962 and .945 of
    cases with 10, 20 and 50 episodes, the bootstrap in .842, .853 and .908; 0.9 in .958, .945 and
    .947. Where most episodes are all right and a few all wrong (Beta(0.97, 0.03)) it held 0.97 in
    .967, .932 and .885, the bootstrap in .558, .690 and .845.
    """
    each, episodes = table.sum(1), table.shape[1]
    shares = each[:, TOTAL] / each[:, COUNT]
    share, windows = float(shares.mean()), float(each[:, COUNT].mean())
    if episodes < 2 or not isfinite(share):
        return Estimate(share, float("nan"), float("nan"))
    averaged = table.mean(0)
    left = averaged[:, TOTAL] - share * averaged[:, COUNT]
    variance = episodes / (episodes - 1) * float((left**2).sum()) / windows**2
    if len(shares) > 1:
        variance += float(shares.var(ddof=1)) / len(shares)
    worth = min(windows, share * (1 - share) / variance) if variance > 0 else float(episodes)
    return Estimate(share, *wilson(share * worth, worth, student(0.975, episodes - 1)))


def mcnemar(won: int, lost: int) -> float:
    """Return the exact two-sided p of so many differing trials, were both as good.

    Trials must be independent, as rollouts are; windows of one episode are not: for those
    ``paired_permutation`` of their accuracies.
    """
    count, less = won + lost, min(won, lost)
    falling = np.arange(count, count - less, -1) / np.arange(1, less + 1)
    ways = np.concatenate([[0.0], np.cumsum(np.log(falling))])  # log of count over k
    return min(1.0, 2 * float(np.exp(ways - count * np.log(2)).sum()))


def newcombe(both: int, won: int, lost: int, neither: int) -> tuple[float, float]:
    """Bound the difference of two paired shares, at 95 %."""
    count = both + won + lost + neither
    first, second = (both + won) / count, (both + lost) / count
    (low1, high1), (low2, high2) = wilson(both + won, count), wilson(both + lost, count)
    margins = (both + won) * (lost + neither) * (both + lost) * (won + neither)
    product = both * neither - won * lost
    if product > 0:
        product = max(product - count / 2, 0)
    phi = product / sqrt(margins) if margins else 0.0
    below, above = first - low1, high2 - second
    down = sqrt(max(0.0, below**2 - 2 * phi * below * above + above**2))
    above, below = high1 - first, second - low2
    up = sqrt(max(0.0, above**2 - 2 * phi * above * below + below**2))
    value = first - second
    return max(-1.0, value - down), min(1.0, value + up)


def trials_needed(rate: float, other: float, *, power: float = 0.8, phi: float = 0.0) -> int:
    """Return the paired trials after which two rates that differ so are told apart, at 5 %.

    ``phi`` is how the outcomes of the two correlate on the same keys; 0 asks for the most.

    Raises:
        ConfigError: rates or power out of range, or equal rates, which no number tells apart.
    """
    for name, value in (("rate", rate), ("other rate", other)):
        if not 0 <= value <= 1:
            raise ConfigError(f"the {name} is {value}; it must lie in 0 to 1")
    if not 0 < power < 1 or not 0 <= phi < 1:
        raise ConfigError(f"power is {power} and phi {phi}; give power in 0 to 1, phi in 0 to 1")
    apart = abs(rate - other)
    if not apart:
        raise ConfigError(f"both rates are {rate}; no number of trials tells them apart")
    differing = rate * (1 - other) + other * (1 - rate)
    differing -= 2 * phi * sqrt(rate * (1 - rate) * other * (1 - other))
    differing = max(differing, apart)
    sure, seen = NormalDist().inv_cdf(0.975), NormalDist().inv_cdf(power)
    plain = (sure * sqrt(differing) + seen * sqrt(max(0.0, differing - apart**2))) ** 2 / apart**2
    exact = plain / 4 * (1 + sqrt(1 + 4 / (plain * apart))) ** 2
    return int(-(-exact // 1))


def visible(rate: float, trials: int, *, power: float = 0.8, phi: float = 0.0) -> list[Power]:
    """Return the nearest rates below and above that so many trials tell from ``rate``.

    A side where even 0 or 1 would not be told apart is left out.
    """
    found = []
    for end in (0.0, 1.0):
        if end == rate or trials_needed(rate, end, power=power, phi=phi) > trials:
            continue
        near, far = rate, end
        for _ in range(40):
            middle = (near + far) / 2
            if middle != rate and trials_needed(rate, middle, power=power, phi=phi) <= trials:
                far = middle
            else:
                near = middle
        found.append(Power(rate, far, trials))
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p for so many tests: 5 % is then the chance of any false claim; NaN is no test."""
    order = sorted((p, place) for place, p in enumerate(p_values) if not isnan(p))
    adjusted, reached = [float("nan")] * len(p_values), 0.0
    for passed, (p, place) in enumerate(order):
        reached = max(reached, min(1.0, (len(order) - passed) * p))
        adjusted[place] = reached
    return adjusted


def standard_error(low: float, high: float, episodes: int) -> float:
    """Return the standard error of a 95 % interval over so many episodes; NaN of fewer than 2."""
    return (high - low) / 2 / student(0.975, episodes - 1) if episodes > 1 else float("nan")


def minimum_detectable(
    error: float, episodes: int, *, power: float = 0.8, alpha: float = 0.05
) -> float:
    """Return the difference that so many episodes would show with this probability.

    ``error`` is the standard error of the difference over them; NaN of fewer than two episodes.

    Raises:
        ConfigError: a probability out of range.
    """
    if not (0 < power < 1 and 0 < alpha < 1):
        raise ConfigError(f"power is {power} and alpha {alpha}; both must lie between 0 and 1")
    if episodes < 2:
        return float("nan")
    return error * (student(1 - alpha / 2, episodes - 1) + student(power, episodes - 1))


def episodes_needed(
    difference: float, deviation: float, *, power: float = 0.8, alpha: float = 0.05
) -> int:
    """Return the episodes after which such a difference is told from 0.

    ``deviation`` is that of one episode's difference: the standard error over n episodes times
    the root of n.

    Raises:
        ConfigError: no difference, which no number tells apart, or a probability out of range.
    """
    if not (isfinite(difference) and isfinite(deviation)) or not difference or deviation < 0:
        raise ConfigError(
            f"the difference is {difference} and the deviation {deviation}; no number of episodes "
            "tells that apart, give a difference other than 0 and a deviation of at least 0"
        )
    low, high = 1, 2  # so many are too few, so many enough
    while minimum_detectable(deviation / sqrt(high), high, power=power, alpha=alpha) > abs(
        difference
    ):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        error = deviation / sqrt(middle)
        if minimum_detectable(error, middle, power=power, alpha=alpha) > abs(difference):
            low = middle
        else:
            high = middle
    return high


def decide(estimate: Estimate, bar: float, episodes: int, *, above: bool = True) -> Decision:
    """Tell whether an estimate over so many episodes is above a bar (or below it).

    Undecided is what its interval holds, or what has none. ``needed`` is then the number of
    episodes that would decide with a probability of 0.8, if the value is right.
    """
    value, low, high = estimate
    if low > bar or high < bar:
        return Decision("pass" if (low > bar) == above else "fail", None)
    deviation = standard_error(low, high, episodes) * sqrt(episodes)
    if not isfinite(deviation) or value == bar:
        return Decision("undecided", None)
    return Decision("undecided", max(episodes + 1, episodes_needed(value - bar, deviation)))


def disjoint(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Tell whether two (low, high) intervals share no point; NaN bounds are never disjoint."""
    return a[0] > b[1] or b[0] > a[1]
