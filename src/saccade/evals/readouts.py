"""Readouts: what is fitted on frozen features. Fit on train, choose on select, predict anywhere.

linear     ridge regression, solved exactly in float64 (Hoerl & Kennard, 1970):
           W = argmin |Y - X W|^2 / n + penalty |W|^2, X standardised on train, Y centred.
           One eigendecomposition, of X^T X or X X^T, whichever is smaller, serves every
           penalty. Nothing is tuned by hand.
mlp        one hidden layer
attentive  one learned query attends to all tokens, then a linear map
           (Bardes et al., 2024, https://arxiv.org/abs/2404.08471, in its smallest form)
dense      the same for a target per token: each attends to all, by a match of low rank

Classes are one-hot targets: the linear readout regresses them (and its penalty is chosen by
accuracy), networks learn them by cross-entropy; the largest output is the answer.
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
Loss = Callable[[Tensor, Tensor], Tensor]
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
        classes: bool = False,
    ) -> Fit:
        """Choose the penalty that is best on the select split.

        By squared error, or by accuracy and then squared error where targets are ``classes``.
        """
        target, wanted = torch.from_numpy(y), torch.from_numpy(y_select)
        weights = self.weights(target, torch.tensor(PENALTIES, dtype=torch.float64))
        guesses = self.scale(x_select.double()) @ weights + target.mean(0)
        errors = (guesses - wanted).square().mean((1, 2))
        if classes:
            wrong = (guesses.argmax(2) != wanted.argmax(1)).double().mean(1)
            errors = wrong + 1e-6 * errors
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


class Dense(nn.Module):
    """Predict at every token from itself and from the tokens that it attends to."""

    RANK = 32

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, self.RANK, bias=False)
        self.key = nn.Linear(dim, self.RANK, bias=False)
        self.head = nn.Linear(2 * dim, out)

    def forward(self, tokens: Float[Tensor, "n l d"]) -> Float[Tensor, "n l a"]:
        """Predict standardised targets from standardised tokens."""
        match = self.query(tokens) @ self.key(tokens).mT / self.RANK**0.5
        return self.head(torch.cat([tokens, match.softmax(-1) @ tokens], -1))


def fitter(
    kind: Readout, x: Float[Tensor, "n *f"], seed: int, classes: bool = False
) -> Callable[..., Fit]:
    """Return what fits this readout to ``(y, x_select, y_select)``; the ridge decomposes x once."""
    if kind == "linear":
        return partial(Ridge(x).fit, classes=classes)
    return partial(_fit_network, kind, seed, classes, x)


def _fit_network(
    kind: Readout,
    seed: int,
    classes: bool,
    x_train: Float[Tensor, "n *f"],
    y_train: Float64[np.ndarray, "n *l a"],
    x_select: Float[Tensor, "m *f"],
    y_select: Float64[np.ndarray, "m *l a"],
) -> Fit:
    """Train a small network by AdamW and keep the epoch that is best on the select split."""
    of_x, of_y = Scale.of(x_train.float()), Scale.of(torch.from_numpy(y_train))
    loss: Loss = F.mse_loss
    if classes:
        of_y = Scale(torch.zeros(()), torch.ones(()))
        loss = F.cross_entropy
    x, y = of_x(x_train.float()), of_y(torch.from_numpy(y_train)).float()
    select = of_x(x_select.float()), of_y(torch.from_numpy(y_select)).float()
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        network = _network(kind, x, y)
        _descend(network, (x, y), select, loss)

    def predict(features: Float[Tensor, "n *f"]) -> Float64[np.ndarray, "n *l a"]:
        with torch.no_grad():
            guess = network(of_x(features.float())).double()
        return (guess / of_y.inverse.where(of_y.inverse > 0, torch.inf) + of_y.mean).numpy()

    return Fit(predict, None)


def _network(kind: Readout, x: Float[Tensor, "n *f"], y: Float[Tensor, "n *l a"]) -> nn.Module:
    """Build what maps features of this shape to targets of this shape."""
    dim, out = x.shape[-1], y.shape[-1]
    if kind == "attentive":
        return Dense(dim, out) if y.ndim == 3 else Attentive(dim, out)
    return nn.Sequential(nn.Linear(dim, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, out))


def _descend(
    network: nn.Module, train: tuple[Tensor, Tensor], select: tuple[Tensor, Tensor], loss: Loss
) -> None:
    """Minimise the loss with early stopping; leave the best weights in place."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=0.05)
    best, kept, waited = float("inf"), network.state_dict(), 0
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(train[0])).split(BATCH):
            optimizer.zero_grad()
            loss(network(train[0][rows]), train[1][rows]).backward()
            optimizer.step()
        with torch.no_grad():
            found = loss(network(select[0]), select[1]).item()
        if found < best:
            best, kept, waited = found, copy.deepcopy(network.state_dict()), 0
        elif (waited := waited + 1) == PATIENCE:
            break
    network.load_state_dict(kept)
