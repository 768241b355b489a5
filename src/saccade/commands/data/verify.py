"""``saccade data verify``."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from saccade.checkpoint import write_atomic
from saccade.commands.data.source import Source, Work
from saccade.data.passes.shards import load_parts, save_part
from saccade.data.passes.verify import merge, verify
from saccade.errors import ConfigError

SHOWN = 20  # faults printed; the report has all


@dataclass(frozen=True, kw_only=True)
class Command(Source, Work):
    """Read every record, checksum, frame and length; list what is broken and where.

    It goes on past faults, and ends with code 1 if there are any.

    Example: saccade data verify data/droid --jobs 8 --report droid.json

    On four machines: --shard 0/4 ... --shard 3/4, each with the same --report, then --merge.

    Args:
        report: file for everything that was found, as JSON.
    """

    report: Path | None = None


def main(args: list[str]) -> int:
    """Verify."""
    command = tyro.cli(Command, args=args, prog="saccade data verify")
    shard, jobs = command.part(), command.processes()
    if command.report is None and (command.shard or command.merge):
        raise ConfigError("--shard and --merge need --report: the parts are kept beside it")
    if command.merge and command.report:
        found = merge(load_parts(command.report))
    else:
        found = verify(command.config(), jobs, shard)
    if command.report:
        if shard is not None:
            print(f"part: {save_part(command.report, shard, found)}")
        else:
            write_atomic(command.report, json.dumps(found, indent=1) + "\n")
    tell(found)
    if command.report and shard is None:
        print(f"report: {command.report}")
    return 1 if found["faults"] else 0


def tell(found: dict[str, Any]) -> None:
    """Print how much was read, and the first faults."""
    cameras = ", ".join(found["cameras"]) or "none"
    print(f"read {found['episodes']:,} episodes, {found['frames']:,} frames (cameras: {cameras})")
    faults = found["faults"]
    for fault in faults[:SHOWN]:
        where = f"episode {fault['episode']}" if fault["episode"] >= 0 else "data set"
        where += f", {fault['camera']}" if fault["camera"] else ""
        where += f", {len(fault['frames'])} frames" if fault["frames"] else ""
        print(f"broken: {where}: {fault['error']}")
    if len(faults) > SHOWN:
        print(f"... and {len(faults) - SHOWN} more; --report FILE lists all")
    print(f"{len(faults)} faults" if faults else "nothing is broken")
