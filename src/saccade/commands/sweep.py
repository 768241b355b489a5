"""``saccade sweep``."""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from saccade.commands.common import (
    command_line,
    list_recipes,
    load_recipe,
    replace_folder,
    say,
    with_data,
)
from saccade.experiments.memory import check
from saccade.experiments.sweep import Sweep
from saccade.experiments.training import Training
from saccade.experiments.world_model import WorldModelTraining


@dataclass(frozen=True, kw_only=True)
class Command:
    """Train a recipe with every combination of some settings, and compare the held-out losses.

    Each member has a folder of its own; run again with --resume after an interruption: finished
    members are kept. Every field of the recipe is an option too, the same for all members.

    Example: saccade sweep vjepa2_ac:lora_5k --vary objective.lora.rank=4,16,64
    train.lr=1e-5,1e-4 --out runs/sweep

    Args:
        training: the recipe.
        vary: fields and their values, FIELD=VALUE,VALUE; several make a product.
        out: folder of the members and results.json.
        data: data set of any format (`saccade data formats`), in place of the recipe's.
        data_options: options of its reader, like state=joint.
        jobs: members at once; 0 means one per core, or one where there is a GPU.
        resume: go on with members that are not finished.
        overwrite: delete the folder first.
        dry_run: list the members and their sizes, and do nothing.
    """

    training: Annotated[Training, tyro.conf.arg(name="")]
    vary: tuple[str, ...]
    out: Path
    data: str | None = None
    data_options: tuple[str, ...] = ()
    jobs: int = 0
    resume: bool = False
    overwrite: bool = False
    dry_run: bool = False


def main(args: list[str]) -> int:
    """Sweep, or list the recipes where none is named."""
    if not args or args[0].startswith("-"):
        print("usage: saccade sweep RECIPE --vary FIELD=VALUE,VALUE ... --out FOLDER")
        print("       saccade sweep RECIPE --help lists every field")
        print("Example: saccade sweep world_model:debug --vary train.lr=1e-4,1e-3 --out runs/s\n")
        list_recipes()
        return 0 if args and args[0] in ("-h", "--help") else 2
    command = tyro.cli(
        partial(Command, training=load_recipe(args[0])),
        args=args[1:],
        prog=f"saccade sweep {args[0]}",
    )
    training = with_data(command.training, command.data, command.data_options)
    sweep = Sweep(recipe=args[0], training=training, vary=command.vary)
    members = sweep.members()
    if command.dry_run:
        for member in members:
            sizes = member.training.sizes(member.training.blank())
            loop = member.training.train
            print(
                f"{member.name}: {sizes['trained_parameters']:,} parameters for {loop.steps:,} "
                f"steps of {loop.batch_size} samples"
            )
        print(f"would train {len(members)} members in {command.out}")
        return 0
    for member in members:
        if isinstance(member.training, WorldModelTraining):
            check(member.training, say)
    if command.overwrite:
        replace_folder(command.out, "*/experiment.json")
    results = sweep.run(
        command.out,
        command=command_line("sweep", args),
        jobs=command.jobs,
        resume=command.resume,
        report=say,
    )
    show(results)
    print(f"results: {(command.out / 'results.json').resolve()}")
    return 0


def show(results: dict[str, Any]) -> None:
    """Print the members, the lowest held-out loss first, and what the order was made on."""
    members, data = results["members"], results["data"]
    table = Table(
        "member",
        "held-out loss",
        f"x {members[0]['baseline']}",
        "shuffled actions, x loss",
        "trained parameters",
        "seconds",
        "alarms",
        header_style="bold",
    )
    for member in members:
        shuffled = member["shuffled_ratio"]
        table.add_row(
            member["name"],
            f"{member['loss']:.4g}",
            f"{member['ratio']:.3f}",
            "-" if shuffled is None else f"{shuffled:.3f}",
            f"{member['trained_parameters']:,}",
            f"{member['seconds']:.0f}",
            str(len(member["alarms"])),
        )
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table)
    console.print(
        f"{data['clips']} held-out clips at most, of {data['select_episodes']} episodes. "
        f"{results['about']}",
        highlight=False,
    )
