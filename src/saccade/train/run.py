"""A run between two steps: what the loop, its steps and its checkpoints share."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saccade import sabotage
from saccade.train import checkpoint
from saccade.train.config import TrainConfig
from saccade.train.distributed import Ranks
from saccade.train.layout import Spread
from saccade.train.log import Log, Meter, Progress
from saccade.train.optim import moments
from saccade.train.saver import Saver
from saccade.train.scaling import LossScale
from saccade.train.signals import Stop
from saccade.types import Clip, Objective

MEMORY = 0.98  # of the running mean of the loss
YOUNG = 50  # losses that it needs before one can be called a leap


@dataclass
class Mean:
    """The running mean of the loss, freed of the bias of its start."""

    total: float = 0.0
    count: int = 0

    def leaps(self, loss: float, factor: float) -> bool:
        """Say whether a loss is more than so many times the mean; 0 never says so."""
        if not factor or self.count < YOUNG:
            return False
        return loss > factor * self.total / (1 - MEMORY**self.count)

    def add(self, loss: float) -> None:
        """Take a loss in."""
        self.total = MEMORY * self.total + (1 - MEMORY) * loss
        self.count += 1


@dataclass
class Run:
    """The state of a run, and how it is shown, recorded and saved."""

    spread: Spread
    optimizer: torch.optim.Optimizer
    config: TrainConfig
    held_out: Sequence[Clip]
    ranks: Ranks
    folder: Path
    identity: Mapping[str, Any]
    card: str
    progress: Callable[[Progress], None]
    meter: Meter
    stop: Stop
    saver: Saver
    step: int = 0  # steps done
    best_step: int = 0
    best_loss: float = math.inf
    pending: dict[str, float] | None = None  # record of this step, which still lacks its scores
    scores: dict[str, float] | None = None  # of this step, with the features they are of
    pooled: Mapping[str, Tensor] | None = None
    skipped: int = 0  # steps that were left out
    mean: Mean = field(default_factory=Mean)
    scale: LossScale = field(default_factory=LossScale)  # under float16
    log: Log | None = None  # on rank 0

    @property
    def objective(self) -> Objective:
        """The networks that learn; sharded, they can do their forward pass only."""
        return self.spread.objective

    def due(self, every: int) -> bool:
        """Say whether something that happens every so many steps, and at the end, happens now."""
        return self.step % every == 0 or self.step == self.config.steps

    def show(self, loss: float | None = None, note: str = "") -> None:
        """Tell how far it is."""
        if self.ranks.rank == 0:
            self.progress(self.meter.progress(self.step, self.config.steps, loss, note))

    def record(self, record: Mapping[str, float]) -> None:
        """Write a line of numbers."""
        if self.log is not None:
            sabotage.at("log", step=self.step)
            samples = self.step * self.config.batch_size
            self.log.metrics({"step": self.step, "samples": samples, **record})
            self.log.timing({"step": self.step, **self.meter.record(self.ranks.device)})

    def save(self) -> None:
        """Write a checkpoint, and the exports where this is the best step so far. All together."""
        self.settle()
        spread, best = self.spread, self.best_step == self.step
        kept = spread.rows(moments(self.objective, self.optimizer))
        whole = spread.copied(self.ranks.rank == 0) if best or not spread.sharded else None
        weights = spread.weights(whole)
        state = {
            "step": self.step,
            "best": [self.best_step, self.best_loss] if self.best_step else None,
            "world": self.ranks.world,
            "pending": self.pending,
            "skipped": self.skipped,
            "mean": asdict(self.mean),
            "scale": asdict(self.scale),
            "identity": self.identity,
        }

        step = self.step
        prune = partial(self.prune, {self.step, self.best_step})
        ranks = self.ranks.beside if spread.sharded else checkpoint.ALONE

        def export() -> None:
            if best and whole is not None:
                sabotage.at("export", step=step)
                whole.save_exports(self.folder / "best", self.card, step)

        def write() -> None:
            ranks.on_main(export)
            place, places = spread.place, spread.places
            checkpoint.save(self.folder, weights, kept, state, ranks, place, places)
            ranks.on_main(prune)

        def begin() -> None:
            if self.log is not None:  # a checkpoint must not outlive the records before it
                self.log.sync()
            if spread.sharded or self.ranks.rank == 0:
                self.saver.begin(write)

        self.ranks.together(begin)

    def prune(self, protected: set[int] | None = None) -> None:
        """Delete the checkpoints that nobody needs any more; of now where no steps are given."""
        mine = {self.step, self.best_step} if protected is None else protected
        checkpoint.prune(self.folder, self.config.keep, self.config.keep_every, mine)

    def settle(self) -> None:
        """Wait until what is being written is on the disk. All together.

        Raises:
            SaccadeError: it could not be written.
        """
        self.ranks.together(self.saver.settle)

    def obey(self) -> None:
        """Save and stop if a signal came to any rank. Between steps only.

        Raises:
            Stopped: it did.
            SaccadeError: a checkpoint could not be written.
        """
        number, failed = self.ranks.agree(self.stop.number, self.saver.failed)
        if number or failed:
            self.settle()
        if not number:
            return

        if self.ranks.on_main(lambda: self.step and self.step not in checkpoint.steps(self.folder)):
            self.save()
            self.settle()
        self.stop.state = (
            f"{self.step} of {self.config.steps} steps are done and saved in {self.folder}; "
            "resume to go on"
        )
        self.stop.obey(number)
