from math import sqrt

import numpy as np
import pytest

from saccade.errors import DataError
from saccade.evals.rollouts import Key
from saccade.evals.statistics import newcombe, wilson
from saccade.evals.success import compare, over_seeds, rate, said, told, verdict


def outcomes(values: list[bool], task: str = "a", seed: int = 0) -> dict[Key, bool]:
    return {Key("toy", task, state, seed): value for state, value in enumerate(values)}


def test_a_rate_has_wilsons_interval() -> None:
    found = rate([True] * 74 + [False] * 26)
    assert (found.successes, found.trials, found.value) == (74, 100, 0.74)
    assert (found.low, found.high) == wilson(74, 100)
    assert (found.low, found.high) == pytest.approx((0.6462, 0.8159), abs=2e-4)
    assert said(found) == "74 of 100 (74 %, 95 % interval 65 to 82 %)"
    assert rate([]) == (0, 0, None, 0.0, 1.0)
    assert said(rate([])) == "0 of 0"


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
    half = 4.302653 * np.std([1, 0.5, 0.5], ddof=1) / sqrt(3)
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
