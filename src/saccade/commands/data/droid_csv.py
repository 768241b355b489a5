"""``saccade data droid-csv``."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from saccade.commands.data.source import Faults, check_place
from saccade.data.droid.raw import Outcome, write_csv
from saccade.data.passes.words import counted


@dataclass(frozen=True, kw_only=True)
class Command(Faults):
    """List the episode folders of raw DROID, one path per line, as V-JEPA 2-AC is given them.

    Example: saccade data droid-csv data/droid_raw/1.0.1 droid.csv --outcome success

    Args:
        uri: folder or address of raw DROID.
        out: file to write.
        outcome: which episodes.
        camera: left, right or wrist; episodes without it are not listed.
        shortest: frames that an episode must have (V-JEPA 2-AC passes over those under 121).
    """

    uri: tyro.conf.Positional[str]
    out: tyro.conf.Positional[Path]
    outcome: Outcome = "all"
    camera: str = "left"
    shortest: int = 1


def main(args: list[str]) -> int:
    """List."""
    command = tyro.cli(Command, args=args, prog="saccade data droid-csv")
    check_place(command.out)
    count = write_csv(
        command.uri,
        command.out,
        outcome=command.outcome,
        camera=command.camera,
        shortest=command.shortest,
        on_error=command.on_error,
        most_skipped=command.most_skipped,
    )
    print(f"{counted(count, 'episode')} in {command.out}")
    return 0
