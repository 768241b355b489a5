"""``saccade collect``."""

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from saccade.commands.common import replace_folder
from saccade.sim.collect import CollectConfig, Progress, Summary, collect


@dataclass(frozen=True, kw_only=True)
class Command:
    """Collect demonstrations of Meta-World's scripted experts as a LeRobot v3 data set.

    The same seed gives the same states and actions for any number of workers; run the same
    command again after an interruption and it goes on.

    Example: saccade collect metaworld --tasks drawer-open reach push --episodes 20
    --camera corner2 --workers 2 --out data/metaworld

    Args:
        collection: what to collect.
        overwrite: delete the data set in the folder first.
        dry_run: show what would be collected, and do nothing.
    """

    collection: Annotated[CollectConfig, tyro.conf.arg(name="")]
    overwrite: bool = False
    dry_run: bool = False


def main(args: list[str]) -> int:
    """Collect."""
    if args in (["-h"], ["--help"]):
        args = ["metaworld", "--help"]
    if not args or args[0] != "metaworld":
        print("usage: saccade collect metaworld --tasks TASK ... --out FOLDER; --help lists all")
        return 2
    command = tyro.cli(Command, args=args[1:], prog="saccade collect metaworld")
    config = command.collection
    if command.dry_run:
        print(f"would collect {config.episodes} episodes of each of {', '.join(config.tasks)}")
        return 0
    if command.overwrite:
        replace_folder(config.out, "collection.json")
    tell(collect(config, Line()), str(config.out))
    return 0


class Line:
    """Progress on one line of a terminal, or every tenth episode elsewhere."""

    def __call__(self, progress: Progress) -> None:
        """Show how far the collection is."""
        minutes, seconds = divmod(round(progress.seconds_left), 60)
        text = (
            f"episode {progress.done}/{progress.total}  {progress.frames_per_second:.0f} frames/s  "
            f"ETA {minutes}:{seconds:02d}"
        )
        if sys.stderr.isatty():
            end = "\n" if progress.done == progress.total else ""
            print(f"\r\x1b[2K{text}", end=end, file=sys.stderr, flush=True)
        elif progress.done % 10 == 0 or progress.done == progress.total:
            print(text, file=sys.stderr, flush=True)


def tell(summary: Summary, out: str) -> None:
    """Print what was collected, and what was given up."""
    print(f"{summary.episodes} episodes, {summary.frames} frames in {out}")
    if summary.given_up:
        print(f"given up, because the expert failed every time: {', '.join(summary.given_up)}")
