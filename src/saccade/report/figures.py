"""The figures of the report, as SVG that lives inside the page.

Text stays text and takes the page's font; every colour is a named token that the page's style
sheet may redefine, so one figure serves light and dark. Methods have the colours of Okabe & Ito
(2008, https://jfly.uni-koeln.de/color/), which all common kinds of colour vision tell apart; a
floor is hollow, and grey unless it belongs to one method. Equal input gives equal bytes.
"""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from saccade.report.results import Model, ProbeRow
from saccade.report.text import short

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
GEOMETRY = re.compile(r' (?:x|y|d|transform|points)="[^"]*"')
LONG = re.compile(r"(\.\d\d)\d+")  # a hundredth of a point is finer than any screen
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


def reader_of(row: ProbeRow) -> str:
    """Return the model that a representation is a reading of, trained or not."""
    name = re.sub(r", random (init|weights)$", "", row["representation"])
    return name.removesuffix(f" ({row['reading']})")


def looks(rows: Sequence[ProbeRow], models: Sequence[Model]) -> dict[str, Look]:
    """Give each method a colour and each floor the colour of its method, or grey."""
    methods = {row["representation"]: row for row in rows if row["kind"] == "method"}
    read = {reader_of(row): name for name, row in reversed(methods.items())}  # the first of many
    unread = [model["name"] for model in models if model["name"] not in {*methods, *read}]
    chosen = {name: Look(*hue(i), True) for i, name in enumerate([*methods, *unread])}
    chosen |= {model: chosen[name] for model, name in read.items()}
    for row in rows:
        if row["kind"] == "floor":
            owner = chosen.get(row["floor_of"] or "", Look("floor", "o", False))
            chosen[name_of(row)] = owner._replace(filled=False)
    return chosen


def hue(index: int) -> tuple[str, str]:
    """Return a colour token and a marker; no two of the first 36 have both in common."""
    lap, colour = divmod(index, len(METHODS))
    return f"method{colour}", MARKERS[(colour + lap) % len(MARKERS)]


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
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # The reader's browser, not matplotlib's font, draws the letters.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.add_subplot(projection=projection))
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})  # savefig draws twice
    svg = stream.getvalue()
    box = re.search(r'viewBox="[^"]*"', svg)
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<defs>") :], flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # numbered alike in every figure: not unique
    body = GEOMETRY.sub(lambda found: LONG.sub(r"\1", found[0]), body)
    for token, colour in TOKENS.items():
        body = body.replace(colour, f"var(--{token})")
    width = f"--width: {size[0] * PIXELS:.0f}px"
    head = f'<svg {box[0] if box else ""} style="{width}" role="img" aria-label="{escape(alt)}">'
    return Markup(head + body)


def _thousands(value: float | int) -> str:
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value else "0"
