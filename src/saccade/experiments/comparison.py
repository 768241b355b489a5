"""Methods side by side: equal budgets, the same data, the same probe, one page of evidence."""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade.config import from_dict
from saccade.errors import ConfigError
from saccade.evals.probe import ProbeConfig
from saccade.experiments.evidence import Question, Subject, measure
from saccade.experiments.source import Report
from saccade.experiments.training import Training, encoder_of, with_budget
from saccade.train.log import Progress
from saccade.types import Encoder


@dataclass(frozen=True, kw_only=True)
class Method:
    """A named training. The name is what the report calls it."""

    name: str
    recipe: str
    training: Training


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Several methods on one data set.

    Args:
        methods: what to train; all read the same source at the same size.
        samples: training samples of each run; 0 keeps the recipes' own.
        seeds: runs of each method; a claim needs three.
        probe: what to ask of the frozen encoders.
    """

    methods: tuple[Method, ...]
    samples: int = 0
    seeds: int = 3
    probe: ProbeConfig

    def run(
        self,
        folder: Path,
        *,
        command: str,
        progress: Callable[[Progress], None] | None = None,
        report: Report = lambda _: None,
        seconds: Mapping[str, float] | None = None,
    ) -> dict[str, Any]:
        """Train what is not trained yet, probe, and write the report.

        Run again after an interruption: finished runs are kept, unfinished ones resumed.
        """
        self.check()
        began = time.perf_counter()
        for method in self.methods:
            for seed in range(self.seeds):
                report(f"{method.name}, seed {seed}")
                train_once(
                    self.training(method, seed), self.place(folder, method, seed), progress, report
                )
        first = self.training(self.methods[0], seed=0)
        question = Question(
            title=f"{len(self.methods)} ways to pretrain, one probe",
            command=command,
            source=first.source,
            size=first.image_size(),
            probe=self.probe,
            samples=first.train.samples,
            seeds=self.seeds,
            seconds={**(seconds or {}), "train": time.perf_counter() - began},
        )
        subjects = [self.subject(method, folder) for method in self.methods]
        return measure(subjects, question, folder, report)

    def check(self) -> None:
        """Refuse what would not be a fair comparison.

        Raises:
            ConfigError: methods share a name, or differ in data, frame size or budget.
        """
        names = [method.name for method in self.methods]
        if len(set(names)) < len(names) or not names:
            raise ConfigError(f"methods need names of their own, not {names}")
        if self.seeds < 1:
            raise ConfigError(f"seeds is {self.seeds}; at least one run of each method is needed")
        trainings = [self.training(method, 0) for method in self.methods]
        for told, values in {
            "sources": [training.source for training in trainings],
            "image sizes": [training.image_size() for training in trainings],
            "numbers of samples": [training.train.samples for training in trainings],
        }.items():
            if any(value != values[0] for value in values):
                raise ConfigError(
                    f"{names} have different {told}: {values}; give all the same "
                    "(--budget sets the samples)"
                )

    def training(self, method: Method, seed: int) -> Training:
        """Return one run's training."""
        return with_budget(method.training, self.samples, seed)

    def place(self, folder: Path, method: Method, seed: int) -> Path:
        """Return one run's folder."""
        return folder / "train" / method.name.replace(" ", "_").replace("/", "_") / f"seed-{seed}"

    def subject(self, method: Method, folder: Path) -> Subject:
        """Load a method's finished runs."""
        places = {seed: self.place(folder, method, seed) for seed in range(self.seeds)}
        results = [json.loads((place / "result.json").read_text()) for place in places.values()]
        return Subject(
            name=method.name,
            recipe=method.recipe,
            trained={s: Encoder.from_pretrained(p / "encoder") for s, p in places.items()},
            untrained={s: encoder_of(self.training(method, s).build()).eval() for s in places},
            runs=[run_record(seed, place, folder) for seed, place in places.items()],
            trained_parameters=results[0]["trained_parameters"],
            samples_per_second=statistics.median(r["samples_per_second"] for r in results),
            peak_memory_mb=max(r["peak_memory_mb"] for r in results),
        )


def train_once(
    training: Training,
    folder: Path,
    progress: Callable[[Progress], None] | None,
    report: Report,
) -> None:
    """Train unless this very training has finished in the folder.

    Raises:
        ConfigError: the folder holds another training.
    """
    record = folder / "experiment.json"
    if record.exists() and from_dict(json.loads(record.read_text())) != training:
        raise ConfigError(
            f"{folder} holds a run with other settings; choose another --out, or --overwrite"
        )
    if not (folder / "result.json").exists():
        training.run(folder, resume=record.exists(), progress=progress, report=report)


def run_record(seed: int, place: Path, folder: Path) -> dict[str, Any]:
    """Return one run as the report's schema has it."""
    result = json.loads((place / "result.json").read_text())
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    scores = result["scores"]
    return {
        "seed": seed,
        "folder": str(place.relative_to(folder)),
        "history": [point(line, result["baseline"]) for line in lines],
        "baseline_name": result["baseline"],
        "alarms": result["alarms"],
        "features": {
            "std": scores["features/encoder/std"],
            "effective_rank": scores["features/encoder/effective_rank"],
            "mean_cosine": scores["features/encoder/cosine"],
        },
        "pictures": {
            name: str((place / path).relative_to(folder))
            for name, path in result["pictures"].items()
        },
    }


def point(line: dict[str, Any], baseline: str) -> dict[str, Any]:
    """Return one line of ``metrics.jsonl`` as a point of the history."""
    train = {k.removeprefix("train/"): v for k, v in line.items() if k.startswith("train/")}
    scored = "eval/loss" in line
    return {
        "step": line["step"],
        "samples": line["samples"],
        "train": train,
        "eval": {"loss": line["eval/loss"], "baseline": line[f"eval/{baseline}"]}
        if scored
        else None,
    }
