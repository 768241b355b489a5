"""Are the states ``[x, y, z, roll, pitch, yaw, gripper]`` in metres, radians and 0 to 1?"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from saccade.data.passes.contract.findings import (
    AXES,
    EULER,
    OVERSHOOT,
    POSITION,
    VECTOR,
    Finding,
    Sample,
    columns_of,
    listed,
    named,
)
from saccade.data.passes.words import counted
from saccade.geometry import rotation_between

WORKSPACE = (0.1, 3.0)  # metres: what an arm's end effector moves through
LIKELY = 2.0  # metres; wide for an arm, when a unit is to be guessed
FAR, TURNED = 0.3, 1.0  # metres and radians that no arm covers in a quarter of a second
RARE, COMMON = 0.005, 0.05  # shares of steps: more of them warn, and fail
STILL = 0.001  # metres; half of the steps shorter than this: nothing to learn
BOX = 0.075  # metres of each axis that the official planner searches
SLACK = 0.01  # rounding of a gripper, or of pi
DEAD = 1e-6


def check_states(sample: Sample) -> list[Finding]:
    """Run every check of the states."""
    checks = (readable, axes, position, rotation, steps, dead, gripper)
    return [check(sample) for check in checks]


def readable(sample: Sample) -> Finding:
    """Whether numbers can be read, are finite, and have times that rise."""
    faults = {
        "cannot be read": sample.unreadable,
        "hold values that are not finite": sample.invalid,
        "have times that do not rise": sample.backwards,
    }
    told = [f"{counted(len(e), 'episode')} {what} ({named(e)})" for what, e in faults.items() if e]
    return Finding(
        check="readable",
        verdict="fails" if told else "ok",
        found="; ".join([*told, *list(sample.unreadable.values())[:1]]) or "all numbers are finite",
        expected="finite numbers at rising times",
        mend="saccade data verify lists what is broken" if told else "",
        numbers={what: sorted(e) for what, e in faults.items()},
        **sample.size,
    )


def axes(sample: Sample) -> Finding:
    """Whether the seven axes are there, each once, in order."""
    names = sample.source.state_names
    last = [name.lower().rsplit(".", 1)[-1] for name in names]
    told = listed(names)
    lacking = [axis for axis in AXES if not last.count(axis)]
    double = [axis for axis, count in Counter(last).items() if axis in AXES and count > 1]
    verdict, found, mend = "ok", told, ""
    if columns_of(names, (*POSITION, *VECTOR, "gripper")):
        verdict, found = "fails", f"{told}: the rotation is a rotation vector, not angles"
        mend = "convert it: matrix_to_euler_xyz(rotation_vector_to_matrix(v)) of saccade.geometry"
    elif lacking or double:
        what = [f"no {', '.join(lacking)}"] * bool(lacking)
        what += [f"several {', '.join(double)}"] * bool(double)
        verdict, found = "fails", f"{told}: {' and '.join(what)}"
        mend = "ask the reader for poses of one end effector (saccade data formats), or name axes"
    elif tuple(last) != AXES:
        verdict, found = "warning", f"{told}: all seven, among others or in another order"
        mend = "take these seven by name"
    return Finding(
        check="state axes",
        verdict=verdict,
        found=found,
        expected=", ".join(AXES),
        mend=mend,
        numbers={"names": list(names)},
        **sample.size,
    )


def position(sample: Sample) -> Finding:
    """Whether positions span what an arm reaches, in metres."""
    check, expected = "position unit", "metres: the arm's space is 0.1 to 3 m wide"
    parts = sample.states(POSITION)
    if parts is None:
        return sample.undecided(check, expected, "the state has no x, y, z")
    rows = np.concatenate(parts)
    low, high = np.quantile(rows, (0.005, 0.995), axis=0)
    width, reach = float((high - low).max()), float(np.linalg.norm(rows, axis=1).max())
    verdict, mend = "ok", ""
    found = f"{_triple(high - low)} wide (99 % of frames), up to {reach:.3g} from the origin"
    if _normalised(rows):
        verdict, mend = "fails", "undo the normalisation: the states must be as measured"
        found += ", centred and scaled on every axis"
    elif width > WORKSPACE[1]:
        units = {"centimetres": 100, "millimetres": 1000}
        likely = [u for u, n in units.items() if WORKSPACE[0] <= width / n <= LIKELY]
        verdict, mend = "fails", "convert positions to metres"
        found += f": no arm is so large; as {' or '.join(likely)} it would fit" if likely else ""
    elif width < WORKSPACE[0]:
        verdict, mend = "warning", "look at more episodes (--sample), or at the unit"
        found += ": hardly any motion, or another unit"
    elif reach > WORKSPACE[1]:
        verdict, mend = "warning", "express positions in the robot's base frame"
        found += ": far from the robot's base"
    return Finding(
        check=check,
        verdict=verdict,
        found=found,
        expected=expected,
        mend=mend,
        numbers={"low": low.tolist(), "high": high.tolist(), "reach": reach},
        **sample.size,
    )


def rotation(sample: Sample) -> Finding:
    """Whether angles are radians, from -pi to pi."""
    check, expected = "rotation unit", "radians from -pi to pi"
    parts = sample.states(EULER) or sample.states(VECTOR)
    if parts is None:
        return sample.undecided(check, expected, "the state has no rotation")
    rows = np.concatenate(parts)
    low, high = rows.min(0), rows.max(0)
    top = float(np.abs(rows).max())
    ranges = ", ".join(f"{a:.3g} to {b:.3g}" for a, b in zip(low, high, strict=True))
    verdict, mend, found = "ok", "", ranges
    if top > 2 * math.pi + SLACK:
        verdict, mend = "fails", "convert angles to radians"
        found = f"{ranges}: more than a full turn in radians; degrees?"
    elif top > math.pi + SLACK and sample.states(EULER) is not None:
        over = float((np.abs(rows).max(1) > math.pi + SLACK).mean())
        verdict, mend = "warning", "wrap angles to -pi to pi: the model reads them as numbers"
        found = f"{ranges}: not wrapped in {over:.1%} of frames"
    elif top < 0.02:
        return sample.undecided(check, expected, f"{ranges}: the hand never turns")
    return Finding(
        check=check,
        verdict=verdict,
        found=found,
        expected=expected,
        mend=mend,
        numbers={"min": low.tolist(), "max": high.tolist()},
        **sample.size,
    )


def steps(sample: Sample) -> Finding:
    """Whether an arm can move so far in one step."""
    span = sample.step_seconds
    limits = (FAR * max(span / 0.25, 1), TURNED * max(span / 0.25, 1))
    check = "step size"
    expected = f"steps of {span:g} s under {limits[0]:.2g} m and {limits[1]:.2g} rad"
    moved, turned = motion(sample)
    if not len(moved):
        why = "the state has no x, y, z" if sample.states(POSITION) is None else "no step fits"
        return sample.undecided(check, expected, why)
    numbers = {}
    found = []
    for name, values, unit, limit in (
        ("moved", moved, "m", limits[0]),
        ("turned", turned, "rad", limits[1]),
    ):
        if not len(values):
            continue
        middle, high = np.quantile(values, (0.5, 0.95)).tolist()
        beyond = float((values > limit).mean())
        numbers[name] = {"median": middle, "q95": high, "max": values.max().item(), "far": beyond}
        found.append(f"{middle:.3g} {unit} (95 %: {high:.3g}; {beyond:.1%} beyond)")
    worst = max(values["far"] for values in numbers.values())
    boxed = _in_box(sample)
    verdict, mend = "ok", ""
    if worst > COMMON:
        verdict, mend = "fails", "look at the units, at the rate, and for joined episodes"
    elif worst > RARE:
        verdict, mend = "warning", "look for jumps where recordings were joined"
    elif numbers["moved"]["median"] < STILL:
        verdict, mend = "warning", "leave out where the robot stands still (DROID: idle=drop)"
    return Finding(
        check=check,
        verdict=verdict,
        found=f"median {', '.join(found)}; {boxed:.0%} within 7.5 cm an axis",
        expected=expected,
        mend=mend,
        numbers={**numbers, "within_planner_box": boxed},
        episodes=sum(len(r.before) > 0 for r in sample.recordings),
        frames=len(moved),
    )


def motion(sample: Sample) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " m"]]:
    """Return how far (m) and by what angle (rad) the hand moves in each step of all recordings."""
    parts, rotations = sample.states(POSITION), sample.rotations()
    moved, turned = [np.zeros(0)], [np.zeros(0)]
    for i, r in enumerate(sample.recordings):
        if parts is not None:
            moved.append(np.linalg.norm(parts[i][r.after] - parts[i][r.before], axis=1))
        if rotations is not None and len(r.before):
            turn = rotation_between(rotations[i][r.before], rotations[i][r.after])
            turned.append(np.linalg.norm(turn, axis=1))
    return np.concatenate(moved), np.concatenate(turned)


def dead(sample: Sample) -> Finding:
    """Whether every axis moves."""
    names = sample.source.state_names
    check, expected = "axes that move", "every axis changes"
    if not sample.recordings or not names:
        return sample.undecided(check, expected, "there are no states")
    rows = np.concatenate([r.state for r in sample.recordings])
    constant = [name for name, spread in zip(names, np.ptp(rows, 0), strict=True) if spread < DEAD]
    where = columns_of(names, POSITION)
    lost = where is not None and all(names[i] in constant for i in where)
    moving = f"all {len(names)} change"
    return Finding(
        check=check,
        verdict="fails" if lost else "warning" if constant else "ok",
        found=f"never changes: {', '.join(constant)}" if constant else moving,
        expected=expected,
        mend="look whether the reader takes the right columns" if constant else "",
        numbers={"constant": constant},
        **sample.size,
    )


def gripper(sample: Sample) -> Finding:
    """Whether the gripper goes from 0 to 1."""
    check, expected = "gripper range", "0 (closed) to 1 (open)"
    parts = sample.states(("gripper",))
    if parts is None:
        return sample.undecided(check, expected, "the state has no gripper")
    rows = np.concatenate(parts)
    low, high = float(rows.min()), float(rows.max())
    verdict, mend, found = "ok", "", f"{low:.3g} to {high:.3g}"
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        tops = {"-1 to 1": 1, "per cent": 100, "counts to 255": 255}
        near = [word for word, top in tops.items() if abs(high - top) <= 0.1 * top]
        verdict, mend = "fails", "scale it to 0 (closed) to 1 (open)"
        found += f": {near[0]}?" if near else ""
    elif DEAD < high - low < 0.3:
        verdict, mend = "warning", "scale it to 0 to 1, or look at more episodes (--sample)"
        found += ": metres?" if high < 0.2 else ": a small part of the range"
    elif low < -SLACK or high > 1 + SLACK:
        verdict, mend = "warning", "clip it to 0 to 1"
    return Finding(
        check=check,
        verdict=verdict,
        found=found,
        expected=expected,
        mend=mend,
        numbers={"min": low, "max": high},
        **sample.size,
    )


def _normalised(rows: Float64[np.ndarray, "t 3"]) -> bool:
    """Whether each axis has mean 0 and deviation 1, or goes exactly from -1 to 1."""
    standard = np.abs(rows.mean(0)).max() < 0.1 and np.abs(rows.std(0) - 1).max() < 0.1
    return bool(standard or ((rows.min(0) == -1).all() and (rows.max(0) == 1).all()))


def _in_box(sample: Sample) -> float:
    parts = sample.states(POSITION)
    assert parts is not None, "steps were measured, so there are positions"
    pairs = zip(parts, sample.recordings, strict=True)
    delta = np.concatenate([p[r.after] - p[r.before] for p, r in pairs])
    return float((np.abs(delta) <= BOX).all(1).mean())


def _triple(values: Sequence[float] | Float64[np.ndarray, "3"]) -> str:
    return " x ".join(f"{value:.3g}" for value in values)
