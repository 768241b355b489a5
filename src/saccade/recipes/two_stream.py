"""Two-Stream: motion and form channels, CLS exchange, future prediction.

``original`` follows the documents (U-Net decoder with intermediate CLS and skip, exponential
gaps); ``strong`` is what we would defend (masked per-stream decoders, triangular gaps up to 30).
"""

from saccade.experiments.training import Training
from saccade.models.streams import StreamsConfig
from saccade.objectives.future_patches import FuturePatchesConfig
from saccade.objectives.future_pixels import FuturePixelsConfig
from saccade.recipes import sizes


def strong_tiny() -> Training:
    """Demonstration size, masked per-stream decoders."""
    return Training(
        objective=FuturePatchesConfig(
            encoder=StreamsConfig(**sizes.TINY, border="replicate"), **sizes.TINY_DECODER
        ),
        source=sizes.source(),
        window=sizes.TINY_WINDOW,
        train=sizes.tiny_loop(),
    )


def strong_small() -> Training:
    """ViT-S streams, masked per-stream decoders."""
    return Training(
        objective=FuturePatchesConfig(
            encoder=StreamsConfig(**sizes.SMALL, border="replicate"), **sizes.SMALL_DECODER
        ),
        source=sizes.source(),
        window=sizes.STRONG_WINDOW,
        train=sizes.small_loop(),
    )


def strong_base() -> Training:
    """ViT-B streams, masked per-stream decoders."""
    return Training(
        objective=FuturePatchesConfig(encoder=StreamsConfig(**sizes.BASE, border="replicate")),
        source=sizes.source(),
        window=sizes.STRONG_WINDOW,
        train=sizes.base_loop(),
    )


def original_tiny() -> Training:
    """Demonstration size, U-Net decoder."""
    return Training(
        objective=FuturePixelsConfig(encoder=StreamsConfig(**sizes.TINY), width=128),
        source=sizes.source(),
        window=sizes.ORIGINAL_WINDOW,
        train=sizes.tiny_loop(),
    )


def original_small() -> Training:
    """ViT-S streams, U-Net decoder."""
    return Training(
        objective=FuturePixelsConfig(encoder=StreamsConfig(**sizes.SMALL), width=256),
        source=sizes.source(),
        window=sizes.ORIGINAL_WINDOW,
        train=sizes.small_loop(),
    )


def original_base() -> Training:
    """The documents' model and settings: 186,362,880 encoder parameters."""
    return Training(
        objective=FuturePixelsConfig(encoder=StreamsConfig(**sizes.BASE)),
        source=sizes.source(),
        window=sizes.ORIGINAL_WINDOW,
        train=sizes.original_loop(),
    )


def debug() -> Training:
    """Seconds on a laptop: every code path, no data, no accelerator."""
    return Training(
        objective=FuturePatchesConfig(
            encoder=StreamsConfig(**sizes.DEBUG, border="replicate"), **sizes.DEBUG_DECODER
        ),
        source=sizes.debug_source(),
        window=sizes.ORIGINAL_WINDOW,
        eval_samples=16,
        train=sizes.debug_loop(),
    )


def debug_original() -> Training:
    """The same for the U-Net decoder."""
    return Training(
        objective=FuturePixelsConfig(encoder=StreamsConfig(**sizes.DEBUG), width=32),
        source=sizes.debug_source(),
        window=sizes.ORIGINAL_WINDOW,
        eval_samples=16,
        train=sizes.debug_loop(),
    )
