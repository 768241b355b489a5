"""Ridge regression of frozen features, solved for every penalty at once (Hoerl & Kennard, 1970).

    W = argmin |Y - X W|^2 / n + penalty |W|^2, X standardised on train, Y centred

One eigendecomposition, of X^T X or X X^T, whichever is smaller, serves every penalty and every
target. X^T X of float32 features is multiplied in float32, block by block, and summed in float64;
the solution for a small penalty is then corrected once by its gradient (iterative refinement;
Wilkinson, 1963). Guesses then differ from those of float64 by less than 1e-5 of their spread, by
2e-4 at penalty 1e-6 of features so alike that their correlations have a condition of 1e8. (Weights
differ there by 1 %: others guess as well.)
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

PENALTIES = tuple(10.0 ** (power / 2) for power in range(-12, 9))
BLOCK = 1024  # rows that are multiplied at once: they stay in the cache
PANEL = 128  # columns of the products that are multiplied at once
EXACT = 1e-3  # penalties from which float32 products leave no error worth correcting
CONSTANT = 1e-6  # of a feature's mean: varying by less is rounding


class Fit(NamedTuple):
    """A fitted readout; ``penalty`` is None where none was chosen."""

    predict: Callable[[Float[Tensor, "n *f"]], Float64[np.ndarray, "n *l a"]]
    penalty: float | None


class Scale(NamedTuple):
    """Standardise with the training set's mean and deviation; constant features become zero."""

    mean: Float[Tensor, "*d"]
    inverse: Float[Tensor, "*d"]

    @classmethod
    def of(cls, x: Float[Tensor, "*n d"]) -> "Scale":
        """Measure every feature over all other axes."""
        rows = x.flatten(0, -2)
        return cls.from_moments(rows.mean(0), rows.std(0, correction=0))

    @classmethod
    def from_moments(cls, mean: Float[Tensor, " d"], deviation: Float[Tensor, " d"]) -> "Scale":
        """Give features that hardly vary, beside their size, no weight."""
        alive = deviation > CONSTANT * mean.abs()
        return cls(mean, torch.where(alive, 1 / deviation.where(alive, 1), 0))

    def __call__(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """Standardise."""
        return (x - self.mean) * self.inverse


class Ridge:
    """A linear readout of one set of training features, for any number of targets."""

    def __init__(self, x: Float[Tensor, "n d"]) -> None:
        n, d = x.shape
        self.x = x if x.dtype in (torch.float32, torch.float64) else x.float()
        self.dual = d > n
        if self.dual:
            self.scale = Scale.of(x.double())
            self.standard = self.scale(x.double())
            gram = self.standard @ self.standard.mT / n
        else:
            self.scale, gram = _moments(self.x)
        values, self.vectors = torch.linalg.eigh(gram)
        self.values = values.clamp_min(0)  # tiny negatives are rounding

    def weights(
        self, y: Float64[Tensor, "n a"], penalties: Float64[Tensor, " q"]
    ) -> Float64[Tensor, "q d a"]:
        """Solve for every penalty at once, for standardised features."""
        centred = (y - y.mean(0)) / len(y)
        right = self.vectors.mT @ (centred if self.dual else self._against(centred))
        every = right[:, None] / (self.values[:, None] + penalties)[..., None]
        solved = self.vectors @ every.flatten(1)  # all penalties and targets side by side
        solved = self.standard.mT @ solved if self.dual else solved
        return solved.view(-1, len(penalties), y.shape[1]).movedim(1, 0)

    def fit(
        self,
        y: Float64[np.ndarray, "n a"],
        x_select: Float[Tensor, "m d"],
        y_select: Float64[np.ndarray, "m a"],
        classes: bool = False,
    ) -> Fit:
        """Choose the penalty that is best on the select split.

        By squared error, or by accuracy and then squared error where targets are ``classes``.
        """
        target, wanted = torch.from_numpy(y), torch.from_numpy(y_select)
        bias = target.mean(0)
        weights = self.weights(target, torch.tensor(PENALTIES, dtype=torch.float64))
        best = self._best(weights, bias, x_select, wanted, classes)
        weight, penalty = weights[best], PENALTIES[best]
        if not self.dual and self.x.dtype == torch.float32 and penalty < EXACT:
            weight = self._refined(weight, target - bias, penalty)
        scaled = weight * self.scale.inverse[:, None]

        def predict(x: Float[Tensor, "m d"]) -> Float64[np.ndarray, "m a"]:
            """Read features off, in float64: large weights of alike features cancel."""
            blocks = [z @ scaled + bias for z in _centred(x, self.scale.mean)]
            return torch.cat(blocks).numpy()

        return Fit(predict, penalty)

    def _against(self, y: Float64[Tensor, "n a"]) -> Float64[Tensor, "d a"]:
        """Multiply standardised features with centred targets; the features' means cancel."""
        total = torch.zeros(y.shape[1], self.x.shape[1], dtype=torch.float64)
        centred = _centred(self.x, self.scale.mean.to(self.x.dtype))
        for z, some in zip(centred, y.to(self.x.dtype).split(BLOCK), strict=True):
            total += some.mT @ z
        return (total * self.scale.inverse).mT

    def _best(
        self,
        weights: Float64[Tensor, "q d a"],
        bias: Float64[Tensor, " a"],
        x: Float[Tensor, "m d"],
        wanted: Float64[Tensor, "m a"],
        classes: bool,
    ) -> int:
        """Return the place of the penalty that errs least."""
        q, d, a = weights.shape
        flat = weights.movedim(0, 1).reshape(d, q * a) * self.scale.inverse[:, None]
        flat, shift = flat.to(self.x.dtype), self.scale.mean.to(self.x.dtype)
        squares = torch.zeros(q, dtype=torch.float64)
        wrong = torch.zeros(q, dtype=torch.float64)
        aim = (wanted - bias).to(flat.dtype)
        for z, true in zip(_centred(x, shift), aim.split(BLOCK), strict=True):
            guess = (z @ flat).view(-1, q, a)
            if classes:
                answer = (guess + bias.to(guess.dtype)).argmax(2)
                wrong += (answer != (true + bias).argmax(1)[:, None]).sum(0)
            squares += guess.sub_(true[:, None]).square_().sum((0, 2)).double()
        errors = squares / wanted.numel()
        return int((wrong / len(wanted) + 1e-6 * errors if classes else errors).argmin())

    def _refined(
        self, weight: Float64[Tensor, "d a"], y: Float64[Tensor, "n a"], penalty: float
    ) -> Float64[Tensor, "d a"]:
        """Take one Newton step; rounding of the gradient averages out over the rows."""
        scaled = (weight * self.scale.inverse[:, None]).to(self.x.dtype)
        total = torch.zeros_like(weight.mT)
        centred = _centred(self.x, self.scale.mean.to(self.x.dtype))
        for z, some in zip(centred, y.to(self.x.dtype).split(BLOCK), strict=True):
            total += (some - z @ scaled).mT @ z
        gradient = (total * self.scale.inverse).mT / len(y) - penalty * weight
        step = (self.vectors.mT @ gradient) / (self.values + penalty)[:, None]
        return weight + self.vectors @ step


def _centred(x: Float[Tensor, "n d"], mean: Float[Tensor, " d"]) -> Iterator[Float[Tensor, "b d"]]:
    """Yield blocks of rows less the mean, in its precision; each overwrites the one before."""
    room = torch.empty(min(len(x), BLOCK), x.shape[1], dtype=mean.dtype)
    for some in x.split(BLOCK):
        yield torch.sub(some, mean, out=room[: len(some)])


def _moments(x: Float[Tensor, "n d"]) -> tuple[Scale, Float64[Tensor, "d d"]]:
    """Return how to standardise features, and their correlations, in one pass over them.

    Sums are of differences from the first rows' mean, which are of the size of the features'
    spread: sums of squares of large means would leave no digits for it.
    """
    n, d = x.shape
    shift = x[:BLOCK].mean(0)
    gram = torch.zeros(d, d, dtype=torch.float64)
    total = torch.zeros(d, dtype=torch.float64)
    ones = torch.ones(BLOCK, dtype=x.dtype)
    for z in _centred(x, shift):
        total += ones[: len(z)] @ z
        for at in range(0, d, PANEL):  # the other half is their mirror
            gram[at : at + PANEL, at:] += z[:, at : at + PANEL].mT @ z[:, at:]
    gram = gram.triu() + gram.triu(1).mT
    mean = total / n
    covariance = gram / n - mean[:, None] * mean
    deviation = covariance.diagonal().clamp_min(0).sqrt()
    scale = Scale.from_moments(shift.double() + mean, deviation)
    return scale, covariance * scale.inverse[:, None] * scale.inverse
