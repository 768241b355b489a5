"""Frozen image encoders that others published: DINOv2, SigLIP and CLIP, from a folder of the hub.

The folder says what pixels they expect (``preprocessor_config.json``); what it does not say, or
says twice and differently, is an error: features of wrongly normalised pixels look plausible.
Tokens are the network's last hidden state without its class and register tokens, a square grid.
"""

import json
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
from saccade.errors import CheckpointError
from saccade.models.hub_folder import load_network, part_settings, read_json, require_transformers
from saccade.types import Encoder, Preprocessing

PIXELS = "preprocessor_config.json"
TOLERANCE = 1e-6
OTHERS = ("text_model.", "text_projection.", "visual_projection.", "logit_")


class Kind(NamedTuple):
    """Where transformers has a network, and how many of its tokens are no patches."""

    module: str
    name: str
    registers: str = ""  # the setting that counts them
    cls: int = 1
    any_size: bool = False  # positions are interpolated to other sizes than that of training


KINDS = {
    "dinov2": Kind("dinov2", "Dinov2", any_size=True),
    "dinov2_with_registers": Kind(
        "dinov2_with_registers", "Dinov2WithRegisters", "num_register_tokens", any_size=True
    ),
    "siglip": Kind("siglip", "SiglipVision", cls=0),
    "siglip_vision_model": Kind("siglip", "SiglipVision", cls=0),
    "clip": Kind("clip", "CLIPVision"),
    "clip_vision_model": Kind("clip", "CLIPVision"),
}


@dataclass(frozen=True, kw_only=True)
class PublishedVisionConfig(Config["PublishedVision"]):
    """A network on this machine.

    Args:
        folder: ``config.json``, safetensors and ``preprocessor_config.json``, such as
            facebook/dinov2-base, google/siglip-base-patch16-224, openai/clip-vit-base-patch16.
    """

    folder: Path

    def build(self) -> "PublishedVision":
        """Load the network.

        Raises:
            CheckpointError: something is missing, of another kind, contradicts itself, or a
                weight does not fit.
        """
        require_transformers(self.folder)
        settings = read_json(self.folder, CONFIG)
        vision = part_settings(settings, "vision", KINDS, str(self.folder))
        kept = KeptVisionConfig(
            kind=settings["model_type"],
            settings=json.dumps(vision),
            pixels=json.dumps(read_json(self.folder, PIXELS)),
        )
        encoder = kept.build()
        kind, shape = type(encoder.network), encoder.network.config
        encoder.network = load_network(kind, shape, self.folder, OTHERS)
        return encoder


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


class Pixels(NamedTuple):
    """What a network expects: squares of this size, in [0, 1], minus the mean, over the std."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class PublishedVision(Encoder):
    """One frame in, a square grid of tokens out."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: KeptVisionConfig) -> None:
        super().__init__()
        kind = KINDS[config.kind]
        module = f"transformers.models.{kind.module}"
        settings_class = getattr(
            import_module(f"{module}.configuration_{kind.module}"), f"{kind.name}Config"
        )
        network_class = getattr(
            import_module(f"{module}.modeling_{kind.module}"), f"{kind.name}Model"
        )
        settings = settings_class.from_dict(json.loads(config.settings))
        pixels = read_pixels(json.loads(config.pixels))
        require_size(pixels.size, settings.image_size, settings.patch_size, kind.any_size)
        self.config, self.embed_dim = config, settings.hidden_size
        self.skipped = kind.cls + (getattr(settings, kind.registers) if kind.registers else 0)
        self.preprocessing = Preprocessing(num_frames=1, image_size=pixels.size)
        self.network: Any = network_class(settings).requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor(pixels.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(pixels.std).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> "PublishedVision":
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, video: UInt8[Tensor, "b 1 3 h w"]) -> Float[Tensor, "b 1 n d"]:
        """Encode frames.

        Raises:
            CheckpointError: the tokens make no square.
        """
        pixels = (video[:, 0].float() / 255 - self.mean) / self.std
        tokens = self.network(pixel_values=pixels).last_hidden_state[:, self.skipped :]
        count = tokens.shape[1]
        if isqrt(count) ** 2 != count:
            raise CheckpointError(
                f"the network gives {count} tokens of a square picture, which is no square number; "
                "its model_type or number of registers is not what config.json says"
            )
        return rearrange(tokens.float(), "b n d -> b 1 n d")


def read_pixels(said: dict[str, Any]) -> Pixels:
    """Read what ``preprocessor_config.json`` says; what it may leave out is as in transformers.

    Raises:
        CheckpointError: it says too little, what we do not do, or contradicts itself.
    """
    factor = said.get("rescale_factor", 1 / 255)
    if said.get("do_rescale", True) is not True or abs(factor * 255 - 1) > TOLERANCE:
        raise CheckpointError(
            f"{PIXELS} has do_rescale {said.get('do_rescale')!r} and rescale_factor {factor!r}; "
            "only 1/255, pixels in [0, 1], is known here"
        )
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if said.get("do_normalize", True):
        mean, std = _colours(said, "image_mean"), _colours(said, "image_std")
    if min(std) <= 0:
        raise CheckpointError(f"{PIXELS} has image_std {std}; deviations are above 0")
    resized = _side(said, "size") if said.get("do_resize", True) else 0
    cropped = _side(said, "crop_size") if said.get("do_center_crop", False) else 0
    if not (cropped or resized) or (cropped > resized > 0):
        raise CheckpointError(
            f"{PIXELS} resizes to {resized} and crops {cropped}; correct size or crop_size, so "
            "that they say what square the network takes"
        )
    return Pixels(cropped or resized, mean, std)


def _colours(said: dict[str, Any], name: str) -> tuple[float, ...]:
    values = said.get(name)
    if not isinstance(values, list) or len(values) != 3:
        raise CheckpointError(f"{PIXELS} has {name} {values!r}, not three numbers, one per colour")
    return tuple(float(value) for value in values)


def _side(said: dict[str, Any], name: str) -> int:
    """Return the side of a square, or the shortest edge from which one is cropped."""
    value = said.get(name)
    given = value.values() if isinstance(value, dict) else [value]
    sides = [side for side in given if isinstance(side, int) and side > 0]
    cropped = name == "size" and said.get("do_center_crop", False)
    if len(set(sides)) != 1 or len(sides) != len(given):
        raise CheckpointError(f"{PIXELS} has {name} {value!r}, not the side of a square in pixels")
    if isinstance(value, dict) and "shortest_edge" in value and not cropped:
        raise CheckpointError(
            f"{PIXELS} has {name} {value!r} and crops no square out of it; set do_center_crop and "
            "crop_size"
        )
    return sides[0]


def require_size(size: int, trained: int, patch: int, any_size: bool) -> None:
    """Compare both files of a folder.

    Raises:
        CheckpointError: the network cannot take pictures of that size.
    """
    if size % patch or (size != trained and not any_size):
        raise CheckpointError(
            f"{PIXELS} prepares {size} pixels, but the network takes {trained} in patches of "
            f"{patch}; correct one of the two files"
        )
