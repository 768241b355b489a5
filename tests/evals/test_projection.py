import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from saccade.errors import DataError
from saccade.evals.projection import pca, tsne

RNG = np.random.default_rng(0)
CLOUD = torch.from_numpy(RNG.normal(size=(80, 12)) @ RNG.normal(size=(12, 12)))


def standardised(x: torch.Tensor) -> np.ndarray:
    values = x.double().numpy()
    return (values - values.mean(0)) / values.std(0)


def test_components_by_hand() -> None:
    t = torch.tensor([-1.0, 0.0, 0.0, 1.0])
    found = pca(torch.stack([100 * t + 7, 0.01 * t], 1))  # two features that say the same
    expected = np.array([-2.0, 0.0, 0.0, 2.0])  # sqrt(2) deviations in each of two features
    np.testing.assert_allclose(found.points, np.stack([expected, 0 * expected], 1), atol=1e-9)
    assert found.note == "100%, 0% of the variance"


def test_components_equal_those_of_scikit_learn_and_signs_are_fixed() -> None:
    found = pca(CLOUD, 3).points
    x = standardised(CLOUD)
    peer = PCA(3).fit_transform(x)
    np.testing.assert_allclose(np.abs(found), np.abs(peer), atol=1e-9)
    weights = x.T @ found
    assert (np.take_along_axis(weights, np.abs(weights).argmax(0)[None], 0) > 0).all()
    np.testing.assert_allclose(pca(-CLOUD, 3).points, -found, atol=1e-9)


def test_the_seed_chooses_the_samples_the_same_for_every_encoder() -> None:
    found = pca(CLOUD, most=30, seed=4)
    assert len(found.points) == len(found.chosen) == 30
    assert (np.diff(found.chosen) > 0).all()
    np.testing.assert_array_equal(found.chosen, tsne(CLOUD[:, :3], 4, most=30).chosen)
    assert (found.chosen != pca(CLOUD, most=30, seed=5).chosen).any()
    np.testing.assert_allclose(found.points, pca(CLOUD[found.chosen]).points, atol=1e-9)
    np.testing.assert_array_equal(pca(CLOUD, most=500).chosen, np.arange(80))


def test_pictures_are_the_same_to_the_byte() -> None:
    for draw in (lambda: pca(CLOUD, most=60), lambda: tsne(CLOUD, 0, most=60)):
        one, two = draw(), draw()
        assert one.points.tobytes() == two.points.tobytes()
        assert one.chosen.tobytes() == two.chosen.tobytes()


def test_tsne_keeps_groups_together() -> None:
    group = np.arange(60) % 3
    x = torch.from_numpy(15 * np.eye(3)[group] + np.random.default_rng(0).normal(size=(60, 3)))
    points = tsne(x, 0, perplexity=10.0).points
    apart = np.linalg.norm(points[:, None] - points, axis=-1) + 1e9 * np.eye(60)
    assert (group[apart.argmin(1)] == group).all()


@pytest.mark.parametrize(
    ("count", "asked", "used"), [(5, 30.0, "1.33"), (31, 30.0, "10"), (31, 4.0, "4")]
)
def test_perplexity_is_capped_by_the_samples(count: int, asked: float, used: str) -> None:
    found = tsne(CLOUD[:count], 0, asked)
    assert found.note == f"perplexity {used}"
    assert np.isfinite(found.points).all()


@pytest.mark.parametrize("x", [torch.ones(20, 4), torch.randn(20, 1)])
def test_features_without_a_plane_still_have_a_picture(x: torch.Tensor) -> None:
    assert np.isfinite(tsne(x, 0).points).all()


def test_too_few_are_refused() -> None:
    with pytest.raises(DataError, match="t-SNE of 4 samples says nothing; give at least 5"):
        tsne(CLOUD[:4], 0)
    with pytest.raises(DataError, match="80 samples of 1 features span no 2 axes"):
        pca(CLOUD[:, :1])
