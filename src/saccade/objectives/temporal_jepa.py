"""Predict the state after an action: phase 1 of StateVLA, a joint-embedding predictive loss.

With ``z`` the state encoder's vector, ``z'`` that of its slow average, and ``a`` the action,

    predicted = z_t + delta(z_t, a_t)
    loss      = mean((predicted - z'_{t+1})^2)
              + variance    w_v  mean_d max(0, 1 - std_d)
              + covariance  w_c  sum_{i != j} C_ij^2 / D

std and C over the batch, of the prediction by default (VICReg, arXiv 2105.04906). The average
follows the encoder after update t of T with momentum m(t) = 1 - (1 - m_0) (1 + cos(pi t/T)) / 2.

Two facts to read the numbers by. States of neighbouring frames are alike, so the error says
nothing without that of copying (``copy_mse``) and of others' actions (``shuffled_mse``). And
the covariance of B samples has rank B - 1: with unit variances the third term cannot fall below
(D / (B - 1) - 1) w_c (``covariance_floor``). Facts from ``spec/statevla.md`` section 3.
"""

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from saccade.config import Config
from saccade.errors import ConfigError, NumericError
from saccade.models import state_encoder, temporal_predictor
from saccade.models.frozen import leave_out
from saccade.models.state_encoder import StateEncoder, moment
from saccade.models.temporal_predictor import TemporalPredictorConfig
from saccade.nn.spread import effective_rank
from saccade.objectives.future_pixels import invert_last
from saccade.objectives.vicreg import gather, participation, vicreg
from saccade.types import Clip, Objective, Preprocessing

FEW = 8  # samples below which their directions say nothing
NETWORKS = ("language", "vision")  # of an encoder; others trained them
SCOPES = {"encoder": ("context",), "full": ("tokeniser", "context", "state_proj")}
Source = Literal["prediction", "state", "target"]


@dataclass(frozen=True, kw_only=True)
class TemporalJepaConfig(Config["TemporalJepa"]):
    """The defaults are those of the documents.

    Args:
        encoder: the state encoder.
        steps: updates of the run, over which the momentum rises.
        action_size: numbers of an action.
        grippers: how many of them, the last ones, are grippers.
        hidden: width of the predictor's layers.
        momentum: of the slow average, at the start.
        schedule: ``cosine`` rises to 1 at the last update; ``constant`` stays.
        target: what is averaged: the Mamba ``encoder`` only, between the trained tokenisers and
            projection, or the ``full`` path.
        variance_weight: of the variance term.
        covariance_weight: of the covariance term.
        vicreg_on: what these two are the mean over; ``target`` trains what is not averaged.
        actions: ``recorded``; ``shuffled``, those of other samples, or ``none``: controls, which
            cannot learn what actions do.
        min_std: mean deviation of states below which they have collapsed.
        min_rank: number of directions in which states vary below which they have collapsed
            (participation ratio; 1 is a line). Not asked of fewer than 8 samples.
        patience: updates in a row that a collapse must last to stop the run; fresh encoders may
            begin as if collapsed, so it takes longer than a warm-up's first updates.
    """

    encoder: Config[StateEncoder]
    steps: int = 0
    action_size: int = 7
    grippers: int = 1
    hidden: int = 512
    momentum: float = 0.996
    schedule: Literal["cosine", "constant"] = "cosine"
    target: Literal["encoder", "full"] = "encoder"
    variance_weight: float = 1.0
    covariance_weight: float = 0.04
    vicreg_on: tuple[Source, ...] = ("prediction",)
    actions: Literal["recorded", "shuffled", "none"] = "recorded"
    min_std: float = 0.01
    min_rank: float = 1.005
    patience: int = 1000

    def build(self) -> "TemporalJepa":
        """Construct encoder, average and predictor.

        Raises:
            ConfigError: options that cannot be, or contradict each other.
        """
        if self.schedule == "cosine" and self.steps < 1:
            raise ConfigError(
                f"steps is {self.steps}; the momentum rises over the updates of the run: set steps "
                "to their number, or schedule to constant"
            )
        if not 0 <= self.momentum <= 1:
            raise ConfigError(f"momentum is {self.momentum}; it lies between 0 and 1")
        if self.target == "full" and "target" in self.vicreg_on:
            raise ConfigError(
                "vicreg_on names the target, in which nothing is trained if target is full; leave "
                "it out, or set target to encoder"
            )
        if not self.vicreg_on and (self.variance_weight or self.covariance_weight):
            raise ConfigError("vicreg_on is empty; name what to spread, or set both weights to 0")
        return TemporalJepa(self)


class Step(NamedTuple):
    """One batch of transitions in the space of states."""

    now: Float[Tensor, "b d"]
    target: Float[Tensor, "b d"]
    action: Float[Tensor, "b a"]  # normalised
    predicted: Float[Tensor, "b d"]


class TemporalJepa(Objective):
    """Training of a state encoder by the consequences of actions."""

    collapsed: Int64[Tensor, ""]

    def __init__(self, config: TemporalJepaConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = config.encoder.build()
        if not isinstance(self.encoder, StateEncoder):
            raise ConfigError(f"the encoder is a {type(self.encoder).__name__}, not a StateEncoder")
        self.encoder.requires_grad_(True)
        self.predictor = TemporalPredictorConfig(
            dim=self.encoder.dim,
            action_size=config.action_size,
            grippers=config.grippers,
            hidden=config.hidden,
        ).build()
        self.target = nn.ModuleDict(
            {name: deepcopy(getattr(self.encoder, name)) for name in SCOPES[config.target]}
        ).requires_grad_(False)
        self.whole_batch = bool(config.variance_weight or config.covariance_weight)
        self.register_buffer("collapsed", torch.zeros((), dtype=torch.int64))  # updates in a row
        self.spread: tuple[Tensor, Tensor] | None = None  # of the last training batch
        networks = [f"encoder.{name}" for name in NETWORKS if _learned(self.encoder, name)]
        if networks:  # they would make every checkpoint as large as they are
            leave_out(self, networks)

    def set_statistics(
        self,
        mean: Float[Tensor, " a"],
        std: Float[Tensor, " a"],
        state_mean: Float[Tensor, " s"] | None = None,
        state_std: Float[Tensor, " s"] | None = None,
    ) -> None:
        """Keep the mean and deviation of the training data's actions, and states where asked for.

        Raises:
            ConfigError: the encoder standardises states, and their statistics are not given.
        """
        self.predictor.set_statistics(mean, std)
        if self.encoder.config.standardise_state:
            if state_mean is None or state_std is None:
                raise ConfigError(
                    "the encoder standardises states: give their mean and deviation, too"
                )
            self.encoder.set_statistics(state_mean, state_std)

    def forward(self, clip: Clip) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Return the loss, its terms, and what they must be read beside."""
        step = self.step(clip)
        terms = self.weigh(step)
        with torch.no_grad():
            scalars = {name: value.detach() for name, value in terms.items()}
            scalars |= self.monitor(step) | ({} if self.training else self.controls(step))
        return torch.stack(list(terms.values())).sum(), scalars

    def terms(self, clip: Clip) -> Mapping[str, Float[Tensor, ""]]:
        """Return the error of the prediction, and both terms against collapse, weighted."""
        return self.weigh(self.step(clip))

    def step(self, clip: Clip) -> Step:
        """Encode both moments and predict the later one.

        Raises:
            ConfigError: the clip is not one action between two moments, or of one sample.
        """
        action = self.action(clip)
        now = self.encoder(moment(clip, 0))
        seen = self.encoder.sense(moment(clip, -1))
        with torch.set_grad_enabled(torch.is_grad_enabled() and "target" in self.config.vicreg_on):
            path = {name: getattr(self.encoder, name) for name in SCOPES["full"]}
            path |= dict(self.target.items())
            target = path["state_proj"](path["context"](path["tokeniser"](seen))[:, -1])
        return Step(now, target, action, self.predictor(now, action))

    def action(self, clip: Clip) -> Float[Tensor, "b a"]:
        """Return what the predictor is told was done.

        Raises:
            ConfigError: the clip is not one action between two moments, or of one sample.
        """
        action, size = clip["action"], self.config.action_size
        if clip["video"].shape[1] != 2 or action.shape[1:] != (1, size):
            raise ConfigError(
                f"a clip has {clip['video'].shape[1]} moments and {action.shape[1]} actions of "
                f"{action.shape[2]} numbers, not 2 and 1 of {size}: use TransitionWindow(gap=1), "
                "and set action_size to that of the data"
            )
        if len(action) == 1:
            raise ConfigError(
                "a batch of one sample has no variance and no other action; raise batch_size, "
                "lower accumulate, or choose held-out samples that leave no batch of one"
            )
        given = self.predictor.normalise(action[:, 0])
        if self.config.actions == "none":
            return torch.zeros_like(given)
        return given.roll(1, 0) if self.config.actions == "shuffled" else given

    def weigh(self, step: Step) -> dict[str, Float[Tensor, ""]]:
        """Return the terms of the loss."""
        config = self.config
        sources = {"prediction": step.predicted, "state": step.now, "target": step.target}
        spread = [self.scatter(sources[name]) for name in config.vicreg_on]
        terms = {"jepa_mse": error(step.predicted, step.target.detach())}
        for i, (name, weight) in enumerate(
            (("variance", config.variance_weight), ("covariance", config.covariance_weight))
        ):
            if weight:
                terms[f"jepa_{name}"] = weight * torch.stack([parts[i] for parts in spread]).mean()
        return terms

    def scatter(self, z: Float[Tensor, "b d"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return variance and covariance, in training over all ranks."""
        return vicreg(gather(z.float()) if self.training else z.float())

    def monitor(self, step: Step) -> dict[str, Tensor]:
        """Return how states are spread, and remember it for ``after_step``."""
        now = step.now.float()
        everywhere = gather(now) if self.training else now
        deviation, directions = everywhere.std(0).mean(), participation(everywhere)
        if self.training:
            few = len(everywhere) < FEW
            self.spread = (deviation, torch.full_like(directions, math.inf) if few else directions)
        variance, covariance = self.scatter(step.predicted)
        samples, dim = everywhere.shape
        floor = self.config.covariance_weight * max(0.0, dim / (samples - 1) - 1)
        return {
            "variance": variance,
            "covariance": covariance,
            "z_std": deviation,
            "z_directions": directions,
            "covariance_floor": now.new_tensor(floor),
        }

    def controls(self, step: Step) -> dict[str, Tensor]:
        """Return the errors of trivial predictions, and what is too slow for every update."""
        right, copied = error(step.predicted, step.target), error(step.now, step.target)
        other = error(self.predictor(step.now, step.action.roll(1, 0)), step.target)
        rank, (samples, dim) = effective_rank(step.now.float()), step.now.shape
        unit = nn.functional.normalize(step.now.float(), dim=1)
        pairs = unit.sum(0).square().sum() - unit.square().sum()
        return {
            "copy_mse": copied,
            "ratio": right / copied.clamp_min(1e-12),
            "shuffled_mse": other,
            "shuffled_ratio": other / right.clamp_min(1e-12),
            "effective_rank": rank,
            "rank_share": rank / min(dim, samples - 1),
            "cosine": pairs / (samples * (samples - 1)),
        }

    def after_step(self, step: int) -> None:
        """Let the average follow, and stop when states have collapsed.

        Raises:
            NumericError: they were for ``patience`` updates in a row.
        """
        self.follow(momentum(step, self.config))
        self.watch(step)

    @torch.no_grad()
    def follow(self, share: float) -> None:
        """Move the average, of which ``share`` stays; buffers are copied."""
        for name, module in self.target.items():
            online = getattr(self.encoder, name)
            for mine, its in zip(module.parameters(), online.parameters(), strict=True):
                mine.lerp_(its, 1 - share)
            for mine, its in zip(module.buffers(), online.buffers(), strict=True):
                mine.copy_(its)

    def watch(self, step: int) -> None:
        """Count updates with collapsed states.

        Raises:
            NumericError: there were ``patience`` in a row.
        """
        if self.spread is None:
            return
        deviation, directions = (float(value) for value in self.spread)
        self.spread = None
        config = self.config
        flat = deviation < config.min_std or directions < config.min_rank
        self.collapsed.add_(1) if flat else self.collapsed.zero_()
        if int(self.collapsed) >= config.patience:
            raise NumericError(
                f"states have collapsed: at step {step} they vary by {deviation:.1e} between "
                f"samples (least {config.min_std:g}) in {directions:.2f} directions (least "
                f"{config.min_rank:g}), for {config.patience} updates in a row; raise "
                f"variance_weight ({config.variance_weight:g}) or batch_size, lower lr, add state "
                "to vicreg_on; CLS must stay the last token"
            )

    def reads(self) -> Preprocessing:
        """Return what frames training reads."""
        return self.encoder.preprocessing

    def save_exports(self, folder: Path, card: str = "", step: int = 0) -> dict[str, Path]:
        """Write the state encoder and the predictor."""
        del step
        places = {name: folder / name for name in (state_encoder.FOLDER, temporal_predictor.FOLDER)}
        self.encoder.save_pretrained(places[state_encoder.FOLDER], card)
        self.predictor.save_pretrained(places[temporal_predictor.FOLDER], card)
        return places

    def inputs(self, clip: Clip) -> Mapping[str, Tensor]:
        """Return what is sensed before the action, and the action."""
        seen = self.encoder.sense(moment(clip, 0))
        return {
            "language": seen.text,
            "state": seen.state,
            "views": seen.views,
            "action": self.action(clip),
        }

    def without_target(self, clip: Clip) -> Clip:
        """Change everything that is sensed after the action."""
        blind = invert_last(clip)
        state = clip["state"].clone()
        state[:, -1] = -1 - state[:, -1]
        blind["state"] = state
        return blind

    def baselines(self, clip: Clip) -> Mapping[str, Float[Tensor, ""]]:
        """Return the loss of predicting that nothing changes, and of acting on others' actions."""
        step = self.step(clip)
        other = self.predictor(step.now, step.action.roll(1, 0))
        guesses = {"copy": step.now, "shuffled_actions": other}
        return {
            name: torch.stack(list(self.weigh(step._replace(predicted=guess)).values())).sum()
            for name, guess in guesses.items()
        }


def momentum(step: int, config: TemporalJepaConfig) -> float:
    """Return the share of the average that stays after an update; the first is number 1."""
    if config.schedule == "constant":
        return config.momentum
    done = min(step / config.steps, 1.0)
    return 1 - (1 - config.momentum) * (1 + math.cos(math.pi * done)) / 2


def error(predicted: Float[Tensor, "b d"], target: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """Return the mean squared error, in float32."""
    return (predicted.float() - target.float()).square().mean()


def _learned(encoder: StateEncoder, name: str) -> bool:
    """Tell whether a part of an encoder is a network, and not a table or a hash."""
    part = getattr(encoder, name)
    return part is not None and next(part.parameters(), None) is not None
