"""A step that must not be taken: its loss or gradient is not finite, or its loss leaps.

What then happens is ``TrainConfig.on_nan``:

    stop      end the run; the weights are those of the step before, so is the last checkpoint
    skip      leave the batch out and go on
    rewind    take the weights and moments of the newest checkpoint, and go on behind the batch:
              all between the two are left out (Chowdhery et al., 2022,
              https://arxiv.org/abs/2204.02311, section 5.1, with fewer batches)

Each such step leaves ``bad/step-N.json``: its numbers, what was not finite first, its samples.
"""

import json
import math

import torch
from torch import Tensor

from saccade.checkpoint import load_weights, write_atomic
from saccade.errors import NumericError
from saccade.train import alarms, checkpoint
from saccade.train.evaluate import autocast
from saccade.train.optim import load_moments
from saccade.train.run import Run
from saccade.types import Clip, Objective


def keep_buffers(objective: Objective) -> list[Tensor]:
    """Copy what a forward pass may change."""
    return [buffer.clone() for buffer in objective.buffers()]


def leave_out(run: Run, number: int, kept: list[Tensor]) -> None:
    """Go on behind a step as if its batch had not been."""
    run.optimizer.zero_grad()
    with torch.no_grad():
        for buffer, before in zip(run.objective.buffers(), kept, strict=True):
            buffer.copy_(before)
    run.step = number


def meet(run: Run, number: int, loss: float, norm: float, clip: Clip, kept: list[Tensor]) -> None:
    """Do what the policy says with a step that was not taken; all ranks together.

    Raises:
        NumericError: the policy is to stop, or too many steps were left out, or there is no
            checkpoint to go back to.
    """
    config = run.config
    what = _diagnose(run, number, loss, norm, clip)
    run.skipped += 1
    run.settle()
    last = checkpoint.steps(run.folder)
    back = f"step {last[-1]}" if last else "none yet"
    if (
        config.on_nan == "stop"
        or run.skipped > config.most_skipped
        or not (last or config.on_nan == "skip")
    ):
        again = f" after {run.skipped - 1} others" if run.skipped > 1 else ""
        raise NumericError(
            f"{what}; the update was not made{again}, last checkpoint: {back}; look at these "
            "episodes, lower lr, or resume with --train.on-nan skip"
        )
    leave_out(run, number, kept)
    if config.on_nan == "rewind":
        folder, _ = run.ranks.on_main(lambda: checkpoint.newest(run.folder))
        assert folder is not None
        saved = checkpoint.read(folder)
        load_weights(run.objective, saved.objective, str(folder))
        load_moments(run.objective, run.optimizer, saved.optimizer, str(folder))
    gone = f"with the weights of {back}" if config.on_nan == "rewind" else "without it"
    run.show(note=f"{what}; going on {gone} ({run.skipped} of at most {config.most_skipped})")
    run.save()


def _diagnose(run: Run, number: int, loss: float, norm: float, clip: Clip) -> str:
    """Say what is wrong, and write it down with the samples of every rank."""
    with autocast(run.config.precision, run.ranks.device):
        where = alarms.first_non_finite(run.objective, clip)
    samples = {name: clip[name].tolist() for name in ("episode", "gap", "key")}
    told = run.ranks.gather((where, loss, samples))
    where, loss, _ = next((t for t in told if t[0]), told[0])
    leap = math.isfinite(loss) and math.isfinite(norm)
    first = "" if leap else where or alarms.first_bad_gradient(run.objective)
    place = run.folder / "bad" / f"step-{number:08d}.json"
    record = {
        "step": number,
        "loss": str(loss),
        "gradient_norm": str(norm),
        "first_not_finite": first,
        "samples": {name: [v for _, _, s in told for v in s[name]] for name in samples},
    }
    run.ranks.on_main(lambda: write_atomic(place, json.dumps(record, indent=2) + "\n"))
    why = f"above {run.config.spike:g} times its mean" if leap else f"first not finite: {first}"
    episodes = sorted(set(next((s for w, _, s in told if w), told[0][2])["episode"]))
    return (
        f"step {number} has loss {loss} and gradient norm {norm}; {why}; "
        f"episodes in the batch: {episodes}, all samples in {place}"
    )
