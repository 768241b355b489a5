"""The demonstration: real physics, real training, real evidence, in minutes on two CPU cores."""

from dataclasses import replace
from pathlib import Path

from saccade.data.lerobot import LeRobotConfig
from saccade.evals.probe import ProbeConfig
from saccade.experiments.comparison import Comparison, Method
from saccade.experiments.source import SourceConfig
from saccade.recipes import single_stream, two_stream, video_mae
from saccade.sim.collect import CollectConfig
from saccade.sim.metaworld import instruction

TASKS = (
    "drawer-open",
    "drawer-close",
    "door-open",
    "button-press",
    "window-open",
    "window-close",
    "reach",
    "push",
    "plate-slide",
    "faucet-open",
)
HELD_OUT = ("door-open", "plate-slide")
EPISODES, SAMPLES, SEEDS = 12, 6_000, 2  # what fits into minutes


def collection(out: Path) -> CollectConfig:
    """Ten tasks, at the size that the encoders read."""
    return CollectConfig(out=out, tasks=TASKS, episodes=EPISODES, size=128, workers=2)


def comparison(data: Path, cache: Path) -> Comparison:
    """Two-Stream, Single-Stream and VideoMAE on equal budgets, probed beside the floors."""
    recipes = {
        "two-stream": ("two_stream:strong_tiny", two_stream.strong_tiny()),
        "single-stream": ("single_stream:strong_tiny", single_stream.strong_tiny()),
        "video-mae": ("video_mae:strong_tiny", video_mae.strong_tiny()),
    }
    source = SourceConfig(
        episodes=LeRobotConfig(root=data),
        held_out_tasks=tuple(instruction(task) for task in HELD_OUT),
        cache=str(cache),
    )
    return Comparison(
        methods=tuple(
            Method(name=name, recipe=recipe, training=replace(training, source=source))
            for name, (recipe, training) in recipes.items()
        ),
        samples=SAMPLES,
        seeds=SEEDS,
        probe=ProbeConfig(gaps=(1, 5, 10), stride=4),
    )
