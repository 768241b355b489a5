"""``saccade data``."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from saccade.data.episodes import Episodes, state_groups
from saccade.data.lerobot import LeRobotConfig


@dataclass(frozen=True, kw_only=True)
class Command:
    """Say what a LeRobot data set (v3.0 or v2.1) holds.

    Example: saccade data data/metaworld --verify

    Args:
        root: folder of the data set.
        verify: also read every frame, state and action.
    """

    root: tyro.conf.Positional[Path]
    verify: bool = False


def main(args: list[str]) -> int:
    """Print the contents; with ``--verify``, read everything."""
    command = tyro.cli(Command, args=args, prog="saccade data")
    episodes = LeRobotConfig(root=command.root).build()
    describe(episodes)
    if command.verify:
        for episode, length in enumerate(episodes.lengths):
            episodes.read(episode, np.arange(length))
        print(f"read all {sum(episodes.lengths)} frames of {len(episodes.cameras)} cameras")
    return 0


def describe(episodes: Episodes) -> None:
    """Print sizes, cameras, the groups of the state and the tasks."""
    frames = sum(episodes.lengths)
    seconds = frames / episodes.fps
    console = Console(highlight=False)
    console.print(
        f"{len(episodes.lengths)} episodes, {frames} frames at {episodes.fps:g} Hz "
        f"({seconds / 60:.1f} minutes)\ncameras: {', '.join(episodes.cameras) or 'none'}\n"
        f"state: {', '.join(episodes.state_names) or 'none'} {state_groups(episodes.state_names)}\n"
        f"action: {', '.join(episodes.action_names) or 'none'}\n"
        f"camera orientation known: {', '.join(episodes.world_to_camera) or 'of none'}\n"
        f"fingerprint: {episodes.fingerprint}",
        markup=False,
    )
    table = Table("task", "episodes", "frames", box=None, header_style="bold")
    lengths = Counter[str]()
    for task, length in zip(episodes.tasks, episodes.lengths, strict=True):
        lengths[task] += length
    for task, count in sorted(Counter(episodes.tasks).items()):
        table.add_row(task, str(count), str(lengths[task]))
    console.print(table)
