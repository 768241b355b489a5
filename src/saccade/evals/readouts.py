"""Readouts: what is fitted on frozen features. Fit on train, choose on select, predict anywhere.

linear     ridge regression, solved exactly in float64 (Hoerl & Kennard, 1970):
           W = argmin |Y - X W|^2 / n + penalty |W|^2, X standardised on train, Y centred.
           One eigendecomposition, of X^T X or X X^T, whichever is smaller, serves every
           penalty. Nothing is tuned by hand.
mlp        one hidden layer
attentive  one learned query attends to all tokens, then a linear map
           (Bardes et al., 2024, https://arxiv.org/abs/2404.08471, in its smallest form)
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.nn import functional as F

Readout = Literal["linear", "mlp", "attentive"]
PENALTIES = tuple(10.0 ** (power / 2) for power in range(-12, 9))
HIDDEN, BATCH, EPOCHS, PATIENCE, LR = 256, 64, 100, 10, 3e-3


class Fit(NamedTuple):
    """A fitted readout; ``penalty`` is None where none was chosen."""

    predict: Callable[[Float[Tensor, "n *f"]], Float64[np.ndarray, "n a"]]
    penalty: float | None


class Scale(NamedTuple):
    """Standardise with the training set's mean and deviation; constant features become zero."""

    mean: Float[Tensor, " d"]
    inverse: Float[Tensor, " d"]

    @classmethod
    def of(cls, x: Float[Tensor, "*n d"]) -> "Scale":
        """Measure every feature over all other axes."""
        rows = x.flatten(0, -2)
        mean, deviation = rows.mean(0), rows.std(0, correction=0)
        alive = deviation > 1e-6 * rows.abs().amax(0)
        return cls(mean, torch.where(alive, 1 / deviation.where(alive, 1), 0))

    def __call__(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """Standardise."""
        return (x - self.mean) * self.inverse


class Ridge:
    """A linear readout of one set of training features, for any number of targets."""

    def __init__(self, x: Float[Tensor, "n d"]) -> None:
        n, d = x.shape
        self.scale = Scale.of(x.double())
        self.x = self.scale(x.double())
        self.dual = d > n
        gram = self.x @ self.x.mT if self.dual else self.x.mT @ self.x
        values, self.vectors = torch.linalg.eigh(gram / n)
        self.values = values.clamp_min(0)  # tiny negatives are rounding

    def weights(
        self, y: Float64[Tensor, "n a"], penalties: Float64[Tensor, " q"]
    ) -> Float64[Tensor, "q d a"]:
        """Solve for every penalty at once, for standardised features."""
        centred = (y - y.mean(0)) / len(y)
        right = self.vectors.mT @ (centred if self.dual else self.x.mT @ centred)
        left = self.x.mT @ self.vectors if self.dual else self.vectors
        return left @ (right / (self.values + penalties[:, None])[..., None])

    def fit(
        self,
        y: Float64[np.ndarray, "n a"],
        x_select: Float[Tensor, "m d"],
        y_select: Float64[np.ndarray, "m a"],
    ) -> Fit:
        """Choose the penalty with the smallest squared error on the select split."""
        target = torch.from_numpy(y)
        weights = self.weights(target, torch.tensor(PENALTIES, dtype=torch.float64))
        guesses = self.scale(x_select.double()) @ weights + target.mean(0)
        errors = (guesses - torch.from_numpy(y_select)).square().sum((1, 2))
        best = int(errors.argmin())
        weight, bias = weights[best], target.mean(0)
        return Fit(lambda x: (self.scale(x.double()) @ weight + bias).numpy(), PENALTIES[best])


class Attentive(nn.Module):
    """Average the tokens by their match with one learned query, then map linearly.

    With a single head, key and value projections would be absorbed by the query and the map.
    """

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(dim))  # the start is mean pooling
        self.head = nn.Linear(dim, out)

    def forward(self, tokens: Float[Tensor, "n l d"]) -> Float[Tensor, "n a"]:
        """Predict standardised targets from standardised tokens."""
        attention = (tokens @ self.query / tokens.shape[-1] ** 0.5).softmax(-1)
        return self.head((attention[:, None] @ tokens)[:, 0])


def fitter(kind: Readout, x: Float[Tensor, "n *f"], seed: int) -> Callable[..., Fit]:
    """Return what fits this readout to ``(y, x_select, y_select)``; the ridge decomposes x once."""
    if kind == "linear":
        return Ridge(x).fit
    return partial(_fit_network, kind, seed, x)


def _fit_network(
    kind: Readout,
    seed: int,
    x_train: Float[Tensor, "n *f"],
    y_train: Float64[np.ndarray, "n a"],
    x_select: Float[Tensor, "m *f"],
    y_select: Float64[np.ndarray, "m a"],
) -> Fit:
    """Train a small network by AdamW and keep the epoch that is best on the select split."""
    of_x, of_y = Scale.of(x_train.float()), Scale.of(torch.from_numpy(y_train))
    x, y = of_x(x_train.float()), of_y(torch.from_numpy(y_train)).float()
    select = of_x(x_select.float()), of_y(torch.from_numpy(y_select)).float()
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        network = (
            Attentive(x.shape[-1], y.shape[-1])
            if kind == "attentive"
            else nn.Sequential(
                nn.Linear(x.shape[-1], HIDDEN), nn.GELU(), nn.Linear(HIDDEN, y.shape[-1])
            )
        )
        _descend(network, (x, y), select)

    def predict(features: Float[Tensor, "n *f"]) -> Float64[np.ndarray, "n a"]:
        with torch.no_grad():
            guess = network(of_x(features.float())).double()
        return (guess / of_y.inverse.where(of_y.inverse > 0, torch.inf) + of_y.mean).numpy()

    return Fit(predict, None)


def _descend(
    network: nn.Module, train: tuple[Tensor, Tensor], select: tuple[Tensor, Tensor]
) -> None:
    """Minimise mean squared error with early stopping; leave the best weights in place."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=0.05)
    best, kept, waited = float("inf"), network.state_dict(), 0
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(train[0])).split(BATCH):
            optimizer.zero_grad()
            F.mse_loss(network(train[0][rows]), train[1][rows]).backward()
            optimizer.step()
        with torch.no_grad():
            loss = F.mse_loss(network(select[0]), select[1]).item()
        if loss < best:
            best, kept, waited = loss, copy.deepcopy(network.state_dict()), 0
        elif (waited := waited + 1) == PATIENCE:
            break
    network.load_state_dict(kept)
