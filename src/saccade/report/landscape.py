"""Figures of energy landscapes, as SVG for the page: planes, surfaces, sweeps and curves.

Dark is low. A star marks the true action, a cross the lowest cell; a truth outside of the grid is
a hollow star at the border next to it. Titles tell figures of one page apart, so no two may have
the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import matplotlib as mpl
import numpy as np
from jaxtyping import Float64
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.ticker import MaxNLocator

from saccade.errors import ConfigError, DataError
from saccade.evals.landscape import Landscape, kind_of
from saccade.report.figures import DASHES, MARKERS, METHODS, MUTED, Look, draw
from saccade.report.results import Number
from saccade.report.text import DASH, number

COLOURS = 48  # below 50, matplotlib keeps the scale of colours as shapes
UNITS = {"position": "m", "rotation": "rad", "gripper": "openings", "other": "of the data"}
LIGHT, DARK = "#ffffff", "#000000"  # of marks on the colours, in any theme
Pair = tuple[str, str]
Limits = tuple[float, float]
Estimate = Mapping[str, Any]  # {value, low, high}, as evals give it
Over = Literal["min", "sum"]


class Plane(NamedTuple):
    """Energies along two axes of a grid, and where the truth lies in it."""

    names: Pair
    x: Float64[np.ndarray, " x"]
    y: Float64[np.ndarray, " y"]
    energy: Float64[np.ndarray, "x y"]
    truth: tuple[float, float]

    @property
    def lowest(self) -> tuple[float, float]:
        """Values of the cell of lowest energy; the first, where several are equal."""
        x, y = np.unravel_index(int(self.energy.argmin()), self.energy.shape)
        return float(self.x[x]), float(self.y[y])

    @property
    def inside(self) -> bool:
        """Tell whether the truth is within the values."""
        return self.nearest == self.truth

    @property
    def nearest(self) -> tuple[float, float]:
        """The truth, or the place on the border next to it."""
        x, y = self.truth
        return (
            float(np.clip(x, self.x[0], self.x[-1])),
            float(np.clip(y, self.y[0], self.y[-1])),
        )


def plane(landscape: Landscape, names: Pair | None = None, over: Over = "min") -> Plane:
    """Reduce a landscape to two of its axes, by the lowest energy along the rest or their sum.

    Args:
        landscape: of two axes or more.
        names: the axes across and upwards; by default the first two.
        over: what is taken along the others.

    Raises:
        ConfigError: the grid does not vary these axes.
    """
    grid = landscape.grid
    if names is None:
        if len(grid.names) < 2:
            raise ConfigError(f"a plane needs two axes; the grid varies {grid.names}: draw a sweep")
        names = grid.names[0], grid.names[1]
    if len(set(names)) != 2 or not set(names) <= set(grid.names):
        raise ConfigError(f"the axes of a plane are {names}; the grid varies {grid.names}")
    kept = [grid.names.index(name) for name in names]
    rest = tuple(i for i in range(len(grid.names)) if i not in kept)
    energy = landscape.energy.min(rest) if over == "min" else landscape.energy.sum(rest)
    if kept[0] > kept[1]:
        energy = energy.T
    x, y = (float(landscape.truth[landscape.names.index(name)]) for name in names)
    return Plane(names, grid.values[kept[0]], grid.values[kept[1]], energy, (x, y))


def heat_map(
    landscape: Landscape,
    title: str,
    names: Pair | None = None,
    limits: Limits | None = None,
) -> Markup:
    """Draw the lowest energy over two axes, with truth and minimum.

    Args:
        landscape: of two axes or more.
        title: names the figure.
        names: the axes across and upwards; by default the first two.
        limits: energies of the darkest and the lightest colour, to compare figures by; by default
            the figure's own.
    """
    drawn = plane(landscape, names)
    return draw(
        _key("heat", title, landscape, drawn), (4.3, 3.4), _spoken(drawn, title),
        lambda axes: paint_heat_map(axes, drawn, title, limits),
    )  # fmt: skip


def paint_heat_map(axes: Axes, drawn: Plane, title: str, limits: Limits | None = None) -> None:
    """Paint cells around their values, and the two marks."""
    (x, dx), (y, dy) = ((axis, (axis[1] - axis[0]) / 2) for axis in (drawn.x, drawn.y))
    _paint_cells(axes, drawn, (x[0] - dx, x[-1] + dx, y[0] - dy, y[-1] + dy), limits)
    face = LIGHT if drawn.inside else "none"
    axes.plot(
        *drawn.nearest, "*", ms=13, mfc=face, mec=DARK if drawn.inside else LIGHT, mew=1,
        clip_on=False, gid="truth",
    )  # fmt: skip
    axes.plot(*drawn.lowest, "x", ms=8, mec=LIGHT, mew=2, clip_on=False, gid="lowest")
    _name_axes(axes, drawn, title)


def notebook_plot(landscape: Landscape, title: str = "Energy Landscape") -> Markup:
    """Draw what the official notebook draws: energies over x and z, *summed* over y, no marks.

    It is a histogram weighted by energy, so its colours are as many times the mean energy as there
    are values of y, and its cells lie between the outermost values rather than around each
    (https://github.com/facebookresearch/vjepa2, ``notebooks/energy_landscape_example.ipynb``).

    Raises:
        ConfigError: the grid is not one of x, y and z.
    """
    drawn = notebook_plane(landscape)
    return draw(
        _key("notebook", title, landscape, drawn), (4.3, 3.4), _spoken(drawn, f"{title}, summed"),
        lambda axes: paint_notebook_plot(axes, drawn, title),
    )  # fmt: skip


def notebook_plane(landscape: Landscape) -> Plane:
    """Sum the energies of a grid of x, y and z over y.

    Raises:
        ConfigError: the grid is another one.
    """
    if sorted(landscape.grid.names) != ["x", "y", "z"]:
        raise ConfigError(
            f"the official plot is of a grid of x, y and z, not {landscape.grid.names}; draw a "
            "heat map"
        )
    return plane(landscape, ("x", "z"), "sum")


def paint_notebook_plot(axes: Axes, drawn: Plane, title: str) -> None:
    """Paint cells of equal size between the outermost values."""
    _paint_cells(axes, drawn, (drawn.x[0], drawn.x[-1], drawn.y[0], drawn.y[-1]))
    axes.grid(visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set(title=title, xlabel="Action Delta x", ylabel="Action Delta z", aspect="equal")


def surface(landscape: Landscape, title: str, names: Pair | None = None) -> Markup:
    """Draw the lowest energy over two axes as a surface, with truth (a post) and minimum."""
    drawn = plane(landscape, names)
    return draw(
        _key("surface", title, landscape, drawn), (4.6, 3.8), _spoken(drawn, title),
        lambda axes: paint_surface(axes, drawn, title), projection="3d",
    )  # fmt: skip


def paint_surface(axes: Axes, drawn: Plane, title: str) -> None:
    """Paint a surface, a post where the truth is and a point where it is lowest."""
    solid = cast(Any, axes)
    x, y = np.meshgrid(drawn.x, drawn.y, indexing="ij")
    solid.plot_surface(
        x, y, drawn.energy, cmap=_colours(), rcount=len(drawn.x), ccount=len(drawn.y),
        linewidth=0, antialiased=False, alpha=0.85,
    )  # fmt: skip
    low, high = float(drawn.energy.min()), float(drawn.energy.max())
    tx, ty = drawn.nearest
    dash = "-" if drawn.inside else ":"
    solid.plot([tx, tx], [ty, ty], [low, high], dash, color=METHODS[1], lw=2, gid="truth")
    solid.plot(*([value] for value in drawn.lowest), [low], "X", color=METHODS[0], ms=8, mec=LIGHT)
    _name_axes(axes, drawn, title)
    axes.set_aspect("auto")
    for axis in (solid.xaxis, solid.yaxis, solid.zaxis):
        axis.set_major_locator(MaxNLocator(4))
    solid.set_zlabel("energy", color=MUTED)


def sweep(lines: Mapping[str, Landscape], title: str) -> Markup:
    """Draw energy along the one axis that a grid varies, for each model.

    Raises:
        ConfigError: a grid of several axes, or models swept along different axes.
        DataError: nothing to draw, or the truths differ.
    """
    name, truth = _one_axis(lines)
    parts = [f"{label} lowest at {number(_lowest(one), 3)}" for label, one in lines.items()]
    alt = f"{title}, energy along {name}: {'; '.join(parts)}; truth at {number(truth, 3)}"
    return draw(
        f"sweep {title} {name}", (4.3, 3.0), alt, lambda axes: paint_sweep(axes, lines, title)
    )


def paint_sweep(axes: Axes, lines: Mapping[str, Landscape], title: str) -> None:
    """Paint a line and the lowest point of each model, and where the truth is."""
    name, truth = _one_axis(lines)
    for index, (label, one) in enumerate(lines.items()):
        look = _look(index)
        axes.plot(
            one.grid.values[0], one.energy, DASHES[index % len(DASHES)], color=look.colour, lw=1.5,
            label=label,
        )  # fmt: skip
        axes.plot(_lowest(one), one.energy.min(), gid="lowest", **look.mark(6))
    axes.axvline(truth, color=MUTED, lw=1, ls=(0, (4, 3)), gid="truth")
    axes.annotate(
        "truth", (truth, 1), (3, -2), xycoords=("data", "axes fraction"),
        textcoords="offset points", va="top", color=MUTED, fontsize=8,
    )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set(title=title, xlabel=_label(name), ylabel="energy")
    axes.legend(frameon=False, fontsize=8, labelcolor=MUTED)


def curves(
    lines: Mapping[str, Sequence[tuple[int | float, Estimate]]],
    title: str,
    across: str,
    upwards: str,
    floor: tuple[str, Estimate] | None = None,
) -> Markup:
    """Draw a score of landscapes with its interval against training steps, or a grid's width.

    Args:
        lines: (place, ``{value, low, high}``) of each model; what has no value leaves a hole.
        title: names the figure.
        across: label of the places.
        upwards: label of the score.
        floor: its name and score, drawn as a band.

    Raises:
        DataError: nothing to draw.
    """
    if not any(lines.values()):
        raise DataError(f"the curves {title!r} have no point; compute landscapes first")
    ends = [f"{k} ends at {_said(line[-1][1])}" for k, line in lines.items() if line]
    last = [f"{floor[0]} is {_said(floor[1])}"] if floor else []
    return draw(
        f"curves {title}", (4.9, 3.2), f"{title}, {upwards} against {across}: "
        + "; ".join(ends + last),
        lambda axes: paint_curves(axes, lines, title, across, upwards, floor),
    )  # fmt: skip


def paint_curves(
    axes: Axes,
    lines: Mapping[str, Sequence[tuple[int | float, Estimate]]],
    title: str,
    across: str,
    upwards: str,
    floor: tuple[str, Estimate] | None = None,
) -> None:
    """Paint lines with their intervals as bands, over the floor."""
    for index, (label, line) in enumerate(lines.items()):
        look = _look(index)
        places = [place for place, _ in line]
        middle, low, high = (
            [_known(point[key]) for _, point in line] for key in ("value", "low", "high")
        )
        axes.fill_between(places, low, high, color=look.colour, alpha=0.18, lw=0)
        axes.plot(places, middle, lw=1.5, label=label, **look.mark(5))
    if floor is not None and floor[1]["value"] is not None:
        name, found = floor
        axes.axhline(found["value"], color=MUTED, lw=1, ls=(0, (4, 3)), label=name)
        if found["low"] is not None and found["high"] is not None:
            axes.axhspan(found["low"], found["high"], color=MUTED, alpha=0.12, lw=0)
    axes.set(title=title, xlabel=across, ylabel=upwards)
    axes.legend(frameon=False, fontsize=8, labelcolor=MUTED)


def limits_of(landscapes: Sequence[Landscape], names: Pair | None = None) -> Limits:
    """Return one scale of colours for the heat maps of several landscapes.

    Raises:
        DataError: none is given.
    """
    if not landscapes:
        raise DataError("no landscape, no scale; compute landscapes first")
    planes = [plane(landscape, names).energy for landscape in landscapes]
    return float(min(p.min() for p in planes)), float(max(p.max() for p in planes))


def _paint_cells(
    axes: Axes,
    drawn: Plane,
    extent: tuple[float, float, float, float],
    limits: Limits | None = None,
) -> None:
    """Paint one pixel for each cell, which the reader's browser enlarges, and the scale."""
    low, high = limits or (None, None)
    image = axes.imshow(
        drawn.energy.T, _colours(), origin="lower", extent=extent, vmin=low, vmax=high,
        interpolation="none",
    )  # fmt: skip
    cast(Any, axes.figure).colorbar(image, ax=axes).outline.set_visible(False)


def _one_axis(lines: Mapping[str, Landscape]) -> tuple[str, float]:
    """Return the axis of a sweep and the truth along it."""
    if not lines:
        raise DataError("a sweep needs a landscape; compute one first")
    axes = {one.grid.names for one in lines.values()}
    if len(axes) > 1 or len(next(iter(axes))) != 1:
        raise ConfigError(f"a sweep is along one axis, the same for each model, not {axes}")
    ((name,),) = axes
    truths = {float(one.truth[one.names.index(name)]) for one in lines.values()}
    if len(truths) > 1:
        raise DataError(f"the models of one sweep need one moment; their truths are {truths}")
    return name, truths.pop()


def _lowest(landscape: Landscape) -> float:
    return float(landscape.grid.values[0][landscape.energy.argmin()])


def _look(index: int) -> Look:
    return Look(f"method{index % len(METHODS)}", MARKERS[index % len(MARKERS)], True)


def _colours() -> Colormap:
    return mpl.colormaps["viridis"].resampled(COLOURS)


def _label(name: str) -> str:
    return f"Δ{name} ({UNITS[kind_of(name)]})"


def _name_axes(axes: Axes, drawn: Plane, title: str) -> None:
    """Label both axes; lengths of one unit are drawn alike."""
    across, upwards = drawn.names
    axes.grid(visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set(title=title, xlabel=_label(across), ylabel=_label(upwards))
    alike = kind_of(across) == kind_of(upwards) and np.ptp(drawn.x) == np.ptp(drawn.y)
    axes.set_aspect("equal" if alike else "auto")


def _key(kind: str, title: str, landscape: Landscape, drawn: Plane) -> str:
    place = f"{landscape.episode} {landscape.start}"
    return f"{kind} {title} {place} {' '.join(drawn.names)}"


def _spoken(drawn: Plane, title: str) -> str:
    """Say the figure for those who cannot see it."""

    def at(place: tuple[float, float]) -> str:
        return f"({number(place[0], 3)}, {number(place[1], 3)})"

    where = "" if drawn.inside else ", outside of the grid"
    return (
        f"{title}, energy over {drawn.names[0]} and {drawn.names[1]} from "
        f"{number(float(drawn.energy.min()), 4)} to {number(float(drawn.energy.max()), 4)}: lowest "
        f"at {at(drawn.lowest)}, truth at {at(drawn.truth)}{where}"
    )


def _known(value: Number) -> float:
    return float("nan") if value is None else float(value)


def _said(found: Estimate) -> str:
    value, low, high = found["value"], found["low"], found["high"]
    if value is None:
        return DASH
    span = "" if low is None or high is None else f" [{number(low, 3)}, {number(high, 3)}]"
    return number(value, 3) + span
