"""The verdict: what the probes' rows allow one to say, and nothing more.

The headline is one number: R2 of the end effector's position (or a hand's displacement) at one
gap, by the first readout, on held-out episodes of seen tasks; where motion was not asked about,
the score of the first probe. A method *beats its random-init floor* when the two 95 % intervals
share no point. A floor *wins* when it scores at least as high as the method. The whole is a
success only if some method beats its random init and no floor of any kind wins over that method.

Methods are ranked only where the paired difference excludes 0 and survives correction; what
overlaps is named with the number of episodes that would tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from saccade.errors import ConfigError
from saccade.evals.board import (
    CHANGE,
    POSITION,
    READ,
    Board,
    Question,
    Row,
    listed,
    names_of,
    place_of,
    question_of,
)
from saccade.evals.probes.base import ProbeConfig
from saccade.evals.remarks import remarks, suspicions

FEW_SEEDS = 3  # below this, nothing is claimed about other seeds
VARIANTS = {"factors": "action", "curves": "action", "robustness": "action"}
LIMITS = (
    "Intervals are of one comparison each; Holm p are corrected for all differences of one "
    "question and split. A probe says nothing about success in control."
)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """``beats_random`` and ``order`` (best first) name methods; ``details`` are full sentences."""

    sentence: str
    success: bool
    beats_random: list[str]
    order: list[str]
    details: list[str]


def verdict(rows: Sequence[Row], paired: Sequence[Row], config: ProbeConfig) -> Verdict:
    """State what the headline number shows, with its uncertainty, and what the others add.

    Raises:
        ConfigError: no probe has a headline score.
    """
    question = headline(rows, config)
    board = Board(rows, paired, question, "test")
    if not board.methods:
        return _without_methods(rows, board, config)
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
            _size(board),
            *(_against_floors(board, row) for row in board.methods),
            *_elsewhere(rows, paired, question),
            *remarks(rows, paired, board, config),
            *suspicions(rows, paired, board, config),
            LIMITS,
        ],
    )


def headline(rows: Sequence[Row], config: ProbeConfig) -> Question:
    """Choose the question of the headline: motion, or the first probe that was asked.

    Raises:
        ConfigError: no probe has a headline score.
    """
    asked = [VARIANTS.get(name, name) for name in config.probes]
    for name in ("action", *asked) if "action" in asked else asked:
        question = question_of(rows, config, name)
        if question is not None:
            return question
    raise ConfigError(
        f"none of the probes {list(config.probes)} has a score among {len(rows)} rows; ask about "
        "action, flow, order or clusters"
    )


def _without_methods(rows: Sequence[Row], board: Board, config: ProbeConfig) -> Verdict:
    """Claim nothing: no encoder is trained, or none has the number."""
    question = board.question
    if any(row["kind"] == "method" for row in rows):
        why = (
            f"No method has a defined {question.score} of {question.subject} at gap "
            f"{question.gap} on the test split, so nothing is claimed"
        )
    else:
        why = "No encoder here has trained weights, so nothing is claimed about training"
    best = f"; the best of the floors is {board.scored(board.floors[0])}" if board.floors else ""
    return Verdict(
        sentence=f"{why}{best}.",
        success=False,
        beats_random=[],
        order=[],
        details=[
            *([_size(board)] if board.floors else []),
            *suspicions(rows, [], board, config),
            LIMITS,
        ],
    )


def _headline(board: Board, beating: Sequence[Row], clear: Sequence[Row]) -> str:
    leader = (clear or beating or board.methods)[0]
    own, winners = board.random_init(leader), board.winners(leader)
    score = f"{board.scored(leader)} against {board.scored(own) if own else 'no random-init floor'}"
    good = "well" if board.lower else "high"
    if not beating:
        floors = [row for row in winners if row is not own]
        return (
            "No success: no pretrained encoder beats its own random-init floor with disjoint 95 % "
            f"intervals; the best is {score}"
            + (f"; {names_of(floors)} scored at least as {good}." if floors else ".")
        )
    if not clear:
        return (
            f"No success: {_beat(beating)}, but without pretraining "
            f"{listed([board.scored(row) for row in winners])} scored at least as {good} as "
            f"{score}."
        )
    level = board.level(leader)
    return (
        f"Pretraining helped here: {_beat(clear)}, and no floor scored as {good}; the best is "
        f"{score}"
        + (f", not separated from {names_of(level)}." if level else ".")
        + _rest(board, beating, clear)
    )


def _rest(board: Board, beating: Sequence[Row], clear: Sequence[Row]) -> str:
    """Name the methods that a success does not cover."""
    overtaken = [row for row in beating if row not in clear]
    failing = [row for row in board.methods if row not in beating]
    told = ""
    if overtaken:
        floors = names_of(board.winners(overtaken[0]))
        good = "well" if board.lower else "high"
        told += f" {_beat(overtaken)} too, but {floors} scored at least as {good}."
    if failing:
        told += f" {names_of(failing)} {_do(failing, 'does', 'do')} not beat random init."
    return told


def _beat(rows: Sequence[Row]) -> str:
    return f"{names_of(rows)} {_do(rows, 'beats its', 'beat their')} own random-init floor"


def _do(rows: Sequence[Row], one: str, many: str) -> str:
    return one if len(rows) == 1 else many


def _order(board: Board) -> list[str]:
    """Compare neighbours, and say who else may be the best."""
    if len(board.methods) < 2:
        return []
    told = f"Order of the methods on {place_of(board.split)}: {_steps(board)}."
    leader, *others = board.methods
    level = [row for row in others if not board.separated(leader, row)]
    if level and len(others) > 1:
        told += f" Not separated from the first, {leader['representation']}: {names_of(level)}."
    return [told]


def _steps(board: Board) -> str:
    return "; ".join(board.compared(a, b) for a, b in pairwise(board.methods))


def _seeds(board: Board) -> list[str]:
    fewest = min(len(row["seeds"]) for row in board.methods)
    if fewest >= FEW_SEEDS:
        return []
    trained = "1 training seed" if fewest == 1 else f"{fewest} training seeds"
    return [f"With {trained} per method, no claim across seeds is made."]


def _size(board: Board) -> str:
    question, rows = board.question, board.methods or board.floors
    score = question.score[0].upper() + question.score[1:]
    seeds = f"training seeds: {min(len(row['seeds']) for row in rows)}; " if board.methods else ""
    return (
        f"{score} of {question.subject} {question.gap} steps ahead, {READ[question.readout]}, on "
        f"{rows[0]['episodes']} held-out episodes ({rows[0]['samples']} samples) of seen tasks; "
        f"{seeds}95 % intervals over episodes."
    )


def _against_floors(board: Board, method: Row) -> str:
    """Compare with its own untrained network, with what the documents lacked, then with others."""
    own = board.random_init(method)
    first = [own, board.floor(CHANGE), board.floor(POSITION)]
    others = [row for row in board.floors if row["floor_of"] is None and row not in first]
    strange = [row for row in board.floors if row["floor_of"] is not None and row is not own][:1]
    ranks = [board.briefly(method, row) for row in (*first, *others, *strange) if row is not None]
    return f"{board.scored(method)} against the floors: {'; '.join(ranks) or 'none was probed'}."


def _elsewhere(rows: Sequence[Row], paired: Sequence[Row], question: Question) -> list[str]:
    """Say what holds on unseen tasks, then in unseen scenes and on other data sets."""
    there = dict.fromkeys(row["split"] for row in rows if row["split"] != "test")
    told = []
    for split in ("unseen", *(name for name in there if name != "unseen")):
        board = Board(rows, paired, question, split)
        if board.methods:
            told.append(_away(board))
        elif split == "unseen":
            told.append("No held-out task was probed, so nothing is said about new tasks.")
    return told


def _away(board: Board) -> str:
    scores = ", ".join(map(board.scored, board.methods))
    parts = [f"On {place_of(board.split)}: {scores}"]
    if len(board.methods) > 1:
        parts.append(_steps(board))
    change, best = board.floor(CHANGE), board.floors[:1]
    if change is not None:
        parts.append(_over(board, change))
    if best and best[0] is not change:
        parts.append(f"the best floor there is {board.scored(best[0])}")
    return "; ".join(parts) + f" ({board.methods[0]['episodes']} episodes)."


def _over(board: Board, floor: Row) -> str:
    """Say which methods are above a floor."""
    above = [row for row in board.methods if board.separated(row, floor)]
    name, count = board.scored(floor), len(board.methods)
    if above:
        left = [row for row in board.methods if row not in above]
        told = f"{names_of(above)} {_do(above, 'exceeds', 'exceed')} {name}"
        return told + (f", {names_of(left)} {_do(left, 'does', 'do')} not" if left else "")
    if count == 1:
        return f"{names_of(board.methods)} does not exceed {name}"
    return f"{'neither' if count == 2 else 'none'} exceeds {name}"
