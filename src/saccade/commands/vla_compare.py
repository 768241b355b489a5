"""``saccade vla compare``."""

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from saccade.commands.common import command_line, load_recipe, replace_folder, say
from saccade.commands.evaluate import Line, numbers
from saccade.commands.vla_bases import MODES, SMALL, Given, base_named, seen_through
from saccade.config import Config
from saccade.errors import ConfigError
from saccade.evals import protocols
from saccade.experiments.suites import suite_named
from saccade.experiments.training import with_budget
from saccade.experiments.vla import VlaTraining, encoder_named
from saccade.experiments.vla_comparison import SETTINGS, Model, Rollouts, VlaComparison
from saccade.recipes import vla as recipes
from saccade.report import vla_page
from saccade.types import Encoder


@dataclass(frozen=True, kw_only=True)
class Compare(Given):
    """Exchange the eyes of models for several encoders, fine-tune all alike, and let all act.

    Beside the encoders stand the model's own eyes (original), the same with a new projector
    (re-projected, the control) and the first encoder with random weights (untrained). Fresh bases
    (small, small-pi0) are first trained whole, on --base-data. Run the same command again after
    an interruption: what is finished is kept.

    Example: saccade vla compare --base small small-pi0 --base-data data/base --data data/target
    --encoders two-stream=runs/eyes/train/two-stream/seed-0 video-mae=runs/b --demos 0.2
    --suite metaworld:reach,window-open --trials 20 --workers 2 --out runs/vla

    Args:
        base: small, small-pi0, or folders of models, as for saccade vla swap.
        encoders: NAME=RUN, or NAME=FOLDER of a DINOv2, SigLIP or CLIP.
        mode: replace, replace-one or add; several give several rows.
        data: demonstrations to fine-tune on; of any format.
        base_data: demonstrations that fresh bases are trained on first; empty takes --data.
        demos: share of the demonstrations to fine-tune on, of every task alike.
        recipe: of the fine-tuning.
        budget: samples of each fine-tuning; 0 keeps the recipe's.
        base_budget: samples of each fresh base; 0 keeps the recipe's.
        seeds: fine-tunings of each, from new projectors each; a claim about trainings needs three.
        suite: libero_spatial, _object, _goal, _10, _90, or metaworld:TASK,TASK; empty leaves
            rollouts out.
        protocol: as for saccade evaluate.
        tasks: numbers of tasks; none means all.
        trials: rollouts of each task, in place of the protocol's.
        initial_states: those of the trials, such as 0:10; none means the first ones.
        horizon: steps of the policy, in place of the protocol's.
        assets: folder or archive of LIBERO's meshes and textures.
        device: that policies act on: cpu, cuda, or auto.
        workers: processes of the rollouts.
        jobs: fine-tunings at once; 0 means one per core, or one where there is a GPU.
        out: folder of everything.
        overwrite: delete the folder first.
        dry_run: say what would be done, and how long and large, and do nothing.
    """

    base: tuple[str, ...]
    encoders: tuple[str, ...]
    mode: tuple[Literal["replace", "replace-one", "add"], ...] = ("replace",)
    data: str
    base_data: str = ""
    demos: float = 0.2
    recipe: str = ""
    budget: int = 0
    base_budget: int = 0
    seeds: int = 1
    suite: str = ""
    protocol: str = ""
    tasks: tuple[int, ...] = ()
    trials: int | None = None
    initial_states: tuple[str, ...] = ()
    horizon: int | None = None
    assets: Path | None = None
    device: str = "cpu"
    workers: int = 1
    jobs: int = 0
    out: Path
    overwrite: bool = False
    dry_run: bool = False


def main(args: list[str]) -> int:
    """Compare eyes, and print the table."""
    command = tyro.cli(Compare, args=args, prog="saccade vla compare")
    comparison = planned(command)
    comparison.check()
    if command.dry_run:
        for line in comparison.plan():
            print(line)
        return 0
    if command.overwrite:
        replace_folder(command.out, SETTINGS)
    results = comparison.run(
        command.out,
        command=command_line("vla", ["compare", *args]),
        jobs=command.jobs,
        report=say,
        played=Line(),
    )
    show(results, command.out)
    return 0


def planned(command: Compare) -> VlaComparison:
    """Return what the command asks for.

    Raises:
        ConfigError: settings that do not go together.
    """
    data = seen_through(command, command.data)
    before = seen_through(command, command.base_data or command.data)
    fresh = all(name in SMALL for name in command.base)
    recipe = command.recipe or ("vla:finetune_tiny" if fresh else "vla:finetune")
    tuning = load_recipe(recipe)
    whole = with_budget(replace(recipes.whole_tiny(), source=before), command.base_budget, seed=0)
    if not isinstance(tuning, VlaTraining):
        raise ConfigError(f"{recipe} fine-tunes no vision-language-action model; use vla:finetune")
    models = tuple(
        Model(
            name="-".join(name.split("/")[-2:]) if name not in SMALL else name,
            policy=base_named(name, before if name in SMALL else data, command, data),
            training=whole if name in SMALL else None,
        )
        for name in command.base
    )
    return VlaComparison(
        models=models,
        encoders=dict(map(named_encoder, command.encoders)),
        modes=tuple(MODES[mode] for mode in command.mode),  # pyright: ignore[reportArgumentType]
        frames=command.frames,
        stride=command.stride,
        keep_grid=command.keep_grid,
        tuning=replace(tuning, source=replace(data, demos=command.demos)),
        samples=command.budget,
        seeds=command.seeds,
        rollouts=rollouts(command),
        pictures=command.pictures,
        device=command.device,
    )


def rollouts(command: Compare) -> Rollouts | None:
    """Return where policies act, if they are to."""
    if not command.suite:
        return None
    suite = suite_named(command.suite, command.assets)
    states = numbers(command.initial_states)
    usual = "metaworld" if suite.name.startswith("metaworld") else "lerobot"
    protocol = protocols.named(command.protocol or usual).changed(
        suite.name, trials=len(states) or command.trials, horizon=command.horizon
    )
    return Rollouts(
        suite=suite,
        protocol=protocol,
        tasks=command.tasks,
        initial_states=states,
        workers=command.workers,
    )


def named_encoder(text: str) -> tuple[str, Config[Encoder]]:
    """Read ``NAME=RUN``.

    Raises:
        ConfigError: the text has another form, or names the model's own eyes.
    """
    name, equals, place = text.partition("=")
    found = encoder_named(place) if equals and name and place else None
    if found is None:
        raise ConfigError(f"--encoders {text} is not of the form NAME=RUN, as two-stream=runs/a")
    return name, found


def show(results: dict[str, Any], folder: Path) -> None:
    """Print the table, the verdict, the alarms, and where the page is."""
    columns = os.environ.get("COLUMNS")
    width = int(columns) if columns else None if sys.stdout.isatty() else 160
    console = Console(width=width, highlight=False, markup=False)
    for model in results["models"]:
        head = vla_page.columns(results, model)
        table = Table(title=model["name"], header_style="bold", title_justify="left")
        for i, name in enumerate(head):
            table.add_column(name, justify="right" if i else "left")
        for row in model["rows"]:
            table.add_row(*vla_page.cells(row, results))
        console.print(table)
    for name, rate in results["floors"].items():
        console.print(f"Floor {name}: {vla_page.percent(rate)}.")
    console.print(f"\nVerdict: {results['verdict']['sentence']}")
    for detail in results["verdict"]["details"]:
        if " minus " not in detail:  # the page has all pairs, the table those with the control
            console.print(detail)
    for alarm in results["alarms"]:
        told = f"Alarm, {alarm['name']} ({alarm['where']}): {alarm['detail']}"
        console.print(told, soft_wrap=True)
    print(f"report: {(folder / 'report.html').resolve()}")
