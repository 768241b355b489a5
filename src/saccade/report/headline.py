"""The questions that the page puts first, and who answers them how well.

A score stands *clear* of another when their intervals are disjoint: the test that the verdict
uses as well. Rows that perturb or control something, or that fit the readout on fewer episodes,
answer other questions and are never mixed with these.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from saccade.report.results import Paired, ProbeRow, Results

METRIC = {"action": "r2", "flow": "epe", "order": "accuracy", "clusters": "purity"}
WISHES = {  # what to show first, by field, where it was asked
    "probe": ("action", "flow", "order", "clusters"),
    "target": ("displacement", "action", "simulator", "two orders", "task"),
    "group": ("position", "hand"),
    "frame": ("camera",),
    "gap": (5,),
    "split": ("test",),
}
FIELDS = ("probe", "target", "group", "metric", "frame", "readout", "gap", "split")


class Focus(NamedTuple):
    """One question; a plain row that agrees with all fields is an answer."""

    probe: str
    target: str
    group: str
    metric: str
    frame: str
    readout: str
    gap: int
    split: str

    def answers(
        self, rows: Iterable[ProbeRow], *, every: bool = False, **instead: object
    ) -> list[ProbeRow]:
        """Select plain rows, or with ``every`` those of all conditions and labels; best first.

        ``instead`` replaces fields, and None admits any value.
        """
        wanted = {key: v for key, v in (self._asdict() | instead).items() if v is not None}
        found = [
            row
            for row in rows
            if (every or is_plain(row)) and all(row[key] == v for key, v in wanted.items())
        ]
        return sorted(found, key=rank)

    def groups(self, rows: Iterable[ProbeRow]) -> list[str]:
        """List the groups of the target, this one first."""
        found = {row["group"]: None for row in self.answers(rows, group=None, split=None)}
        return [self.group, *sorted(found.keys() - {self.group})]


def is_plain(row: ProbeRow) -> bool:
    """Whether nothing was perturbed, controlled or taken away."""
    return row["condition"] == "" and row["labels"] in (None, 1.0)


def rank(row: ProbeRow) -> tuple[bool, float]:
    """Return the sorting key that puts the best score first and unknown ones last."""
    value = row["value"]
    if value is None:
        return True, 0.0
    return False, -value if row["better"] == "higher" else value


def focus_of(results: Results, **given: object) -> Focus | None:
    """Choose the question: position over gap 5 on seen tasks, or the nearest to it that was asked.

    ``given`` fields are not chosen; None where nothing was asked that agrees with them.
    """
    rows = [row for row in results["probes"] if is_plain(row)]
    chosen: dict[str, Any] = {}
    for key in FIELDS:
        values = list(dict.fromkeys(row[key] for row in rows))
        if not values or (key in given and given[key] not in values):
            return None
        chosen[key] = given[key] if key in given else _choose(key, values, chosen, results)
        rows = [row for row in rows if row[key] == chosen[key]]
    return Focus(**chosen)


def _choose(key: str, values: list[Any], chosen: dict[str, Any], results: Results) -> Any:
    if key == "gap":
        return nearest(values, WISHES["gap"][0])
    wishes = WISHES.get(key, ())
    if key == "metric":
        wishes = (METRIC.get(chosen["probe"], ""),)
    if key == "readout":
        wishes = tuple(results["budget"]["probe"]["readouts"])
    return next((wish for wish in wishes if wish in values), values[0])


def nearest(gaps: Iterable[int], wish: int) -> int:
    """Return the gap that is nearest to a wish, the shorter one of two."""
    return min(gaps, key=lambda gap: (abs(gap - wish), gap))


def clear(row: ProbeRow | None, other: ProbeRow | None) -> bool:
    """Whether the interval of one score lies wholly on the better side of another's."""
    if row is None or other is None:
        return False
    low, high, other_low, other_high = row["low"], row["high"], other["low"], other["high"]
    if low is None or high is None or other_low is None or other_high is None:
        return False
    return low > other_high if row["better"] == "higher" else high < other_low


def against_random(row: ProbeRow, rows: Iterable[ProbeRow]) -> str:
    """Say where a method's interval lies, seen from its own network without training.

    Empty for floors, and where there is no such floor or an interval is not known.
    """
    floor = next((other for other in rows if other["floor_of"] == row["representation"]), None)
    if floor is None or any(
        bound is None for bound in (row["low"], row["high"], floor["low"], floor["high"])
    ):
        return ""
    return "above" if clear(row, floor) else "below" if clear(floor, row) else "not separated"


def tone(row: ProbeRow | None, rows: Sequence[ProbeRow]) -> str:
    """Say how a score stands among the answers to its question.

    ``best``: clear of every other. ``above``: a method clear of every floor. ``below``: a method
    of which some floor is clear. Otherwise empty: nothing may be concluded.
    """
    if row is None:
        return ""
    others = [other for other in rows if other is not row and other["value"] is not None]
    if others and all(clear(row, other) for other in others):
        return "best"
    floors = [other for other in others if other["kind"] == "floor"]
    if row["kind"] == "floor" or not floors:
        return ""
    if all(clear(row, floor) for floor in floors):
        return "above"
    return "below" if any(clear(floor, row) for floor in floors) else ""


def earned(row: ProbeRow, rows: Sequence[ProbeRow]) -> bool:
    """Whether training shows: clear of its own untrained network, or of every floor without one."""
    if row["kind"] == "floor":
        return False
    if any(other["floor_of"] == row["representation"] for other in rows):
        return against_random(row, rows) == "above"
    floors = [other for other in rows if other["kind"] == "floor"]
    return bool(floors) and all(clear(row, floor) for floor in floors)


def status(success: bool, answers: Sequence[Sequence[ProbeRow]]) -> tuple[str, str]:
    """Return the tone of the verdict and its meaning in words.

    The tone is a success only if the verdict says so and the answers to some question, whose
    rows are given together, bear it out.
    """
    if not any(answers):
        return "unknown", "Nothing was probed"
    if not success:
        return "caution", "No success is claimed"
    if any(earned(row, rows) for rows in answers for row in rows):
        return "success", "A method stands clear of its floor"
    return "caution", "The table does not bear this out"


def method_pairs(results: Results, focus: Focus) -> list[Paired]:
    """Select the comparisons of two methods that answer the question."""
    methods = {row["representation"] for row in results["probes"] if row["kind"] == "method"}
    wanted = focus._asdict()
    return [
        pair
        for pair in results["paired"]
        if {pair["a"], pair["b"]} <= methods and all(pair[key] == v for key, v in wanted.items())
    ]
