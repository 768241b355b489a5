from collections.abc import Callable
from itertools import product
from statistics import NormalDist

import numpy as np
import pytest

from saccade.evals import statistics as st
from saccade.evals.statistics import resampling

REPEATS = 500
NAN = float("nan")


def sums_of(true: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Sums for R2 of windows [episodes, windows, dimensions]; ``episode_sums`` in one sweep."""
    columns = np.zeros((len(true), 6 + true.shape[-1]))
    columns[:, 0], columns[:, 1] = true.shape[1], (error**2).sum((1, 2))
    columns[:, 2], columns[:, 6:] = (true**2).sum((1, 2)), true.sum(1)
    return columns[None]


def levels(*values: float) -> np.ndarray:
    return np.stack([np.ones(len(values)), np.array(values)], -1)[None]


def noisy(seeds: int, episodes: int, noise: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    true, episode = rng.normal(size=(episodes * 8, 2)), np.repeat(np.arange(episodes), 8)
    return np.stack(
        [
            st.episode_sums(true + noise * rng.normal(size=true.shape), true, episode, 0.5)
            for _ in range(seeds)
        ]
    )


def test_quick_sums_score_as_those_of_the_library() -> None:
    true, error = np.random.default_rng(0).normal(size=(2, 4, 8, 3))
    values, errors, episode = true.reshape(-1, 3), error.reshape(-1, 3), np.arange(32) // 8
    expected = st.episode_sums(values + errors, values, episode, None)[None]
    np.testing.assert_allclose(st.r2(sums_of(true, error)), st.r2(expected))


# Coverage: how often 500 intervals hold the truth of simulated episodes that differ in level,
# spread and difficulty. Each draw gives tables of two methods and what they are worth.

Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]


def episodes_of_motion(rng: np.random.Generator, episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Two readouts with errors of variance 0.5 and 0.8 of a truth of variance 1, so R2 .5, .2."""
    level, spread = 0.5 * rng.normal(size=(episodes, 1, 3)), rng.gamma(6, 1 / 6, (episodes, 1, 1))
    true = level + np.sqrt(0.75 * spread) * rng.normal(size=(episodes, 8, 3))
    hard, shared = rng.gamma(6, 1 / 6, (episodes, 1, 1)), rng.normal(size=(episodes, 8, 3))
    own = rng.normal(size=(2, episodes, 8, 3))
    a, b = (np.sqrt(hard * v / 2) * (shared + e) for v, e in zip((0.5, 0.8), own, strict=True))
    return sums_of(true, a), sums_of(true, b)


def episodes_of_order(rng: np.random.Generator, episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Two classifiers that are right in 0.7 and 0.6 of windows, more so in some episodes."""
    easy = rng.beta(6, 4, episodes)  # mean 0.6
    windows = rng.integers(5, 16, episodes)
    shares = easy + 0.25 * (1 - easy), easy
    right = [rng.binomial(windows, share) for share in shares]
    a, b = (np.stack([windows, count], -1).astype(float)[None] for count in right)
    return a, b


def episodes_of_flow(rng: np.random.Generator, episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Two predictors with mean errors 1.5 and 2, that are larger in some episodes."""
    windows, hard = rng.integers(5, 16, episodes), rng.gamma(4, 0.25, episodes)
    errors = [rng.gamma(2 * windows, hard * mean / 2) for mean in (1.5, 2.0)]
    a, b = (np.stack([windows, total], -1)[None] for total in errors)
    return a, b


def covers(draw: Draw, bound: Callable, truth: float, episodes: int = 20) -> float:
    """The rate at which intervals hold the truth, which must not be shown to differ from 0.95."""
    rng, held = np.random.default_rng(0), 0
    for repeat in range(REPEATS):
        found = bound(*draw(rng, episodes), repeat)
        held += found.low <= truth <= found.high
    low, high = st.wilson(held, REPEATS, z=3.29)  # 99.9 %
    assert low <= 0.95 <= high, held / REPEATS
    return held / REPEATS


def alone(statistic: st.Statistic) -> Callable:
    return lambda a, _, seed: st.bootstrap(a, statistic, 500, seed)


def apart(statistic: st.Statistic) -> Callable:
    return lambda a, b, seed: st.paired_difference(a, b, statistic, 500, seed)


@pytest.mark.parametrize(
    ("draw", "bound", "truth"),
    [
        pytest.param(episodes_of_motion, alone(st.r2), 0.5, id="r2"),
        pytest.param(episodes_of_order, alone(st.accuracy), 0.7, id="accuracy"),
        pytest.param(episodes_of_flow, alone(st.mean_error), 1.5, id="mean error"),
        pytest.param(episodes_of_motion, apart(st.r2), 0.3, id="difference of r2"),
        pytest.param(
            episodes_of_flow,
            lambda a, b, seed: st.paired_ratio(a, b, st.mean_error, 500, seed),
            0.75,
            id="ratio of mean errors",
        ),
    ],
)
def test_intervals_hold_the_truth_in_95_of_100_cases(
    draw: Draw, bound: Callable, truth: float
) -> None:
    covers(draw, bound, truth)


def clusters(rng: np.random.Generator, episodes: int, share: float) -> np.ndarray:
    """Clusters that name the label in a share of windows and else are drawn at random."""
    labels = np.concatenate(
        [rng.choice(4, 30, p=rng.dirichlet(np.ones(4))) for _ in range(episodes)]
    )
    cluster = np.where(rng.random(len(labels)) < share, labels, rng.integers(0, 4, len(labels)))
    return st.contingency_sums(cluster, labels, np.repeat(np.arange(episodes), 30), 4, 4)[None]


def test_nmi_without_its_bias_holds_the_truth_and_noise_reads_nothing() -> None:
    agreement = np.eye(4) * 0.5 / 4 + 0.5 / 16
    truth = float(st.nmi(np.concatenate([[1, 4], agreement.ravel()])[None])[0])

    def debiased(table: np.ndarray, _: np.ndarray, seed: int) -> st.Estimate:
        return st.bootstrap(table, st.nmi, 300, seed)

    covers(lambda rng, e: (clusters(rng, e, 0.5), np.zeros((1, 1, 2))), debiased, truth)
    rng = np.random.default_rng(0)
    noise = [clusters(rng, 20, 0.0) for _ in range(60)]
    found = [debiased(table, table, i) for i, table in enumerate(noise)]
    plain = float(np.mean([st.nmi(table.sum(1)) for table in noise]))
    assert abs(np.mean([each.value for each in found])) < 0.1 * plain
    assert np.mean([each.low <= 0 <= each.high for each in found]) >= 0.95
    biased = [st.bootstrap(table, st.nmi, 300, debiased=False) for table in noise]
    assert all(each.low > 0 for each in biased)  # as it would mislead


def test_differences_of_nmi_are_those_of_its_values() -> None:
    labels = np.random.default_rng(0).integers(0, 3, 200)
    episode = np.arange(200) // 10
    a, b = (
        st.contingency_sums(
            np.where(np.random.default_rng(seed).random(200) < 0.5, labels, 0),
            labels,
            episode,
            3,
            3,
        )[None]
        for seed in (1, 2)
    )
    found = st.paired_difference(a, b, st.nmi, 400)
    first, second = (st.bootstrap(each, st.nmi, 400) for each in (a, b))
    assert found.value == pytest.approx(first.value - second.value)
    assert found.low < found.value < found.high
    back = st.paired_difference(b, a, st.nmi, 400)
    np.testing.assert_allclose([back.value, back.low, back.high], [-found[i] for i in (0, 2, 1)])


def test_an_estimate_is_bounded_as_its_kind_asks() -> None:
    perfect = np.stack([np.full(8, 5.0)] * 2, -1)[None]
    assert st.estimate(perfect, st.accuracy) == st.clustered_wilson(perfect)
    assert st.estimate(perfect, st.accuracy).low < 0.8  # resampling would say 1 to 1
    data = noisy(1, 8, 0.5)
    assert st.estimate(data, st.r2, 100, 3) == st.bootstrap(data, st.r2, 100, 3)


def test_a_small_sample_widens_the_interval_as_students_t_does() -> None:
    for episodes in (10, 20, 40):
        level = np.random.default_rng(1).normal(size=episodes)
        data = np.stack([np.ones(episodes), level], -1)[None]
        found = st.bootstrap(data, st.mean_error, resamples=20_000)
        error = level.std(ddof=1) / np.sqrt(episodes)
        assert (found.high - found.low) / (2 * error) == pytest.approx(
            st.student(0.975, episodes - 1), rel=0.06
        )
        assert st.standard_error(found.low, found.high, episodes) == pytest.approx(error, rel=0.06)


def test_correlated_windows_do_not_shrink_the_interval() -> None:
    data = noisy(1, 20, noise=1.0)
    wide = st.bootstrap(data, st.r2)
    repeated = st.bootstrap(data * 10, st.r2)  # every window ten times
    np.testing.assert_allclose(repeated, wide, rtol=1e-9)


def test_seeds_are_averaged_and_widen_the_interval_when_they_differ() -> None:
    good, bad = noisy(1, 30, 0.3), noisy(1, 30, 1.0)
    both = np.concatenate([good, bad])
    each = [st.bootstrap(data, st.r2) for data in (good, bad, both)]
    assert each[2].value == pytest.approx((each[0].value + each[1].value) / 2)
    spread = [estimate.high - estimate.low for estimate in each]
    assert spread[2] > max(spread) - 1e-12
    assert each[2].low <= each[1].high
    assert each[2].high >= each[0].low  # a resample may draw one seed twice


def test_intervals_repeat_with_the_seed() -> None:
    data, other = noisy(2, 20, 0.5), noisy(2, 20, 0.5)
    other[:, :, 1] *= 1.1
    for found in (
        lambda seed: st.bootstrap(data, st.r2, seed=seed),
        lambda seed: st.paired_difference(data, other, st.r2, seed=seed),
        lambda seed: st.paired_ratio(data, other, st.r2, seed=seed),
    ):
        assert found(3) == found(3)
        assert found(3) != found(4)


def test_kept_draws_are_those_of_one_generator_whoever_asked_before() -> None:
    a, b = noisy(2, 30, 0.5), noisy(2, 30, 0.7)
    for seed in (4, 5, 5, 4):
        st.paired_difference(a, b, st.r2, 300, seed)  # draws, or finds them drawn
        rng = np.random.default_rng(seed)
        weights = rng.multinomial(30, np.full(30, 1 / 30), 300)
        each = st.r2(np.einsum("re,kec->rkc", weights, a))
        drawn = np.take_along_axis(each, rng.integers(0, 2, each.shape), 1).mean(1)
        level = NormalDist().cdf(-np.sqrt(30 / 29) * st.student(0.975, 29))
        found = st.bootstrap(a, st.r2, 300, seed)
        np.testing.assert_allclose(found[1:], np.quantile(drawn, [level, 1 - level]))


def test_kept_permutations_are_those_of_one_generator_whoever_asked_before() -> None:
    a, b = noisy(2, 30, 0.5)[:, None]
    expected = {}
    for seed in (4, 5):
        rng = np.random.default_rng(seed)
        swaps = np.concatenate([rng.integers(0, 2, (size, 30)) for size in (1000, 500)])
        moved = (swaps[..., None] * (b - a)).sum(1)
        apart = np.abs(st.r2(a.sum(1) + moved) - st.r2(b.sum(1) - moved))
        reached = (apart >= abs(st.r2(a.sum(1)) - st.r2(b.sum(1))).item()).sum()
        expected[seed] = (reached + 1) / 1501
    assert 0.01 < expected[4] != expected[5]
    for seed in (4, 5, 5, 4):
        assert st.paired_permutation(a, b, st.r2, 1500, seed) == expected[seed]


def test_few_draws_are_kept_and_nobody_can_change_them() -> None:
    for episodes in range(20, 40):
        table = noisy(1, episodes, 0.5)
        st.bootstrap(table, st.mean_error, 10)
        st.paired_permutation(table, table, st.mean_error, 10)
    for kept in (resampling._drawn, resampling._packed_swaps):
        assert kept.cache_info().currsize == 16
        with pytest.raises(ValueError, match="read-only"):
            kept(39, 10, 0)[0][0] = 1


def test_one_episode_bounds_nothing() -> None:
    one = noisy(1, 1, 0.5)
    for found in (
        st.bootstrap(one, st.r2),
        st.bootstrap(one, st.r2, debiased=True),
        st.paired_difference(one, one, st.r2),
        st.paired_ratio(one, one, st.r2),
    ):
        assert np.isfinite(found.value)
        assert np.isnan(found[1:]).all()
    assert st.paired_permutation(one, one, st.r2) == 1


def test_an_undefined_score_bounds_nothing() -> None:
    still = sums_of(np.ones((6, 8, 2)), np.ones((6, 8, 2)))
    assert np.isnan(st.bootstrap(still, st.r2, debiased=True)).all()
    assert np.isnan(st.paired_difference(still, still, st.r2)).all()
    assert np.isnan(st.paired_ratio(still, still, st.r2)).all()
    assert np.isnan(st.paired_permutation(still, still, st.r2))


def test_a_paired_difference_sees_what_separate_intervals_hide() -> None:
    rng = np.random.default_rng(0)
    level = np.repeat(rng.uniform(0.2, 2, 25), 8)[:, None]  # some episodes are harder for all
    true, noise = rng.normal(size=(200, 2)), rng.normal(size=(200, 2)) * level
    episode = np.repeat(np.arange(25), 8)
    a, b = (st.episode_sums(true + scale * noise, true, episode, 0.5)[None] for scale in (0.9, 1.0))
    found = st.paired_difference(a, b, st.r2)
    assert found.low > 0
    assert found.p < 0.05
    assert st.paired_permutation(a, b, st.r2) < 0.05
    alone = [st.bootstrap(each, st.r2) for each in (a, b)]
    assert not st.disjoint(alone[0][1:], alone[1][1:])
    back = st.paired_difference(b, a, st.r2)
    np.testing.assert_allclose([back.value, back.low, back.high], [-found[i] for i in (0, 2, 1)])


@pytest.mark.parametrize("episodes", [6, 30])
def test_p_is_5_percent_where_the_interval_touches_0(episodes: int) -> None:
    spread = np.random.default_rng(0).normal(size=episodes)
    none = levels(*[0.0] * episodes)
    low = st.paired_difference(levels(*spread), none, st.mean_error, 20_000).low
    touching = st.paired_difference(levels(*(spread - low)), none, st.mean_error, 20_000)
    assert touching.low == pytest.approx(0)
    assert touching.p == pytest.approx(0.05, abs=0.003)  # one draw is counted on top
    clear = st.paired_difference(levels(*(spread + 2 - low)), none, st.mean_error)
    assert 0 < clear.p < 0.04


def test_equal_representations_differ_by_nothing() -> None:
    data = noisy(1, 10, 0.5)
    assert st.paired_difference(data, data, st.r2) == (0, 0, 0, 1)
    assert st.paired_ratio(data, data, st.r2) == (1, 1, 1)
    assert st.paired_permutation(data, data, st.r2) == 1


def test_a_ratio_by_hand_and_only_of_scores_above_0() -> None:
    a, b = (np.stack([np.ones(9), np.arange(1.0, 10) * k], -1)[None] for k in (3, 4))
    np.testing.assert_allclose(st.paired_ratio(a, b, st.mean_error), 0.75)
    two = np.concatenate([a, b])  # two seeds against one: a mean of 3.5 to 4
    assert st.paired_ratio(two, b, st.mean_error).value == pytest.approx(0.875)
    assert st.paired_ratio(b, a, st.mean_error).value == pytest.approx(4 / 3)
    assert np.isnan(st.paired_ratio(a, 0 * b + np.array([1, 0]), st.mean_error)).all()
    some = b.copy()
    some[0, 1:, 1] = 0  # some resamples have no error at all
    found = st.paired_ratio(a, some, st.mean_error)
    assert np.isfinite(found.value)
    assert np.isnan(found[1:]).all()


@pytest.mark.parametrize("compare", [st.paired_difference, st.paired_ratio, st.paired_permutation])
def test_other_windows_are_refused(compare: Callable) -> None:
    with pytest.raises(ValueError, match="same windows"):
        compare(noisy(1, 10, 0.5, seed=0), noisy(1, 10, 0.5, seed=1), st.r2)
    a, b = episodes_of_flow(np.random.default_rng(0), 6)
    with pytest.raises(ValueError, match="same windows"):
        compare(a, b + np.array([1, 0]), st.mean_error)
    with pytest.raises(ValueError, match="same windows"):
        compare(a, b[:, :5], st.mean_error)
    one, other = (clusters(np.random.default_rng(seed), 6, 0.5) for seed in (0, 1))
    with pytest.raises(ValueError, match="same windows"):  # other labels
        compare(one, other, st.nmi)


def test_permutations_by_hand() -> None:
    # Differences 1, 2, 4: of 8 signs only all + and all - reach 7; of 1, 1, -1 six reach 1.
    assert st.paired_permutation(levels(1, 2, 4), levels(0, 0, 0), st.mean_error) == 2 / 8
    assert st.paired_permutation(levels(1, 1, 0), levels(0, 0, 1), st.mean_error) == 8 / 8
    assert st.paired_permutation(levels(3, 1, 0), levels(0, 0, 1), st.mean_error) == 6 / 8
    best = st.paired_permutation(levels(*[1.0] * 10), levels(*[0.0] * 10), st.mean_error)
    assert best == 2 / 1024


def test_permutations_enumerate_every_exchange_of_any_score() -> None:
    a, b = noisy(1, 6, 0.5), noisy(1, 6, 0.5)
    b[:, :, 1] *= np.random.default_rng(0).uniform(0.7, 1.6, 6)
    observed, reached = float((st.r2(a.sum(1)) - st.r2(b.sum(1)))[0]), 0
    for swap in product([False, True], repeat=6):
        chosen = np.array(swap)[None, :, None]
        one, other = np.where(chosen, b, a).sum(1), np.where(chosen, a, b).sum(1)
        reached += abs(float((st.r2(one) - st.r2(other))[0])) >= abs(observed) - 1e-12
    assert st.paired_permutation(a, b, st.r2) == reached / 64
    sampled = st.paired_permutation(a, b, st.r2, permutations=63)  # 64 would be all
    assert sampled * 64 == round(sampled * 64)
    assert sampled == pytest.approx(reached / 64, abs=0.25)
    assert sampled != st.paired_permutation(a, b, st.r2, permutations=62)


def test_permutations_repeat_a_method_of_fewer_seeds() -> None:
    a, b = np.concatenate([levels(3, 1, 0), levels(1, 1, 1)]), levels(0, 0, 1)
    expected = st.paired_permutation(a, np.concatenate([b, b]), st.mean_error)
    assert st.paired_permutation(a, b, st.mean_error) == expected
    assert st.paired_permutation(b, a, st.mean_error) == expected


@pytest.mark.parametrize(("episodes", "permutations"), [(8, 256), (20, 299)])
def test_p_is_uniform_where_there_is_no_difference(episodes: int, permutations: int) -> None:
    rng, found = np.random.default_rng(0), np.zeros(REPEATS)
    for repeat in range(REPEATS):
        tables = np.stack(episodes_of_motion(rng, episodes))
        swap = rng.integers(0, 2, episodes)  # which of the two is which, as chance would have it
        a, b = tables[swap, 0, np.arange(episodes)], tables[1 - swap, 0, np.arange(episodes)]
        found[repeat] = st.paired_permutation(a[None], b[None], st.r2, permutations, repeat)
    reached = (np.arange(REPEATS) + 1) / REPEATS
    assert np.abs(np.sort(found) - reached).max() < 1.95 / np.sqrt(REPEATS)  # Kolmogorov, 0.1 %
    low, high = st.wilson(int((found <= 0.05).sum()), REPEATS, z=3.29)
    assert low <= 0.05 <= high


def test_permutations_see_a_difference_that_is_there() -> None:
    rng = np.random.default_rng(0)
    p = [st.paired_permutation(*episodes_of_motion(rng, 20), st.r2, 499, i) for i in range(100)]
    assert np.mean(np.array(p) < 0.05) > 0.9
