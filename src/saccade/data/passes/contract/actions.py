"""What the recorded actions are, and what they say of the gripper's sense.

The model's actions are not the recorded ones: they are measured, from states one step apart.
"""

import numpy as np
from jaxtyping import Float64

from saccade.data.passes.contract.findings import OVERSHOOT, POSITION, Finding, Sample, listed

LAGS = 5  # frames by which a motion may follow its command
EXPLAINED, OPPOSED = 0.5, -0.3  # correlations
FEWEST = 20  # steps
OPENING = 0.02  # change of a gripper that counts as a motion
AGREED = 0.8  # share that decides
OPEN, CLOSED = 0.7, 0.3
STARTS = 5  # episodes


def recorded_actions(sample: Sample) -> Finding:
    """Compare recorded actions with measured motion, frame by frame."""
    check, expected = "recorded actions", "the measured motion, or what commands it (not used)"
    states, actions = sample.states(POSITION), sample.actions(POSITION)
    if states is None or actions is None:
        names = listed(sample.source.action_names)
        return sample.undecided(check, expected, f"no positions to compare (actions: {names})")
    if sum(max(len(part) - 1, 0) for part in states) < FEWEST:
        return sample.undecided(check, expected, f"under {FEWEST} steps")
    if (target := _as_targets(sample, states, actions)) is not None:
        return target
    lags = [_compare(states, actions, lag) for lag in range(LAGS)]
    lag = int(np.argmax([np.nan_to_num(r).mean() for r, _ in lags]))
    correlation, slope = lags[lag]
    if not np.isfinite(correlation).any():
        return sample.undecided(check, expected, "neither changes")
    told = ", ".join(
        f"{axis} {r:.2f}" if np.isfinite(r) else f"{axis} constant"
        for axis, r in zip(POSITION, correlation, strict=True)
    )
    opposed = [axis for axis, r in zip(POSITION, correlation, strict=True) if r < OPPOSED]
    verdict, mend = "ok", ""
    scale = float(np.nanmedian(slope))
    found = f"displacements, 1 unit moves {scale:.3g} m per frame, {lag} frames later; "
    if opposed:
        verdict, mend = "warning", "one of state and action has another frame or sign; look which"
        found = f"opposite to the motion along {', '.join(opposed)}; "
    elif np.nanmean(correlation) < EXPLAINED:
        verdict, mend = "warning", "train on measured motion, not on these"
        found = "neither displacements nor targets; "
    return Finding(
        check=check,
        verdict=verdict,
        found=f"{found}correlation {told}",
        expected=expected,
        mend=mend,
        numbers={
            "kind": "displacements" if verdict == "ok" else "unknown",
            "correlation": _jsonable(correlation),
            "metres_per_unit": _jsonable(slope),
            "lag_frames": lag,
        },
        **sample.size,
    )


def gripper_sense(sample: Sample) -> Finding:
    """Whether 1 is open: do commands agree with the motion, and are grippers open at starts.

    The first shows that state and command have one sense, not which; the second rests on the habit
    to start open. Only together they decide.
    """
    check, expected = "gripper sense", "1 open, 0 closed (the model's edge turns it round)"
    states, actions = sample.states(("gripper",)), sample.actions(("gripper",))
    if states is None:
        return sample.undecided(check, expected, "the state has no gripper")
    rows = np.concatenate(states)
    if rows.min() < -OVERSHOOT or rows.max() > 1 + OVERSHOOT:
        return sample.undecided(check, expected, "not from 0 to 1", "mend the range first")
    first = np.array([part[0, 0] for part in states])
    opened, closed = float((first > OPEN).mean()), float((first < CLOSED).mean())
    found = f"{opened:.0%} of {len(first)} episodes start above {OPEN}, {closed:.0%} below {CLOSED}"
    numbers = {"start_open": opened, "start_closed": closed}
    agreed = None if actions is None else _agreement(sample, states, actions)
    if agreed is not None:
        share, turned, moves = agreed
        numbers |= {"agree": share, "agree_if_turned": turned, "moves": moves}
        found += f"; {share:.0%} of {moves} moves follow the command (turned round: {turned:.0%})"
    else:
        found += "; no command to compare"
    verdict, mend = "not decidable", "look at pictures: 1 must be open"
    if agreed is not None and agreed[1] >= AGREED > agreed[0]:
        verdict = "fails"
        mend = "state and command have opposite senses; turn one of them round"
    elif closed >= AGREED and len(first) >= STARTS:
        verdict, mend = "warning", "if these are open at the start, turn the gripper round"
    elif agreed is not None and agreed[0] <= agreed[1]:
        mend = "look whether the command is the gripper's"
    elif opened >= AGREED and len(first) >= STARTS:
        verdict, mend = "ok", ""
    return Finding(
        check=check,
        verdict=verdict,
        found=found,
        expected=expected,
        mend=mend,
        numbers=numbers,
        **sample.size,
    )


def _as_targets(
    sample: Sample,
    states: list[Float64[np.ndarray, "_ 3"]],
    actions: list[Float64[np.ndarray, "_ 3"]],
) -> Finding | None:
    """Say how far poses to reach are from those that are reached, where actions are such."""
    reached = np.concatenate([part[1:] for part in states])
    asked = np.concatenate([part[:-1] for part in actions])
    spread = np.linalg.norm(reached - reached.mean(0), axis=1).mean()
    away = np.linalg.norm(asked - reached, axis=1)
    if away.mean() >= 0.5 * spread:
        return None
    correlation = _correlation(asked, reached)
    told = ", ".join(f"{a} {r:.2f}" for a, r in zip(POSITION, correlation, strict=True))
    return Finding(
        check="recorded actions",
        verdict="ok",
        found=f"positions to reach, {np.median(away):.3g} m from where the hand is at the next "
        f"frame (median); correlation {told}",
        expected="the measured motion, or what commands it (not used)",
        numbers={
            "kind": "targets",
            "median_distance": float(np.median(away)),
            "correlation": _jsonable(correlation),
        },
        **sample.size,
    )


def _compare(
    states: list[Float64[np.ndarray, "_ 3"]], actions: list[Float64[np.ndarray, "_ 3"]], lag: int
) -> tuple[Float64[np.ndarray, "3"], Float64[np.ndarray, "3"]]:
    """Return correlation with the motion that begins ``lag`` frames later, and metres per unit."""
    moved = np.concatenate([np.diff(part[lag:], axis=0) for part in states])
    pairs = zip(states, actions, strict=True)
    asked = np.concatenate([a[: max(len(s) - lag - 1, 0)] for s, a in pairs])
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = (asked * moved).sum(0) / (asked**2).sum(0)
    return _correlation(asked, moved), slope


def _correlation(
    first: Float64[np.ndarray, "n 3"], second: Float64[np.ndarray, "n 3"]
) -> Float64[np.ndarray, "3"]:
    """Correlate each axis; NaN where one is constant."""
    a, b = first - first.mean(0), second - second.mean(0)
    size = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    found = np.full(3, np.nan)
    np.divide((a * b).sum(0), size, out=found, where=size > 1e-12)
    return found


def _agreement(
    sample: Sample,
    states: list[Float64[np.ndarray, "_ 1"]],
    actions: list[Float64[np.ndarray, "_ 1"]],
) -> tuple[float, float, int] | None:
    """Return the share of moves that go where the command says, and if it were turned round.

    A command from 0 to 1 is an opening to reach; any other pushes by its sign.
    """
    everything = np.concatenate(actions)
    low, high = everything.min(), everything.max()
    change = low < -0.005 and np.median(np.abs(everything)) < OPENING  # mostly none
    target = not change and low >= -OVERSHOOT and high <= 1 + OVERSHOOT
    same, turned = [np.zeros(0, bool)], [np.zeros(0, bool)]
    for state, action, r in zip(states, actions, sample.recordings, strict=True):
        now, command = state[r.before, 0], action[r.before, 0]
        if not target:  # all of them until then
            pushed = np.concatenate([[0.0], np.cumsum(action[:, 0])])
            command = pushed[r.after] - pushed[r.before]
        moved = state[r.after, 0] - now
        moving = np.abs(moved) > OPENING
        pulls = (command - now, 1 - command - now) if target else (command, -command)
        for shares, pull in zip((same, turned), pulls, strict=True):
            shares.append((pull * moved > 0)[moving])
    agreed, opposite = np.concatenate(same), np.concatenate(turned)
    if len(agreed) < FEWEST:
        return None
    return float(agreed.mean()), float(opposite.mean()), len(agreed)


def _jsonable(values: Float64[np.ndarray, "3"]) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]
