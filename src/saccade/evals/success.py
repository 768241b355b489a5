"""Success rates: how sure they are, and whether two differ (``evals.statistics`` has the formulas).

    one rate     Wilson's score interval, by task and over all
    two rates    on the same keys: McNemar's exact test on the keys where they differ, and
                 Newcombe's interval for paired proportions
    seeds        the mean of the rates of several seeds, with Student's interval

A crashed rollout is neither a success nor a failure: it is counted apart.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from statistics import mean, stdev
from typing import Any, NamedTuple

from saccade.errors import DataError
from saccade.evals.rollouts import Key
from saccade.evals.statistics import mcnemar, newcombe, student, wilson

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
    half = student(0.975, len(seeds) - 1) * stdev(rates) / sqrt(len(seeds))
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
