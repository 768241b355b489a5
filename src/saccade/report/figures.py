"""The figures of the report, as SVG that lives inside the page.

Text stays text and takes the page's font; every colour is a named token that the page's style
sheet may redefine, so one figure serves light and dark. Methods have the colours of Okabe & Ito
(2008, https://jfly.uni-koeln.de/color/), which all common kinds of colour vision tell apart; a
floor is hollow, and grey unless it belongs to one method. Equal input gives equal bytes.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from saccade.report.results import Model, ProbeRow
from saccade.report.text import interval, score, short

TOKENS = {
    "ink": "#1f2329",
    "muted": "#626a74",
    "rule": "#d9dee4",
    "band": "#e9edf1",
    "paper": "#fefefe",
    "floor": "#7b838d",
    "method0": "#0072b2",
    "method1": "#d55e00",
    "method2": "#009e73",
    "method3": "#cc79a7",
    "method4": "#56b4e9",
    "method5": "#e69f00",
}
INK, MUTED, RULE, BAND, PAPER, FLOOR, *METHODS = TOKENS.values()
MARKERS = "osD^vP"
DASHES = ("-", "--", ":", "-.")
CUT = -0.5  # R2 is unbounded below: one broken model must not squeeze the others into a line
PIXELS = 100  # width on screen of one inch of figure

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


class Look(NamedTuple):
    """How one representation is drawn, the same in every figure."""

    token: str
    marker: str
    filled: bool

    @property
    def colour(self) -> str:
        """Return the colour that stands for the token until the SVG is in the page."""
        return TOKENS[self.token]

    def mark(self, size: int, marker: str = "") -> dict[str, Any]:
        """Return how matplotlib draws one score."""
        face = self.colour if self.filled else PAPER
        return {"marker": marker or self.marker, "color": self.colour, "mfc": face, "ms": size}


def name_of(row: ProbeRow) -> str:
    """Name a representation; a floor of one method says whose it is."""
    name, owner = row["representation"], row["floor_of"]
    return name if owner is None or owner in name else f"{name} ({owner})"


def looks(rows: Sequence[ProbeRow], models: Sequence[Model]) -> dict[str, Look]:
    """Give each method a colour and each floor the colour of its method, or grey."""
    probed = [row["representation"] for row in rows if row["kind"] == "method"]
    methods = list(dict.fromkeys([model["name"] for model in models] + probed))
    chosen = {
        name: Look(f"method{i % len(METHODS)}", MARKERS[i % len(MARKERS)], True)
        for i, name in enumerate(methods)
    }
    for row in rows:
        if row["kind"] == "floor":
            owner = chosen.get(row["floor_of"] or "", Look("floor", "o", False))
            chosen[name_of(row)] = owner._replace(filled=False)
    return chosen


def forest(rows: Sequence[ProbeRow], look: Mapping[str, Look], label: str) -> Markup:
    """Draw every score with its interval, best first, over the band of the best floor."""
    alt = f"{label}, best first: {_spoken(rows)}"
    size = (8.4, 0.9 + 0.29 * len(rows))
    return draw("forest", size, alt, lambda axes: _paint_forest(axes, rows, look, label))


def gap_lines(rows: Sequence[ProbeRow], look: Mapping[str, Look], title: str, fps: float) -> Markup:
    """Draw score against gap, one labelled line for each representation."""
    alt = f"R2 against the gap, {title}: {_spoken(rows, gap=True)}"
    return draw(f"gaps {title}", (4.9, 3.7), alt, lambda a: _paint_gaps(a, rows, look, title, fps))


def group_bars(
    rows: Sequence[ProbeRow], names: Sequence[str], look: Mapping[str, Look], title: str
) -> Markup:
    """Draw the scores of one group of the target: seen tasks strong, unseen tasks pale."""
    alt = f"{title} R2: {_spoken(rows, split=True)}"
    size = (4.9, 0.8 + 0.27 * len(names))
    return draw(f"bars {title}", size, alt, lambda a: _paint_bars(a, rows, names, look, title))


def ratios(model: Model) -> dict[int, list[tuple[int, float]]]:
    """Return (samples, evaluation loss over baseline loss) of each seed, where both are known."""
    return {
        run["seed"]: [
            (point["samples"], point["eval"]["loss"] / point["eval"]["baseline"])
            for point in run["history"]
            if point["eval"] and point["eval"]["loss"] is not None and point["eval"]["baseline"]
        ]
        for run in model["runs"]
    }


def training_curve(model: Model, look: Look, limits: tuple[float, float]) -> Markup:
    """Draw the loss relative to the trivial prediction against samples seen, seed by seed."""
    curves = ratios(model)
    ends = [f"seed {seed} ends at {curve[-1][1]:.2f}" for seed, curve in curves.items() if curve]
    alt = f"Training of {model['name']}, loss over baseline: {'; '.join(ends) or 'not evaluated'}"
    baseline = " / ".join(dict.fromkeys(run["baseline_name"] for run in model["runs"]))

    def paint(axes: Axes) -> None:
        for (seed, curve), dash in zip(curves.items(), cycle(DASHES)):
            x, y = [p[0] for p in curve], [p[1] for p in curve]
            axes.plot(x, y, dash, color=look.colour, lw=1.4, label=f"seed {seed}", marker=".", ms=4)
        axes.axhline(1, color=MUTED, lw=1, ls=(0, (4, 3)))
        axes.annotate(
            f"{baseline} baseline", (1, 1), (0, 3), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", color=MUTED, fontsize=8,
        )  # fmt: skip
        axes.set(title=short(model["name"]), xlabel="samples seen", yscale="log", ylim=limits)
        axes.yaxis.set_major_locator(FixedLocator([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _thousands(x)))
        axes.legend(frameon=False, fontsize=8, labelcolor=MUTED, loc="upper right")

    return draw(f"curve {model['name']}", (3.3, 2.6), alt, paint)


def draw(
    name: str,
    size: tuple[float, float],
    alt: str,
    paint: Callable[[Axes], None],
    projection: Literal["3d"] | None = None,
) -> Markup:
    """Paint one pair of axes and return it as an SVG element for the page.

    Args:
        name: different for each figure of a page, whose identifiers must be.
        size: width and height in inches.
        alt: what the figure shows, in words.
        paint: draws into the axes.
        projection: of the axes; flat unless given.
    """
    stream = io.StringIO()
    style = {**STYLE, "svg.hashsalt": name}
    with mpl.rc_context(style), warnings.catch_warnings():
        # The reader's browser, not matplotlib's font, draws the letters.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.add_subplot(projection=projection))
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})  # savefig draws twice
    svg = stream.getvalue()
    box = re.search(r'viewBox="[^"]*"', svg)
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<defs>") :], flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # numbered alike in every figure: not unique
    for token, colour in TOKENS.items():
        body = body.replace(colour, f"var(--{token})")
    width = f"--width: {size[0] * PIXELS:.0f}px"
    head = f'<svg {box[0] if box else ""} style="{width}" role="img" aria-label="{escape(alt)}">'
    return Markup(head + body)


def _paint_forest(
    axes: Axes, rows: Sequence[ProbeRow], look: Mapping[str, Look], label: str
) -> None:
    low, high = _limits(rows)
    best = next((row for row in rows if row["kind"] == "floor"), None)
    if best and best["r2_low"] is not None and best["r2_high"] is not None:
        axes.axvspan(best["r2_low"], best["r2_high"], color=BAND, zorder=0)
    axes.axvline(0, color=MUTED, lw=0.8)
    beside = axes.get_yaxis_transform()
    for y, row in enumerate(rows):
        style, value = look[name_of(row)], row["r2"]
        _interval(axes.hlines, row, y, style)
        if value is not None:
            mark = style.mark(6, "" if value >= low else "<")
            axes.plot(max(value, low + 0.01 * (high - low)), y, zorder=3, **mark)
        ink = style.colour if style.filled else MUTED
        axes.text(1.015, y, _scored(row), transform=beside, va="center", fontsize=8.5, color=ink)
    _name_rows(axes, [name_of(row) for row in rows], look)
    axes.set(xlim=(low, high), xlabel=label)
    axes.spines["left"].set_visible(False)


def _paint_gaps(
    axes: Axes, rows: Sequence[ProbeRow], look: Mapping[str, Look], title: str, fps: float
) -> None:
    low, high = _limits(rows)
    gaps = sorted({row["gap"] for row in rows})
    names = list(dict.fromkeys(name_of(row) for row in rows))
    ends: dict[str, float] = {}
    for index, name in enumerate(names):
        style = look[name]
        shift = (index / max(len(names) - 1, 1) - 0.5) * 0.035 * (gaps[-1] - gaps[0])
        line = sorted((row for row in rows if name_of(row) == name), key=lambda row: row["gap"])
        points = [(r["gap"] + shift, max(float(r["r2"]), low)) for r in line if r["r2"] is not None]
        for row in line:
            _interval(axes.vlines, row, row["gap"] + shift, style)
        stroke = {"ls": "-", "lw": 1.5} if style.filled else {"ls": "--", "lw": 0.8}
        x, y = [p[0] for p in points], [p[1] for p in points]
        axes.plot(x, y, zorder=2 + style.filled, **stroke, **style.mark(5))
        if points:
            ends[name] = y[-1]
    axes.axhline(0, color=MUTED, lw=0.8)
    axes.set(title=title, ylabel="R²", xlabel="gap between the two frames", ylim=(low, high))
    axes.set_xticks(gaps, [f"{gap}\n{gap / fps:.2g} s" for gap in gaps])
    beside = axes.get_yaxis_transform()
    for name, y in _spread(ends, 0.052 * (high - low), high).items():
        style = look[name]
        weight = "bold" if style.filled else "normal"
        axes.text(
            1.02, y, short(name), transform=beside, va="center", fontsize=8, weight=weight,
            color=style.colour,
        )  # fmt: skip


def _paint_bars(
    axes: Axes, rows: Sequence[ProbeRow], names: Sequence[str], look: Mapping[str, Look], title: str
) -> None:
    low, high = _limits(rows)
    two = any(row["split"] == "unseen" for row in rows)
    height, shift = (0.34, 0.19) if two else (0.6, 0.0)
    for row in rows:
        style, unseen = look[name_of(row)], row["split"] == "unseen"
        y = names.index(name_of(row)) + (shift if unseen else -shift)
        if row["r2"] is not None:
            strength = (0.4 if unseen else 1.0) if style.filled else (0.08 if unseen else 0.3)
            edge = "none" if style.filled else style.colour
            face = (style.colour, strength)
            axes.barh(y, max(row["r2"], low), height, color=face, edgecolor=edge, lw=0.7)
        if row["r2_low"] is not None and row["r2_high"] is not None:
            axes.hlines(y, row["r2_low"], row["r2_high"], color=INK, lw=0.9)
    axes.axvline(0, color=MUTED, lw=0.8)
    _name_rows(axes, names, look)
    axes.set(title=title, xlabel="R²", xlim=(low, high))


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
    if row["r2_low"] is not None and row["r2_high"] is not None:
        width, alpha = (2.0, 1.0) if style.filled else (1.2, 0.7)
        lines(at, row["r2_low"], row["r2_high"], color=style.colour, lw=width, alpha=alpha)


def _limits(rows: Iterable[ProbeRow]) -> tuple[float, float]:
    """Return the range of R2 to draw: all values and 0, but nothing below ``CUT``."""
    scores = [
        s for row in rows for s in (row["r2"], row["r2_low"], row["r2_high"]) if s is not None
    ]
    low, high = min([0.0, *scores]), max([0.2, *scores])
    return max(low, CUT) - 0.04, min(high, 1.0) + 0.04


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


def _spoken(rows: Iterable[ProbeRow], *, gap: bool = False, split: bool = False) -> str:
    """Say the figure for those who cannot see it."""
    parts = []
    for row in rows:
        where = f" at gap {row['gap']}" if gap else f" on {row['split']}" if split else ""
        parts.append(f"{name_of(row)}{where} {_scored(row)}")
    return "; ".join(parts)


def _thousands(value: float | int) -> str:
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value else "0"
