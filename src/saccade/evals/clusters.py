"""Do features group by behaviour? Purity among neighbours, silhouettes and k-means.

Every measure looks at features that are standardised over the given samples, and returns one number
for each sample: whoever reports it adds up by episode and resamples episodes, since the samples of
one episode are near-copies of each other.

Silhouette: Rousseeuw, 1987, https://doi.org/10.1016/0377-0427(87)90125-7.
"""

import threading
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor
from torch.nn import functional as F

from saccade.errors import DataError
from saccade.evals.ridge import Scale

BLOCK = 2**23  # distances held at once: 64 MB for each array of them
SAME = 1e-9  # cosines that differ by less are ties: it is rounding that tells them apart
GRIP = 0.1  # opening by which a gripper has opened or closed
STARTS = 10  # of k-means; the best is kept
ALONE = threading.Lock()  # limits of threads hold for the whole process, and probes run in several
MOTIONS = ("still", "+x", "-x", "+y", "-y", "+z", "-z", "grip opens", "grip closes")


def knn_purity(
    x: Float[Tensor, "n d"],
    labels: Int[np.ndarray, " n"],
    episode: Int[np.ndarray, " n"],
    k: int = 10,
) -> Float64[np.ndarray, " n"]:
    """Return the share of each sample's ``k`` nearest neighbours (by cosine) that have its label.

    Neighbours come from other episodes only, so near-copies prove nothing; all of them where other
    episodes have fewer than ``k`` samples. Where several are equally near at the last place, each
    counts in part: the order of the samples does not matter.

    Raises:
        DataError: all samples are of one episode.
    """
    _two(episode, "episodes", "purity")
    unit = F.normalize(_standardised(x), dim=1)
    label, owner = torch.from_numpy(labels), torch.from_numpy(episode)
    purity = torch.empty(len(x), dtype=torch.float64)
    for rows in _blocks(len(x)):
        own = owner[rows, None] == owner
        near = (unit[rows] @ unit.mT).masked_fill_(own, -torch.inf)
        alike = label[rows, None] == label
        wanted = (~own).sum(1).clamp_max(k)
        last = near.topk(min(k, len(x)), dim=1).values.gather(1, wanted[:, None] - 1)
        closer, tied = near > last + SAME, (near - last).abs() <= SAME
        places = wanted - closer.sum(1)
        shared = (tied & alike).sum(1) / tied.sum(1).double()
        purity[rows] = ((closer & alike).sum(1) + places * shared) / wanted
    return purity.numpy()


def chance_purity(
    labels: Int[np.ndarray, " n"], episode: Int[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Return the purity that neighbours drawn at random from other episodes have on average.

    Raises:
        DataError: all samples are of one episode.
    """
    _two(episode, "episodes", "purity")
    names, label = np.unique(labels, return_inverse=True)
    owners, owner = np.unique(episode, return_inverse=True)
    counts = np.zeros((len(owners), len(names)))
    np.add.at(counts, (owner, label), 1)
    others = counts.sum(0) - counts  # of each label, outside each episode
    return others[owner, label] / others.sum(1)[owner]


def silhouettes(
    x: Float[Tensor, "n d"], labels: Int[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Return how much nearer each sample is to its own label than to the next, in [-1, 1].

    (b - a) / max(a, b), of mean Euclidean distances: a to the other samples of the label, b to the
    samples of the nearest other label. A label's only sample scores 0, and so do samples that
    are no distance from both. Exact; memory stays bounded.

    Raises:
        DataError: there is one label only.
    """
    _two(labels, "labels", "a silhouette")
    points, label = _standardised(x), torch.from_numpy(np.unique(labels, return_inverse=True)[1])
    member = F.one_hot(label).double()
    counts, square = member.sum(0), points.square().sum(1)
    found = torch.empty(len(x), dtype=torch.float64)
    for rows in _blocks(len(x)):
        apart = square[rows, None] + square - 2 * points[rows] @ points.mT
        apart = apart.clamp_min_(0).sqrt_()
        apart[torch.arange(len(apart)), torch.arange(len(x))[rows]] = 0  # but for rounding
        total, own = apart @ member, label[rows, None]
        others = counts[own] - 1
        a = total.gather(1, own) / others.clamp_min(1)
        b = (total / counts).scatter(1, own, torch.inf).amin(1, keepdim=True)
        score = (b - a) / torch.maximum(a, b).clamp_min(1e-30)
        found[rows] = score.where(others > 0, 0)[:, 0]
    return found.numpy()


def kmeans(x: Float[Tensor, "n d"], k: int, seed: int) -> Int64[np.ndarray, " n"]:
    """Group samples around ``k`` means; the best of ten seeded starts.

    Fewer groups than ``k`` come back where fewer samples differ.

    Raises:
        DataError: there are fewer samples than groups.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    if not 1 <= k <= len(x):
        raise DataError(f"{len(x)} samples cannot form {k} groups; give more samples")
    points = _standardised(x).numpy()
    k = min(k, len(np.unique(points.round(9), axis=0)))  # what differs less is rounding
    groups = KMeans(k, n_init=STARTS, random_state=seed)  # pyright: ignore[reportArgumentType]
    # one thread: sums of several round in another order, and another start may win
    with ALONE, threadpool_limits(limits=1):
        return np.asarray(groups.fit_predict(points), np.int64)


def motion_labels(
    displacement: Float64[np.ndarray, "n 3"],
    gripper: Float64[np.ndarray, " n"] | None,
    still: float,
) -> tuple[Int64[np.ndarray, " n"], tuple[str, ...]]:
    """Name the behaviour of each sample by what its end effector did.

    A gripper that opens or closes by more than 0.1 of its range decides; then a displacement
    shorter than ``still`` is rest; any other is the signed axis that it goes along most (the first
    of equals).

    Args:
        displacement: over the gap, in metres, in the frame that the names are to speak of.
        gripper: change of the opening over the gap, where there is one gripper.
        still: metres; a tenth of a typical displacement.

    Returns:
        Places in the names, and the names of all behaviours, whether they occur or not.

    Raises:
        DataError: a displacement or a gripper is not finite.
    """
    grip = np.zeros(len(displacement)) if gripper is None else gripper
    bad = ~(np.isfinite(displacement).all(1) & np.isfinite(grip))
    if bad.any():
        raise DataError(
            f"the motion of sample {int(bad.argmax())} is not finite; leave its episode out"
        )
    axis = np.abs(displacement).argmax(1)
    backwards = np.take_along_axis(displacement, axis[:, None], 1)[:, 0] < 0
    labels = 1 + 2 * axis + backwards
    labels[np.linalg.norm(displacement, axis=1) < still] = 0
    labels[grip > GRIP] = MOTIONS.index("grip opens")
    labels[grip < -GRIP] = MOTIONS.index("grip closes")
    return labels.astype(np.int64), MOTIONS if gripper is not None else MOTIONS[:-2]


def _standardised(x: Float[Tensor, "n d"]) -> Float64[Tensor, "n d"]:
    points = x.detach().cpu().double()
    return Scale.of(points)(points)


def _blocks(count: int) -> Iterator[slice]:
    """Cut rows of a square table into parts that fit in memory."""
    height = max(1, BLOCK // count)
    for low in range(0, count, height):
        yield slice(low, min(low + height, count))


def _two(values: Int[np.ndarray, " n"], what: str, asked: str) -> None:
    if len(np.unique(values)) < 2:
        raise DataError(
            f"{asked} compares {what}, and all {len(values)} samples share one; give data with "
            f"at least two {what}"
        )
