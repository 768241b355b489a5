"""VideoMAE: rebuild the pixels of masked tubes (Tong et al., 2022).

Every time step hides the same patches, so the answer cannot be copied from a neighbouring
frame. The encoder sees visible tokens only; a narrow decoder predicts, for each hidden tubelet,
its pixels normalised to zero mean and unit variance. https://arxiv.org/abs/2203.12602
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from saccade.config import Config
from saccade.models.vit import ViTConfig
from saccade.nn.masking import Mask, take, tube_mask
from saccade.nn.patches import contrast, normalise_patches
from saccade.nn.position import sinusoid
from saccade.nn.transformer import Block, init_weights
from saccade.types import Clip, Encoder, Objective


@dataclass(frozen=True, kw_only=True)
class VideoMAEConfig(Config["VideoMAE"]):
    """Mask ratio and decoder follow the paper; 0.75 suits pairs, 0.9 clips of 16 frames.

    Args:
        encoder: the vision transformer that is kept.
        mask_ratio: share of hidden tubes.
        decoder_dim: width of the decoder.
        decoder_depth: blocks of the decoder.
        decoder_heads: attention heads of the decoder.
        contrast_floor: tubelets flatter than this (standard deviation, full scale 1) are not
            stretched to full contrast; 1e-6 is the authors' value.
    """

    encoder: ViTConfig = field(default_factory=ViTConfig)
    mask_ratio: float = 0.75
    decoder_dim: int = 384
    decoder_depth: int = 4
    decoder_heads: int = 6
    contrast_floor: float = 1e-6

    def build(self) -> "VideoMAE":
        """Construct encoder and decoder with fresh weights."""
        return VideoMAE(self)


class VideoMAE(Objective):
    """Masked-autoencoder pretraining of a video ViT."""

    position: Tensor

    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = config.encoder.build()
        dim = config.decoder_dim
        pixels = 3 * config.encoder.tubelet * config.encoder.patch**2
        self.to_decoder = nn.Linear(config.encoder.dim, dim, bias=False)
        self.blank = nn.Parameter(torch.zeros(dim))
        table = sinusoid(len(self.encoder.position), dim)
        self.register_buffer("position", table, persistent=False)
        self.decoder = nn.Sequential(
            *(Block(dim, config.decoder_heads) for _ in range(config.decoder_depth))
        )
        self.norm = nn.LayerNorm(dim)
        self.to_pixels = nn.Linear(dim, pixels)
        for part in (self.to_decoder, self.decoder, self.to_pixels):
            init_weights(part)
        nn.init.trunc_normal_(self.blank, std=0.02)

    def mask(self, clip: Clip) -> Mask:
        """Draw the hidden tubes from the key of each sample."""
        encoder = self.encoder
        return tube_mask(
            clip["key"], encoder.steps, encoder.tokens_per_step, self.config.mask_ratio
        )

    def predict(self, clip: Clip, mask: Mask) -> Float[Tensor, "b q p"]:
        """Return the normalised pixels of the hidden tubelets."""
        seen = self.encoder.mix(take(self.encoder.embed(first_view(clip)), mask.keep))
        seen = self.to_decoder(seen)
        blank = self.blank.to(seen.dtype).expand(*mask.hide.shape, -1)
        order = torch.cat([mask.keep, mask.hide], dim=1)
        tokens = self.decoder(torch.cat([seen, blank], dim=1) + self.position[order])
        return self.to_pixels(self.norm(tokens[:, mask.keep.shape[1] :]))

    def target(self, clip: Clip, mask: Mask) -> Float[Tensor, "b q p"]:
        """Return what should be predicted.

        Each colour of a tubelet is normalised by itself, as in the authors' code.
        """
        return rearrange(
            normalise_patches(self.by_colour(clip, mask), self.config.contrast_floor),
            "b (q c) p -> b q (p c)",
            c=3,
        )

    def by_colour(self, clip: Clip, mask: Mask) -> Float[Tensor, "b qc p"]:
        """Return hidden tubelets in [0, 1], one row per colour."""
        cut = take(self.encoder.patchify(first_view(clip).float() / 255), mask.hide)
        return rearrange(cut, "b q (p c) -> b (q c) p", c=3)

    def terms(self, clip: Clip) -> Mapping[str, Float[Tensor, ""]]:
        """Return the mean squared error on hidden tubelets."""
        mask = self.mask(clip)
        error = self.predict(clip, mask).float() - self.target(clip, mask)
        return {"tubes": error.square().mean()}

    def exports(self) -> dict[str, tuple[Encoder, Config[Encoder]]]:
        """Keep the encoder; the decoder has done its work."""
        return {"encoder": (self.encoder, self.config.encoder)}

    def inputs(self, clip: Clip) -> Mapping[str, Tensor]:
        """Return the visible tubelets."""
        pixels = self.encoder.patchify(first_view(clip).float() / 255)
        return {"visible": take(pixels, self.mask(clip).keep)}

    def without_target(self, clip: Clip) -> Clip:
        """Invert the hidden tubes."""
        mask, encoder = self.mask(clip), self.encoder
        hidden = torch.zeros(len(clip["key"]), len(encoder.position), device=mask.hide.device)
        hidden.scatter_(1, mask.hide, 1.0)
        side = round(encoder.tokens_per_step**0.5)
        grid = rearrange(hidden.bool(), "b (u i j) -> b u 1 1 i j", i=side, j=side)
        patch, tubelet = encoder.config.patch, encoder.config.tubelet
        pixels = grid.repeat_interleave(tubelet, 1)
        pixels = pixels.repeat_interleave(patch, -2).repeat_interleave(patch, -1)
        return {**clip, "video": torch.where(pixels, 255 - clip["video"], clip["video"])}

    def baselines(self, clip: Clip) -> Mapping[str, Float[Tensor, ""]]:
        """Return the loss of predicting flat tubelets of the right brightness."""
        return {"flat": self.target(clip, self.mask(clip)).square().mean()}

    def pictures(self, clip: Clip) -> Mapping[str, Float[Tensor, "b _ h w"]]:
        """Return first and last frame, the last with hidden tubes grey, and with them predicted.

        The prediction is shown with the true brightness and contrast of each tubelet, as in the
        paper: normalised targets do not say them.
        """
        video, mask = first_view(clip).float() / 255, self.mask(clip)
        rows = self.by_colour(clip, mask)
        spread = contrast(rows, self.config.contrast_floor)
        guess = rearrange(self.predict(clip, mask).float(), "b q (p c) -> b (q c) p", c=3)
        guess = guess * spread + rows.mean(-1, keepdim=True)
        shown = {"now": video[:, 0], "later": video[:, -1]}
        for name, rows_shown in (("masked", torch.full_like(rows, 0.5)), ("prediction", guess)):
            cut = self.encoder.patchify(video)
            hidden = rearrange(rows_shown.clamp(0, 1), "b (q c) p -> b q (p c)", c=3)
            index = mask.hide[..., None].expand(-1, -1, cut.shape[-1])
            shown[name] = self.unpatchify(cut.scatter(1, index, hidden))[:, -1]
        return shown

    def unpatchify(self, tubelets: Float[Tensor, "b l p"]) -> Float[Tensor, "b t 3 h w"]:
        """Invert ``ViT.patchify``."""
        shape = self.encoder.config
        side = shape.image_size // shape.patch
        return rearrange(
            tubelets,
            "b (u i j) (dt y x c) -> b (u dt) c (i y) (j x)",
            i=side,
            j=side,
            dt=shape.tubelet,
            y=shape.patch,
            x=shape.patch,
        )


def first_view(clip: Clip) -> Tensor:
    """Return the clips of the first camera as ``uint8 [b, t, 3, h, w]``."""
    return clip["video"][:, :, 0]
