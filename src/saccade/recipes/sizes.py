"""Sizes and settings that the three methods share, so that a comparison is between methods.

``tiny`` trains in a minute on two CPU cores, ``small`` and ``base`` are the ViT-S and ViT-B of
the literature. Every recipe of one size sees the same samples at the same resolution.
"""

from pathlib import Path
from typing import TypedDict

from saccade.data.lerobot.reader import LeRobotConfig
from saccade.data.synthetic import SyntheticConfig
from saccade.data.windows import PairWindow
from saccade.experiments.source import SourceConfig
from saccade.train.engine import TrainConfig


class Shape(TypedDict):
    """The size of an encoder."""

    image_size: int
    dim: int
    depth: int
    heads: int


class Decoder(TypedDict):
    """The size of a decoder."""

    decoder_dim: int
    decoder_depth: int
    decoder_heads: int


TINY = Shape(image_size=64, dim=128, depth=6, heads=4)
SMALL = Shape(image_size=224, dim=384, depth=12, heads=6)
BASE = Shape(image_size=224, dim=768, depth=12, heads=12)
DEBUG = Shape(image_size=32, dim=24, depth=3, heads=2)

TINY_DECODER = Decoder(decoder_dim=96, decoder_depth=2, decoder_heads=3)
SMALL_DECODER = Decoder(decoder_dim=256, decoder_depth=4, decoder_heads=4)
DEBUG_DECODER = Decoder(decoder_dim=24, decoder_depth=1, decoder_heads=2)

# The laws that the documents state, and the one that the ablations favour.
ORIGINAL_WINDOW = PairWindow(max_gap=10, law="exponential", sample_decay=0.8)
STRONG_WINDOW = PairWindow(max_gap=30, law="triangular")
TINY_WINDOW = PairWindow(max_gap=10, law="triangular")  # half a second of the demo's 20 Hz


def source() -> SourceConfig:
    """Read what ``saccade collect`` writes by default; ``--data PATH`` names another set."""
    return SourceConfig(episodes=LeRobotConfig(root=Path("data/metaworld")))


def debug_source() -> SourceConfig:
    """Draw a toy world; no disk, no simulator."""
    return SourceConfig(episodes=SyntheticConfig(image_size=32))


def tiny_loop() -> TrainConfig:
    """Two CPU cores, about a minute."""
    return TrainConfig(
        samples=10_000,
        batch_size=32,
        lr=1e-3,
        warmup=0.1,
        workers=0,  # frames come from a memory map
        eval_every=80,
        save_every=160,
    )


def small_loop() -> TrainConfig:
    """One accelerator, hours."""
    return TrainConfig(
        samples=2_000_000, batch_size=256, lr=3e-4, warmup=0.1, precision="bfloat16", workers=8
    )


def base_loop() -> TrainConfig:
    """One node, about a day."""
    return TrainConfig(
        samples=10_000_000, batch_size=512, lr=2e-4, warmup=0.1, precision="bfloat16", workers=8
    )


def original_loop() -> TrainConfig:
    """What the documents state: AdamW 1e-4, decay 0.01, cosine, clipping at 1, global batch 24."""
    return TrainConfig(
        samples=2_000_000,
        batch_size=24,
        lr=1e-4,
        min_lr=0.0,
        warmup=0.0,
        weight_decay=0.01,
        betas=(0.9, 0.999),
    )


def debug_loop() -> TrainConfig:
    """Seconds, every code path."""
    return TrainConfig(
        samples=32, batch_size=8, warmup=0.25, workers=0, log_every=1, eval_every=2, save_every=2
    )
