"""What numbers of planning mean: one sentence, details, and alarms, from the values alone.

A floor is beaten where the interval of the paired difference lies above 0. Nothing is called a
success while one floor is not beaten, or where there is no interval to tell by.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from saccade.evals.calibration import POSITION
from saccade.evals.planners import Planner
from saccade.evals.planning import Planned

Scores = Mapping[str, Any]  # JSON values of ``planning.summarise`` and its siblings
FLOORS = {
    "zero": "standing still",
    "mean": "the mean action",
    "random": "random actions",
    "last": "the last action again",
    "still": "standing still",
    "nothing": "doing nothing",
}
EDGE = 0.98  # of the box: a plan that is farther out is at its edge
SHARE = 0.1  # of the moments that may lie at the edge, or outside
STILL = 0.01  # metres: a median displacement below this is hard to tell from standing still


class Findings(NamedTuple):
    """What is said first."""

    sentence: str
    success: bool
    details: list[str]

    def json(self) -> dict[str, Any]:
        """Return JSON values."""
        return self._asdict()


class Alarm(NamedTuple):
    """What speaks against a number, and where."""

    name: str
    where: str
    detail: str

    def json(self) -> dict[str, Any]:
        """Return JSON values."""
        return self._asdict()


def beaten(better: Scores) -> tuple[list[str], list[str]]:
    """Split floors into those that are beaten, and those that are not or cannot be told."""
    known = {name: found for name, found in better.items() if found["value"] is not None}
    won = [name for name, found in known.items() if found["low"] is not None and found["low"] > 0]
    return won, [name for name in known if name not in won]


def against(better: Scores) -> tuple[str, bool]:
    """Say which floors are beaten, and whether all are."""
    won, lost = beaten(better)
    if any(found["value"] is not None and found["low"] is None for found in better.values()):
        return "one episode has no interval, so whether it beats the floors cannot be told", False
    if not won and not lost:
        return "no floor is known, so the number says nothing", False
    said = [f"beats {listed(won, 'and')}"] if won else []
    said += [f"does not beat {listed(lost, 'or')}"] if lost else []
    return " but ".join(said), not lost


def offline(runs: Sequence[Scores], floors: Scores) -> Findings:
    """Judge the first run (the base, by the first planner); the others are details."""
    first = runs[0]
    told, success = against(first["better_by"])
    error = centimetres(first["scores"]["xyz"])
    counts = f"{first['moments']} moments of {first['episodes']} episodes"
    sentence = (
        f"Planned by {first['planner']}, {first['model']} misses the logged displacement by "
        f"{error} ({counts}): it {told}."
    )
    details = [
        f"{FLOORS[name]} misses it by {centimetres(floors[name]['xyz'])}"
        for name in floors
        if floors[name]["xyz"]["value"] is not None
    ]
    if "mean" not in floors:
        details.append("there is no mean-action floor: no part of the data is for training")
    for run in runs[1:]:
        closer, other = run["closer_by"], against(run["better_by"])[0]
        details.append(
            f"{run['model']} by {run['planner']} misses it by {centimetres(run['scores']['xyz'])}, "
            f"{centimetres(closer)} less than the first ({separation(closer)}); it {other}"
        )
    return Findings(sentence, success, details)


def separation(closer: Scores) -> str:
    """Say whether a paired difference is told from none."""
    if closer["low"] is None:
        return "one episode has no interval"
    if closer["low"] > 0:
        return "better"
    return "worse" if closer["high"] < 0 else "not separated"


def offline_alarms(where: str, planned: Planned, planner: Planner, scores: Scores) -> list[Alarm]:
    """Look for a box too narrow, plans at its edge, data that stand still, and turned axes."""
    columns = [planned.names.index(name) for name in POSITION]
    limit = planner.limits.space(planned.names, planner.horizon).limit.sum(0).numpy()[columns]
    true, guess = planned.true[:, columns], planned.guesses["planned"][:, columns]
    found = []
    if (share := float((np.abs(true) > limit).any(1).mean())) > SHARE:
        found.append(
            Alarm("narrow box", where, f"{share:.0%} of the true displacements lie outside")
        )
    if (share := float((np.abs(guess) >= EDGE * limit).any(1).mean())) > SHARE:
        found.append(Alarm("plans at the edge", where, f"{share:.0%} of the plans lie there"))
    middle = float(np.median(np.linalg.norm(true, axis=1)))
    if middle < STILL:
        detail = f"the median true displacement is {100 * middle:.2f} cm"
        found.append(Alarm("still data", where, detail))
    direction = scores["direction"]
    if direction["value"] is not None and not (direction["low"] or 0) > 0:
        detail = f"the mean cosine of planned and true displacement is {plain(direction)}"
        found.append(Alarm("no direction", where, detail))
    return found


def sub_goals(run: Scores, steps: Sequence[int]) -> str:
    """Say how far the last sub-goal was missed, against the floors."""
    last = run["scores"]["planned"][-1]
    return (
        f"{run['model']} by {run['planner']} pursues sub-goals {', '.join(map(str, steps))} steps "
        f"apart and misses the last by {centimetres(last)} ({run['episodes']} episodes): it "
        f"{against(run['better_by'])[0]}"
    )


def closed_loop(found: Scores, task: str) -> Findings:
    """Judge by the paired final distances; successes are counted beside them."""
    told, success = against({k: v for k, v in found["better_by"].items() if k != "expert"})
    reached, planned = found["planned"]["reached"], found["planned"]
    sentence = (
        f"Planning ends {centimetres(planned['final'])} from the goal of {task} and reaches it "
        f"within {100 * found['tolerance']:.0f} cm in {share(reached)}: it {told}."
    )
    details = [
        f"{name}: reached in {share(found[name]['reached'])}, the simulator's word in "
        f"{share(found[name]['success'])}, final distance {centimetres(found[name]['final'])}"
        for name in ("planned", "nothing", "random", "expert")
    ]
    return Findings(sentence, success, details)


def closed_loop_alarms(found: Scores) -> list[Alarm]:
    """Look for goals that need no action, and for an expert that does not bring them about."""
    alarms = []
    nothing, expert = found["nothing"]["reached"], found["expert"]["reached"]
    if nothing["value"] > 0.5:
        alarms.append(Alarm("too easy", "nothing", f"it is at the goal in {share(nothing)}"))
    if expert["value"] < 0.5:
        alarms.append(Alarm("too hard", "expert", f"it is at the goal in {share(expert)}"))
    return alarms


def calibrating(calibration: Scores, held_out: Scores) -> Findings:
    """Judge by episodes that the rotation was not fitted to."""
    better, low = held_out["better_by"], held_out["better_by"]["low"]
    still, gained = against({"zero": held_out["better_than_zero"]})
    success = low is not None and low > 0 and gained
    told = (
        "one held-out episode has no interval, so the gain cannot be told"
        if low is None
        else f"{centimetres(better)} nearer, {separation(better)}; it {still}"
    )
    turned = (
        f"{calibration['angle']:.1f} degrees [{calibration['angle_low']:.1f}, "
        f"{calibration['angle_high']:.1f}]"
    )
    sentence = (
        f"The model's frame is turned by {turned}; on {held_out['episodes']} other episodes "
        f"calibrated motion misses the truth by {centimetres(held_out['after'])} instead of "
        f"{centimetres(held_out['before'])}: {told}."
    )
    details = [
        f"fitted to {calibration['moves']} moves of {calibration['episodes']} episodes, root mean "
        f"square {100 * calibration['before']:.2f} cm before and "
        f"{100 * calibration['residual']:.2f} cm after",
        f"condition {calibration['condition']:.2f} (1 is a pure rotation); 95 % of resampled "
        f"rotations are within {calibration['uncertainty']:.1f} degrees",
        f"standing still would miss the held-out motion by {centimetres(held_out['zero'])}",
    ]
    return Findings(sentence, success, details)


def calibration_alarms(calibration: Scores, held_out: Scores) -> list[Alarm]:
    """Look for a map that is no rotation, and for motion that the model does not see at all."""
    found = []
    if calibration["condition"] > 3:
        detail = f"the unconstrained map has condition {calibration['condition']:.1f}"
        found.append(Alarm("no rotation", "fit", detail))
    after, zero = held_out["after"], held_out["zero"]
    if not against({"zero": held_out["better_than_zero"]})[1]:
        detail = f"{centimetres(after)} after calibration, {centimetres(zero)} for standing still"
        found.append(Alarm("no motion seen", "held out", detail))
    return found


def centimetres(found: Scores) -> str:
    """Print metres as centimetres with their interval."""
    return plain({key: _hundred(found[key]) for key in ("value", "low", "high")}, " cm")


def plain(found: Scores, unit: str = "") -> str:
    """Print a value with its interval, or that there is none."""
    if found["value"] is None:
        return "not known"
    middle = f"{found['value']:.2f}{unit}"
    if found["low"] is None:
        return f"{middle} (no interval)"
    return f"{middle} [{found['low']:.2f}, {found['high']:.2f}]"


def share(found: Scores) -> str:
    """Print a count of episodes with Wilson's interval in percent."""
    low, high = (f"{100 * found[key]:.0f}" for key in ("low", "high"))
    return f"{found['count']} of {found['episodes']} episodes [{low}, {high} %]"


def listed(names: Sequence[str], joint: str) -> str:
    """Join the floors' names in words."""
    words = [FLOORS[name] for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {joint} {words[-1]}"


def _hundred(value: float | None) -> float | None:
    return None if value is None else 100 * value
