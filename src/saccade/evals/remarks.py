"""One sentence for each further probe that was asked, and for whatever looks suspicious.

Controls, learning curves and perturbations are told of the headline's leader; flow, order and
clusters of whichever method is best there, with the floors that it must beat.
"""

from collections.abc import Callable, Sequence

from saccade.evals.board import (
    CHANGE,
    METRICS,
    POSITION,
    Board,
    Row,
    apart,
    is_plain,
    names_of,
    place_of,
    question_of,
    read_linearly,
    shown,
)
from saccade.evals.probes.action import FACTORS
from saccade.evals.probes.base import ProbeConfig
from saccade.evals.probes.order import STATIC

TOO_GOOD = 0.99  # an R2 that no camera's noise leaves
NO_MOTION, NO_POSITION, NO_APPEARANCE = FACTORS


def remarks(
    rows: Sequence[Row], paired: Sequence[Row], board: Board, config: ProbeConfig
) -> list[str]:
    """Tell what every probe besides the headline's found."""
    tellers: dict[str, Callable[[Board, Sequence[Row]], str]] = {
        "flow": _flow,
        "order": _order,
        "clusters": _clusters,
    }
    told = []
    for name, tell in tellers.items():
        if name not in config.probes or name == board.question.probe:
            continue
        question = question_of(rows, config, name)
        there = Board(rows, paired, question, "test") if question else None
        told.append(tell(there, rows) if there and there.methods else _silent(name))
    leader = board.methods[0]["representation"]
    linear = read_linearly(rows, paired, board)
    variants: dict[str, Callable[[Board, str], str]] = {"factors": _factors, "curves": _curves}
    told += [tell(linear, leader) for name, tell in variants.items() if name in config.probes]
    return [*told, _robustness(board, leader)] if "robustness" in config.probes else told


def _silent(name: str) -> str:
    return f"The probe {name} was asked, but no method has a score there."


def _flow(board: Board, rows: Sequence[Row]) -> str:
    leader = board.methods[0]
    moving = _same(rows, leader, group="moving cells")
    told = f"; of moving cells alone its EPE is {shown(moving)}" if moving else ""
    return f"Of {board.question.subject} {_best(board)}{told}."


def _order(board: Board, rows: Sequence[Row]) -> str:
    leader = board.methods[0]
    static = read_linearly(rows, (), board).under(leader["representation"], STATIC)
    six = _same(rows, leader, target="six orders")
    told = f"; from the first frame alone {shown(static)}" if static else ""
    if six:
        told += f"; of six orders {shown(six)} (chance {six['chance']:.2f})"
    return f"Of two orders (chance {leader['chance']:.2f}) {_best(board)}{told}."


def _clusters(board: Board, rows: Sequence[Row]) -> str:
    leader = board.methods[0]
    static = board.under(leader["representation"], STATIC)
    behaviour = _same(rows, leader, target="behaviour")
    told = f"; from the first frame alone {shown(static)}" if static else ""
    if behaviour and board.question.target != "behaviour":
        told += f"; purity of behaviours {shown(behaviour)} (chance {behaviour['chance']:.2f})"
    chance = f"chance {leader['chance']:.2f}"
    return f"Of clusters by {board.question.target} ({chance}) {_best(board)}{told}."


def _best(board: Board) -> str:
    """Name the best, and compare it with its untrained self and with the best other floor."""
    leader, own = board.methods[0], board.random_init(board.methods[0])
    others = [row for row in board.floors if row is not own][:1]
    floors = [board.briefly(leader, row) for row in (own, *others) if row is not None]
    parts = [f"the best is {board.scored(leader)}, against {'; '.join(floors) or 'no floor'}"]
    level = [row for row in board.methods[1:] if not board.separated(leader, row)]
    if level:
        parts.append(
            f"{names_of(level)} {'is' if len(level) == 1 else 'are'} not separated from it"
        )
    return "; ".join(parts)


def _same(rows: Sequence[Row], row: Row, **instead: str) -> Row | None:
    """Return what the same representation answers to a neighbouring question."""
    names = ("representation", "probe", "target", "group", "frame", "readout", "gap", "split")
    wanted = {name: row[name] for name in (*names, "metric", "condition", "labels")} | instead
    found = (r for r in rows if all(r[name] == value for name, value in wanted.items()))
    return next((r for r in found if r["value"] is not None), None)


def _factors(board: Board, name: str) -> str:
    """Say what is left under each control; the rest that is read differs, so none is a share."""
    parts, whole = [], board.under(name, "")
    position = board.under(name, NO_POSITION)
    if position:
        change = board.under(CHANGE, NO_POSITION)
        beside = f" ({CHANGE}: {shown(change)})" if change else ""
        parts.append(f"{shown(position)} of what position does not tell{beside}")
    appearance = board.under(name, NO_APPEARANCE)
    if appearance:
        parts.append(f"{shown(appearance)} of what the first frame does not tell")
    still = board.under(name, NO_MOTION)
    if still:
        parts.append(f"{shown(still)} without any motion shown")
    if not parts or whole is None:
        return _silent("factors")
    return (
        f"{name} reads {board.question.score} {whole['value']:.2f} of the motion, "
        f"{', '.join(parts)}."
    )


def _curves(board: Board, name: str) -> str:
    whole = board.under(name, "")
    shares = sorted(
        {r["labels"] for r in board.rows if r["representation"] == name and not is_whole(r)}
    )
    found = [(share, board.under(name, "", share)) for share in shares]
    parts = [f"with {100 * share:.3g} % of the labels {shown(row)}" for share, row in found if row]
    if not parts or whole is None:
        return _silent("curves")
    return (
        f"{name} reads {board.question.score} {', '.join(parts)}, against {whole['value']:.2f} "
        "with all."
    )


def is_whole(row: Row) -> bool:
    """Tell whether the readout was fitted on all labelled episodes."""
    return row["labels"] in (None, 1.0)


def _robustness(board: Board, name: str) -> str:
    whole = board.under(name, "")
    conditions = dict.fromkeys(
        row["condition"]
        for row in board.rows
        if row["representation"] == name and row["condition"] not in ("", STATIC, *FACTORS)
    )
    worse = [row for condition in conditions if (row := board.under(name, condition))]
    if not worse or whole is None:
        return _silent("robustness")
    worst = min(worse, key=board.oriented)
    names = [row["representation"] for row in board.floors]
    floors = [row for floor in names if (row := board.under(floor, worst["condition"]))]
    top = max(floors, key=board.oriented, default=None)
    beside = f"; the best floor there is {board.scored(top)}" if top else ""
    return (
        f"Of {len(worse)} perturbations at test time {worst['condition']} hurts {name} most: "
        f"{board.question.score} {shown(worst)} is left of {whole['value']:.2f}{beside}."
    )


def suspicions(
    rows: Sequence[Row], paired: Sequence[Row], board: Board, config: ProbeConfig
) -> list[str]:
    """Tell what makes good numbers worth less than they look."""
    return [
        *_labels(board),
        *_unfloored(board),
        *_floors_that_win(rows, paired, board),
        *_static(rows, paired, config),
        *_motionless(read_linearly(rows, paired, board)),
        *_too_good(rows),
    ]


def _labels(board: Board) -> list[str]:
    if board.question.probe != "action" or board.question.frame != "world":
        return []
    return [
        "Suspicious: labels are known in the world frame only, whose directions no picture tells "
        "unless the camera stands still."
    ]


def _unfloored(board: Board) -> list[str]:
    if not board.methods or any(row["floor_of"] is None for row in board.floors):
        return []
    return ["Suspicious: no floor without a network was scored on the headline question."]


def _floors_that_win(rows: Sequence[Row], paired: Sequence[Row], board: Board) -> list[str]:
    """Name, for each split, methods that know no more than position, or than some floor."""
    told = []
    for split in dict.fromkeys(row["split"] for row in rows):
        there = Board(rows, paired, board.question, split)
        where = place_of(split)
        position = there.floor(POSITION)
        under = [row for row in there.methods if position and position in there.winners(row)]
        if position and under:
            told.append(
                f"Suspicious: on {where} {there.scored(position)} sees no picture and scores at "
                f"least as well as {names_of(under)}."
            )
        winners = there.winners(there.methods[0]) if there.methods else []
        others = [row for row in winners if row is not position]
        if others:
            told.append(
                f"Suspicious: on {where} {names_of(others)} scored at least as well as the best "
                f"method, {there.scored(there.methods[0])}."
            )
    return told


def _static(rows: Sequence[Row], paired: Sequence[Row], config: ProbeConfig) -> list[str]:
    """Name methods that need no second frame to tell the order."""
    question = question_of(rows, config, "order")
    if question is None:
        return []
    board = Board(rows, paired, question, "test")
    linear = read_linearly(rows, paired, board)
    names = [row["representation"] for row in board.methods]
    found = [
        (linear.under(name, "") or row, linear.under(name, STATIC))
        for name, row in zip(names, board.methods, strict=True)
    ]
    same = [
        f"{row['representation']} ({shown(static)} against {shown(row)})"
        for row, static in found
        if static and above_chance(row) and not (board.beats(row, static) and apart(row, static))
    ]
    if not same:
        return []
    return [
        f"Suspicious: the first frame alone tells the order as well as the pair: {', '.join(same)}."
    ]


def _motionless(board: Board) -> list[str]:
    found = [(row, board.under(row["representation"], NO_MOTION)) for row in board.methods]
    same = [
        row for row, still in found if still and not (board.beats(row, still) and apart(row, still))
    ]
    if not same:
        return []
    verb = "is" if len(same) == 1 else "are"
    return [f"Suspicious: {names_of(same)} {verb} not clearly worse where no motion is shown."]


def above_chance(row: Row) -> bool:
    """Tell whether an interval lies above what knowing nothing scores."""
    return row["low"] is not None and row["low"] > (row["chance"] or 0)


def _too_good(rows: Sequence[Row]) -> list[str]:
    found: dict[str, None] = {}
    for row in rows:
        limit = {"accuracy": 1.0, "purity": 1.0, "r2": TOO_GOOD}.get(row["metric"])
        if row["kind"] == "method" and is_plain(row) and limit and (row["value"] or 0) >= limit:
            metric = METRICS.get(row["metric"], row["metric"])
            found[f"{row['representation']} in {row['probe']} ({metric} {row['value']:.3g})"] = None
    if not found:
        return []
    return [f"Suspicious: too good not to look for a leak: {', '.join(found)}."]
