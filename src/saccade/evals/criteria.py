"""The bars of the project's documents, set before anything was measured: is each of them met?

    pass        the 95 % interval lies wholly on the good side of the bar
    fail        it lies wholly on the other side
    undecided   it holds the bar, or episodes or seeds are too few; with the episodes that would
                decide with a probability of 0.8 if the value is right
    not asked   something that the bar speaks of was not measured

A bar that *some* method must meet is met if one does and missed if all do. The best of K methods
is above a bar by chance K times as easily, so each interval is then that of 1 - 0.05 / K, by
Student's t (Bonferroni): shown are the intervals that decide. Five episodes or fewer decide
nothing. Of several seeds, the spread between seeds does not shrink with episodes: the number that
would decide is then the least.
"""

from collections.abc import Callable, Mapping, Sequence
from math import hypot, isfinite, nan
from typing import Any, Literal, NamedTuple

from saccade.evals import statistics
from saccade.evals.board import CHANGE, POSITION, Board, Row, bounded, question_of, read_linearly
from saccade.evals.probe import Probed, Scored
from saccade.evals.probes.base import Key, ProbeConfig
from saccade.evals.probes.order import STATIC
from saccade.evals.statistics import Estimate

ENOUGH_EPISODES, ENOUGH_SEEDS = 6, 3
FLOW_BAR, ORDER_BAR, KEPT_BAR, GO_BAR = 0.8, 0.9, 0.5, 0.7
REFERENCE = "dinov2"
NO_METHOD = "no encoder here has trained weights"
Outcome = Literal["pass", "fail", "undecided", "not asked"]


class Judged(NamedTuple):
    """What one method's numbers say about a bar; ``margin`` is how far beyond it the value lies."""

    outcome: Outcome
    needed: int | None
    told: str
    margin: float


class Evidence(NamedTuple):
    """What was measured, and the headline answers by probe (None where not asked)."""

    rows: Sequence[Row]
    paired: Sequence[Row]
    scores: Mapping[str, Mapping[Key, Scored]]
    config: ProbeConfig

    def board(self, probe: str, split: str = "test") -> Board | None:
        """Return the answers to a probe's headline question; None where no method has one."""
        question = question_of(self.rows, self.config, probe)
        found = Board(self.rows, self.paired, question, split) if question else None
        return found if found and found.methods else None

    def why_not(self, probe: str) -> str:
        """Say why a probe has no answer."""
        trained = any(row["kind"] == "method" for row in self.rows)
        return f"no method has a score of {probe}" if trained else NO_METHOD

    def scored(self, board: Board, row: Row, condition: str = "") -> Scored | None:
        """Return the sums behind a row, or behind what the same method scores under a control."""
        asked = Key(**board.question._asdict(), split=board.split, condition=condition, labels=1.0)
        return self.scores[row["representation"]].get(asked)


def criteria(
    rows: Sequence[Row], paired: Sequence[Row], probed: Sequence[Probed], config: ProbeConfig
) -> list[dict[str, Any]]:
    """Hold every bar against what was measured, in the order of the documents."""
    scores = {each.representation.name: each.scores for each in probed}
    evidence = Evidence(rows, paired, scores, config)
    tests: list[tuple[str, str, Callable[[Evidence], Sequence[Judged] | str]]] = [
        ("optical flow", "end-point error at least 20 % below DINOv2's", _flow),
        (
            "temporal order",
            "two orders told apart at 90 %, and above the first frame alone",
            _order,
        ),
        ("training shows", "motion above the same network untrained", _untrained),
        (CHANGE, f"motion above {CHANGE}", lambda e: _over(e, CHANGE)),
        (POSITION, f"motion above {POSITION}", lambda e: _over(e, POSITION)),
        ("two streams over one", "two-stream above single-stream, equal budget", _over_single),
        ("two streams over VideoMAE", "two-stream above video-mae, equal budget", _over_video_mae),
        ("task clusters", "task purity above the same network untrained", _clusters),
        ("unseen tasks", "at least half of the R2 of seen tasks, by the best there", _unseen),
        ("original bar", "R2 of motion above 0.7", _original),
    ]
    return [{"name": name, "bar": bar, **_summed(test(evidence))} for name, bar, test in tests]


def _summed(found: Sequence[Judged] | str) -> dict[str, Any]:
    """Pass if any method does, fail if all do; tell of the one that is nearest to passing."""
    if isinstance(found, str):
        return {"result": "not asked", "detail": f"{found}.", "episodes_needed": None}
    outcomes = [each.outcome for each in found]
    result = next(name for name in ("pass", "undecided", "fail") if name in outcomes)
    best = max((each for each in found if each.outcome == result), key=lambda each: each.margin)
    detail = best.told
    if len(found) > 1:
        count = outcomes.count("pass")
        detail += f"; {count} of {len(found)} {'passes' if count == 1 else 'pass'}"
    return {
        "result": result,
        "detail": f"{detail}.",
        "episodes_needed": _needed(found) if result == "undecided" else None,
    }


def _needed(found: Sequence[Judged]) -> int | None:
    """Return the episodes after which one method passes, or all fail where none seems to pass."""
    rising = [each.needed for each in found if each.margin > 0 and each.needed]
    if rising:
        return min(rising)
    falling = [each.needed for each in found if each.outcome == "undecided"]
    known = [needed for needed in falling if needed is not None]
    return max(known) if len(known) == len(falling) else None


def judge(
    estimate: Estimate, bar: float, episodes: int, *, above: bool = True, strict: bool = True
) -> tuple[Outcome, int | None]:
    """Hold an interval over so many episodes against a bar, and say what would decide."""
    outcome = outcome_of(estimate, bar, episodes, above=above, strict=strict)
    if outcome != "undecided" or not (isfinite(estimate.low) and isfinite(estimate.high)):
        return outcome, None
    needed = statistics.decide(estimate, bar, episodes, above=above).needed
    return outcome, needed if episodes >= ENOUGH_EPISODES else max(ENOUGH_EPISODES, needed or 0)


def outcome_of(
    estimate: Estimate, bar: float, episodes: int, *, above: bool = True, strict: bool = True
) -> Outcome:
    """Tell on which side of a bar an interval lies; ``strict`` asks for more than the bar."""
    _, low, high = estimate
    if not above:
        low, high, bar = -high, -low, -bar
    if not (isfinite(low) and isfinite(high)) or episodes < ENOUGH_EPISODES:
        return "undecided"
    if low > bar or (low == bar and not strict):
        return "pass"
    return "fail" if high < bar or (high == bar and strict) else "undecided"


def widened(estimate: Estimate, episodes: int, count: int) -> Estimate:
    """Widen a 95 % interval so that the best of so many keeps its error of 5 %."""
    value, low, high = estimate
    if count < 2 or episodes < 2:
        return estimate
    quantile = statistics.student
    factor = quantile(1 - 0.025 / count, episodes - 1) / quantile(0.975, episodes - 1)
    return Estimate(value, value - factor * (value - low), value + factor * (high - value))


def _both(first: Judged, second: Judged) -> Judged:
    """Ask for two things at once."""
    outcomes, parts = (first.outcome, second.outcome), (first, second)
    told = f"{first.told}; {second.told}"
    margin = min(first.margin, second.margin)
    for outcome in ("fail", "undecided"):
        if outcome in outcomes:
            open_ones = [part.needed for part in parts if part.outcome == "undecided"]
            known = [needed for needed in open_ones if needed is not None]
            decides = outcome == "undecided" and len(known) == len(open_ones)
            return Judged(outcome, max(known) if decides else None, told, margin)
    return Judged("pass", None, told, margin)


def _sizes(*rows: Row, count: int = 1) -> str:
    """Write what an interval stands on."""
    episodes = min(row["episodes"] for row in rows)
    seeds = min(len(row["seeds"]) for row in rows if row["kind"] == "method")
    of = f", interval for the best of {count}" if count > 1 else ""
    return f"({episodes} episodes, {seeds} seed{'s' if seeds > 1 else ''}{of})"


def _known(value: float | None) -> float:
    return nan if value is None else value


def _lead(board: Board, method: Row, other: Row, count: int = 1) -> Judged:
    """Judge whether a method is better than another, on the same episodes."""
    names = f"{method['representation']} and {other['representation']}"
    lead = board.lead(method, other)
    if lead is None:
        return Judged("undecided", None, f"{names} have no paired interval", -1.0)
    episodes = method["episodes"]
    estimate = widened(Estimate(*lead[:3]), episodes, count)
    outcome, needed = judge(estimate, 0.0, episodes)
    unit = f"{board.question.score}{' less error' if board.lower else ''}"
    told = (
        f"{board.scored(method)} against {board.scored(other)}: "
        f"{bounded(*estimate, signed=True)} {unit} {_sizes(method, other, count=count)}"
    )
    return Judged(outcome, needed, told, lead.value)


def _flow(evidence: Evidence) -> list[Judged] | str:
    board = evidence.board("flow")
    if board is None:
        return evidence.why_not("flow")
    known = [row for row in board.methods if _starts(row, REFERENCE)]
    others = [row for row in board.methods if not _starts(row, REFERENCE)]
    if not known:
        return "no DINOv2 with trained weights is among the encoders"
    if not others:
        return "no trained encoder besides DINOv2 was asked"
    return [_ratio(evidence, board, row, known[0], len(others)) for row in others]


def _ratio(evidence: Evidence, board: Board, method: Row, known: Row, count: int) -> Judged:
    """Judge the ratio of two errors on the same episodes; ``known`` is the best DINOv2."""
    ours, theirs = evidence.scored(board, method), evidence.scored(board, known)
    assert ours, "rows are written from these sums"
    assert theirs, "rows are written from these sums"
    config = evidence.config
    found = statistics.paired_ratio(
        ours.table, theirs.table, ours.answer.statistic, config.resamples, config.seed
    )
    estimate = widened(found, method["episodes"], count)
    outcome, needed = judge(estimate, FLOW_BAR, method["episodes"], above=False, strict=False)
    told = (
        f"{board.scored(method)} errs {bounded(*estimate)} times as much as "
        f"{board.scored(known)} {_sizes(method, known, count=count)}"
    )
    return Judged(outcome, needed, told, FLOW_BAR - found.value)


def _order(evidence: Evidence) -> list[Judged] | str:
    board = evidence.board("order")
    if board is None or board.question.target != "two orders":
        return evidence.why_not("order")
    count = len(board.methods)
    return [
        _both(_accuracy(evidence, board, row, count), _moving(evidence, board, row, count))
        for row in board.methods
    ]


def _accuracy(evidence: Evidence, board: Board, method: Row, count: int) -> Judged:
    scored, episodes = evidence.scored(board, method), method["episodes"]
    assert scored, "rows are written from these sums"
    estimate = widened(statistics.clustered_wilson(scored.table), episodes, count)
    estimate = estimate._replace(high=min(1.0, estimate.high))
    outcome, needed = judge(estimate, ORDER_BAR, episodes, strict=False)
    told = f"{method['representation']} {bounded(*estimate)} {_sizes(method, count=count)}"
    return Judged(outcome, needed, told, estimate.value - ORDER_BAR)


def _moving(evidence: Evidence, board: Board, method: Row, count: int) -> Judged:
    """Judge whether the pair tells the order better than its first frame alone."""
    read = read_linearly(evidence.rows, evidence.paired, board)  # as the control is
    both = evidence.scored(read, method) or evidence.scored(board, method)
    alone = evidence.scored(read, method, STATIC)
    if both is None or alone is None:
        return Judged("undecided", None, "the first frame alone was not asked", -1.0)
    config, episodes = evidence.config, method["episodes"]
    found = statistics.paired_difference(
        both.table, alone.table, both.answer.statistic, config.resamples, config.seed
    )
    estimate = widened(Estimate(*found[:3]), episodes, count)
    outcome, needed = judge(estimate, 0.0, episodes)
    told = f"{bounded(*estimate, signed=True)} over the first frame alone"
    return Judged(outcome, needed, told, found.value)


def _untrained(evidence: Evidence, probe: str = "action") -> list[Judged] | str:
    board = evidence.board(probe)
    if board is None:
        return evidence.why_not(probe)
    pairs = [(row, own) for row in board.methods if (own := board.random_init(row))]
    if not pairs:
        return "no method has its own untrained network beside it"
    return [_lead(board, row, own, len(pairs)) for row, own in pairs]


def _clusters(evidence: Evidence) -> list[Judged] | str:
    board = evidence.board("clusters")
    if board is not None and board.question.target != "task":
        return "episodes name no tasks to tell apart"
    return _untrained(evidence, "clusters")


def _over(evidence: Evidence, name: str) -> list[Judged] | str:
    board = evidence.board("action")
    if board is None:
        return evidence.why_not("action")
    floor = board.floor(name)
    if floor is None:
        return f"{name} was not among the floors"
    return [_lead(board, row, floor, len(board.methods)) for row in board.methods]


def _over_single(evidence: Evidence) -> list[Judged] | str:
    return _rivals(evidence, "single-stream")


def _over_video_mae(evidence: Evidence) -> list[Judged] | str:
    return _rivals(evidence, "video-mae")


def _rivals(evidence: Evidence, other: str) -> list[Judged] | str:
    """Judge the two-stream networks against the best of another family, across seeds."""
    board = evidence.board("action")
    if board is None:
        return evidence.why_not("action")
    ours = [row for row in board.methods if "two-stream" in _plain(row)]
    theirs = [row for row in board.methods if other in _plain(row)]
    for name, found in (("two-stream", ours), (other, theirs)):
        if not found:
            return f"no trained {name} is among the encoders"
    judged = []
    for row in ours:
        each = _lead(board, row, theirs[0], len(ours))
        fewest = min(len(row["seeds"]), len(theirs[0]["seeds"]))
        if fewest < ENOUGH_SEEDS:
            told = f"{each.told}; undecided by seeds: {ENOUGH_SEEDS} of each are the least"
            each = Judged("undecided", None, told, each.margin)
        judged.append(each)
    return judged


def _unseen(evidence: Evidence) -> list[Judged] | str:
    """Judge whether the best on seen tasks keeps half of it, by the margins of both intervals.

    The two splits hold different episodes, so squared distances to the bounds add up (Zou &
    Donner, Statist. Med. 27, 2008). Half of nothing is nothing: seen tasks must be above 0.
    """
    seen, there = evidence.board("action"), evidence.board("action", "unseen")
    if seen is None:
        return evidence.why_not("action")
    best = seen.methods[0]
    name = best["representation"]
    found = [row for row in there.methods if row["representation"] == name] if there else []
    if not found:
        return "no unseen task was probed"
    a, b = (
        Estimate(*(_known(row[n]) for n in ("value", "low", "high"))) for row in (found[0], best)
    )
    value = a.value - KEPT_BAR * b.value
    low = value - hypot(a.value - a.low, KEPT_BAR * (b.high - b.value))
    high = value + hypot(a.high - a.value, KEPT_BAR * (b.value - b.low))
    episodes = min(found[0]["episodes"], best["episodes"])
    kept = judge(Estimate(value, low, high), 0.0, episodes, strict=False)
    told = (
        f"{name} R2 {bounded(*a)} on unseen against {bounded(*b)} on seen tasks: "
        f"{bounded(value, low, high, signed=True)} beside half of it {_sizes(best, found[0])}"
    )
    some = judge(b, 0.0, best["episodes"])
    shown = "seen tasks above 0" if some[0] == "pass" else "seen tasks not surely above 0"
    return [_both(Judged(*kept, told, value), Judged(*some, shown, b.value))]


def _original(evidence: Evidence) -> list[Judged] | str:
    board = evidence.board("action")
    if board is None:
        return evidence.why_not("action")
    judged, count = [], len(board.methods)
    for row in board.methods:
        found = Estimate(*(_known(row[name]) for name in ("value", "low", "high")))
        estimate = widened(found, row["episodes"], count)
        outcome, needed = judge(estimate, GO_BAR, row["episodes"])
        told = (
            f"{row['representation']} R2 {bounded(*estimate)} of {board.question.subject}, "
            f"{board.question.gap} steps ahead {_sizes(row, count=count)}"
        )
        judged.append(Judged(outcome, needed, told, found.value - GO_BAR))
    return judged


def _plain(row: Row) -> str:
    return row["representation"].lower().replace("_", "-").replace(" ", "-")


def _starts(row: Row, name: str) -> bool:
    return row["representation"].lower().startswith(name)
