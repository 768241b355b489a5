"""``saccade data convert``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from saccade.commands.common import say
from saccade.commands.data.source import Faults, Source, Work
from saccade.config import Config
from saccade.data.episodes import Episodes
from saccade.data.passes.convert import Conversion, Outcome, check_apart, convert, make_plan
from saccade.data.passes.words import counted
from saccade.errors import ConfigError

LISTED = 10  # skipped episodes that are printed


@dataclass(frozen=True, kw_only=True)
class Command(Source, Faults, Work):
    """Convert a data set of any format to LeRobot v3.0.

    Run the same command again after any interruption and it goes on; the result is the same,
    byte for byte, for any number of processes, shards and interruptions. Empty episodes are left
    out. Nothing is seen under OUT's final names before it is complete.

    Example: saccade data convert data/droid/1.0.0 data/droid-lerobot --jobs 8

    On four machines: --shard 0/4 ... --shard 3/4 into one shared OUT, then --merge.

    Args:
        out: folder of the new data set.
        to: its format.
        cameras: which cameras; without it, those that every episode has.
        pixels: exact keeps every pixel (stored pictures are copied, else video is lossless);
            small is H.264 with a constant rate factor of 10, every frame a keyframe.
        size: side of the central square to which frames are resized; 0 keeps them as they are.
        dry_run: show what would be converted, and do nothing.
    """

    out: tyro.conf.Positional[Path]
    to: Literal["lerobot"] = "lerobot"
    cameras: tuple[str, ...] = ()
    pixels: Literal["exact", "small"] = "exact"
    size: int = 0
    dry_run: bool = False


def main(args: list[str]) -> int:
    """Convert."""
    command = tyro.cli(Command, args=args, prog="saccade data convert")
    if command.size and not 16 <= command.size <= 4096:
        raise ConfigError(f"size is {command.size}, expected 0 or 16 to 4096 pixels")
    source = command.passed_on(command.config())
    conversion = Conversion(cameras=command.cameras, pixels=command.pixels, size=command.size)
    return run(source, command.out, conversion, command, command, command.dry_run)


def run(
    source: Config[Episodes],
    out: Path,
    conversion: Conversion,
    work: Work,
    faults: Faults,
    dry_run: bool = False,
) -> int:
    """Convert and tell."""
    shard, jobs = work.part(), work.processes()
    check_apart(source, out)
    if dry_run:
        episodes = source.build()
        for line in make_plan(episodes, conversion).told(episodes, out):
            print(line)
        return 0
    outcome = convert(
        source,
        out,
        conversion,
        jobs=jobs,
        shard=shard,
        merge=work.merge,
        on_error=faults.on_error,
        most_skipped=faults.most_skipped,
        say=say,
    )
    tell(outcome, out, work)
    return 0


def tell(outcome: Outcome, out: Path, work: Work) -> None:
    """Print what there is now, and what was left out."""
    for episode, reason in list(outcome.left_out.items())[:LISTED]:
        print(f"skipped episode {episode}: {reason}")
    if outcome.left_out:
        print(f"skipped: {counted(len(outcome.left_out), 'episode')}")
    if outcome.finished:
        print(f"{counted(outcome.done, 'episode')} in {out}")
    else:
        print(
            f"shard {work.shard} is done; {outcome.done:,} of {outcome.total:,} episodes are "
            f"staged in {out}; when all are: --merge"
        )
