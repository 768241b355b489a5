"""``saccade collect``."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from saccade.commands.common import replace_folder
from saccade.sim import collect_libero as in_libero
from saccade.sim.collect import CollectConfig, checked, collect
from saccade.sim.collect_libero import LiberoCollectConfig, collect_libero
from saccade.sim.crew import RECORD, Progress, Summary, lock
from saccade.sim.libero.assets import local_assets
from saccade.sim.libero.suite import tasks_of

USAGE = """usage: saccade collect metaworld --tasks TASK ... --out FOLDER
       saccade collect libero --suite SUITE --tasks NUMBER ... --out FOLDER

Demonstrations of scripted experts in simulation; `saccade collect libero --help` lists all.

Example: saccade collect libero --suite libero_object --tasks 0 1 2 --episodes 20 --out data/libero
"""


@dataclass(frozen=True, kw_only=True)
class Command:
    """Collect demonstrations of Meta-World's scripted experts as a LeRobot v3 data set.

    The same seed gives the same states and actions for any number of workers; run the same
    command again after an interruption and it goes on. With --truth 64, depth and bodies are kept
    too: the optical flow between any two frames follows from them, exactly.

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


@dataclass(frozen=True, kw_only=True)
class LiberoCommand:
    """Collect demonstrations of LIBERO's scripted expert: official HDF5 files, or LeRobot v3.

    The same seed gives the same states and actions for any number of workers; run the same
    command again after an interruption and it goes on. Judge a policy on initial states
    that are not used here.

    Example: saccade collect libero --suite libero_object --tasks 0 1 2 --episodes 20
    --initial-states 10:50 --workers 2 --out data/libero

    Args:
        collection: what to collect.
        overwrite: delete the suite's data in the folder first.
        dry_run: show what would be collected, and do nothing.
    """

    collection: Annotated[LiberoCollectConfig, tyro.conf.arg(name="")]
    overwrite: bool = False
    dry_run: bool = False


def main(args: list[str]) -> int:
    """Collect."""
    if args in (["-h"], ["--help"]):
        print(USAGE, end="")
        return 0
    if not args or args[0] not in ("metaworld", "libero"):
        print(USAGE, end="")
        return 2
    return metaworld(args[1:]) if args[0] == "metaworld" else libero(args[1:])


def metaworld(args: list[str]) -> int:
    """Collect in Meta-World."""
    command = tyro.cli(Command, args=args, prog="saccade collect metaworld")
    config = checked(command.collection)
    if command.dry_run:
        print(f"would collect {config.episodes} episodes of each of {', '.join(config.tasks)}")
        return 0
    if command.overwrite:
        replace(config.out)
    tell(collect(config, Line()), str(config.out))
    return 0


def libero(args: list[str]) -> int:
    """Collect in LIBERO."""
    command = tyro.cli(LiberoCommand, args=args, prog="saccade collect libero")
    config = command.collection
    config = in_libero.checked(config, tasks_of(config.suite))
    if command.dry_run:
        local_assets(config.assets)
        print(
            f"would collect {config.episodes} episodes of each of {len(config.tasks)} tasks of "
            f"{config.suite}, initial states {config.initial_states}, into {config.folder}: "
            f"{', '.join(config.tasks)}"
        )
        return 0
    if command.overwrite:
        replace(config.folder)
    tell(collect_libero(config, Line()), str(config.folder))
    return 0


def replace(folder: Path) -> None:
    """Delete a collection, unless a process works on it; settings were checked before."""
    if (folder / RECORD).is_file():
        with lock(folder):
            replace_folder(folder, RECORD)
    else:
        replace_folder(folder, RECORD)


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
