"""``saccade data extract``."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from saccade.data.files.archive import extract
from saccade.data.passes.words import counted


@dataclass(frozen=True, kw_only=True)
class Command:
    """Unpack a zip or tar archive of a data set.

    Members that would be written outside the folder, links and devices are refused.

    Example: saccade data extract demos_8_17.zip data/bridge_raw

    Args:
        archive: the zip or tar file.
        out: folder to unpack into.
    """

    archive: tyro.conf.Positional[Path]
    out: tyro.conf.Positional[Path]


def main(args: list[str]) -> int:
    """Unpack."""
    command = tyro.cli(Command, args=args, prog="saccade data extract")
    count = extract(command.archive, command.out)
    print(f"{counted(count, 'file')} in {command.out}")
    return 0
