"""Are roll, pitch and yaw extrinsic xyz angles? What recorded turns say about it.

Three numbers do not say how they make a rotation. Two things in the data do:

*Range.* The middle one of three Euler angles stays within a right angle; the others do not.

*Recorded turns.* Where actions are turns of the hand, the states' own turns must agree with them.
So the states are read in every way: three columns for three axes, each with either sign, applied in
any order, and the turn seen from the base or from the hand; or as a rotation vector. That way is
right whose turns are the recorded ones, up to one scale. If two ways explain them about as well,
nothing is decided.
"""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from saccade.data.passes.contract.findings import EULER, VECTOR, Finding, Sample
from saccade.geometry import Matrices, rotation_vector_to_matrix

AXES, FRAMES = "xyz", ("base", "hand")
RIGHT_ANGLE = math.pi / 2 + 0.01
MOST_STEPS = 3000  # of recorded turns that are explained
FEWEST = 50
LAGS = 5  # frames by which a motion may follow its command
TURNING = 1e-3  # radians; smaller measured turns say nothing
EXPLAINED = 0.5  # cosine of recorded and measured turns, over all steps
BETTER, WORSE = 0.002, 0.02  # differences of cosines that decide for and against
SURE, DRAWS, BLOCK = 0.95, 200, 16  # bootstrap over blocks of so many steps
DIFFERENCE = "differences of the angles"
EXPECTED = "extrinsic xyz: pitch within a right angle, turns as recorded"


class Way(NamedTuple):
    """A way to read three numbers as a rotation, and a turn of it."""

    columns: tuple[int, ...]  # which column turns about x, y and z
    signs: tuple[int, ...]
    order: tuple[int, ...]  # axes in the order in which they turn, about fixed axes
    frame: str  # in which turns are seen: base or hand

    def __str__(self) -> str:
        extrinsic = "".join(AXES[i] for i in self.order)
        text = f"extrinsic {extrinsic} (intrinsic {extrinsic[::-1].upper()})"
        if self.columns != (0, 1, 2):
            text += f" of the columns {', '.join(EULER[i] for i in self.columns)}"
        if min(self.signs) < 0:
            flipped = (EULER[self.columns[i]] for i in range(3) if self.signs[i] < 0)
            text += f" with {', '.join(flipped)} negated"
        return f"{text}, turns seen from the {self.frame}"


OURS = tuple(Way((0, 1, 2), (1, 1, 1), (0, 1, 2), frame) for frame in FRAMES)


def euler_order(sample: Sample, derived: bool = False) -> Finding:
    """Decide between all ways; ``derived`` says that the reader makes turns out of the states."""
    check = "Euler order"
    angles = sample.states(EULER)
    if angles is None:
        what = "a rotation vector" if sample.states(VECTOR) else "no roll, pitch, yaw"
        return sample.undecided(check, EXPECTED, f"the state has {what}")
    top = np.abs(np.concatenate(angles)).max(0)
    ranges = {"largest": dict(zip(EULER, top.tolist(), strict=True))}
    if RIGHT_ANGLE < top[1] <= 2 * math.pi + 0.1:
        over = np.concatenate(angles)[:, 1]
        other = "" if derived else _best(sample)
        return Finding(
            check=check,
            verdict="fails",
            found=f"pitch beyond a right angle in {(np.abs(over) > RIGHT_ANGLE).mean():.1%} of "
            f"frames, up to {top[1]:.3g}: not the middle angle of three{other}",
            expected=EXPECTED,
            mend="find the order, then matrix_to_euler_xyz of saccade.geometry",
            numbers=ranges,
            **sample.size,
        )
    bounded = f"pitch up to {top[1]:.2f} rad; "
    if top.max() > 2 * math.pi + 0.1:
        return sample.undecided(check, EXPECTED, "the angles are not radians", "mend the unit")
    steps = recorded_turns(sample)
    if steps is None or derived:
        why = "turns are made from the states" if derived else "no recorded turns to compare with"
        mend = "choose actions that are commanded turns (DROID: action=cartesian_velocity)"
        return sample.undecided(check, EXPECTED, bounded + why, mend)
    return _judge(sample, bounded, steps)


class Turns(NamedTuple):
    """Recorded turns, and the angles before and after the motion that they led to."""

    recorded: Float64[np.ndarray, "n 3"]
    before: Float64[np.ndarray, "n 3"]
    after: Float64[np.ndarray, "n 3"]
    block: Int64[np.ndarray, " n"]  # number of the block that a step is resampled with


def recorded_turns(sample: Sample) -> Turns | None:
    """Pair recorded turns with the steps in which the hand turned; None where there are few.

    A motion may follow its command by some frames: by those with which fast commands and fast
    motions coincide best.
    """
    angles, actions = sample.states(EULER), sample.actions(EULER) or sample.actions(VECTOR)
    if angles is None or actions is None:
        return None
    best, most = None, -math.inf
    for lag in range(LAGS):
        turns = _pair(angles, actions, lag)
        if len(turns.recorded) < FEWEST:
            continue
        asked, done = np.linalg.norm(turns.recorded, axis=1), np.linalg.norm(_change(turns), axis=1)
        together = float(np.corrcoef(asked, done)[0, 1]) if asked.std() > 0 < done.std() else 0.0
        if together > most + 1e-6:
            best, most = turns, together
    return best


def cosines(turns: Turns) -> dict[Way | str, Float64[np.ndarray, " d"]]:
    """Return how well each way explains the recorded turns, in each draw of the bootstrap.

    The first draw is the data themselves. 1 is exact up to a scale; opposite turns count as 0.
    """
    used, block = np.unique(turns.block, return_inverse=True)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(used), np.full(len(used), 1 / len(used)), DRAWS)
    weights = np.concatenate([np.ones((1, len(used))), drawn])
    steps = np.eye(len(used))[block] @ weights.T  # how often each step is in each draw
    names, together, squares = [], [], []
    for way, turned in _measured(turns):
        names.append(way)
        together.append((turns.recorded * turned).sum(1))
        squares.append((turned**2).sum(1))
    scale = np.sqrt(np.stack(squares) @ steps * ((turns.recorded**2).sum(1) @ steps))
    found = (np.stack(together) @ steps).clip(0) / np.maximum(scale, 1e-12)
    return dict(zip(names, found, strict=True))


def ways() -> list[Way]:
    """List all ways to read three columns, ours included."""
    orders = list(itertools.permutations(range(3)))
    signs = list(itertools.product((1, -1), repeat=3))
    return [Way(*each) for each in itertools.product(orders, signs, orders, FRAMES)]


def _judge(sample: Sample, bounded: str, turns: Turns) -> Finding:
    targets = np.abs(_wrapped(turns.recorded - turns.after)).mean()
    if targets < 0.3 * np.abs(turns.recorded - turns.recorded.mean(0)).mean():
        why = "recorded rotations are angles to reach, in whatever order the states are"
        mend = "choose actions that are commanded turns (DROID: action=cartesian_velocity)"
        return sample.undecided("Euler order", EXPECTED, bounded + why, mend)
    found = cosines(turns)
    ours = np.max([found[way] for way in OURS], 0)
    others = {way: cosine for way, cosine in found.items() if way not in OURS}
    best = max(others, key=lambda way: float(others[way][0]))
    rival = np.max(list(others.values()), 0)
    sure_for = float((ours > rival + BETTER).mean())
    sure_against = float((ours < rival - WORSE).mean())
    told = f"of {len(turns.recorded):,} recorded turns, ours explains {ours[0]:.3f}, best other "
    told += f"{others[best][0]:.3f}"
    verdict, mend = "not decidable", ""
    told += "" if max(ours[0], rival[0]) < EXPLAINED else f": {best}"
    if max(ours[0], rival[0]) < EXPLAINED:
        told += ": nothing explains them"
    elif sure_for >= SURE:
        verdict = "ok"
    elif best != DIFFERENCE and sure_against >= SURE:
        verdict, mend = "fails", "convert the angles: matrix_to_euler_xyz of saccade.geometry"
    elif best == DIFFERENCE:
        told += "; such say nothing"
    else:
        told += f"; too close (ours wins {sure_for:.0%} of resamples)"
    numbers = {"ours": float(ours[0]), "rival": float(rival[0]), "best_other": str(best)}
    return Finding(
        check="Euler order",
        verdict=verdict,
        found=bounded + told,
        expected=EXPECTED,
        mend=mend,
        numbers={**numbers, "resamples_for": sure_for, "resamples_against": sure_against},
        episodes=len(sample.recordings),
        frames=len(turns.recorded),
    )


def _best(sample: Sample) -> str:
    """Say which way explains the recorded turns best, where there are some that any explains."""
    turns = recorded_turns(sample)
    if turns is None:
        return ""
    found = {way: float(cosine[0]) for way, cosine in cosines(turns).items()}
    best = max(found, key=lambda way: found[way])
    known = best != DIFFERENCE and found[best] > EXPLAINED
    return f"; recorded turns fit {best} best ({found[best]:.3f})" if known else ""


def _pair(
    angles: list[Float64[np.ndarray, "_ 3"]], actions: list[Float64[np.ndarray, "_ 3"]], lag: int
) -> Turns:
    rows: list[tuple[np.ndarray, ...]] = []
    blocks = 0
    for state, action in zip(angles, actions, strict=True):
        before, after = state[lag:-1], state[lag + 1 :]
        count = len(after)
        block = blocks + np.arange(count) // BLOCK
        blocks = int(block[-1]) + 1 if count else blocks
        rows.append((action[:count], before[:count], after, block))
    turns = Turns(*(np.concatenate(part) for part in zip(*rows, strict=True)))
    moving = np.flatnonzero(np.abs(_change(turns)).max(1) > TURNING)
    if len(moving) > MOST_STEPS:
        moving = moving[np.linspace(0, len(moving) - 1, MOST_STEPS).astype(int)]
    return Turns(*(part[moving] for part in turns))


def _measured(turns: Turns) -> Iterator[tuple[Way | str, Float64[np.ndarray, "n 3"]]]:
    """Yield the turns of the states under each way."""
    yield DIFFERENCE, _change(turns)
    yield "rotation vectors", _turn(*map(rotation_vector_to_matrix, turns[1:3]))["base"]
    about = {  # one of the three rotations, before and after
        (axis, column, sign): tuple(_about(axis, sign * angles[:, column]) for angles in turns[1:3])
        for axis, column, sign in itertools.product(range(3), range(3), (1, -1))
    }
    for way in ways()[::2]:  # the turns of the hand follow those seen from the base
        parts = [about[axis, way.columns[axis], way.signs[axis]] for axis in way.order]
        turned = _turn(*(c @ b @ a for a, b, c in zip(*parts, strict=True)))
        for frame in FRAMES:
            yield way._replace(frame=frame), turned[frame]


def _turn(first: Matrices, second: Matrices) -> dict[str, Float64[np.ndarray, "n 3"]]:
    """Return sin(angle) times the axis of each turn: its rotation vector, where it is small."""
    found = {}
    for frame in FRAMES:
        back = first.swapaxes(1, 2)
        turn = second @ back if frame == "base" else back @ second
        odd = (turn - turn.swapaxes(1, 2)) / 2
        found[frame] = np.stack([odd[:, 2, 1], odd[:, 0, 2], odd[:, 1, 0]], 1)
    return found


def _about(axis: int, angle: Float64[np.ndarray, " n"]) -> Matrices:
    return rotation_vector_to_matrix(angle[:, None] * np.eye(3)[axis])


def _change(turns: Turns) -> Float64[np.ndarray, "n 3"]:
    return _wrapped(turns.after - turns.before)


def _wrapped(angles: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
    return (angles + math.pi) % (2 * math.pi) - math.pi
