"""The page of an evaluation: how often a policy succeeds, beside what needs no policy.

It looks like the page of comparisons and keeps its promises (``page.py``): one file, nothing
loaded, equal results give equal bytes. Videos stay files beside it, and are linked.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import UndefinedError
from markupsafe import Markup
from matplotlib.axes import Axes

from saccade.checkpoint import write_atomic
from saccade.errors import DataError
from saccade.report import figures
from saccade.report.figures import MUTED, Look, draw
from saccade.report.page import REPORT, template
from saccade.report.results import RESULTS
from saccade.report.text import DASH, MINUS, short

KIND, FORMAT = "success", 1
MEANING = {
    "crashed": "the rollout broke twice and has no result; it is neither a success nor a failure",
    "solved by itself": "the task is done, or undone, by waiting: its rate is no merit",
    "not repeatable": "the same rollout went otherwise when it was played again for its video, so "
    "that numbers may differ from run to run",
    "not alike": "the two evaluations differ in more than the policy: so may their rates",
}


def write_success_report(results: Mapping[str, Any], folder: Path) -> Path:
    """Render ``report.html`` from what ``results.json`` holds; return its path.

    Raises:
        DataError: the results are malformed, or name a video outside the folder.
    """
    folder = Path(folder)
    for key, known in (("kind", KIND), ("format", FORMAT)):
        if results.get(key) != known:
            raise DataError(
                f"{folder / RESULTS} has {key} {results.get(key)!r}, the page of evaluations takes "
                f"{known}; run saccade evaluate again"
            )
    try:
        for film in results["videos"]:
            if not (folder / film["path"]).resolve().is_relative_to(folder.resolve()):
                raise DataError(
                    f"video {film['path']} lies outside {folder}; name a file inside it"
                )
        page = template("success.html.j2").render(_context(results))
    except (KeyError, TypeError, IndexError, AttributeError, UndefinedError) as error:
        raise DataError(
            f"{folder / RESULTS} is damaged ({type(error).__name__}: {error}); run saccade "
            "evaluate again with --resume"
        ) from error
    path = folder / REPORT
    write_atomic(path, page)
    return path


def _context(results: Mapping[str, Any]) -> dict[str, Any]:
    known = [row for row in results["tasks"] if row["rate"]["value"] is not None]
    return {
        "results": results,
        "tokens": figures.TOKENS,
        "status": _status(results),
        "alarms": [{**a, "meaning": MEANING.get(a["name"], DASH)} for a in results["alarms"]],
        "meaning": MEANING,
        "bars": bars(known, results["name"], list(results["floors"])) if known else "",
        "rate": _rate,
        "points": _points,
        "card": [(k, v) for k, v in _flat(results["protocol"]) if k not in ("title", "changes")],
    }


def _status(results: Mapping[str, Any]) -> tuple[str, str]:
    """Return the verdict's tone and meaning; a success must be borne out by the table."""
    floors = [found["compared"] for found in results["floors"].values()]
    borne = bool(floors) and all(f["low"] > 0 and f["p"] < 0.05 for f in floors)
    complete = not results["crashed"] and not results["missing"]
    if not complete:
        return "caution", "Not every rollout has a result"
    if results["verdict"]["success"]:
        if borne:
            return "success", "Every floor is beaten"
        return "caution", "The table does not bear this out"
    return ("caution", "No success is claimed") if floors else ("unknown", "No floor was run")


def _rate(found: Mapping[str, Any] | None) -> Markup:
    """Print a rate, its interval and its counts into one cell."""
    if found is None or found["value"] is None:
        return Markup(DASH)
    value, low, high = (f"{100 * found[key]:.0f}" for key in ("value", "low", "high"))
    counts = f"{found['successes']:,} of {found['trials']:,}" if "trials" in found else ""
    return Markup("{} % <small>[{}, {}] {}</small>").format(value, low, high, counts)


def _points(found: Mapping[str, Any]) -> Markup:
    """Print a paired difference in points of a hundred."""
    value, low, high = (
        f"{100 * found[key]:+.0f}".replace("-", MINUS) for key in ("value", "low", "high")
    )
    return Markup("{} <small>[{}, {}]</small>").format(value, low, high)


def _flat(values: Any, name: str = "") -> list[tuple[str, str]]:
    """List settings by their dotted names."""
    if isinstance(values, dict):
        return [row for k, v in values.items() for row in _flat(v, f"{name}.{k}" if name else k)]
    said = ", ".join(map(str, values)) if isinstance(values, list) else str(values)
    return [(name.replace("_", " "), said or DASH)]


def bars(tasks: Sequence[Mapping[str, Any]], name: str, floors: Sequence[str]) -> Markup:
    """Draw the rate of each task with its interval, and a hollow mark for each floor."""
    said = "; ".join(
        f"{row['instruction']} {100 * row['rate']['value']:.0f} %, "
        + ", ".join(f"{f} {_percent(row['floors'].get(f))}" for f in floors)
        for row in tasks
    )

    def paint(axes: Axes) -> None:
        look, told = Look("method0", "o", True), set[str]()  # floors that the legend names
        for y, row in enumerate(tasks):
            found = row["rate"]
            axes.barh(y, 100 * found["value"], 0.62, color=(look.colour, 0.35), edgecolor="none")
            axes.hlines(y, 100 * found["low"], 100 * found["high"], color=look.colour, lw=1.8)
            axes.plot(100 * found["value"], y, zorder=3, **look.mark(5))
            for index, floor in enumerate(floors):
                other = row["floors"].get(floor)
                if other is None or other["value"] is None:
                    continue
                mark = Look("floor", figures.MARKERS[(index + 1) % len(figures.MARKERS)], False)
                label = None if floor in told else floor
                told.add(floor)
                style = {**mark.mark(5), "ls": "none"}
                axes.plot(100 * other["value"], y, zorder=4, label=label, **style)
        axes.set_yticks(range(len(tasks)), [short(row["instruction"], 52) for row in tasks])
        axes.set_ylim(len(tasks) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set(xlim=(-2, 102), xlabel=f"{name}: rollouts that succeed, %")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(
                frameon=False, fontsize=8, labelcolor=MUTED, loc="lower left",
                bbox_to_anchor=(0, 1), ncols=len(floors),
            )  # fmt: skip

    return draw("tasks", (8.4, 1.1 + 0.3 * len(tasks)), f"Success by task: {said}", paint)


def _percent(found: Mapping[str, Any] | None) -> str:
    if found is None or found["value"] is None:
        return DASH
    return f"{100 * found['value']:.0f} %"
