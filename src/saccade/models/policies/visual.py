"""A condition on any encoder of pictures: behaviour cloning as LIBERO does it, encoders compared.

    each moment    readout | language (m) | state (1) | camera 1 (q) | camera 2 (q) | ..

A transformer mixes these tokens, which see their own moment and those before it; the readout of
the last moment is what a head is told. It is LIBERO's BC-Transformer (arXiv 2306.03310) with the
trained ResNets replaced by one encoder, frozen unless asked otherwise, so that encoders can be
compared. Theirs is 64 wide with 4 layers, 6 heads, an MLP of 256, dropout 0.1 and 10 moments, and
reads at the language token, of which there may be several here, or none.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from saccade.config import Config
from saccade.errors import ConfigError, DataError
from saccade.models.language import Language
from saccade.models.one_frame import grid_of, repeats
from saccade.models.policies.conditions import Conditioner, from_folder, without_folder
from saccade.models.policies.head import Condition
from saccade.models.policies.velocity import CrossAttention
from saccade.nn.position import sinusoid
from saccade.types import Encoder, Observation

Summary = Literal["attention", "keypoints", "pool"]
Sense = Literal["vision", "language", "state"]
SENSES: tuple[Sense, ...] = ("language", "state", "vision")
LONGEST = 1024  # moments that have a position


@dataclass(frozen=True, kw_only=True)
class VisualConditionConfig(Config["VisualCondition"]):
    """What is seen by which encoder, and how it is mixed.

    Args:
        encoder: of single frames; each view of each moment is shown to it by itself.
        language: what turns instructions into vectors; it is not trained.
        cameras: views.
        state_size: numbers of the robot's state, standardised by ``set_statistics``.
        frozen: do not train the encoder.
        summary: what becomes of a view's tokens: ``attention`` of ``queries`` learned ones;
            ``keypoints``, the places where ``queries`` learned maps are largest on average; or
            ``pool``, the mean or CLS that a probe reads.
        queries: see there.
        dim: width.
        depth: layers.
        heads: of attention.
        hidden: width of the MLPs.
        dropout: in training; it makes a loss depend on more than its sample.
        without: senses to take away, for controls.
    """

    encoder: Config[Encoder]
    language: Config[Language]
    cameras: int = 2
    state_size: int = 9
    frozen: bool = True
    summary: Summary = "attention"
    queries: int = 4
    dim: int = 256
    depth: int = 4
    heads: int = 8
    hidden: int = 1024
    dropout: float = 0.0
    without: tuple[Sense, ...] = ()

    def build(self) -> "VisualCondition":
        """Build or load the encoder, and the transformer with fresh weights.

        Raises:
            ConfigError: sizes that cannot be, nothing left to sense, or an encoder to train
                that keeps itself frozen.
        """
        if self.dim % self.heads or min(self.cameras, self.state_size, self.queries) < 1:
            raise ConfigError(
                f"dim {self.dim} must be a multiple of heads {self.heads}, and cameras "
                f"{self.cameras}, state_size {self.state_size} and queries {self.queries} at "
                "least 1"
            )
        if not set(SENSES) - set(self.without):
            raise ConfigError("without takes away every sense; leave one of them")
        return VisualCondition(self)


class VisualCondition(Conditioner):
    """A transformer over summaries of pictures, language and state."""

    state_mean: Tensor
    state_std: Tensor
    position: Tensor

    def __init__(self, config: VisualConditionConfig) -> None:
        super().__init__()
        self.encoder, self.language = config.encoder.build(), config.language.build()
        plain = without_folder(self.encoder, config.encoder)
        self.config = replace(config, encoder=plain, language=self.language.config)
        self.pooled = config.summary == "pool"
        self.sees = [sense for sense in SENSES if sense not in config.without]
        self.standardises = "state" in self.sees
        self.cameras, self.state_size = config.cameras, config.state_size
        self.preprocessing = replace(self.encoder.preprocessing, num_frames=1)
        self.dim = dim = config.dim
        count = 1
        if "language" in self.sees:
            self.text = nn.Linear(self.language.dim, dim)
            count += self.language.tokens
        if "state" in self.sees:
            self.state = nn.Linear(config.state_size, dim)
            count += 1
        if "vision" in self.sees:
            self.views = nn.ModuleList(Summarise(self.encoder, config) for _ in range(self.cameras))
            count += self.cameras * (config.queries if config.summary == "attention" else 1)
        self.readout = nn.Parameter(torch.empty(1, dim))
        self.kind = nn.Parameter(torch.empty(count, dim))
        for token in (self.readout, self.kind):
            nn.init.trunc_normal_(token, std=0.02)
        self.register_buffer("position", sinusoid(LONGEST, dim), persistent=False)
        self.register_buffer("state_mean", torch.full((config.state_size,), torch.nan))
        self.register_buffer("state_std", torch.ones(config.state_size))
        layer = nn.TransformerEncoderLayer(
            dim,
            config.heads,
            config.hidden,
            config.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.mix = nn.TransformerEncoder(
            layer, config.depth, nn.LayerNorm(dim), enable_nested_tensor=False
        )
        keep = config.frozen or "vision" not in self.sees
        if not (keep or any(p.requires_grad for p in self.encoder.parameters())):
            raise ConfigError(
                f"frozen is false, but the {type(self.encoder).__name__} can learn nothing: set "
                "its trainable, where it has one, or set frozen"
            )
        self.kept_elsewhere = keep and from_folder(config.encoder)
        self.freeze("language", *(["encoder"] if keep else []))

    def set_statistics(self, mean: Float[Tensor, " s"], std: Float[Tensor, " s"]) -> None:
        """Keep mean and deviation of the training data's states."""
        self.state_mean.copy_(mean)
        self.state_std.copy_(std.clamp_min(1e-6))

    def forward(self, observation: Observation) -> Condition:
        """Return what the last moment's readout has gathered."""
        return Condition(self.every(observation)[:, -1])

    def every(self, observation: Observation) -> Float[Tensor, "b t d"]:
        """Return each moment's readout, blind to later moments.

        Raises:
            DataError: views, frames or states are not those that this was built for.
        """
        self._check(observation)
        state, video = observation["state"], observation["video"]
        moments = state.shape[1]
        tokens = [self.readout.expand(*state.shape[:2], 1, -1)]
        if "language" in self.sees:
            text = self.text(self.language(observation["text"]))
            tokens.append(repeat(text, "b m d -> b t m d", t=moments))
        if "state" in self.sees:
            standard = (state - self.state_mean) / self.state_std
            tokens.append(self.state(standard)[:, :, None])
        if "vision" in self.sees:
            tokens += [view(self.look(video[:, :, i])) for i, view in enumerate(self.views)]
        together = torch.cat(tokens, 2) + self.kind + self.position[:moments, None]
        moment = torch.arange(moments, device=state.device).repeat_interleave(together.shape[2])
        later = moment[None] > moment[:, None]
        mixed = self.mix(rearrange(together, "b t n d -> b (t n) d"), mask=later)
        return rearrange(mixed, "b (t n) d -> b t n d", t=moments)[:, :, 0]

    def look(self, video: UInt8[Tensor, "b t 3 h w"]) -> Float[Tensor, "b t n e"]:
        """Return the encoder's features of one view, a single one where they are pooled."""
        frames = repeat(video, "b t c h w -> (b t) r c h w", r=repeats(self.encoder))
        with torch.set_grad_enabled(torch.is_grad_enabled() and "encoder" not in self.frozen):
            tokens = self.encoder(frames).float()
            found = self.encoder.pool(tokens)[:, None] if self.pooled else tokens.mean(1)
        return found.unflatten(0, video.shape[:2])

    def _check(self, observation: Observation) -> None:
        side = self.preprocessing.image_size
        views, state = observation["video"].shape[2:], observation["state"].shape[2]
        expected = (self.cameras, 3, side, side)
        if views != expected or state != self.state_size:
            raise DataError(
                f"a moment has views {tuple(views)} and a state of {state} numbers; this policy "
                f"takes {expected} and {self.state_size}: choose its cameras, encoder and "
                "state_size to fit the data"
            )


class Summarise(nn.Module):
    """A few tokens of one view, from the features of its encoder."""

    def __init__(self, encoder: Encoder, config: VisualConditionConfig) -> None:
        super().__init__()
        (rows, columns), width = grid_of(encoder, pooled=config.summary == "pool")
        self.summary, dim = config.summary, config.dim
        self.norm = nn.LayerNorm(width)  # encoders' features differ in size
        if self.summary == "attention":
            self.queries = nn.Parameter(torch.empty(config.queries, dim))
            nn.init.trunc_normal_(self.queries, std=0.02)
            self.where = nn.Parameter(torch.empty(rows * columns, width))
            nn.init.trunc_normal_(self.where, std=0.02)
            self.attend = CrossAttention(dim, width, config.heads)
        elif self.summary == "keypoints":
            self.maps = nn.Linear(width, config.queries)
            y, x = torch.meshgrid(
                torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij"
            )
            self.register_buffer("place", torch.stack([x, y], -1).view(-1, 2), persistent=False)
            self.place: Tensor
            self.out = nn.Linear(2 * config.queries, dim)
        else:
            self.out = nn.Linear(width, dim)

    def forward(self, features: Float[Tensor, "b t n e"]) -> Float[Tensor, "b t m d"]:
        """Return the tokens of each moment."""
        features = self.norm(features)
        if self.summary == "attention":
            flat = (features + self.where).flatten(0, 1)
            found = self.attend(self.queries.expand(len(flat), -1, -1), flat)
            return found.unflatten(0, features.shape[:2])
        if self.summary == "keypoints":
            weight = self.maps(features).softmax(2)
            return self.out(torch.einsum("btnq,nc->btqc", weight, self.place).flatten(2))[
                :, :, None
            ]
        return self.out(features)
