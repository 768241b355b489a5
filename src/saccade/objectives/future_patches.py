"""Predict hidden patches of a later frame, each stream by itself: the ``strong`` objective.

Every stream sees a random part of its patches and has a decoder of its own, which reads that
stream's patches and the fused CLS (the "change embedding"). So no decoder can add M to P pixel
by pixel, the CLS tokens are the only bridge, and they get gradient from every term:

    loss = sum over streams of  mean over hidden patches of (prediction - z(frame_{t+k}))^2

with ``z`` the per-patch normalisation. Masking after He et al. (2022, arXiv 2111.06377), decoders
per stream after ``spec/two_stream.md`` section 3, items 5 and 6.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saccade.config import Config
from saccade.models.decoders import PatchDecoder
from saccade.models.streams import Encoded, StreamsConfig
from saccade.nn.masking import Mask, fill, random_mask, take
from saccade.nn.patches import contrast, normalise_patches, patchify, unpatchify
from saccade.objectives.future_pixels import (
    frames_and_channels,
    gap_weight,
    invert_last,
    pair,
)
from saccade.types import Clip, Encoder, Objective


@dataclass(frozen=True, kw_only=True)
class FuturePatchesConfig(Config["FuturePatches"]):
    """Masks, decoders and targets.

    Args:
        encoder: the streams; ``--objective.encoder.variant`` selects every encoder ablation.
        motion_mask: share of hidden patches in a stream that reads motion only.
        form_mask: share of hidden patches in every other stream.
        decoder_dim: width of each decoder.
        decoder_depth: blocks of each decoder.
        decoder_heads: attention heads of each decoder.
        contrast_floor: patches flatter than this (standard deviation, full scale 1) are not
            stretched to full contrast, so that sensor noise is not a target.
        loss_decay: weight of a sample with gap k is exp(-loss_decay (k - 1)); 0 weighs all alike.
    """

    encoder: StreamsConfig = field(default_factory=lambda: StreamsConfig(border="replicate"))
    motion_mask: float = 0.5
    form_mask: float = 0.75
    decoder_dim: int = 512
    decoder_depth: int = 4
    decoder_heads: int = 8
    contrast_floor: float = 0.02
    loss_decay: float = 0.0

    def build(self) -> "FuturePatches":
        """Construct encoder and decoders with fresh weights."""
        return FuturePatches(self)


class FuturePatches(Objective):
    """Masked next-frame prediction, one decoder per stream."""

    sees_target = frozenset({"motion"})

    def __init__(self, config: FuturePatchesConfig) -> None:
        super().__init__()
        shape = config.encoder
        self.config = config
        self.encoder = shape.build()
        names = list(self.encoder.layout)
        self.blanks = nn.ParameterDict({name: torch.zeros(shape.dim) for name in names})
        self.decoders = nn.ModuleDict(
            {
                name: PatchDecoder(
                    inputs=shape.dim,
                    tokens=(shape.image_size // shape.patch) ** 2,
                    pixels=3 * shape.patch**2,
                    dim=config.decoder_dim,
                    depth=config.decoder_depth,
                    heads=config.decoder_heads,
                )
                for name in names
            }
        )
        for blank in self.blanks.values():
            nn.init.trunc_normal_(blank, std=0.02)

    def masks(self, clip: Clip) -> dict[str, Mask]:
        """Draw what each stream does not see, from the key of each sample."""
        tokens = (self.config.encoder.image_size // self.config.encoder.patch) ** 2
        return {
            name: random_mask(
                clip["key"],
                tokens,
                self.config.motion_mask if groups == ("motion",) else self.config.form_mask,
                stream=number,
            )
            for number, (name, groups) in enumerate(self.encoder.layout.items())
        }

    def predict(self, clip: Clip, masks: Mapping[str, Mask]) -> dict[str, Float[Tensor, "b n p"]]:
        """Return each stream's prediction of every (normalised) patch of the later frame."""
        tokens = self.encoder.embed(self.encoder.channels(pair(clip)))
        visible = {name: take(tokens[name], masks[name].keep) for name in tokens}
        encoded = self.encoder.encode(visible)
        summary = change_embedding(encoded)
        return {
            name: decoder(
                summary, fill(encoded.tokens[name][:, 1:], masks[name], self.blanks[name])
            )
            for name, decoder in self.decoders.items()
        }

    def terms(self, clip: Clip) -> Mapping[str, Float[Tensor, ""]]:
        """Return one mean squared error per stream, on its hidden patches."""
        masks = self.masks(clip)
        return self.errors(self.predict(clip, masks), masks, clip)

    def errors(
        self,
        predictions: Mapping[str, Float[Tensor, "b n p"]],
        masks: Mapping[str, Mask],
        clip: Clip,
    ) -> dict[str, Float[Tensor, ""]]:
        """Compare predictions with the later frame where their stream saw nothing."""
        target = self.target(clip, frame=1)
        weight = gap_weight(clip["gap"], self.config.loss_decay)
        return {
            name: (
                weight
                * (take(prediction.float(), masks[name].hide) - take(target, masks[name].hide))
                .square()
                .mean((1, 2))
            ).mean()
            for name, prediction in predictions.items()
        }

    def target(self, clip: Clip, frame: int) -> Float[Tensor, "b n p"]:
        """Return the normalised patches of a frame of the pair."""
        image = pair(clip)[:, frame].float() / 255
        return normalise_patches(
            patchify(image, self.config.encoder.patch), self.config.contrast_floor
        )

    def exports(self) -> dict[str, tuple[Encoder, Config[Encoder]]]:
        """Keep the encoder; the decoders have done their work."""
        return {"encoder": (self.encoder, self.config.encoder)}

    def inputs(self, clip: Clip) -> Mapping[str, Tensor]:
        """Return the channel groups that the streams read."""
        return self.encoder.channels(pair(clip))

    def without_target(self, clip: Clip) -> Clip:
        """Invert the later frame."""
        return invert_last(clip)

    def baselines(self, clip: Clip) -> Mapping[str, Float[Tensor, ""]]:
        """Return the loss of predicting that nothing moves, and of predicting flat patches."""
        masks, now = self.masks(clip), self.target(clip, frame=0)
        guesses = {"copy": now, "flat": torch.zeros_like(now)}
        return {
            name: torch.stack(
                list(self.errors(dict.fromkeys(masks, guess), masks, clip).values())
            ).sum()
            for name, guess in guesses.items()
        }

    def pictures(self, clip: Clip) -> Mapping[str, Float[Tensor, "b _ h w"]]:
        """Return both frames, what the streams see, and each stream's prediction.

        Predictions are shown with brightness and contrast of the *current* frame's patches, so
        nothing of the truth enters the picture.
        """
        shown = frames_and_channels(self.encoder.channels(pair(clip)), clip)
        now = patchify(pair(clip)[:, 0].float() / 255, self.config.encoder.patch)
        spread = contrast(now, self.config.contrast_floor)
        for name, prediction in self.predict(clip, self.masks(clip)).items():
            pixels = prediction.float() * spread + now.mean(-1, keepdim=True)
            shown[f"prediction {name}"] = unpatchify(pixels.clamp(0, 1), self.config.encoder.patch)
        return shown


def change_embedding(encoded: Encoded) -> Float[Tensor, "b d"]:
    """Fuse the final CLS tokens of all streams by their mean."""
    return torch.stack([cls[-1] for cls in encoded.stage_cls.values()]).mean(0)
