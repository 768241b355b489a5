"""One page that says what was found, and shows everything that would speak against it.

The page is one file: style, figures and pictures are inside it, nothing is loaded, and its
content security policy makes the browser refuse the network. Equal results give equal bytes.
"""

import base64
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from saccade.checkpoint import write_atomic
from saccade.errors import DataError
from saccade.report import figures, headline, text
from saccade.report.figures import Look
from saccade.report.headline import Focus
from saccade.report.results import Model, Results, check_results

REPORT = "report.html"
SIGNATURE = b"\x89PNG\r\n\x1a\n"
SPLITS = {"test": "seen tasks", "unseen": "held-out tasks"}
MEANING = {
    "leak": "an input of the networks depends on the frame that is to be predicted",
    "trivial": "a prediction that needs no learning is as good: the loss was not earned",
    "too good": "the loss is far below that of copying: look for a leak before believing it",
    "collapse": "the features hardly differ between inputs, or span very few directions",
    "dead gradients": "part of the model receives no gradient and stays as it was initialised",
}
FILTERS = {
    "number": text.number,
    "count": text.count,
    "duration": text.duration,
    "score": text.score,
    "interval": text.interval,
    "tolerance": text.tolerance,
    "name_of": figures.name_of,
    "millions": lambda value: text.number(None if value is None else value / 1e6),
    "billions": lambda value: text.number(None if value is None else value / 1e9),
}


class Picture(NamedTuple):
    """A PNG inside the page, with its size in pixels."""

    name: str
    uri: str
    width: int
    height: int


class Album(NamedTuple):
    """The pictures of one model, all from one seed."""

    model: str
    seed: int
    pictures: list[Picture]


def write_report(results: Mapping[str, Any], folder: Path) -> Path:
    """Render ``report.html`` from what ``results.json`` holds; return its path.

    Pictures are read from ``folder``, to which their paths are relative.

    Raises:
        DataError: the results are malformed, or a picture that they name is missing.
    """
    page = template("page.html.j2").render(_context(check_results(results), Path(folder)))
    path = Path(folder) / REPORT
    write_atomic(path, page)
    return path


def template(name: str) -> jinja2.Template:
    """Return a page's template, which escapes what it prints and refuses what is not there."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    return environment.get_template(name)


def _context(results: Results, folder: Path) -> dict[str, Any]:
    focus, rows, models = headline.focus_of(results), results["probes"], results["models"]
    look = figures.looks(rows, models)
    albums = [album for model in models if (album := _album(model, folder))]
    table = headline.lines(rows, focus) if focus else []
    runs = [(model["name"], run) for model in models for run in model["runs"]]
    return {
        "results": results,
        "tokens": figures.TOKENS,
        "meaning": MEANING,
        "look": look,
        "focus": focus,
        "lines": table,
        "groups": focus.groups(rows)[1:] if focus else [],
        "pairs": headline.method_pairs(results, focus) if focus else [],
        "charts": _charts(results, focus, look) if focus else {},
        "status": headline.status(results["verdict"]["success"], table),
        "few_seeds": len(results["budget"]["seeds"]) < 3,
        "curves": _curves(models, look),
        "albums": albums,
        "samples": [_samples(model) for model in models],
        "alarms": [(name, run["seed"], alarm) for name, run in runs for alarm in run["alarms"]],
        "alive": [(n, run["seed"], found) for n, run in runs if (found := run.get("features"))],
    }


def _charts(results: Results, focus: Focus, look: Mapping[str, Look]) -> dict[str, Any]:
    """Draw the forest, the lines over gaps and the bars over groups of the target."""
    rows, fps = results["probes"], float(results["data"]["fps"])
    seen = focus.answers(rows)
    gaps = {split: focus.answers(rows, gap=None, split=split) for split in SPLITS}
    groups = {group: focus.answers(rows, group=group, split=None) for group in focus.groups(rows)}
    rest = [row for found in groups.values() for row in found]
    names = list(dict.fromkeys(figures.name_of(row) for row in seen + rest))
    return {
        "forest": figures.forest(seen, look, f"R² of {focus.group}, gap {focus.gap}"),
        "gaps": [
            figures.gap_lines(found, look, SPLITS[split].capitalize(), fps)
            for split, found in gaps.items()
            if found
        ],
        "groups": [
            figures.group_bars(found, names, look, group.capitalize())
            for group, found in groups.items()
        ],
    }


def _curves(models: list[Model], look: Mapping[str, Look]) -> list[Markup]:
    """Draw the training curves, all on one scale."""
    curves = {model["name"]: figures.ratios(model) for model in models}
    values = [y for seeds in curves.values() for curve in seeds.values() for _, y in curve]
    limits = (max(0.8 * min([0.5, *values]), 0.005), 1.4 * max([1.0, *values]))
    return [
        figures.training_curve(model, look[model["name"]], limits)
        for model in models
        if any(curves[model["name"]].values())
    ]


def _samples(model: Model) -> str:
    """Say how many samples each seed was trained on: once, if they agree."""
    seen = dict.fromkeys(run["history"][-1]["samples"] for run in model["runs"] if run["history"])
    return ", ".join(map(text.count, seen)) or text.DASH


def _album(model: Model, folder: Path) -> Album | None:
    """Load the pictures of the first seed that has any."""
    for run in model["runs"]:
        paths = run.get("pictures", {})
        if paths:
            pictures = [embed(name, path, folder) for name, path in paths.items()]
            return Album(model["name"], run["seed"], pictures)
    return None


def embed(name: str, path: str, folder: Path) -> Picture:
    """Read a PNG into the page, which must lie inside the folder of the results.

    Raises:
        DataError: it lies outside, is missing, or is no PNG file.
    """
    file = (folder / path).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise DataError(f"picture {name!r} is {path}, outside {folder}; name a file inside it")
    if not file.is_file():
        raise DataError(f"picture {name!r} is missing at {file}; restore it or compare again")
    data = file.read_bytes()
    if not data.startswith(SIGNATURE) or len(data) < 24:
        raise DataError(f"picture {name!r} at {file} is not a PNG file; compare again to write it")
    width, height = struct.unpack(">II", data[16:24])
    return Picture(name, f"data:image/png;base64,{base64.b64encode(data).decode()}", width, height)
