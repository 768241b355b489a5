"""A policy that imitates: an observation becomes a condition, and a head draws commands from it.

Outside, commands are in the units of the data and a gripper is 1 open, 0 closed. Inside, axes of
motion have zero mean and unit deviation over the training data (or stay as recorded) and a gripper
is -1 open, +1 closed. The statistics are buffers: they travel with the weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from saccade.config import Config
from saccade.errors import ConfigError
from saccade.models.policies.conditions import Conditioner
from saccade.models.policies.flow import FlowHeadConfig
from saccade.models.policies.head import Condition, HeadConfig, Sizes
from saccade.models.policies.mixture import MixtureHeadConfig
from saccade.nn.noise import hash64
from saccade.types import Clip, Observation, Policy

LIBERO_ACTIONS = ("x", "y", "z", "rx", "ry", "rz", "gripper")
SMALLEST_STD = 1e-6
THUMBNAIL = 16  # pixels, of ``deploy/appearance.py``


@dataclass(frozen=True, kw_only=True)
class ImitationPolicyConfig(Config["ImitationPolicy"]):
    """What a policy sees and how it answers.

    Args:
        condition: from observations to what the head is told.
        head: how commands are drawn.
        action_names: axes of a command; those whose name ends in ``gripper`` are grippers.
        chunk: commands of an answer.
        history: moments of an observation, now included.
        actions: ``standardised`` motion, or as ``recorded``, for heads bound to [-1, 1] and
            commands that a controller takes in [-1, 1].
        supervise: learn from the ``last`` moment, or from ``every`` one, for which clips must hold
            the commands since the oldest (``ChunkWindow(past_actions=True)``).
        goal_weight: of the goal's loss, where the condition predicts one.
    """

    condition: Config[Conditioner]
    head: HeadConfig = field(default_factory=FlowHeadConfig)
    action_names: tuple[str, ...] = LIBERO_ACTIONS
    chunk: int = 10
    history: int = 1
    actions: Literal["standardised", "recorded"] = "standardised"
    supervise: Literal["last", "every"] = "last"
    goal_weight: float = 1.0

    def build(self) -> "ImitationPolicy":
        """Build condition and head.

        Raises:
            ConfigError: fields that contradict each other.
        """
        if self.chunk < 1 or self.history < 1 or not self.action_names:
            raise ConfigError(
                f"chunk is {self.chunk}, history {self.history} and action_names "
                f"{list(self.action_names)}; a policy answers at least one moment with one command"
            )
        bound = isinstance(self.head, MixtureHeadConfig) and self.head.squash
        if bound and self.actions == "standardised":
            raise ConfigError(
                "a mixture whose means are squashed into [-1, 1] cannot reach standardised "
                "actions; set actions to recorded, or squash to false"
            )
        return ImitationPolicy(self)


class Target(NamedTuple):
    """What is imitated, in network units."""

    action: Float[Tensor, "b k a"]
    is_pad: Bool[Tensor, "b k"]
    key: Int64[Tensor, " b"]


class ImitationPolicy(Policy):
    """A condition and a head; ``config`` rebuilds it from a folder that holds all its weights."""

    action_mean: Tensor
    action_std: Tensor
    reference: Tensor  # what each camera saw in training, on average and in small; NaN: not told

    def __init__(self, config: ImitationPolicyConfig) -> None:
        super().__init__()
        self.condition = config.condition.build()
        self.config = replace(config, condition=self.condition.config)
        names = config.action_names
        self.grippers = tuple(i for i, n in enumerate(names) if n.lower().endswith("gripper"))
        self.motion = tuple(i for i in range(len(names)) if i not in self.grippers)
        self.head = config.head.build(
            Sizes(
                condition=self.condition.dim,
                tokens=self.condition.token_dim,
                actions=len(names),
                grippers=self.grippers,
                chunk=config.chunk,
            )
        )
        unknown = torch.nan if config.actions == "standardised" else 0.0
        mean, std = torch.zeros(len(names)), torch.ones(len(names))
        mean[list(self.motion)] += unknown
        self.register_buffer("action_mean", mean)
        self.register_buffer("action_std", std)
        small = (self.condition.cameras, 3, THUMBNAIL, THUMBNAIL)
        self.register_buffer("reference", torch.full(small, torch.nan))
        self._known = False

    def set_statistics(
        self,
        action_mean: Float[Tensor, " a"],
        action_std: Float[Tensor, " a"],
        state_mean: Float[Tensor, " s"] | None = None,
        state_std: Float[Tensor, " s"] | None = None,
    ) -> None:
        """Keep mean and deviation of the training data; grippers, and recorded actions, need none.

        Raises:
            ConfigError: they are of other axes, or the condition needs those of states too.
        """
        names = self.config.action_names
        if not len(action_mean) == len(action_std) == len(names):
            raise ConfigError(
                f"statistics are of {len(action_mean)} and {len(action_std)} axes, the policy "
                f"commands {len(names)} ({', '.join(names)})"
            )
        if self.config.actions == "standardised":
            axes = list(self.motion)
            self.action_mean[axes] = action_mean.to(self.action_mean)[axes]
            self.action_std[axes] = action_std.to(self.action_std)[axes].clamp_min(SMALLEST_STD)
        if state_mean is not None and state_std is not None:
            self.condition.set_statistics(state_mean, state_std)
        elif self.condition.standardises:
            raise ConfigError(
                f"a {type(self.condition).__name__} standardises states; give state_mean and "
                "state_std of the training data"
            )

    def normalise(self, action: Float[Tensor, "*b a"]) -> Float[Tensor, "*b a"]:
        """Go from the units of the data to those of the network.

        Raises:
            ConfigError: there are no statistics yet, or the commands have other axes.
        """
        self._require_known()
        if action.shape[-1] != len(self.config.action_names):
            raise ConfigError(
                f"the clip has commands of {action.shape[-1]} axes, the policy those named "
                f"{', '.join(self.config.action_names)}; set action_names"
            )
        inside = (action - self.action_mean) / self.action_std
        inside[..., self.grippers] = 1 - 2 * action[..., self.grippers]
        return inside

    def denormalise(self, inside: Float[Tensor, "*b a"]) -> Float[Tensor, "*b a"]:
        """Go back, to the units of the data."""
        self._require_known()
        action = inside * self.action_std + self.action_mean
        action[..., self.grippers] = (1 - inside[..., self.grippers]) / 2
        return action

    def losses(
        self, clip: Clip, observation: Observation | None = None
    ) -> Mapping[str, Float[Tensor, ""]]:
        """Return the named parts of the loss, already weighted.

        ``observation`` is what the policy is shown in place of the clip's, by controls.

        Raises:
            ConfigError: the clip has other moments, axes or commands than the policy.
        """
        seen = self.observe(clip) if observation is None else observation
        condition, target = self.told(seen), self.target(clip)
        terms = self.head.losses(condition, target.action, target.is_pad, target.key)
        if condition.goal is not None:
            loss = self.condition.goal_loss(condition, self.later(clip))
            terms["goal_loss"] = self.config.goal_weight * loss
        return terms

    def floors(self, clip: Clip) -> Float[Tensor, ""]:
        """Return the loss of a policy that knows how actions are spread, and sees nothing."""
        target = self.target(clip)
        loss = self.head.floors(target.action, target.is_pad, target.key)
        condition = self.told(self.observe(clip))
        if condition.goal is not None:
            still = self.condition.goal_floor(condition, self.later(clip))
            loss = loss + self.config.goal_weight * still
        return loss

    @torch.no_grad()
    def act(
        self, observation: Observation, generator: torch.Generator | None = None
    ) -> Float[Tensor, "b k a"]:
        """Return the next commands; grippers are exactly 0 or 1, nothing is clipped."""
        return self.denormalise(self.head.sample(self.condition(observation), generator))

    def told(self, observation: Observation) -> Condition:
        """Return the condition, one row for each moment that is learned from."""
        if self.config.supervise == "last":
            return self.condition(observation)
        return Condition(self.condition.every(observation).flatten(0, 1))

    def observe(self, clip: Clip) -> Observation:
        """Return what the policy sees of a batch.

        Raises:
            ConfigError: the clip has not the policy's history.
        """
        history, found = self.config.history, clip["video"].shape[1]
        has_goal = getattr(self.condition, "goal", None) is not None
        if found != history + has_goal:
            extra = " and a later one, the goal's: use TransitionWindow" if has_goal else ""
            raise ConfigError(
                f"the clip shows {found} moments, the policy was built for a history of "
                f"{history}{extra}"
            )
        text = clip["text"]
        assert not isinstance(text, str), "a batch has a list of texts"
        return Observation(
            video=clip["video"][:, :history], state=clip["state"][:, :history], text=text
        )

    def later(self, clip: Clip) -> Observation:
        """Return the last moment of a batch, whose state is the goal."""
        text = clip["text"]
        assert not isinstance(text, str), "a batch has a list of texts"
        return Observation(video=clip["video"][:, -1:], state=clip["state"][:, -1:], text=text)

    def target(self, clip: Clip) -> Target:
        """Return the commands to imitate, a row for each moment that is learned from.

        Raises:
            ConfigError: there are other commands than ``chunk``, or those since the oldest moment.
        """
        chunk, history, found = self.config.chunk, self.config.history, clip["action"].shape[1]
        past, rest = divmod(found - chunk, max(history - 1, 1))
        every = self.config.supervise == "every"
        if found < chunk or rest or (past and history == 1) or (every and history > 1 and not past):
            wanted = "those since the oldest moment (past_actions) and " if every else ""
            raise ConfigError(
                f"the clip has {found} commands, the policy learns {wanted}a chunk of {chunk}; "
                "make the window's chunk and the policy's the same"
            )
        if not every:
            return Target(
                self.normalise(clip["action"][:, -chunk:]), clip["is_pad"][:, -chunk:], clip["key"]
            )
        stride = max(past, 1)
        action = self.normalise(clip["action"]).unfold(1, chunk, stride)
        return Target(
            rearrange(action, "b t a k -> (b t) k a"),
            rearrange(clip["is_pad"].unfold(1, chunk, stride), "b t k -> (b t) k"),
            hash64(clip["key"][:, None] + torch.arange(history, device=action.device)).flatten(),
        )

    def appearance(self) -> Mapping[str, Float[Tensor, "3 i j"]]:
        """Return the thumbnail of each camera, if training has left them."""
        if not bool(self.reference.isfinite().all()):
            return {}
        return dict(zip(self.contract.cameras, self.reference.cpu(), strict=True))

    def save_pretrained(self, folder: Path, config: Config[Policy], card: str = "") -> None:
        """Write a folder that needs no other, whatever folders ``config`` names.

        Raises:
            ConfigError: training has set no contract.
        """
        del config  # of the same policy; ``self.config`` names no folder
        if not hasattr(self, "contract"):
            raise ConfigError(
                "the policy has no contract, so nobody could tell what it must be shown; set "
                "policy.contract before it is saved"
            )
        super().save_pretrained(folder, self.config, card)

    def _require_known(self) -> None:
        if not self._known:
            self._known = bool(self.action_mean.isfinite().all())
        if not self._known:
            raise ConfigError(
                "the policy does not know how actions are spread; call set_statistics with the "
                "training data's mean and deviation"
            )
