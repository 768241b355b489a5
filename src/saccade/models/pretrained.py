"""Encoders that some run has already trained, usable wherever a fresh one is."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange

from saccade.config import Config
from saccade.models.vjepa2.encoder import VJepa2
from saccade.types import Encoder

PROBES = 64  # features that make up a fingerprint


@dataclass(frozen=True, kw_only=True)
class PretrainedConfig(Config[Encoder]):
    """``folder`` is what a run exported, for example ``runs/first/encoder``."""

    folder: Path
    trainable: bool = False

    def build(self) -> Encoder:
        """Load the encoder, frozen unless asked otherwise."""
        return Encoder.from_pretrained(self.folder).requires_grad_(self.trainable)


@torch.no_grad()
def fingerprint(encoder: Encoder) -> list[float]:
    """Return some normalised features of a fixed image: the same weights, the same numbers."""
    if isinstance(encoder, VJepa2):
        return encoder.fingerprint()
    expected = encoder.preprocessing
    device = next(encoder.parameters(), torch.empty(0)).device
    y, x, colour = torch.meshgrid(
        *(torch.arange(size) for size in (expected.image_size, expected.image_size, 3)),
        indexing="ij",
    )
    pixels = (7 * x + 3 * y + x * y // 5 + 80 * colour) % 256
    frame = rearrange(pixels.to(torch.uint8), "h w c -> 1 1 c h w").to(device)
    tokens = encoder(frame.expand(-1, expected.num_frames, -1, -1, -1)).float()
    values = F.layer_norm(tokens, tokens.shape[-1:]).flatten()
    return values[torch.linspace(0, len(values) - 1, PROBES).long().to(device)].tolist()
