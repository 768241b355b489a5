"""Video vision transformer over tubelets: the encoder of VideoMAE (Tong et al., 2022).

A clip is cut into tubelets of ``tubelet`` frames by ``patch`` x ``patch`` pixels; each becomes
one token with a fixed sinusoid position; a pre-norm transformer mixes them. A pair of frames is
a clip with one tubelet in time. https://arxiv.org/abs/2203.12602
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from saccade.config import Config
from saccade.errors import ConfigError
from saccade.nn.position import sinusoid
from saccade.nn.transformer import Block, init_weights
from saccade.types import Encoder, Preprocessing

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class ViTConfig(Config["ViT"]):
    """Shape of the encoder; the defaults are ViT-B/16 on pairs of frames.

    Args:
        image_size: height and width of the frames, in pixels.
        num_frames: frames of a clip; a multiple of ``tubelet``.
        tubelet: frames of one token.
        patch: side of a patch, in pixels.
        dim: width of a token.
        depth: number of blocks.
        heads: attention heads.
    """

    image_size: int = 224
    num_frames: int = 2
    tubelet: int = 2
    patch: int = 16
    dim: int = 768
    depth: int = 12
    heads: int = 12

    def build(self) -> "ViT":
        """Construct the encoder with fresh weights."""
        return ViT(self)


class ViT(Encoder):
    """Encode clips as one token per tubelet."""

    mean: Tensor
    std: Tensor
    position: Tensor

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        if config.image_size % config.patch or config.num_frames % config.tubelet:
            raise ConfigError(f"a clip must be a whole number of tubelets: {config}")
        self.config = config
        self.embed_dim = config.dim
        self.preprocessing = Preprocessing(
            num_frames=config.num_frames, image_size=config.image_size
        )
        self.steps = config.num_frames // config.tubelet
        self.tokens_per_step = (config.image_size // config.patch) ** 2
        for name, value in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1), persistent=False)
        table = sinusoid(self.steps * self.tokens_per_step, config.dim)
        self.register_buffer("position", table, persistent=False)
        self.to_token = nn.Linear(3 * config.tubelet * config.patch**2, config.dim)
        self.blocks = nn.Sequential(*(Block(config.dim, config.heads) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.dim)
        init_weights(self)

    def patchify(self, video: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b l p"]:
        """Flatten each tubelet into a vector, in the order (time, y, x, colour)."""
        p = self.config.patch
        cut = "b (u dt) c (i y) (j x) -> b (u i j) (dt y x c)"
        return rearrange(video, cut, dt=self.config.tubelet, y=p, x=p)

    def embed(self, video: UInt8[Tensor, "b t 3 h w"]) -> Float[Tensor, "b l d"]:
        """Return one positioned token per tubelet, before any mixing."""
        scaled = (video.float() / 255 - self.mean) / self.std
        return self.to_token(self.patchify(scaled)) + self.position

    def mix(self, tokens: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        """Run the transformer on (all or the visible) tokens."""
        return self.norm(self.blocks(tokens))

    def forward(self, video: UInt8[Tensor, "b t 3 h w"]) -> Float[Tensor, "b u n d"]:
        """Encode whole clips; masked training calls ``embed`` and ``mix`` itself."""
        return rearrange(self.mix(self.embed(video)), "b (u n) d -> b u n d", u=self.steps)
