"""How any encoder, whatever clips it is made for, is shown one frame; and what tells it apart."""

from math import isqrt

import torch
import torch.nn.functional as F
from einops import rearrange

from saccade.errors import CheckpointError, ConfigError
from saccade.models.vjepa2.encoder import VJepa2
from saccade.types import Encoder

PROBES = 64  # features that make up a fingerprint
SAME = 0.05  # root mean square; bfloat16 moves normalised features by 0.02, other weights by 1


def repeats(encoder: Encoder) -> int:
    """Return how often one frame is shown to an encoder: one tubelet, or the clip it insists on."""
    if isinstance(encoder, VJepa2):
        return 1 if encoder.config.frames == "each" else encoder.config.tubelet
    return encoder.preprocessing.num_frames


@torch.no_grad()
def grid_of(encoder: Encoder, pooled: bool) -> tuple[tuple[int, int], int]:
    """Return rows and columns of the features that an encoder gives of a frame, and their width.

    Raises:
        ConfigError: they make no square.
    """
    size = encoder.preprocessing.image_size
    device = next(encoder.parameters(), torch.empty(0)).device
    black = torch.zeros(1, repeats(encoder), 3, size, size, dtype=torch.uint8, device=device)
    tokens = encoder(black)
    if pooled:
        return (1, 1), encoder.pool(tokens).shape[1]
    count, width = tokens.shape[2:]
    side = isqrt(count)
    if side * side != count:
        raise ConfigError(
            f"the encoder gives {count} features of a frame, which is no square; say how many rows "
            "and columns they are in predictor.grid"
        )
    return (side, side), width


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


def check_fingerprint(encoder: Encoder, expected: list[float], source: str) -> None:
    """Refuse another encoder.

    Raises:
        CheckpointError: its features of the fixed image differ by more than rounding.
    """
    found = torch.tensor(fingerprint(encoder))
    apart = float((found - torch.tensor(expected)).square().mean().sqrt())
    if not apart <= SAME:
        raise CheckpointError(
            f"{source} was trained on the features of another {type(encoder).__name__}: those of "
            f"a fixed image are {apart:.2f} apart, at most {SAME} is rounding; give the encoder "
            "that it was trained with"
        )
