"""pi0 from transformers' own network: pictures, an instruction and the state in, a chunk out.

    [tokens of camera 1] [camera 2] .. <bos> instruction \\n    | state | a1 .. ak, noisy
       PaliGemma, where all of it sees all of it           -----> the action expert, which sees both

The expert learns the velocity that carries noise to commands (flow matching): ``x = t noise + (1 -
t) a`` has the velocity ``noise - a``, and ``t`` is Beta(1.5, 1), more often near noise. States and
commands are standardised and padded to 32 numbers, commands with noise; the loss is on those that
there are.

pi0: Black et al., 2024, https://arxiv.org/abs/2410.24164,
https://github.com/Physical-Intelligence/openpi
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from saccade.config import Config
from saccade.errors import ConfigError
from saccade.models.hub_folder import require_transformers
from saccade.models.policies.flow import integrate, standard_normal
from saccade.models.policies.head import counted, normal
from saccade.models.policies.policy import LIBERO_ACTIONS
from saccade.nn.noise import uniform
from saccade.types import Clip, Observation, Preprocessing
from saccade.vla.eyes import EyesConfig
from saccade.vla.pixels import PixelsConfig
from saccade.vla.policy import Part, VlaPolicy
from saccade.vla.prompts import PromptsConfig

LEVEL, NOISE = 1, 2  # streams of random numbers
SMALLEST_STD = 1e-6


@dataclass(frozen=True, kw_only=True)
class Pi0Config(Config["Pi0"]):
    """The whole model. Its weights stay in the dtype in which they are saved.

    Args:
        eyes: what it sees with, the same for every camera.
        settings: of transformers' network, as JSON.
        prompts: its tokenizer and words.
        pixels: what becomes of a picture first.
        action_names: axes of a command, at most 32.
        state_size: numbers of the robot's state, at most 32.
        cameras: views, at most 3 in the published weights.
        chunk: commands of an answer.
        steps: from noise to commands.
        history: moments of an observation; what its own tower sees is the last one.
        stride: steps between them.
    """

    assign: ClassVar[bool] = True  # gigabytes are mapped, not copied

    eyes: EyesConfig
    settings: str
    prompts: PromptsConfig
    pixels: PixelsConfig = field(default_factory=PixelsConfig)
    action_names: tuple[str, ...] = LIBERO_ACTIONS
    state_size: int = 8
    cameras: int = 2
    chunk: int = 50
    steps: int = 10
    history: int = 1
    stride: int = 1

    def build(self) -> "Pi0":
        """Construct the networks, with fresh weights.

        Raises:
            ConfigError: parts that do not fit each other.
            CheckpointError: transformers is not installed, or the tokenizer is damaged.
        """
        self.pixels.check()
        if min(self.history, self.stride, self.cameras, self.chunk, self.steps) < 1:
            raise ConfigError(
                f"history is {self.history}, stride {self.stride}, cameras {self.cameras}, chunk "
                f"{self.chunk} and steps {self.steps}; each is at least 1"
            )
        require_transformers(Path("config.json"))
        return Pi0(self)


class Prefix(NamedTuple):
    """What the expert looks at: keys and values of pictures and instruction, and which are real."""

    cache: Any
    real: Bool[Tensor, "b n"]
    embeddings: Float[Tensor, "b n d"]


class Standard(nn.Module):
    """Mean and deviation of the training data; NaN until they are set."""

    mean: Tensor
    std: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((size,), torch.nan))
        self.register_buffer("std", torch.ones(size))

    def set(self, mean: Float[Tensor, " n"], std: Float[Tensor, " n"]) -> None:
        """Keep them."""
        self.mean.copy_(mean)
        self.std.copy_(std.clamp_min(SMALLEST_STD))

    def forward(self, x: Float[Tensor, "*b n"]) -> Float[Tensor, "*b n"]:
        """Standardise.

        Raises:
            ConfigError: nobody has set them.
        """
        if not bool(self.mean.isfinite().all()):
            raise ConfigError(
                "the policy does not know how states and actions are spread; fine-tune it first"
            )
        return (x - self.mean) / self.std


class Pi0(VlaPolicy):
    """A policy that draws a chunk of commands."""

    def __init__(self, config: Pi0Config) -> None:
        super().__init__()
        self.eyes = config.eyes.build()
        self.network = network(json.loads(config.settings))
        self.prompts = config.prompts.build()
        shape = self.network.config
        self.config = replace(config, eyes=self.eyes.config)
        width = shape.vlm_config.text_config.hidden_size
        axes = len(config.action_names)
        if width != self.eyes.dim:
            raise ConfigError(
                f"the projector gives tokens of width {self.eyes.dim}, the language model takes "
                f"{width}; they belong to different models"
            )
        if axes > shape.max_action_dim or config.state_size > shape.max_state_dim:
            raise ConfigError(
                f"there are {axes} axes of actions and {config.state_size} numbers of the state; "
                f"the model takes at most {shape.max_action_dim} and {shape.max_state_dim}"
            )
        if config.chunk != shape.chunk_size:
            raise ConfigError(
                f"chunk is {config.chunk}, the network answers {shape.chunk_size}; make them the "
                "same"
            )
        if self.eyes.frames < config.history:
            raise ConfigError(
                f"history is {config.history} and nothing looks at more than {self.eyes.frames} "
                "frames; lower it"
            )
        self.state_size = config.state_size
        self.actions, self.states = Standard(axes), Standard(config.state_size)
        self.preprocessing = Preprocessing(num_frames=1, image_size=config.pixels.frame)
        self.remember(cameras=config.cameras)

    def resize(self, axes: int, state_size: int, cameras: int) -> None:
        """Command, and be shown, other numbers of things, whose spread is not known yet."""
        self.actions, self.states = Standard(axes), Standard(state_size)
        self.state_size = state_size
        self.remember(cameras)
        self.config = replace(self.config, state_size=state_size, cameras=cameras)

    def parts(self) -> dict[Part, list[nn.Module]]:
        """Return the modules of each part."""
        found, whole = super().parts(), self.network
        found["language"] = [whole.model.vlm.language_model]
        found["head"] = [whole.model.dit, whole.embed_action_time, whole.action_out_proj]
        return found

    def unused(self, module: nn.Module) -> list[str]:
        """Name what nothing reads: of the last layer, the expert sees keys and values alone."""
        if module is self.network.model.dit:
            return ["embed_tokens"]
        language = self.network.model.vlm.language_model
        if module is not language:
            return super().unused(module)
        last = f"layers.{len(language.layers) - 1}"
        parts = ("self_attn.q_proj", "self_attn.o_proj", "mlp", "post_attention_layernorm")
        return ["norm", *(f"{last}.{part}" for part in parts)]

    def losses(
        self, clip: Clip, observation: Observation | None = None
    ) -> Mapping[str, Float[Tensor, ""]]:
        """Return the mean squared error of the velocity."""
        seen = self.observe(clip) if observation is None else observation
        x, level, velocity = self.path(clip)
        prefix = self.look(seen, clip["key"] if self.training else None)
        found = self.velocity(x, level, seen, prefix).float()
        axes = len(self.config.action_names)
        return {"flow": counted((found - velocity)[..., :axes].square(), clip["is_pad"])}

    def floors(self, clip: Clip) -> Float[Tensor, ""]:
        """Return the error of the best velocity where commands are independent N(0, 1)."""
        x, level, velocity = self.path(clip)
        level = level[:, None, None]
        best = x * (2 * level - 1) / ((1 - level).square() + level.square())
        axes = len(self.config.action_names)
        return counted((best - velocity)[..., :axes].square(), clip["is_pad"])

    def scores(self, clip: Clip) -> Mapping[str, Float[Tensor, ""]]:
        """Return how far off the drawn commands are, in deviations of the training data."""
        generator = torch.Generator().manual_seed(0)
        drawn = self.actions(self.act(self.observe(clip), generator))
        off = (drawn - self.actions(clip["action"])).abs()
        return {"action_error": counted(off, clip["is_pad"])}

    def shown(self, clip: Clip) -> Mapping[str, Tensor]:
        """Return pictures and prompt, the state, and the noisy commands, which hold the answer."""
        seen = self.observe(clip)
        return {
            "asked": self.look(seen, None).embeddings,
            "state": self.states(seen["state"][:, -1]),
            "answer": self.path(clip)[0],
        }

    def path(
        self, clip: Clip
    ) -> tuple[Float[Tensor, "b k w"], Float[Tensor, " b"], Float[Tensor, "b k w"]]:
        """Draw a point on the way from noise to the padded commands: it, its level, its velocity.

        Raises:
            ConfigError: the clip has more or fewer commands than an answer.
        """
        action, key, shape = self.actions(clip["action"]), clip["key"], self.network.config
        if action.shape[1] != self.config.chunk:
            raise ConfigError(
                f"the clip has {action.shape[1]} commands, the policy answers {self.config.chunk}; "
                "set the window's chunk to that"
            )
        action = F.pad(action, (0, shape.max_action_dim - action.shape[2]))
        noise = normal(key, action[0].numel(), NOISE).view_as(action)
        drawn = uniform(key, 1, LEVEL)[:, 0] ** (1 / shape.time_sampling_beta_alpha)
        level = drawn * shape.time_sampling_scale + shape.time_sampling_offset
        return torch.lerp(action, noise, level[:, None, None]), level, noise - action

    def look(self, seen: Observation, keys: Int64[Tensor, " b"] | None) -> Prefix:
        """Read pictures and instruction once; with ``keys``, pictures are varied as in training.

        Raises:
            ConfigError: there are more or fewer cameras than the policy was made for.
        """
        video, pixels = seen["video"], self.config.pixels
        if video.shape[2] != self.cameras:
            raise ConfigError(
                f"the policy has {self.cameras} cameras, not {video.shape[2]}; set source.cameras"
            )
        views = [
            pixels.shown(v) if keys is None else pixels.varied(v, keys) for v in video.unbind(2)
        ]
        pictures = torch.cat([self.eyes(view) for view in views], 1)
        ids, told = self.prompts.batch(seen["text"], "right", pictures.device)
        whole = self.network.model
        words = whole.get_input_embeddings()(ids)
        together = torch.cat([pictures.to(words.dtype), words], 1)
        real = torch.cat([told.new_ones(pictures.shape[:2]), told], 1)
        cache = whole.vlm(
            inputs_embeds=together,
            attention_mask=real.long(),
            position_ids=real.long().cumsum(1) - 1,
            token_type_ids=torch.zeros_like(real, dtype=torch.int64),
            use_cache=True,
        ).past_key_values
        return Prefix(cache, real, together)

    def velocity(
        self,
        x: Float[Tensor, "b k w"],
        level: Float[Tensor, " b"],
        seen: Observation,
        prefix: Prefix,
    ) -> Float[Tensor, "b k w"]:
        """Return the velocity of noisy commands, padded."""
        shape = self.network.config
        state = self.states(seen["state"][:, -1])
        weight = self.network.action_out_proj.weight
        told = self.network(
            state=F.pad(state, (0, shape.max_state_dim - self.state_size)).to(weight.dtype),
            noise=x.to(weight.dtype),
            timestep=level,
            attention_mask=prefix.real.long(),
            past_key_values=prefix.cache,
        )
        said = prefix.cache.get_seq_length() - prefix.real.shape[1]
        prefix.cache.crop(-said)  # what was said of these commands is forgotten
        return told.logits

    def act(
        self, observation: Observation, generator: torch.Generator | None = None
    ) -> Float[Tensor, "b k a"]:
        """Draw the next commands."""
        prefix = self.look(observation, None)
        axes, width = len(self.config.action_names), self.network.config.max_action_dim
        shape = (len(prefix.real), self.config.chunk, width)
        noise = standard_normal(shape, prefix.real.device, generator)

        def velocity(x: Tensor, level: float) -> Tensor:
            return self.velocity(x, x.new_full((len(x),), level), observation, prefix).float()

        found = integrate(velocity, noise, self.config.steps)[..., :axes]
        return found * self.actions.std + self.actions.mean


def network(settings: dict[str, Any]) -> Any:
    """Return transformers' pi0 without its tower and its projector, which ``eyes`` has."""
    from transformers.models.pi0.configuration_pi0 import PI0Config
    from transformers.models.pi0.modeling_pi0 import PI0ForConditionalGeneration

    found: Any = PI0ForConditionalGeneration(PI0Config.from_dict(settings))
    # its keys and values reach the loss past its layers' outputs, where sharding would look
    found.model.vlm.called_in_parts = True
    found.model.vlm.vision_tower = nn.Identity()
    found.model.vlm.multi_modal_projector = nn.Identity()
    return found
