"""Two-Stream encoder: motion and form, each a ViT, that talk through their CLS tokens only.

    motion channels ->[ blocks ]-> CLS --exchange--> [ blocks ] --exchange--> [ blocks ]
    form channels   ->[ blocks ]-> CLS --exchange--> [ blocks ] --exchange--> [ blocks ]

The exchange is one transformer block over the two CLS tokens, between stages. Single-stream
models are the same class with one stream, so an ablation differs in one field, ``variant``:

    two_stream    M and P with exchange (the method)
    no_exchange   M and P that never meet
    nine_channel  one stream on M and P stacked (the single-stream baseline)
    six_channel   one stream on both frames: it sees the target (negative control)
    early_fusion  the same under the name that the ablation tables use
    m_only p_only one stream on one set of channels

Re-implemented from the description in ``spec/two_stream.md`` of action-agnostic-visual-rl.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from saccade.config import Config
from saccade.errors import ConfigError
from saccade.nn.channels import Border, form, motion
from saccade.nn.patches import patchify
from saccade.nn.transformer import Block, init_weights
from saccade.types import Encoder, Preprocessing

Variant = Literal[
    "two_stream", "no_exchange", "nine_channel", "six_channel", "early_fusion", "m_only", "p_only"
]
CHANNELS = {"motion": 4, "form": 5, "now": 3, "later": 3}
STREAMS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "two_stream": {"m": ("motion",), "p": ("form",)},
    "no_exchange": {"m": ("motion",), "p": ("form",)},
    "nine_channel": {"mp": ("motion", "form")},
    "six_channel": {"frames": ("now", "later")},
    "early_fusion": {"frames": ("now", "later")},
    "m_only": {"m": ("motion",)},
    "p_only": {"p": ("form",)},
}


@dataclass(frozen=True, kw_only=True)
class StreamsConfig(Config["Streams"]):
    """Shape of the encoder; the defaults are Two-Stream base.

    Args:
        variant: which streams there are and whether they exchange (see the module).
        image_size: height and width of the frames, in pixels.
        patch: side of a patch, in pixels.
        dim: width of a token.
        depth: blocks of each stream; a multiple of ``stages``.
        heads: attention heads.
        stages: groups of blocks; streams exchange between them.
        exchange_after_last: exchange once more after the last stage.
        border: padding of the Sobel operator; "zeros" is the published one.
    """

    variant: Variant = "two_stream"
    image_size: int = 224
    patch: int = 16
    dim: int = 768
    depth: int = 12
    heads: int = 12
    stages: int = 3
    exchange_after_last: bool = False
    border: Border = "zeros"

    def build(self) -> "Streams":
        """Construct the encoder with fresh weights."""
        return Streams(self)


class Encoded(NamedTuple):
    """What the streams computed. Token 0 of each stream is its CLS."""

    tokens: dict[str, Float[Tensor, "b n d"]]
    stage_cls: dict[str, list[Float[Tensor, "b d"]]]  # before each exchange, then the final one


class Stream(nn.Module):
    """One ViT: patch embedding, CLS, learned positions, blocks in stages, final norm."""

    def __init__(self, config: StreamsConfig, channels: int) -> None:
        super().__init__()
        tokens = (config.image_size // config.patch) ** 2
        self.to_token = nn.Linear(channels * config.patch**2, config.dim)
        self.cls = nn.Parameter(torch.zeros(config.dim))
        self.position = nn.Parameter(torch.zeros(1 + tokens, config.dim))
        blocks = config.depth // config.stages
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(config.dim, config.heads) for _ in range(blocks)))
            for _ in range(config.stages)
        )
        self.norm = nn.LayerNorm(config.dim)

    def embed(self, patches: Float[Tensor, "b n p"]) -> Float[Tensor, "b n d"]:
        """Return one positioned token per patch, without the CLS."""
        return self.to_token(patches) + self.position[1:]

    def start(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        """Put the CLS token in front."""
        cls = (self.cls + self.position[0]).to(tokens.dtype).expand(len(tokens), 1, -1)
        return torch.cat([cls, tokens], dim=1)


class Streams(Encoder):
    """Encode a pair of frames. Tokens of the streams stand side by side in the last axis."""

    def __init__(self, config: StreamsConfig) -> None:
        super().__init__()
        if config.depth % config.stages:
            raise ConfigError(f"depth {config.depth} is not a multiple of stages {config.stages}")
        if config.image_size % config.patch:
            raise ConfigError(
                f"image_size {config.image_size} is not a multiple of patch {config.patch}"
            )
        self.config = config
        self.layout = STREAMS[config.variant]
        self.embed_dim = config.dim * len(self.layout)
        self.preprocessing = Preprocessing(num_frames=2, image_size=config.image_size)
        self.streams = nn.ModuleDict(
            {
                name: Stream(config, sum(CHANNELS[group] for group in groups))
                for name, groups in self.layout.items()
            }
        )
        meetings = config.stages - 1 + config.exchange_after_last
        self.exchanges = nn.ModuleList(
            Block(config.dim, config.heads)
            for _ in range(meetings if config.variant == "two_stream" else 0)
        )
        init_weights(self)
        for name in self.layout:
            stream = self.stream(name)
            nn.init.trunc_normal_(stream.cls, std=0.02)
            nn.init.trunc_normal_(stream.position, std=0.02)

    def stream(self, name: str) -> Stream:
        """Return one stream by its name in ``layout``."""
        stream = self.streams[name]
        assert isinstance(stream, Stream)
        return stream

    def channels(self, video: UInt8[Tensor, "b 2 3 h w"]) -> dict[str, Float[Tensor, "b _ h w"]]:
        """Return the channel groups that this variant reads, in [0, 1] or [-1, 1]."""
        now, later = (video[:, i].float() / 255 for i in (0, 1))
        wanted = {group for groups in self.layout.values() for group in groups}
        made = {
            "motion": lambda: motion(now, later),
            "form": lambda: form(now, self.config.border),
            "now": lambda: now,
            "later": lambda: later,
        }
        return {name: make() for name, make in made.items() if name in wanted}

    def embed(
        self, channels: Mapping[str, Float[Tensor, "b _ h w"]]
    ) -> dict[str, Float[Tensor, "b n d"]]:
        """Return the positioned patch tokens of every stream, before any mixing."""
        tokens = {}
        for name, groups in self.layout.items():
            stacked = torch.cat([channels[group] for group in groups], dim=1)
            tokens[name] = self.stream(name).embed(patchify(stacked, self.config.patch))
        return tokens

    def encode(self, tokens: Mapping[str, Float[Tensor, "b _ d"]]) -> Encoded:
        """Run the stages on (all or the visible) patch tokens of every stream."""
        x = {name: self.stream(name).start(tokens[name]) for name in self.layout}
        stage_cls: dict[str, list[Tensor]] = {name: [] for name in self.layout}
        for stage in range(self.config.stages):
            x = {name: self.stream(name).stages[stage](x[name]) for name in x}
            if stage < self.config.stages - 1:
                for name in x:
                    stage_cls[name].append(x[name][:, 0])
            if stage < len(self.exchanges):
                x = exchange(x, self.exchanges[stage])
        x = {name: self.stream(name).norm(x[name]) for name in x}
        for name in x:
            stage_cls[name].append(x[name][:, 0])
        return Encoded(tokens=x, stage_cls=stage_cls)

    def forward(self, video: UInt8[Tensor, "b 2 3 h w"]) -> Float[Tensor, "b 1 n d"]:
        """Encode whole pairs into patch tokens, without the CLS tokens."""
        encoded = self.encode(self.embed(self.channels(video)))
        side_by_side = torch.cat([tokens[:, 1:] for tokens in encoded.tokens.values()], dim=-1)
        return rearrange(side_by_side, "b n d -> b 1 n d")


def exchange(x: Mapping[str, Float[Tensor, "b _ d"]], block: nn.Module) -> dict[str, Tensor]:
    """Let the CLS tokens of the streams attend to each other; patches are untouched."""
    met = block(torch.stack([tokens[:, 0] for tokens in x.values()], dim=1))
    return {
        name: torch.cat([met[:, i : i + 1], tokens[:, 1:]], dim=1)
        for i, (name, tokens) in enumerate(x.items())
    }
