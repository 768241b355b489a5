"""What landscapes, their controls and floors allow one to say, and what speaks against it.

A model *stands* only if, over the episodes, its minimum is nearer to the true action than standing
still and than the true actions of other episodes, both by a paired 95 % interval above 0; the true
action ranks better than chance; and no control that was computed contradicts it. The functions
that judge take JSON values: what a file holds is all that they look at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float64

from saccade.evals.landscape import Landscape
from saccade.evals.landscape_scores import FLOORS, measure
from saccade.evals.planning import mean_over_episodes

Entry = Mapping[str, Any]  # of one model: name, summary, controls, paired, changed
Alarm = dict[str, str]
NAMES = {"no_change": "standing still", "shuffled_actions": "the true actions of other episodes"}
CHANCE = 0.5  # rank of an action that is no better than another
SAME = 1e-6  # metres, radians or openings by which constant actions may differ


def turned(
    forward: Sequence[Landscape], reverse: Sequence[Landscape], resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Say how much nearer a reversed minimum is to the reversed action than to the forward one.

    In metres, a mean with its interval over episodes; not above 0: the landscape does not turn
    round when time does.
    """
    unturned = [replace(b, truth=f.truth) for f, b in zip(forward, reverse, strict=True)]
    apart = _distance(unturned) - _distance(reverse)
    return mean_over_episodes(apart, _episodes(reverse), resamples, seed)


def worse_by(
    own: Sequence[Landscape], other: Sequence[Landscape], resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Say how much further the minimum is from the true action with a foreign goal, in metres.

    Not above 0: what was seen after the action is no better a goal than something else.
    """
    apart = _distance(other) - _distance(own)
    return mean_over_episodes(apart, _episodes(own), resamples, seed)


def stands(entry: Entry) -> bool:
    """Tell whether a model's landscapes show that it knows what actions do."""
    rank = entry["summary"]["all"]["scores"]["rank"]
    return (
        all(above_zero(entry["summary"]["all"]["better_by"][name]) for name in FLOORS)
        and rank["high"] is not None
        and rank["high"] < CHANCE
        and all(above_zero(found) for found in controls(entry).values())
    )


def controls(entry: Entry) -> dict[str, Mapping[str, Any]]:
    """Return the estimate of each control that was computed; it is above 0 for a sound model."""
    measures = {"reversed": "turned", "other_goals": "worse_by"}
    return {
        name: entry["controls"][name][measure]
        for name, measure in measures.items()
        if entry["controls"].get(name) is not None
    }


def above_zero(estimate: Mapping[str, Any]) -> bool:
    """Tell whether the whole interval is above 0; without an interval nothing is told."""
    return estimate["low"] is not None and estimate["low"] > 0


def alarms(
    entries: Sequence[Entry], truths: Float64[np.ndarray, "n a"], varied: Sequence[int]
) -> list[Alarm]:
    """List what speaks against the landscapes, or against reading much into them.

    Args:
        entries: one of each model, the base first.
        truths: the true action of each moment.
        varied: which of its axes the main grid varies.
    """
    found = _of_data(entries[0], truths[:, list(varied)]) if entries else []
    for entry in entries:
        found += _of_model(entry)
    return found


def verdict(entries: Sequence[Entry]) -> dict[str, Any]:
    """State in one sentence what the main landscapes show: ``sentence, success, details``."""
    if all(_score(entry, "distance")["value"] is None for entry in entries):
        sentence = (
            "No verdict: the main grid varies no position, so nothing is measured in metres; "
            "look at the ranks of the true actions, one half is chance."
        )
        return {"sentence": sentence, "success": False, "details": [_size(entries[0])]}
    standing = [entry for entry in entries if stands(entry)]
    best = min(standing or entries, key=lambda entry: _score(entry, "distance")["value"])
    details = [_size(best), *(_one(entry) for entry in entries)]
    details += [_pair(entry) for entry in entries if entry["paired"] is not None]
    sentence = _success(best) if standing else _failure(best)
    return {"sentence": sentence + _rest(entries), "success": bool(standing), "details": details}


def _of_data(entry: Entry, truths: Float64[np.ndarray, "n d"]) -> list[Alarm]:
    """Look at what is the same for every model: the true actions and the grid."""
    summary, alarms = entry["summary"], list[Alarm]()
    inside, moments = summary["in_range"]["moments"], summary["moments"]
    if inside < moments / 2:
        detail = (
            f"{moments - inside} of {moments} true actions lie outside of the main grid: no "
            "minimum can be at them; widen it (--half-width) or shorten the horizon"
        )
        alarms.append(_alarm("narrow grid", "all", detail))
    if moments > 1 and float(np.ptp(truths, axis=0).max()) < SAME:
        detail = (
            f"all {moments} true actions are the same along the axes that vary: a model that "
            "ignores what it sees can be right; take other moments or episodes"
        )
        alarms.append(_alarm("constant truth", "all", detail))
    still = _score(entry, "no_change")["value"]
    worst = summary["resolution"]["worst_within"]
    if still is not None and worst is not None and still < worst:
        detail = (
            f"true actions move {_cm(still)} on average, a cell's corner is {_cm(worst)} from its "
            "middle: standing still is hard to beat on this grid; lower --half-width, raise "
            "--steps or --horizon"
        )
        alarms.append(_alarm("coarse grid", "all", detail))
    if summary["episodes"] < 2:
        detail = "one episode bounds nothing: no interval, no claim; take more (--episodes)"
        alarms.append(_alarm("one episode", "all", detail))
    return alarms


def _of_model(entry: Entry) -> list[Alarm]:
    name, alarms = entry["name"], list[Alarm]()
    for floor, found in entry["summary"]["all"]["better_by"].items():
        if found["value"] is not None and not above_zero(found):
            detail = f"the minimum is nearer than {NAMES[floor]} by {_by(found)}: not above 0"
            alarms.append(_alarm("floor", name, detail))
    told = {
        "reversed": "played backwards, the minimum is nearer to the undone action by",
        "other_goals": "with the goal of another episode the minimum is further away by",
    }
    for control, found in controls(entry).items():
        if found["value"] is not None and not above_zero(found):
            detail = f"{told[control]} {_by(found)}: not above 0"
            alarms.append(_alarm(control.replace("_", " "), name, detail))
    edge = _score(entry, "on_edge")["value"]
    if edge is not None and edge > 0.5:
        detail = f"{edge:.0%} of the minima are on the border of the grid: widen it (--half-width)"
        alarms.append(_alarm("edge", name, detail))
    return alarms + _of_adapter(entry)


def _of_adapter(entry: Entry) -> list[Alarm]:
    """Compare with the base: flatter landscapes, or none that changed."""
    if entry["paired"] is None:
        return []
    name = entry["name"]
    if not entry["changed"]:
        detail = "every energy is the base's to the last bit: these adapters change nothing"
        return [_alarm("no effect", name, detail)]
    sharpness = entry["paired"]["scores"]["sharpness"]
    if sharpness["high"] is not None and sharpness["high"] < 0:
        detail = (
            f"sharpness fell from {sharpness['base']:.4f} to {sharpness['other']:.4f} (change "
            f"{sharpness['value']:+.4f} [{sharpness['low']:+.4f}, {sharpness['high']:+.4f}]): "
            "energies depend less on the action than before"
        )
        return [_alarm("flatter", name, detail)]
    return []


def _alarm(name: str, model: str, detail: str) -> Alarm:
    return {"name": name, "model": model, "detail": detail, "severity": "warning"}


def _success(best: Entry) -> str:
    return (
        f"{best['name']} knows what actions do: the minimum of its landscape is "
        f"{_at(_score(best, 'distance'))} from the true action, against {_floors(best)}."
    )


def _failure(best: Entry) -> str:
    lost = [
        NAMES[floor]
        for floor, found in best["summary"]["all"]["better_by"].items()
        if not above_zero(found)
    ]
    against = [name for name, found in controls(best).items() if not above_zero(found)]
    if lost:
        why = f"not clearly nearer than {' or '.join(lost)}"
    elif against:
        names = {"reversed": "reversed time", "other_goals": "goals of other episodes"}
        why = f"the control by {' and '.join(names[name] for name in against)} contradicts it"
    else:
        why = "the true action ranks no better than chance"
    return (
        f"No success: the nearest minimum, that of {best['name']}, is "
        f"{_at(_score(best, 'distance'))} from the true action, against {_floors(best)}: {why}."
    )


def _rest(entries: Sequence[Entry]) -> str:
    """Say in one more clause what adapters changed."""
    changes = {-1: list[str](), 0: list[str](), 1: list[str]()}
    for entry in entries:
        if entry["paired"] is None:
            continue
        found = entry["paired"]["scores"]["distance"]
        sign = 1 if above_zero(found) else -1 if (found["high"] or 0) < 0 else 0
        changes[sign].append(entry["name"])
    told = {-1: "nearer to it than the base", 0: "not separated from the base", 1: "further away"}
    parts = [f"{', '.join(names)}: {told[s]}" for s, names in changes.items() if names]
    return f" Adapters: {'; '.join(parts)}." if parts else ""


def _one(entry: Entry) -> str:
    rank = _score(entry, "rank")
    span = "" if rank["low"] is None else f" [{rank['low']:.0%}, {rank['high']:.0%}]"
    return (
        f"{entry['name']}: {_at(_score(entry, 'distance'))} from the true action, against "
        f"{_floors(entry)}; {rank['value']:.0%}{span} of the candidates have a lower energy than "
        "the true action, 50 % is chance."
    )


def _pair(entry: Entry) -> str:
    found = entry["paired"]["scores"]["distance"]
    d = "" if found["d"] is None else f", Cohen's d {found['d']:+.2f}"
    wins = "" if found["wins"] is None else f", nearer in {found['wins']:.0%} of the episodes"
    return f"{entry['name']} minus the base, on the same moments: {_by(found)}{d}{wins}."


def _size(entry: Entry) -> str:
    summary = entry["summary"]
    cells = int(np.prod(summary["grid"]["steps"]))
    return (
        f"{summary['moments']} moments of {summary['episodes']} episodes, {cells} actions each; "
        f"{summary['in_range']['moments']} true actions lie within the grid; 95 % intervals "
        "resample episodes."
    )


def _floors(entry: Entry) -> str:
    scores = entry["summary"]["all"]["scores"]
    return " and ".join(f"{_at(scores[name])} for {NAMES[name]}" for name in FLOORS)


def _score(entry: Entry, name: str) -> Mapping[str, Any]:
    return entry["summary"]["all"]["scores"][name]


def _at(found: Mapping[str, Any]) -> str:
    if found["value"] is None:
        return "unknown"
    if found["low"] is None:
        return f"{_cm(found['value'])}, no interval"
    return f"{_cm(found['value'])} [{100 * found['low']:.2f}, {100 * found['high']:.2f}]"


def _by(found: Mapping[str, Any]) -> str:
    if found["value"] is None:
        return "an unknown distance"
    if found["low"] is None:
        return f"{100 * found['value']:+.2f} cm, no interval"
    ends = f"[{100 * found['low']:+.2f}, {100 * found['high']:+.2f}]"
    return f"{100 * found['value']:+.2f} cm {ends}"


def _cm(metres: float) -> str:
    return f"{100 * metres:.2f} cm"


def _distance(landscapes: Sequence[Landscape]) -> Float64[np.ndarray, " n"]:
    found = [measure(one)["distance"] for one in landscapes]
    return np.array([np.nan if value is None else value for value in found], np.float64)


def _episodes(landscapes: Sequence[Landscape]) -> np.ndarray:
    return np.array([one.episode for one in landscapes])
