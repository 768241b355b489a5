"""The summary: every representation against the headline questions of every probe.

It holds one view for each split, gap and readout that was asked, so that the page can show any
of them without a network. A probe that was asked at other gaps, or has no readout, answers with
the nearest it has, and the note of its column says with which.
"""

from typing import Any, NamedTuple

from saccade.report.figures import name_of
from saccade.report.headline import (
    FIELDS,
    METRIC,
    WISHES,
    against_random,
    focus_of,
    is_plain,
    nearest,
    rank,
    tone,
)
from saccade.report.results import ProbeRow, Results
from saccade.report.text import interval, metric_of, score, upper

GROUPS = ("position", "rotation", "gripper", "hand")  # others only under their probe
SPLITS = {"test": "seen tasks", "unseen": "held-out tasks", "unseen scenes": "held-out scenes"}
ARROWS = {"higher": "↑", "lower": "↓"}


class Column(NamedTuple):
    """One headline question, whatever the split, gap and readout."""

    probe: str
    target: str
    group: str
    metric: str
    frame: str
    better: str

    @property
    def title(self) -> str:
        """Return what heads the column."""
        return f"{upper(self.group or self.target)} {ARROWS[self.better]}"


Had = dict[tuple[Column, str], dict[int, set[str]]]  # readouts by gap


class Answer(NamedTuple):
    """A score, or that there is none, and how it stands in its column."""

    row: ProbeRow | None
    tone: str

    @property
    def sortable(self) -> float | int | None:
        """Return the bare value."""
        return self.row["value"] if self.row else None


class View(NamedTuple):
    """The table for one split, gap and readout; ``random`` is each method against its own floor."""

    notes: list[str]
    random: list[str]
    rows: list[list[Answer]]


class Entry(NamedTuple):
    """One representation."""

    name: str
    kind: str


class Question(NamedTuple):
    """What the selects of the table choose."""

    split: str
    gap: int
    readout: str


class Summary(NamedTuple):
    """All views; ``chosen`` is the one that is shown first."""

    entries: list[Entry]
    columns: list[Column]
    splits: list[str]
    gaps: list[int]
    readouts: list[str]
    views: dict[str, View]
    chosen: str

    @property
    def view(self) -> View:
        """Return the view that is shown first."""
        return self.views[self.chosen]

    @property
    def question(self) -> Question:
        """Return what the view that is shown first was asked."""
        split, gap, readout = map(int, self.chosen.split("."))
        return Question(self.splits[split], self.gaps[gap], self.readouts[readout])

    def answers(self) -> list[list[ProbeRow]]:
        """Return the rows of each column of the view that is shown first."""
        columns = range(len(self.columns))
        return [[a.row for line in self.view.rows if (a := line[c]).row] for c in columns]

    def payload(self) -> dict[str, Any]:
        """Return what the page's script needs to show another view."""
        return {
            key: {
                "notes": view.notes,
                "random": view.random,
                "rows": [
                    [[a.sortable, score(a.row), interval(a.row), a.tone] for a in line]
                    for line in view.rows
                ],
            }
            for key, view in self.views.items()
        }


def summarise(results: Results) -> Summary | None:
    """Arrange the summary: methods, then floors, each best first; None if nothing was probed."""
    plain = [row for row in results["probes"] if is_plain(row)]
    columns = _columns(results, plain)
    if not columns:
        return None
    shown = set(columns)
    rows = [row for row in plain if column_of(row) in shown]
    splits = list(dict.fromkeys(row["split"] for row in rows))
    gaps = sorted({row["gap"] for row in rows})
    readouts = list(dict.fromkeys(r["readout"] for r in rows if r["readout"])) or [""]
    focus = focus_of(results)
    assert focus is not None  # there are plain rows
    names = _names(rows, focus._asdict())
    asked = {
        f"{s}.{g}.{r}": Question(split, gap, readout)
        for s, split in enumerate(splits)
        for g, gap in enumerate(gaps)
        for r, readout in enumerate(readouts)
    }
    places = (
        splits.index(focus.split) if focus.split in splits else 0,
        gaps.index(focus.gap) if focus.gap in gaps else 0,
        readouts.index(focus.readout) if focus.readout in readouts else 0,
    )
    chosen = ".".join(map(str, places))
    found = {
        (column_of(row), row["split"], row["gap"], row["readout"], name_of(row)): row
        for row in rows
    }
    had: Had = {}
    for row in rows:
        had.setdefault((column_of(row), row["split"]), {}).setdefault(row["gap"], set()).add(
            row["readout"]
        )
    views = {key: _view(columns, names, found, had, question) for key, question in asked.items()}
    return Summary(names, columns, splits, gaps, readouts, views, chosen)


def column_of(row: ProbeRow) -> Column:
    """Return the column that a row belongs to."""
    keys = (row["probe"], row["target"], row["group"], row["metric"], row["frame"])
    return Column(*keys, row["better"])


def _columns(results: Results, plain: list[ProbeRow]) -> list[Column]:
    columns: list[Column] = []
    probes = dict.fromkeys(row["probe"] for row in plain)
    for probe in sorted(probes, key=_wish("probe")):
        mine = [row for row in plain if row["probe"] == probe]
        metric = METRIC.get(probe, mine[0]["metric"])
        mine = [row for row in mine if row["metric"] == metric] or mine
        targets = sorted(dict.fromkeys(row["target"] for row in mine), key=_wish("target"))
        # An action probe that was asked for both shows displacement: the table must stay narrow.
        for target in targets[:1] if probe == "action" else targets:
            focus = focus_of(results, probe=probe, target=target)
            if focus is not None:
                groups = [g for g in focus.groups(plain) if g in GROUPS] or [focus.group]
                for group in sorted(groups, key=lambda g: GROUPS.index(g) if g in GROUPS else 0):
                    row = focus.answers(plain, group=group, split=None)[0]
                    columns.append(column_of(row))
    return columns


def _wish(key: str) -> Any:
    wishes = WISHES[key]
    return lambda value: wishes.index(value) if value in wishes else len(wishes)


def _names(rows: list[ProbeRow], focus: dict[str, Any]) -> list[Entry]:
    """List representations, methods first, each best first in the headline question."""
    best = {name_of(r): rank(r) for r in rows if all(r[key] == focus[key] for key in FIELDS)}
    kinds = {name_of(row): row["kind"] for row in rows}
    order = sorted(kinds, key=lambda n: (kinds[n] == "floor", best.get(n, (True, 0.0))))
    return [Entry(name, kinds[name]) for name in order]


def _view(
    columns: list[Column],
    names: list[Entry],
    found: dict[tuple[Any, ...], ProbeRow],
    had: Had,
    question: Question,
) -> View:
    split, gap, readout = question
    notes, random, scored = [], [], []
    for index, column in enumerate(columns):
        gaps = had.get((column, split), {})
        at = nearest(gaps, gap) if gaps else gap
        by = "" if "" in gaps.get(at, ()) else readout  # "": a probe without a readout
        answers = [found.get((column, split, at, by, name)) for name, _ in names]
        rows = [row for row in answers if row is not None]
        scored.append([Answer(row, tone(row, rows)) for row in answers])
        notes.append(_note(column, at if at != gap and rows else None))
        if index == 0:
            random = [against_random(row, rows) if row else "" for row in answers]
    return View(notes, random, [list(line) for line in zip(*scored, strict=True)])


def _note(column: Column, gap: int | None) -> str:
    """Say what the column's title leaves out, and the gap where it is not the chosen one."""
    parts = [column.target if column.group else column.probe, metric_of(column.metric)]
    return ", ".join(parts if gap is None else [*parts, f"gap {gap}"])
