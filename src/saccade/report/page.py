"""One page that says what was found, and shows everything that would speak against it.

The page is one file: style, figures and pictures are inside it, nothing is loaded, and its
content security policy makes the browser refuse the network. Equal results give equal bytes.
"""

import base64
import hashlib
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from saccade.checkpoint import write_atomic
from saccade.errors import DataError
from saccade.report import evidence_figures, figures, headline, text
from saccade.report.figures import Look
from saccade.report.results import Cell, Model, Projection, Results, check_results
from saccade.report.sections import sections
from saccade.report.summary import SPLITS, Summary, summarise
from saccade.report.tables import KINDS, TABLES, readings, tables, write_tables

REPORT = "report.html"
SIGNATURE = b"\x89PNG\r\n\x1a\n"
SCRIPT = "table.js"
MOST_ROWS = 600  # that a folded table of the page holds; the files beside it hold all
MOST_PANELS = 12  # of one kind; results.json holds all
FEWEST_RANKS, MOST_ALIKE = 2.0, 0.99  # beyond these, features have collapsed
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
    "p_value": text.chance_of,
    "percent": text.percent,
    "metric": text.metric_of,
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

    Pictures are read from ``folder``, to which their paths are relative. Every table is written
    as CSV, JSON, LaTeX and Markdown into ``tables/`` beside the page.

    Raises:
        DataError: the results are malformed, or a picture that they name is missing.
    """
    page = template("page.html.j2").render(_context(check_results(results), Path(folder)))
    write_tables(results, Path(folder))
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
    models = results["models"]
    look = figures.looks(results["probes"], models)
    summary = summarise(results)
    script = (Path(__file__).parent / SCRIPT).read_text(encoding="utf-8")
    runs = [(model["name"], run) for model in models for run in model["runs"]]
    focus = headline.focus_of(results)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {
        "results": results,
        "tokens": figures.TOKENS,
        "meaning": MEANING,
        "splits": SPLITS,
        "look": look,
        "focus": focus,
        "summary": summary,
        "script": Markup(script),
        "script_hash": digest,
        "payload": summary.payload() if summary else {},
        "sections": sections(results, look),
        "pairs": headline.method_pairs(results, focus) if focus else [],
        "status": headline.status(results["verdict"]["success"], _answers(summary)),
        "few_seeds": 0 < len(results["budget"]["seeds"]) < 3,
        "ablations": _ablations(results.get("ablation", [])),
        "confusions": _confusions(results, look),
        "flows": [embed(n, p, folder) for n, p in results.get("flow_pictures", {}).items()],
        "planes": _planes(results.get("projections", []), look),
        "curves": _curves(models, look),
        "albums": [album for model in models if (album := _album(model, folder))],
        "samples": [_samples(model) for model in models],
        "readings": [readings(results, model["name"]) for model in models],
        "alarms": [*((n, run["seed"], a) for n, run in runs for a in run["alarms"])],
        "alive": [(n, run["seed"], found) for n, run in runs if (found := run.get("features"))],
        "collapsed": _collapsed(results),
        "files": {table.name: table for table in tables(results)},
        "kinds": KINDS,
        "tables_folder": TABLES,
        "most_rows": MOST_ROWS,
        "most_panels": MOST_PANELS,
    }


def _answers(summary: Summary | None) -> list[Any]:
    return summary.answers() if summary else []


def _collapsed(results: Results) -> dict[str, str]:
    """Say what is wrong with the features of a representation, where something is."""
    found = {}
    for name, features in (
        (d["representation"], d["features"]) for d in results.get("diagnostics", [])
    ):
        rank, cosine = features["effective_rank"], features["mean_cosine"]
        parts = []
        if rank is not None and rank < FEWEST_RANKS:
            parts.append(f"effective rank below {FEWEST_RANKS:g}")
        if cosine is not None and cosine > MOST_ALIKE:
            parts.append(f"mean cosine above {MOST_ALIKE:g}")
        if parts:
            found[name] = "collapse: " + ", ".join(parts)
    return found


def _ablations(cells: list[Cell]) -> list[Markup]:
    """Draw the headline metric of each probe near the headline gap, each group and split apart."""
    drawn = []
    for probe in dict.fromkeys(cell["probe"] for cell in cells):
        mine = [cell for cell in cells if cell["probe"] == probe]
        wish = headline.METRIC.get(probe, "")
        metric = wish if any(cell["metric"] == wish for cell in mine) else mine[0]["metric"]
        gap = headline.nearest({cell["gap"] for cell in mine}, headline.WISHES["gap"][0])
        mine = [cell for cell in mine if (cell["metric"], cell["gap"]) == (metric, gap)]
        for group, split in dict.fromkeys((cell["group"], cell["split"]) for cell in mine):
            asked = [cell for cell in mine if (cell["group"], cell["split"]) == (group, split)]
            what = f"{group} {text.metric_of(metric)}" if group else text.metric_of(metric)
            where = f"{SPLITS.get(split, split)}, gap {gap}"
            title = f"Difference in {probe}, {what}, {where}"
            drawn.append(evidence_figures.ablation(asked, title))
    return drawn


def _confusions(results: Results, look: Mapping[str, Look]) -> list[Markup]:
    """Draw those of methods on the finest question, on the first split and gap it was asked at."""
    tables = results.get("confusions", [])
    if not tables:
        return []
    finest = max(tables, key=lambda table: len(table["labels"]))
    asked = [
        table
        for table in tables
        if all(table[key] == finest[key] for key in ("probe", "target", "split", "gap"))
        and _is_method(table["representation"], look)
    ]
    return [evidence_figures.confusion(table) for table in asked[:MOST_PANELS]]


def _is_method(name: str, look: Mapping[str, Look]) -> bool:
    return name in look and look[name].filled


def _planes(
    projections: list[Projection], look: Mapping[str, Look]
) -> list[tuple[str, Markup, list[Markup]]]:
    """Draw projections of one method and one set of labels together, trained encoders first."""
    made = []
    for method, *labels in dict.fromkeys((p["method"], *p["labels"]) for p in projections):
        mine = [p for p in projections if (p["method"], p["labels"]) == (method, labels)]
        mine.sort(
            key=lambda p: not (p["representation"] in look and look[p["representation"]].filled)
        )
        drawn = [evidence_figures.plane(projection) for projection in mine[:MOST_PANELS]]
        made.append((method, evidence_figures.legend(method, labels), drawn))
    return made


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
