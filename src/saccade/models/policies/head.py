"""What every head of a policy holds to: network units in, network units out.

In network units an axis of motion is what the policy's statistics make of it, and a gripper is
-1 open, +1 closed. Losses count each recorded command the same and each padded one as nothing:
they are sums over the recorded commands, divided by the number of all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from saccade.nn.noise import uniform

Gripper = Literal["classifier", "unified"]


class Condition(NamedTuple):
    """What a head is told of an observation."""

    z: Float[Tensor, "b d"]
    tokens: Float[Tensor, "b l e"] | None = None  # to attend to, where the head was built for them
    goal: Float[Tensor, "b _"] | None = None  # a prediction that has a loss of its own


class Sizes(NamedTuple):
    """What a head must know of the policy that it is part of."""

    condition: int  # width of ``Condition.z``
    tokens: int  # width of ``Condition.tokens``, 0: there are none
    actions: int
    grippers: tuple[int, ...]  # axes of the action that are grippers
    chunk: int


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Base of the configs of heads; a policy builds its head, for it knows the sizes.

    Args:
        gripper: ``classifier`` decides between open and closed beside the rest of the head;
            ``unified`` leaves grippers to the head, as axes like any other.
        gripper_weight: of the classifier's loss.
    """

    gripper: Gripper = "classifier"
    gripper_weight: float = 1.0

    def build(self, sizes: Sizes) -> "Head":
        """Construct the head with fresh weights."""
        raise NotImplementedError


class Head(nn.Module):
    """Draws chunks of commands. A kind of head says how motion is learned and drawn."""

    def __init__(self, config: HeadConfig, sizes: Sizes, width: int) -> None:
        super().__init__()
        apart = sizes.grippers if config.gripper == "classifier" else ()
        self.sizes, self.apart, self.gripper_weight = sizes, apart, config.gripper_weight
        self.motion = tuple(i for i in range(sizes.actions) if i not in apart)
        count = sizes.chunk * len(apart)
        self.gripper = mlp(sizes.condition, width, count, hidden=2) if apart else None

    def losses(
        self,
        condition: Condition,
        action: Float[Tensor, "b k a"],
        is_pad: Bool[Tensor, "b k"],
        key: Int64[Tensor, " b"],
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the named, weighted parts of the loss; random numbers come from the key."""
        name = "pos_rot_loss" if self.apart else "action_loss"
        terms = {name: self.motion_loss(condition, action[..., self.motion], is_pad, key)}
        if self.gripper is not None:
            logits = self.gripper(condition.z).float().view(len(action), -1, len(self.apart))
            terms["gripper_loss"] = self.gripper_weight * self.decided(logits, action, is_pad)
        return terms

    def floors(
        self,
        action: Float[Tensor, "b k a"],
        is_pad: Bool[Tensor, "b k"],
        key: Int64[Tensor, " b"],
    ) -> Float[Tensor, ""]:
        """Return the loss of a head that knows how actions are spread, and sees nothing."""
        loss = self.motion_floor(action[..., self.motion], is_pad, key)
        if self.apart:
            seen = ~is_pad[..., None]
            closed = ((action[..., self.apart] > 0) & seen).sum((0, 1)) / seen.sum()
            logits = torch.logit(closed, eps=1e-6).expand_as(action[..., self.apart])
            loss = loss + self.gripper_weight * self.decided(logits, action, is_pad)
        return loss

    def decided(
        self,
        logits: Float[Tensor, "b k g"],
        action: Float[Tensor, "b k a"],
        is_pad: Bool[Tensor, "b k"],
    ) -> Float[Tensor, ""]:
        """Return the binary cross-entropy of closed grippers."""
        closed = (action[..., self.apart] > 0).to(logits.dtype)
        return counted(F.binary_cross_entropy_with_logits(logits, closed, reduction="none"), is_pad)

    def sample(
        self, condition: Condition, generator: torch.Generator | None = None
    ) -> Float[Tensor, "b k a"]:
        """Draw a chunk; grippers are exactly -1 or +1."""
        batch, sizes = len(condition.z), self.sizes
        action = condition.z.new_zeros(batch, sizes.chunk, sizes.actions, dtype=torch.float32)
        action[..., self.motion] = self.draw(condition, generator).float()
        if self.gripper is not None:
            logits = self.gripper(condition.z).float()
            action[..., self.apart] = logits.view(batch, sizes.chunk, len(self.apart))
        grippers = action[..., sizes.grippers]
        action[..., sizes.grippers] = torch.where(grippers > 0, 1.0, -1.0)
        return action

    def motion_loss(
        self,
        condition: Condition,
        motion: Float[Tensor, "b k m"],
        is_pad: Bool[Tensor, "b k"],
        key: Int64[Tensor, " b"],
    ) -> Float[Tensor, ""]:
        """Return the loss of all axes that the classifier leaves."""
        raise NotImplementedError

    def motion_floor(
        self,
        motion: Float[Tensor, "b k m"],
        is_pad: Bool[Tensor, "b k"],
        key: Int64[Tensor, " b"],
    ) -> Float[Tensor, ""]:
        """Return the same loss of a head that sees nothing."""
        raise NotImplementedError

    def draw(
        self, condition: Condition, generator: torch.Generator | None
    ) -> Float[Tensor, "b k m"]:
        """Draw all axes that the classifier leaves."""
        raise NotImplementedError

    def noised(
        self, action: Float[Tensor, "b k a"], key: Int64[Tensor, " b"]
    ) -> Mapping[str, Tensor]:
        """Return what else of the actions the head is shown in training. Default: nothing."""
        del action, key
        return {}


def counted(errors: Float[Tensor, "b k m"], is_pad: Bool[Tensor, "b k"]) -> Float[Tensor, ""]:
    """Average over axes and commands; padded commands count as 0.

    The divisor does not depend on the padding, so that means over slices of a batch add up.
    """
    return errors.mean(-1).masked_fill(is_pad, 0.0).mean()


def mlp(inputs: int, width: int, outputs: int, hidden: int = 1) -> nn.Sequential:
    """Stack linear maps with SiLU in between."""
    sizes = [inputs] + [width] * hidden
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


def normal(key: Int64[Tensor, " b"], count: int, stream: int) -> Float[Tensor, "b n"]:
    """Draw ``count`` standard normal numbers for each key; they belong to the sample."""
    middle = uniform(key, count, stream).double() + 2.0**-25  # never 0 or 1
    return torch.special.ndtri(middle).float()
