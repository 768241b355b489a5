"""The verdict: what the probe's rows allow one to say, and nothing more.

It looks at one number, the R2 of end-effector position at one gap, read linearly on held-out
episodes of seen tasks. A method *beats its random-init floor* when the two 95 % intervals share no
point. A floor *wins* when it scores at least as high as the method. The whole is a success only if
some method beats its random init and no floor of any kind wins over that method.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from saccade.errors import ConfigError
from saccade.evals.probe import label_frame
from saccade.evals.statistics import disjoint

Row = Mapping[str, Any]
FEW_SEEDS = 3  # below this, nothing is claimed about other seeds


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """``beats_random`` and ``order`` (best first) name methods; ``details`` are full sentences."""

    sentence: str
    success: bool
    beats_random: list[str]
    order: list[str]
    details: list[str]


class Board:
    """The rows of one split, best first, and the paired differences between them."""

    def __init__(self, rows: Sequence[Row], paired: Sequence[Row], gap: int, split: str) -> None:
        wanted = {
            "target": "displacement",
            "group": "position",
            "readout": "linear",
            "frame": label_frame(rows),
            "gap": gap,
            "split": split,
        }
        chosen = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
        scored = [row for row in chosen if row["r2"] is not None]
        scored.sort(key=lambda row: -row["r2"])
        self.methods = [row for row in scored if row["kind"] == "method"]
        self.floors = [row for row in scored if row["kind"] == "floor"]
        self.paired = {
            (pair["a"], pair["b"]): pair
            for pair in paired
            if (pair["group"], pair["gap"], pair["split"]) == ("position", gap, split)
        }

    def random_init(self, method: Row) -> Row | None:
        """Return the method's own untrained network."""
        own = (row for row in self.floors if row["floor_of"] == method["representation"])
        return next(own, None)

    def beats_random(self, method: Row) -> bool:
        """Tell whether the method is above its untrained self, with disjoint intervals."""
        floor = self.random_init(method)
        return floor is not None and method["r2"] > floor["r2"] and _disjoint(method, floor)

    def winners(self, method: Row) -> list[Row]:
        """List the floors that score at least as high as the method."""
        return [row for row in self.floors if row["r2"] >= method["r2"]]

    def level(self, method: Row) -> list[Row]:
        """List the floors that score lower, but are not separated from the method."""
        lower = [row for row in self.floors if row["r2"] < method["r2"]]
        return [row for row in lower if not self.separated(method, row)]

    def separated(self, above: Row, below: Row) -> bool:
        """Ask the paired interval, or without one whether the two own intervals are disjoint."""
        lead = self.lead(above, below)
        return lead[1] > 0 if lead else _disjoint(above, below)

    def lead(self, a: Row, b: Row) -> tuple[float, float, float] | None:
        """Return by how much ``a`` leads ``b`` in R2, with the paired interval."""
        names = a["representation"], b["representation"]
        pair = self.paired.get(names) or self.paired.get(names[::-1])
        if pair is None or pair["low"] is None:
            return None
        value, low, high = pair["difference"], pair["low"], pair["high"]
        return (value, low, high) if names in self.paired else (-value, -high, -low)

    def compared(self, a: Row, b: Row) -> str:
        """Say how far ``a`` is from ``b``, and whether that is separated from zero."""
        lead = self.lead(a, b)
        if lead is None:
            return "not compared pair by pair"
        told = f"difference {lead[0]:+.3f} [{lead[1]:+.3f}, {lead[2]:+.3f}]"
        return f"not separated: {told}" if lead[1] <= 0 <= lead[2] else told


def verdict(rows: Sequence[Row], paired: Sequence[Row], gap: int = 5) -> Verdict:
    """State what the headline number shows, with its uncertainty.

    Raises:
        ConfigError: no method has the headline number.
    """
    board = Board(rows, paired, gap, "test")
    if not board.methods:
        raise ConfigError(
            f"no method has a linear position R2 at gap {gap} on the test split; probe that gap "
            "with the linear readout"
        )
    beating = [row for row in board.methods if board.beats_random(row)]
    clear = [row for row in beating if not board.winners(row)]
    return Verdict(
        sentence=_headline(board, beating, clear),
        success=bool(clear),
        beats_random=[row["representation"] for row in beating],
        order=[row["representation"] for row in board.methods],
        details=[
            *_order(board),
            *_seeds(board),
            _size(board, gap),
            *(_against_floors(board, row) for row in board.methods),
            *_unseen(Board(rows, paired, gap, "unseen")),
            "Intervals are not corrected for the number of comparisons, and a probe says nothing "
            "about success in control.",
        ],
    )


def _disjoint(a: Row, b: Row) -> bool:
    bounds = (a["r2_low"], a["r2_high"]), (b["r2_low"], b["r2_high"])
    return None not in (*bounds[0], *bounds[1]) and disjoint(*bounds)


def _score(row: Row) -> str:
    if row["r2_low"] is None:
        return f"{row['representation']} (R2 {row['r2']:.2f}, no interval)"
    return (
        f"{row['representation']} (R2 {row['r2']:.2f} [{row['r2_low']:.2f}, {row['r2_high']:.2f}])"
    )


def _names(rows: Sequence[Row]) -> str:
    names = [row["representation"] for row in rows]
    return " and ".join(names) if len(names) < 3 else ", ".join(names[:-1]) + f" and {names[-1]}"


def _headline(board: Board, beating: Sequence[Row], clear: Sequence[Row]) -> str:
    leader = (clear or beating or board.methods)[0]
    own, winners = board.random_init(leader), board.winners(leader)
    score = f"{_score(leader)} against {_score(own) if own else 'no random-init floor'}"
    if not beating:
        floors = [row for row in winners if row is not own]
        return (
            "No success: no pretrained encoder beats its own random-init floor with disjoint 95 % "
            f"intervals; the best is {score}"
            + (f"; {_names(floors)} scored at least as high." if floors else ".")
        )
    if not clear:
        return (
            f"No success: {_beat(beating)}, but without pretraining "
            f"{' and '.join(map(_score, winners))} scored at least as high as {score}."
        )
    level = board.level(leader)
    return (
        f"Pretraining helped here: {_beat(clear)}, and no floor scored as high; the best is {score}"
        + (f", not separated from {_names(level)}." if level else ".")
        + _rest(board, beating, clear)
    )


def _rest(board: Board, beating: Sequence[Row], clear: Sequence[Row]) -> str:
    """Name the methods that a success does not cover."""
    overtaken = [row for row in beating if row not in clear]
    failing = [row for row in board.methods if row not in beating]
    told = ""
    if overtaken:
        floors = _names(board.winners(overtaken[0]))
        told += f" {_beat(overtaken)} too, but {floors} scored at least as high."
    if failing:
        told += f" {_names(failing)} {_do(failing, 'does', 'do')} not beat random init."
    return told


def _beat(rows: Sequence[Row]) -> str:
    return f"{_names(rows)} {_do(rows, 'beats its', 'beat their')} own random-init floor"


def _do(rows: Sequence[Row], one: str, many: str) -> str:
    return one if len(rows) == 1 else many


def _order(board: Board) -> list[str]:
    if len(board.methods) < 2:
        return []
    steps = [
        f"{a['representation']} over {b['representation']} ({board.compared(a, b)})"
        for a, b in pairwise(board.methods)
    ]
    return [f"Order of the methods: {', '.join(steps)}."]


def _seeds(board: Board) -> list[str]:
    fewest = min(len(row["seeds"]) for row in board.methods)
    if fewest >= FEW_SEEDS:
        return []
    trained = "1 training seed" if fewest == 1 else f"{fewest} training seeds"
    return [f"With {trained} per method, no claim across seeds is made."]


def _size(board: Board, gap: int) -> str:
    row = board.methods[0]
    return (
        f"R2 of end-effector displacement ({row['frame']} frame) {gap} steps ahead, read linearly "
        f"from frozen features, on {row['episodes']} held-out episodes ({row['windows']} pairs) of "
        f"seen tasks; training seeds: {min(len(r['seeds']) for r in board.methods)}; 95 % "
        "intervals over episodes."
    )


def _against_floors(board: Board, method: Row) -> str:
    ranks = [f"{_score(row)}, {board.compared(method, row)}" for row in board.floors]
    return f"{_score(method)} against the floors: {'; '.join(ranks) or 'none was probed'}."


def _unseen(board: Board) -> list[str]:
    if not board.methods:
        return ["No held-out task was probed, so nothing is said about new tasks."]
    best = board.floors[:1]
    floor = f"; the best floor there is {_score(best[0])}" if best else ""
    return [f"On unseen tasks: {', '.join(map(_score, board.methods))}{floor}."]
