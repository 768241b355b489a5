"""What a vision-language-action model sees with: its own two towers, or any encoder of ours.

    PublishedTower  DINOv2 with registers, or SigLIP, of transformers: the tokens of patches
    EncoderTower    an encoder that a run has trained, its tokens on the grid that is asked for

OpenVLA reads the second-to-last block of its towers, without a norm after it; the last block, the
norm after it and SigLIP's pooling are in its files and are never used. pi0 reads what comes out at
the end of its SigLIP. Here they are transformers' networks, which compute what timm's do with the
same weights: DINOv2's class token has no position, and SigLIP's activation is the exact GELU.

OpenVLA: https://github.com/openvla/openvla; timm: https://github.com/huggingface/pytorch-image-models
"""

from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from saccade.config import Config
from saccade.errors import ConfigError
from saccade.models.hub_folder import require_transformers
from saccade.models.one_frame import grid_of, repeats
from saccade.types import Encoder
from saccade.vla.pixels import linear

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
Kind = Literal["dinov2", "siglip"]


class Tower(nn.Module):
    """Recent frames in, tokens of a square grid out."""

    config: Config["Tower"]  # rebuilds it, to be filled from weights alone
    dim: int
    grid: int  # rows, and columns, of its tokens
    frames: int = 1  # that it looks at: the last ones

    def forward(self, video: UInt8[Tensor, "b t 3 h w"]) -> Float[Tensor, "b n d"]:
        """Return the tokens, row after row."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class PublishedTowerConfig(Config["PublishedTower"]):
    """A tower of the published models.

    Args:
        kind: DINOv2 with registers, or SigLIP.
        dim: width.
        depth: blocks.
        heads: of attention.
        hidden: width of the MLPs.
        patch: side of a patch, in pixels.
        image_size: side of a frame, in pixels.
        registers: tokens beside class and patches (DINOv2).
        layer: what is read: the ``second_to_last`` block, or the ``last`` one and the norm after.
        activation: of the MLPs.
        pooling: whether SigLIP's unused pooling is there, as it is in OpenVLA's files.
    """

    kind: Kind
    dim: int
    depth: int
    heads: int
    hidden: int
    patch: int = 14
    image_size: int = 224
    registers: int = 4
    layer: Literal["second_to_last", "last"] = "second_to_last"
    activation: Literal["gelu", "gelu_pytorch_tanh"] = "gelu"
    pooling: bool = True

    def build(self) -> "PublishedTower":
        """Construct the network, with fresh weights.

        Raises:
            ConfigError: sizes that cannot be.
            CheckpointError: transformers is not installed.
        """
        if self.dim % self.heads or self.image_size % self.patch or self.depth < 2:
            raise ConfigError(
                f"a tower of width {self.dim}, {self.heads} heads, {self.depth} blocks and patches "
                f"of {self.patch} in {self.image_size} pixels cannot be: widths divide by heads, "
                "sides by patches, and blocks are at least 2"
            )
        if self.kind == "dinov2" and self.hidden % self.dim:
            raise ConfigError(f"hidden {self.hidden} is no multiple of the width {self.dim}")
        require_transformers(Path("config.json"))
        return PublishedTower(self)


class PublishedTower(Tower):
    """The network, and what it takes off the pixels."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: PublishedTowerConfig) -> None:
        super().__init__()
        self.config = self.shape = config
        self.dim = config.dim
        self.grid = config.image_size // config.patch
        self.skipped = 1 + config.registers if config.kind == "dinov2" else 0
        self.network = dinov2(config) if config.kind == "dinov2" else siglip(config)
        mean, std = IMAGENET if config.kind == "dinov2" else HALF
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def unused(self) -> list[str]:
        """Name the submodules that are in the files and that nothing reads."""
        pooled = ["network.head"] if self.shape.kind == "siglip" and self.shape.pooling else []
        if self.shape.layer == "last":
            return pooled
        dino = self.shape.kind == "dinov2"
        block = f"network.encoder.{'layer' if dino else 'layers'}.{self.shape.depth - 1}"
        return [block, "network.layernorm" if dino else "network.post_layernorm", *pooled]

    def forward(self, video: UInt8[Tensor, "b t 3 h w"]) -> Float[Tensor, "b n d"]:
        """Look at the last frame.

        Raises:
            ConfigError: it is of another size.
        """
        side = self.shape.image_size
        if tuple(video.shape[-2:]) != (side, side):
            raise ConfigError(
                f"the tower takes frames of {side} pixels, not {list(video.shape[-2:])}; set the "
                "size of the policy's pixels to that of its towers"
            )
        pixels = (video[:, -1].float() / 255 - self.mean) / self.std
        network: Any = self.network
        weight = next(network.parameters())
        x = network.embeddings(pixels.to(weight.dtype))
        blocks = network.encoder.layer if self.shape.kind == "dinov2" else network.encoder.layers
        last = self.shape.layer == "last"
        for block in blocks if last else blocks[:-1]:
            x = block(x, None)
        if last:
            x = network.layernorm(x) if self.shape.kind == "dinov2" else network.post_layernorm(x)
        return x[:, self.skipped :]


def dinov2(config: PublishedTowerConfig) -> nn.Module:
    """Return transformers' DINOv2 with registers; its class token has no position."""
    from transformers.models.dinov2_with_registers import modeling_dinov2_with_registers as models
    from transformers.models.dinov2_with_registers.configuration_dinov2_with_registers import (
        Dinov2WithRegistersConfig,
    )

    network = models.Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(
            hidden_size=config.dim,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            mlp_ratio=config.hidden // config.dim,
            patch_size=config.patch,
            image_size=config.image_size,
            num_register_tokens=config.registers,
            hidden_act=config.activation,
            layer_norm_eps=1e-6,
        )
    )
    with torch.no_grad():
        network.embeddings.position_embeddings[:, 0] = 0
    network.embeddings.mask_token.requires_grad_(False)  # there is none in timm
    return network


def siglip(config: PublishedTowerConfig) -> nn.Module:
    """Return transformers' SigLIP."""
    from transformers.models.siglip import modeling_siglip as models
    from transformers.models.siglip.configuration_siglip import SiglipVisionConfig

    settings: dict[str, Any] = {"vision_use_head": config.pooling}
    return models.SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=config.dim,
            intermediate_size=config.hidden,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            patch_size=config.patch,
            image_size=config.image_size,
            hidden_act=config.activation,
            layer_norm_eps=1e-6,
            **settings,
        )
    )


@dataclass(frozen=True, kw_only=True)
class EncoderTowerConfig(Config["EncoderTower"]):
    """An encoder of ours in a tower's place.

    Args:
        encoder: any, of frames or of short clips.
        grid: rows and columns that its tokens are resampled to; 0 leaves them.
        adapter: width that its features are mapped to by one linear map, 0: they are left.
        trained: whether the encoder learns.
    """

    encoder: Config[Encoder]
    grid: int = 0
    adapter: int = 0
    trained: bool = False

    def build(self) -> "EncoderTower":
        """Build or load the encoder.

        Raises:
            ConfigError: its tokens make no square.
        """
        return EncoderTower(self)


class EncoderTower(Tower):
    """The encoder's tokens of the last time step, on a grid of their own or the one wanted."""

    def __init__(self, config: EncoderTowerConfig) -> None:
        super().__init__()
        self.encoder = config.encoder.build().requires_grad_(config.trained)
        plain: Any = getattr(self.encoder, "config", config.encoder)
        self.config = replace(config, encoder=plain)
        (rows, _), width = grid_of(self.encoder, pooled=False)
        self.own, self.grid = rows, config.grid or rows
        self.frames, self.trained = repeats(self.encoder), config.trained
        self.adapter = nn.Linear(width, config.adapter) if config.adapter else None
        self.dim = config.adapter or width

    def train(self, mode: bool = True) -> "EncoderTower":
        """Switch; an encoder that does not learn stays in evaluation mode."""
        super().train(mode)
        if not self.trained:
            self.encoder.eval()
        return self

    def forward(self, video: UInt8[Tensor, "b t 3 h w"]) -> Float[Tensor, "b n d"]:
        """Look at the last frames; where there are too few, the last one stands for all."""
        features = self.features(video)
        return features if self.adapter is None else self.adapter(features)

    def features(self, video: UInt8[Tensor, "b t 3 h w"]) -> Float[Tensor, "b n e"]:
        """Return the encoder's tokens on the grid, before the adapter."""
        if video.shape[1] < self.frames:
            video = repeat(video[:, -1], "b c h w -> b t c h w", t=self.frames)
        frames = squares(video[:, -self.frames :], self.encoder.preprocessing.image_size)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trained):
            tokens = self.encoder(frames)[:, -1]
        return resample(tokens, self.grid)


def squares(video: UInt8[Tensor, "b t 3 h w"], size: int) -> UInt8[Tensor, "b t 3 s s"]:
    """Resize square frames, antialiased."""
    if video.shape[-1] == size:
        return video
    return linear(video.flatten(0, 1), size).unflatten(0, video.shape[:2])


def resample(tokens: Float[Tensor, "b n d"], grid: int) -> Float[Tensor, "b m d"]:
    """Move tokens to another square grid, bilinearly, so that places keep their meaning.

    Raises:
        ConfigError: they make no square.
    """
    side = isqrt(tokens.shape[1])
    if side * side != tokens.shape[1]:
        raise ConfigError(
            f"{tokens.shape[1]} tokens make no square grid, and none of {grid} x {grid}; use an "
            "encoder whose tokens do"
        )
    if side == grid:
        return tokens
    plane = rearrange(tokens, "b (y x) d -> b d y x", y=side)
    plane = F.interpolate(plane, (grid, grid), mode="bilinear", align_corners=False)
    return rearrange(plane, "b d y x -> b (y x) d")
