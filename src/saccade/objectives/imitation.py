"""Imitation: the loss of any policy on what demonstrators did.

The loss is the policy's own (``models/policies``); here are its floors. ``mean_action`` is the
loss of a policy that knows how actions are spread and sees nothing; with ``other_observations`` the
policy is shown what other samples saw, with ``other_instruction`` it is told what others were told:
where these are no higher than the loss, the policy acts without looking, or without listening.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from saccade.config import Config
from saccade.models.frozen import leave_out
from saccade.models.policies.policy import ImitationPolicy
from saccade.types import Clip, Objective, Observation, Preprocessing


@dataclass(frozen=True, kw_only=True)
class ImitationConfig(Config["Imitation"]):
    """``policy`` is what is trained, but for the parts that it keeps frozen."""

    policy: Config[ImitationPolicy]

    def build(self) -> "Imitation":
        """Construct the policy."""
        return Imitation(self)


class Imitation(Objective):
    """Training of a policy."""

    sees_target = frozenset({"noised"})

    def __init__(self, config: ImitationConfig) -> None:
        super().__init__()
        self.config = config
        self.policy = config.policy.build()
        if self.policy.condition.kept_elsewhere:
            leave_out(self, [f"policy.condition.{c}" for c in self.policy.condition.frozen])

    def terms(self, clip: Clip) -> Mapping[str, Float[Tensor, ""]]:
        """Return the policy's losses; their sum is the action loss."""
        return self.policy.losses(clip)

    def reads(self) -> Preprocessing:
        """Return what frames the policy reads."""
        return self.policy.condition.preprocessing

    def frozen_digest(self) -> str:
        """Return the sha256 of all that is not trained; training leaves it as it is."""
        return self.policy.condition.frozen_digest()

    def save_exports(self, folder: Path, card: str = "", step: int = 0) -> dict[str, Path]:
        """Write the policy, with all the weights that it needs."""
        del step
        self.policy.save_pretrained(folder / "policy", self.policy.config, card)
        return {"policy": folder / "policy"}

    def inputs(self, clip: Clip) -> Mapping[str, Tensor]:
        """Return what the head is told, and the noisy commands that a flow is shown."""
        policy, target = self.policy, self.policy.target(clip)
        condition = policy.told(policy.observe(clip))
        seen = {"condition": condition.z, **policy.head.noised(target.action, target.key)}
        return seen if condition.tokens is None else {**seen, "tokens": condition.tokens}

    def without_target(self, clip: Clip) -> Clip:
        """Turn every command into its opposite, and change all that is sensed at a goal."""
        action = -clip["action"]
        for axis in self.policy.grippers:
            action[..., axis] = 1 - clip["action"][..., axis]
        blind: Clip = {**clip, "action": action}
        history = self.policy.config.history
        if clip["video"].shape[1] > history:
            video = clip["video"].clone()
            video[:, history:] = 255 - video[:, history:]
            state = clip["state"].clone()
            state[:, history:] = -1 - state[:, history:]
            blind["video"], blind["state"] = video, state
        return blind

    def baselines(self, clip: Clip) -> Mapping[str, Float[Tensor, ""]]:
        """Return the loss without seeing, and when shown or told what belongs to others."""
        seen = self.policy.observe(clip)
        others = Observation(
            video=seen["video"].roll(1, 0),
            state=seen["state"].roll(1, 0),
            text=[*seen["text"][-1:], *seen["text"][:-1]],
        )
        told: Observation = {**seen, "text": other_texts(seen["text"])}
        return {
            "mean_action": self.policy.floors(clip),
            "other_observations": self.loss_when_shown(clip, others),
            "other_instruction": self.loss_when_shown(clip, told),
        }

    def loss_when_shown(self, clip: Clip, observation: Observation) -> Float[Tensor, ""]:
        """Return the loss of the clip's commands after another observation."""
        return torch.stack(list(self.policy.losses(clip, observation).values())).sum()


def other_texts(texts: Sequence[str]) -> list[str]:
    """Give each sample the next other instruction of the batch; the same, if there is only one."""
    kinds = list(dict.fromkeys(texts))
    return [kinds[(kinds.index(text) + 1) % len(kinds)] for text in texts]
