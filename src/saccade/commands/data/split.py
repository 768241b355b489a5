"""``saccade data split``."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from saccade.commands.data.source import Source, check_place
from saccade.data.passes.words import counted
from saccade.data.splits import Level, deal, save_split
from saccade.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Command(Source):
    """Deal whole episodes into named parts, and save who may see what.

    Example: saccade data split data/bridge --by task --shares train=0.8 test=0.2 --out split.json

    Args:
        by: episode lets every part know every task; task or scene keeps each in one part.
        shares: parts and how large they are, relative to one another.
        seed: decides who goes where.
        out: file to write.
    """

    by: Level = "episode"
    shares: tuple[str, ...] = ("train=0.8", "select=0.1", "test=0.1")
    seed: int = 0
    out: Path = Path("split.json")


def main(args: list[str]) -> int:
    """Split."""
    command = tyro.cli(Command, args=args, prog="saccade data split")
    shares = parsed([part for text in command.shares for part in text.split(",")])
    check_place(command.out)
    episodes = command.config().build()
    parts = deal(episodes, command.by, shares, command.seed)
    save_split(command.out, episodes, command.by, shares, command.seed, parts)
    for name, members in parts.items():
        frames = sum(episodes.lengths[i] for i in members)
        tasks = len({episodes.tasks[i] for i in members})
        counts = (len(members), "episode"), (frames, "frame"), (tasks, "task")
        print(f"{name}: {', '.join(counted(*pair) for pair in counts)}")
    print(f"split: {command.out}")
    return 0


def parsed(texts: list[str]) -> dict[str, float]:
    """Read shares like ``train=0.8``.

    Raises:
        ConfigError: one is not of that form, or a name comes twice.
    """
    shares: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            share = float(value)
        except ValueError:
            share = -1.0
        if not name or name in shares or not 0 < share < float("inf"):
            raise ConfigError(f"share {text!r} is not of the form name=number, each name once")
        shares[name] = share
    return shares
