import math
from itertools import pairwise
from math import comb, sqrt

import numpy as np
import pytest

from saccade.errors import ConfigError
from saccade.evals import statistics as st
from saccade.evals.statistics.decisions import student_tail

NAN = float("nan")


def test_students_quantiles_are_those_of_printed_tables() -> None:
    printed = {1: 12.7062, 2: 4.30265, 3: 3.18245, 4: 2.77645, 9: 2.26216, 30: 2.04227}
    for degrees, value in (printed | {120: 1.97993}).items():
        assert st.student(0.975, degrees) == pytest.approx(value, rel=5e-6)
        assert st.student(0.025, degrees) == -st.student(0.975, degrees)
        assert student_tail(value, degrees) == pytest.approx(0.025, rel=1e-4)
    assert st.student(0.95, 10) == pytest.approx(1.81246, rel=5e-6)
    assert student_tail(0.0, 7) == 0.5
    assert st.student(0.975, 10**6) == pytest.approx(1.959966, abs=1e-6)
    assert st.student(0.975, 1000) == pytest.approx(st.student(0.975, 1001), abs=1e-5)


def test_wilson_by_hand() -> None:
    np.testing.assert_allclose(st.wilson(0, 10), [0, 0.27753], atol=1e-5)
    np.testing.assert_allclose(st.wilson(81, 263), [0.25528, 0.36620], atol=2e-5)
    assert st.wilson(0, 0) == (0, 1)


def coverage(found: list[bool]) -> float:
    """The rate at which intervals held the truth, if it is not shown to differ from 0.95."""
    assert len(found) == 500
    low, high = st.wilson(sum(found), 500, z=3.29)  # 99.9 %
    assert low <= 0.95 <= high, np.mean(found)
    return float(np.mean(found))


@pytest.mark.parametrize(("share", "trials"), [(0.5, 40), (0.8, 50), (0.95, 100)])
def test_wilson_holds_the_truth_in_95_of_100_cases(share: float, trials: int) -> None:
    successes = np.random.default_rng(0).binomial(trials, share, 500)
    bounds = [st.wilson(int(count), trials) for count in successes]
    coverage([low <= share <= high for low, high in bounds])


def clustered(share: float, strength: float, episodes: int, rng: np.random.Generator) -> np.ndarray:
    """Sums of right windows, where each episode has an accuracy of its own."""
    windows = rng.integers(5, 16, episodes)
    own = rng.beta(share * strength, (1 - share) * strength, episodes)
    return np.stack([windows, rng.binomial(windows, own)], -1).astype(float)[None]


@pytest.mark.parametrize(("share", "episodes"), [(0.6, 10), (0.9, 20), (0.97, 20)])
def test_an_accuracy_in_episodes_is_held_even_near_one(share: float, episodes: int) -> None:
    rng = np.random.default_rng(0)
    found = [st.clustered_wilson(clustered(share, 6, episodes, rng)) for _ in range(500)]
    coverage([low <= share <= high for _, low, high in found])
    naive = [
        st.wilson(*np.array(clustered(share, 1, episodes, rng).sum((0, 1)))[::-1]) for _ in found
    ]
    assert np.mean([low <= share <= high for low, high in naive]) < 0.8


def test_clustered_wilson_by_hand() -> None:
    same = np.tile([4.0, 3.0], (1, 10, 1))  # no spread between episodes: worth all 10 of them
    assert st.clustered_wilson(same)[1:] == st.wilson(7.5, 10, st.student(0.975, 9))
    perfect = st.clustered_wilson(np.tile([8.0, 8.0], (1, 10, 1)))
    square = st.student(0.975, 9) ** 2
    assert perfect == pytest.approx((1, 10 / (10 + square), 1))
    # All or nothing, half of 10 episodes: the variance is 10 / 9 * 10 * 2^2 / 40^2, worth 9.
    halves = np.stack([np.full(10, 4.0), np.repeat([0.0, 4.0], 5)], -1)[None]
    expected = st.wilson(4.5, 9, st.student(0.975, 9))
    assert st.clustered_wilson(halves)[1:] == pytest.approx(expected)
    seeds = np.concatenate([same, np.tile([4.0, 2.0], (1, 10, 1))])
    worth = 0.625 * 0.375 / (2 * 0.125**2 / 2)  # the spread of two seeds, all that there is
    expected = st.wilson(0.625 * worth, worth, st.student(0.975, 9))
    assert st.clustered_wilson(seeds)[1:] == pytest.approx(expected)
    nearly = 1000 * same
    nearly[0, 0, 1] += 1  # less spread than even independent windows have: worth all of them
    expected = st.wilson(30001, 40000, st.student(0.975, 9))
    assert st.clustered_wilson(nearly)[1:] == pytest.approx(expected)
    alone = st.clustered_wilson(same[:, :1])
    assert alone.value == 0.75
    assert np.isnan(alone[1:]).all()


def test_mcnemar_by_hand() -> None:
    assert st.mcnemar(10, 2) == pytest.approx(2 * (1 + 12 + 66) / 4096)
    assert st.mcnemar(2, 10) == st.mcnemar(10, 2)
    assert st.mcnemar(0, 0) == st.mcnemar(3, 3) == 1.0
    assert st.mcnemar(0, 6) == pytest.approx(2 / 64)
    many = 2 * sum(comb(3000, k) for k in range(1401)) / 2**3000
    assert st.mcnemar(1600, 1400) == pytest.approx(many, rel=1e-9)
    assert 0 < st.mcnemar(50_500, 49_500) < 0.002  # no overflow


def test_newcombe_by_hand() -> None:
    # Of 50 pairs 36 are both, 12 the first only, 2 the second only.
    assert st.newcombe(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=1e-4)
    low, high = st.newcombe(2, 3, 3, 2)
    assert low == pytest.approx(-high)
    one, other = st.newcombe(5, 9, 3, 4), st.newcombe(5, 3, 9, 4)
    assert one == pytest.approx((-other[1], -other[0]))
    assert st.newcombe(0, 8, 0, 0)[1] == 1.0


def pairs(p: float, q: float, phi: float) -> list[float]:
    """Probabilities that both, the first, the second and neither succeed."""
    both = p * q + phi * sqrt(p * (1 - p) * q * (1 - q))
    return [both, p - both, q - both, 1 - p - q + both]


@pytest.mark.parametrize(("p", "q", "phi"), [(0.7, 0.8, 0.0), (0.9, 0.8, 0.4), (0.05, 0.3, 0.0)])
def test_intervals_hold_the_truth_and_trials_suffice(p: float, q: float, phi: float) -> None:
    rng = np.random.default_rng(0)
    tables = rng.multinomial(60, pairs(p, q, phi), 1000)
    bounds = [st.newcombe(*map(int, table)) for table in tables]
    assert np.mean([low <= p - q <= high for low, high in bounds]) > 0.93
    count = st.trials_needed(p, q, phi=phi)
    tables = rng.multinomial(count, pairs(p, q, phi), 1000)
    seen = np.mean([st.mcnemar(int(table[1]), int(table[2])) < 0.05 for table in tables])
    assert 0.77 < seen < 0.89
    fewer = rng.multinomial(count // 2, pairs(p, q, phi), 1000)
    assert np.mean([st.mcnemar(int(t[1]), int(t[2])) < 0.05 for t in fewer]) < 0.7


def test_power_by_hand_and_both_ways() -> None:
    plain = (1.959964 * sqrt(0.38) + 0.841621 * sqrt(0.37)) ** 2 / 0.01
    exact = plain / 4 * (1 + sqrt(1 + 4 / (plain * 0.1))) ** 2
    assert st.trials_needed(0.7, 0.8) == int(np.ceil(exact)) == 316
    assert st.trials_needed(0.8, 0.7) == 316
    assert st.trials_needed(0.7, 0.8, phi=0.5) < 316 < st.trials_needed(0.7, 0.8, power=0.9)
    below, above = st.visible(0.7, 316)
    assert below.other < 0.62
    assert above.other == pytest.approx(0.8, abs=2e-3)
    for found in (below, above):
        assert st.trials_needed(0.7, found.other) <= 316
        nearer = found.other + (0.7 - found.other) * 0.05
        assert st.trials_needed(0.7, nearer) > 316
    assert st.visible(0.5, 2) == []
    assert [found.other > 0 for found in st.visible(0.0, 50)] == [True]


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
        st.trials_needed(**given)


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(st.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(st.holm([0.04, NAN, 0.001]), [0.04, NAN, 0.002])  # of two tests
    np.testing.assert_allclose(st.holm([0.7, 0.6]), [1, 1])
    np.testing.assert_allclose(st.holm([0.02, 0.02]), [0.04, 0.04])
    assert st.holm([]) == []
    p = np.random.default_rng(0).uniform(size=20)
    adjusted = np.array(st.holm(list(p)))
    assert (adjusted >= p).all()
    assert all(a <= b for a, b in pairwise(adjusted[np.argsort(p)]))


def test_holm_keeps_the_chance_of_any_false_claim() -> None:
    p = np.random.default_rng(0).uniform(size=(2000, 8))
    assert np.mean(p.min(1) < 0.05) > 0.3  # uncorrected
    assert np.mean([min(st.holm(list(row))) < 0.05 for row in p]) == pytest.approx(0.05, abs=0.015)


def test_the_standard_error_undoes_the_interval() -> None:
    half = st.student(0.975, 19) * 0.1
    assert st.standard_error(0.3 - half, 0.3 + half, 20) == pytest.approx(0.1)
    assert np.isnan(st.standard_error(0.0, 1.0, 1))


def test_the_detectable_difference_and_the_sample_by_hand_and_both_ways() -> None:
    expected = (2.262157 + 0.883404) * 0.1  # Student's 0.975 and 0.8 quantiles of 9 degrees
    assert st.minimum_detectable(0.1, 10) == pytest.approx(expected, rel=1e-5)
    assert st.minimum_detectable(0.1, 10, power=0.9) > st.minimum_detectable(0.1, 10)
    assert st.minimum_detectable(0.1, 10, alpha=0.01) > st.minimum_detectable(0.1, 10)
    assert np.isnan(st.minimum_detectable(0.1, 1))
    for difference in (0.003, 0.1, -0.5, 3.0, 40.0):
        count = st.episodes_needed(difference, 1.0)
        assert st.minimum_detectable(1 / sqrt(count), count) <= abs(difference)
        if count > 2:
            assert st.minimum_detectable(1 / sqrt(count - 1), count - 1) > abs(difference)
    assert st.episodes_needed(0.5, 1.0) == 34  # as printed for a paired t test at 80 %
    assert st.episodes_needed(0.1, 0.0) == 2


def test_so_many_episodes_do_decide() -> None:
    rng, count = np.random.default_rng(0), st.episodes_needed(0.4, 1.0)
    drawn = rng.normal(0.4, 1, (4000, count))
    t = drawn.mean(1) / (drawn.std(1, ddof=1) / sqrt(count))
    assert np.mean(abs(t) > st.student(0.975, count - 1)) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(
    ("difference", "deviation"), [(0.0, 1.0), (NAN, 1.0), (0.1, NAN), (0.1, -1.0)]
)
def test_nothing_to_decide_is_refused(difference: float, deviation: float) -> None:
    with pytest.raises(ConfigError, match="difference other than 0"):
        st.episodes_needed(difference, deviation)


def test_probabilities_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        st.minimum_detectable(0.1, 10, power=1.0)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        st.episodes_needed(0.1, 1.0, alpha=0.0)


def test_a_bar_is_passed_failed_or_open() -> None:
    found = st.Estimate(0.92, 0.9, 0.94)
    assert st.decide(found, 0.89, 20) == ("pass", None)
    assert st.decide(found, 0.95, 20) == ("fail", None)
    assert st.decide(found, 0.95, 20, above=False) == ("pass", None)
    assert st.decide(found, 0.89, 20, above=False) == ("fail", None)
    outcome, needed = st.decide(found, 0.91, 20)
    deviation = 0.02 / st.student(0.975, 19) * sqrt(20)
    assert (outcome, needed) == ("undecided", st.episodes_needed(0.01, deviation))
    assert needed is not None
    assert needed > 20
    assert st.decide(found, 0.92, 20) == ("undecided", None)
    assert st.decide(st.Estimate(0.9, NAN, NAN), 0.5, 1) == ("undecided", None)
    skew = st.Estimate(0.9, 0.4, 0.91)  # the sample is never one that was not enough
    assert st.decide(skew, 0.45, 20).needed == 21


def test_disjoint() -> None:
    assert st.disjoint((0.0, 1.0), (1.1, 2.0))
    assert st.disjoint((1.1, 2.0), (0.0, 1.0))
    assert not st.disjoint((0.0, 1.0), (1.0, 2.0))
    assert not st.disjoint((math.nan, math.nan), (1.0, 2.0))
