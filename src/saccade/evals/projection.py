"""Features drawn in a plane: principal components and t-SNE, the same picture for the same seed.

Both look at standardised features of at most ``most`` samples, chosen by the seed: the same ones
for every encoder. Distances between far groups of a t-SNE mean nothing, nor do their sizes: numbers
about groups are those of ``clusters.py``.

t-SNE: van der Maaten and Hinton, 2008, https://jmlr.org/papers/v9/vandermaaten08a.html.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from saccade.errors import DataError
from saccade.evals.ridge import Scale

MOST = 1000  # samples: some ten seconds of t-SNE
FEWEST = 5  # points that t-SNE can be asked about
START = 1e-4  # deviation of t-SNE's first axis at the start


class Projection(NamedTuple):
    """Where the ``chosen`` samples lie in the picture, and what to write below it."""

    points: Float64[np.ndarray, "m p"]
    chosen: Int64[np.ndarray, " m"]
    note: str


def pca(x: Float[Tensor, "n d"], dims: int = 2, *, seed: int = 0, most: int = MOST) -> Projection:
    """Project on the directions in which features vary most.

    Signs are fixed: the largest weight of each direction is positive.

    Raises:
        DataError: there are fewer samples or features than ``dims``.
    """
    from threadpoolctl import threadpool_limits

    chosen = choose(len(x), most, seed)
    points = _standardised(x, chosen)
    if min(points.shape) < dims:
        raise DataError(
            f"{len(points)} samples of {points.shape[1]} features span no {dims} axes; give more"
        )
    with threadpool_limits(limits=1):
        left, values, right = np.linalg.svd(points, full_matrices=False)
    heaviest = np.abs(right[:dims]).argmax(1)
    signs = np.where(right[np.arange(dims), heaviest] < 0, -1.0, 1.0)
    total = (values**2).sum()
    shares = [f"{part:.0%}" for part in values[:dims] ** 2 / (total or 1)]
    return Projection(
        left[:, :dims] * values[:dims] * signs, chosen, f"{', '.join(shares)} of the variance"
    )


def tsne(
    x: Float[Tensor, "n d"], seed: int, perplexity: float = 30.0, *, most: int = MOST
) -> Projection:
    """Draw near samples near each other; starts from the principal components.

    ``perplexity``, about how many neighbours each sample has, is at most a third of the others.

    Raises:
        DataError: there are fewer than five samples.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    chosen = choose(len(x), most, seed)
    if len(chosen) < FEWEST:
        raise DataError(f"t-SNE of {len(chosen)} samples says nothing; give at least {FEWEST}")
    points = _standardised(x, chosen)
    start = np.zeros((len(chosen), 2))
    axes = pca(x, min(2, points.shape[1]), seed=seed, most=most).points
    start[:, : axes.shape[1]] = axes * (START / (axes[:, 0].std() or 1))
    perplexity = min(perplexity, (len(chosen) - 1) / 3)
    with threadpool_limits(limits=1):
        found = TSNE(
            perplexity=perplexity,
            init=start.astype(np.float32),  # pyright: ignore[reportArgumentType]
            learning_rate="auto",
            random_state=seed,
            n_jobs=1,
        ).fit_transform(points)
    return Projection(found.astype(np.float64), chosen, f"perplexity {perplexity:.3g}")


def choose(count: int, most: int, seed: int) -> Int64[np.ndarray, " m"]:
    """Choose at most ``most`` of ``count`` samples, in their order."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])


def _standardised(
    x: Float[Tensor, "n d"], chosen: Int64[np.ndarray, " m"]
) -> Float64[np.ndarray, "m d"]:
    points = x.detach().cpu().double()[chosen]
    return Scale.of(points)(points).numpy()
