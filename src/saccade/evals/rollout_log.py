"""Finished rollouts on disk, one line each, written before the next one is dealt.

A kill loses at most the rollouts that were being played. A line that a kill tore is dropped and
played again; any other damage is an error, never a rollout less.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saccade.errors import DataError, SpaceError
from saccade.evals.rollouts import Key, key_of

FILE = "rollouts.jsonl"
Name = tuple[str, Key]  # who played, and what


def read_log(path: Path) -> dict[Name, dict[str, Any]]:
    """Return the records of a log by player and key; a later one replaces a crashed one.

    Raises:
        DataError: a line other than a torn last one is damaged, or a rollout is there twice.
    """
    found: dict[Name, dict[str, Any]] = {}
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    whole = lines[:-1]  # what follows the last line end is torn, or empty
    for number, line in enumerate(whole, 1):
        try:
            record = json.loads(line)
            name = (record["who"], key_of(record))
            if record["crashed"] is None and not isinstance(record["success"], bool):
                raise TypeError(f"success is {record['success']!r:.20}")
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: line {number} is damaged ({type(error).__name__}: {error}); delete that "
                "line and give --resume to play its rollout again"
            ) from error
        if name in found and found[name]["crashed"] is None:
            raise DataError(
                f"{path}: line {number} repeats {name[1]}; two evaluations wrote into one folder"
            )
        found[name] = record
    return found


class RolloutLog:
    """Appends records. Use as a context; one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> "RolloutLog":
        """Open the file, and cut off a torn last line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b", buffering=0)  # closing must not write again
        self._file.seek(0)
        self._file.truncate(self._file.read().rfind(b"\n") + 1)
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._file.close()

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record, and wait until it is on the disk.

        Raises:
            SpaceError: the disk is full; what was written of the line is dropped when next read.
        """
        try:
            left = json.dumps(record, allow_nan=False).encode() + b"\n"
            while left:  # a disk that fills takes a part first
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise SpaceError(
                f"{self.path}: {error.strerror}; free some space, then --resume"
            ) from error
