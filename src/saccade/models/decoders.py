"""Decoders that turn tokens into the next frame. They are thrown away after pretraining."""

import itertools

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from saccade.errors import ConfigError
from saccade.nn.batch_norm import SyncedBatchNorm
from saccade.nn.transformer import Block, init_weights


class PixelwiseFusion(nn.Module):
    """Join the patch tokens of all streams, location by location (3.3.2 of the plan's memo).

    The published fusion has a second map for the CLS tokens, which no loss ever reaches; it is
    left out, so nothing random can be exported.
    """

    def __init__(self, dim: int, streams: int) -> None:
        super().__init__()
        self.join = nn.Linear(streams * dim, dim)

    def forward(self, tokens: list[Float[Tensor, "b n d"]]) -> Float[Tensor, "b n d"]:
        """Return one token per location; it depends on that location only."""
        return self.join(torch.cat(tokens, dim=-1))


def up(inputs: int, outputs: int) -> nn.Sequential:
    """Double the resolution."""
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1),
        SyncedBatchNorm(outputs),
        nn.GELU(),
    )


def conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    """Convolve, normalise, bend."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), SyncedBatchNorm(outputs), nn.GELU()
    )


class UNetDecoder(nn.Module):
    """Doublings from one cell per patch to the frame: four of them for patches of 16 pixels.

    After the first three, a CLS token shifts the channels (additive FiLM): the final one, that
    of stage 2, that of stage 1, so the coarse picture gets the most abstract summary. A small
    convolutional path carries the current frame to 1/4 of the resolution. Without both it is the
    older patch-only decoder.
    """

    def __init__(self, dim: int, width: int, film: bool, skip: bool, patch: int = 16) -> None:
        super().__init__()
        levels = patch.bit_length() - 1
        widths = [width // 2**i for i in range(levels + 1)]
        self.skip_level = levels - 3  # the doubling that reaches 1/4 of the resolution
        self.stem = nn.Sequential(nn.Linear(dim, width), nn.LayerNorm(width), nn.GELU())
        self.ups = nn.ModuleList(up(a, b) for a, b in itertools.pairwise(widths))
        self.films = nn.ModuleList(nn.Linear(dim, w) for w in widths[1:4]) if film else None
        self.skip = self.merge = None
        if skip:
            fine, finer, merged = widths[-2], widths[-1], widths[self.skip_level + 1]
            self.skip = nn.Sequential(conv(3, finer, 7, 2), conv(finer, fine, 3, 2))
            self.merge = conv(fine + merged, merged, 1, 1)
        last = widths[-1]
        self.head = nn.Sequential(
            nn.Conv2d(last, last, 3, padding=1), nn.GELU(), nn.Conv2d(last, 3, 1)
        )
        init_weights(self)

    def forward(
        self,
        patches: Float[Tensor, "b n d"],
        cls: list[Float[Tensor, "b d"]] | None,
        now: Float[Tensor, "b 3 h w"] | None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Return the predicted frame in [0, 1].

        ``cls`` are the tokens after stage 1, after stage 2 and at the end; ``now`` is the
        current frame, for the skip path.
        """
        side = round(patches.shape[1] ** 0.5)
        x = rearrange(self.stem(patches), "b (i j) d -> b d i j", i=side)
        for level, double in enumerate(self.ups):
            x = double(x)
            if self.films is not None and level < 3:
                assert cls is not None
                x = x + self.films[level](cls[2 - level])[:, :, None, None]
            if level == self.skip_level and self.skip is not None and self.merge is not None:
                x = self.merge(torch.cat([x, self.skip(now)], dim=1))
        return torch.sigmoid(self.head(x))


class PatchDecoder(nn.Module):
    """A narrow transformer from tokens to the pixels of every patch (He et al., 2022)."""

    def __init__(
        self, inputs: int, tokens: int, pixels: int, dim: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        self.stem = nn.Linear(inputs, dim)
        self.position = nn.Parameter(torch.zeros(1 + tokens, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, pixels)
        init_weights(self)
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(
        self, cls: Float[Tensor, "b d"], patches: Float[Tensor, "b n d"]
    ) -> Float[Tensor, "b n p"]:
        """Return the pixels of every patch, from all patch tokens and one summary token."""
        x = self.stem(torch.cat([cls[:, None], patches], dim=1)) + self.position
        return self.head(self.norm(self.blocks(x))[:, 1:])


def check_unet(patch: int, stages: int, film: bool) -> None:
    """Refuse shapes that the U-Net decoder cannot draw.

    Raises:
        ConfigError: it names the field.
    """
    if patch not in (8, 16, 32):
        raise ConfigError(f"the U-Net decoder doubles per level: patch is 8, 16 or 32, not {patch}")
    if film and stages != 3:
        raise ConfigError(f"FiLM reads the CLS of 3 stages, not {stages}; set cls_source to 'none'")
