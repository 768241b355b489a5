"""``saccade energy``."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from saccade.commands.common import command_line, data_set, replace_folder, say
from saccade.errors import ConfigError
from saccade.evals.energy import Metric
from saccade.experiments.energy import EnergyStudy, Precision
from saccade.experiments.energy_estimate import estimate
from saccade.experiments.energy_grids import GridsConfig
from saccade.experiments.moments import MomentsConfig, Part
from saccade.experiments.source import SourceConfig
from saccade.report.results import RESULTS
from saccade.types import Crop


@dataclass(frozen=True, kw_only=True)
class Command:
    """Ask a world model, and adapters in it, where the energy of actions is lowest.

    At moments of recorded episodes each model imagines a grid of actions. The energy of an action
    is how far the imagined frame is from what the robot then saw, so a model that knows what
    actions do has its minimum at the action that was taken. Floors (standing still, the actions of
    other episodes), controls (reversed time, goals of other episodes) and intervals over episodes
    come with it. The default grid is the official notebook's: x, y and z, 5 values each of
    -7.5 to 7.5 cm, 125 actions.

    Example: saccade energy --model models/vjepa2-ac-vitg --adapters runs/lora_5k runs/lora_20k
    --data data/droid_100 --data-options state=pose --part all --episodes 30
    --slices x,z yaw,gripper --out runs/energy

    Args:
        model: folder of a world model, or the official vjepa2-ac-vitg.pt.
        data: data set of any format (`saccade data formats`), with states of the model's axes.
        out: folder of results.json and report.html.
        adapters: folders of adapters (`saccade export lora`), or of the runs that trained them.
        data_options: options of the reader, like state=pose.
        camera: camera to look through; empty takes the first.
        crop: how frames become squares; left out it is the model's, another is refused.
        held_out_tasks: instructions of tasks that only the report may see.
        held_out_scenes: scenes that only the report may see, as the data set names them.
        split_seed: decides which episodes go where; use that of the training.
        part: which episodes; all does not split, for data that no model was trained on.
        episodes: most episodes, evenly spread; 0 takes all.
        per_episode: moments of each, evenly spread; 0 takes all.
        horizon: steps from the present to the goal; one action is repeated.
        context: frames that the model looks back on, the present among them.
        axes: of the main grid; left out they are the positions that the model has.
        half_width: largest values of the main grid, one for all axes or one for each (metres,
            radians, openings); left out 0.075, 0.15 and 0.75.
        steps: values along each axis of the main grid, one number for all or one for each.
        slices: pairs of axes to vary around the true action, like x,z; left out they are chosen.
        slice_steps: values along each axis of a slice.
        sweep_steps: values along each axis, varied by itself; 0 leaves this out.
        widen: factors of the main grid's half-widths.
        metric: of features.
        drawn: moments that the report draws.
        memory: gigabytes that actions imagined at once may take.
        resamples: of the bootstrap over episodes.
        seed: of the bootstrap, and of the goals of other episodes.
        device: cpu, cuda, or auto.
        precision: of the weights; bfloat16 halves their memory.
        step_seconds: how long a step of the official .pt lasts, which it does not say.
        overwrite: delete the results in the folder first.
        dry_run: say what would be computed and what memory it takes, and do nothing.
    """

    model: Path
    data: str
    out: Path
    adapters: tuple[Path, ...] = ()
    data_options: tuple[str, ...] = ()
    camera: str = ""
    crop: Crop | None = None
    held_out_tasks: tuple[str, ...] = ()
    held_out_scenes: tuple[str, ...] = ()
    split_seed: int = 0
    part: Part = "test"
    episodes: int = 30
    per_episode: int = 4
    horizon: int = 1
    context: int = 1
    axes: tuple[str, ...] = ()
    half_width: tuple[float, ...] = ()
    steps: tuple[int, ...] = (5,)
    slices: tuple[str, ...] | None = None
    slice_steps: int = 11
    sweep_steps: int = 11
    widen: tuple[float, ...] = (1.0, 2.0, 4.0)
    metric: Metric = "l1"
    drawn: int = 3
    memory: float = 2.0
    resamples: int = 2000
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision = "float32"
    step_seconds: float | None = None
    overwrite: bool = False
    dry_run: bool = False


def main(args: list[str]) -> int:
    """Compute landscapes, or say what would be computed."""
    command = tyro.cli(Command, args=args, prog="saccade energy")
    study = study_of(command)
    if command.dry_run:
        print("\n".join(estimate(study)))
        return 0
    if command.overwrite:
        replace_folder(command.out, RESULTS)
    elif (command.out / RESULTS).exists():
        raise ConfigError(f"{command.out} holds results already; --overwrite replaces them")
    results = study.run(command.out, command=command_line("energy", args), report=say)
    show(results, command.out)
    return 0


def study_of(command: Command) -> EnergyStudy:
    """Put the options in their places."""
    slices = command.slices
    return EnergyStudy(
        model=command.model,
        adapters=command.adapters,
        source=SourceConfig(
            episodes=data_set(command.data, command.data_options),
            camera=command.camera,
            held_out_tasks=command.held_out_tasks,
            held_out_scenes=command.held_out_scenes,
            split_seed=command.split_seed,
        ),
        crop=command.crop,
        moments=MomentsConfig(
            part=command.part,
            episodes=command.episodes,
            per_episode=command.per_episode,
            horizon=command.horizon,
            context=command.context,
        ),
        grids=GridsConfig(
            axes=command.axes,
            half_width=command.half_width,
            steps=command.steps,
            slices=None if slices is None else tuple(tuple(one.split(",")) for one in slices),
            slice_steps=command.slice_steps,
            sweep_steps=command.sweep_steps,
            widen=command.widen,
        ),
        metric=command.metric,
        memory=command.memory,
        drawn=command.drawn,
        resamples=command.resamples,
        seed=command.seed,
        device=command.device,
        precision=command.precision,
        step_seconds=command.step_seconds,
    )


def show(results: dict[str, Any], folder: Path) -> None:
    """Print the table of the main grid, alarms, the verdict, and where the report is."""
    summary = results["models"][0]["summary"]
    table = Table("model", "distance (cm)", "rank (%)", "sharpness (%)", header_style="bold")
    for entry in results["models"]:
        scores = entry["summary"]["all"]["scores"]
        cells = [cell(scores[name]) for name in ("distance", "rank", "sharpness")]
        table.add_row(entry["name"], *cells)
    floors = summary["all"]["scores"]
    table.add_row("standing still", cell(floors["no_change"]), "-", "-")
    table.add_row("other episodes' actions", cell(floors["shuffled_actions"]), "-", "-")
    table.add_row("chance", "-", "50", "0")
    columns = os.environ.get("COLUMNS")
    console = Console(width=int(columns) if columns else None if sys.stdout.isatty() else 110)
    console.print(
        f"\nMinimum of the energy, from the true action; {summary['moments']} moments of "
        f"{summary['episodes']} episodes, 95 % intervals:",
        highlight=False,
    )
    console.print(table)
    for alarm in results["alarms"]:
        console.print(
            f"alarm, {alarm['name']} ({alarm['model']}): {alarm['detail']}",
            highlight=False,
            markup=False,
        )
    verdict = results["verdict"]["sentence"]
    console.print(f"\nVerdict: {verdict}\n", highlight=False, markup=False)
    print(f"report: {(folder / 'report.html').resolve()}")


def cell(found: dict[str, Any]) -> str:
    """Put a value and its interval, times 100, into one cell."""
    if found["value"] is None:
        return "-"
    if found["low"] is None:
        return f"{100 * found['value']:.2f}"
    return f"{100 * found['value']:.2f} \\[{100 * found['low']:.2f}, {100 * found['high']:.2f}]"
