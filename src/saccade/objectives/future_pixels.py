"""Predict the pixels of a later frame with a U-Net: the ``original`` Two-Stream objective.

    loss = mean_i exp(-loss_decay (k_i - 1)) * MSE(prediction_i, frame_{t+k_i})

The weight belongs to the sample, so it is applied before the mean. The decoder sees the current
frame through its skip path, so ``now + change`` is within reach: read this loss only beside the
copy baseline. Described in ``spec/two_stream.md`` sections 3 and 4 (action-agnostic-visual-rl).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from saccade.config import Config
from saccade.models.decoders import PixelwiseFusion, UNetDecoder, check_unet
from saccade.models.streams import StreamsConfig
from saccade.nn.channels import luminance
from saccade.types import Clip, Encoder, Objective


@dataclass(frozen=True, kw_only=True)
class FuturePixelsConfig(Config["FuturePixels"]):
    """The published decoder, with one field for each published ablation.

    Args:
        encoder: the streams; ``--objective.encoder.variant`` selects every encoder ablation.
        cls_source: which CLS tokens shift the decoder: those of the stages, only the final one
            at all levels, or none (single-stream models).
        skip: give the decoder the current frame at a quarter of the resolution.
        width: channels of the decoder at 1/16 of the resolution.
        loss_decay: weight of a sample with gap k is exp(-loss_decay (k - 1)).
    """

    encoder: StreamsConfig = field(default_factory=StreamsConfig)
    cls_source: Literal["intermediate", "final", "none"] = "intermediate"
    skip: bool = True
    width: int = 512
    loss_decay: float = 0.5

    def build(self) -> "FuturePixels":
        """Construct encoder and decoder with fresh weights."""
        return FuturePixels(self)


class FuturePixels(Objective):
    """Next-frame prediction in pixels."""

    sees_target = frozenset({"motion"})

    def __init__(self, config: FuturePixelsConfig) -> None:
        super().__init__()
        shape, film = config.encoder, config.cls_source != "none"
        check_unet(shape.patch, shape.stages, film)
        self.config = config
        self.encoder = shape.build()
        streams = len(self.encoder.layout)
        self.fusion = PixelwiseFusion(shape.dim, streams) if streams > 1 else nn.Identity()
        self.decoder = UNetDecoder(shape.dim, config.width, film, config.skip, shape.patch)

    def predict(self, clip: Clip) -> Float[Tensor, "b 3 h w"]:
        """Return the predicted later frame, in [0, 1]."""
        video = pair(clip)
        encoded = self.encoder.encode(self.encoder.embed(self.encoder.channels(video)))
        patches = [tokens[:, 1:] for tokens in encoded.tokens.values()]
        fused = self.fusion(patches) if len(patches) > 1 else patches[0]
        cls = list(encoded.stage_cls.values())[-1]  # the form stream, where there is one
        if self.config.cls_source == "final":
            cls = [cls[-1]] * 3
        now = video[:, 0].float() / 255 if self.config.skip else None
        return self.decoder(fused, None if self.config.cls_source == "none" else cls, now)

    def terms(self, clip: Clip) -> Mapping[str, Float[Tensor, ""]]:
        """Return the weighted mean squared error."""
        return {"pixels": self.weighted(self.predict(clip), clip)}

    def weighted(self, prediction: Float[Tensor, "b 3 h w"], clip: Clip) -> Float[Tensor, ""]:
        """Average the squared error of every sample with its gap weight."""
        later = pair(clip)[:, 1].float() / 255
        error = (prediction.float() - later).square().mean((1, 2, 3))
        return (error * gap_weight(clip["gap"], self.config.loss_decay)).mean()

    def exports(self) -> dict[str, tuple[Encoder, Config[Encoder]]]:
        """Keep the encoder; fusion and decoder have done their work."""
        return {"encoder": (self.encoder, self.config.encoder)}

    def inputs(self, clip: Clip) -> Mapping[str, Tensor]:
        """Return the channel groups and the frame of the skip path."""
        video = pair(clip)
        return {**self.encoder.channels(video), "skip": video[:, 0]}

    def without_target(self, clip: Clip) -> Clip:
        """Invert the later frame."""
        return invert_last(clip)

    def baselines(self, clip: Clip) -> Mapping[str, Float[Tensor, ""]]:
        """Return the loss of predicting that nothing moves."""
        return {"copy": self.weighted(pair(clip)[:, 0].float() / 255, clip)}

    def pictures(self, clip: Clip) -> Mapping[str, Float[Tensor, "b _ h w"]]:
        """Return both frames, the prediction and what the streams see."""
        prediction = self.predict(clip).float()
        return {
            **frames_and_channels(self.encoder.channels(pair(clip)), clip),
            "prediction": prediction,
        }


def pair(clip: Clip) -> Tensor:
    """Return first and last frame of the first camera as ``uint8 [b, 2, 3, h, w]``."""
    return clip["video"][:, [0, -1], 0]


def gap_weight(gap: Int64[Tensor, " b"], decay: float) -> Float[Tensor, " b"]:
    """Weigh samples by their gap: exp(-decay (gap - 1))."""
    return torch.exp(-decay * (gap.float() - 1))


def invert_last(clip: Clip) -> Clip:
    """Return the clip with the colours of its last frame inverted."""
    video = clip["video"].clone()
    video[:, -1] = 255 - video[:, -1]
    return {**clip, "video": video}


def frames_and_channels(
    channels: Mapping[str, Float[Tensor, "b _ h w"]], clip: Clip
) -> dict[str, Float[Tensor, "b _ h w"]]:
    """Return the frames, and M (grey is no change) and P (strength of edges) as pictures."""
    now, later = (pair(clip)[:, i].float() / 255 for i in (0, 1))
    shown = {"now": now, "later": later}
    if "motion" in channels:
        shown["motion"] = 0.5 + 0.5 * luminance(channels["motion"][:, 1:])
    if "form" in channels:
        shown["form"] = channels["form"][:, :2].square().sum(1, keepdim=True).sqrt().clamp(max=1)
    return shown
