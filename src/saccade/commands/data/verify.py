"""``saccade data verify``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from saccade.checkpoint import write_atomic
from saccade.commands.data.source import Source, Work, check_place
from saccade.data.passes.checksums import Files, checksums, compare, from_json, merged
from saccade.data.passes.shards import load_parts, save_part
from saccade.data.passes.verify import merge, verify
from saccade.data.passes.words import counted
from saccade.errors import ConfigError, DataError

SHOWN = 20  # faults printed; the report has all


@dataclass(frozen=True, kw_only=True)
class Command(Source, Work):
    """Read every record, checksum, frame and length; list what is broken and where.

    It goes on past faults, and ends with code 1 if there are any. Some flipped bits decode without
    an error (contiguous HDF5, H.264, HEVC): --checksums writes down the SHA-256 of every file
    where FILE is not there yet, and compares every file with it where it is.

    Example: saccade data verify data/droid --jobs 8 --report droid.json --checksums droid.sha256

    On four machines: --shard 0/4 ... --shard 3/4, each with the same --report, then --merge; with
    --checksums on all of them or on none.

    Args:
        report: file for everything that was found, as JSON.
        checksums: file of SHA-256, size and name, a line for each file of the data set.
    """

    report: Path | None = None
    checksums: Path | None = None


def main(args: list[str]) -> int:
    """Verify."""
    command = tyro.cli(Command, args=args, prog="saccade data verify")
    shard, jobs = command.part(), command.processes()
    if command.report is None and (command.shard or command.merge):
        raise ConfigError("--shard and --merge need --report: the parts are kept beside it")
    for path in ours(command):
        check_place(path)
    parts = load_parts(command.report) if command.merge and command.report else []
    found = merge(parts) if parts else verify(command.config(), jobs, shard)
    files = all_files(command, parts) if command.checksums or command.merge else None
    found.pop("files", None)  # of the first shard
    if files and shard is not None:
        found["files"] = files._asdict()
    elif files and command.checksums:
        found["checksums"], changes = compare(command.checksums, files)
        found["faults"] += changes
    if command.report and shard is not None:
        print(f"part: {save_part(command.report, shard, found)}")
    elif command.report:
        write_atomic(command.report, json.dumps(found, indent=1) + "\n")
    tell(found)
    if command.report and shard is None:
        print(f"report: {command.report}")
    return 1 if found["faults"] else 0


def ours(command: Command) -> list[Path]:
    """Return the files that this verb writes: if they lie in the data set, they are none of it."""
    return [path for path in (command.report, command.checksums) if path]


def all_files(command: Command, parts: Sequence[dict[str, Any]]) -> Files | None:
    """Return the checksums of the files that fall to this run, or to the shards that it merges.

    Raises:
        ConfigError: the shards have taken checksums, and nobody says where to keep them.
        DataError: some shards have not, or saw other files.
    """
    if not command.merge:
        return checksums(command.uri, ours(command), command.processes(), command.part())
    taken = [part["files"] for part in parts if "files" in part]
    if taken and not command.checksums:
        raise ConfigError("the shards have taken checksums; give --checksums FILE to --merge, too")
    if command.checksums and len(taken) < len(parts):
        raise DataError(
            f"{len(parts) - len(taken)} of {counted(len(parts), 'shard')} ran without --checksums; "
            "run these again with it"
        )
    return merged([from_json(files) for files in taken]) if taken else None


def tell(found: dict[str, Any]) -> None:
    """Print how much was read, and the first faults."""
    cameras = ", ".join(found["cameras"]) or "none"
    read = f"{counted(found['episodes'], 'episode')}, {counted(found['frames'], 'frame')}"
    print(f"{found['root']}: read {read} (cameras: {cameras})")
    faults = found["faults"]
    for fault in faults[:SHOWN]:
        where = f"episode {fault['episode']}" if fault["episode"] >= 0 else "data set"
        where += f", {fault['camera']}" if fault["camera"] else ""
        where += f", {counted(len(fault['frames']), 'frame')}" if fault["frames"] else ""
        print(f"broken: {where}: {fault['error']}")
    if len(faults) > SHOWN:
        print(f"... and {len(faults) - SHOWN:,} more; --report FILE lists all")
    if sums := found.get("checksums"):
        done = "written, for the next time" if sums["written"] else "compared"
        if not sums["written"] and not Path(sums["file"]).exists():
            done = "not written, since files cannot be read"
        size = f"{counted(sums['files'], 'file')}, {sums['bytes'] / 1e9:.3f} GB"
        print(f"checksums: {sums['file']} ({size}; {done})")
    print(counted(len(faults), "fault") if faults else "nothing is broken")
