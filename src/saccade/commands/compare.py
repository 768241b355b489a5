"""``saccade compare``."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from saccade.commands.common import (
    command_line,
    list_recipes,
    load_recipe,
    replace_folder,
    say,
    show_results,
    with_data,
)
from saccade.commands.train import describe
from saccade.evals.probes.base import ProbeConfig
from saccade.experiments.comparison import Comparison, Method


@dataclass(frozen=True, kw_only=True)
class Command:
    """Train several recipes on equal budgets, probe them beside the floors, write one report.

    Run the same command again after an interruption: finished runs are kept, others resumed.

    Example: saccade compare two_stream:strong_tiny single_stream:strong_tiny
    video_mae:strong_tiny --data data/metaworld --budget 12000 --seeds 3 --out runs/compare

    Args:
        recipes: what to train, as MODULE:FUNCTION.
        data: data set of any format (`saccade data formats`); without it, the recipes' own.
        data_options: options of its reader, like state=joint.
        out: folder of runs, results.json and report.html.
        budget: training samples of each run; 0 keeps the recipes' own.
        seeds: runs of each recipe; a claim needs three.
        held_out_tasks: instructions of tasks that only the report may see.
        held_out_scenes: scenes that only the report may see, as the data set names them.
        probe: what to ask of the frozen encoders.
        jobs: runs at once; 0 means one per core, or one where there is a GPU.
        overwrite: delete the folder first.
        dry_run: show what would be trained, and do nothing.
    """

    recipes: tyro.conf.Positional[tuple[str, ...]]
    data: str | None = None
    data_options: tuple[str, ...] = ()
    out: Path
    budget: int = 0
    seeds: int = 3
    held_out_tasks: tuple[str, ...] = ()
    held_out_scenes: tuple[str, ...] = ()
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    jobs: int = 0
    overwrite: bool = False
    dry_run: bool = False


def main(args: list[str]) -> int:
    """Compare."""
    if not args:
        print("usage: saccade compare RECIPE ... --out FOLDER [--data PATH]; --help lists all\n")
        list_recipes()
        return 2
    command = tyro.cli(Command, args=args, prog="saccade compare")
    comparison = planned(command)
    comparison.check()
    if command.dry_run:
        for method in comparison.methods:
            print(f"{method.name}:")
            describe(comparison.training(method, seed=0))
        return 0
    if command.overwrite:
        replace_folder(command.out, "train/*/*/experiment.json")
    results = comparison.run(
        command.out,
        command=command_line("compare", args),
        jobs=command.jobs,
        report=say,
    )
    show_results(results, command.out)
    return 0


def planned(command: Command) -> Comparison:
    """Return what the command asks for.

    Raises:
        ConfigError: there is no such recipe.
        DataError: no data set that we know is there.
    """
    given = (command.data, command.data_options, command.held_out_tasks, command.held_out_scenes)
    return Comparison(
        methods=tuple(
            Method(name=name, recipe=recipe, training=with_data(load_recipe(recipe), *given))
            for name, recipe in zip(names(command.recipes), command.recipes, strict=True)
        ),
        samples=command.budget,
        seeds=command.seeds,
        probe=command.probe,
    )


def names(recipes: tuple[str, ...]) -> list[str]:
    """Name methods by their module, and by their function too where modules repeat."""
    modules = [recipe.partition(":")[0].rpartition(".")[2] for recipe in recipes]
    full = [recipe.replace(":", " ") for recipe in recipes]
    chosen = modules if len(set(modules)) == len(modules) else full
    return [name.replace("_", "-") for name in chosen]
