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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch

from saccade import __version__, sabotage
from saccade.checkpoint import load_weights
from saccade.errors import ConfigError, SaccadeError
from saccade.nn.batch_norm import SyncedBatchNorm
from saccade.train import alarms, checkpoint
from saccade.train.alarms import Alarm
from saccade.train.checkpoint import Checkpoint
from saccade.train.config import TrainConfig
from saccade.train.cost import flops_per_sample
from saccade.train.distributed import Ranks, join
from saccade.train.evaluate import CutShortError, autocast, evaluate, move, part
from saccade.train.layout import spread
from saccade.train.log import Log, Meter, Progress, peak_memory_mb, truncate
from saccade.train.optim import adamw, load_moments
from saccade.train.run import Mean, Run
from saccade.train.saver import Saver
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
    """What a finished run came to. ``samples_per_second`` is that of the last process.

    ``objective`` is a plain module with the final weights, whatever the layout.
    """

    steps: int
    samples: int
    scores: dict[str, float]
    best_step: int
    best_loss: float
    alarms: list[Alarm]
    exports: dict[str, Path]
    samples_per_second: float
    peak_memory_mb: float
    objective: Objective | None = None


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
    show: Callable[[Objective, int], Mapping[str, Path]] | None = None,
) -> Summary:
    """Minimise an objective and leave a run folder.

    ``identity`` is what must not change between a run and its resume beside the training
    config: the objective's config, the data's fingerprint. ``card`` is the exports' model card.
    ``allow_change`` names fields of both that may differ. With ``resume="auto"`` an older
    checkpoint will do where the newest is damaged. ``stop`` handles signals, where the caller
    does already. ``show`` is given whole networks and the step, every ``config.pictures_every``,
    and returns PNG files by name.

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
        _require_slices(objective, config)
        if not held_out:
            raise ConfigError("held_out is empty; evaluation and alarms need at least one clip")
        if ranks.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(ranks.device)
        ranks.on_main(lambda: stack.enter_context(checkpoint.lock(run_dir)))
        identity = {**identity, "train": config.fixed(), "versions": versions()}
        saved, notes = _find(ranks, run_dir, identity, resume, allow_change)
        objective = objective.to(ranks.device)
        if saved is not None:
            load_weights(objective, saved.objective, str(saved.folder))
        laid = spread(
            objective,
            ranks,
            config.layout,
            config.replicas,
            checkpoint_activations=config.checkpoint_activations,
            compiled=config.compile,
        )
        run = Run(
            spread=laid,
            optimizer=adamw(
                objective, config.lr, config.weight_decay, config.betas, config.optimizer
            ),
            config=config,
            held_out=held_out,
            ranks=ranks,
            folder=run_dir,
            identity=identity,
            card=card,
            progress=progress or (lambda _: None),
            meter=Meter(config.batch_size, window=config.log_every),
            stop=stop,
            saver=Saver(config.save_async),
        )
        stack.callback(run.saver.close)
        _open(run, data, saved, notes)
        ranks.on_main(lambda: _start_log(run, stack))
        batches = data.batches(run.step)  # which workers read while the weights are looked at
        with laid.whole() as plain:
            ranks.on_main(lambda: _ring(run, *_look(run, plain, "warning")))
            ranks.on_main(lambda: _count(run, plain))
        with stop.deferred():
            _loop(run, batches, show or (lambda *_: {}))
        stop.state = f"all {config.steps} steps are done and saved in {run_dir}; resume to finish"
        if run.scores is None:  # all steps were done before
            _evaluate(run)
        return _finish(run, laid.gathered())


def _require_slices(objective: Objective, config: TrainConfig) -> None:
    """Refuse to cut a batch whose statistics the loss needs.

    Raises:
        ConfigError: it would be another loss.
    """
    synced = any(isinstance(module, SyncedBatchNorm) for module in objective.modules())
    if config.accumulate > 1 and (synced or objective.whole_batch):
        raise ConfigError(
            f"accumulate is {config.accumulate}, but {type(objective).__name__} needs statistics "
            "of whole batches (batch norm, variance and covariance terms), which slices do not "
            "have; set it to 1 and train on more ranks, or with --train.checkpoint-activations"
        )


def _find(
    ranks: Ranks,
    run_dir: Path,
    identity: Mapping[str, Any],
    resume: Resume,
    allow_change: Sequence[str],
) -> tuple[Checkpoint | None, list[str]]:
    """Read the newest checkpoint of this run, if there is one, and say what is odd about it."""
    metrics = run_dir / "metrics.jsonl"

    def find() -> tuple[Path | None, list[str]]:
        started = metrics.exists() and metrics.stat().st_size > 0
        if not resume and (started or checkpoint.steps(run_dir)):
            raise ConfigError(f"{run_dir} holds a run; resume it or choose another folder")
        return checkpoint.newest(run_dir, fall_back=resume == "auto")

    folder, notes = ranks.on_main(find)
    if folder is None:
        return None, [f"{run_dir} has no checkpoint: a new run begins"] if resume else []
    saved = ranks.together(lambda: checkpoint.read(folder))
    old = saved.state["identity"]  # which may lack what was added since
    settings = {**TrainConfig().fixed(), **old["train"]}
    was = {"versions": identity["versions"], **old, "train": settings}
    return saved, notes + checkpoint.require_same(was, identity, folder, allow_change)


def _open(run: Run, data: Batches, saved: Checkpoint | None, notes: list[str]) -> None:
    """Start a new run, or restore all of an old one but its weights."""
    if saved is not None:
        load_moments(run.objective, run.optimizer, saved.optimizer, str(saved.folder))
        state, ranks = saved.state, run.ranks.world
        run.step = state["step"]
        if state["best"] is not None:
            run.best_step, run.best_loss = state["best"]
        run.pending, run.skipped = state.get("pending"), state.get("skipped", 0)
        run.mean = Mean(**state.get("mean", {}))
        run.scale = LossScale(**state.get("scale", {}))
        epoch, samples = divmod(run.step * run.config.batch_size, data.samples_per_epoch)
        notes.append(
            f"resumed from step {run.step} of {run.config.steps} (sha256 {saved.digest[:8]}), "
            f"{samples} samples into epoch {epoch + 1}"
        )
        if state.get("world", ranks) != ranks:
            notes.append(
                f"world size {state['world']} -> {ranks}: the order of samples is kept; sums may "
                "round differently"
            )
    unfinished = run.ranks.on_main(lambda: checkpoint.tidy(run.folder))
    run.ranks.on_main(run.prune)  # which a kill may have kept from happening
    for note in [*(f"ignored incomplete {name}" for name in unfinished), *notes]:
        run.show(note=note)
    last = run.step if saved else -1
    run.ranks.on_main(lambda: truncate(run.folder / "metrics.jsonl", last))


def versions() -> dict[str, str]:
    """Return what decides, beside the settings, which numbers come out."""
    return {"saccade": __version__, "torch": torch.__version__}


def _start_log(run: Run, stack: ExitStack) -> None:
    run.log = Log(run.folder, run.config.boards, warn=lambda note: run.show(note=note))
    stack.callback(run.log.close)


def _loop(
    run: Run,
    batches: Iterator[Clip],
    show: Callable[[Objective, int], Mapping[str, Path]],
) -> None:
    config, ranks = run.config, run.ranks
    run.spread.model.train()
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
        result = update(run, move(clip, ranks.device))
        run.meter.add(time.perf_counter() - began, waited)
        run.show(result.loss if result else None)
        _settle(run, averaged(run, result) if result and run.due(config.log_every) else {})
        if config.pictures_every and run.step % config.pictures_every == 0:
            with run.spread.whole() as plain, alarms.looking(plain):
                ranks.on_main(lambda: _show(run, show(plain, run.step)))
    run.obey()
    run.settle()


def _show(run: Run, pictures: Mapping[str, Path]) -> None:
    if run.log is not None:
        run.log.pictures(pictures, run.step)


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
        run.save()


def _evaluate(run: Run) -> None:
    """Score this step on the held-out clips; a signal need not wait for the end of it."""
    sabotage.at("eval", step=run.step)
    try:
        with run.spread.whole() as objective:
            run.scores, run.pooled = evaluate(
                objective,
                run.held_out,
                run.config.precision,
                run.ranks,
                lambda: run.stop.number,
            )
    except CutShortError:
        run.obey()
        raise


def _look(
    run: Run, objective: Objective, severity: alarms.Severity
) -> tuple[list[Alarm], dict[str, float]]:
    """Look for what can be seen before any training, with the numbers behind it."""
    sabotage.at("look", step=run.step)
    clip = _few(run)
    with autocast(run.config.precision, run.ranks.device):
        dead, numbers = alarms.dead_gradients(objective, clip, severity)
        return alarms.leak(objective, clip) + dead, numbers


def _few(run: Run) -> Clip:
    """Return a few held-out samples, which take no more memory than a step does."""
    a_slice = max(1, run.config.batch_size // run.ranks.world // run.config.accumulate)
    return move(part(run.held_out[0], 0, min(ALARM_SAMPLES, a_slice)), run.ranks.device)


def _count(run: Run, objective: Objective) -> None:
    """Learn what a sample costs; what is compiled hides it."""
    if run.config.compile:
        return
    clip = _few(run)
    with autocast(run.config.precision, run.ranks.device):
        run.meter.flops_per_sample = flops_per_sample(objective, clip)


def _ring(run: Run, found: list[Alarm], numbers: Mapping[str, float]) -> None:
    for alarm in found:
        run.show(note=f"ALARM {alarm.name} ({alarm.severity}): {alarm.detail}")
    alarms.write(run.folder / "alarms.json", found, numbers)


def _finish(run: Run, objective: Objective) -> Summary:
    """Look for every alarm and export what outlives training; ``objective`` is whole."""
    assert run.scores is not None
    assert run.pooled is not None
    scores, pooled = run.scores, run.pooled

    def close() -> Summary:
        found, numbers = _look(run, objective, "error")
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
            exports=objective.save_exports(run.folder, run.card, run.step),
            samples_per_second=run.meter.overall,
            peak_memory_mb=peak_memory_mb(run.ranks.device),
        )

    return replace(run.ranks.on_main(close), objective=objective)
