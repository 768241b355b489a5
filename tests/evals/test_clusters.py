from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score, silhouette_samples
from torch import Tensor

from saccade.errors import DataError
from saccade.evals import clusters
from saccade.evals.clusters import (
    MOTIONS,
    chance_purity,
    kmeans,
    knn_purity,
    motion_labels,
    silhouettes,
)


def blobs(count: int, groups: int, dim: int = 6, seed: int = 0) -> tuple[Tensor, np.ndarray]:
    """Draw groups that lie far apart, around corners of a simplex."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, groups, count)
    centres = 20 * np.eye(max(groups, dim))[:groups, :dim]
    return torch.from_numpy(centres[labels] + rng.normal(size=(count, dim))), labels


def standardised(x: Tensor) -> np.ndarray:
    values = x.double().numpy()
    return (values - values.mean(0)) / values.std(0)


def test_separated_groups_are_pure() -> None:
    x, labels = blobs(200, 4)
    episode = np.arange(200) // 10
    np.testing.assert_allclose(knn_purity(x, labels, episode), 1)
    assert silhouettes(x, labels).min() > 0.2  # two of six features are noise, standardised


def test_random_labels_are_as_pure_as_chance() -> None:
    rng = np.random.default_rng(0)
    x, episode = torch.from_numpy(rng.normal(size=(1500, 8))), np.arange(1500) // 15
    labels = rng.choice(4, 1500, p=[0.5, 0.3, 0.15, 0.05])
    chance = chance_purity(labels, episode).mean()
    assert chance == pytest.approx(0.25 + 0.09 + 0.0225 + 0.0025, abs=0.03)
    assert knn_purity(x, labels, episode).mean() == pytest.approx(chance, abs=0.015)
    assert abs(silhouettes(x, labels).mean()) < 0.05


def test_near_copies_within_an_episode_prove_nothing() -> None:
    rng = np.random.default_rng(0)
    episode = np.repeat(np.arange(100), 12)
    x = rng.normal(size=(100, 8))[episode] + 1e-3 * rng.normal(size=(1200, 8))
    labels = rng.integers(0, 2, 100)[episode]  # one behaviour in each episode, no relation to x
    features = torch.from_numpy(x)
    np.testing.assert_allclose(knn_purity(features, labels, np.arange(1200)), 1)  # what leaks
    honest = knn_purity(features, labels, episode).mean()
    assert honest == pytest.approx(chance_purity(labels, episode).mean(), abs=0.08)


def test_purity_equals_its_definition() -> None:
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.normal(size=(60, 5)) + np.array([3, 0, 0, 0, -9]))
    labels, episode = rng.integers(0, 3, 60), rng.integers(4, 9, 60)
    unit = standardised(x)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    expected = []
    for i in range(60):
        others = np.flatnonzero(episode != episode[i])
        nearest = others[np.argsort(-(unit[others] @ unit[i]))[:7]]
        expected.append((labels[nearest] == labels[i]).mean())
    np.testing.assert_allclose(knn_purity(x, labels, episode, k=7), expected)


def test_ties_count_in_part_and_order_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    x = torch.from_numpy(rng.normal(size=(4, 3)).repeat(12, 0))  # copies across all episodes
    labels, episode = rng.integers(0, 2, 48), np.tile(np.arange(6), 8)
    found = knn_purity(x, labels, episode, k=3)
    mine = np.arange(48) // 12  # each sample has ten copies elsewhere: three of those, at random
    for i in range(48):
        copies = (mine == mine[i]) & (episode != episode[i])
        assert found[i] == pytest.approx((labels[copies] == labels[i]).mean())
    order = rng.permutation(48)
    np.testing.assert_allclose(knn_purity(x[order], labels[order], episode[order], 3), found[order])


def test_features_that_do_not_vary_are_as_pure_as_chance() -> None:
    labels, episode = np.array([0, 0, 1, 1, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 2, 2])
    x = torch.full((7, 3), 0.7)
    expected = [1 / 4, 1 / 4, 3 / 4, 3 / 5, 2 / 5, 2 / 5, 2 / 5]  # counted by hand
    np.testing.assert_allclose(chance_purity(labels, episode), expected)
    np.testing.assert_allclose(knn_purity(x, labels, episode, k=2), expected)
    np.testing.assert_array_equal(silhouettes(x, labels), 0)


def test_where_neighbours_are_few_all_of_them_count() -> None:
    rng = np.random.default_rng(3)
    x, labels = torch.from_numpy(rng.normal(size=(12, 4))), rng.integers(0, 2, 12)
    episode = np.array([0] * 9 + [1] * 3)  # 3 for some, 9 for others
    found, chance = knn_purity(x, labels, episode, k=50), chance_purity(labels, episode)
    np.testing.assert_allclose(found, chance)


def test_silhouettes_of_four_points_by_hand() -> None:
    x = torch.tensor([[0.0], [1.0], [5.0], [7.0]])  # one axis: standardising changes no ratio
    found = silhouettes(x, np.array([3, 3, 8, 8]))
    np.testing.assert_allclose(found, [5 / 6, 4 / 5, 2.5 / 4.5, 4.5 / 6.5])


def test_silhouettes_equal_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(4)
    x = torch.from_numpy(rng.normal(size=(90, 7)) * [1, 2, 3, 40, 5, 6, 7] + 100)
    labels = rng.integers(-2, 3, 90)
    labels[17] = 99  # one of its kind scores 0
    found = silhouettes(x, labels)
    np.testing.assert_allclose(found, silhouette_samples(standardised(x), labels), atol=1e-9)
    assert found[17] == 0


@pytest.mark.parametrize(
    "score", [silhouettes, lambda x, labels: knn_purity(x, labels, labels % 2)]
)
def test_blocks_make_no_difference(
    score: Callable[[Tensor, np.ndarray], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, labels = blobs(70, 4)
    whole = score(x, labels)
    monkeypatch.setattr(clusters, "BLOCK", 70 * 9)
    np.testing.assert_allclose(score(x, labels), whole, atol=1e-12)


def test_kmeans_finds_separated_groups_and_repeats() -> None:
    x, labels = blobs(150, 5)
    found = kmeans(x * torch.tensor([1, 1000, 1, 1, 1, 1]), 5, seed=0)  # scale does not matter
    assert adjusted_rand_score(labels, found) == 1
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(150, 6)))
    np.testing.assert_array_equal(kmeans(noise, 5, seed=1), kmeans(noise, 5, seed=1))
    assert (kmeans(noise, 5, seed=1) != kmeans(noise, 5, seed=2)).any()


def test_kmeans_in_several_threads_gives_what_one_thread_gives() -> None:
    draws = [torch.from_numpy(np.random.default_rng(i).normal(size=(80, 4))) for i in range(6)]
    draws += [torch.ones(20, 3)] * 6  # fewer groups than asked for; warnings would be errors
    alone = [kmeans(x, 5, seed=0) for x in draws]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda x: kmeans(x, 5, seed=0), draws))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_kmeans_of_constant_features_is_one_group() -> None:
    assert len(np.unique(kmeans(torch.ones(20, 3), 4, seed=0))) == 1


def test_motions_by_hand() -> None:
    moves = [
        ([0.0, 0.0, 0.0], 0.0, "still"),
        ([0.003, 0.003, 0.002], 0.0, "still"),  # length 0.0047
        ([0.0, 0.0, 0.005], 0.1, "+z"),  # at the thresholds: moves, no grip
        ([0.03, -0.02, 0.02], 0.0, "+x"),
        ([-0.03, 0.02, 0.02], 0.05, "-x"),
        ([0.01, 0.02, 0.01], 0.0, "+y"),
        ([0.01, -0.02, 0.01], 0.0, "-y"),
        ([0.0, 0.01, -0.02], 0.0, "-z"),
        ([-0.02, -0.02, 0.0], 0.0, "-x"),  # the first of equals
        ([0.03, 0.0, 0.0], 0.5, "grip opens"),
        ([0.0, 0.0, 0.0], -0.5, "grip closes"),
    ]
    way, grip, expected = zip(*moves, strict=True)
    labels, names = motion_labels(np.array(way), np.array(grip), still=0.005)
    assert [names[label] for label in labels] == list(expected)
    assert names == MOTIONS
    labels, names = motion_labels(np.array(way), None, still=0.005)
    assert [names[label] for label in labels[-2:]] == ["+x", "still"]
    assert names == MOTIONS[:7]


def test_what_cannot_be_measured_is_refused() -> None:
    x, one, two = torch.randn(4, 2), np.zeros(4, int), np.arange(4)
    with pytest.raises(DataError, match="purity compares episodes, and all 4 samples share one"):
        knn_purity(x, two, one)
    with pytest.raises(DataError, match="at least two episodes"):
        chance_purity(two, one)
    with pytest.raises(DataError, match="a silhouette compares labels"):
        silhouettes(x, one)
    with pytest.raises(DataError, match="4 samples cannot form 5 groups"):
        kmeans(x, 5, seed=0)
    with pytest.raises(DataError, match="sample 1 is not finite"):
        motion_labels(np.array([[0.0, 0, 0], [0, np.nan, 0]]), None, still=0.01)
