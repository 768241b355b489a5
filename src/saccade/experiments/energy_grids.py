"""Which actions a landscape study asks about: a main grid, wider ones, slices and sweeps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from saccade.errors import ConfigError
from saccade.evals.landscape import HALF_WIDTH, Grid, grid, kind_of

Pair = tuple[str, str]


class Grids(NamedTuple):
    """All grids of a study, for the axes of one model."""

    main: Grid
    widened: tuple[tuple[float, Grid], ...]  # by factor, without the main grid
    slices: tuple[Grid, ...]
    sweeps: tuple[Grid, ...]

    @property
    def every(self) -> list[Grid]:
        """List them in the order in which they are computed."""
        return [self.main, *(wide for _, wide in self.widened), *self.slices, *self.sweeps]

    def evaluations(self, controls: int) -> int:
        """Count the imagined actions of one moment, with so many controls."""
        asked = [len(one.cells) + 1 for one in self.every]  # the truth as far as the grid has it
        return sum(asked) + 2 + controls * (len(self.main.cells) + 3)


@dataclass(frozen=True, kw_only=True)
class GridsConfig:
    """Grids by the names of axes; what is left out is chosen from the model's axes.

    Args:
        axes: of the main grid, other axes held at zero; empty takes the model's positions.
        half_width: its largest values, one for all axes or one for each, in metres, radians or
            openings of the gripper; empty takes 7.5 cm, 0.15 rad or 0.75 openings.
        steps: values along each of its axes, one number for all or one for each.
        slices: pairs of axes to vary around the *true* action; None takes those of the positions
            and one with the gripper.
        slice_steps: values along each axis of a slice.
        sweep_steps: values along each axis, varied by itself through the true action; 0 leaves
            these sweeps out.
        widen: factors of the main grid's half-widths, to show where the minimum goes.
    """

    axes: tuple[str, ...] = ()
    half_width: tuple[float, ...] = ()
    steps: tuple[int, ...] = (5,)
    slices: tuple[tuple[str, ...], ...] | None = None
    slice_steps: int = 11
    sweep_steps: int = 11
    widen: tuple[float, ...] = (1.0, 2.0, 4.0)

    def resolve(self, names: Sequence[str]) -> Grids:
        """Make the grids for a model's axes of actions.

        Raises:
            ConfigError: an axis that the model does not have, or of an unknown unit and without a
                half-width; a slice that is no pair; a count or a factor that cannot be.
        """
        main = self._main(names)
        wide = sorted(set(self.widen) - {1})
        if len(set(self.widen)) < len(self.widen) or any(not factor > 0 for factor in wide):
            raise ConfigError(
                f"the main grid cannot be widened by {list(self.widen)}; give different factors "
                "above 0"
            )
        width = dict(zip(main.names, main.half_width, strict=True))
        known = [name for name in names if name in width or kind_of(name) != "other"]
        found = Grids(
            main,
            tuple((factor, main.widened(factor)) for factor in wide),
            tuple(
                _through_truth(pair, width, self.slice_steps)
                for pair in (_pairs(known) if self.slices is None else map(_pair, self.slices))
            ),
            tuple(
                _through_truth((name,), width, self.sweep_steps)
                for name in known
                if self.sweep_steps
            ),
        )
        for one in found.every:
            one.places(names)
        return found

    def _main(self, names: Sequence[str]) -> Grid:
        axes = self.axes or tuple(name for name in names if kind_of(name) == "position")[:3]
        if not axes:
            raise ConfigError(
                f"the model's actions {list(names)} have no position; name the axes of the main "
                "grid (--axes) and their half-widths (--half-width)"
            )
        width = self.half_width or None
        if width is not None and len(width) == 1:
            width = width * len(axes)
        steps = self.steps * len(axes) if len(self.steps) == 1 else self.steps
        main = grid(axes, width, steps)
        main.places(names)
        return main


def _through_truth(axes: Sequence[str], width: dict[str, float], steps: int) -> Grid:
    """Vary some axes around the true action, as far as the main grid or else the default."""
    lost = [name for name in axes if name not in width and kind_of(name) == "other"]
    if lost:
        raise ConfigError(
            f"the axes {lost} of a slice are of no known unit; put them into the main grid, with "
            "half-widths"
        )
    reach = [width[name] if name in width else HALF_WIDTH[kind_of(name)] for name in axes]
    return grid(axes, reach, steps, "truth")


def _pair(axes: tuple[str, ...]) -> Pair:
    if len(set(axes)) != 2 or len(axes) != 2:
        raise ConfigError(
            f"a slice varies two different axes, not {','.join(axes)!r}; write --slices x,z"
        )
    return axes[0], axes[1]


def _pairs(known: Sequence[str]) -> list[Pair]:
    """Choose slices: across and along the table, and the gripper with a rotation or a height."""
    kinds = {kind: [name for name in known if kind_of(name) == kind] for kind in HALF_WIDTH}
    places = kinds["position"]
    pairs = [(places[0], other) for other in reversed(places[1:3])] if places else []
    turning = kinds["rotation"] or places
    if kinds["gripper"] and turning:
        pairs.append((turning[-1], kinds["gripper"][0]))
    return pairs
