"""The question that the page puts first, and who answers it how well.

A method stands *above* its floor when the interval of its score lies above the interval of the
same network without training: disjoint intervals, the test that the verdict uses as well.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from saccade.report.figures import name_of
from saccade.report.results import Paired, ProbeRow, Results


class Focus(NamedTuple):
    """One question of the probe; a row that agrees with all fields is an answer."""

    target: str
    frame: str
    readout: str
    split: str
    group: str
    gap: int

    def answers(self, rows: Iterable[ProbeRow], **instead: object) -> list[ProbeRow]:
        """Select rows, best first; ``instead`` replaces fields, and None admits any value."""
        wanted = {key: v for key, v in (self._asdict() | instead).items() if v is not None}
        found = [row for row in rows if all(row[key] == v for key, v in wanted.items())]
        return sorted(found, key=lambda row: (row["r2"] is None, -(row["r2"] or 0)))

    def groups(self, rows: Iterable[ProbeRow]) -> list[str]:
        """List the groups of the target, this one first."""
        found = {row["group"] for row in self.answers(rows, group=None, split=None)}
        return [self.group, *sorted(found - {self.group})]


class Line(NamedTuple):
    """One representation in the main table: its answer, and those to related questions."""

    name: str
    row: ProbeRow
    against_random: str
    unseen: ProbeRow | None
    others: list[ProbeRow | None]  # the other groups of the target


def focus_of(results: Results) -> Focus | None:
    """Choose the question: position, gap 5, linear, seen tasks, or what there is instead."""
    wishes = {
        "target": "displacement",
        "frame": results["data"]["label_frame"],
        "readout": "linear",
        "split": "test",
        "group": "position",
        "gap": 5,
    }
    rows = results["probes"]
    chosen: dict[str, Any] = {}
    for key, wish in wishes.items():
        values = [row[key] for row in rows]
        if not values:
            return None
        chosen[key] = wish if wish in values else values[0]
        rows = [row for row in rows if row[key] == chosen[key]]
    return Focus(**chosen)


def lines(rows: Sequence[ProbeRow], focus: Focus) -> list[Line]:
    """Arrange the main table: methods, then floors, each best first."""
    seen = sorted(focus.answers(rows), key=lambda row: row["kind"] == "floor")
    unseen = _by_name(focus.answers(rows, split="unseen"))
    others = [_by_name(focus.answers(rows, group=group)) for group in focus.groups(rows)[1:]]
    return [
        Line(
            name=(name := name_of(row)),
            row=row,
            against_random=against_random(row, seen),
            unseen=unseen.get(name),
            others=[group.get(name) for group in others],
        )
        for row in seen
    ]


def _by_name(rows: Iterable[ProbeRow]) -> dict[str, ProbeRow]:
    return {name_of(row): row for row in rows}


def against_random(row: ProbeRow, rows: Iterable[ProbeRow]) -> str:
    """Say where a method's interval lies, seen from its own network without training.

    Empty for floors, and where there is no such floor or an interval is not known.
    """
    floor = next((other for other in rows if other["floor_of"] == row["representation"]), None)
    if floor is None:
        return ""
    low, high = row["r2_low"], row["r2_high"]
    floor_low, floor_high = floor["r2_low"], floor["r2_high"]
    if low is None or high is None or floor_low is None or floor_high is None:
        return ""
    return "above" if low > floor_high else "below" if high < floor_low else "not separated"


def status(success: bool, table: Sequence[Line]) -> tuple[str, str]:
    """Return the tone of the verdict and its meaning in words.

    The tone is a success only if the verdict says so and the table bears it out.
    """
    if not table:
        return "unknown", "Nothing was probed"
    if success and any(line.against_random == "above" for line in table):
        return "success", "A method stands above its random-init floor"
    return "caution", "The table does not bear this out" if success else "No success is claimed"


def method_pairs(results: Results, focus: Focus) -> list[Paired]:
    """Select the comparisons of two methods that answer the question."""
    methods = {row["representation"] for row in results["probes"] if row["kind"] == "method"}
    return [
        pair
        for pair in results["paired"]
        if {pair["a"], pair["b"]} <= methods
        and (pair["gap"], pair["split"], pair["group"]) == (focus.gap, focus.split, focus.group)
    ]
