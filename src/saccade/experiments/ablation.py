"""Ablations: a base, and cells that differ from it in a stated setting, on equal budgets.

A cell is a training like any other (``cells.py`` makes them). Losses of cells are losses of
different tasks; only what the frozen encoders know is compared: cell minus base, on the same
episodes, with p corrected over the cells (Holm, 1979).
"""

import itertools
import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from saccade.checkpoint import write_atomic
from saccade.data.passes.shards import Shard
from saccade.errors import ConfigError, NumericError
from saccade.evals.probe import ProbeConfig
from saccade.evals.statistics import holm
from saccade.experiments.cells import Cell
from saccade.experiments.comparison import Comparison, Method
from saccade.experiments.evidence import write
from saccade.experiments.parallel import default_jobs, train_all
from saccade.experiments.source import Report
from saccade.experiments.training import Training
from saccade.train.engine import Resume
from saccade.train.log import Progress
from saccade.train.sync import Sync

FAILED = "failed.json"  # in a run's folder: why it has no result
RECORD = "ablation.json"  # beside the results: cells, alarms, and what diverged
MEASURED = ("a", "b", "difference", "low", "high", "p", "p_holm")  # the rest says what was asked
ABOUT = (
    "Differences are cell minus base on the same held-out episodes, with 95 % intervals that are "
    "not corrected and resample episodes and training seeds; p, corrected by Holm over the cells "
    "of one base and one question, exchanges episodes only: where the interval holds 0 and p is "
    "small, these seeds differ, and other seeds may not. Held-out "
    "losses of cells are not comparable: masks, gaps and inputs differ."
)


class Failure(NamedTuple):
    """A run without a result."""

    name: str
    seed: int
    error: str


@dataclass(frozen=True, kw_only=True)
class Attempt(Training):
    """A training that leaves a note when it diverges, where others would end the whole grid."""

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
        """Train; return nothing where a number was not finite."""
        plain = Training(**{field.name: getattr(self, field.name) for field in fields(Training)})
        try:
            return plain.run(
                folder,
                resume=resume,
                allow_change=allow_change,
                progress=progress,
                report=report,
                sync=sync,
            )
        except NumericError as error:
            sys.stderr.write(f"{folder}: {error}; the other cells go on\n")
            write_atomic(folder / FAILED, json.dumps({"error": str(error)}, indent=2) + "\n")
            return {}


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Bases with their cells.

    Args:
        bases: what the cells are compared with.
        cells: what to train beside them.
        samples: training samples of each run; 0 keeps the bases' own.
        seeds: runs of each cell; a claim needs three.
        probe: what to ask of the frozen encoders.
    """

    bases: tuple[Method, ...]
    cells: tuple[Cell, ...]
    samples: int = 0
    seeds: int = 3
    probe: ProbeConfig

    def comparison(self) -> Comparison:
        """Return bases and cells as methods; cells of the same settings are one."""
        recipes = {base.name: base.recipe for base in self.bases}
        methods = list(self.bases)
        for cell in self.cells:
            told = " ".join(f"{field}={value}" for field, value in cell.changes.items())
            recipe = f"{recipes[cell.base]} {told}"
            method = Method(name=cell.name, recipe=recipe, training=cell.training)
            methods += [method] if method not in methods else []
        return Comparison(
            methods=tuple(methods),
            samples=self.samples,
            seeds=self.seeds,
            references=tuple(base.name for base in self.bases),
            probe=self.probe,
        )

    def shard(self, share: Shard) -> Comparison:
        """Return a share of the methods.

        Raises:
            ConfigError: there is nothing in it.
        """
        whole = self.comparison()
        chosen = share.of(whole.methods)
        if not chosen:
            raise ConfigError(
                f"shard {share.index}/{share.count} is empty; {len(whole.methods)} bases and cells "
                f"make at most as many shards"
            )
        return replace(whole, methods=tuple(chosen))

    def unfinished(self, plan: Comparison, folder: Path) -> dict[str, tuple[Training, Path]]:
        """Return the runs of a plan that have neither a result nor a note of their failure.

        Raises:
            ConfigError: a run's folder holds another training.
        """
        return {
            label: (attempt(training), place)
            for label, (training, place) in plan.unfinished(folder).items()
            if not (place / FAILED).exists()
        }

    def train(
        self, plan: Comparison, folder: Path, jobs: int = 0, report: Report = lambda _: None
    ) -> list[Failure]:
        """Train what a plan, of the whole or a shard, still lacks; return what diverged.

        Raises:
            ConfigError: the cells' data, frame sizes or budgets differ, or a folder holds
                another training.
        """
        self.comparison().check()
        waiting = self.unfinished(plan, folder)
        if waiting:
            next(iter(waiting.values()))[0].open(report)  # decode before several runs ask
        train_all(waiting, jobs or default_jobs(), report)
        return self.failures(plan, folder)

    def failures(self, plan: Comparison, folder: Path) -> list[Failure]:
        """Return the runs that diverged."""
        runs = itertools.product(plan.methods, range(plan.seeds))
        places = ((m.name, seed, plan.place(folder, m, seed) / FAILED) for m, seed in runs)
        return [
            Failure(name, seed, json.loads(path.read_text())["error"])
            for name, seed, path in places
            if path.exists()
        ]

    def run(
        self, folder: Path, *, command: str, jobs: int = 0, report: Report = lambda _: None
    ) -> dict[str, Any]:
        """Train what is not trained yet and probe; write the results and the report.

        ``results.json`` gets the differences as ``ablation``; ``ablation.json``, which is
        returned, the cells with their alarms too, and what diverged and so was not probed. Run
        again after an interruption, or after the shards: finished cells are kept.

        Raises:
            ConfigError: as ``train``.
            NumericError: every base diverged, so there is nothing to compare with.
        """
        plan, began = self.comparison(), time.perf_counter()
        failed = self.train(plan, folder, jobs, report)
        seconds = {"train cells": time.perf_counter() - began}
        lost = {failure.name for failure in failed}
        whole = [base.name for base in self.bases if base.name not in lost]
        if not whole:
            raise NumericError(
                f"no base has a result, so no cell can be compared with one: {told(failed)}"
            )
        left = tuple(method for method in plan.methods if method.name not in lost)
        results = replace(plan, methods=left).results(
            folder, command=command, jobs=jobs, report=report, seconds=seconds
        )
        rows = [row for base in whole for row in ablation_rows(results, base, self.cells)]
        write(results | {"ablation": rows}, folder)
        record = {
            "about": ABOUT,
            "bases": [base.name for base in self.bases],
            "cells": [cell_record(cell, plan, folder) for cell in self.cells],
            "rows": rows,
            "failed": [failure._asdict() for failure in failed],
        }
        write_atomic(folder / RECORD, json.dumps(record, indent=1, allow_nan=False) + "\n")
        return record


def attempt(training: Training) -> Attempt:
    """Return the same training, whose divergence ends only itself.

    Raises:
        ConfigError: it is of a kind that runs in its own way.
    """
    if type(training) is not Training:
        raise ConfigError(f"a {type(training).__name__} cannot be a cell; ablate pretraining")
    return Attempt(**{field.name: getattr(training, field.name) for field in fields(Training)})


def told(failed: Sequence[Failure]) -> str:
    """Say what diverged."""
    return "; ".join(f"{name}, seed {seed}: {error}" for name, seed, error in failed)


def ablation_rows(
    results: Mapping[str, Any], base: str, cells: Sequence[Cell]
) -> list[dict[str, Any]]:
    """Return every paired difference between a cell and its base, as cell minus base.

    One row per question (whatever fields of ``paired`` say what was asked) and cell; ``p_holm``
    is corrected over the distinct cells of that question. Numbers may be None, as there.
    """
    mine = [cell for cell in cells if cell.base == base]
    names = {cell.name for cell in mine}
    asked: dict[tuple[tuple[str, Any], ...], dict[str, dict[str, Any]]] = defaultdict(dict)
    for pair in results["paired"]:
        other = pair["b"] if pair["a"] == base else pair["a"]
        if base in (pair["a"], pair["b"]) and other in names:
            question = tuple((k, v) for k, v in pair.items() if k not in MEASURED)
            asked[question][other] = _minus_base(pair, base)
    rows = []
    for question, found in asked.items():
        values = [math.nan if row["p"] is None else row["p"] for row in found.values()]
        adjusted = dict(zip(found, holm(values), strict=True))
        for cell in mine:
            if cell.name not in found:
                continue
            p = adjusted[cell.name]
            rows.append(
                {
                    "base": base,
                    "cell": cell.name,
                    "axis": " x ".join(cell.settings),
                    "value": " x ".join(cell.settings.values()),
                    **dict(question),
                    **found[cell.name],
                    "p_holm": None if math.isnan(p) else p,
                }
            )
    return rows


def _minus_base(pair: Mapping[str, Any], base: str) -> dict[str, Any]:
    numbers = {name: pair[name] for name in ("difference", "low", "high", "p")}
    if pair["b"] == base:
        return numbers
    turned = {
        name: None if pair[source] is None else -pair[source]
        for name, source in (("difference", "difference"), ("low", "high"), ("high", "low"))
    }
    return numbers | turned


def cell_record(cell: Cell, plan: Comparison, folder: Path) -> dict[str, Any]:
    """Return what a cell changed and what its runs came to, without its networks."""
    (method,) = (method for method in plan.methods if method.name == cell.name)
    paths = (plan.place(folder, method, seed) / "result.json" for seed in range(plan.seeds))
    results = [json.loads(path.read_text()) for path in paths if path.exists()]
    alarms = {alarm["name"]: alarm for result in results for alarm in result["alarms"]}
    return {
        "name": cell.name,
        "base": cell.base,
        "settings": dict(cell.settings),
        "changes": dict(cell.changes),
        "runs": len(results),
        "encoder_parameters": results[0]["encoder_parameters"] if results else None,
        "alarms": list(alarms.values()),
    }
