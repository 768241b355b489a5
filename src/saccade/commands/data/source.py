"""What every verb of ``saccade data`` is told: which data set, and what to do with faults."""

import dataclasses
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from saccade.commands.common import data_set
from saccade.config import Config
from saccade.data.episodes import Episodes
from saccade.data.files.faults import OnError
from saccade.data.passes.shards import Shard, cores
from saccade.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Source:
    """Which data set.

    Args:
        uri: folder or address of the data set.
        format: its format, where that cannot be seen (`saccade data formats`).
        option: an option of its reader, like state=joint or cameras=front,wrist.
    """

    uri: tyro.conf.Positional[str]
    format: str = ""
    option: tyro.conf.UseAppendAction[tuple[str, ...]] = ()

    def config(self) -> Config[Episodes]:
        """Return the reader's config.

        Raises:
            ConfigError: an unknown format or option.
            DataError: there is no data set that we know.
        """
        given = (f"format={self.format}",) if self.format else ()
        return data_set(self.uri, (*self.option, *given))


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What to do with broken episodes.

    Args:
        on_error: raise ends at the first broken episode; skip lists it and goes on.
        most_skipped: share of all episodes that may be skipped.
    """

    on_error: OnError = "raise"
    most_skipped: float = 0.01

    def passed_on(self, config: Config[Episodes]) -> Config[Episodes]:
        """Let the reader, too, leave out what it finds broken, unless its options say otherwise."""
        default = {"on_error": "raise", "most_skipped": 0.01}
        mine = {"on_error": self.on_error, "most_skipped": self.most_skipped}
        fields = {field.name for field in dataclasses.fields(config)}
        changes = {
            name: value
            for name, value in mine.items()
            if name in fields and getattr(config, name) == default[name]
        }
        return dataclasses.replace(config, **changes)


@dataclass(frozen=True, kw_only=True)
class Work:
    """How the work is divided.

    Args:
        jobs: processes on this machine; 0 means one per core.
        shard: do the i-th of n parts of the work, like 0/16 to 15/16, one on each machine.
        merge: put the parts of all shards together.
    """

    jobs: int = 0
    shard: str = ""
    merge: bool = False

    def processes(self) -> int:
        """Return how many processes to start.

        Raises:
            ConfigError: a negative number.
        """
        if self.jobs < 0:
            raise ConfigError(f"jobs is {self.jobs}, expected 0 or more")
        return self.jobs or cores()

    def part(self) -> Shard | None:
        """Return the shard, if this is one.

        Raises:
            ConfigError: it is malformed, or given together with --merge.
        """
        if self.shard and self.merge:
            raise ConfigError("--shard and --merge exclude one another; merge once all have run")
        return Shard.parse(self.shard) if self.shard else None


def check_place(path: Path) -> None:
    """See that a file can be written where it shall be, before hours of work.

    Raises:
        ConfigError: it cannot.
    """
    above = path.parent
    while not os.path.lexists(above):
        above = above.parent
    if path.is_dir() or not above.is_dir() or not os.access(above, os.W_OK):
        raise ConfigError(f"{path} cannot be written; give a file in a folder that may be written")


def name_of(uri: str) -> str:
    """Return a word for a data set that can name a file."""
    path = uri if "://" in uri else os.path.abspath(uri)
    return re.sub(r"[^\w.-]", "_", path.rstrip("/").rsplit("/", 1)[-1]) or "data"


def wide_console() -> Console:
    """Return a console for tables; where no terminal sets a width, names are not cut."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)
