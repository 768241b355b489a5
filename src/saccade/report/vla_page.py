"""The page of a comparison of eyes: what each pair costs, learns and achieves, beside the control.

It looks like the page of comparisons and keeps its promises (``page.py``): one file, nothing
loaded, equal results give equal bytes. The same table lies beside it in Markdown.
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
from saccade.report.figures import DASHES, MUTED, Look, draw
from saccade.report.page import REPORT, template
from saccade.report.planning_page import Dot, dots
from saccade.report.results import RESULTS
from saccade.report.text import DASH, MINUS, number

KIND, FORMAT = "vla", 1
TABLE = "table.md"
PARTS = {"token_accuracy": "token accuracy", "action_error": "action error"}
MEANING = {
    "leak": "an encoder has seen pictures of held-out demonstrations (no commands): train it with "
    "--source.shares 0.9 0.1 0.0, as the fine-tuning deals them",
    "no better than blind": "the policy predicts no better than how commands are spread: it has "
    "not learned to look, so train longer (--budget) or on more demonstrations (--demos)",
    "no headroom": "the control is not shown to succeed more often than a floor, so success rates "
    "say nothing here: take easier tasks, a longer --budget or more --demos",
    "saturated": "the control succeeds nearly always: take harder tasks",
    "solved by itself": "a task is done by waiting: its rate is no merit",
}


def write_vla_report(results: Mapping[str, Any], folder: Path) -> Path:
    """Render ``report.html`` and ``table.md`` from what ``results.json`` holds; return the page.

    Raises:
        DataError: the results are malformed.
    """
    folder = Path(folder)
    for key, known in (("kind", KIND), ("format", FORMAT)):
        if results.get(key) != known:
            raise DataError(
                f"{folder / RESULTS} has {key} {results.get(key)!r}, the page of exchanged eyes "
                f"takes {known}; run saccade vla compare again"
            )
    try:
        page = template("vla.html.j2").render(_context(results))
        table = "\n".join(markdown(results)) + "\n"
    except (KeyError, TypeError, IndexError, AttributeError, UndefinedError) as error:
        raise DataError(
            f"{folder / RESULTS} is damaged ({type(error).__name__}: {error}); run saccade vla "
            "compare again"
        ) from error
    write_atomic(folder / TABLE, table)
    path = folder / REPORT
    write_atomic(path, page)
    return path


def _context(results: Mapping[str, Any]) -> dict[str, Any]:
    verdict, alarms = results["verdict"], results["alarms"]
    if verdict["success"]:
        status = ("success", "An encoder is shown to be better than the control")
    else:
        status = ("caution", "No success is claimed")
    return {
        "results": results,
        "tokens": figures.TOKENS,
        "status": status,
        "alarms": [{**a, "meaning": MEANING.get(a["name"], DASH)} for a in alarms],
        "columns": columns,
        "cells": cells,
        "charts": [chart for model in results["models"] for chart in _charts(model)],
        "percent": percent,
    }


def columns(results: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
    """Name the columns of a model's table; the fixed losses are those of its control."""
    losses = model["fixed_losses"]
    steps = [f"samples to {one['loss']:.4g}" for one in losses]
    success = []
    if results["suite"]:
        trials = model["rows"][0]["success"]["trials"]
        success = [f"success of {trials:,}", "minus control", "p"]
    return ["eyes", "trained", *steps, "held-out loss", *_scored(model).values(), *success]


def _scored(model: Mapping[str, Any]) -> dict[str, str]:
    """Return what its policies are scored by, besides the loss."""
    return {key: name for key, name in PARTS.items() if key in model["rows"][0]["scores"]}


def cells(row: Mapping[str, Any], results: Mapping[str, Any]) -> list[str]:
    """Return a row of the table as texts."""
    scores = row["scores"]
    found = [row["name"], f"{row['trained_parameters']:,}"]
    found += [DASH if one is None else f"{one:,}" for one in row["samples_to"]]
    found.append(_span(scores["loss"], 3))
    if "token_accuracy" in scores:
        found.append(_span(scores["token_accuracy"], 1, 100.0, " %"))
    found.append(_span(scores["action_error"], 3))
    if results["suite"]:
        beside = row["success_beside"].get("control")
        found.append(percent(row["success"]))
        found.append(DASH if beside is None else points(beside))
        p = None if beside is None else beside["p_holm"]
        found.append(DASH if p is None else f"{p:.2g}")
    return found


def markdown(results: Mapping[str, Any]) -> list[str]:
    """Return the tables as lines of Markdown."""
    lines = []
    for model in results["models"]:
        head = columns(results, model)
        lines += [f"**{model['name']}**", "", f"| {' | '.join(head)} |"]
        lines.append(f"|{'|'.join('---' for _ in head)}|")
        lines += [f"| {' | '.join(cells(row, results))} |" for row in model["rows"]]
        lines.append("")
    if results["suite"]:
        told = [f"{name} {percent(rate)}" for name, rate in results["floors"].items()]
        told += [f"{m['name']} not fine-tuned {percent(m['base'])}" for m in results["models"]]
        lines += [f"Floors: {'; '.join(told)}.", ""]
    return lines[:-1]


def _span(found: Mapping[str, Any], digits: int, scale: float = 1.0, unit: str = "") -> str:
    value, low, high = (number(scale * found[key], digits) for key in ("value", "low", "high"))
    return f"{value}{unit} [{low}, {high}]"


def percent(found: Mapping[str, Any] | None) -> str:
    """Print a rate with its interval."""
    if found is None or found["value"] is None:
        return DASH
    value, low, high = (f"{100 * found[key]:.0f}" for key in ("value", "low", "high"))
    return f"{value} % [{low}, {high}]"


def points(found: Mapping[str, Any]) -> str:
    """Print a paired difference in points of a hundred."""
    value, low, high = (
        f"{100 * found[key]:+.0f}".replace("-", MINUS) for key in ("value", "low", "high")
    )
    return f"{value} [{low}, {high}]"


def _charts(model: Mapping[str, Any]) -> list[Markup]:
    """Draw success, held-out loss and the way there."""
    rows = model["rows"]
    looks = [_look(row["name"], i) for i, row in enumerate(rows)]
    found = []
    if rows[0]["success"] is not None:
        rates = [Dot(r["name"], r["success"], look) for r, look in zip(rows, looks, strict=True)]
        found.append(dots(f"{model['name']}: success", rates, "% of rollouts", 100.0))
    losses = [
        Dot(row["name"], row["scores"]["loss"], look) for row, look in zip(rows, looks, strict=True)
    ]
    floor = Dot("without seeing", model["floors"]["mean_action"], Look("floor", "o", False))
    found.append(dots(f"{model['name']}: held-out loss", [*losses, floor], "loss"))
    return [*found, _curves(model["name"], rows, looks)]


def _look(name: str, index: int) -> Look:
    if name.startswith("untrained"):
        return Look("floor", "s", False)
    return Look(*figures.hue(index), index > 1)  # the model's own eyes are hollow


def _curves(name: str, rows: Sequence[Mapping[str, Any]], looks: Sequence[Look]) -> Markup:
    ends = [f"{row['name']} ends at {row['curve'][-1][1]:.3g}" for row in rows if row["curve"]]

    def paint(axes: Axes) -> None:
        for index, (row, look) in enumerate(zip(rows, looks, strict=True)):
            samples = [point[0] for point in row["curve"]]
            losses = [point[1] for point in row["curve"]]
            dash = DASHES[index % len(DASHES)]
            axes.plot(samples, losses, dash, lw=1.4, label=row["name"], color=look.colour)
        axes.set(title=f"{name}: on the way", xlabel="samples", ylabel="held-out loss")
        axes.set_yscale("log")
        axes.legend(frameon=False, fontsize=8, labelcolor=MUTED)

    return draw(f"curves {name}", (4.9, 3.2), f"Held-out loss: {'; '.join(ends)}", paint)
