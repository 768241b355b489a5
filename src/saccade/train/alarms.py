"""Alarms for the ways in which a representation run fools its owner.

    leak             an input path that should not know the target changes with the target
    trivial          the loss is no better than a trivial prediction's, such as copying
    too good         the loss is below a fiftieth of that: look for a leak
    collapse         features hardly vary between samples, or along one direction only
    dead gradients   no term of the loss gives a module a gradient

Alarms look; they never change weights, gradients or buffers.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from saccade.checkpoint import write_atomic
from saccade.nn.spread import spread
from saccade.types import Clip, Objective

# A pooled ViT with random weights keeps a spread of 1e-2 and more on near-identical robot images;
# features that an objective drove to a constant are at rounding noise, 1e-6.
SPREAD = 1e-3
RANK = 2.0  # one direction is 1; even a toy world moves in two
RANK_NEEDS = 8  # samples and dimensions below which a rank says nothing
NO_BETTER, TOO_GOOD = 0.98, 0.02  # of the first baseline's loss

Severity = Literal["warning", "error"]


@dataclass(frozen=True)
class Alarm:
    """One finding; an ``error`` makes a run's numbers meaningless."""

    name: str
    severity: Severity
    detail: str


@contextmanager
def looking(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode for a while, so that looking leaves no trace."""
    before = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(before)


def leak(objective: Objective, clip: Clip) -> list[Alarm]:
    """Replace the target's pixels, or kept features, and see which input paths notice."""
    blind = objective.without_target(clip)
    what, name = ("feature", "features") if "features" in clip else ("pixel", "video")
    pairs = [[cast(dict[str, Any], each)[n] for each in (blind, clip)] for n in (name, "action")]
    if all(torch.equal(*pair) for pair in pairs):
        detail = f"without_target changed no {what} and no command, so a leak could not be seen"
        return [Alarm("leak", "error", detail)]
    with looking(objective), torch.no_grad():
        torch.manual_seed(0)
        seen = objective.inputs(clip)
        torch.manual_seed(0)
        unseen = objective.inputs(blind)
    return [
        Alarm("leak", "error", f"input {name!r} depends on the target that is to be predicted")
        for name in seen
        if name not in objective.sees_target and not torch.equal(seen[name], unseen[name])
    ]


def dead_gradients(
    objective: Objective, clip: Clip, severity: Severity
) -> tuple[list[Alarm], dict[str, float]]:
    """Measure the gradient norm that each term of the loss gives to each top-level module.

    At the start of training a module behind a zero-initialised layer has no gradient yet, so
    the caller says how severe a zero is; a norm that is not finite is always an error.
    """
    learned = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    norms: dict[str, dict[str, float]] = defaultdict(dict)
    with looking(objective), torch.enable_grad():
        torch.manual_seed(0)
        terms = objective.terms(clip)
        for term, value in terms.items():
            if not value.requires_grad:
                continue
            grads = torch.autograd.grad(
                value, list(learned.values()), retain_graph=True, allow_unused=True
            )
            for name, group in _by_module(dict(zip(learned, grads, strict=True))).items():
                norms[name][term] = float(torch.nn.utils.get_total_norm(group)) if group else 0.0
    found = []
    for name in dict.fromkeys(name.partition(".")[0] for name in learned):
        values = norms[name].values()
        if any(value != value or value == float("inf") for value in values):
            found.append(Alarm("dead gradients", "error", f"the gradient of {name} is not finite"))
        elif not any(values):
            told = f"{name} gets no gradient from any of {', '.join(terms)}"
            found.append(Alarm("dead gradients", severity, told))
    flat = {f"gradient/{n}/{term}": v for n, by in norms.items() for term, v in by.items()}
    return found, flat


def _by_module(grads: Mapping[str, Tensor | None]) -> dict[str, list[Tensor]]:
    groups: dict[str, list[Tensor]] = defaultdict(list)
    for name, grad in grads.items():
        groups[name.partition(".")[0]] += [] if grad is None else [grad]
    return groups


def features(objective: Objective, clip: Clip) -> dict[str, Float[Tensor, "b f"]]:
    """Pool what each exported encoder makes of a batch; every view is a sample."""
    pooled = {}
    with torch.no_grad():
        for name, (encoder, _) in objective.exports().items():
            video = clip["video"][:, : encoder.preprocessing.num_frames]
            video = rearrange(video, "b t v c h w -> (b v) t c h w")
            pooled[name] = encoder.pool(encoder(video)).float().cpu()
    return pooled


def collapse(name: str, samples: Float[Tensor, "b f"]) -> list[Alarm]:
    """Say when features are one point or one line. The scatter of a single sample says nothing."""
    if len(samples) < 2:
        return []
    numbers = spread(samples)
    if numbers["std"] < SPREAD:
        detail = (
            f"features of {name} are nearly constant: they vary by {numbers['std']:.1e} of their "
            f"size between {len(samples)} samples (alarm below {SPREAD})"
        )
        return [Alarm("collapse", "error", detail)]
    if min(samples.shape) > RANK_NEEDS and numbers["effective_rank"] < RANK:
        detail = (
            f"features of {name} vary along one direction: effective rank "
            f"{numbers['effective_rank']:.2f} of {min(samples.shape)} (alarm below {RANK})"
        )
        return [Alarm("collapse", "error", detail)]
    return []


def trivial(scores: Mapping[str, float]) -> list[Alarm]:
    """Compare the held-out loss with the first baseline (``eval/ratio``), both ways."""
    ratio = scores.get("eval/ratio")
    if ratio is not None and ratio >= NO_BETTER:
        detail = f"the held-out loss is {ratio:.3f} of a trivial prediction's: nothing was learned"
        return [Alarm("trivial", "warning", detail)]
    if ratio is not None and ratio < TOO_GOOD:
        detail = f"the held-out loss is {ratio:.1e} of a trivial prediction's: look for a leak"
        return [Alarm("too good", "warning", detail)]
    return []


def first_non_finite(objective: Objective, clip: Clip) -> str:
    """Run a batch again and name the first module whose output is not finite, '' if none is."""
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and not all(bool(t.isfinite().all()) for t in _tensors(output)):
                found.append(f"output of {name or type(module).__name__}")

        return hook

    hooks = [m.register_forward_hook(watch(name)) for name, m in objective.named_modules()]
    try:
        with torch.no_grad():
            objective(clip)
    finally:
        for handle in hooks:
            handle.remove()
    return found[0] if found else ""


def first_bad_gradient(module: nn.Module) -> str:
    """Name the first parameter whose gradient is not finite."""
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return f"gradient of {name}"
    return "the norm over all gradients, which overflows"


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)


def write(path: Path, found: Sequence[Alarm], numbers: Mapping[str, float]) -> None:
    """Store the alarms of a run and the numbers behind them."""
    record = {"alarms": [asdict(alarm) for alarm in found], "numbers": dict(numbers)}
    write_atomic(path, json.dumps(record, indent=2) + "\n")
