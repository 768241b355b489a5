"""The linear probe that the documents train: one layer by AdamW, 20 epochs in batches of 256.

Batches come from a shuffled ``DataLoader`` over a ``TensorDataset``, as there; or, for those who
would say that this is what takes the time, by indexing the tensors (``loader=False``). After each
epoch the layer is asked about the evaluation set, and the epoch that does best there is kept.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

BATCH, EPOCHS, LR = 256, 20, 1e-3

Score = Callable[[Tensor], float]  # of guesses for the evaluation set


class SgdProbe:
    """A probe in training.

    Args:
        train: features and targets, float32.
        test: features and targets to choose the epoch by, float32.
        score: what the best epoch has most of.
        loader: take batches from a ``DataLoader``.
    """

    def __init__(
        self, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], score: Score, loader: bool
    ) -> None:
        torch.manual_seed(0)
        self.train, self.test, self.score, self.loader = train, test, score, loader
        self.layer = nn.Linear(train[0].shape[1], train[1].shape[1])
        self.optimizer = torch.optim.AdamW(self.layer.parameters(), LR, weight_decay=0.0)
        self.best = -float("inf")

    def epoch(self) -> None:
        """Pass once over the training set, and once over the evaluation set."""
        for x, y in self._batches(self.train, shuffle=True):
            loss = nn.functional.mse_loss(self.layer(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        with torch.no_grad():
            guesses = [self.layer(x) for x, _ in self._batches(self.test, shuffle=False)]
        self.best = max(self.best, self.score(torch.cat(guesses)))

    def _batches(
        self, tensors: tuple[Tensor, Tensor], shuffle: bool
    ) -> Iterable[tuple[Tensor, Tensor]]:
        if self.loader:
            return DataLoader(TensorDataset(*tensors), batch_size=BATCH, shuffle=shuffle)
        if not shuffle:
            return zip(*(each.split(BATCH) for each in tensors), strict=True)
        rows = torch.randperm(len(tensors[0])).split(BATCH)
        return ((tensors[0][some], tensors[1][some]) for some in rows)
