"""Readouts: what is fitted on frozen features. Fit on train, choose on select, predict anywhere.

linear     ridge regression in closed form, over all penalties (``ridge.py``)
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
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.evals.ridge import Fit, Ridge, Scale

Readout = Literal["linear", "mlp", "attentive"]
Loss = Callable[[Tensor, Tensor], Tensor]
HIDDEN, BATCH, EPOCHS, PATIENCE, LR = 256, 64, 100, 10, 3e-3
BLOCK = 512  # rows that are predicted at once


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
    y, y_chosen = (of_y(torch.from_numpy(each)).float() for each in (y_train, y_select))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        network = _Standardised(of_x, _network(kind, x_train, y))
        _descend(network, (x_train, y), (x_select, y_chosen), loss)

    def predict(features: Float[Tensor, "n *f"]) -> Float64[np.ndarray, "n *l a"]:
        guess = _outputs(network, features).double()
        return (guess / of_y.inverse.where(of_y.inverse > 0, torch.inf) + of_y.mean).numpy()

    return Fit(predict, None)


class _Standardised(nn.Module):
    """Standardise a batch as it comes: features stay in the precision that they are kept in."""

    def __init__(self, scale: Scale, network: nn.Module) -> None:
        super().__init__()
        self.scale, self.network = scale, network

    def forward(self, x: Float[Tensor, "n *f"]) -> Float[Tensor, "n *l a"]:
        return self.network(self.scale(x.float()))


def _outputs(network: nn.Module, x: Float[Tensor, "n *f"]) -> Float[Tensor, "n *l a"]:
    with torch.no_grad():
        return torch.cat([network(some) for some in x.split(BLOCK)])


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
    optimizer = torch.optim.AdamW(network.parameters(), LR, weight_decay=0.05, fused=True)
    best, kept, waited = float("inf"), network.state_dict(), 0
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(train[0])).split(BATCH):
            optimizer.zero_grad()
            loss(network(train[0][rows]), train[1][rows]).backward()
            optimizer.step()
        found = loss(_outputs(network, select[0]), select[1]).item()
        if found < best:
            best, kept, waited = found, copy.deepcopy(network.state_dict()), 0
        elif (waited := waited + 1) == PATIENCE:
            break
    network.load_state_dict(kept)
