"""Cells of an ablation: what can be varied in a training, and a training for every value.

A cell's name, and so its folder, is made of the fields in which it differs from its base, so that
any grid that comes to the same settings finds them trained.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NamedTuple

from saccade.errors import ConfigError
from saccade.experiments.comparison import Method
from saccade.experiments.training import Training

MOST_COMBINATIONS = 10_000


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Something that can be varied.

    Args:
        name: what the command line calls it.
        about: one sentence on what changes.
        values: what it can be set to; the base's own value gives no cell.
        sets: the fields of a training that it may change.
        applies: whether a training has what the axis changes.
        change: returns the training with a value set.
    """

    name: str
    about: str
    values: tuple[str, ...]
    sets: tuple[str, ...]
    applies: Callable[[Training], bool]
    change: Callable[[Training, str], Training]


class Choice(NamedTuple):
    """An axis, and which of its values are wanted."""

    axis: Axis
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A training that differs from its base. Cells of the same settings share a name."""

    name: str
    base: str
    settings: Mapping[str, str]  # axis and value, of several axes in a full grid
    changes: Mapping[str, str]  # the fields that differ from the base
    training: Training


def choose(
    texts: Sequence[str], known: Sequence[Axis], bases: Sequence[Method], others: Sequence[Method]
) -> list[Choice]:
    """Read texts like ``gap_law`` or ``gap_law=uniform,fixed``; in the order of ``known``.

    ``others`` are the bases that another command could name, for the error to point to.

    Raises:
        ConfigError: no text, or an axis or value that does not exist for any base.
    """
    wanted: dict[str, tuple[str, ...]] = {}
    axes = {axis.name: axis for axis in known}
    for text in texts:
        name, equals, values = text.replace("-", "_").partition("=")
        if name not in axes:
            raise ConfigError(f"there is no axis {name!r}; the axes are {', '.join(axes)}")
        if name in wanted:
            raise ConfigError(f"axis {name} is named twice; name it once, with all its values")
        axis = axes[name]
        listed = tuple(values.split(",")) if equals else axis.values
        if odd := [value for value in listed if value not in axis.values]:
            raise ConfigError(f"{name} cannot be {odd}; its values are {', '.join(axis.values)}")
        if not any(axis.applies(base.training) for base in bases):
            have = [other.name for other in others if axis.applies(other.training)]
            raise ConfigError(
                f"axis {name} does not exist for {' or '.join(base.name for base in bases)}; "
                f"{' and '.join(have)} have it"
            )
        wanted[name] = listed
    if not wanted:
        raise ConfigError("no axis is named; give --axes, or --list to see those there are")
    return [Choice(axis, wanted[axis.name]) for axis in known if axis.name in wanted]


def grid(base: Method, choices: Sequence[Choice], *, full: bool = False) -> list[Cell]:
    """Return a cell for every value, or with ``full`` for every combination of values.

    Values that the base has already make no cell; nor do combinations in which a value has no
    meaning, such as CLS tokens of a stream that is not there.

    Raises:
        ConfigError: the combinations are too many to mean all of them.
    """
    if not full:
        combined: Iterator[tuple[tuple[Axis, str], ...]] = (
            ((axis, value),) for axis, values in choices for value in values
        )
    else:
        count = math.prod(1 + len(values) for _, values in choices)
        if count > MOST_COMBINATIONS:
            raise ConfigError(
                f"the full grid would have {count:,} combinations, above {MOST_COMBINATIONS:,}; "
                "name fewer axes, or fewer values like gap_law=uniform,fixed"
            )
        picks = [[None, *((axis, value) for value in values)] for axis, values in choices]
        combined = (
            tuple(pick for pick in picked if pick is not None)
            for picked in itertools.product(*picks)
        )
    made = (cell(base, combination) for combination in combined if combination)
    return [found for found in made if found is not None]


def cell(base: Method, settings: Sequence[tuple[Axis, str]]) -> Cell | None:
    """Set every value; None where one changes nothing or has no meaning."""
    training = base.training
    for axis, value in settings:
        before = training
        if not axis.applies(before) or (training := axis.change(before, value)) == before:
            return None
    changes = dict(differences(base.training, training))
    leaves = [path.rpartition(".")[2] for path in changes]
    short = leaves if len(set(leaves)) == len(leaves) else list(changes)
    pairs = [f"{leaf}={value}" for leaf, value in zip(short, changes.values(), strict=True)]
    return Cell(
        name=" ".join([base.name, *pairs]),
        base=base.name,
        settings={axis.name: value for axis, value in settings},
        changes=changes,
        training=training,
    )


def differences(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the fields in which two configs differ, with the second one's values."""
    if before == after:
        return
    if not is_dataclass(after) or isinstance(after, type):
        yield path, str(after)
    elif type(before) is not type(after):
        own = {field.name: field.default for field in fields(after)}
        set_ = [
            f"{n} {getattr(after, n)}" for n, usual in own.items() if getattr(after, n) != usual
        ]
        yield path, " ".join([type(after).__name__, *set_])
    else:
        for field in fields(after):
            inner = f"{path}.{field.name}".lstrip(".")
            yield from differences(getattr(before, field.name), getattr(after, field.name), inner)
