"""Heads without noise levels: a mixture of Gaussians, and a plain regression.

The mixture is that of LIBERO's behaviour cloning (arXiv 2306.03310) and of robomimic: five modes,
means squashed into [-1, 1], deviations by softplus above a floor. Here a mode is a whole chunk.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from saccade.errors import ConfigError
from saccade.models.policies.flow import standard_normal
from saccade.models.policies.head import (
    Condition,
    Gripper,
    Head,
    HeadConfig,
    Sizes,
    counted,
    mlp,
)

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True, kw_only=True)
class MixtureHeadConfig(HeadConfig):
    """The defaults are those of LIBERO.

    Args:
        width: of two hidden layers.
        modes: chunks that a distribution is made of.
        smallest_std: floor of the deviations.
        squash: bound the means to [-1, 1]; for actions as recorded.
        answer: ``sample`` from the mixture, or give the mean of the likeliest ``mode``.
    """

    width: int = 1024
    modes: int = 5
    smallest_std: float = 1e-4
    squash: bool = True
    answer: Literal["sample", "mode"] = "sample"
    gripper: Gripper = "unified"

    def build(self, sizes: Sizes) -> "MixtureHead":
        """Construct the head with fresh weights.

        Raises:
            ConfigError: no mode, no floor, or tokens to attend to.
        """
        if self.modes < 1 or self.smallest_std <= 0:
            raise ConfigError(
                f"modes is {self.modes} and smallest_std {self.smallest_std}; both are above 0"
            )
        refuse_tokens(sizes)
        return MixtureHead(self, sizes)


class MixtureHead(Head):
    """A mixture of Gaussians over chunks; ``answer`` may be changed after training."""

    def __init__(self, config: MixtureHeadConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes, config.width)
        self.config, self.answer = config, config.answer
        count = config.modes * sizes.chunk * len(self.motion)
        self.trunk = nn.Sequential(
            nn.Linear(sizes.condition, config.width),
            nn.ReLU(),
            nn.Linear(config.width, config.width),
            nn.ReLU(),
        )
        self.mean, self.std = nn.Linear(config.width, count), nn.Linear(config.width, count)
        self.logits = nn.Linear(config.width, config.modes)

    def parts(
        self, condition: Condition
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n k m"], Float[Tensor, "b n k m"]]:
        """Return logits, means and deviations of the modes."""
        hidden = self.trunk(condition.z)
        shape = (len(hidden), self.config.modes, self.sizes.chunk, len(self.motion))
        mean = self.mean(hidden).float().view(shape)
        std = F.softplus(self.std(hidden).float().view(shape)) + self.config.smallest_std
        return self.logits(hidden).float(), mean.tanh() if self.config.squash else mean, std

    def motion_loss(
        self,
        condition: Condition,
        motion: Float[Tensor, "b k m"],
        is_pad: Bool[Tensor, "b k"],
        key: Int64[Tensor, " b"],
    ) -> Float[Tensor, ""]:
        """Return the negative log likelihood per command, in nats above its least value.

        The least is that of a hit by a mode as narrow as the floor, so that the loss is never
        below 0 and may be divided by a floor's.
        """
        del key
        logits, mean, std = self.parts(condition)
        each = log_density(motion[:, None], mean, std).sum(-1).masked_fill(is_pad[:, None], 0.0)
        found = torch.logsumexp(logits.log_softmax(-1) + each.sum(-1), -1)
        return self._above_least(found, is_pad)

    def motion_floor(
        self,
        motion: Float[Tensor, "b k m"],
        is_pad: Bool[Tensor, "b k"],
        key: Int64[Tensor, " b"],
    ) -> Float[Tensor, ""]:
        """Return the same of one Gaussian with the mean and deviation of this batch."""
        del key
        seen = motion[~is_pad]
        std = seen.std(0, correction=0) + self.config.smallest_std
        each = log_density(motion, seen.mean(0), std).sum(-1).masked_fill(is_pad, 0.0)
        return self._above_least(each.sum(-1), is_pad)

    def _above_least(
        self, log_likelihood: Float[Tensor, " b"], is_pad: Bool[Tensor, "b k"]
    ) -> Float[Tensor, ""]:
        most = -len(self.motion) * (math.log(self.config.smallest_std) + LOG_SQRT_2PI)
        commands = (~is_pad).sum(1)
        return ((most * commands - log_likelihood) / is_pad.shape[1]).mean()

    def draw(
        self, condition: Condition, generator: torch.Generator | None
    ) -> Float[Tensor, "b k m"]:
        """Draw a mode and a chunk of it, or take the mean of the likeliest."""
        logits, mean, std = self.parts(condition)
        if self.answer == "mode":
            return mean[torch.arange(len(mean)), logits.argmax(-1)]
        at = logits.device if generator is None else generator.device
        chosen = logits.softmax(-1).to(at).multinomial(1, generator=generator)[:, 0]
        rows = torch.arange(len(mean), device=mean.device), chosen.to(mean.device)
        noise = standard_normal(tuple(mean[rows].shape), mean.device, generator)
        return mean[rows] + std[rows] * noise


def log_density(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return the log density of independent Gaussians."""
    return -((x - mean) / std).square() / 2 - std.log() - LOG_SQRT_2PI


@dataclass(frozen=True, kw_only=True)
class RegressionHeadConfig(HeadConfig):
    """The plainest baseline: the mean chunk, by squared error.

    Args:
        width: of the hidden layers.
        hidden: how many there are.
    """

    width: int = 256
    hidden: int = 2

    def build(self, sizes: Sizes) -> "RegressionHead":
        """Construct the head with fresh weights.

        Raises:
            ConfigError: tokens to attend to.
        """
        refuse_tokens(sizes)
        return RegressionHead(self, sizes)


class RegressionHead(Head):
    """A perceptron; it answers the same with any generator."""

    def __init__(self, config: RegressionHeadConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes, config.width)
        outputs = sizes.chunk * len(self.motion)
        self.chunk = mlp(sizes.condition, config.width, outputs, config.hidden)

    def motion_loss(
        self,
        condition: Condition,
        motion: Float[Tensor, "b k m"],
        is_pad: Bool[Tensor, "b k"],
        key: Int64[Tensor, " b"],
    ) -> Float[Tensor, ""]:
        """Return the mean squared error."""
        del key
        return counted((self.draw(condition, None).float() - motion).square(), is_pad)

    def motion_floor(
        self,
        motion: Float[Tensor, "b k m"],
        is_pad: Bool[Tensor, "b k"],
        key: Int64[Tensor, " b"],
    ) -> Float[Tensor, ""]:
        """Return the error of the mean of this batch."""
        del key
        return counted((motion - motion[~is_pad].mean(0)).square(), is_pad)

    def draw(
        self, condition: Condition, generator: torch.Generator | None
    ) -> Float[Tensor, "b k m"]:
        """Return the one chunk."""
        del generator
        return self.chunk(condition.z).view(-1, self.sizes.chunk, len(self.motion))


def refuse_tokens(sizes: Sizes) -> None:
    """Raise ConfigError where a condition has tokens that the head would ignore."""
    if sizes.tokens:
        raise ConfigError("this head attends to no tokens; condition on z, or use the flow head")
