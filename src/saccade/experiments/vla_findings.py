"""What a comparison of eyes shows: signals during fine-tuning, held-out errors, success.

    samples to    how many samples each took to reach the held-out losses that the control has after
                  a quarter, half and all of its fine-tuning: eyes that are of use need fewer
    held out      loss, token accuracy and action error on demonstrations that none has learned
                  from, by episode, so that differences are between answers to the same moments
    success       on the same keys, in pairs with the control, the original and the untrained eyes

Differences to the control have p-values that Holm's method adjusts, over all models and eyes.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from saccade.checkpoint import write_atomic
from saccade.data.episodes import Subset
from saccade.data.loader import fixed_batches
from saccade.data.windows import ChunkWindow
from saccade.evals import success
from saccade.evals.rollouts import Key
from saccade.evals.statistics import bootstrap, holm, paired_difference
from saccade.evals.statistics.sums import Table, mean_error
from saccade.experiments.evidence import commit, machine, versions
from saccade.experiments.source import Parts, Report
from saccade.experiments.success_rates import load
from saccade.experiments.vla import as_seen
from saccade.report.results import RESULTS
from saccade.report.vla_page import FORMAT, KIND
from saccade.train.evaluate import move
from saccade.types import Clip, Policy
from saccade.vla.policy import VlaPolicy

if TYPE_CHECKING:
    from saccade.experiments.vla_comparison import Arm, Model, VlaComparison

HELD_OUT = "held_out.json"
MOMENTS = 16  # of each held-out episode
SHARES = (0.25, 0.5, 1.0)  # of the control's fine-tuning
PUBLISHED = {  # success in percent; the tables' own sources
    "libero_spatial": {"OpenVLA 7B, all demonstrations": 84.7, "pi0 3B, all demonstrations": 96.8},
    "libero_object": {"OpenVLA 7B, all demonstrations": 88.4, "pi0 3B, all demonstrations": 98.8},
    "libero_goal": {"OpenVLA 7B, all demonstrations": 79.2, "pi0 3B, all demonstrations": 95.8},
    "libero_10": {"OpenVLA 7B, all demonstrations": 53.7, "pi0 3B, all demonstrations": 85.2},
}
SOURCES = "README of openvla/openvla (3 seeds, 500 rollouts each) and of openpi (2025)"
Outcomes = dict[Key, bool]


def gather(
    comparison: "VlaComparison", folder: Path, command: str, report: Report
) -> dict[str, Any]:
    """Ask the policies about held-out moments, and collect all that was found."""
    models = [_model(comparison, model, folder, report) for model in comparison.models]
    _adjust(models)
    rollouts, floors = comparison.rollouts, {}
    if rollouts is not None:
        record = json.loads((folder / "rollouts" / "floors" / RESULTS).read_text())
        floors = {
            "random": record["overall"],
            **{name: found["overall"] for name, found in record["floors"].items()},
        }
    source = comparison.tuning.source
    found = {
        "kind": KIND,
        "format": FORMAT,
        "title": f"{' and '.join(m.name for m in comparison.models)} with other eyes",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commands": [command],
        "versions": versions() | (rollouts.suite.versions() if rollouts else {}),
        "machine": machine(),
        "commit": commit(),
        "data": {
            "path": str(getattr(source.episodes, "root", "") or type(source.episodes).__name__),
            "demos": source.demos,
            **models[0].pop("data"),
        },
        "budget": {
            "samples": comparison.samples or comparison.tuning.train.samples,
            "seeds": comparison.seeds,
        },
        "suite": None if rollouts is None else rollouts.suite.name,
        "remark": "" if rollouts is None else rollouts.suite.remark,
        "protocol": None if rollouts is None else rollouts.protocol.card(rollouts.suite.name),
        "floors": floors,
        "published": PUBLISHED.get(rollouts.suite.name, {}) if rollouts else {},
        "published_source": SOURCES,
        "models": models,
    }
    for model in models:
        model.pop("data", None)
    detail = "it was trained on these data, dealt otherwise: held-out pictures are not new to it"
    alarms = [
        {"name": "leak", "where": name, "detail": detail} for name in comparison.seen_before()
    ] + _alarms(found)
    return found | {"alarms": alarms, "verdict": verdict(found)}


def _model(
    comparison: "VlaComparison", model: "Model", folder: Path, report: Report
) -> dict[str, Any]:
    arms = comparison.arms()
    seeds = range(comparison.seeds)
    tables: dict[str, dict[str, Table]] = {}
    kept: dict[str, Any] = {}
    report(f"asking about held-out moments: {model.name}")
    for arm in arms:
        runs = [comparison.tuned(folder, model.name, arm.name, seed) for seed in seeds]
        each = [_held_out(comparison, run) for run in runs]
        kept = {key: each[0][key] for key in ("learned", "held_out", "moments", "tasks")}
        names = each[0]["scores"]
        tables[arm.name] = {name: np.array([e["scores"][name] for e in each]) for name in names}
    won = {
        name: _outcomes(comparison, folder, model.name, name, seeds)
        for name in (*(arm.name for arm in arms), "base")
    }
    control, original = arms[1].name, arms[0].name
    fixed = _fixed_losses(comparison.tuned(folder, model.name, control, 0))
    rows = [
        _row(comparison, folder, model.name, arm, tables, won, (control, original), fixed)
        for arm in arms
    ]
    return {
        "name": model.name,
        "base": success.rate(won["base"].values())._asdict() if won["base"] else None,
        "fixed_losses": [{"share": share, "loss": loss} for share, loss in fixed],
        "floors": {
            name.removeprefix("floor/"): _estimate(tables[control][name])
            for name in tables[control]
            if name.startswith("floor/")
        },
        "rows": rows,
        "data": kept,
    }


def _row(
    comparison: "VlaComparison",
    folder: Path,
    model: str,
    arm: "Arm",
    tables: Mapping[str, Mapping[str, Table]],
    won: Mapping[str, Outcomes],
    beside: tuple[str, str],
    fixed: Sequence[tuple[float, float]],
) -> dict[str, Any]:
    """Return what is known of one pair of eyes."""
    runs = [comparison.tuned(folder, model, arm.name, seed) for seed in range(comparison.seeds)]
    results = [json.loads((run / "result.json").read_text()) for run in runs]
    swapped = json.loads((comparison.swapped(folder, model, arm, 0) / "swap.json").read_text())
    curve = _curve(runs[0])
    control, original = beside
    untrained = next((name for name in tables if name.startswith("untrained")), None)
    others = {"control": control, "original": original, "untrained": untrained}
    own = {name: table for name, table in tables[arm.name].items() if "/" not in name}
    return {
        "name": arm.name,
        "mode": arm.swap.mode,
        "fit": swapped["fit"],
        "trained_parameters": results[0]["trained_parameters"],
        "samples_per_second": statistics.median(r["samples_per_second"] for r in results),
        "peak_memory_mb": max(r["peak_memory_mb"] for r in results),
        "samples_to": [_first(curve, loss) for _, loss in fixed],
        "curve": curve,
        "scores": {name: _estimate(table) for name, table in own.items()},
        "loss_beside": {
            what: _difference(own["loss"], tables[other]["loss"])
            for what, other in others.items()
            if other not in (None, arm.name)
        },
        "success": success.rate(won[arm.name].values())._asdict() if won[arm.name] else None,
        "over_seeds": success.over_seeds(won[arm.name]) if won[arm.name] else None,
        "success_beside": {
            what: success.compare(won[arm.name], won[other])._asdict()
            for what, other in others.items()
            if other not in (None, arm.name) and won[arm.name]
        },
        "alarms": [alarm for result in results for alarm in result["alarms"]],
    }


def _held_out(comparison: "VlaComparison", run: Path) -> dict[str, Any]:
    """Return sums by held-out episode of one policy's scores; asked once, then kept."""
    path = run / HELD_OUT
    if path.is_file():
        return json.loads(path.read_text())
    policy = Policy.from_pretrained(run / "policy").to(comparison.device).eval()
    assert isinstance(policy, VlaPolicy)
    source = as_seen(comparison.tuning.source, policy.config.pixels)
    parts = source.open(policy.preprocessing.image_size)
    scores = by_episode(policy, parts)
    found = {
        "learned": len(parts.train.lengths),
        "held_out": len(parts.select.lengths),
        "moments": int(sum(row[0] for row in scores["loss"])),
        "tasks": len(set(parts.train.tasks)),
        "scores": scores,
    }
    write_atomic(path, json.dumps(found, allow_nan=False) + "\n")
    return found


@torch.no_grad()
def by_episode(policy: VlaPolicy, parts: Parts) -> dict[str, list[list[float]]]:
    """Return, of every held-out episode, how many moments were asked about and the sum of a score.

    ``loss`` and what ``policy.scores`` has; ``floor/mean_action`` is the loss without seeing.
    Which moments, and what is random in a loss, are the same for all policies.
    """
    shape = policy.contract
    window = ChunkWindow(history=shape.history, stride=shape.stride, chunk=shape.chunk, every=1)
    sums: dict[str, list[list[float]]] = {}
    device = next(policy.parameters()).device
    for episode in range(len(parts.select.lengths)):
        one = Subset(parts.select, [episode])
        (clip,) = fixed_batches(one, window, parts.cameras, MOMENTS, MOMENTS, seed=0)
        clip: Clip = move(clip, device)
        count = len(clip["text"])
        loss = torch.stack(list(policy.losses(clip).values())).sum()
        found = {"loss": loss, **policy.scores(clip), "floor/mean_action": policy.floors(clip)}
        for name, value in found.items():
            sums.setdefault(name, []).append([float(count), count * float(value)])
    return sums


def _estimate(table: Table) -> dict[str, float]:
    return bootstrap(table, mean_error)._asdict()


def _difference(table: Table, other: Table) -> dict[str, float]:
    return paired_difference(table, other, mean_error)._asdict()


def _outcomes(
    comparison: "VlaComparison", folder: Path, model: str, name: str, seeds: Sequence[int]
) -> Outcomes:
    """Return the outcomes of all seeds; the base has one, and no other is like it."""
    found: Outcomes = {}
    if comparison.rollouts is None:
        return found
    for seed in seeds[:1] if name == "base" else seeds:
        other = load(comparison.rolled(folder, model, name, seed))
        found |= {key._replace(seed=seed): won for key, won in other.outcomes.items()}
    return found


def _curve(run: Path) -> list[list[int | float]]:
    """Return the held-out loss of a fine-tuning by the samples it had seen."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [[line["samples"], line["eval/loss"]] for line in lines if "eval/loss" in line]


def _fixed_losses(control: Path) -> list[tuple[float, float]]:
    """Return the losses that others are timed to: the control's on its way, and at its end."""
    curve = _curve(control)
    end = curve[-1][0]
    found = []
    for share in SHARES:
        reached = [loss for samples, loss in curve if samples <= share * end]
        if reached:
            found.append((share, min(reached)))
    return found


def _first(curve: Sequence[Sequence[int | float]], loss: float) -> int | None:
    """Return after how many samples a loss was reached, None where it never was."""
    return next((int(samples) for samples, found in curve if found <= loss), None)


def _adjust(models: Sequence[Mapping[str, Any]]) -> None:
    """Adjust the p-values of all differences to the control, of losses and of rates apart."""
    for of in ("loss", "success"):
        found = []
        for row in (row for model in models for row in model["rows"]):
            if of == "loss":
                found.append(row["loss_beside"].get("control"))
            else:
                found.append(row["success_beside"].get("control"))
        known = [one for one in found if one is not None]
        for one, p in zip(known, holm([one["p"] for one in known]), strict=True):
            one["p_holm"] = None if isnan(p) else p


def _alarms(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """List what speaks against the numbers."""
    alarms = []
    for model in found["models"]:
        for row in model["rows"]:
            where = f"{model['name']}, {row['name']}"
            alarms += [
                {"name": alarm["name"], "where": where, "detail": alarm["detail"]}
                for alarm in row["alarms"]
            ]
            floor, loss = model["floors"]["mean_action"], row["scores"]["loss"]
            if loss["high"] >= floor["low"]:
                detail = (
                    f"held-out loss {loss['value']:.3g} [{loss['low']:.3g}, {loss['high']:.3g}], "
                    f"without seeing {floor['value']:.3g} [{floor['low']:.3g}, {floor['high']:.3g}]"
                )
                alarms.append({"name": "no better than blind", "where": where, "detail": detail})
        if found["floors"]:
            control = model["rows"][1]["success"]
            random = max(floor["high"] for floor in found["floors"].values())
            name, why = "", ""
            if control["low"] <= random:
                name, why = "no headroom", f"the floors reach up to {100 * random:.0f} %"
            elif control["high"] >= 0.99:
                name, why = "saturated", "no eyes can be shown to be better"
            if name:
                detail = f"the control succeeds in {success.said(success.Rate(**control))}; {why}"
                alarms.append({"name": name, "where": model["name"], "detail": detail})
    idle = found["floors"].get("nothing")
    if idle and idle["successes"]:
        detail = f"{idle['successes']} of {idle['trials']} rollouts succeed without an action"
        alarms.append({"name": "solved by itself", "where": found["suite"], "detail": detail})
    return alarms


def verdict(found: Mapping[str, Any]) -> dict[str, Any]:
    """Say which eyes are shown to be better than the control, and never more than that."""
    acts = found["suite"] is not None
    told, won = [], False
    for model in found["models"]:
        sides = {row["name"]: _side(row, acts) for row in model["rows"][2:]}
        won = won or any(s > 0 for name, s in sides.items() if not name.startswith("untrained"))
        parts = []
        for side, words in ((1, "shown to be better"), (-1, "shown to be worse")):
            if names := [name for name, found_side in sides.items() if found_side == side]:
                parts.append(f"{success.listed(names)} {'are' if names[1:] else 'is'} {words}")
        if names := [name for name, side in sides.items() if side == 0]:
            parts.append(f"no difference is shown of {success.listed(names)}")
        what = "success" if acts else "held-out loss"
        told.append(f"{model['name']}, {what} beside the control: {'; '.join(parts)}.")
    return {"sentence": " ".join(told), "success": won, "details": _details(found)}


def _details(found: Mapping[str, Any]) -> list[str]:
    """List all pairs, and what the intervals are about."""
    details = []
    for model in found["models"]:
        own = [row["name"] for row in model["rows"][:2]]
        for row in model["rows"]:
            where = f"{model['name']}, {row['name']}"
            for what, other in row["loss_beside"].items():
                if what == "original" and row["name"] in own:
                    continue  # the same pair as original minus control
                value, low, high = (f"{other[key]:+.3f}" for key in ("value", "low", "high"))
                details.append(f"{where} minus {what}: held-out loss {value} [{low}, {high}].")
            for what, other in row["success_beside"].items():
                if what == "original" and row["name"] in own:
                    continue
                pair = {name: other[name] for name in success.Paired._fields}
                paired = success.told(success.Paired(**pair))
                details.append(f"{where} minus {what}: {paired}.")
    seeds = found["budget"]["seeds"]
    if seeds > 1:
        details.append(f"Rollouts and moments of {seeds} fine-tunings are counted together.")
    if seeds < 3:
        details.append(
            f"{seeds} fine-tuning{'s' if seeds > 1 else ''} of each: intervals are about rollouts "
            "and held-out demonstrations, not about other trainings; a claim about those needs "
            "--seeds 3."
        )
    return details


def _side(row: Mapping[str, Any], acts: bool) -> int:
    """Return 1 where a row is shown to be better than the control, -1 worse, else 0."""
    found = row["success_beside" if acts else "loss_beside"]["control"]
    sure = found["p_holm"] is not None and found["p_holm"] < success.LEVEL
    sign = 1 if acts else -1
    if not sure or found["low"] <= 0 <= found["high"]:
        return 0
    return sign if found["value"] > 0 else -sign
