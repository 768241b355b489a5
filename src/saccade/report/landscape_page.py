"""The page of a landscape study: where each model's minimum is, and what speaks against it.

It looks like the page of comparisons and keeps its promises (``page.py``): one file, nothing
loaded, equal results give equal bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from saccade.checkpoint import write_atomic
from saccade.errors import DataError
from saccade.evals.landscape import Landscape, kind_of
from saccade.evals.landscape_findings import NAMES, above_zero, stands
from saccade.report import figures
from saccade.report.landscape import (
    Estimate,
    curves,
    heat_map,
    limits_of,
    notebook_plot,
    surface,
    sweep,
)
from saccade.report.landscape_results import check_landscape_results
from saccade.report.page import REPORT, Picture, embed, template
from saccade.report.results import RESULTS, Number
from saccade.report.text import DASH, number, short

CM = 100.0
TIMES = " \N{MULTIPLICATION SIGN} "
MEANING = {
    "floor": "a guess without any model is as near to the true action as the minimum is",
    "reversed": "the landscape does not turn round when time does: it may show a habit of the "
    "model, such as a preferred direction, rather than what the goal asks for",
    "other goals": "what was seen after the action is no better a goal than another episode's "
    "frame: the minimum does not come from the goal",
    "narrow grid": "most true actions are out of reach, so no minimum can be at them",
    "coarse grid": "the cells are too far apart for so small motions",
    "constant truth": "every moment asks for one action: always giving it looks like knowledge",
    "one episode": "moments of one episode are near-copies; nothing can be said of others",
    "edge": "minima on the border want to go further out than the grid reaches",
    "flatter": "after adapting, energies depend less on the action: the adapters may have learned "
    "to ignore it",
    "no effect": "the adapters were not trained, were not loaded, or have a scale of zero",
}
COMPARED = {  # scores that are compared in pairs: their label, scale and decimals
    "distance": ("distance to the true action (cm)", CM, 2),
    "rank": ("rank of the true action (%)", 100.0, 1),
    "sharpness": ("sharpness (%)", 100.0, 2),
    "relative_gap": ("gap of the true action (% of the range)", 100.0, 1),
    "energy_at_truth": ("energy of the true action", 1.0, 4),
}
UNITS = {"position": ("cm", CM, 2), "rotation": ("rad", 1.0, 3), "gripper": ("openings", 1.0, 2)}


class Panel(NamedTuple):
    """What is shown of one drawn moment."""

    title: str
    truth: str
    pictures: list[Picture]
    maps: list[Markup]


def write_landscape_report(results: Mapping[str, Any], folder: Path) -> Path:
    """Render ``report.html`` from what ``results.json`` holds; return its path.

    Pictures are read from ``folder``, to which their paths are relative.

    Raises:
        DataError: the results are malformed, or a picture that they name is missing.
    """
    found, folder = check_landscape_results(results), Path(folder)
    try:
        context = _context(found, folder)
    except (KeyError, IndexError) as error:
        raise DataError(
            f"{RESULTS}: {error} is missing from what was drawn; run `saccade energy` again"
        ) from error
    path = folder / REPORT
    write_atomic(path, template("landscape.html.j2").render(context))
    return path


def _context(results: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    drawn = [_drawn(entry) for entry in results["models"]]
    return {
        "results": results,
        "tokens": figures.TOKENS,
        "meaning": MEANING,
        "floors": NAMES,
        "status": _status(results),
        "compared": COMPARED,
        "estimate": _estimate,
        "above_zero": above_zero,
        "axis_score": _axis_score,
        "shape": lambda size: TIMES.join(map(str, size["steps"])),
        "reach": _reach,
        "training": _training(results["models"]),
        "width": _width(results["models"]),
        "panels": list(_panels(results, drawn, folder)),
        "slices": _slices(drawn),
        "surfaces": _surfaces(drawn),
        "sweeps": _sweeps(drawn),
        "controls": _controls(drawn),
        "wide": _wide(results["models"], drawn),
        "notebook": _notebook(drawn),
    }


class _Moment(NamedTuple):
    """The landscapes that are kept of one model at one moment."""

    main: Landscape
    widened: list[Landscape]
    slices: list[Landscape]
    sweeps: list[Landscape]
    reversed: Landscape | None
    other_goals: Landscape | None


class _Drawn(NamedTuple):
    """The moments that are drawn of one model."""

    name: str
    moments: list[_Moment]

    @property
    def first(self) -> _Moment:
        """What figures of one moment show."""
        return self.moments[0]


def _drawn(entry: Mapping[str, Any]) -> _Drawn:
    def each(values: Sequence[Mapping[str, Any]]) -> list[Landscape]:
        return [Landscape.from_json(one) for one in values]

    def perhaps(value: Mapping[str, Any] | None) -> Landscape | None:
        return None if value is None else Landscape.from_json(value)

    moments = [
        _Moment(
            main=Landscape.from_json(kept["main"]),
            widened=each(kept["widened"]),
            slices=each(kept["slices"]),
            sweeps=each(kept["sweeps"]),
            reversed=perhaps(kept["reversed"]),
            other_goals=perhaps(kept["other_goals"]),
        )
        for kept in entry["drawn"]
    ]
    return _Drawn(short(entry["name"], 24), moments)


def _status(results: Mapping[str, Any]) -> tuple[str, str]:
    """Return the tone of the verdict and its meaning: a success only if the numbers bear it out."""
    borne_out = any(stands(entry) for entry in results["models"])
    if results["verdict"]["success"] and borne_out:
        return "success", "A model's minimum beats every floor, and no control contradicts it"
    claimed = results["verdict"]["success"]
    return "caution", "The numbers do not bear this out" if claimed else "No success is claimed"


def _estimate(found: Estimate, scale: float = 1.0, digits: int = 2) -> Markup:
    """Put a value and its interval into one cell."""
    value, low, high = (
        None if found[key] is None else scale * found[key] for key in ("value", "low", "high")
    )
    if low is None or high is None:
        return Markup("{}").format(number(value, digits))
    span = f"[{number(low, digits)}, {number(high, digits)}]"
    return Markup("{} <small>{}</small>").format(number(value, digits), span)


def _axis_score(summary: Mapping[str, Any]) -> tuple[str, str, Markup]:
    """Return the axes of a slice or sweep, and how far its minimum is off, unit by unit."""
    names = summary["grid"]["names"]
    kinds = list(dict.fromkeys(kind_of(name) for name in names))
    cells, units = [], []
    for kind in kinds:
        unit, scale, digits = UNITS.get(kind, ("", 1.0, 3))
        found = summary["all"]["scores"].get(f"in_slice_{kind}")
        cells.append(Markup(DASH) if found is None else _estimate(found, scale, digits))
        units.append(unit)
    return ", ".join(names), ", ".join(filter(None, units)), Markup("; ").join(cells)


def _reach(size: Mapping[str, Any]) -> str:
    """Say how far a grid reaches along each axis."""
    parts = []
    for name, width in zip(size["names"], size["half_width"], strict=True):
        unit, scale, _ = UNITS.get(kind_of(name), ("", 1.0, 3))
        parts.append(f"{name} ±{scale * width:g} {unit}".rstrip())
    return ", ".join(parts)


def _all(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return entry["summary"]["all"]["scores"]


def _scaled(found: Estimate, scale: float) -> dict[str, Number]:
    return {
        key: None if found[key] is None else scale * found[key] for key in ("value", "low", "high")
    }


def _training(models: Sequence[Mapping[str, Any]]) -> list[Markup]:
    """Draw scores over the training steps of adapters; the base is at step 0."""
    known = sorted((m for m in models if m["step"] is not None), key=lambda m: m["step"])
    if len({m["step"] for m in known}) < 2:
        return []
    drawn = []
    for score in ("distance", "rank", "sharpness"):
        label, scale, _ = COMPARED[score]
        line = [(m["step"], _scaled(_all(m)[score], scale)) for m in known]
        floor = None
        if score == "distance":
            floor = NAMES["no_change"], _scaled(_all(models[0])["no_change"], scale)
        if score == "rank":
            floor = "chance", {"value": 50.0, "low": None, "high": None}
        title = f"{label.split(' (')[0].capitalize()} over training"
        drawn.append(curves({"base, then adapters": line}, title, "training step", label, floor))
    return drawn


def _width(models: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Draw the distance of the minimum against the width of the grid."""
    if not models[0]["widened"] or _all(models[0])["distance"]["value"] is None:
        return None
    lines = {}
    for model in models:
        points = [(1.0, model["summary"])]
        points += [(float(wide["factor"]), wide["summary"]) for wide in model["widened"]]
        lines[short(model["name"], 24)] = [
            (factor, _scaled(summary["all"]["scores"]["distance"], CM))
            for factor, summary in sorted(points, key=lambda point: point[0])
        ]
    floor = NAMES["no_change"], _scaled(_all(models[0])["no_change"], CM)
    across = f"half-width of the grid (1: {_reach(models[0]['summary']['grid'])})"
    upwards = "distance to the true action (cm)"
    return curves(lines, "Where the minimum goes on wider grids", across, upwards, floor)


def _panels(results: Mapping[str, Any], drawn: Sequence[_Drawn], folder: Path) -> Iterator[Panel]:
    """Show each drawn moment: pictures, and the main landscape of every model."""
    for i, pictures in enumerate(results["pictures"]):
        first = drawn[0].moments[i].main
        moment = f"episode {first.episode}, step {first.start}"
        named = zip(first.names, first.truth, strict=True)
        truth = ", ".join(f"{name} {number(float(value), 3)}" for name, value in named)
        seen = [embed(f"{moment}: {name}", path, folder) for name, path in pictures.items()]
        lines = {model.name: model.moments[i].main for model in drawn}
        yield Panel(moment.capitalize(), truth, seen, _maps(lines, moment))


def _maps(lines: Mapping[str, Landscape], moment: str) -> list[Markup]:
    """Draw the main grid of one moment for each model, on its own scale and on a common one."""
    if _flat(next(iter(lines.values()))):
        return [sweep(lines, f"Main grid, {moment}")]
    maps = [heat_map(one, f"{name}, {moment}") for name, one in lines.items()]
    if len(lines) > 1:
        scale = limits_of(list(lines.values()))
        maps += [
            heat_map(one, f"{name}, {moment}, one scale", limits=scale)
            for name, one in lines.items()
        ]
    return maps


def _flat(one: Landscape) -> bool:
    """Tell whether a landscape varies a single axis, so that no plane can be drawn."""
    return len(one.grid.names) < 2


def _slices(drawn: Sequence[_Drawn]) -> list[Markup]:
    """Draw every slice through the true action at the first moment, for all models."""
    return [
        heat_map(model.first.slices[place], f"{model.name}, slice through the truth")
        for place in range(len(drawn[0].first.slices))
        for model in drawn
    ]


def _surfaces(drawn: Sequence[_Drawn]) -> list[Markup]:
    """Draw the first moment of the base and of the last adapters; each figure is large."""
    chosen = [drawn[0], drawn[-1]][: len(drawn)]
    if _flat(drawn[0].first.main):
        return []
    return [surface(model.first.main, f"{model.name}, surface") for model in chosen]


def _sweeps(drawn: Sequence[_Drawn]) -> list[Markup]:
    """Draw energy along each axis at the first moment, for all models."""
    return [
        sweep({m.name: m.first.sweeps[place] for m in drawn}, f"Along {one.grid.names[0]}")
        for place, one in enumerate(drawn[0].first.sweeps)
    ]


def _controls(drawn: Sequence[_Drawn]) -> list[Markup]:
    """Draw the first moment of the base beside its controls."""
    first = drawn[0].first
    kinds = {"reversed time": first.reversed, "another's goal": first.other_goals}
    there = {label: one for label, one in kinds.items() if one is not None}
    if _flat(first.main) or not there:
        return []
    return [
        heat_map(one, f"{drawn[0].name}, {label}")
        for label, one in {"forward": first.main, **there}.items()
    ]


def _wide(models: Sequence[Mapping[str, Any]], drawn: Sequence[_Drawn]) -> list[Markup]:
    """Draw the first moment of the base on each wider grid."""
    if _flat(drawn[0].first.main):
        return []
    factors = [wide["factor"] for wide in models[0]["widened"]]
    return [
        heat_map(one, f"{drawn[0].name}, {factor:g} x as wide")
        for factor, one in zip(factors, drawn[0].first.widened, strict=True)
    ]


def _notebook(drawn: Sequence[_Drawn]) -> Markup | None:
    """Draw the official plot of the first moment of the base, if the grid allows it."""
    first = drawn[0].first.main
    return notebook_plot(first) if sorted(first.grid.names) == ["x", "y", "z"] else None
