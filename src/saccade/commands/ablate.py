"""``saccade ablate``."""

import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import tyro
from rich.console import Console
from rich.table import Table

from saccade.commands.common import command_line, replace_folder, say, with_data
from saccade.data.passes.shards import Shard
from saccade.errors import ConfigError, NumericError
from saccade.evals.probe import ProbeConfig
from saccade.experiments.ablation import FAILED, Ablation, Failure, told
from saccade.experiments.cells import choose, grid
from saccade.experiments.comparison import Comparison, Method
from saccade.experiments.pace import seconds_per_sample
from saccade.experiments.parallel import default_jobs
from saccade.recipes.ablations import AXES, Family, Preset, Size, bases, every_base

GROUP, HEADLINE = "position", 5  # what the printed tables are about; results.json has all


@dataclass(frozen=True, kw_only=True)
class Command:
    """Train a method and what is left of it without one part, and say what each part is worth.

    Every cell differs from its base in one axis, sees as many samples, and is probed on the same
    episodes. Cells are kept by their settings: run again after an interruption, or with other
    axes and the same folder, and only what is missing is trained. A cell that diverges is named
    at the end (exit code 6), and the others go on.

    Example: saccade ablate two_stream --axes m_only p_only no_exchange early_fusion cls_source
    skip decoder gap_law mask_ratio --data data/metaworld --budget 12000 --out runs/ablate

    Example: saccade ablate video_mae --axes mask_ratio=0.5,0.75 gap_law --full-grid
    --preset strong --dry-run --out runs/ablate

    Args:
        family: the method; its presets are the bases.
        axes: what to vary, as NAME or NAME=VALUE,VALUE; `saccade ablate FAMILY --list` shows them.
        preset: strong is what we would defend, original what the documents state. An axis that
            only one of them has is varied there.
        size: of the networks, as in the recipes' names.
        data: data set of any format (`saccade data formats`); without it, the recipes' own.
        data_options: options of its reader, like state=joint.
        out: folder of runs, results.json and report.html.
        budget: training samples of each run; 0 keeps the recipes' own.
        seeds: runs of each cell; a claim needs three.
        held_out_tasks: instructions of tasks that only the report may see.
        held_out_scenes: scenes that only the report may see, as the data set names them.
        full_grid: every combination of values that has a meaning, not one axis at a time.
        probe: what to ask of the frozen encoders.
        jobs: runs at once; 0 means one per core, or one where there is a GPU.
        shard: train only a share of the cells, like 0/4 on the first of four machines. When the
            folders of all are one, the command without --shard draws the table.
        overwrite: delete the folder first.
        list: show the axes of the family and their values, and do nothing.
        dry_run: show the cells and about how long they take, and train nothing.
    """

    family: tyro.conf.Positional[Family]
    axes: tuple[str, ...]
    preset: Preset = "both"
    size: Size = "tiny"
    data: str | None = None
    data_options: tuple[str, ...] = ()
    out: Path
    budget: int = 0
    seeds: int = 3
    held_out_tasks: tuple[str, ...] = ()
    held_out_scenes: tuple[str, ...] = ()
    full_grid: bool = False
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    jobs: int = 0
    shard: str = ""
    overwrite: bool = False
    list: bool = False
    dry_run: bool = False


def main(args: list[str]) -> int:
    """Ablate."""
    if not args:
        print("usage: saccade ablate FAMILY --axes NAME ... --out FOLDER [--data PATH]; --help\n")
        list_axes("")
        return 2
    if "--list" in args:  # needs no other option
        list_axes("" if args[0].startswith("-") else args[0])
        return 0
    command = tyro.cli(Command, args=args, prog="saccade ablate")
    ablation = planned(command)
    plan = ablation.comparison()
    plan.check()
    if command.shard:
        plan = ablation.shard(Shard.parse(command.shard))
    if command.dry_run:
        show_plan(ablation, plan, command)
        return 0
    if command.overwrite:
        replace_folder(command.out, "train/*/*/experiment.json")
    if command.shard:
        failed = ablation.train(plan, command.out, command.jobs, say)
        runs = len(plan.methods) * plan.seeds
        print(f"shard {command.shard}: {runs - len(failed)} of {runs} runs are in {command.out}")
    else:
        record = ablation.run(
            command.out, command=command_line("ablate", args), jobs=command.jobs, report=say
        )
        show(record)
        print(f"report: {(command.out / 'report.html').resolve()}")
        failed = [Failure(**failure) for failure in record["failed"]]
    if failed:
        raise NumericError(f"{len(failed)} runs diverged: {told(failed)}")
    return 0


def planned(command: Command) -> Ablation:
    """Return the bases and cells that a command asks for.

    Raises:
        ConfigError: as ``bases``, ``choose`` and ``grid``.
    """
    given = (command.data, command.data_options, command.held_out_tasks, command.held_out_scenes)
    found = [
        replace(base, training=with_data(base.training, *given))
        for base in bases(command.family, command.preset, command.size)
    ]
    choices = choose(command.axes, AXES, found, every_base())
    cells = [cell for base in found for cell in grid(base, choices, full=command.full_grid)]
    if not cells:
        raise ConfigError(f"the bases have all of {list(command.axes)} already; name other values")
    return Ablation(
        bases=tuple(found),
        cells=tuple(cells),
        samples=command.budget,
        seeds=command.seeds,
        probe=command.probe,
    )


def list_axes(family: str) -> None:
    """Print the axes with their values, and which bases have them.

    Raises:
        ConfigError: there is no such family.
    """
    families: tuple[Family, ...] = get_args(Family)
    known = [base for f in families if family in ("", f) for base in bases(f, "both", "tiny")]
    if not known:
        raise ConfigError(f"there is no family {family!r}; name one of {', '.join(families)}")
    table = Table("axis", "values", "of", "what it changes", box=None, header_style="bold")
    for axis in AXES:
        have = [base.name for base in known if axis.applies(base.training)]
        if have:
            table.add_row(axis.name, " ".join(axis.values), "\n".join(have), axis.about)
    console().print(table)


def show_plan(ablation: Ablation, plan: Comparison, command: Command) -> None:
    """Print what would be trained, what is there already, and about how long the rest takes."""
    missing = plan.unfinished(command.out)
    jobs = command.jobs or default_jobs()
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    paces = {base.name: pace(ablation, base, threads) for base in ablation.bases}
    owners = {cell.name: cell.base for cell in ablation.cells}
    table = Table("cell", "samples", "encoder", "trained", "to do", header_style="bold")
    seconds = 0.0
    for method in plan.methods:
        training = plan.training(method, 0)
        sizes = training.sizes(training.blank())
        places = [plan.place(command.out, method, seed) for seed in range(plan.seeds)]
        left = sum(any(place == p for _, p in missing.values()) for place in places)
        lost = sum((place / FAILED).exists() for place in places)
        samples = training.train.steps * training.train.batch_size
        seconds += (left - lost) * samples * paces[owners.get(method.name, method.name)]
        table.add_row(
            method.name,
            f"{samples:,}",
            f"{sizes['encoder_parameters']:,}",
            f"{sizes['trained_parameters']:,}",
            f"{left - lost} of {plan.seeds}" + (f", {lost} diverged" if lost else ""),
        )
    console().print(table)
    minutes = seconds / jobs / 60
    print(
        f"would train {sum(1 for _, p in missing.values() if not (p / FAILED).exists())} runs in "
        f"{command.out}, {jobs} at once: about {minutes:.1f} minutes, as measured on 3 steps of "
        "each base, and as if a cell cost what its base costs; reading data and probing come on top"
    )


def pace(ablation: Ablation, base: Method, threads: int) -> float:
    """Measure a base, at the budget that it would have."""
    return seconds_per_sample(ablation.comparison().training(base, 0), threads)


def show(record: dict[str, Any]) -> None:
    """Print what each cell changes, at the headline gap, and what alarms it rang."""
    rows = [row for row in record["rows"] if row["group"] == GROUP]
    gaps = sorted({row["gap"] for row in rows})
    gap = min(gaps, key=lambda gap: (abs(gap - HEADLINE), gap), default=0)
    cells = {cell["name"]: cell for cell in record["cells"]}
    tables: dict[str, list[dict[str, Any]]] = defaultdict(list)
    asked = ("probe", "metric", "split")  # where a file has them
    for row in rows:
        if row["gap"] == gap:
            question = ", ".join(str(row[name]) for name in asked if name in row)
            tables[f"{row['base']}: {GROUP} over {gap} steps, {question}"].append(row)
    for title, found in tables.items():
        table = Table(
            *("axis", "value", "cell - base [95 %]", "p (Holm)", "encoder", "alarms"),
            title=title,
            header_style="bold",
        )
        for row in found:
            cell = cells[row["cell"]]
            table.add_row(row["axis"], row["value"], *columns(row, cell))
        console().print(table)
    for failure in record["failed"]:
        print(f"diverged: {failure['name']}, seed {failure['seed']}")
    console().print(record["about"], highlight=False)


def columns(row: dict[str, Any], cell: dict[str, Any]) -> Sequence[str]:
    """Return a difference with its interval and corrected p, the cell's size and its alarms."""
    change = "-" if row["difference"] is None else f"{row['difference']:+.3f}"
    if row["low"] is not None:
        change += f" [{row['low']:+.3f}, {row['high']:+.3f}]"
    p = "-" if row["p_holm"] is None else f"{row['p_holm']:.3f}"
    alarms = ", ".join(f"{alarm['name']} ({alarm['severity']})" for alarm in cell["alarms"])
    return change, p, f"{cell['encoder_parameters']:,}", alarms or "-"


def console() -> Console:
    """Return what prints tables, wide enough where there is no terminal."""
    asked = os.environ.get("COLUMNS")
    return Console(width=int(asked) if asked else None if sys.stdout.isatty() else 130)
