"""The training loop. It knows objectives and batches; it knows no model and no data set.

Order, noise and learning rate are functions of the seed and the step, so a run that was killed
and resumed repeats the uninterrupted one: on a CPU bit for bit. A run folder holds

    metrics.jsonl    loss, terms, learning rate, gradient norm, held-out scores
    timing.jsonl     samples per second, share of data wait, peak memory, seconds
    alarms.json      what ``alarms.py`` found
    checkpoints/     what a resume needs
    NAME/            each export of the objective at the end, best/NAME at its best held-out loss
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch

from saccade import __version__, sabotage
from saccade.checkpoint import load_weights
from saccade.errors import ConfigError, SaccadeError
from saccade.train import alarms, checkpoint
from saccade.train.alarms import Alarm
from saccade.train.config import TrainConfig
from saccade.train.distributed import join
from saccade.train.evaluate import CutShortError, autocast, evaluate, move, part
from saccade.train.log import Log, Meter, Progress, peak_memory_mb, truncate
from saccade.train.optim import adamw, load_moments
from saccade.train.run import Mean, Run
from saccade.train.scaling import LossScale
from saccade.train.signals import Stop, stopping
from saccade.train.step import averaged, update
from saccade.types import Clip, Objective

Resume = bool | Literal["auto"]
ALARM_SAMPLES = 8  # enough to see a leak or a dead module, whatever the size of a held-out clip


@runtime_checkable
class Batches(Protocol):
    """A source of batches whose order is a function of the seed and the epoch only."""

    @property
    def samples_per_epoch(self) -> int:
        """How many samples one pass over the data has."""
        ...

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


def train(
    objective: Objective,
    data: Batches,
    held_out: Sequence[Clip],
    config: TrainConfig,
    run_dir: Path,
    *,
    identity: Mapping[str, Any],
    resume: Resume = False,
    allow_change: Sequence[str] = (),
    progress: Callable[[Progress], None] | None = None,
    card: str = "",
    stop: Stop | None = None,
) -> Summary:
    """Minimise an objective and leave a run folder.

    ``identity`` is what must not change between a run and its resume beside the training
    config: the objective's config, the data's fingerprint. ``card`` is the exports' model card.
    ``allow_change`` names fields of both that may differ. With ``resume="auto"`` an older
    checkpoint will do where the newest is damaged. ``stop`` handles signals, where the caller
    does already.

    Raises:
        ConfigError: settings that cannot work, or a folder that holds a run, without ``resume``.
        CheckpointError: the checkpoint is of another experiment, or damaged.
        NumericError: a loss or gradient is not finite; weights are those of the step before.
        SpaceError: a file does not fit on the disk; the last checkpoint is intact.
        BusyError: another process trains in this folder.
        Stopped: SIGTERM, SIGUSR1 or SIGINT came; the state was saved.
    """
    with ExitStack() as stack:
        stop = stack.enter_context(stopping() if stop is None else nullcontext(stop))
        ranks = stack.enter_context(join(config.device, config.rank_timeout))
        config.require_workable(ranks.world)
        if not held_out:
            raise ConfigError("held_out is empty; evaluation and alarms need at least one clip")
        if ranks.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(ranks.device)
        run = Run(
            objective=objective.to(ranks.device),
            optimizer=adamw(
                objective, config.lr, config.weight_decay, config.betas, config.optimizer
            ),
            config=config,
            held_out=held_out,
            ranks=ranks,
            folder=run_dir,
            identity={**identity, "train": config.fixed(), "versions": versions()},
            card=card,
            progress=progress or (lambda _: None),
            meter=Meter(config.batch_size, window=config.log_every),
            stop=stop,
        )
        ranks.on_main(lambda: stack.enter_context(checkpoint.lock(run_dir)))
        _open(run, data, resume, allow_change)
        ranks.on_main(lambda: _start_log(run, stack))
        ranks.on_main(lambda: _ring(run, *_look(run, "warning")))
        with stop.deferred():
            _loop(run, data)
        stop.state = f"all {config.steps} steps are done and saved in {run_dir}; resume to finish"
        return _finish(run)


def _open(run: Run, data: Batches, resume: Resume, allow_change: Sequence[str]) -> None:
    """Start a new run, or restore the newest checkpoint of an old one."""
    metrics = run.folder / "metrics.jsonl"

    def find() -> tuple[Path | None, list[str]]:
        started = metrics.exists() and metrics.stat().st_size > 0
        if not resume and (started or checkpoint.steps(run.folder)):
            raise ConfigError(f"{run.folder} holds a run; resume it or choose another folder")
        return checkpoint.newest(run.folder, fall_back=resume == "auto")

    folder, notes = run.ranks.on_main(find)
    if folder is not None:
        saved = run.ranks.together(lambda: checkpoint.read(folder))
        was = saved.state["identity"]
        was = {"versions": run.identity["versions"], **was}  # unknown before they were kept
        notes += checkpoint.require_same(was, run.identity, folder, allow_change)
        load_weights(run.objective, saved.objective, str(folder))
        load_moments(run.objective, run.optimizer, saved.optimizer, str(folder))
        run.step = saved.state["step"]
        if saved.state["best"] is not None:
            run.best_step, run.best_loss = saved.state["best"]
        run.pending = saved.state.get("pending")
        run.skipped = saved.state.get("skipped", 0)
        run.mean = Mean(**saved.state.get("mean", {}))
        run.scale = LossScale(**saved.state.get("scale", {}))
        epoch, samples = divmod(run.step * run.config.batch_size, data.samples_per_epoch)
        notes.append(
            f"resumed from step {run.step} of {run.config.steps} (sha256 {saved.digest[:8]}), "
            f"{samples} samples into epoch {epoch + 1}"
        )
    elif resume:
        notes.append(f"{run.folder} has no checkpoint: a new run begins")
    unfinished = run.ranks.on_main(lambda: checkpoint.tidy(run.folder))
    for note in [*(f"ignored incomplete {name}" for name in unfinished), *notes]:
        run.show(note=note)
    run.ranks.on_main(lambda: truncate(metrics, run.step if folder else -1))


def versions() -> dict[str, str]:
    """Return what decides, beside the settings, which numbers come out."""
    return {"saccade": __version__, "torch": torch.__version__}


def _start_log(run: Run, stack: ExitStack) -> None:
    board = run.folder / "tensorboard" if run.config.tensorboard else None
    run.log = Log(run.folder, board, warn=lambda note: run.show(note=note))
    stack.callback(run.log.close)


def _loop(run: Run, data: Batches) -> None:
    config, ranks = run.config, run.ranks
    model = ranks.wrap(run.objective.train())
    batches = data.batches(run.step)
    if run.step == 0:
        run.pending = {}
    if run.pending is not None:
        _settle(run, run.pending)
    while run.step < config.steps:
        began = time.perf_counter()
        clip = ranks.together(lambda: _next(batches, run))
        waited = time.perf_counter() - began
        run.obey()
        assert clip is not None
        result = update(run, model, move(clip, ranks.device))
        run.meter.add(time.perf_counter() - began, waited)
        run.show(result.loss if result else None)
        _settle(run, averaged(run, result) if result and run.due(config.log_every) else {})
    run.obey()


def _next(batches: Iterator[Clip], run: Run) -> Clip | None:
    """Wait for a batch; None where the signal that stops this run stopped its loader first."""
    sabotage.at("wait", step=run.step)
    try:
        return next(batches)
    except (RuntimeError, SaccadeError):
        if not run.stop.number:
            raise
        return None


def _settle(run: Run, record: dict[str, float]) -> None:
    """Score the weights, write the record and a checkpoint, each where it is due."""
    improved = False
    if run.due(run.config.eval_every):
        run.pending = record
        _evaluate(run)
        assert run.scores is not None
        record, run.pending = record | run.scores, None
        improved = run.step > 0 and run.scores["eval/loss"] < run.best_loss
        if improved:
            run.best_step, run.best_loss = run.step, run.scores["eval/loss"]
    if record:
        run.record(record)
    if run.step and (improved or run.due(run.config.save_every)):
        run.ranks.on_main(run.save)


def _evaluate(run: Run) -> None:
    """Score this step on the held-out clips; a signal need not wait for the end of it."""
    sabotage.at("eval", step=run.step)
    try:
        run.scores, run.pooled = evaluate(
            run.objective,
            run.held_out,
            run.config.precision,
            run.ranks,
            lambda: run.stop.number,
        )
    except CutShortError:
        run.obey()
        raise


def _look(run: Run, severity: alarms.Severity) -> tuple[list[Alarm], dict[str, float]]:
    """Look for what can be seen before any training, with the numbers behind it."""
    sabotage.at("look", step=run.step)
    config, ranks = run.config, run.ranks
    slice_of_a_step = max(1, config.batch_size // ranks.world // config.accumulate)
    samples = min(ALARM_SAMPLES, slice_of_a_step)  # no more memory than a step takes
    clip = move(part(run.held_out[0], 0, samples), ranks.device)
    with autocast(config.precision, ranks.device):
        dead, numbers = alarms.dead_gradients(run.objective, clip, severity)
        return alarms.leak(run.objective, clip) + dead, numbers


def _ring(run: Run, found: list[Alarm], numbers: Mapping[str, float]) -> None:
    for alarm in found:
        run.show(note=f"ALARM {alarm.name} ({alarm.severity}): {alarm.detail}")
    alarms.write(run.folder / "alarms.json", found, numbers)


def _finish(run: Run) -> Summary:
    """Look for every alarm and export what outlives training."""
    if run.scores is None:  # all steps were done before
        _evaluate(run)
    assert run.scores is not None
    assert run.pooled is not None
    scores, pooled = run.scores, run.pooled

    def close() -> Summary:
        found, numbers = _look(run, "error")
        found += alarms.trivial(scores)
        for name, samples in pooled.items():
            found += alarms.collapse(name, samples)
        _ring(run, found, numbers | scores)
        sabotage.at("export", step=run.step)
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
