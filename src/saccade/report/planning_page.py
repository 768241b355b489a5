"""The page of a planning study: how far plans are from the truth, and what costs no model.

It looks like the page of comparisons and keeps its promises (``page.py``): one file, nothing
loaded, equal results give equal bytes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from saccade.checkpoint import write_atomic
from saccade.errors import DataError
from saccade.evals.calibration import POSITION
from saccade.evals.landscape import kind_of
from saccade.evals.planning_findings import FLOORS, against, separation
from saccade.report import figures
from saccade.report.figures import BAND, DASHES, MUTED, Look, draw
from saccade.report.landscape import UNITS, Estimate, curves
from saccade.report.page import REPORT, embed, template
from saccade.report.results import RESULTS, Number
from saccade.report.text import DASH, number, short

KIND, FORMAT = "planning", 1
MODES = ("offline", "reach", "calibrate")
CM = 100.0
MEANING = {
    "narrow box": "the planner cannot say what the robot did: raise --planner.limits.position, or "
    "ask about a shorter time",
    "plans at the edge": "the planner wants to go further than its box: the error is the box's",
    "still data": "the robot hardly moved, so standing still is a hard floor and directions are "
    "noise: ask about a longer time",
    "no direction": "plans do not point where the robot went: if the camera stands elsewhere than "
    "in training, calibrate; otherwise the model has not learned what actions do",
    "too easy": "goals that are reached without moving say nothing: raise --reach.expert-steps",
    "too hard": "the expert itself is not there in time: raise --reach.expert-steps and goal-steps",
    "no rotation": "what the model sees is not the truth seen from another side: a rotation will "
    "not mend it",
    "no motion seen": "calibrated motion is no nearer to the truth than standing still",
}


class Dot(NamedTuple):
    """One row of a figure: a score with its interval."""

    name: str
    found: Estimate
    look: Look


def write_planning_report(results: Mapping[str, Any], folder: Path) -> Path:
    """Render ``report.html`` from what ``results.json`` holds; return its path.

    Pictures are read from ``folder``, to which their paths are relative.

    Raises:
        DataError: the results are malformed, or a picture that they name is missing.
    """
    folder = Path(folder)
    for key, known in (("kind", (KIND,)), ("format", (FORMAT,)), ("mode", MODES)):
        if results.get(key) not in known:
            raise DataError(
                f"{folder / RESULTS} has {key} {results.get(key)!r}, the page of planning takes "
                f"{' or '.join(map(str, known))}; run saccade plan again"
            )
    try:
        context = _context(results, folder)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(
            f"{folder / RESULTS} is damaged ({type(error).__name__}: {error}); run saccade plan "
            "again"
        ) from error
    path = folder / REPORT
    write_atomic(path, template("planning.html.j2").render(context))
    return path


def _context(results: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    mode = results["mode"]
    charts = {"offline": _offline, "reach": _reach, "calibrate": _calibrate}[mode](results)
    verdict, flags = results["verdict"], results["alarms"]
    return {
        "results": results,
        "mode": mode,
        "tokens": figures.TOKENS,
        "status": _status(bool(verdict["success"]), results),
        "alarms": [{**flag, "meaning": MEANING.get(flag["name"], DASH)} for flag in flags],
        "meaning": MEANING,
        "floors": FLOORS,
        "charts": charts,
        "pictures": [embed(n, p, folder) for n, p in results.get("pictures", {}).items()],
        "estimate": _estimate,
        "separation": separation,
        "settings": _flat(results["settings"]),
        "sure": lambda found: found["low"] is not None and found["low"] > 0,
    }


def _status(success: bool, results: Mapping[str, Any]) -> tuple[str, str]:
    """Return the verdict's tone and meaning; a success must be borne out by the table."""
    if results["mode"] == "offline":
        better = results["runs"][0]["better_by"]
    elif results["mode"] == "reach":
        better = {k: v for k, v in results["reach"]["better_by"].items() if k != "expert"}
    else:
        held_out = results["held_out"]
        better = {"zero": held_out["better_than_zero"], "nothing": held_out["better_by"]}
    borne = against(better)[1]
    if success and borne:
        calibrated = results["mode"] == "calibrate"
        return "success", "Calibration helps" if calibrated else "Every floor is beaten"
    return "caution", "The table does not bear this out" if success else "No success is claimed"


def _estimate(found: Estimate | None, scale: float = 1.0, digits: int = 2) -> Markup:
    """Print a value and its interval into one cell."""
    if found is None or found["value"] is None:
        return Markup(DASH)
    value, low, high = (found[key] for key in ("value", "low", "high"))
    span = "" if low is None else f"[{number(scale * low, digits)}, {number(scale * high, digits)}]"
    return Markup("{} <small>{}</small>").format(number(scale * value, digits), span)


def _flat(values: Any, name: str = "") -> list[tuple[str, str]]:
    """List settings by their dotted names."""
    if isinstance(values, dict):
        items = [(key, value) for key, value in values.items() if key != "type"]
        return [row for k, v in items for row in _flat(v, f"{name}.{k}" if name else k)]
    if isinstance(values, list) and any(isinstance(item, dict) for item in values):
        return [row for i, item in enumerate(values) for row in _flat(item, f"{name}[{i}]")]
    said = ", ".join(map(str, values)) if isinstance(values, list) else str(values)
    return [(name, said or DASH)]


def _look(index: int, *, filled: bool = True) -> Look:
    token = f"method{index % len(figures.METHODS)}"
    return Look(token, figures.MARKERS[index % len(figures.MARKERS)], filled)


GREY = Look("floor", "o", False)


def _offline(results: Mapping[str, Any]) -> dict[str, Any]:
    """Draw errors beside the floors, by axis and direction, and planned against true motion."""
    runs, floors = results["runs"], results["floors"]

    def rows(score: str) -> list[Dot]:
        named = [
            Dot(f"{run['model']}, {run['planner']}", run["scores"][score], _look(i))
            for i, run in enumerate(runs)
        ]
        return named + [Dot(FLOORS[name], floors[name][score], GREY) for name in floors]

    panels = [dots("Direction", rows("direction"), "mean cosine; 1 is right, 0 is chance")]
    for axis in results["axes"]:
        kind = kind_of(axis)
        scale, unit = (CM, "cm") if kind == "position" else (1.0, UNITS[kind])
        panels.append(dots(f"Error along {axis}", rows(axis), f"mean absolute, {unit}", scale))
    goals = results["sub_goals"]
    moved = runs[0]["motion"]
    columns = [results["axes"].index(name) for name in POSITION]
    true, planned = (np.array(moved[key])[:, columns] for key in ("true", "planned"))
    return {
        "main": dots("Error of the displacement", rows("xyz"), "mean distance, cm", CM, (8.4, 0.3)),
        "panels": panels,
        "motion": [
            scatter(f"Planned {name}", true[:, i], {"planned": planned[:, i]})
            for i, name in enumerate(POSITION)
        ],
        "goals": _goal_lines(goals),
    }


def _goal_lines(goals: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Draw the distance at each sub-goal."""
    if not goals:
        return None

    def line(found: Sequence[Estimate]) -> list[tuple[int, Estimate]]:
        scaled = [
            {k: None if one[k] is None else CM * one[k] for k in ("value", "low", "high")}
            for one in found
        ]
        return [(i + 1, one) for i, one in enumerate(scaled)]

    lines = {goal["model"]: line(goal["scores"]["planned"]) for goal in goals}
    floors = {name: line(goals[0]["scores"][name]) for name in ("still", "random")}
    named = {FLOORS[name]: found for name, found in floors.items()}
    return curves({**lines, **named}, "Sub-goals", "sub-goal", "distance from the logged hand, cm")


def _reach(results: Mapping[str, Any]) -> dict[str, Any]:
    """Draw the distance from the goal over actions, of all behaviours."""
    found = results["reach"]
    names = ("planned", "nothing", "random", "expert")

    def paint(axes: Axes) -> None:
        for index, name in enumerate(names):
            look = _look(0) if name == "planned" else Look("floor", figures.MARKERS[index], False)
            places = [CM * value for value in found[name]["distance"]]
            axes.plot(places, DASHES[index], lw=1.4, label=name, **look.mark(4))
        axes.axhline(CM * found["tolerance"], color=MUTED, lw=0.8, ls=(0, (4, 3)))
        axes.set(title="On the way", xlabel="actions", ylabel="mean distance from the goal, cm")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8, labelcolor=MUTED)

    ends = "; ".join(f"{n} ends at {number(CM * found[n]['distance'][-1])} cm" for n in names)
    finals = [
        Dot(name, found[name]["final"], _look(0) if name == "planned" else GREY) for name in names
    ]
    return {
        "way": draw("way", (4.9, 3.2), f"Distance from the goal over actions: {ends}", paint),
        "final": dots("At the end", finals, "mean distance from the goal, cm", CM),
    }


def _calibrate(results: Mapping[str, Any]) -> dict[str, Any]:
    """Draw inferred and calibrated against true motion, on episodes that were not fitted to."""
    moves = results["moves"]
    left = np.array(moves["held_out"])
    true, before, after = (np.array(moves[k])[left] for k in ("true", "inferred", "calibrated"))
    axes = {
        name: {"inferred": before[:, i], "calibrated": after[:, i]}
        for i, name in enumerate(POSITION)
    }
    return {
        "motion": [
            scatter(f"Along {name}", true[:, i], guesses)
            for i, (name, guesses) in enumerate(axes.items())
        ]
    }


def dots(
    title: str,
    rows: Sequence[Dot],
    label: str,
    scale: float = 1.0,
    size: tuple[float, float] = (4.9, 0.27),
) -> Markup:
    """Draw scores with their intervals, one on each row.

    ``size`` is the figure's width and the height of a row, in inches.
    """
    known = [row for row in rows if row.found["value"] is not None]
    said = "; ".join(f"{row.name} {number(scale * row.found['value'])}" for row in known)

    def paint(axes: Axes) -> None:
        for y, row in enumerate(rows):
            low, high, value = (_times(row.found[k], scale) for k in ("low", "high", "value"))
            if low is not None and high is not None:
                axes.hlines(y, low, high, color=row.look.colour, lw=1.8)
            if value is not None:
                axes.plot(value, y, zorder=3, **row.look.mark(6))
        axes.axvline(0, color=MUTED, lw=0.8)
        axes.set_yticks(range(len(rows)), [short(row.name, 34) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set(title=title, xlabel=label)

    height = 0.9 + size[1] * len(rows)
    return draw(f"dots {title}", (size[0], height), f"{title}, {label}: {said}", paint)


def scatter(title: str, true: np.ndarray, guesses: Mapping[str, np.ndarray]) -> Markup:
    """Draw guessed against true displacements along one axis; right ones lie on the line."""
    errors = {name: float(np.abs(guess - true).mean()) for name, guess in guesses.items()}
    said = "; ".join(f"{name} misses by {number(CM * e)} cm" for name, e in errors.items())

    def paint(axes: Axes) -> None:
        ends = [CM * f(np.concatenate([true, *guesses.values()])) for f in (np.min, np.max)]
        axes.plot(ends, ends, color=BAND, lw=3, zorder=0)
        for index, (name, guess) in enumerate(guesses.items()):
            look = _look(0) if index == len(guesses) - 1 else GREY
            axes.plot(CM * true, CM * guess, ls="none", alpha=0.7, label=name, **look.mark(4))
        axes.set(title=title, xlabel="true, cm", ylabel="guessed, cm", aspect="equal")
        axes.legend(frameon=False, fontsize=8, labelcolor=MUTED)

    return draw(f"scatter {title}", (3.4, 3.2), f"{title} against the truth: {said}", paint)


def _times(value: Number, scale: float) -> Number:
    return None if value is None else scale * value
