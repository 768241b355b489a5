"""One question and who answers it how well: the ground that verdicts and criteria stand on.

A *question* is a probe's headline score, asked of one target, by one readout, at one gap. A
*board* holds the answers on one split, best first, with the paired differences between them.
Every lead is turned so that more is better, whether the metric is a score or an error.

Two answers are *separated* if the interval of their paired difference excludes 0 and, where a
corrected p is known, that is at most 0.05; without a pair, if their own intervals are disjoint.

A floor that is made of the label itself (the task's name where tasks are told apart, estimated
flow where that is the target) is no floor of that question.
"""

from collections.abc import Mapping, Sequence
from math import ceil, isfinite, log10, sqrt
from typing import Any, NamedTuple

from saccade.evals.probe import HEADLINE, label_frame
from saccade.evals.probes.base import ProbeConfig
from saccade.evals.statistics import disjoint, episodes_needed, standard_error

Row = Mapping[str, Any]
SURE = 0.05  # a corrected p above it separates nothing
CHANGE, POSITION = "raw pixel change", "position only"  # the floors that the documents lacked
FIRST = ("displacement", "two orders", "task", "position", "hand", "all cells")  # where asked
LABELS = {("flow", "DIS"): "flow histogram", ("clusters", "task"): "task only"}
METRICS = {"r2": "R2", "epe": "EPE"}
SUBJECTS = {
    ("action", "displacement"): "end-effector displacement",
    ("action", "action"): "the robot's commands",
    ("action", "hand"): "the hand's displacement",
}
SPLITS = {"test": "seen tasks", "unseen": "unseen tasks", "unseen scenes": "unseen scenes"}
READ = {
    "linear": "read linearly from frozen features",
    "mlp": "read by an MLP from frozen features",
    "attentive": "read by attention over frozen features",
    "": "without any fit to frozen features",
}


class Question(NamedTuple):
    """What is scored, as the fields of a row name it."""

    probe: str
    target: str
    group: str
    frame: str
    readout: str
    gap: int
    metric: str

    @property
    def score(self) -> str:
        """Return what the metric is called in a sentence."""
        return METRICS.get(self.metric, self.metric)

    @property
    def subject(self) -> str:
        """Return what is asked about, in words."""
        frame = f" ({self.frame} frame)" if self.probe == "action" else ""
        if self.probe == "flow":
            return f"optical flow ({self.target}, {self.group}, percent of the side)"
        if self.probe in ("order", "clusters"):
            return f"{self.probe} ({self.target})"
        named = SUBJECTS.get((self.probe, self.target), self.target)
        group = "" if self.group in ("position", "hand") else f", {self.group},"
        return f"{named}{group}{frame}"

    def asked_of(self, row: Row) -> bool:
        """Tell whether a row answers this question, on whatever split and condition."""
        return all(row[name] == value for name, value in self._asdict().items())


class Lead(NamedTuple):
    """By how much one answer is better than another, pair by pair, with its corrected p."""

    value: float
    low: float
    high: float
    p_holm: float | None

    @property
    def clear(self) -> bool:
        """Tell whether it is above 0, also after correction."""
        return self.low > 0 and (self.p_holm is None or self.p_holm <= SURE)


def place_of(split: str) -> str:
    """Return what a split is called in a sentence; one that is no part is another data set."""
    return SPLITS.get(split, f"the data set {split}")


def is_plain(row: Row) -> bool:
    """Tell whether nothing was perturbed, controlled or taken away."""
    return not row["condition"] and row["labels"] in (None, 1.0)


def question_of(rows: Sequence[Row], config: ProbeConfig, probe: str) -> Question | None:
    """Choose the question that a probe is judged by; None where it was not asked."""
    metric = HEADLINE.get(probe)
    found = [r for r in rows if r["probe"] == probe and r["metric"] == metric and is_plain(r)]
    chosen: dict[str, Any] = {"probe": probe, "metric": metric}
    wishes: dict[str, Any] = {
        "target": (config.labels.motion, *FIRST) if probe == "action" else FIRST,
        "group": FIRST,
        "frame": (label_frame({row["frame"] for row in found}),),
        "readout": config.readouts[:1],
        "gap": (config.main_gap,),
    }
    for name, wanted in wishes.items():
        there = list(dict.fromkeys(row[name] for row in found))
        if not there:
            return None
        chosen[name] = next((value for value in wanted if value in there), there[0])
        found = [row for row in found if row[name] == chosen[name]]
    return Question(**chosen)


class Board:
    """The answers to one question on one split, best first."""

    def __init__(
        self, rows: Sequence[Row], paired: Sequence[Row], question: Question, split: str
    ) -> None:
        self.question, self.split = question, split
        self.rows = [row for row in rows if row["split"] == split and question.asked_of(row)]
        scored = [row for row in self.rows if is_plain(row) and row["value"] is not None]
        self.lower = bool(scored) and scored[0]["better"] == "lower"
        scored.sort(key=self.oriented, reverse=True)
        self.methods = [row for row in scored if row["kind"] == "method"]
        trivial = LABELS.get((question.probe, question.target))
        floors = [row for row in scored if row["kind"] == "floor"]
        self.floors = [row for row in floors if row["representation"] != trivial]
        self.paired = {
            (pair["a"], pair["b"]): pair
            for pair in paired
            if pair["split"] == split and question.asked_of(pair)
        }

    def oriented(self, row: Row) -> float:
        """Return a value of which more is better."""
        return float(-row["value"] if self.lower else row["value"])

    def under(self, name: str, condition: str, labels: float = 1.0) -> Row | None:
        """Return what a representation scores under a condition, or with fewer labels."""
        wanted = (name, condition, labels)
        for row in self.rows:
            if (row["representation"], row["condition"], row["labels"]) == wanted:
                return row if row["value"] is not None else None
        return None

    def random_init(self, method: Row) -> Row | None:
        """Return the method's own untrained network."""
        own = (row for row in self.floors if row["floor_of"] == method["representation"])
        return next(own, None)

    def floor(self, name: str) -> Row | None:
        """Return a floor by its name."""
        return next((row for row in self.floors if row["representation"] == name), None)

    def beats_random(self, method: Row) -> bool:
        """Tell whether the method is above its untrained self, with disjoint intervals."""
        floor = self.random_init(method)
        return floor is not None and self.beats(method, floor) and apart(method, floor)

    def beats(self, a: Row, b: Row) -> bool:
        """Tell whether one value is better than another, whatever the intervals say."""
        return self.oriented(a) > self.oriented(b)

    def winners(self, method: Row) -> list[Row]:
        """List the floors that score at least as well as the method."""
        return [row for row in self.floors if not self.beats(method, row)]

    def level(self, method: Row) -> list[Row]:
        """List the floors that score worse, but are not separated from the method."""
        worse = [row for row in self.floors if self.beats(method, row)]
        return [row for row in worse if not self.separated(method, row)]

    def separated(self, above: Row, below: Row) -> bool:
        """Ask the paired difference, or without one whether the two own intervals are disjoint."""
        lead = self.lead(above, below)
        return lead.clear if lead else self.beats(above, below) and apart(above, below)

    def lead(self, a: Row, b: Row) -> Lead | None:
        """Return by how much ``a`` is better than ``b``; None where no interval is known."""
        names = a["representation"], b["representation"]
        pair = self.paired.get(names) or self.paired.get(names[::-1])
        if pair is None or None in (pair["difference"], pair["low"], pair["high"]):
            return None
        value, low, high = pair["difference"], pair["low"], pair["high"]
        if (names in self.paired) == self.lower:
            value, low, high = -value, -high, -low
        return Lead(value, low, high, pair["p_holm"])

    def scored(self, row: Row) -> str:
        """Write a name with its score and interval."""
        return f"{row['representation']} ({self.question.score} {shown(row)})"

    def compared(self, a: Row, b: Row) -> str:
        """Say which of two is better, by how much, or what would tell them apart."""
        lead, first, second = self.lead(a, b), a["representation"], b["representation"]
        if lead is None:
            told = "disjoint" if apart(a, b) else "overlapping"
            return f"{first} and {second} were not compared pair by pair ({told} intervals)"
        if lead.high < 0:
            first, second = second, first
            lead = Lead(-lead.value, -lead.high, -lead.low, lead.p_holm)
        if lead.low > 0:
            verb = "errs less than" if self.lower else "exceeds"
            told = f"{first} {verb} {second} by {bounded(*lead[:3])}"
            if lead.clear:
                return told + holm_text(lead)
            return (
                f"{told}, but not after correction for all comparisons{holm_text(lead)}, so they "
                "are not ranked"
            )
        return (
            f"{first} and {second} are not separated: {bounded(*lead[:3], signed=True)}"
            f"{wanting(lead, a['episodes'])}"
        )

    def briefly(self, method: Row, floor: Row) -> str:
        """Say the same of a method and a floor, where the method is already named."""
        lead, told = self.lead(method, floor), self.scored(floor)
        if lead is None:
            return f"{told}, not compared pair by pair"
        side = "better" if lead.low > 0 else "worse"
        if lead.high < 0:
            lead = Lead(-lead.value, -lead.high, -lead.low, lead.p_holm)
        if lead.low > 0:
            after = "" if lead.clear else ", but not after correction"
            return f"{told}: {side} by {bounded(*lead[:3])}{after}{holm_text(lead)}"
        return f"{told}: not separated, {bounded(*lead[:3], signed=True)}"


def read_linearly(rows: Sequence[Row], paired: Sequence[Row], board: Board) -> Board:
    """Return the same question read linearly: controls and smaller shares are only read so."""
    if board.question.readout in ("linear", ""):
        return board
    return Board(rows, paired, board.question._replace(readout="linear"), board.split)


def wanting(lead: Lead, episodes: int) -> str:
    """Say how many episodes would separate such a difference, where a number would."""
    deviation = standard_error(lead.low, lead.high, episodes) * sqrt(episodes)
    if not lead.value or not isfinite(deviation) or deviation <= 0:
        return ""
    needed = max(episodes + 1, episodes_needed(lead.value, deviation))
    return f" (with this spread about {needed:,} episodes would separate a difference of that size)"


def apart(a: Row, b: Row) -> bool:
    """Tell whether the own intervals of two rows are known and share no point."""
    bounds = (a["low"], a["high"]), (b["low"], b["high"])
    return None not in (*bounds[0], *bounds[1]) and disjoint(*bounds)


def shown(row: Row) -> str:
    """Write a value with its interval."""
    if row["low"] is None or row["high"] is None:
        return f"{row['value']:.2f}, no interval"
    return f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def bounded(value: float, low: float, high: float, *, signed: bool = False) -> str:
    """Write a difference with its interval, with so many digits that no bound is a mere 0.00."""
    if not isfinite(high - low):
        return f"{value:{'+' if signed else ''}.2f} (no interval)"
    parts = [abs(part) for part in (value, low, high, high - low) if part]
    digits = min(4, max([2, *(ceil(-log10(part) - 0.3) for part in parts)]))
    sign = "+" if signed else ""
    return f"{value:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def holm_text(lead: Lead) -> str:
    """Write the corrected p, where it is known."""
    if lead.p_holm is None:
        return ""
    return ", Holm p < 0.001" if lead.p_holm < 0.001 else f", Holm p {lead.p_holm:.3f}"


def listed(names: Sequence[str]) -> str:
    """Join names as a sentence does."""
    return " and ".join(names) if len(names) < 3 else ", ".join(names[:-1]) + f" and {names[-1]}"


def names_of(rows: Sequence[Row]) -> str:
    """Join the names of rows as a sentence does."""
    return listed([row["representation"] for row in rows])
