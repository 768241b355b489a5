"""The figures of the probes: forests, lines, bars, confusions, planes and ablations.

What the documents of a figure cannot show is cut at the axis and said in its table, never
dropped: a score beyond the axis is drawn at its edge.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import PercentFormatter

from saccade.report.figures import (
    BAND,
    INK,
    MARKERS,
    METHODS,
    MUTED,
    PAPER,
    Look,
    draw,
    hue,
    name_of,
)
from saccade.report.results import Cell, Confusion, Number, ProbeRow, Projection
from saccade.report.text import SHARES, chance_of, interval, metric_of, number, score, short

CUT = -0.5  # R2 is unbounded below: one broken model must not squeeze the others into a line
MOST_POINTS = 500  # of one plane; more make the page heavy and the picture no clearer
STRENGTH = (1.0, 0.6, 0.38, 0.22)  # of the bars of each series


class Place(NamedTuple):
    """Where a row lies along the axis of a line figure, and what is written there."""

    at: float | int
    label: str


def forest(rows: Sequence[ProbeRow], look: Mapping[str, Look], label: str) -> Markup:
    """Draw every score with its interval, best first, over the band of the best floor."""
    alt = f"{label}, best first: {_spoken(rows)}"
    size = (8.4, 0.9 + 0.29 * len(rows))
    return draw(f"forest {label}", size, alt, lambda axes: _paint_forest(axes, rows, look, label))


def lines(
    rows: Sequence[ProbeRow],
    look: Mapping[str, Look],
    title: str,
    place: Callable[[ProbeRow], Place],
    along: str,
) -> Markup:
    """Draw the score along something, one labelled line for each representation."""
    told = ((row, f" at {place(row).label}".replace("\n", ", ")) for row in rows)
    alt = f"{metric_of(rows[0]['metric'])} along {along}, {title}: {_told(told)}"
    return draw(
        f"lines {along} {title}",
        (4.9, 3.7),
        alt,
        lambda axes: _paint_lines(axes, rows, look, title, place, along),
    )


def bars(
    rows: Sequence[ProbeRow],
    look: Mapping[str, Look],
    title: str,
    series: Mapping[str, str],
    key: Callable[[ProbeRow], str],
) -> Markup:
    """Draw the scores of every representation side by side for each series, the first strong.

    Args:
        rows: in the order of the representations.
        look: of each representation.
        title: above the figure, different for each.
        series: from key to what the legend says.
        key: of a row's series.
    """
    names = list(dict.fromkeys(name_of(row) for row in rows))
    alt = f"{title}: {_told((row, f', {series[key(row)]}') for row in rows)}"
    size = (4.9, 0.95 + (0.09 + 0.13 * max(len(series), 2)) * len(names))
    return draw(
        f"bars {title}",
        size,
        alt,
        lambda axes: _paint_bars(axes, rows, names, look, title, series, key),
    )


def confusion(table: Confusion) -> Markup:
    """Draw the share of each true class that was taken for each class."""
    counts = np.array([[v or 0.0 for v in row] for row in table["counts"]], dtype=float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1e-12)
    labels = [short(label, 18) for label in table["labels"]]
    title = short(f"{table['representation']}: {table['target']}", 44)
    right = np.trace(counts) / max(counts.sum(), 1e-12)
    side = 1.5 + 0.36 * len(labels)

    def paint(axes: Axes) -> None:
        for row, column in np.ndindex(*shares.shape):
            share = shares[row, column]
            box = Rectangle(
                (column - 0.5, row - 0.5), 1, 1, fc=(METHODS[0], 0.85 * share), ec=PAPER
            )
            axes.add_patch(box)
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=INK)
        edge = len(labels) - 0.5
        axes.set(xlim=(-0.5, edge), ylim=(edge, -0.5), aspect="equal", title=title)
        axes.set(xlabel="taken for", ylabel="true")
        axes.set_xticks(range(len(labels)), labels, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(labels)), labels)
        axes.grid(visible=False)
        axes.tick_params(length=0)

    alt = f"Confusion of {table['representation']} on {table['target']}: {100 * right:.0f} % right"
    name = f"confusion {table['representation']} {table['target']} {table['split']} {table['gap']}"
    return draw(name, (side + 0.5, side), alt, paint)


def plane(projection: Projection) -> Markup:
    """Draw samples in two dimensions by the colour and marker of their label."""
    x, y, label = projection["x"], projection["y"], projection["label"]
    known = [i for i in range(len(label)) if x[i] is not None and y[i] is not None]
    step = -(-len(known) // MOST_POINTS) or 1

    def paint(axes: Axes) -> None:
        for index in range(len(projection["labels"])):
            mine = [i for i in known[::step] if label[i] == index]
            xs, ys = np.array([x[i] for i in mine], float), np.array([y[i] for i in mine], float)
            axes.plot(xs, ys, ls="none", **_marked(index, 3.2), alpha=0.8)
        axes.set(title=short(projection["representation"], 34), xticks=[], yticks=[])
        axes.grid(visible=False)

    shown = len(known[::step])
    alt = (
        f"{projection['method']} of {projection['representation']}: {shown} of {len(label)} "
        f"samples, coloured by {', '.join(projection['labels'])}"
    )
    name = f"{projection['method']} {projection['representation']} {' '.join(projection['labels'])}"
    return draw(name, (3.1, 2.9), alt, paint)


def legend(name: str, labels: Sequence[str]) -> Markup:
    """Draw what the colours and markers of planes mean."""
    handles = [
        Line2D([], [], ls="none", label=short(label, 28), **_marked(index, 5))
        for index, label in enumerate(labels)
    ]
    columns = 3
    size = (6.6, 0.12 + 0.21 * -(-len(labels) // columns))

    def paint(axes: Axes) -> None:
        axes.set_axis_off()
        axes.legend(handles=handles, ncols=columns, loc="center left", frameon=False)

    return draw(f"legend {name} {' '.join(labels)}", size, f"Labels: {', '.join(labels)}", paint)


def ablation(cells: Sequence[Cell], title: str) -> Markup:
    """Draw the difference of each cell from its base; filled where Holm's p is below 0.05."""
    names = [f"{cell['axis']} = {cell['value']}" for cell in cells]
    if len(set(names)) < len(names):  # several bases
        names = [cell["cell"] for cell in cells]
    told = [
        f"{number(c['difference'], 3)} {_between(c)}, p {chance_of(c['p_holm'])}" for c in cells
    ]

    def paint(axes: Axes) -> None:
        axes.axvline(0, color=MUTED, lw=0.8)
        beside = axes.get_yaxis_transform()
        for y, cell in enumerate(cells):
            sure = cell["p_holm"] is not None and cell["p_holm"] < 0.05
            ink = METHODS[0] if sure else MUTED
            if cell["low"] is not None and cell["high"] is not None:
                axes.hlines(y, cell["low"], cell["high"], color=ink, lw=2.0 if sure else 1.2)
            if cell["difference"] is not None:
                face = ink if sure else PAPER
                axes.plot(cell["difference"], y, marker="o", color=ink, mfc=face, ms=6)
            axes.text(1.015, y, told[y], transform=beside, va="center", fontsize=8.5, color=MUTED)
        axes.set_yticks(range(len(names)), [short(name, 44) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set(xlabel=title)

    spoken = "; ".join(f"{name} {what}" for name, what in zip(names, told, strict=True))
    size = (8.4, 0.9 + 0.29 * len(cells))
    return draw(f"ablation {title}", size, f"{title}: {spoken}", paint)


def _marked(index: int, size: float | int) -> dict[str, Any]:
    token, marker = hue(index)
    colour = METHODS[int(token.removeprefix("method"))]
    full = index < len(METHODS) * len(MARKERS) // 2
    return {
        "marker": marker,
        "color": colour,
        "mfc": colour if full else PAPER,
        "ms": size,
        "mew": 0.6,
    }


def _between(cell: Cell) -> str:
    if cell["low"] is None or cell["high"] is None:
        return "(no interval)"
    return f"[{number(cell['low'], 3)}, {number(cell['high'], 3)}]"


def _paint_forest(
    axes: Axes, rows: Sequence[ProbeRow], look: Mapping[str, Look], label: str
) -> None:
    low, high = _limits(rows)
    best = next((row for row in rows if row["kind"] == "floor"), None)
    if best and best["low"] is not None and best["high"] is not None:
        axes.axvspan(best["low"], best["high"], color=BAND, zorder=0)
    if (chance := _chance(rows)) is not None:
        axes.axvline(chance, color=MUTED, lw=0.8)
    beside = axes.get_yaxis_transform()
    for y, row in enumerate(rows):
        style, value = look[name_of(row)], row["value"]
        _interval(axes.hlines, row, y, style)
        if value is not None:
            inside = min(max(value, low + 0.01 * (high - low)), high)
            mark = style.mark(6, "" if value >= low else "<")
            axes.plot(inside, y, zorder=3, **mark)
        ink = style.colour if style.filled else MUTED
        axes.text(1.015, y, _scored(row), transform=beside, va="center", fontsize=8.5, color=ink)
    _name_rows(axes, [name_of(row) for row in rows], look)
    axes.set(xlim=(low, high), xlabel=label)
    _ticks(axes.xaxis, rows[0]["metric"])
    axes.spines["left"].set_visible(False)


def _paint_lines(
    axes: Axes,
    rows: Sequence[ProbeRow],
    look: Mapping[str, Look],
    title: str,
    place: Callable[[ProbeRow], Place],
    along: str,
) -> None:
    low, high = _limits(rows)
    places = sorted({place(row) for row in rows})
    span = places[-1].at - places[0].at
    names = list(dict.fromkeys(name_of(row) for row in rows))
    ends: dict[str, float] = {}
    for index, name in enumerate(names):
        style = look[name]
        shift = (index / max(len(names) - 1, 1) - 0.5) * 0.035 * span
        line = sorted((row for row in rows if name_of(row) == name), key=lambda row: place(row).at)
        known = [(place(r).at + shift, r["value"]) for r in line if r["value"] is not None]
        for row in line:
            _interval(axes.vlines, row, place(row).at + shift, style)
        stroke = {"ls": "-", "lw": 1.5} if style.filled else {"ls": "--", "lw": 0.8}
        x, y = [p[0] for p in known], [max(float(p[1]), low) for p in known]
        axes.plot(x, y, zorder=2 + style.filled, **stroke, **style.mark(5))
        if known:
            ends[name] = y[-1]
    if (chance := _chance(rows)) is not None:
        axes.axhline(chance, color=MUTED, lw=0.8)
    axes.set(title=title, ylabel=metric_of(rows[0]["metric"]), xlabel=along, ylim=(low, high))
    _ticks(axes.yaxis, rows[0]["metric"])
    axes.set_xticks([p.at for p in places], [p.label for p in places])
    beside = axes.get_yaxis_transform()
    for name, y in _spread(ends, 0.052 * (high - low), high).items():
        style = look[name]
        weight = "bold" if style.filled else "normal"
        axes.text(
            1.02, y, short(name), transform=beside, va="center", fontsize=8, weight=weight,
            color=style.colour,
        )  # fmt: skip


def _paint_bars(
    axes: Axes,
    rows: Sequence[ProbeRow],
    names: Sequence[str],
    look: Mapping[str, Look],
    title: str,
    series: Mapping[str, str],
    key: Callable[[ProbeRow], str],
) -> None:
    low, high = _limits(rows, bars=True)
    order, height = list(series), 0.76 / len(series)
    for row in rows:
        style, which = look[name_of(row)], order.index(key(row))
        y = names.index(name_of(row)) + (which - (len(order) - 1) / 2) * height
        fade = STRENGTH[min(which, len(STRENGTH) - 1)]
        if row["value"] is not None:
            face = (style.colour, fade if style.filled else 0.35 * fade)
            edge = "none" if style.filled else style.colour
            axes.barh(y, max(row["value"], low), 0.88 * height, color=face, edgecolor=edge, lw=0.7)
        if row["low"] is not None and row["high"] is not None:
            axes.hlines(y, row["low"], row["high"], color=INK, lw=0.9)
    if (chance := _chance(rows)) is not None:
        axes.axvline(chance, color=MUTED, lw=0.8)
    _name_rows(axes, names, look)
    axes.set(title=title, xlabel=metric_of(rows[0]["metric"]), xlim=(low, high))
    _ticks(axes.xaxis, rows[0]["metric"])
    if len(series) > 1:
        fades = [STRENGTH[min(i, len(STRENGTH) - 1)] for i in range(len(series))]
        handles = [Patch(fc=(INK, f), label=t) for f, t in zip(fades, series.values(), strict=True)]
        axes.figure.legend(
            handles=handles, loc="outside lower center", ncols=min(len(series), 3), frameon=False,
            fontsize=8, labelcolor=MUTED,
        )  # fmt: skip


def _name_rows(axes: Axes, names: Sequence[str], look: Mapping[str, Look]) -> None:
    """Put one representation on each row, the first on top."""
    axes.set_yticks(range(len(names)), [short(name, 40) for name in names])
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        method = look[name].filled
        tick.set(color=look[name].colour if method else MUTED)
        tick.set_fontweight("bold" if method else "normal")
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _interval(lines: Callable[..., Any], row: ProbeRow, at: float | int, style: Look) -> None:
    if row["low"] is not None and row["high"] is not None:
        width, alpha = (2.0, 1.0) if style.filled else (1.2, 0.7)
        lines(at, row["low"], row["high"], color=style.colour, lw=width, alpha=alpha)


def _limits(rows: Sequence[ProbeRow], *, bars: bool = False) -> tuple[float, float]:
    """Return the range to draw: all values, and where bars or scores start, but little below 0."""
    known = [s for row in rows for s in (row["value"], row["low"], row["high"]) if s is not None]
    known += [row["chance"] for row in rows if row["chance"] is not None]
    known += [0.0] if bars or rows[0]["metric"] == "r2" or not known else []
    low, high = min(known), max(known)
    if rows[0]["better"] == "higher":  # all our scores of which more is better end at 1
        low, high = max(low, CUT), min(max(high, low + 0.2), 1.0)
    margin = 0.04 * ((high - low) or 1.0)
    return low - margin * (low != 0 or not bars), high + margin


def _ticks(axis: Axis, metric: str) -> None:
    """Print shares in percent."""
    if metric in SHARES:
        axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))


def _chance(rows: Sequence[ProbeRow]) -> Number:
    """Return what knowing nothing scores, where all rows agree; 0 is so for R2."""
    found = {row["chance"] for row in rows}
    known = next(iter(found)) if len(found) == 1 else None
    return 0.0 if known is None and rows and rows[0]["metric"] == "r2" else known


def _spread(wanted: Mapping[str, float], distance: float, top: float) -> dict[str, float]:
    """Move labels apart to at least a distance, keeping their order and staying below ``top``."""
    placed: dict[str, float] = {}
    last = top + distance
    for name, y in sorted(wanted.items(), key=lambda item: -item[1]):
        last = min(y, last - distance)
        placed[name] = last
    return placed


def _scored(row: ProbeRow) -> str:
    return f"{score(row)}  {interval(row)}".rstrip()


def _spoken(rows: Iterable[ProbeRow]) -> str:
    """Say the figure for those who cannot see it."""
    return _told((row, "") for row in rows)


def _told(rows: Iterable[tuple[ProbeRow, str]]) -> str:
    return "; ".join(f"{name_of(row)}{where} {_scored(row)}" for row, where in rows)
