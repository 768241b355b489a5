"""Single-Stream: the baseline of Two-Stream, one ViT on motion and form channels stacked.

It differs from the Two-Stream recipe in one field, ``objective.encoder.variant`` (and in the
U-Net's FiLM, which only stages of a form stream can feed).
"""

from dataclasses import replace

from saccade.errors import ConfigError
from saccade.experiments.training import Training
from saccade.models.streams import Variant
from saccade.objectives.future_patches import FuturePatchesConfig
from saccade.objectives.future_pixels import FuturePixelsConfig
from saccade.recipes import two_stream


def ablated(training: Training, variant: Variant) -> Training:
    """Return a Two-Stream training with another encoder variant."""
    objective = training.objective
    if isinstance(objective, FuturePixelsConfig):
        encoder = replace(objective.encoder, variant=variant)
        film = objective.cls_source if variant == "no_exchange" else "none"
        return replace(training, objective=replace(objective, encoder=encoder, cls_source=film))
    if isinstance(objective, FuturePatchesConfig):
        encoder = replace(objective.encoder, variant=variant)
        return replace(training, objective=replace(objective, encoder=encoder))
    raise ConfigError(f"{type(objective).__name__} has no streams to ablate")


def strong_tiny() -> Training:
    """Demonstration size, masked patch decoder."""
    return ablated(two_stream.strong_tiny(), "nine_channel")


def strong_small() -> Training:
    """ViT-S, masked patch decoder."""
    return ablated(two_stream.strong_small(), "nine_channel")


def strong_base() -> Training:
    """ViT-B, masked patch decoder."""
    return ablated(two_stream.strong_base(), "nine_channel")


def original_tiny() -> Training:
    """Demonstration size, U-Net decoder."""
    return ablated(two_stream.original_tiny(), "nine_channel")


def original_small() -> Training:
    """ViT-S, U-Net decoder."""
    return ablated(two_stream.original_small(), "nine_channel")


def original_base() -> Training:
    """The documents' model and settings: 90,217,507 parameters."""
    return ablated(two_stream.original_base(), "nine_channel")


def debug() -> Training:
    """Seconds on a laptop: every code path, no data, no accelerator."""
    return ablated(two_stream.debug(), "nine_channel")
