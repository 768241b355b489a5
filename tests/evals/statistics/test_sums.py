import numpy as np
import pytest

from saccade.evals import statistics as st
from saccade.evals.statistics.sums import truth

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


def test_accuracy_and_mean_error_by_hand() -> None:
    episode = np.array([7, 3, 7, 7])
    right = st.accuracy_sums(np.array([True, False, False, True]), episode)
    np.testing.assert_array_equal(right, [[1, 0], [3, 2]])
    assert st.accuracy(right.sum(0, keepdims=True)) == 0.5
    np.testing.assert_allclose(st.accuracy(right), [0, 2 / 3])
    errors = st.error_sums(np.array([1, 6, 2, 3], np.float32), episode)
    np.testing.assert_array_equal(errors, [[1, 6], [3, 6]])
    assert st.mean_error(errors.sum(0, keepdims=True)) == 3


def contingency(cells: list[list[int]], episodes: int = 1) -> np.ndarray:
    """Sums of windows that meet so often, spread over so many episodes."""
    pairs = [(i, j) for i, row in enumerate(cells) for j, n in enumerate(row) for _ in range(n)]
    cluster, label = np.array(pairs).T
    episode = np.arange(len(pairs)) % episodes
    return st.contingency_sums(cluster, label, episode, len(cells), len(cells[0]))


def test_nmi_by_hand() -> None:
    # Shares .4 .1 / .1 .4: both entropies are 1 bit, and I is .8 log2(1.6) + .2 log2(0.4).
    known = 0.8 * np.log2(1.6) + 0.2 * np.log2(0.4)
    for episodes in (1, 3, 10):
        sums = contingency([[4, 1], [1, 4]], episodes)
        total = sums.sum(0, keepdims=True)
        np.testing.assert_allclose(st.nmi(total), known)
        np.testing.assert_allclose(st.nmi(2.5 * total), known)  # shares, not counts
    # Clusters (1/2, 1/4, 1/4) of labels (1/2, 1/2): I is 1 bit, H 1.5 and 1.
    np.testing.assert_allclose(st.nmi(contingency([[4, 0], [0, 2], [0, 2]])), 2 / 2.5)
    np.testing.assert_allclose(st.nmi(contingency([[4, 0, 0], [0, 2, 2]])), 2 / 2.5)


def test_nmi_reads_one_and_zero_and_does_not_depend_on_names() -> None:
    np.testing.assert_allclose(st.nmi(contingency([[0, 5], [3, 0]])), 1)
    np.testing.assert_allclose(st.nmi(contingency([[2, 4, 6], [1, 2, 3]])), 0, atol=1e-12)
    assert np.isnan(st.nmi(contingency([[5, 0], [0, 0]])))
    cells = RNG.integers(1, 9, (3, 4))
    renamed = cells[::-1, [2, 0, 3, 1]]
    found = [st.nmi(contingency(each.tolist())) for each in (cells, renamed, cells.T)]
    np.testing.assert_allclose(found, found[:1] * 3)


def test_nmi_of_many_tables_at_once_is_that_of_each() -> None:
    sums = contingency([[3, 1, 0], [2, 6, 1]], 4)
    weights = RNG.multinomial(4, [0.25] * 4, (5, 2)).astype(float)
    each = [[st.nmi(w[None] @ sums)[0] for w in row] for row in weights]
    np.testing.assert_allclose(st.nmi(weights @ sums), each)


@pytest.mark.parametrize(("cluster", "label"), [(2, 0), (0, 3), (-1, 0)])
def test_clusters_and_labels_out_of_range_are_refused(cluster: int, label: int) -> None:
    with pytest.raises(ValueError, match="are numbered 0 to"):
        st.contingency_sums(np.array([cluster]), np.array([label]), np.array([0]), 2, 3)


def test_the_truth_is_alike_for_every_method_and_no_other_sum_is() -> None:
    true, episode = RNG.normal(size=(12, 2)), np.arange(12) // 4
    a, b = (table(true + RNG.normal(size=(12, 2)), true, episode) for _ in range(2))
    np.testing.assert_array_equal(truth(a, st.r2), truth(b, st.r2))
    assert truth(a, st.r2).shape == (1, 3, 4)  # windows, squares, one sum per dimension
    changed = table(true, 2 * true, episode)
    assert not np.allclose(truth(a, st.r2), truth(changed, st.r2))
    first, second = contingency([[2, 3], [4, 1]])[None], contingency([[6, 0], [0, 4]])[None]
    np.testing.assert_array_equal(truth(first, st.nmi), [[[6, 4]]])
    np.testing.assert_array_equal(truth(first, st.nmi), truth(second, st.nmi))
