"""Frozen encoders that others published, from a folder of the hub, with transformers' networks.

One frame in: DINOv2 (with registers or not), DINOv3, CLIP, SigLIP, SigLIP 2 of fixed resolution,
ViT-MAE, I-JEPA. Clips in: VideoMAE, V-JEPA 2. The folder says what pixels they expect
(``pixels.py``). Tokens are the network's last hidden state without its class and register tokens,
a square grid for each time step, in the order of rows.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from saccade.checkpoint import CONFIG
from saccade.config import Config
from saccade.errors import CheckpointError, ConfigError
from saccade.models.hub_folder import load_network, part_settings, read_json, require_transformers
from saccade.models.published.pixels import PIXELS, Filter, cut, read_pixels, require_size
from saccade.models.vjepa2.encoder import VJepa2Config
from saccade.models.vjepa2.published import PublishedVJepa2Config
from saccade.types import Encoder, Preprocessing

TEXT = ("text_model.", "text_projection.", "visual_projection.", "logit_")
DECODER = ("decoder.", "encoder_to_decoder.", "mask_token", "classifier.", "fc_norm.")
NAFLEX = "siglip2"


class Kind(NamedTuple):
    """Where transformers has a network, and how many of its tokens are no patches."""

    module: str
    name: str
    registers: str = ""  # the setting that counts them
    cls: int = 1
    any_size: bool = False  # positions are interpolated to other sizes than that of training
    filter: Filter = "bicubic"  # of the family's processor, for files that name none
    pixels: str = PIXELS
    others: tuple[str, ...] = ()  # beginnings of the names of parts that are no encoder


KINDS = {
    "dinov2": Kind("dinov2", "Dinov2", any_size=True),
    "dinov2_with_registers": Kind(
        "dinov2_with_registers", "Dinov2WithRegisters", "num_register_tokens", any_size=True
    ),
    "dinov3_vit": Kind(
        "dinov3_vit", "DINOv3ViT", "num_register_tokens", any_size=True, filter="bilinear"
    ),
    "siglip": Kind("siglip", "SiglipVision", cls=0, others=TEXT),
    "siglip_vision_model": Kind("siglip", "SiglipVision", cls=0, others=TEXT),
    "clip": Kind("clip", "CLIPVision", others=TEXT),
    "clip_vision_model": Kind("clip", "CLIPVision", others=TEXT),
    "vit_mae": Kind("vit_mae", "ViTMAE", filter="bilinear", others=DECODER),
    "ijepa": Kind("ijepa", "IJepa", cls=0, filter="bilinear"),
    "videomae": Kind("videomae", "VideoMAE", cls=0, filter="bilinear", others=DECODER),
    "vjepa2": Kind(
        "vjepa2", "VJEPA2", cls=0, filter="bilinear", pixels="video_preprocessor_config.json"
    ),
}


@dataclass(frozen=True, kw_only=True)
class PublishedVisionConfig(Config["PublishedVision"]):
    """A network on this machine.

    Args:
        folder: ``config.json``, weights and ``preprocessor_config.json``, such as
            facebook/dinov2-base, google/siglip-base-patch16-224, openai/clip-vit-base-patch16.
        num_frames: of a clip, where the network takes any number (V-JEPA 2); None takes that of
            its pretraining.
    """

    folder: Path
    num_frames: int | None = None

    def build(self) -> "PublishedVision":
        """Load the network.

        Raises:
            CheckpointError: something is missing, of another kind, contradicts itself, or a
                weight does not fit.
        """
        require_transformers(self.folder)
        model_type, vision = read_settings(self.folder)
        kind = KINDS[model_type]
        if self.num_frames and kind.module == "vjepa2":
            vision = {**vision, "frames_per_clip": self.num_frames}
        kept = KeptVisionConfig(
            kind=model_type,
            settings=json.dumps(vision),
            pixels=json.dumps(read_json(self.folder, kind.pixels)),
        )
        if kind.module == "vjepa2":
            options: Any = {"num_frames": self.num_frames, "dtype": "float32"}
            network: Any = PublishedVJepa2Config(source=str(self.folder), **options).build()
        else:
            _, shape = read_shape(kind, vision)
            network = load_network(network_class(kind), shape, self.folder, kind.others)
        return PublishedVision(kept, network)


@dataclass(frozen=True, kw_only=True)
class KeptVisionConfig(Config["PublishedVision"]):
    """A network whose weights are among those of a saved model.

    Args:
        kind: ``model_type`` of the hub.
        settings: those of the network, as JSON.
        pixels: what ``preprocessor_config.json`` says, as JSON.
    """

    kind: str
    settings: str
    pixels: str

    def build(self) -> "PublishedVision":
        """Construct the network, to be filled from a state dict.

        Raises:
            CheckpointError: what it expects of pixels is unknown or contradictory.
        """
        require_transformers(Path(PIXELS))
        return PublishedVision(self)


class Shape(NamedTuple):
    """What tokens a network makes of what pixels, whatever its own settings call it."""

    image_size: int
    patch: int
    dim: int
    num_frames: int = 1
    tubelet: int = 1


class PublishedVision(Encoder):
    """One frame or clip in, a square grid of tokens out for each time step."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: KeptVisionConfig, network: Any = None) -> None:
        super().__init__()
        self.kind = KINDS[config.kind]
        shape, settings = read_shape(self.kind, json.loads(config.settings))
        pixels = read_pixels(json.loads(config.pixels), self.kind.filter, self.kind.pixels)
        any_size = self.kind.any_size or self.kind.module == "vjepa2"
        require_size(pixels.size, shape.image_size, shape.patch, any_size)
        self.config, self.shape, self.pixels = config, shape, pixels
        self.embed_dim, self.edge = shape.dim, pixels.edge
        registers = getattr(settings, self.kind.registers) if self.kind.registers else 0
        self.skipped = self.kind.cls + registers
        self.preprocessing = Preprocessing(num_frames=shape.num_frames, image_size=pixels.size)
        network = build_network(self.kind, settings) if network is None else network
        self.network: Any = network.requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor(pixels.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(pixels.std).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> "PublishedVision":
        """Stay in evaluation mode."""
        return super().train(False)

    def prepare(self, video: UInt8[Tensor, "b t 3 h w"]) -> UInt8[Tensor, "b t 3 s s"]:
        """Cut frames as the family's processor does."""
        return cut(video, self.pixels)

    @torch.no_grad()
    def forward(self, video: UInt8[Tensor, "b t 3 h w"]) -> Float[Tensor, "b u n d"]:
        """Encode frames.

        Raises:
            ConfigError: there are more or fewer than the network takes.
            CheckpointError: the tokens make no square.
        """
        count, expected = video.shape[1], self.shape.num_frames
        if count != expected and self.kind.module != "vjepa2":
            raise ConfigError(
                f"{self.kind.name} takes {expected} frames at a time, not {count}; give them so"
            )
        tokens = self._tokens((video.float() / 255 - self.mean) / self.std).float()
        patches = tokens.shape[2]
        if isqrt(patches) ** 2 != patches:
            raise CheckpointError(
                f"the network gives {patches} tokens of a square picture, which is no square "
                "number; its model_type or number of registers is not what config.json says"
            )
        return tokens

    def _tokens(self, pixels: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b u n d"]:
        if self.kind.module == "vjepa2":
            return self.network.encode(pixels)
        if self.shape.num_frames > 1:
            tokens = self.network(pixel_values=pixels).last_hidden_state
            return rearrange(
                tokens, "b (u n) d -> b u n d", u=pixels.shape[1] // self.shape.tubelet
            )
        more: dict[str, Tensor] = {}
        if self.kind.module == "vit_mae":  # it shuffles patches by this noise, even to keep all
            patches = (pixels.shape[-1] // self.shape.patch) ** 2
            order = torch.arange(patches, dtype=torch.float32, device=pixels.device)
            more["noise"] = order.expand(len(pixels), -1)
        tokens = self.network(pixel_values=pixels[:, 0], **more).last_hidden_state
        return rearrange(tokens[:, self.skipped :], "b n d -> b 1 n d")


def read_settings(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the ``model_type`` of a folder, and the settings of its vision network.

    Raises:
        CheckpointError: it is of another kind.
    """
    settings = read_json(folder, CONFIG)
    kind = settings.get("model_type")
    if isinstance(kind, str) and kind.startswith(NAFLEX):
        raise CheckpointError(
            f"{folder} is a SigLIP 2 of the NaFlex kind, whose grid of tokens changes with the "
            "shape of each picture; give one of fixed resolution, such as "
            "google/siglip2-base-patch16-224"
        )
    vision = part_settings(settings, "vision", KINDS, str(folder))
    return settings["model_type"], vision


def read_shape(kind: Kind, said: Mapping[str, Any]) -> tuple[Shape, Any]:
    """Return what is needed of a network's settings, and them as its own class."""
    module = import_module(f"transformers.models.{kind.module}.configuration_{kind.module}")
    settings = getattr(module, f"{kind.name}Config").from_dict(dict(said))
    size, frames, tubelet = "image_size", 1, 1
    if kind.module == "vit_mae":
        settings.mask_ratio = 0.0
    if kind.module == "videomae":
        frames, tubelet = settings.num_frames, settings.tubelet_size
    if kind.module == "vjepa2":
        size, frames, tubelet = "crop_size", settings.frames_per_clip, settings.tubelet_size
    side, patch = getattr(settings, size), settings.patch_size
    return Shape(side, patch, settings.hidden_size, frames, tubelet), settings


def build_network(kind: Kind, settings: Any) -> Any:
    """Return a network with fresh weights."""
    if kind.module != "vjepa2":
        return network_class(kind)(settings)
    return VJepa2Config(
        image_size=settings.crop_size,
        num_frames=settings.frames_per_clip,
        tubelet=settings.tubelet_size,
        patch=settings.patch_size,
        dim=settings.hidden_size,
        depth=settings.num_hidden_layers,
        heads=settings.num_attention_heads,
        mlp=round(settings.hidden_size * settings.mlp_ratio),
    ).build()


def network_class(kind: Kind) -> Any:
    """Return transformers' class of a network."""
    module = import_module(f"transformers.models.{kind.module}.modeling_{kind.module}")
    return getattr(module, f"{kind.name}Model")
