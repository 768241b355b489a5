"""One optimizer step: gradients over the slices of a batch, a look at them, the update."""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from saccade import sabotage
from saccade.train import trouble
from saccade.train.evaluate import autocast, part
from saccade.train.layout import whole
from saccade.train.optim import learning_rate, set_rate
from saccade.train.run import Run
from saccade.types import Clip


class Result(NamedTuple):
    """What a step came to, on this rank but for the norm."""

    loss: float
    norm: float
    rate: float
    scalars: dict[str, Tensor]
    norms: dict[str, float]  # of the gradients of each network, where they will be recorded


def update(run: Run, clip: Clip) -> Result | None:
    """Make one optimizer step; None where it was left out (``trouble.py``).

    Raises:
        NumericError: a number is not finite on any rank, and the run is to stop there.
    """
    config, ranks = run.config, run.ranks
    number = run.step + 1
    seed = np.random.SeedSequence((config.seed, number, ranks.rank)).generate_state(1, np.uint64)
    torch.manual_seed(int(seed[0] >> 1))
    half = config.precision == "float16"
    kept = trouble.keep_buffers(run.objective) if half or config.on_nan != "stop" else []
    with ranks.hearing():
        loss, scalars = _backward(run, clip)
    gradients = [p.grad for p in run.objective.parameters() if p.grad is not None]
    if (spoiled := sabotage.spoil("gradient", gradients[0], step=number)) is not gradients[0]:
        gradients[0].copy_(spoiled)
    if half:
        for gradient in gradients:
            gradient.div_(run.scale.value)
    total = nn.utils.get_total_norm(gradients)
    value, norm = torch.stack([loss, whole(total)]).tolist()
    if config.spike:
        value = sum(ranks.gather(value)) / ranks.world
    overflow, wrong, leap = ranks.agree(
        not math.isfinite(norm), not math.isfinite(value), run.mean.leaps(value, config.spike)
    )
    if half:
        run.scale.update(not overflow)
    if half and overflow and not wrong and not run.scale.hopeless:
        trouble.leave_out(run, number, kept)
        return None
    if overflow or wrong or leap:
        trouble.meet(run, number, value, norm, clip, kept)
        return None
    run.mean.add(value)
    recorded = number % config.log_every == 0 or number == config.steps
    norms = _norms(run) if recorded else {}
    nn.utils.clip_grads_with_norm_(run.objective.parameters(), config.grad_clip, total)
    rate = learning_rate(
        number,
        config.steps,
        config.lr,
        config.warmup,
        config.min_lr,
        start_lr=config.start_lr,
        schedule=config.schedule,
        cooldown=config.cooldown,
    )
    set_rate(run.optimizer, rate)
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.objective.after_step(number)
    run.step = number
    sabotage.at("step", step=number)
    return Result(value, norm, rate, scalars, norms)


def averaged(run: Run, result: Result) -> dict[str, float]:
    """Return a step's scalars, averaged over ranks."""
    mine = {"loss": result.loss} | {name: float(value) for name, value in result.scalars.items()}
    ranks = run.ranks.gather(mine)
    means = {f"train/{name}": sum(r[name] for r in ranks) / len(ranks) for name in mine}
    return {"lr": result.rate, **means, "grad_norm": result.norm, **result.norms}


def _norms(run: Run) -> dict[str, float]:
    """Return the norm of the gradients of each network, before they are clipped."""
    gradients = {
        name: [p.grad for p in network.parameters() if p.grad is not None]
        for name, network in run.objective.named_children()
    }
    return {
        f"grad_norm/{name}": float(whole(nn.utils.get_total_norm(found)))
        for name, found in gradients.items()
        if found
    }


def _backward(run: Run, clip: Clip) -> tuple[Tensor, dict[str, Tensor]]:
    """Add up gradients over the slices of a batch, each weighted by its share of the samples."""
    count, slices = len(clip["gap"]), run.config.accumulate
    assert count * run.ranks.world == run.config.batch_size, "a batch is an equal share"
    total, means = torch.zeros((), device=run.ranks.device), {}
    for low, high in pairwise(count * i // slices for i in range(slices + 1)):
        sabotage.at("forward", step=run.step + 1)
        share = (high - low) / count
        with run.spread.averaging(high == count):
            with autocast(run.config.precision, run.ranks.device):
                loss, scalars = run.spread.model(part(clip, low, high))
            loss = sabotage.spoil("loss", loss, step=run.step + 1)
            factor = run.scale.value if run.config.precision == "float16" else 1.0
            (loss * (share * factor)).backward()
        total += loss.detach() * share
        for name, value in scalars.items():
            means[name] = means.get(name, 0) + value * share
    return total, means
