"""Scores on held-out clips: the same clips, gaps and masks every time, on any number of ranks.

Scores are means over samples:

    eval/loss, eval/TERM        what the objective returns
    eval/BASELINE               the loss of a trivial prediction, such as copying the first frame
    eval/ratio                  loss over the first baseline: 1 means that nothing was learned
    features/EXPORT/...         how the exported encoder's features differ between samples
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor

from saccade.errors import NumericError
from saccade.nn.spread import spread
from saccade.train.alarms import features, looking
from saccade.train.distributed import Ranks
from saccade.types import Clip, Objective


def move(clip: Clip, device: torch.device) -> Clip:
    """Copy the tensors of a batch to a device."""
    moved = {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in clip.items()
    }
    return cast(Clip, moved)


def part(clip: Clip, low: int, high: int) -> Clip:
    """Take some samples of a batch."""
    fields = cast(dict[str, Any], clip)
    return cast(Clip, {name: value[low:high] for name, value in fields.items()})


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Compute in mixed precision where that was asked for."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, getattr(torch, precision))


class CutShortError(Exception):
    """Somebody asked for an end before all clips were scored."""


def evaluate(
    objective: Objective,
    held_out: Sequence[Clip],
    precision: str,
    ranks: Ranks,
    asked: Callable[[], int] = lambda: 0,
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return the scores, and the features of every sample by export.

    Raises:
        NumericError: a score is not finite.
        CutShortError: ``asked`` was not 0 between two clips, on any rank.
    """
    mine = []
    with looking(objective), torch.no_grad():
        for clip in held_out[ranks.rank :: ranks.world]:
            if asked():
                break
            mine.append(_score(objective, move(clip, ranks.device), precision))
    if ranks.agree(asked())[0]:
        raise CutShortError
    shares = ranks.gather(mine)
    parts = [shares[i % ranks.world][i // ranks.world] for i in range(len(held_out))]
    counts = [count for count, _, _ in parts]
    scores = {
        name: sum(count * values[name] for count, values, _ in parts) / sum(counts)
        for name in parts[0][1]
    }
    baselines = [name for name in scores if name.startswith("baseline/")]
    pooled = {name: torch.cat([found[name] for _, _, found in parts]) for name in parts[0][2]}
    record = {f"eval/{name.removeprefix('baseline/')}": value for name, value in scores.items()}
    if baselines and "ratio" not in scores:  # an objective may know which part to compare
        # a baseline of exactly 0 (nothing moves) must not divide
        record["eval/ratio"] = scores["loss"] / max(scores[baselines[0]], 1e-12)
    for name, value in record.items():
        if not math.isfinite(value):
            raise NumericError(f"{name} is {value} on the held-out clips; the weights are unusable")
    for name, samples in pooled.items():
        record |= {f"features/{name}/{key}": value for key, value in spread(samples).items()}
    return record, pooled


def _score(
    objective: Objective, clip: Clip, precision: str
) -> tuple[int, dict[str, float], dict[str, Tensor]]:
    torch.manual_seed(0)  # for an objective whose noise does not come from clip["key"]
    with autocast(precision, clip["video"].device):
        loss, terms = objective(clip)
        baselines = objective.baselines(clip)
    values = {"loss": loss, **terms, **{f"baseline/{k}": v for k, v in baselines.items()}}
    scores = {name: float(value) for name, value in values.items()}
    return len(clip["gap"]), scores, features(objective, clip)
