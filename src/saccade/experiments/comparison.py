"""Methods side by side: equal budgets, the same data, the same probe, one page of evidence."""

import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade.config import from_dict
from saccade.errors import ConfigError
from saccade.evals.probes.base import ProbeConfig
from saccade.experiments.evidence import Question, Subject, measure, write
from saccade.experiments.parallel import default_jobs, train_all
from saccade.experiments.source import Report
from saccade.experiments.training import Training, encoder_of, with_budget
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
        references: methods that the others are compared with; empty compares all with all.
        probe: what to ask of the frozen encoders.
    """

    methods: tuple[Method, ...]
    samples: int = 0
    seeds: int = 3
    references: tuple[str, ...] = ()
    probe: ProbeConfig

    def run(
        self,
        folder: Path,
        *,
        command: str,
        jobs: int = 0,
        report: Report = lambda _: None,
        seconds: Mapping[str, float] | None = None,
    ) -> dict[str, Any]:
        """Train what is not trained yet, probe, and write the report; return the results.

        Run again after an interruption: finished runs are kept, unfinished ones resumed. ``jobs``
        runs go on at once; 0 means one per core, or one where there is a GPU.
        """
        results = self.results(folder, command=command, jobs=jobs, report=report, seconds=seconds)
        write(results, folder)
        return results

    def results(
        self,
        folder: Path,
        *,
        command: str,
        jobs: int = 0,
        report: Report = lambda _: None,
        seconds: Mapping[str, float] | None = None,
    ) -> dict[str, Any]:
        """Train and probe as ``run`` does, and leave the writing to the caller."""
        self.check()
        began = time.perf_counter()
        first = self.training(self.methods[0], seed=0)
        first.open(report)  # decode the frames once, before several runs ask for them
        train_all(self.unfinished(folder), jobs or default_jobs(), report)
        question = Question(
            title=f"{len(self.methods)} ways to pretrain, one probe",
            command=command,
            source=first.source,
            probe=self.probe,
            samples=first.train.samples,
            seeds=self.seeds,
            references=self.references,
            seconds={**(seconds or {}), "train": time.perf_counter() - began},
        )
        subjects = [self.subject(method, folder) for method in self.methods]
        return measure(subjects, question, folder, report)

    def unfinished(self, folder: Path) -> dict[str, tuple[Training, Path]]:
        """Return the runs that are still to be done, the first seeds of all methods first.

        Raises:
            ConfigError: a run's folder holds another training.
        """
        runs = {}
        for seed in range(self.seeds):
            for method in self.methods:
                training, place = self.training(method, seed), self.place(folder, method, seed)
                record = place / "experiment.json"
                if record.exists() and from_dict(json.loads(record.read_text())) != training:
                    raise ConfigError(
                        f"{place} holds a run with other settings; choose another --out, or "
                        "--overwrite"
                    )
                if not (place / "result.json").exists():
                    runs[f"{method.name}, seed {seed}"] = training, place
        return runs

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
