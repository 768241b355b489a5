"""``saccade evaluate offline``."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from saccade.commands.common import data_set, say
from saccade.experiments.offline import RESULTS
from saccade.experiments.offline import Offline as Experiment


@dataclass(frozen=True, kw_only=True)
class Offline:
    """Compare a policy's commands with those of demonstrations that were held out of training.

    Errors of each axis in the data's units and in deviations of the training data, the gripper,
    errors along the chunk, smoothness; each with an interval, beside two floors that see nothing.

    Example: saccade evaluate offline runs/phase2

    Args:
        run: folder of the policy's training.
        part: select, which training watched to name its best weights, or test.
        samples: moments to ask about; 0 is every one.
        best: the weights of the best held-out loss, in place of the last ones.
        data: another data set, all of whose episodes are asked about.
        data_options: options of its reader, like state=joint_fingers.
        seed: of the policy's random numbers.
    """

    run: tyro.conf.Positional[Path]
    part: Literal["select", "test"] = "select"
    samples: int = 0
    best: bool = False
    data: str | None = None
    data_options: tuple[str, ...] = ()
    seed: int = 0


def main(args: list[str]) -> int:
    """Score, print the tables and leave ``offline.json`` in the run."""
    command = tyro.cli(Offline, args=args, prog="saccade evaluate offline")
    experiment = Experiment(
        run=command.run,
        part=command.part,
        samples=command.samples,
        best=command.best,
        episodes=None if command.data is None else data_set(command.data, command.data_options),
        seed=command.seed,
    )
    show(experiment.run_and_keep(say))
    print(f"all numbers: {(command.run / RESULTS).resolve()}")
    return 0


def show(found: dict[str, Any]) -> None:
    """Print errors by axis beside the floors, then the gripper and the smoothness."""
    columns = os.environ.get("COLUMNS")
    width = int(columns) if columns else None if sys.stdout.isatty() else 110
    console = Console(width=width, highlight=False, markup=False)
    console.print(
        f"{found['windows']:,} moments of {found['episodes']} episodes ({found['part']}), "
        f"{found['commands']:,} commands; 95 % intervals over episodes"
    )
    makers = {"policy": found["policy"], **found["floors"]}
    table = Table("mean squared error", *(name.replace("_", " ") for name in makers))
    for axis in found["axes"]:
        table.add_row(axis, *(_cell(maker["mse"][axis]) for maker in makers.values()))
    table.add_section()
    for axis in [a for a in found["axes"] if a in found["policy"].get("normalised_mse", {})]:
        cells = (_cell(maker["normalised_mse"][axis]) for maker in makers.values())
        table.add_row(f"{axis}, normalised", *cells)
    for axis, scores in found["policy"].get("gripper", {}).items():
        table.add_section()
        for name in ("accuracy", "f1_closed", "accuracy_at_transitions"):
            cells = (_cell(maker["gripper"][axis][name]) for maker in makers.values())
            told = f" (of {scores['transitions']})" if name.endswith("transitions") else ""
            table.add_row(f"{axis}: {name.replace('_', ' ')}{told}", *cells)
    console.print(table)
    if "horizon" in found["policy"]:
        steps = ", ".join(f"{step['value']:.3g}" for step in found["policy"]["horizon"])
        console.print(f"normalised error of motion along the chunk: {steps}")
    console.print(
        f"jerk: policy {_cell(found['jerk']['policy'])}, demonstrations "
        f"{_cell(found['jerk']['demonstrations'])}"
    )


def _cell(found: dict[str, float | None]) -> str:
    value, low, high = (found[key] for key in ("value", "low", "high"))
    if value is None:
        return "-"
    return f"{value:.3g}" if low is None else f"{value:.3g} [{low:.3g}, {high:.3g}]"
