"""What the two families of models share: eyes that can be exchanged, and parts that may learn.

A part is named by what it does, not by where a network keeps it: ``towers`` (published ones),
``encoder`` (ours), ``adapter`` (the linear map after ours), ``projector``, ``branch`` (the map of
one more encoder), ``language``, ``head``. Training
names the parts that learn in full and those that get low-rank adapters; everything else stays as
it is, which ``digests`` proves.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saccade.config import Config
from saccade.errors import ConfigError
from saccade.models.four_bit import keep_in_four_bits
from saccade.models.lora import ALL_LINEAR, LoraConfig, add_lora, is_adapter
from saccade.models.policies.policy import THUMBNAIL
from saccade.types import Clip, Observation, Policy, Preprocessing
from saccade.vla.eyes import Eyes
from saccade.vla.towers import EncoderTower, PublishedTower

Part = Literal["towers", "encoder", "adapter", "projector", "branch", "language", "head"]
PARTS: tuple[Part, ...] = (
    *("towers", "encoder", "adapter", "projector", "branch"),
    *("language", "head"),
)


OPENVLA_LORA = LoraConfig(
    rank=32, alpha=16.0, rslora=False, dropout=0.0, targets=(ALL_LINEAR,), start="gaussian"
)


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """Low-rank adapters of some parts.

    Args:
        parts: which get them, in every linear map but the language model's last.
        lora: their size; what OpenVLA's authors use.
        four_bit: keep these parts' own weights in 4 bits, for a card that is too small for them;
            they are rounded, and so is what is saved.
    """

    parts: tuple[Part, ...] = ("language",)
    lora: LoraConfig = OPENVLA_LORA
    four_bit: bool = False


class VlaPolicy(Policy):
    """A vision-language-action model. Subclasses set ``eyes`` and say where their parts are."""

    config: Any  # rebuilds it, to be filled from weights alone
    eyes: Eyes
    preprocessing: Preprocessing  # of the frames that it is given
    cameras: int
    state_size: int  # 0: it does not look at the state
    reference: Tensor  # what each camera saw in training, on average and in small; NaN: not told

    def remember(self, cameras: int) -> None:
        """Make room for the thumbnails of this many cameras."""
        self.cameras = cameras
        small = (cameras, 3, THUMBNAIL, THUMBNAIL)
        self.register_buffer("reference", torch.full(small, torch.nan))

    def parts(self) -> dict[Part, list[nn.Module]]:
        """Return the modules of each part. Subclasses add ``language`` and ``head``."""
        towers = [*self.eyes.towers]
        found: dict[Part, list[nn.Module]] = {"projector": [self.eyes.projector], "branch": []}
        if self.eyes.branch is not None:
            towers.append(self.eyes.branch.tower)
            found["branch"] = [self.eyes.branch.map]
        ours = [tower for tower in towers if isinstance(tower, EncoderTower)]
        found["towers"] = [tower for tower in towers if not isinstance(tower, EncoderTower)]
        found["encoder"] = [tower.encoder for tower in ours]
        found["adapter"] = [tower.adapter for tower in ours if tower.adapter is not None]
        return found

    def learn(self, parts: Iterable[Part], adapt: AdaptConfig | None) -> list[str]:
        """Let parts learn, and freeze all others; return the names of the adapted maps.

        Raises:
            ConfigError: there is no such part, or one would both learn and be adapted.
        """
        own, wanted = self.parts(), tuple(parts)
        adapted = () if adapt is None else adapt.parts
        self._require(wanted, adapted)
        self.requires_grad_(False)
        names = []
        for module in (module for part in adapted for module in own[part]):
            assert adapt is not None
            if isinstance(module, nn.Linear):  # one alone has no inside: pi0's last map
                continue
            if adapt.four_bit:
                keep_in_four_bits(module, self.unused(module))
            names += add_lora(module, adapt.lora, self.unused(module))
        for part in wanted:
            for module in own[part]:
                module.requires_grad_(True)
                for name in self.unused(module):
                    module.get_submodule(name).requires_grad_(False)
        for tower in self.eyes.modules():
            if isinstance(tower, EncoderTower):
                tower.trained = any(p.requires_grad for p in tower.encoder.parameters())
        return names

    def _require(self, wanted: tuple[Part, ...], adapted: tuple[Part, ...]) -> None:
        own = self.parts()
        for part in (*wanted, *adapted):
            if not own.get(part):
                there = [name for name, modules in own.items() if modules]
                raise ConfigError(f"the policy has no {part} to train; it has {', '.join(there)}")
        if both := sorted(set(wanted) & set(adapted)):
            raise ConfigError(f"{both[0]} cannot both learn and be adapted; choose one")

    def unused(self, module: nn.Module) -> list[str]:
        """Name what no forward pass of a module reads."""
        return module.unused() if isinstance(module, PublishedTower) else []

    def new_parts(self) -> tuple[Part, ...]:
        """Return what an exchange of eyes has made: no published model has it."""
        own = self.parts()
        new: list[Part] = [part for part in ("adapter", "branch") if own[part]]
        return (*new, *(("projector",) if self.eyes.projector.config.normalise else ()))

    def observe(self, clip: Clip) -> Observation:
        """Return what the policy may see of a sample."""
        text = clip["text"]
        assert not isinstance(text, str), "a batch has a list of texts"
        history = self.config.history
        video, state = clip["video"][:, :history], clip["state"][:, :history]
        return Observation(video=video, state=state, text=text)

    def losses(
        self, clip: Clip, observation: Observation | None = None
    ) -> Mapping[str, Float[Tensor, ""]]:
        """Return the named parts of the loss, of the clip's commands after any observation."""
        raise NotImplementedError

    def shown(self, clip: Clip) -> Mapping[str, Tensor]:
        """Return what reaches the language model and the head."""
        raise NotImplementedError

    def digests(self) -> dict[str, str]:
        """Return the sha256 of the weights of each part, without adapters."""
        return {part: digest(modules) for part, modules in self.parts().items() if modules}

    def appearance(self) -> Mapping[str, Float[Tensor, "3 i j"]]:
        """Return the thumbnail of each camera, if training has left them."""
        if not bool(self.reference.isfinite().all()):
            return {}
        return dict(zip(self.contract.cameras, self.reference.cpu(), strict=True))

    def floors(self, clip: Clip) -> Float[Tensor, ""]:
        """Return the loss of a policy that knows how actions are spread and sees nothing."""
        raise NotImplementedError

    def scores(self, clip: Clip) -> Mapping[str, Float[Tensor, ""]]:
        """Return what else is worth knowing of a batch, such as how many tokens are right."""
        raise NotImplementedError

    def save_pretrained(self, folder: Any, config: Config[Policy], card: str = "") -> None:
        """Write a folder that needs no other.

        Raises:
            ConfigError: training has set no contract.
        """
        del config  # of the same policy; ``self.config`` names no folder
        if not hasattr(self, "contract"):
            raise ConfigError(
                "the policy has no contract, so nobody could tell what it must be shown; "
                "fine-tune it before it is saved"
            )
        super().save_pretrained(folder, self.config, card)


def digest(modules: Iterable[nn.Module]) -> str:
    """Return the sha256 of the weights of some modules, adapters and their wrapping left out."""
    found = hashlib.sha256()
    for i, module in enumerate(modules):
        for name, value in sorted(module.state_dict().items()):
            if not is_adapter(f".{name}"):
                plain = name.replace(".base_layer.", ".").replace("base_layer.", "")
                found.update(f"{i} {plain} {value.dtype} {tuple(value.shape)}\n".encode())
                data = value.detach().cpu().contiguous().flatten()
                found.update(data.view(torch.uint8).numpy().data)
    return found.hexdigest()


def about(config: AdaptConfig | None) -> str:
    """Say in a few words which adapters there are."""
    if config is None:
        return "no adapters"
    size = asdict(config.lora)
    kept = ", whose own weights are rounded to 4 bits" if config.four_bit else ""
    return f"adapters of rank {size['rank']} in {', '.join(config.parts)}{kept}"
