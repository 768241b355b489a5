"""Success rates: how sure they are, whether two differ, and how many trials that takes.

    one rate     Wilson's score interval (1927), by task and over all
    two rates    on the same keys: McNemar's exact test on the keys where they differ, and the
                 interval of Newcombe for paired proportions (Statist. Med. 17, 1998, method 10)
    seeds        the mean of the rates of several seeds, with Student's interval
    power        trials until McNemar's test sees a difference with a given probability, normal
                 approximation with correction for continuity (Connor, Biometrics 43, 1987)

A crashed rollout is neither a success nor a failure: it is counted apart.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import comb, sqrt
from statistics import NormalDist, mean, stdev
from typing import Any, NamedTuple

from saccade.errors import ConfigError, DataError
from saccade.evals.rollouts import Key
from saccade.evals.statistics import wilson

# Student's 0.975 quantile for 1 to 9 degrees of freedom; for more, the last is a little wide.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
LEVEL = 0.05
Outcomes = Mapping[Key, bool]


class Rate(NamedTuple):
    """A share of successes, with its 95 % interval."""

    successes: int
    trials: int
    value: float | None  # None of no trials
    low: float
    high: float


class Paired(NamedTuple):
    """How one player's rate differs from another's on the same keys.

    ``won`` are the keys where only the first succeeds, ``lost`` where only the second does;
    ``p`` is that of McNemar's exact test, two-sided.
    """

    keys: int
    value: float
    low: float
    high: float
    p: float
    won: int
    lost: int

    @property
    def better(self) -> bool:
        """Whether the first is shown to succeed more often: by the interval and by the test."""
        return self.low > 0 and self.p < LEVEL


class Power(NamedTuple):
    """What a number of trials can tell."""

    rate: float
    other: float
    trials: int


def rate(outcomes: Iterable[bool]) -> Rate:
    """Count successes and bound their share."""
    found = list(outcomes)
    count = sum(found)
    return Rate(
        count, len(found), count / len(found) if found else None, *wilson(count, len(found))
    )


def over_seeds(outcomes: Outcomes) -> dict[str, Any] | None:
    """Return the rate of each seed and Student's interval of their mean; None of one seed."""
    seeds = sorted({key.seed for key in outcomes})
    if len(seeds) < 2:
        return None
    rates = [mean(won for key, won in outcomes.items() if key.seed == seed) for seed in seeds]
    half = STUDENT[min(len(seeds) - 1, len(STUDENT)) - 1] * stdev(rates) / sqrt(len(seeds))
    middle = mean(rates)
    return {
        "rates": dict(zip(map(str, seeds), rates, strict=True)),
        "value": middle,
        "low": max(0.0, middle - half),
        "high": min(1.0, middle + half),
    }


def compare(a: Outcomes, b: Outcomes) -> Paired:
    """Compare two players on the keys that both have played.

    Raises:
        DataError: there is none.
    """
    keys = [key for key in a if key in b]
    if not keys:
        raise DataError(
            "the two have no rollout in common (suite, task, initial state and seed); evaluate "
            "both with the same --suite, --tasks, --trials and --initial-states"
        )
    pairs = [(a[key], b[key]) for key in keys]
    won, lost = pairs.count((True, False)), pairs.count((False, True))
    low, high = newcombe(pairs.count((True, True)), won, lost, pairs.count((False, False)))
    value = (won - lost) / len(keys)
    return Paired(len(keys), value, low, high, mcnemar(won, lost), won, lost)


def mcnemar(won: int, lost: int) -> float:
    """Return the exact two-sided p of so many differing pairs, were both as good."""
    count, less = won + lost, min(won, lost)
    tail = sum(comb(count, k) for k in range(less + 1))
    return min(1.0, 2 * tail / 2**count)


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


def verdict(
    name: str,
    overall: Rate,
    floors: Mapping[str, Paired | None],
    asked: int,
    remark: str = "",
) -> dict[str, Any]:
    """Say in one sentence what was found; a success beats every floor and lacks no rollout.

    A floor is None where it and the player have no rollout in common.
    """
    share = said(overall)
    missing = asked - overall.trials
    if not floors:
        rest, success = "no floor was run, so this says nothing yet", False
    else:
        beaten = [floor for floor, found in floors.items() if found and found.better]
        unbeaten = [floor for floor in floors if floor not in beaten]
        success = not unbeaten and not missing
        rest = f"it beats {listed(beaten)}" if beaten else ""
        if unbeaten:
            rest += ", but " * bool(beaten) + f"it is not shown to beat {listed(unbeaten)}"
    sentence = f"{name} succeeds in {share}: {rest}."
    details = [f"{count_of(missing)} of {asked:,} crashed or are missing."] if missing else []
    details += [
        f"Beside {floor}: {told(found) if found else 'no rollout in common'}."
        for floor, found in floors.items()
    ]
    return {"sentence": sentence, "success": success, "details": details + [remark] * bool(remark)}


def said(found: Rate) -> str:
    """Print a rate: ``74 of 100 (74 %, 95 % interval 65 to 82 %)``."""
    if found.value is None:
        return "0 of 0"
    return (
        f"{found.successes:,} of {found.trials:,} ({100 * found.value:.0f} %, 95 % interval "
        f"{100 * found.low:.0f} to {100 * found.high:.0f} %)"
    )


def told(found: Paired) -> str:
    """Print a comparison in points of a hundred."""
    value, low, high = (100 * number for number in (found.value, found.low, found.high))
    return (
        f"{value:+.0f} points [{low:+.0f}, {high:+.0f}] on {found.keys:,} equal rollouts, "
        f"p = {found.p:.2g} ({found.won} won, {found.lost} lost)"
    )


def count_of(number: int) -> str:
    """Count rollouts in words."""
    return f"{number:,} rollout{'s' if number != 1 else ''}"


def listed(names: Sequence[str]) -> str:
    """Join names as in a sentence."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
