"""Fine-tuning of a vision-language-action model on demonstrations, as an objective.

What is new (a projector, an adapter, a branch) learns from the first step; low-rank adapters may
wait until that has found its place (``warm_up``), or the first, wild steps of new weights would
move what the language model knows. All else stays as it is, which ``frozen_digest`` proves.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tyro.conf import AvoidSubcommands

from saccade.checkpoint import CARD, save_model, write_atomic
from saccade.config import Config, to_dict
from saccade.errors import CheckpointError, ConfigError
from saccade.models.frozen import digest_of, leave_out
from saccade.models.lora import NAME, adapters, merged_state, write_lora
from saccade.types import Clip, Objective, Observation, Policy, Preprocessing
from saccade.vla.policy import PARTS, AdaptConfig, Part, VlaPolicy, about, digest

ADAPTERS = "adapters"


@dataclass(frozen=True, kw_only=True)
class PretrainedVlaConfig(Config[VlaPolicy]):
    """``folder`` is what ``saccade vla swap`` or a fine-tuning has left."""

    folder: Path

    def build(self) -> VlaPolicy:
        """Load the policy.

        Raises:
            CheckpointError: the folder holds another kind of policy, or a damaged one.
        """
        policy = Policy.from_pretrained(self.folder)
        if not isinstance(policy, VlaPolicy):
            raise CheckpointError(
                f"{self.folder} holds a {type(policy).__name__}, no vision-language-action model; "
                "make one with saccade vla swap"
            )
        return policy


@dataclass(frozen=True, kw_only=True)
class VlaImitationConfig(Config["VlaImitation"]):
    """What is fine-tuned, and how much of it.

    Args:
        policy: a published model, or one that ``saccade vla swap`` has left.
        learn: parts that learn in full; ``new`` are those that the swap has made, ``all`` all.
        adapt: low-rank adapters; none where all learns.
        warm_up: steps before adapters begin to move, where anything else learns.
    """

    policy: Config[VlaPolicy]
    learn: tuple[Part, ...] | Literal["new", "all"] = "new"
    adapt: AvoidSubcommands[AdaptConfig | None] = field(default_factory=AdaptConfig)
    warm_up: int = 0

    def build(self) -> "VlaImitation":
        """Load or construct the policy, and put the adapters in.

        Raises:
            ConfigError: nothing would be trained, or something that is not there.
        """
        return VlaImitation(self)


class VlaImitation(Objective):
    """Training of a vision-language-action model."""

    step: Tensor
    sees_target = frozenset({"answer"})

    def __init__(self, config: VlaImitationConfig) -> None:
        super().__init__()
        self.config = config
        self.policy = config.policy.build()
        own, adapt = self.policy.parts(), config.adapt
        self.size = sum(p.numel() for p in self.policy.parameters())
        rounded = adapt.parts if adapt is not None and adapt.four_bit else ()
        self.whole = {part: digest(own[part]) for part in rounded if own.get(part)}
        learn: tuple[Part, ...] = ()
        if config.learn == "all":
            learn = tuple(part for part in PARTS if own.get(part))
        elif config.learn == "new":
            learn = self.policy.new_parts()
        else:
            learn = config.learn
        self.adapted = self.policy.learn(learn, config.adapt)
        if not any(p.requires_grad for p in self.policy.parameters()):
            raise ConfigError(
                "nothing would be trained: no part is new and there are no adapters; set "
                "objective.learn or objective.adapt"
            )
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        if config.warm_up and learn:  # else there is nothing to wait for
            for layer in adapters(self.policy).values():
                layer.lora_B[NAME].register_forward_hook(self._later)
        if getattr(config.policy, "folder", None) is not None:  # which still has what is frozen
            leave_out(self, [f"policy.{name}" for name in kept(self.policy)])

    def _later(self, module: nn.Module, inputs: tuple[Tensor, ...], answer: Tensor) -> Tensor:
        """Let no gradient into an adapter before its time.

        A hook of its weights would be lost where they are sharded, which makes new ones.
        """
        del module, inputs
        return torch.where(self.step >= self.config.warm_up, answer, answer.detach())

    def after_step(self, step: int) -> None:
        """Count the steps, for the adapters that wait."""
        self.step.fill_(step)

    def terms(self, clip: Clip) -> Mapping[str, Float[Tensor, ""]]:
        """Return the policy's losses; their sum is the loss."""
        return self.policy.losses(clip)

    def forward(self, clip: Clip) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Return the loss, and on held-out clips what else is worth knowing."""
        loss, scalars = super().forward(clip)
        if not self.training:
            scalars |= self.policy.scores(clip)
        return loss, scalars

    def reads(self) -> Preprocessing:
        """Return what frames the policy is given."""
        return self.policy.preprocessing

    def digests(self) -> dict[str, str]:
        """Return the sha256 of the weights of each part; of those in 4 bits, before rounding."""
        return self.policy.digests() | self.whole

    def frozen_digest(self) -> str:
        """Return the sha256 of all that is not trained."""
        return digest_of(self, [f"policy.{name}" for name in kept(self.policy)])

    def save_exports(self, folder: Path, card: str = "", step: int = 0) -> dict[str, Path]:
        """Write the policy with its adapters added, and the adapters alone, in peft's files."""
        policy, adapt = self.policy, self.config.adapt
        place = folder / "policy"
        record = {"contract": to_dict(policy.contract), "digest": policy.contract.digest()}
        save_model(place, policy, policy.config, record, card, weights=merged_state(policy))
        exports = {"policy": place}
        if adapt is not None and self.adapted:
            found = {
                name: value.detach().cpu().contiguous()
                for name, value in policy.state_dict().items()
                if ".lora_A." in name or ".lora_B." in name
            }
            named = {_file_name(name): value for name, value in found.items()}
            config = replace(adapt.lora, targets=tuple(sorted(_mapped(found))))
            base = self.frozen_digest()[:16]
            write_lora(folder / ADAPTERS, named, config, base, {"step": step})
            write_atomic(folder / ADAPTERS / CARD, f"{card}\n{about(adapt)}\n")
            exports[ADAPTERS] = folder / ADAPTERS
        return exports

    def inputs(self, clip: Clip) -> Mapping[str, Tensor]:
        """Return what the language model is shown before it answers."""
        return self.policy.shown(clip)

    def without_target(self, clip: Clip) -> Clip:
        """Turn every command into another."""
        action = -clip["action"]
        for axis, name in enumerate(self.policy.config.action_names):
            if name.lower().endswith("gripper"):
                action[..., axis] = 1 - clip["action"][..., axis]
        return {**clip, "action": action}

    def baselines(self, clip: Clip) -> Mapping[str, Float[Tensor, ""]]:
        """Return the loss without seeing, and when shown or told what belongs to others."""
        seen = self.policy.observe(clip)
        texts = list(seen["text"])
        kinds = list(dict.fromkeys(texts))
        others = [kinds[(kinds.index(text) + 1) % len(kinds)] for text in texts]
        elsewhere: Observation = {
            "video": seen["video"].roll(1, 0),
            "state": seen["state"].roll(1, 0),
            "text": [*texts[-1:], *texts[:-1]],
        }
        return {
            "mean_action": self.policy.floors(clip),
            "other_observations": self._loss(clip, elsewhere),
            "other_instruction": self._loss(clip, {**seen, "text": others}),
        }

    def _loss(self, clip: Clip, seen: Observation) -> Float[Tensor, ""]:
        return torch.stack(list(self.policy.losses(clip, seen).values())).sum()


def kept(policy: nn.Module, name: str = "") -> list[str]:
    """Name the largest submodules of which nothing learns."""
    if not any(True for _ in policy.parameters()):
        return []
    if name and not any(p.requires_grad for p in policy.parameters()):
        return [name]
    return [
        found
        for child, module in policy.named_children()
        for found in kept(module, f"{name}.{child}" if name else child)
    ]


def _file_name(name: str) -> str:
    return "base_model.model." + name.replace(".default.", ".")


def _mapped(names: Mapping[str, Tensor]) -> set[str]:
    return {name.partition(".lora_")[0] for name in names}
