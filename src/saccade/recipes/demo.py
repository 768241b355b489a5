"""The demonstration: real physics, real training, real evidence, in minutes on two CPU cores."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from saccade.config import Config
from saccade.data.episodes import Episodes
from saccade.evals.probes.base import ProbeConfig
from saccade.experiments.comparison import Comparison, Method
from saccade.experiments.source import SourceConfig
from saccade.recipes import single_stream, sizes, two_stream, video_mae

if TYPE_CHECKING:
    from saccade.sim.collect import CollectConfig

TRAIN = (
    "drawer-open",
    "door-open",
    "window-open",
    "button-press-topdown",
    "faucet-open",
    "door-lock",
    "hammer",
    "peg-insert-side",
)
HELD_OUT = ("window-close", "plate-slide")  # a known object that moves anew, and a new object
EPISODES, SAMPLES, SEEDS = 36, 8_000, 1  # what fits into minutes


def collection(out: Path) -> "CollectConfig":
    """Ten tasks at 20 Hz, drawn at twice the size that the encoders read, which smooths edges."""
    from saccade.sim.collect import CollectConfig  # the simulator is an extra

    return CollectConfig(
        out=out,
        tasks=TRAIN + HELD_OUT,
        episodes=EPISODES,
        size=128,
        stride=4,
        supersample=1,
        workers=2,
    )


def comparison(episodes: Config[Episodes], held_out: Sequence[str], cache: Path) -> Comparison:
    """Two-Stream (both presets), Single-Stream and VideoMAE on equal budgets and the same pairs."""
    recipes = {
        "two-stream": ("two_stream:strong_tiny", two_stream.strong_tiny()),
        "two-stream original": ("two_stream:original_tiny", two_stream.original_tiny()),
        "single-stream": ("single_stream:strong_tiny", single_stream.strong_tiny()),
        "video-mae": ("video_mae:strong_tiny", video_mae.strong_tiny()),
    }
    source = SourceConfig(
        episodes=episodes,
        held_out_tasks=tuple(task.replace("-", " ") for task in held_out),
        cache=str(cache),
    )
    return Comparison(
        methods=tuple(
            Method(
                name=name,
                recipe=recipe,
                training=replace(training, source=source, window=sizes.TINY_WINDOW),
            )
            for name, (recipe, training) in recipes.items()
        ),
        samples=SAMPLES,
        seeds=SEEDS,
        probe=ProbeConfig(gaps=(1, 5, 10), stride=2),
    )
