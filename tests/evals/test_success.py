from math import sqrt

import numpy as np
import pytest

from saccade.errors import ConfigError, DataError
from saccade.evals.rollouts import Key
from saccade.evals.statistics import wilson
from saccade.evals.success import (
    compare,
    mcnemar,
    newcombe,
    over_seeds,
    rate,
    said,
    told,
    trials_needed,
    verdict,
    visible,
)


def outcomes(values: list[bool], task: str = "a", seed: int = 0) -> dict[Key, bool]:
    return {Key("toy", task, state, seed): value for state, value in enumerate(values)}


def pairs(p: float, q: float, phi: float) -> list[float]:
    """Probabilities that both, the first, the second and neither succeed."""
    both = p * q + phi * sqrt(p * (1 - p) * q * (1 - q))
    return [both, p - both, q - both, 1 - p - q + both]


def test_a_rate_has_wilsons_interval() -> None:
    found = rate([True] * 74 + [False] * 26)
    assert (found.successes, found.trials, found.value) == (74, 100, 0.74)
    assert (found.low, found.high) == wilson(74, 100)
    assert (found.low, found.high) == pytest.approx((0.6462, 0.8159), abs=2e-4)
    assert said(found) == "74 of 100 (74 %, 95 % interval 65 to 82 %)"
    assert rate([]) == (0, 0, None, 0.0, 1.0)
    assert said(rate([])) == "0 of 0"


def test_mcnemar_by_hand() -> None:
    assert mcnemar(10, 2) == pytest.approx(2 * (1 + 12 + 66) / 4096)
    assert mcnemar(2, 10) == mcnemar(10, 2)
    assert mcnemar(0, 0) == mcnemar(3, 3) == 1.0
    assert mcnemar(0, 6) == pytest.approx(2 / 64)


def test_newcombe_by_hand() -> None:
    # Of 50 pairs 36 are both, 12 the first only, 2 the second only.
    assert newcombe(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=1e-4)
    low, high = newcombe(2, 3, 3, 2)
    assert low == pytest.approx(-high)
    one, other = newcombe(5, 9, 3, 4), newcombe(5, 3, 9, 4)
    assert one == pytest.approx((-other[1], -other[0]))
    assert newcombe(0, 8, 0, 0)[1] == 1.0


@pytest.mark.parametrize(("p", "q", "phi"), [(0.7, 0.8, 0.0), (0.9, 0.8, 0.4), (0.05, 0.3, 0.0)])
def test_intervals_hold_the_truth_and_trials_suffice(p: float, q: float, phi: float) -> None:
    rng = np.random.default_rng(0)
    tables = rng.multinomial(60, pairs(p, q, phi), 1000)
    bounds = [newcombe(*map(int, table)) for table in tables]
    assert np.mean([low <= p - q <= high for low, high in bounds]) > 0.93
    count = trials_needed(p, q, phi=phi)
    tables = rng.multinomial(count, pairs(p, q, phi), 1000)
    seen = np.mean([mcnemar(int(table[1]), int(table[2])) < 0.05 for table in tables])
    assert 0.77 < seen < 0.89
    fewer = rng.multinomial(count // 2, pairs(p, q, phi), 1000)
    assert np.mean([mcnemar(int(t[1]), int(t[2])) < 0.05 for t in fewer]) < 0.7


def test_power_by_hand_and_both_ways() -> None:
    plain = (1.959964 * sqrt(0.38) + 0.841621 * sqrt(0.37)) ** 2 / 0.01
    exact = plain / 4 * (1 + sqrt(1 + 4 / (plain * 0.1))) ** 2
    assert trials_needed(0.7, 0.8) == int(np.ceil(exact)) == 316
    assert trials_needed(0.8, 0.7) == 316
    assert trials_needed(0.7, 0.8, phi=0.5) < 316 < trials_needed(0.7, 0.8, power=0.9)
    below, above = visible(0.7, 316)
    assert below.other < 0.62
    assert above.other == pytest.approx(0.8, abs=2e-3)
    for found in (below, above):
        assert trials_needed(0.7, found.other) <= 316
        nearer = found.other + (0.7 - found.other) * 0.05
        assert trials_needed(0.7, nearer) > 316
    assert visible(0.5, 2) == []
    assert [found.other > 0 for found in visible(0.0, 50)] == [True]


@pytest.mark.parametrize(
    "given",
    [
        {"rate": 0.5, "other": 0.5},
        {"rate": 1.5, "other": 0.5},
        {"rate": 0.5, "other": 0.6, "power": 1.0},
        {"rate": 0.5, "other": 0.6, "phi": 1.0},
    ],
)
def test_impossible_questions_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        trials_needed(**given)


def test_players_are_compared_on_the_keys_in_common() -> None:
    a = outcomes([True, True, True, False, True])
    b = outcomes([True, False, False, True])
    found = compare(a, b)
    assert (found.keys, found.won, found.lost, found.value) == (4, 2, 1, 0.25)
    assert (found.low, found.high) == newcombe(1, 2, 1, 0)
    assert told(found).startswith("+25 points [")
    with pytest.raises(DataError, match="no rollout in common"):
        compare(a, outcomes([True], seed=1))


def test_few_rollouts_show_no_difference_whatever_the_interval_says() -> None:
    few = compare(outcomes([True] * 2), outcomes([False] * 2))
    assert (few.low > 0, few.p, few.better) == (True, 0.5, False)
    assert not verdict("bc", rate([True] * 2), {"nothing": few}, 2)["success"]
    many = compare(outcomes([True] * 8), outcomes([False] * 8))
    assert many.better
    assert not compare(outcomes([False] * 8), outcomes([True] * 8)).better


def test_seeds_have_students_interval() -> None:
    assert over_seeds(outcomes([True, False])) is None
    several = outcomes([True, True], seed=0) | outcomes([True, False], seed=1)
    several |= outcomes([False, True], seed=2)
    found = over_seeds(several)
    assert found is not None
    assert found["rates"] == {"0": 1.0, "1": 0.5, "2": 0.5}
    half = 4.303 * np.std([1, 0.5, 0.5], ddof=1) / sqrt(3)
    assert found["value"] == pytest.approx(2 / 3)
    assert (found["low"], found["high"]) == pytest.approx((max(0, 2 / 3 - half), 1.0))


def test_a_verdict_claims_no_more_than_the_numbers() -> None:
    good, bad = outcomes([True] * 20), outcomes([False] * 20)
    beaten = {"random": compare(good, bad)}
    found = verdict("bc", rate(good.values()), beaten, 20, "not authentic")
    assert found["success"]
    assert found["sentence"].startswith("bc succeeds in 20 of 20 (100 %")
    assert found["sentence"].endswith("it beats random.")
    assert "not authentic" in found["details"]
    lacking = verdict("bc", rate(good.values()), beaten, 22)
    assert not lacking["success"]
    assert lacking["details"][0] == "2 rollouts of 22 crashed or are missing."
    equal = beaten | {"replay-mean": compare(good, good)}
    told_apart = verdict("bc", rate(good.values()), equal, 20)
    assert not told_apart["success"]
    assert told_apart["sentence"].endswith(
        "it beats random, but it is not shown to beat replay-mean."
    )
    absent = verdict("bc", rate(good.values()), beaten | {"replay-mean": None}, 20)
    assert (absent["success"], absent["sentence"]) == (False, told_apart["sentence"])
    assert "Beside replay-mean: no rollout in common." in absent["details"]
    assert not verdict("bc", rate(good.values()), {}, 20)["success"]
