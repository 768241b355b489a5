"""The training loop. It knows objectives and batches; it knows no model and no data set.

Order, noise and learning rate are functions of the seed and the step, so a run that was killed
and resumed repeats the uninterrupted one: on a CPU bit for bit. A run folder holds

    metrics.jsonl    loss, terms, learning rate, gradient norm, held-out scores
    timing.jsonl     samples per second, share of data wait, peak memory, seconds
    alarms.json      what ``alarms.py`` found
    checkpoints/     what a resume needs
    NAME/            each export of the objective at the end, best/NAME at its best held-out loss
"""

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from saccade.checkpoint import load_weights
from saccade.errors import ConfigError, NumericError, Stopped
from saccade.train import alarms, checkpoint
from saccade.train.alarms import Alarm
from saccade.train.config import TrainConfig
from saccade.train.distributed import Ranks, join, signals
from saccade.train.evaluate import autocast, evaluate, move, part
from saccade.train.log import Log, Meter, Progress, peak_memory_mb, truncate
from saccade.train.optim import adamw, learning_rate, load_moments, moments
from saccade.types import Clip, Objective

ALARM_SAMPLES = 8  # enough to see a leak or a dead module, whatever the size of a held-out clip


@runtime_checkable
class Batches(Protocol):
    """A source of batches whose order is a function of the seed and the epoch only."""

    def batches(self, first_step: int) -> Iterator[Clip]:
        """Yield this rank's equal share of every global batch, for ever, from a step (0-based)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a finished run came to. ``samples_per_second`` is that of the last process."""

    steps: int
    samples: int
    scores: dict[str, float]
    best_step: int
    best_loss: float
    alarms: list[Alarm]
    exports: dict[str, Path]
    samples_per_second: float
    peak_memory_mb: float


@dataclass
class _Run:
    """The loop between two steps."""

    objective: Objective
    optimizer: torch.optim.Optimizer
    config: TrainConfig
    held_out: Sequence[Clip]
    ranks: Ranks
    folder: Path
    identity: Mapping[str, Any]
    card: str
    progress: Callable[[Progress], None]
    meter: Meter
    step: int = 0  # steps done
    best_step: int = 0
    best_loss: float = math.inf
    log: Log | None = None  # on rank 0

    def due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.config.steps

    def show(self, loss: float | None = None, note: str = "") -> None:
        if self.ranks.rank == 0:
            self.progress(self.meter.progress(self.step, self.config.steps, loss, note))


def train(
    objective: Objective,
    data: Batches,
    held_out: Sequence[Clip],
    config: TrainConfig,
    run_dir: Path,
    *,
    identity: Mapping[str, Any],
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    card: str = "",
) -> Summary:
    """Minimise an objective and leave a run folder.

    ``identity`` is what must not change between a run and its resume beside the training
    config: the objective's config, the data's fingerprint. ``card`` is the exports' model card.

    Raises:
        ConfigError: settings that cannot work, or a folder that holds a run, without ``resume``.
        CheckpointError: the checkpoint is of another experiment, or none is intact.
        NumericError: a loss or gradient is not finite; weights are those of the step before.
        SpaceError: a file does not fit on the disk; the last checkpoint is intact.
        BusyError: another process trains in this folder.
        Stopped: SIGTERM or SIGINT came; the state was saved.
    """
    with ExitStack() as stack:
        received = stack.enter_context(signals())
        ranks = stack.enter_context(join(config.device))
        config.require_workable(ranks.world)
        if not held_out:
            raise ConfigError("held_out is empty; evaluation and alarms need at least one clip")
        if ranks.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(ranks.device)
        run = _Run(
            objective=objective.to(ranks.device),
            optimizer=adamw(
                objective, config.lr, config.weight_decay, config.betas, config.optimizer
            ),
            config=config,
            held_out=held_out,
            ranks=ranks,
            folder=run_dir,
            identity={**identity, "train": config.fixed()},
            card=card,
            progress=progress or (lambda _: None),
            meter=Meter(config.batch_size, window=config.log_every),
        )
        ranks.on_main(lambda: stack.enter_context(checkpoint.lock(run_dir)))
        _open(run, resume)
        ranks.on_main(lambda: _start_log(run, stack))
        ranks.on_main(lambda: _ring(run, *_look(run, "warning")))
        _loop(run, data, received)
        summary = _finish(run)
        _obey(run, received)
        return summary


def _open(run: _Run, resume: bool) -> None:
    """Start a new run, or restore the newest intact checkpoint of an old one."""
    metrics = run.folder / "metrics.jsonl"

    def find() -> tuple[Path | None, list[str]]:
        started = metrics.exists() and metrics.stat().st_size > 0
        if not resume and (started or checkpoint.steps(run.folder)):
            raise ConfigError(f"{run.folder} holds a run; resume it or choose another folder")
        return checkpoint.newest(run.folder)

    folder, notes = run.ranks.on_main(find)
    if folder is not None:
        saved = run.ranks.together(lambda: checkpoint.read(folder))
        checkpoint.require_same(saved.state["identity"], run.identity, folder)
        load_weights(run.objective, saved.objective, str(folder))
        load_moments(run.objective, run.optimizer, saved.optimizer, str(folder))
        run.step = saved.state["step"]
        if saved.state["best"] is not None:
            run.best_step, run.best_loss = saved.state["best"]
        notes.append(f"resumed from step {run.step} of {run.config.steps}")
    for note in notes:
        run.show(note=note)

    def clear() -> None:
        checkpoint.tidy(run.folder)
        truncate(metrics, run.step if folder else -1)

    run.ranks.on_main(clear)


def _start_log(run: _Run, stack: ExitStack) -> None:
    board = run.folder / "tensorboard" if run.config.tensorboard else None
    run.log = Log(run.folder, board, warn=lambda note: run.show(note=note))
    stack.callback(run.log.close)


def _loop(run: _Run, data: Batches, received: Callable[[], int]) -> None:
    config, ranks = run.config, run.ranks
    model = ranks.wrap(run.objective.train())
    batches = data.batches(run.step)
    if run.step == 0:
        scores, _ = evaluate(run.objective, run.held_out, config.precision, ranks)
        _record(run, scores)
    while run.step < config.steps:
        began = time.perf_counter()
        clip = ranks.together(lambda: _next(batches, received))
        waited = time.perf_counter() - began
        _obey(run, received)
        assert clip is not None
        result = _update(run, model, move(clip, ranks.device))
        run.meter.add(time.perf_counter() - began, waited)
        run.show(result.loss)
        record, improved = {}, False
        if run.due(config.log_every):
            record |= _averaged(run, result)
        if run.due(config.eval_every):
            scores, _ = evaluate(run.objective, run.held_out, config.precision, ranks)
            record |= scores
            improved = scores["eval/loss"] < run.best_loss
            if improved:
                run.best_step, run.best_loss = run.step, scores["eval/loss"]
        if record:
            _record(run, record)
        if improved or run.due(config.save_every):
            ranks.on_main(lambda: _save(run))


def _next(batches: Iterator[Clip], received: Callable[[], int]) -> Clip | None:
    """Wait for a batch; None where the signal that stops this run stopped its loader first."""
    try:
        return next(batches)
    except RuntimeError:  # how torch tells that a worker is gone
        if not received():
            raise
        return None


def _obey(run: _Run, received: Callable[[], int]) -> None:
    """Save and stop if a signal came to any rank. Between steps only."""
    (number,) = run.ranks.agree(received())
    if not number:
        return

    def save() -> None:
        if run.step and run.step not in checkpoint.steps(run.folder):
            _save(run)

    run.ranks.on_main(save)
    name, code = ("SIGTERM", 75) if number == signal.SIGTERM else ("Ctrl-C", 130)
    raise Stopped(
        f"{name} came; {run.step} of {run.config.steps} steps are done and saved in {run.folder}; "
        "resume to go on",
        code,
    )


class _Result(NamedTuple):
    loss: float
    norm: float
    rate: float
    scalars: dict[str, Tensor]


def _update(run: _Run, model: nn.Module, clip: Clip) -> _Result:
    """Make one optimizer step, or none where a number is not finite on any rank."""
    config, ranks = run.config, run.ranks
    number = run.step + 1
    seed = np.random.SeedSequence((config.seed, number, ranks.rank)).generate_state(1, np.uint64)
    torch.manual_seed(int(seed[0] >> 1))
    loss, scalars = _backward(run, model, clip)
    gradients = [p.grad for p in run.objective.parameters() if p.grad is not None]
    total = nn.utils.get_total_norm(gradients)
    value, norm = torch.stack([loss, total]).tolist()
    if ranks.agree(not (math.isfinite(value) and math.isfinite(norm)))[0]:
        raise NumericError(_diagnosis(run, number, value, norm, clip))
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
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.objective.after_step(number)
    run.step = number
    return _Result(value, norm, rate, scalars)


def _backward(run: _Run, model: nn.Module, clip: Clip) -> tuple[Tensor, dict[str, Tensor]]:
    """Add up gradients over the slices of a batch, each weighted by its share of the samples."""
    count, slices = len(clip["gap"]), run.config.accumulate
    assert count * run.ranks.world == run.config.batch_size, "a batch is an equal share"
    total, means = torch.zeros((), device=run.ranks.device), {}
    for low, high in pairwise(count * i // slices for i in range(slices + 1)):
        share = (high - low) / count
        with run.ranks.averaging(model, high == count):
            with autocast(run.config.precision, run.ranks.device):
                loss, scalars = model(part(clip, low, high))
            (loss * share).backward()
        total += loss.detach() * share
        for name, value in scalars.items():
            means[name] = means.get(name, 0) + value * share
    return total, means


def _diagnosis(run: _Run, number: int, loss: float, norm: float, clip: Clip) -> str:
    with autocast(run.config.precision, run.ranks.device):
        where = alarms.first_non_finite(run.objective, clip)
    episodes = sorted(set(clip["episode"].tolist()))
    told = run.ranks.gather((where, episodes))
    where, episodes = next((t for t in told if t[0]), told[0])
    last = checkpoint.steps(run.folder)
    kept = f"step {last[-1]}" if last else "none yet"
    return (
        f"step {number} has loss {loss} and gradient norm {norm}; first not finite: "
        f"{where or alarms.first_bad_gradient(run.objective)}; episodes in the batch: {episodes}; "
        f"the update was not made, last checkpoint: {kept}; look at these episodes or lower lr"
    )


def _averaged(run: _Run, result: _Result) -> dict[str, float]:
    """Return a step's scalars, averaged over ranks."""
    mine = {"loss": result.loss} | {name: float(value) for name, value in result.scalars.items()}
    ranks = run.ranks.gather(mine)
    means = {f"train/{name}": sum(r[name] for r in ranks) / len(ranks) for name in mine}
    return {"lr": result.rate, **means, "grad_norm": result.norm}


def _record(run: _Run, record: Mapping[str, float]) -> None:
    if run.log is not None:
        samples = run.step * run.config.batch_size
        run.log.metrics({"step": run.step, "samples": samples, **record})
        run.log.timing({"step": run.step, **run.meter.record(run.ranks.device)})


def _save(run: _Run) -> None:
    if run.log is not None:  # a checkpoint must not outlive the records before it
        run.log.sync()
    if run.best_step == run.step:
        run.objective.save_exports(run.folder / "best", run.card, run.step)
    best = [run.best_step, run.best_loss] if run.best_step else None
    state = {"step": run.step, "best": best, "identity": run.identity}
    weights = run.objective.state_dict()
    checkpoint.save(run.folder, weights, moments(run.objective, run.optimizer), state)
    checkpoint.prune(run.folder, run.config.keep, {run.step, run.best_step})


def _look(run: _Run, severity: alarms.Severity) -> tuple[list[Alarm], dict[str, float]]:
    """Look for what can be seen before any training, with the numbers behind it."""
    config, ranks = run.config, run.ranks
    slice_of_a_step = max(1, config.batch_size // ranks.world // config.accumulate)
    samples = min(ALARM_SAMPLES, slice_of_a_step)  # no more memory than a step takes
    clip = move(part(run.held_out[0], 0, samples), ranks.device)
    with autocast(config.precision, ranks.device):
        dead, numbers = alarms.dead_gradients(run.objective, clip, severity)
        return alarms.leak(run.objective, clip) + dead, numbers


def _ring(run: _Run, found: list[Alarm], numbers: Mapping[str, float]) -> None:
    for alarm in found:
        run.show(note=f"ALARM {alarm.name} ({alarm.severity}): {alarm.detail}")
    alarms.write(run.folder / "alarms.json", found, numbers)


def _finish(run: _Run) -> Summary:
    """Look for every alarm and export what outlives training."""
    scores, pooled = evaluate(run.objective, run.held_out, run.config.precision, run.ranks)

    def close() -> Summary:
        found, numbers = _look(run, "error")
        found += alarms.trivial(scores)
        for name, samples in pooled.items():
            found += alarms.collapse(name, samples)
        _ring(run, found, numbers | scores)
        return Summary(
            steps=run.step,
            samples=run.step * run.config.batch_size,
            scores=scores,
            best_step=run.best_step,
            best_loss=run.best_loss,
            alarms=found,
            exports=run.objective.save_exports(run.folder, run.card, run.step),
            samples_per_second=run.meter.overall,
            peak_memory_mb=peak_memory_mb(run.ranks.device),
        )

    return run.ranks.on_main(close)
