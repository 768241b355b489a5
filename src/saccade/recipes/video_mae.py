"""VideoMAE: the equal-budget masked autoencoder that every new idea must beat.

``original`` hides 75 % of the tubes of pairs with fully normalised targets; ``strong`` shares
gaps and the contrast floor with the other methods' ``strong``; ``clip`` is the paper's own
setting of 16 frames and 90 %.
"""

from saccade.data.windows import ClipWindow
from saccade.experiments.training import Training
from saccade.models.vit import ViTConfig
from saccade.objectives.video_mae import VideoMAEConfig
from saccade.recipes import sizes

FLOOR = 0.02  # as in FuturePatchesConfig


def strong_tiny() -> Training:
    """Demonstration size."""
    return Training(
        objective=VideoMAEConfig(
            encoder=ViTConfig(**sizes.TINY), contrast_floor=FLOOR, **sizes.TINY_DECODER
        ),
        source=sizes.source(),
        window=sizes.TINY_WINDOW,
        train=sizes.tiny_loop(),
    )


def strong_small() -> Training:
    """ViT-S."""
    return Training(
        objective=VideoMAEConfig(
            encoder=ViTConfig(**sizes.SMALL), contrast_floor=FLOOR, **sizes.SMALL_DECODER
        ),
        source=sizes.source(),
        window=sizes.STRONG_WINDOW,
        train=sizes.small_loop(),
    )


def strong_base() -> Training:
    """ViT-B."""
    return Training(
        objective=VideoMAEConfig(encoder=ViTConfig(**sizes.BASE), contrast_floor=FLOOR),
        source=sizes.source(),
        window=sizes.STRONG_WINDOW,
        train=sizes.base_loop(),
    )


def original_tiny() -> Training:
    """Demonstration size, the documents' gaps and targets."""
    return Training(
        objective=VideoMAEConfig(encoder=ViTConfig(**sizes.TINY), **sizes.TINY_DECODER),
        source=sizes.source(),
        window=sizes.ORIGINAL_WINDOW,
        train=sizes.tiny_loop(),
    )


def original_small() -> Training:
    """ViT-S, the documents' gaps and targets."""
    return Training(
        objective=VideoMAEConfig(encoder=ViTConfig(**sizes.SMALL), **sizes.SMALL_DECODER),
        source=sizes.source(),
        window=sizes.ORIGINAL_WINDOW,
        train=sizes.small_loop(),
    )


def original_base() -> Training:
    """The documents' model and settings."""
    return Training(
        objective=VideoMAEConfig(encoder=ViTConfig(**sizes.BASE)),
        source=sizes.source(),
        window=sizes.ORIGINAL_WINDOW,
        train=sizes.original_loop(),
    )


def clip_base() -> Training:
    """The paper's setting: 16 frames, 90 % hidden."""
    return Training(
        objective=VideoMAEConfig(encoder=ViTConfig(**sizes.BASE, num_frames=16), mask_ratio=0.9),
        source=sizes.source(),
        window=ClipWindow(num_frames=16, stride=2),
        train=sizes.base_loop(),
    )


def debug() -> Training:
    """Seconds on a laptop: every code path, no data, no accelerator."""
    encoder = ViTConfig(**sizes.DEBUG, patch=8)
    return Training(
        objective=VideoMAEConfig(encoder=encoder, contrast_floor=FLOOR, **sizes.DEBUG_DECODER),
        source=sizes.debug_source(),
        window=sizes.ORIGINAL_WINDOW,
        eval_samples=16,
        train=sizes.debug_loop(),
    )
