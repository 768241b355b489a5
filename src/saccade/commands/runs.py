"""``saccade runs``."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from saccade.commands.common import say
from saccade.errors import CheckpointError, ConfigError
from saccade.progress import duration
from saccade.train import runs
from saccade.train.runs import RunInfo
from saccade.train.sync import Sync

COLUMNS = ("run", "state", "steps", "best held-out loss", "checkpoints", "size", "last number")


@dataclass(frozen=True, kw_only=True)
class List:
    """List the runs below a folder: state, progress, best score, size.

    Example: saccade runs runs/

    saccade runs verify RUN ...    compare every checkpoint with its checksums
    saccade runs keep RUN STEP     mark a checkpoint as one that is never deleted
    saccade runs prune RUN ...     delete all but the newest, the best and the marked ones
    saccade runs sync RUN BUCKET   copy a run to a bucket, and compare checksums

    Args:
        places: folders with runs in them, at any depth.
        json: print a list of objects.
    """

    places: tyro.conf.Positional[tuple[Path, ...]] = (Path("runs"),)
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Compare every checkpoint of runs with its checksums; exit code 4 where one is damaged.

    Example: saccade runs verify runs/first

    Args:
        runs: run folders.
        json: print an object: run, step, what is wrong ('' if nothing).
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Mark a checkpoint as one that no run ever deletes, a baseline for example.

    Example: saccade runs keep runs/first 500

    Args:
        run: run folder.
        step: of the checkpoint.
    """

    run: tyro.conf.Positional[Path]
    step: tyro.conf.Positional[int]


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Delete all checkpoints of runs but the newest, the best and the marked ones.

    Example: saccade runs prune runs/first

    Args:
        runs: run folders.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]


@dataclass(frozen=True, kw_only=True)
class Copy:
    """Copy a run folder to a bucket, as `saccade train --sync` does, and compare checksums.

    Example: saccade runs sync runs/first s3://lab/runs/first

    Args:
        run: run folder.
        bucket: s3://, gs:// or hf:// and a folder.
    """

    run: tyro.conf.Positional[Path]
    bucket: tyro.conf.Positional[str]


def main(args: list[str]) -> int:
    """List runs, or do what the first word says."""
    if args and args[0] in VERBS:
        return VERBS[args[0]](args[1:])
    command = tyro.cli(List, args=args, prog="saccade runs")
    for place in command.places:
        if not place.is_dir():
            raise ConfigError(f"there is no folder {place}; name one that has runs in it")
    found = [runs.describe(run) for place in command.places for run in runs.find(place)]
    if command.json:
        print(json.dumps([asdict(info) for info in found], indent=2))
    elif not found:
        print(f"no runs below {', '.join(map(str, command.places))}")
    else:
        show([COLUMNS, *map(row, found)])
    return 0


def verify(args: list[str]) -> int:
    """Verify every checkpoint of every run."""
    command = tyro.cli(Verify, args=args, prog="saccade runs verify")
    found = {str(run): runs.verify(existing(run)) for run in command.runs}
    damaged = [wrong for steps in found.values() for wrong in steps.values() if wrong]
    if command.json:
        print(json.dumps(found, indent=2))
    else:
        for run, steps in found.items():
            print(f"{run}: {len(steps)} checkpoints")
            for step, wrong in steps.items():
                print(f"  step {step}: {wrong or 'intact'}")
    if damaged:
        raise CheckpointError(
            f"{len(damaged)} checkpoints are damaged; --resume auto uses the newest intact one"
        )
    return 0


def keep(args: list[str]) -> int:
    """Mark a checkpoint."""
    command = tyro.cli(Keep, args=args, prog="saccade runs keep")
    print(f"{runs.keep(existing(command.run), command.step)} is kept")
    return 0


def prune(args: list[str]) -> int:
    """Delete checkpoints."""
    for run in tyro.cli(Prune, args=args, prog="saccade runs prune").runs:
        gone = runs.prune(existing(run))
        print(f"{run}: deleted {', '.join(f'step {step}' for step in gone) or 'nothing'}")
    return 0


def copy(args: list[str]) -> int:
    """Copy a run."""
    command = tyro.cli(Copy, args=args, prog="saccade runs sync")
    sync = Sync(existing(command.run), command.bucket, note=say)
    sync.once()
    print(f"{command.bucket} has all of {command.run}; {sync.copied / 1e6:.1f} MB were new")
    return 0


def existing(run: Path) -> Path:
    """Return a run folder.

    Raises:
        ConfigError: it is none.
    """
    runs.describe(run)
    return run


def row(info: RunInfo) -> tuple[str, ...]:
    """Say in words what a run is."""
    best = "-" if info.best_loss is None else f"{info.best_loss:.4g} at step {info.best_step}"
    return (
        info.folder,
        info.state + (f" (pid {info.pid})" if info.pid else ""),
        f"{info.step}/{'?' if info.steps is None else info.steps}",
        best,
        str(info.checkpoints),
        f"{info.bytes / 1e6:.1f} MB",
        "-" if info.seconds is None else f"{duration(info.seconds)} ago",
    )


def show(rows: list[tuple[str, ...]]) -> None:
    """Print rows in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        print("  ".join(padded).rstrip())


VERBS: dict[str, Callable[[list[str]], int]] = {
    "verify": verify,
    "keep": keep,
    "prune": prune,
    "sync": copy,
}
