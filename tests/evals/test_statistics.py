import numpy as np
import pytest

from saccade.evals import statistics as st

RNG = np.random.default_rng(0)


def table(predicted: np.ndarray, true: np.ndarray, episode: np.ndarray) -> np.ndarray:
    return st.episode_sums(predicted, true, episode, tolerance=0.5)[None]


def score(predicted: list, true: list, statistic: st.Statistic) -> float:
    sums = table(np.array(predicted, float), np.array(true, float), np.arange(len(true)))
    return float(statistic(sums.sum(1))[0])


def test_r2_by_hand_is_pooled_over_dimensions() -> None:
    true = [[0, 10], [2, 10], [4, 10]]  # SST 8 + 0
    assert score(true, true, st.r2) == 1
    assert score([[2, 10]] * 3, true, st.r2) == 0
    assert score([[0, 10], [2, 11], [4, 11]], true, st.r2) == pytest.approx(1 - 2 / 8)


def test_r2_is_undefined_where_the_truth_is_constant() -> None:
    assert np.isnan(score([[1.0], [2.0]], [[0.3], [0.3]], st.r2))


def test_r2_of_sums_equals_r2_of_windows() -> None:
    true = RNG.normal(50, 1, (40, 3))
    guess, episode = true + RNG.normal(size=(40, 3)), np.sort(RNG.integers(0, 6, 40))
    expected = 1 - ((guess - true) ** 2).sum() / ((true - true.mean(0)) ** 2).sum()
    np.testing.assert_allclose(st.r2(table(guess, true, episode).sum(1)), expected)


def test_cosine_by_hand_skips_windows_that_stand_still() -> None:
    true = [[1, 0], [0, 1], [0, 0.004]]  # below 1 % of the tolerance: no direction
    assert score([[2, 0], [1, 0], [9, 9]], true, st.cosine) == pytest.approx(0.5)
    assert score([[0, 0], [0, 3], [0, 0]], true, st.cosine) == pytest.approx(0.5)
    assert np.isnan(score([[1, 1]], [[0, 0]], st.cosine))


def test_within_by_hand_measures_the_error_vector() -> None:
    guess = [[0.3, 0.3], [0.4, 0.4], [0.5, 0.0]]  # norms .42, .57, .5
    assert score(guess, [[0, 0]] * 3, st.within) == pytest.approx(1 / 3)


def noisy(seeds: int, episodes: int, noise: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    true, episode = rng.normal(size=(episodes * 8, 2)), np.repeat(np.arange(episodes), 8)
    return np.concatenate(
        [table(true + noise * rng.normal(size=true.shape), true, episode) for _ in range(seeds)]
    )


def test_the_bootstrap_covers_a_known_mean_as_often_as_it_says() -> None:
    def mean(sums: np.ndarray) -> np.ndarray:
        return sums[..., 1] / sums[..., 0]

    rng, covered = np.random.default_rng(0), 0
    for trial in range(300):
        episode_means = rng.normal(3, 1, 40)
        data = np.stack([np.full(40, 5.0), 5 * episode_means], -1)[None]
        found = st.bootstrap(data, mean, resamples=400, seed=trial)
        covered += found.low <= 3 <= found.high
    low, high = st.wilson(covered, 300)
    assert low < 0.95 < high + 0.02  # percentile intervals are slightly narrow at 40 episodes


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
    data = noisy(2, 10, 0.5)
    assert st.bootstrap(data, st.r2, seed=3) == st.bootstrap(data, st.r2, seed=3)
    assert st.bootstrap(data, st.r2, seed=3) != st.bootstrap(data, st.r2, seed=4)


def test_one_episode_bounds_nothing() -> None:
    found = st.bootstrap(noisy(1, 1, 0.5), st.r2)
    assert np.isfinite(found.value)
    assert np.isnan([found.low, found.high]).all()


def test_a_paired_difference_sees_what_separate_intervals_hide() -> None:
    rng = np.random.default_rng(0)
    level = np.repeat(rng.uniform(0.2, 2, 25), 8)[:, None]  # some episodes are harder for all
    true, noise = rng.normal(size=(200, 2)), rng.normal(size=(200, 2)) * level
    episode = np.repeat(np.arange(25), 8)
    a, b = (table(true + scale * noise, true, episode) for scale in (0.9, 1.0))
    found = st.paired_difference(a, b, st.r2)
    assert found.low > 0
    assert found.p < 0.05
    alone = [st.bootstrap(each, st.r2) for each in (a, b)]
    assert not st.disjoint(alone[0][1:], alone[1][1:])
    back = st.paired_difference(b, a, st.r2)
    np.testing.assert_allclose([back.value, back.low, back.high], [-found[i] for i in (0, 2, 1)])


def test_equal_representations_differ_by_nothing() -> None:
    data = noisy(1, 10, 0.5)
    assert st.paired_difference(data, data, st.r2) == (0, 0, 0, 1)


def test_a_paired_difference_of_other_windows_is_refused() -> None:
    with pytest.raises(ValueError, match="same windows"):
        st.paired_difference(noisy(1, 10, 0.5, seed=0), noisy(1, 10, 0.5, seed=1), st.r2)


def test_wilson_by_hand() -> None:
    np.testing.assert_allclose(st.wilson(0, 10), [0, 0.27753], atol=1e-5)
    np.testing.assert_allclose(st.wilson(81, 263), [0.25528, 0.36620], atol=2e-5)
    assert st.wilson(0, 0) == (0, 1)


def test_disjoint() -> None:
    assert st.disjoint((0.0, 1.0), (1.1, 2.0))
    assert st.disjoint((1.1, 2.0), (0.0, 1.0))
    assert not st.disjoint((0.0, 1.0), (1.0, 2.0))
    assert not st.disjoint((float("nan"), float("nan")), (1.0, 2.0))
