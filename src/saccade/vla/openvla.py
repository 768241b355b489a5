"""OpenVLA, without timm and without code from the hub: a picture and an instruction in, an action.

    <s> [tokens of the picture] In: What action should the robot take to ..?\\nOut: _ a1 .. a7 </s>

A Llama (or, of the 0.5B sibling, a Qwen 2) reads this and learns to continue it; each axis of the
command is one of 256 words at the end of the vocabulary. The loss is on the action and the word
that ends it. Here prompts of different length are padded in front, where nothing attends.

OpenVLA: Kim et al., 2024, https://arxiv.org/abs/2406.09246, https://github.com/openvla/openvla;
the sibling: https://github.com/Stanford-ILIAD/openvla-mini
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from saccade.config import Config
from saccade.errors import ConfigError
from saccade.models.hub_folder import require_transformers
from saccade.models.policies.policy import LIBERO_ACTIONS
from saccade.types import Clip, Observation, Preprocessing
from saccade.vla.action_tokens import BINS, ActionTokens, Bounds
from saccade.vla.eyes import EyesConfig
from saccade.vla.pixels import PixelsConfig
from saccade.vla.policy import Part, VlaPolicy
from saccade.vla.prompts import PromptsConfig

IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class OpenVlaConfig(Config["OpenVla"]):
    """The whole model. Its weights stay in the dtype in which they are saved.

    Args:
        eyes: what it sees with.
        family: of the language model.
        language: its settings in transformers' words, as JSON.
        prompts: its tokenizer and words.
        pixels: what becomes of a picture first.
        action_names: axes of a command; those whose name ends in ``gripper`` are grippers.
        bins: of an axis.
        history: moments of an observation; what its own towers see is the last one.
        stride: steps between them.
    """

    assign: ClassVar[bool] = True  # gigabytes are mapped, not copied

    eyes: EyesConfig
    family: Literal["llama", "qwen2"]
    language: str
    prompts: PromptsConfig
    pixels: PixelsConfig = field(default_factory=PixelsConfig)
    action_names: tuple[str, ...] = LIBERO_ACTIONS
    bins: int = BINS
    history: int = 1
    stride: int = 1

    def build(self) -> "OpenVla":
        """Construct the networks, with fresh weights.

        Raises:
            ConfigError: parts that do not fit each other.
            CheckpointError: transformers is not installed, or the tokenizer is damaged.
        """
        self.pixels.check()
        if self.history < 1 or self.stride < 1 or not self.action_names:
            raise ConfigError(
                f"history is {self.history}, stride {self.stride}, and actions have "
                f"{len(self.action_names)} axes; each is at least 1"
            )
        require_transformers(Path("config.json"))
        return OpenVla(self)


class Asked(NamedTuple):
    """What the language model is shown before it answers; padded in front."""

    embeddings: Float[Tensor, "b n d"]
    real: Bool[Tensor, "b n"]


class OpenVla(VlaPolicy):
    """A policy of one camera that answers one command at a time."""

    frequency: Tensor  # how often each token was an axis' command in training, for the floor

    def __init__(self, config: OpenVlaConfig) -> None:
        super().__init__()
        self.eyes = config.eyes.build()
        self.language = language_model(config.family, json.loads(config.language))
        self.prompts = config.prompts.build()
        self.tokens = ActionTokens(self.prompts.vocabulary, config.bins)
        self.resize(len(config.action_names), config.bins)
        self.config = replace(config, eyes=self.eyes.config)
        width = self.language.config.hidden_size
        if width != self.eyes.dim:
            raise ConfigError(
                f"the projector gives tokens of width {self.eyes.dim}, the language model takes "
                f"{width}; they belong to different models"
            )
        if self.eyes.frames < config.history:
            raise ConfigError(
                f"history is {config.history} and nothing looks at more than {self.eyes.frames} "
                "frames; lower it"
            )
        self.state_size = 0
        self.preprocessing = Preprocessing(num_frames=1, image_size=config.pixels.frame)
        self.remember(cameras=1)
        if self.language.config.tie_word_embeddings:
            once(self)

    def resize(self, axes: int, bins: int = BINS) -> None:
        """Command another number of axes, whose range is not known yet."""
        self.bounds = Bounds(axes)
        self.register_buffer("frequency", torch.ones(axes, bins) / bins)

    def parts(self) -> dict[Part, list[nn.Module]]:
        """Return the modules of each part."""
        found = super().parts()
        found["language"] = [self.language]
        return found

    def losses(
        self, clip: Clip, observation: Observation | None = None
    ) -> Mapping[str, Float[Tensor, ""]]:
        """Return the cross-entropy of the action's tokens and of the one that ends it."""
        wanted = self.wanted(clip)
        logits = self.answers(clip, observation, wanted)
        return {"tokens": F.cross_entropy(logits.flatten(0, 1).float(), wanted.flatten())}

    def shown(self, clip: Clip) -> Mapping[str, Tensor]:
        """Return the picture and the prompt, and the answer, which each part of it sees."""
        wanted = self.wanted(clip)
        return {"asked": self.ask(self.observe(clip), None).embeddings, "answer": wanted}

    def scores(self, clip: Clip) -> Mapping[str, Float[Tensor, ""]]:
        """Return the share of right action tokens, and how far off the action is, in [-1, 1]."""
        wanted = self.wanted(clip)
        axes = len(self.config.action_names)
        found = self.answers(clip, None, wanted)[:, :axes].argmax(-1)
        wanted = wanted[:, :axes]
        off = (self.tokens.decode(found) - self.tokens.decode(wanted)).abs()
        return {"token_accuracy": (found == wanted).float().mean(), "action_error": off.mean()}

    def floors(self, clip: Clip) -> Float[Tensor, ""]:
        """Return the loss of answering with how often each token occurred in training."""
        wanted = self.wanted(clip)
        axes = len(self.config.action_names)
        place = self.tokens.vocabulary - 1 - wanted[:, :axes]
        chance = self.frequency.gather(1, place.T.to(self.frequency.device)).T
        return -chance.clamp_min(1e-6).log().sum() / wanted.numel()

    def count(self, action: Float[Tensor, "n a"]) -> None:
        """Remember how often each token is a command of some actions, one added to each count."""
        place = self.tokens.vocabulary - 1 - self.tokens.encode(self.bounds.normalise(action))
        seen = torch.ones_like(self.frequency)
        for axis in range(place.shape[1]):
            seen[axis] += torch.bincount(place[:, axis], minlength=self.config.bins)
        self.frequency.copy_(seen / seen.sum(1, keepdim=True))

    def wanted(self, clip: Clip) -> Int64[Tensor, "b k"]:
        """Return the tokens to be answered.

        Raises:
            ConfigError: the clip has several commands.
        """
        action = clip["action"]
        if action.shape[1] != 1:
            raise ConfigError(
                f"the clip has {action.shape[1]} commands, an OpenVLA answers one at a time; set "
                "the window's chunk to 1"
            )
        tokens = self.tokens.encode(self.bounds.normalise(action[:, 0]))
        stop = torch.tensor(self.prompts.stop, device=tokens.device).expand(len(tokens), -1)
        return torch.cat([tokens, stop], 1)

    def answers(
        self, clip: Clip, observation: Observation | None, wanted: Int64[Tensor, "b k"]
    ) -> Float[Tensor, "b k v"]:
        """Return what is predicted for each token of the answer, given those before it."""
        seen = self.observe(clip) if observation is None else observation
        asked = self.ask(seen, clip["key"] if self.training else None)
        table = self.language.get_input_embeddings()
        together = torch.cat([asked.embeddings, table(wanted[:, :-1])], 1)
        real = F.pad(asked.real, (0, wanted.shape[1] - 1), value=True)
        hidden = self.language.model(
            inputs_embeds=together, use_cache=False, **places(real)
        ).last_hidden_state
        return self.language.lm_head(hidden[:, -wanted.shape[1] :])

    def ask(self, seen: Observation, keys: Int64[Tensor, " b"] | None) -> Asked:
        """Return the picture and the prompt; with ``keys``, the picture is varied as in training.

        Raises:
            ConfigError: there are several cameras.
        """
        video = seen["video"]
        if video.shape[2] != 1:
            raise ConfigError(f"an OpenVLA has one camera, not {video.shape[2]}; set source.camera")
        frames = video[:, :, 0]
        pixels = self.config.pixels
        frames = pixels.shown(frames) if keys is None else pixels.varied(frames, keys)
        picture = self.eyes(frames)
        ids, real = self.prompts.batch(seen["text"], "left", picture.device)
        words = self.language.get_input_embeddings()(ids)
        # the picture comes after the first real token, wherever padding ends
        count, rows = picture.shape[1], []
        for row, word, image in zip(real.int().argmax(1).tolist(), words, picture, strict=True):
            rows.append(torch.cat([word[: row + 1], image.to(word.dtype), word[row + 1 :]]))
        return Asked(torch.stack(rows), beside(real, count))

    def act(
        self, observation: Observation, generator: torch.Generator | None = None
    ) -> Float[Tensor, "b 1 a"]:
        """Return the most likely command, axis after axis."""
        del generator
        asked = self.ask(observation, None)
        inputs, real, cache, found = asked.embeddings, asked.real, None, []
        table = self.language.get_input_embeddings()
        for _ in self.config.action_names:
            told = self.language.model(
                inputs_embeds=inputs,
                past_key_values=cache,
                use_cache=True,
                **places(real, inputs.shape[1]),
            )
            cache = told.past_key_values
            found.append(self.language.lm_head(told.last_hidden_state[:, -1]).argmax(-1))
            inputs, real = table(found[-1])[:, None], F.pad(real, (0, 1), value=True)
        return self.bounds.restore(self.tokens.decode(torch.stack(found, 1)))[:, None]


def once(policy: OpenVla) -> None:
    """Keep the last table of a language model, which is its first, out of what is saved."""
    first, last = "language.model.embed_tokens.weight", "language.lm_head.weight"

    def leave(module: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        del module, metadata
        state.pop(prefix + last, None)

    def fill(module: Any, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        del module, rest
        if prefix + first in state:
            state[prefix + last] = state[prefix + first]

    policy.register_state_dict_post_hook(leave)
    policy.register_load_state_dict_pre_hook(fill)
    policy.register_load_state_dict_post_hook(lambda module, _: module.language.tie_weights())


def beside(real: Bool[Tensor, "b n"], count: int) -> Bool[Tensor, "b m"]:
    """Return which tokens are real once a picture of ``count`` stands after the first real one."""
    return torch.cat([real, real.new_ones(len(real), count)], 1).sort(1).values


def places(real: Bool[Tensor, "b n"], last: int = 0) -> dict[str, Tensor | None]:
    """Return mask and positions of tokens padded in front; of the ``last`` ones, where given."""
    if bool(real.all()):
        return {"attention_mask": None}
    position = (real.cumsum(1) - 1).clamp_min(0)
    return {
        "attention_mask": real.long(),
        "position_ids": position[:, -last:] if last else position,
    }


def language_model(family: str, settings: dict[str, Any]) -> Any:
    """Return transformers' Llama or Qwen 2, with fresh weights."""
    if family == "llama":
        from transformers.models.llama.configuration_llama import LlamaConfig
        from transformers.models.llama.modeling_llama import LlamaForCausalLM

        return LlamaForCausalLM(LlamaConfig.from_dict(settings))
    from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
    from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config.from_dict(settings))
