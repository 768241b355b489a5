"""``saccade data formats``."""

import dataclasses
import inspect
import typing
from dataclasses import dataclass
from typing import Any

import tyro

from saccade.data.formats import FORMATS
from saccade.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Command:
    """List the formats that can be read, and the options of each reader.

    Example: saccade data formats droid

    Args:
        names: only these, with what their options mean.
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()


def main(args: list[str]) -> int:
    """Print the formats."""
    command = tyro.cli(Command, args=args, prog="saccade data formats")
    kinds = {kind.format: kind for kind in FORMATS}
    if unknown := sorted(set(command.names) - kinds.keys()):
        raise ConfigError(f"there are no formats {unknown}; there are {', '.join(kinds)}")
    for kind in (kinds[name] for name in command.names or kinds):
        print(f"{kind.format}: {kind.about}")
        for line in options(kind):
            print(f"    {line}")
        if command.names:
            print(f"\n{inspect.cleandoc(kind.__doc__ or '')}\n")
    return 0


def options(kind: type[Any]) -> list[str]:
    """Describe each option of a reader: its name, its default, what it may be."""
    types = typing.get_type_hints(kind)
    lines = []
    for field in dataclasses.fields(kind):
        if field.name == "root":
            continue
        choices = typing.get_args(types[field.name])
        literal = typing.get_origin(types[field.name]) is typing.Literal
        name = getattr(types[field.name], "__name__", str(types[field.name]))
        kinds = " or ".join(map(str, choices)) if literal else {"tuple": "names"}.get(name, name)
        default = field.default
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
        lines.append(f"{field.name}={shown}  ({kinds})")
    return lines
