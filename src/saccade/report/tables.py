"""Every table of the page as files for a spreadsheet, a program, a paper and a discussion.

CSV follows RFC 4180 (a score is three columns: value, low, high), JSON repeats the same records,
LaTeX needs the package booktabs, Markdown is GitHub's.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from saccade.checkpoint import write_atomic
from saccade.report.figures import name_of, reader_of
from saccade.report.results import Number, ProbeRow, Results, check_results
from saccade.report.summary import SPLITS, Summary, summarise
from saccade.report.text import DASH, MINUS, number

TABLES = "tables"
KINDS = ("csv", "json", "tex", "md")
ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "²": r"\textsuperscript{2}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "…": r"\ldots{}",
    MINUS: r"$-$",
    DASH: "--",
    **{sign: f"\\{sign}" for sign in "&%$#_"},
}


class Scored(NamedTuple):
    """A number with its interval."""

    value: Number
    low: Number
    high: Number


Entry = str | float | int | None | Scored


class Table(NamedTuple):
    """One table, before it has a format."""

    name: str
    caption: str
    columns: list[str]
    rows: list[list[Entry]]


def write_tables(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write ``tables/NAME`` for every table and every one of ``KINDS``; return their paths.

    Raises:
        DataError: the results are malformed.
    """
    written = []
    for table in tables(check_results(results)):
        texts = (to_csv(table), to_json(table), to_latex(table), to_markdown(table))
        for kind, text in zip(KINDS, texts, strict=True):
            path = Path(folder) / TABLES / f"{table.name}.{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text.encode())
            written.append(path)
    return written


def tables(results: Results) -> list[Table]:
    """Return every table that has a row."""
    summary = summarise(results)
    made = [
        _summary(summary) if summary else None,
        _probes(results),
        _paired(results),
        _criteria(results),
        _cost(results),
        _diagnostics(results),
        _ablation(results),
    ]
    return [table for table in made if table and table.rows]


def _summary(summary: Summary) -> Table:
    asked = summary.question
    split = SPLITS.get(asked.split, asked.split)
    caption = f"Scores with 95 % intervals on {split}, gap {asked.gap}"
    caption += f", {asked.readout} readout" if asked.readout else ""
    view = summary.view
    heads = [f"{c.title} ({note})" for c, note in zip(summary.columns, view.notes, strict=True)]
    rows: list[list[Entry]] = [
        [entry.name, entry.kind, against, *(_scored(answer.row) for answer in line)]
        for entry, against, line in zip(summary.entries, view.random, view.rows, strict=True)
    ]
    return Table(
        "summary", caption, ["representation", "kind", "against random init", *heads], rows
    )


def _scored(row: ProbeRow | None) -> Scored | None:
    return Scored(row["value"], row["low"], row["high"]) if row else None


def _probes(results: Results) -> Table:
    keys = ("reading", "kind", "probe", "target", "group", "frame", "readout", "gap", "split")
    keys += ("condition", "labels", "metric", "better")
    after = ("chance", "tolerance", "episodes", "samples", "dims", "penalty")
    rows: list[list[Entry]] = [
        [name_of(row), *(row[key] for key in keys), _scored(row), *(row[key] for key in after)]
        for row in results["probes"]
    ]
    return Table("probes", "Every score", ["representation", *keys, "value", *after], rows)


def _paired(results: Results) -> Table:
    keys = ("a", "b", "probe", "target", "group", "frame", "readout", "gap", "split", "metric")
    rows: list[list[Entry]] = [
        [*(row[key] for key in keys), _difference(row), row["p"], row["p_holm"]]
        for row in results["paired"]
    ]
    columns = [*keys, "difference", "p", "p (Holm)"]
    return Table("paired", "Paired differences, a minus b, on the same episodes", columns, rows)


def _criteria(results: Results) -> Table:
    keys = ("name", "bar", "result", "detail", "episodes_needed")
    rows: list[list[Entry]] = [[row[key] for key in keys] for row in results["criteria"]]
    columns = ["criterion", "bar", "result", "detail", "episodes that would decide"]
    return Table("criteria", "Bars that were set before", columns, rows)


def _cost(results: Results) -> Table:
    columns = ["model", "reading", "weights", "encoder parameters", "trained parameters"]
    columns += ["FLOPs per sample", "clips per second", "store (MB)"]
    columns += ["training samples per second", "peak memory (MB)", "seeds"]
    rows: list[list[Entry]] = [
        [
            model["name"],
            readings(results, model["name"]),
            model.get("weights", ""),
            model["encoder_parameters"],
            model["trained_parameters"],
            model["flops_per_sample"],
            model.get("encoded_per_second"),
            model.get("store_mb"),
            model["samples_per_second"],
            model["peak_memory_mb"],
            " ".join(str(run["seed"]) for run in model["runs"]),
        ]
        for model in results["models"]
    ]
    return Table("cost", "What each encoder costs", columns, rows)


def readings(results: Results, model: str) -> str:
    """Say how an encoder was shown clips, as its rows do."""
    mine = (row["reading"] for row in results["probes"] if reader_of(row) == model)
    return ", ".join(dict.fromkeys(reading for reading in mine if reading))


def _diagnostics(results: Results) -> Table:
    keys = ("norm", "std", "effective_rank", "mean_cosine", "dims")
    rows: list[list[Entry]] = [
        [found["representation"], *(found["features"].get(key) for key in keys)]
        for found in results.get("diagnostics", [])
    ]
    columns = ["representation", "norm", "standard deviation", "effective rank", "mean cosine"]
    return Table(
        "diagnostics", "How alive features are on the test split", [*columns, "dims"], rows
    )


def _ablation(results: Results) -> Table:
    keys = ("axis", "value", "cell", "probe", "group", "gap", "split", "metric")
    rows: list[list[Entry]] = [
        [*(cell[key] for key in keys), _difference(cell), cell["p_holm"]]
        for cell in results.get("ablation", [])
    ]
    caption = "Differences of every cell from its base, on the same episodes"
    return Table("ablation", caption, [*keys, "difference", "p (Holm)"], rows)


def _difference(row: Mapping[str, Any]) -> Scored:
    return Scored(row["difference"], row["low"], row["high"])


def records(table: Table) -> tuple[list[str], list[list[str | float | int | None]]]:
    """Return columns and rows in which a score is three columns, throughout the table."""
    scored = [
        any(isinstance(row[i], Scored) for row in table.rows) for i in range(len(table.columns))
    ]
    columns = []
    for name, three in zip(table.columns, scored, strict=True):
        columns += [name, f"{name} low", f"{name} high"] if three else [name]
    rows = []
    for row in table.rows:
        flat: list[str | float | int | None] = []
        for entry, three in zip(row, scored, strict=True):
            if isinstance(entry, Scored):
                flat += [*entry]
            else:
                flat += [entry, None, None] if three else [entry]
        rows.append(flat)
    return columns, rows


def to_csv(table: Table) -> str:
    """Print as RFC 4180 asks: commas, doubled quotes, lines that end in CR LF."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)  # the csv module's own dialect is that of RFC 4180
    columns, rows = records(table)
    writer.writerow(columns)
    writer.writerows(rows)
    return file.getvalue()


def to_json(table: Table) -> str:
    """Print as one object with the rows as records."""
    columns, rows = records(table)
    found = [dict(zip(columns, row, strict=True)) for row in rows]
    value = {"caption": table.caption, "columns": columns, "rows": found}
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_latex(table: Table) -> str:
    """Print a ``tabular`` with the rules of booktabs inside a ``table``."""
    marks = ["l" if _is_text(table.rows, i) else "r" for i in range(len(table.columns))]
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        f"\\caption{{{latex(table.caption)}}}",
        f"\\label{{tab:{table.name}}}",
        f"\\begin{{tabular}}{{{''.join(marks)}}}",
        "\\toprule",
        f"{' & '.join(map(latex, table.columns))} \\\\",
        "\\midrule",
        *(f"{' & '.join(map(_latex_entry, row))} \\\\" for row in table.rows),
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def to_markdown(table: Table) -> str:
    """Print a table with bars, numbers to the right."""
    marks = ["---" if _is_text(table.rows, i) else "---:" for i in range(len(table.columns))]
    rows = [table.columns, marks, *([_plain(entry) for entry in row] for row in table.rows)]
    lines = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([f"{table.caption}.", "", *lines]) + "\n"


def _plain(entry: Entry) -> str:
    if isinstance(entry, str):
        return entry.replace("|", "\\|").replace("\n", " ")
    if isinstance(entry, Scored):
        value = _plain_number(entry.value)
        if entry.low is None or entry.high is None:
            return value
        return f"{value} [{_plain_number(entry.low)}, {_plain_number(entry.high)}]"
    return _plain_number(entry)


def _plain_number(value: Number) -> str:
    if value is None:
        return DASH
    return number(value, 0 if isinstance(value, int) or abs(value) >= 1000 else 3)


def _is_text(rows: Sequence[Sequence[Entry]], index: int) -> bool:
    return any(isinstance(row[index], str) for row in rows)


def _latex_entry(entry: Entry) -> str:
    if isinstance(entry, str):
        return latex(entry)
    if isinstance(entry, Scored):
        value = _latex_number(entry.value)
        if entry.low is None or entry.high is None:
            return value
        low, high = (_latex_number(bound) for bound in (entry.low, entry.high))
        return f"{value} {{\\scriptsize [{low}, {high}]}}"
    return _latex_number(entry)


def _latex_number(value: Number) -> str:
    return latex(_plain_number(value))


def latex(text: str) -> str:
    """Escape what LaTeX would take for a command."""
    return "".join(ESCAPES.get(sign, sign) for sign in text).replace("\n", " ")
