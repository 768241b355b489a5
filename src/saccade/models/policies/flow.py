"""Flow matching: commands are what is left when noise has been carried away.

On the straight path ``x_s = (1 - s) x0 + s e`` from commands ``x0`` (level s = 0) to noise ``e``
(s = 1) the velocity is ``e - x0``; a network learns its mean given ``x_s`` (arXiv 2210.02747).
Drawing starts at noise and follows the velocity back: ``x <- x - v / N`` in N steps of Euler, from
the levels 1, 1 - 1/N, .. 1/N; Heun averages the velocities at both ends of a step.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import lcm
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from saccade.errors import ConfigError
from saccade.models.policies.head import Condition, Head, HeadConfig, Sizes, counted, normal
from saccade.models.policies.velocity import (
    Backbone,
    SequenceVelocity,
    TransformerStack,
    UNetVelocity,
)
from saccade.nn.mamba import MambaStack
from saccade.nn.noise import uniform

Sampler = Literal["euler", "heun"]
NOISE, LEVEL = 1, 2  # streams of random numbers


@dataclass(frozen=True, kw_only=True)
class FlowHeadConfig(HeadConfig):
    """The defaults are those of StateVLA's phase 2: 2,529,809 parameters.

    2,395,654 of the velocity, 134,154 of grippers, and one gain. (The original has one weight too,
    of a correction that is switched off.)

    Args:
        backbone: what mixes the sequence; see ``velocity.py``.
        dim: its width.
        depth: its layers, or levels of the U-Net.
        state: of Mamba.
        conv: kernel of Mamba's convolution.
        expand: of Mamba.
        hidden: of the gated MLP after each of Mamba's mixers; 0: there is none.
        heads: of attention.
        levels: how noise levels are drawn: evenly, or as the logistic of a normal number, which
            prefers the middle.
        sampler: how the velocity is followed.
        steps: in how many steps.
    """

    backbone: Backbone = "mamba"
    dim: int = 256
    depth: int = 3
    state: int = 64
    conv: int = 4
    expand: int = 2
    hidden: int = 256
    heads: int = 4
    levels: Literal["uniform", "logit_normal"] = "uniform"
    sampler: Sampler = "euler"
    steps: int = 4

    def build(self, sizes: Sizes) -> "FlowHead":
        """Construct the head with fresh weights.

        Raises:
            ConfigError: no steps, a width that does not divide, or a backbone that cannot attend
                to tokens.
        """
        attends = self.backbone == "transformer" or sizes.tokens
        unit = 8 if self.backbone == "unet1d" else lcm(2, self.heads) if attends else 2
        if self.dim < 1 or self.dim % unit or self.depth < 1:
            raise ConfigError(
                f"dim is {self.dim} and depth {self.depth}; a {self.backbone} of this kind has at "
                f"least one layer, and a width that is a multiple of {unit}"
            )
        return FlowHead(self, sizes)


class FlowHead(Head):
    """A velocity field; ``sampler`` and ``steps`` may be changed after training.

    ``gain`` is how loud the condition is to the motion. It begins at 1; one that training leaves
    near 0 belongs to a policy that does not look.
    """

    def __init__(self, config: FlowHeadConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes, config.dim)
        check_steps(config.steps)
        self.config, self.steps = config, config.steps
        self.sampler: Sampler = config.sampler
        motion = len(self.motion)
        if config.backbone == "unet1d":
            self.velocity = UNetVelocity(sizes, motion, config.dim, config.depth)
        else:
            stack = (
                TransformerStack(config.dim, config.depth, config.heads)
                if config.backbone == "transformer"
                else MambaStack(
                    config.dim,
                    config.depth,
                    state=config.state,
                    conv=config.conv,
                    expand=config.expand,
                    hidden=config.hidden,
                )
            )
            self.velocity = SequenceVelocity(sizes, motion, stack, config.dim, config.heads)
        self.gain = nn.Parameter(torch.ones(()))

    def heard(self, condition: Condition) -> Condition:
        """Return the condition as loud as motion hears it."""
        return condition._replace(z=self.gain * condition.z)

    def path(
        self, motion: Float[Tensor, "b k m"], key: Int64[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b k m"], Float[Tensor, " b"], Float[Tensor, "b k m"]]:
        """Draw a point on the path of each sample: where it is, its level, and its velocity."""
        noise = normal(key, motion[0].numel(), NOISE).view_as(motion)
        if self.config.levels == "uniform":
            level = uniform(key, 1, LEVEL)[:, 0]
        else:
            level = normal(key, 1, LEVEL)[:, 0].sigmoid()
        return torch.lerp(motion, noise, level[:, None, None]), level, noise - motion

    def motion_loss(
        self,
        condition: Condition,
        motion: Float[Tensor, "b k m"],
        is_pad: Bool[Tensor, "b k"],
        key: Int64[Tensor, " b"],
    ) -> Float[Tensor, ""]:
        """Return the mean squared error of the velocity."""
        x, level, velocity = self.path(motion, key)
        predicted = self.velocity(x, level, self.heard(condition))
        return counted((predicted.float() - velocity).square(), is_pad)

    def motion_floor(
        self,
        motion: Float[Tensor, "b k m"],
        is_pad: Bool[Tensor, "b k"],
        key: Int64[Tensor, " b"],
    ) -> Float[Tensor, ""]:
        """Return the error of the best velocity where commands are independent N(0, 1)."""
        x, level, velocity = self.path(motion, key)
        level = level[:, None, None]
        best = x * (2 * level - 1) / ((1 - level).square() + level.square())
        return counted((best - velocity).square(), is_pad)

    def draw(
        self, condition: Condition, generator: torch.Generator | None
    ) -> Float[Tensor, "b k m"]:
        """Carry noise back along the velocity."""
        z, heard = condition.z, self.heard(condition)
        shape = (len(z), self.sizes.chunk, len(self.motion))
        noise = standard_normal(shape, z.device, generator)

        def velocity(x: Tensor, level: float) -> Tensor:
            return self.velocity(x, x.new_full((len(x),), level), heard).float()

        return integrate(velocity, noise, self.steps, self.sampler)

    def noised(
        self, action: Float[Tensor, "b k a"], key: Int64[Tensor, " b"]
    ) -> Mapping[str, Tensor]:
        """Return the noisy commands, which hold their target by construction."""
        return {"noised": self.path(action[..., self.motion], key)[0]}


def integrate(
    velocity: Callable[[Tensor, float], Tensor],
    noise: Float[Tensor, "*b"],
    steps: int,
    sampler: Sampler = "euler",
) -> Float[Tensor, "*b"]:
    """Follow a velocity from level 1 to level 0.

    Raises:
        ConfigError: there are no steps.
    """
    check_steps(steps)
    x = noise
    for step in range(steps):
        v = velocity(x, 1 - step / steps)
        if sampler == "heun":
            ahead = velocity(x - v / steps, 1 - (step + 1) / steps)
            v = (v + ahead) / 2
        x = x - v / steps
    return x


def check_steps(steps: int) -> None:
    """Raise ConfigError where noise would be left as it is."""
    if steps < 1:
        raise ConfigError(f"steps is {steps}; noise becomes commands in at least 1 step")


def standard_normal(
    shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None
) -> Tensor:
    """Draw where the generator lives, so that a seed means the same on any device."""
    at = device if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=at).to(device)
