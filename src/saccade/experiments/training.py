"""Training as a value: an objective, a source, a window and the loop's settings."""

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import torch

from saccade import __version__, sabotage
from saccade.checkpoint import load_weights, read_weights, write_atomic
from saccade.config import Config, to_dict
from saccade.data.loader import FixedBatches, Loader, fixed_batches
from saccade.data.transforms import Augment
from saccade.data.windows import Window
from saccade.errors import ConfigError
from saccade.experiments.source import Parts, Report, SourceConfig
from saccade.report.pictures import save_pictures
from saccade.train import checkpoint
from saccade.train.distributed import rank_and_world
from saccade.train.engine import Resume, Summary, TrainConfig, train
from saccade.train.evaluate import move
from saccade.train.log import BadSamples, Progress
from saccade.train.signals import Stop, stopping
from saccade.train.sync import Sync
from saccade.types import Clip, Encoder, Objective

PICTURES = 4
AnyTraining = TypeVar("AnyTraining", bound="Training")


@dataclass(frozen=True, kw_only=True)
class Training:
    """What to learn, from what, and for how long.

    Args:
        objective: the networks and their loss.
        source: the data set and its split.
        window: which frames make one sample.
        augment: what to vary in training samples.
        eval_samples: held-out samples of the fixed list that every evaluation uses.
        init: a run, or the encoder that it exported, whose weights this one begins with; a resumed
            run has its own.
        train: settings of the loop.
    """

    held_out_batch: ClassVar[int] = 32  # samples that are scored at once

    objective: Config[Objective]
    source: SourceConfig
    window: Window
    augment: Augment = field(default_factory=Augment)
    eval_samples: int = 256
    init: Path | None = None
    train: TrainConfig = field(default_factory=TrainConfig)

    def image_size(self) -> int:
        """Return the frame size that the encoder wants, in pixels."""
        return self.blank().reads().image_size

    def blank(self) -> Objective:
        """Construct the networks without weights, to ask for their sizes."""
        with torch.device("meta"):
            return self.objective.build()

    def open(self, report: Report = lambda _: None) -> Parts:
        """Return the data at the size that this training reads."""
        return self.source.open(self.image_size() + self.augment.margin, report)

    def build(self) -> Objective:
        """Construct the networks with the weights that this seed starts from."""
        torch.manual_seed(self.train.seed)
        return self.objective.build()

    def check(self, objective: Objective, parts: Parts) -> None:
        """Refuse data that the objective cannot use. Default: any will do."""

    def prepare(self, objective: Objective, parts: Parts, report: Report) -> Parts:
        """Return the data as training reads them. Default: as they are."""
        return parts

    def held_out(self, parts: Parts) -> Sequence[Clip]:
        """Read the fixed list of held-out samples, the same for every seed."""
        return list(self.fixed(parts))

    def fixed(self, parts: Parts) -> FixedBatches:
        """Return the same, read whenever it is asked for.

        Raises:
            ConfigError: there would be none.
        """
        if self.eval_samples < 1:
            raise ConfigError(f"eval_samples is {self.eval_samples}; evaluations need 1 or more")
        return fixed_batches(
            parts.select,
            self.window,
            parts.cameras,
            self.eval_samples,
            self.held_out_batch,
            seed=self.source.split_seed,
            margin=self.augment.margin,
        )

    def run(
        self,
        folder: Path,
        *,
        resume: Resume = False,
        allow_change: Sequence[str] = (),
        progress: Callable[[Progress], None] | None = None,
        report: Report = lambda _: None,
        sync: Sync | None = None,
    ) -> dict[str, Any]:
        """Train, or resume; leave a run folder and return its ``result.json`` (on rank 0).

        ``sync`` keeps a copy of the folder in a bucket, and fetches what only the bucket has.

        Raises:
            ConfigError: settings that cannot work, before anything is opened or written.
            BusyError: another process works in the folder; told at once.
            Stopped: a signal came; the same command goes on.
        """
        with ExitStack() as stack:
            stop = stack.enter_context(stopping())
            sabotage.at("start")
            rank, ranks = rank_and_world()
            self.train.require_workable(ranks)
            if rank == 0:
                stack.enter_context(checkpoint.lock(folder))
                if sync is not None:
                    stack.enter_context(sync.running(bool(resume)))
            return self._run(folder, rank, ranks, resume, allow_change, progress, report, stop)

    def _run(
        self,
        folder: Path,
        rank: int,
        ranks: int,
        resume: Resume,
        allow_change: Sequence[str],
        progress: Callable[[Progress], None] | None,
        report: Report,
        stop: Stop,
    ) -> dict[str, Any]:
        objective = self.build()
        if self.init is not None:
            begin_with(objective, self.init)
        parts = self.source.open(objective.reads().image_size + self.augment.margin, report)
        sabotage.at("open")
        self.check(objective, parts)
        parts = self.prepare(objective, parts, report)
        held_out = self.held_out(parts)
        bad = BadSamples(folder / "bad" / f"samples-rank-{rank}.jsonl")
        loader = Loader(
            episodes=parts.train,
            window=self.window,
            cameras=parts.cameras,
            batch_size=self.train.batch_size,
            seed=self.train.seed,
            workers=self.train.workers,
            prefetch=self.train.prefetch,
            timeout=self.train.data_timeout,
            augment=self.augment,
            rank=rank,
            ranks=ranks,
            on_error="skip" if self.train.bad_samples == "skip" else "raise",
            most_bad=self.train.most_bad,
            found_bad=bad,
        )
        record = to_dict(self)
        identity = {
            "objective": record["objective"],
            "window": record["window"],
            "augment": record["augment"],
            "data": parts.train.fingerprint,
            "camera": parts.camera if len(parts.cameras) == 1 else list(parts.cameras),
        }
        if rank == 0:
            keep_settings(record, folder)
        moving = most_moving(held_out, PICTURES)

        def show(objective: Objective, step: int) -> dict[str, Path]:
            shown = pictures(objective, moving, next(objective.parameters()).device)
            return save_pictures(shown, folder / "pictures" / f"step-{step:08d}")

        summary = train(
            objective,
            loader,
            held_out,
            self.train,
            folder,
            identity=identity,
            resume=resume,
            allow_change=allow_change,
            progress=progress,
            card=self.card(objective, parts),
            stop=stop,
            show=show,
        )
        if bad.count:
            report(f"{bad.count} samples could not be read and were replaced, see {bad.path}")
        if rank != 0:
            return {}
        assert summary.objective is not None
        objective = summary.objective
        device = next(objective.parameters()).device
        sabotage.at("pictures")
        shown = pictures(objective, moving, device)
        save_pictures(shown, folder / "pictures")
        result = self.result(objective, held_out, summary) | {
            "pictures": {name: f"pictures/{name}.png" for name in shown}
        }
        write_atomic(folder / "result.json", json.dumps(result, indent=2) + "\n")
        return result

    def result(
        self, objective: Objective, held_out: Sequence[Clip], summary: Summary
    ) -> dict[str, Any]:
        """Return the numbers of a finished run."""
        with torch.no_grad():
            device = next(objective.parameters()).device
            baselines = list(objective.baselines(move(held_out[0], device)))
        return {
            "steps": summary.steps,
            "samples": summary.samples,
            "scores": summary.scores,
            "baseline": baselines[0],
            "best_step": summary.best_step,
            "exports": sorted(summary.exports),
            **self.sizes(objective),
            "samples_per_second": summary.samples_per_second,
            "peak_memory_mb": summary.peak_memory_mb,
            "alarms": [
                {"name": alarm.name, "detail": alarm.detail, "severity": alarm.severity}
                for alarm in summary.alarms
            ],
        }

    def sizes(self, objective: Objective) -> dict[str, int]:
        """Count parameters: of what is kept for others to use, and of what is trained."""
        return {
            "encoder_parameters": count(encoder_of(objective).parameters()),
            "trained_parameters": count(p for p in objective.parameters() if p.requires_grad),
        }

    def card(self, objective: Objective, parts: Parts) -> str:
        """Write the model card: what the weights learned from, and what they never saw."""
        encoder = encoder_of(objective)
        shape = encoder.preprocessing
        held_out = ", ".join(self.source.held_out_tasks) or "none"
        places = ", ".join(self.source.held_out_scenes) or "none"
        settings = json.dumps(to_dict(self), indent=2)
        episodes, frames = len(parts.train.lengths), sum(parts.train.lengths)
        return (
            f"# {type(encoder).__name__} encoder\n\n"
            f"Pretrained with `{type(objective).__name__}` by saccade {__version__}, without "
            f"action labels, on {self.train.samples} samples from {episodes} episodes ({frames} "
            f"frames at {parts.whole.fps:g} Hz, camera {' and '.join(parts.cameras)}). "
            f"Held-out tasks: {held_out}. Held-out scenes: {places}.\n\n"
            f"Input: {shape.num_frames} frames of {shape.image_size} x {shape.image_size} pixels, "
            f"{shape.pixels}. Output: tokens of width {encoder.embed_dim}, pooled by "
            f"{encoder.pooling}. CLS tokens are not exported: the mean over patches is what a "
            "probe reads.\n\n"
            "```python\n"
            "from saccade.types import Encoder\n"
            'encoder = Encoder.from_pretrained("PATH/TO/THIS/FOLDER")\n'
            "```\n\n"
            f"## Settings, the gap law among them\n\n```json\n{settings}\n```\n"
        )


def count(parameters: Iterable[torch.nn.Parameter]) -> int:
    """Return how many numbers there are in all."""
    return sum(p.numel() for p in parameters)


def keep_settings(record: dict[str, Any], folder: Path) -> None:
    """Write ``experiment.json``, unless a run in the folder has already begun by its own."""
    metrics = folder / "metrics.jsonl"
    if not (metrics.exists() and metrics.stat().st_size):
        write_atomic(folder / "experiment.json", json.dumps(record, indent=2) + "\n")


def encoder_of(objective: Objective) -> Encoder:
    """Return the encoder that an objective exports.

    Raises:
        ConfigError: it exports none, or several.
    """
    exports = objective.exports()
    if len(exports) != 1:
        raise ConfigError(f"{type(objective).__name__} exports {sorted(exports)}, not one encoder")
    ((encoder, _),) = exports.values()
    return encoder


def begin_with(objective: Objective, folder: Path) -> None:
    """Give the encoder of an objective the weights of another, all of them.

    Raises:
        ConfigError: the objective exports no encoder, or several.
        CheckpointError: there is none in the folder, or one of other sizes; nothing is changed.
    """
    inside = folder / "encoder"
    folder = inside if inside.is_dir() else folder
    encoder = encoder_of(objective)
    load_weights(encoder, read_weights(folder), f"--init {folder}")


def most_moving(held_out: Sequence[Clip], count: int) -> Clip:
    """Pick the samples of the first held-out batch in which most pixels, or features, change."""
    clip = held_out[0]
    seen = clip["features"] if "features" in clip else clip["video"]
    change = (seen[:, -1].float() - seen[:, 0].float()).abs().flatten(1).mean(1)
    best = change.argsort(descending=True)[:count].tolist()
    fields = cast(dict[str, Any], clip)
    chosen = {k: v[best] if isinstance(v, torch.Tensor) else v[:count] for k, v in fields.items()}
    return cast(Clip, {**chosen, "text": [clip["text"][i] for i in best]})


def pictures(objective: Objective, clip: Clip, device: torch.device) -> dict[str, torch.Tensor]:
    """Return what an objective has to show of a few samples."""
    with torch.no_grad():
        shown = objective.eval().pictures(move(clip, device))
    return {name: value.clamp(0, 1).cpu() for name, value in shown.items()}


def with_budget(training: AnyTraining, samples: int, seed: int) -> AnyTraining:
    """Return the same training with another number of samples (0 keeps it) and another seed."""
    settings = replace(training.train, seed=seed, samples=samples or training.train.samples)
    return replace(training, train=settings)
