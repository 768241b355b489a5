"""``saccade data stats``."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table

from saccade.checkpoint import write_atomic
from saccade.commands.common import say
from saccade.commands.data.source import Faults, Source, Work, check_place, wide_console
from saccade.data.passes.normalisation import Counted, count_numbers, describe_all
from saccade.data.passes.shards import load_parts, save_part
from saccade.data.passes.words import counted
from saccade.data.splits import load_split
from saccade.errors import ConfigError

SHOWN = ("mean", "std", "min", "max", "q01", "q99")


@dataclass(frozen=True, kw_only=True)
class Command(Source, Faults, Work):
    """Write normalisation statistics of states and actions, from tables alone.

    Mean and standard deviation, range and quantiles of each dimension, in the form of LeRobot's
    stats.json. The result is the same for any number of processes and shards.

    Example: saccade data stats data/droid --split split.json --part train --out stats.json

    On four machines: --shard 0/4 ... --shard 3/4, each with the same --out, then --merge.

    Args:
        out: file to write.
        split: file of `saccade data split`, to count one part of it only.
        part: which part.
    """

    out: Path = Path("stats.json")
    split: Path | None = None
    part_name: Annotated[str, tyro.conf.arg(name="part")] = ""


def main(args: list[str]) -> int:
    """Count."""
    command = tyro.cli(Command, args=args, prog="saccade data stats")
    shard, jobs = command.part(), command.processes()
    if (command.split is None) != (not command.part_name):
        raise ConfigError("--split and --part belong together; give both or neither")
    check_place(command.out)
    if command.merge:
        parts = [Counted.from_json(part) for part in load_parts(command.out)]
        counted = sum(parts[1:], parts[0])
    else:
        counted = count(command, jobs)
    if shard is not None:
        print(f"part: {save_part(command.out, shard, counted.to_json())}")
        return 0
    found = describe_all(counted)
    write_atomic(command.out, json.dumps(found, indent=2) + "\n")
    tell(found)
    print(f"statistics: {command.out}")
    return 0


def count(command: Command, jobs: int) -> Counted:
    """Count the data set, or one part of a split of it."""
    episodes = command.passed_on(command.config()).build()
    if command.split is not None:
        parts = load_split(command.split, episodes)
        if command.part_name not in parts:
            raise ConfigError(
                f"{command.split} has no part {command.part_name!r}; it has {sorted(parts)}"
            )
        episodes = parts[command.part_name]
    counted = count_numbers(episodes, command.part(), jobs, command.on_error, command.most_skipped)
    for name, reason in counted.skipped.items():
        say(f"skipped {name}: {reason}")
    return counted


def tell(found: dict[str, Any]) -> None:
    """Print a table of each feature."""
    console = wide_console()
    about = found["saccade"]
    for feature, values in found.items():
        if feature == "saccade":
            continue
        table = Table(feature, *SHOWN, box=None, header_style="bold")
        for i, name in enumerate(values["names"]):
            table.add_row(name, *(f"{values[column][i]:.5g}" for column in SHOWN))
        console.print(table)
    exact = (
        "exact" if not about["quantile_error"] else f"to {about['quantile_error']:.1e} of a value"
    )
    frames, episodes = counted(about["frames"], "frame"), counted(about["episodes"], "episode")
    print(f"{frames} of {episodes}; quantiles are {exact}")
