"""The summary for a terminal: as many columns beside each other as its width allows."""

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from saccade.report.results import check_results
from saccade.report.summary import SPLITS, Answer, Summary, summarise
from saccade.report.text import interval, score

PADDING = 3  # rich puts a space on either side of a cell, and a rule between two


def summary_tables(results: Mapping[str, Any], width: int = 110) -> list[Table]:
    """Return encoders x probes with intervals; several tables where one would be too wide.

    Raises:
        DataError: the results are malformed.
    """
    summary = summarise(check_results(results))
    if summary is None:
        return []
    names = max(len(entry.name) for entry in summary.entries) + PADDING + len("method") + PADDING
    names += 1  # the rule at the end
    blocks: list[list[int]] = [[]]
    room = width - names
    for index in range(len(summary.columns)):
        wide = max(len(text) for text in _column(summary, index)) + PADDING
        if blocks[-1] and wide > room:
            blocks.append([])
            room = width - names
        blocks[-1].append(index)
        room -= wide
    made = [_table(summary, block) for block in blocks]
    made[0].title = _title(summary)
    return made


def _table(summary: Summary, block: list[int]) -> Table:
    table = Table(header_style="bold", title_justify="left", title_style="")
    table.add_column("representation", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    for index in block:
        table.add_column(escape(_head(summary, index)), justify="right", no_wrap=True)
    for entry, line in zip(summary.entries, summary.view.rows, strict=True):
        style = "dim" if entry.kind == "floor" else None
        table.add_row(escape(entry.name), entry.kind, *(_cell(line[i]) for i in block), style=style)
    return table


def _column(summary: Summary, index: int) -> list[str]:
    heads = _head(summary, index).split("\n")
    return [*heads, *(_cell(line[index]) for line in summary.view.rows)]


def _head(summary: Summary, index: int) -> str:
    return f"{summary.columns[index].title}\n{summary.view.notes[index].replace(', ', chr(10))}"


def _cell(answer: Answer) -> str:
    mark = {"best": " *", "above": " +"}.get(answer.tone, "")
    return f"{score(answer.row)} {interval(answer.row)}".rstrip() + mark


def _title(summary: Summary) -> str:
    asked = summary.question
    readout = f", {asked.readout} readout" if asked.readout else ""
    return (
        f"{SPLITS.get(asked.split, asked.split).capitalize()}, gap {asked.gap}{readout}, "
        "95 % intervals; * clear of all others, + clear of every floor"
    )
