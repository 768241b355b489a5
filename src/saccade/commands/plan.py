"""``saccade plan``."""

import os
import sys
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from saccade.commands.common import command_line, data_set, replace_folder, say
from saccade.errors import ConfigError
from saccade.evals.closed_loop import ReachConfig
from saccade.evals.planners import CemConfig, Planner
from saccade.experiments.calibrating import FILE, Calibrating
from saccade.experiments.moments import MomentsConfig, Part
from saccade.experiments.planning import OfflinePlanning
from saccade.experiments.plans import PLANNERS, LoadConfig, ahead, beside, name_of
from saccade.experiments.reaching import ClosedLoop, ViewConfig
from saccade.experiments.source import SourceConfig
from saccade.progress import duration
from saccade.report.planning_page import CM
from saccade.report.results import RESULTS
from saccade.report.text import number
from saccade.types import Crop

USAGE = """usage: saccade plan offline   [cem|mppi|gradient ...] --model M --data D --out F
       saccade plan reach     [cem|mppi|gradient] --model M --task reach --out F
       saccade plan calibrate [cem|mppi|gradient] --model M --data D --out F

  offline    plans beside what the robot did and beside floors, on held-out episodes
  reach      acting in Meta-World until the camera sees the goal picture
  calibrate  how the model's frame is turned under this camera -> calibration.json

Of several planners the first has the --planner options; the others get its box and as many
evaluations. saccade plan MODE --help lists all.
Example: saccade plan offline cem mppi --model runs/ac/world_model --data data/metaworld --out
runs/plan --planner.samples 200"""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What every mode takes.

    Args:
        model: folder of a world model.
        out: folder of results.json and report.html.
        planner: of the first planner; the defaults of cem are those of the paper.
        horizon: actions of one plan, in place of the planner's.
        rotation: radians that a plan may turn about each axis, in place of the planner's limit.
        memory: gigabytes that candidates may take together, in place of the planner's.
        device: cpu, cuda, or auto.
        precision: bfloat16 halves the memory of weights.
        seed: of every random number.
        overwrite: delete the results in the folder first.
        dry_run: say what a plan would cost, and do nothing.
    """

    model: Path
    out: Path
    planner: Planner = field(default_factory=CemConfig)
    horizon: int | None = None
    rotation: float | None = None
    memory: float | None = None
    device: str = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    overwrite: bool = False
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Which recorded moments are asked about.

    Args:
        data: data set of any format (`saccade data formats`).
        data_options: options of its reader, like state=joint.
        camera: camera to look through; empty takes the first.
        crop: how frames become squares; by default as in the model's training.
        split_seed: decides which episodes go where; use that of the training.
        part: test episodes, or all of data that no model was trained on.
        episodes: most episodes; 0 takes all.
        per_episode: moments of each; 0 takes all.
        context: frames that the model looks back on.
    """

    data: str
    data_options: tuple[str, ...] = ()
    camera: str = ""
    crop: Crop | None = None
    split_seed: int = 0
    part: Part = "test"
    episodes: int = 30
    per_episode: int = 4
    context: int = 1


@dataclass(frozen=True, kw_only=True)
class Offline(Shared, Moments):
    """Plan at moments of held-out episodes, and compare with what the robot did.

    Beside stand standing still, the mean, a random and the last action.

    Example: saccade plan offline cem mppi gradient --model runs/ac/world_model
    --data data/metaworld --out runs/plan

    Args:
        adapters: folders of adapters, each compared with the base on the same moments.
        calibration: file of saccade plan calibrate.
        sub_goals: steps between sub-goals that are pursued in imagination, such as 4 10 4.
        warm_start: start each search for a sub-goal from the plan before.
    """

    adapters: tuple[Path, ...] = ()
    calibration: Path | None = None
    sub_goals: tuple[int, ...] = ()
    warm_start: bool = False


@dataclass(frozen=True, kw_only=True)
class Reach(Shared):
    """Act in Meta-World, beside doing nothing, random actions and the scripted expert.

    Example: saccade plan reach --model runs/ac/world_model --task reach --recorded data/metaworld
    --out runs/reach

    Args:
        task: of Meta-World.
        adapter: folder of adapters that are in use.
        calibration: file of saccade plan calibrate.
        recorded: data set of saccade collect that the model was trained on, whose size and noise
            of pictures replace those of --view.
        view: camera and pictures.
        reach: starts and goals; its seed is --seed.
        unit: metres that an action of 1 moves the simulator's hand by.
    """

    task: str = "reach"
    adapter: Path | None = None
    calibration: Path | None = None
    recorded: Path | None = None
    view: ViewConfig = field(default_factory=ViewConfig)
    reach: ReachConfig = field(default_factory=ReachConfig)
    unit: float = 0.01


@dataclass(frozen=True, kw_only=True)
class Calibrate(Shared, Moments):
    """Fit the rotation from a model's frame to the robot's, without labels.

    Motion is inferred by planning to the frame that followed; every second episode is held out.

    Example: saccade plan calibrate --model runs/ac/world_model --data data/metaworld
    --camera corner3 --out runs/turn

    Then give --calibration runs/turn/calibration.json to the other modes.

    Args:
        adapter: folder of adapters that are in use.
        scale: fit one factor for all axes too.
    """

    adapter: Path | None = None
    scale: bool = False


MODES: dict[str, type[Shared]] = {"offline": Offline, "reach": Reach, "calibrate": Calibrate}


def main(args: list[str]) -> int:
    """Plan in one of the three modes."""
    if not args or args[0] not in MODES:
        if args and not args[0].startswith("-"):
            raise ConfigError(f"there is no mode {args[0]!r}; the modes are {', '.join(MODES)}")
        print(USAGE)
        return 0 if args and args[0] in ("-h", "--help") else 2
    names = _planners(args[0], args[1:])
    mode = MODES[args[0]]
    given = {f.name: f.default_factory() for f in fields(mode) if f.default_factory is not MISSING}
    given["planner"] = PLANNERS[names[0]]()
    command = tyro.cli(
        partial(mode, **given),
        args=args[1 + _named(args[1:]) :],
        prog=f"saccade plan {args[0]}",
    )
    first = _limited(command)
    planners = (first, *(beside(first, name) for name in names[1:]))
    if command.dry_run:
        return _dry_run(command, planners)
    if (command.out / RESULTS).exists() and not command.overwrite:
        raise ConfigError(
            f"{command.out} has a {RESULTS}; choose another --out, or give --overwrite"
        )
    if command.overwrite:
        replace_folder(command.out, RESULTS)
    line = command_line("plan", args)
    results = _experiment(command, planners).run(command.out, command=line, report=say)
    show(results, command.out)
    return 0


def _named(args: Sequence[str]) -> int:
    """Count the words before the first option."""
    return next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))


def _planners(mode: str, args: Sequence[str]) -> list[str]:
    names = list(args[: _named(args)]) or ["cem"]
    if unknown := [name for name in names if name not in PLANNERS]:
        raise ConfigError(f"there is no planner {unknown}; there are {', '.join(PLANNERS)}")
    if mode != "offline" and len(names) > 1:
        raise ConfigError(f"saccade plan {mode} takes one planner, not {names}")
    return names


def _limited(command: Shared) -> Planner:
    """Return the first planner, with the short options applied."""
    planner = command.planner
    if command.rotation is not None:
        planner = replace(planner, limits=replace(planner.limits, rotation=command.rotation))
    if command.horizon is not None:
        planner = replace(planner, horizon=command.horizon)
    return planner if command.memory is None else replace(planner, memory=command.memory)


def _experiment(
    command: Shared, planners: tuple[Planner, ...]
) -> OfflinePlanning | ClosedLoop | Calibrating:
    model = LoadConfig(
        folder=command.model,
        calibration=getattr(command, "calibration", None),
        device=command.device,
        precision=command.precision,
    )
    if isinstance(command, Reach):
        if command.reach.seed:
            raise ConfigError("one seed decides everything; give --seed, not --reach.seed")
        return ClosedLoop(
            model=model,
            task=command.task,
            adapter=command.adapter,
            view=command.view,
            recorded=command.recorded,
            reach=replace(command.reach, seed=command.seed),
            planner=planners[0],
            unit=command.unit,
        )
    assert isinstance(command, Offline | Calibrate)
    asked: dict[str, Any] = {
        "model": model,
        "source": SourceConfig(
            episodes=data_set(command.data, command.data_options),
            camera=command.camera,
            split_seed=command.split_seed,
        ),
        "crop": command.crop,
        "moments": MomentsConfig(
            part=command.part,
            episodes=command.episodes,
            per_episode=command.per_episode,
            horizon=planners[0].horizon,
            context=command.context,
        ),
        "seed": command.seed,
    }
    if isinstance(command, Calibrate):
        return Calibrating(
            **asked, adapter=command.adapter, planner=planners[0], scale=command.scale
        )
    return OfflinePlanning(
        **asked,
        adapters=command.adapters,
        planners=planners,
        sub_goals=command.sub_goals,
        warm_start=command.warm_start,
    )


def _dry_run(command: Shared, planners: Sequence[Planner]) -> int:
    """Say how many plans there would be at most, and what each costs."""
    model = LoadConfig(
        folder=command.model, device=command.device, precision=command.precision
    ).load()
    plans, of = _count(command)
    for planner in planners:
        cost = ahead(model, planner)
        total = f", about {duration(plans * cost.seconds)} in all" if plans else ""
        print(
            f"{name_of(planner)}: {of}, {cost.evaluations:,} evaluations each; about "
            f"{cost.seconds:.3g} s each on {next(model.predictor.parameters()).device} (timed on "
            f"{cost.timed} candidates, frames to encode not counted){total}; "
            f"{cost.megabytes:,.3g} MB for each candidate at its peak, at most "
            f"{planner.memory:g} GB together"
        )
    return 0


def _count(command: Shared) -> tuple[int, str]:
    if isinstance(command, Reach):
        plans = command.reach.episodes * sum(command.reach.goal_steps)
        return plans, f"{plans:,} plans"
    assert isinstance(command, Offline | Calibrate)
    models = 1 + len(command.adapters) if isinstance(command, Offline) else 1
    plans = command.episodes * command.per_episode * models
    if isinstance(command, Offline):
        plans += command.episodes * sum(command.sub_goals) * models
    if not command.episodes or not command.per_episode:
        return 0, "a plan for every moment of the data"
    return plans, f"at most {plans:,} plans"


def show(results: dict[str, Any], folder: Path) -> None:
    """Print a table of the main number beside its floors, the verdict, and where the report is."""
    table = Table(header_style="bold")
    for name, right in _columns(results["mode"]):
        table.add_column(name, justify="right" if right else "left")
    for row in _rows(results):
        table.add_row(*row)
    columns = os.environ.get("COLUMNS")
    console = Console(width=int(columns) if columns else None if sys.stdout.isatty() else 110)
    console.print(table)
    console.print(f"\nVerdict: {results['verdict']['sentence']}", highlight=False)
    for alarm in results["alarms"]:
        console.print(f"Alarm, {alarm['name']} ({alarm['where']}): {alarm['detail']}")
    if results["mode"] == "calibrate":
        print(f"calibration: {(folder / FILE).resolve()}")
    print(f"report: {(folder / 'report.html').resolve()}")


def _columns(mode: str) -> list[tuple[str, bool]]:
    if mode == "offline":
        return [("plans", False), ("error, cm", True), ("direction", True), ("s each", True)]
    if mode == "reach":
        return [("who acts", False), ("at the goal", True), ("final distance, cm", True)]
    return [("motion, held-out episodes", False), ("distance from the truth, cm", True)]


def _rows(results: dict[str, Any]) -> list[tuple[str, ...]]:
    if results["mode"] == "offline":
        runs = [
            (f"{run['model']}, {run['planner']}", run["scores"], f"{run['seconds_per_plan']:.2f}")
            for run in results["runs"]
        ]
        floors = [(f"floor: {name}", scores, "-") for name, scores in results["floors"].items()]
        return [
            (name, _cell(scores["xyz"], CM), _cell(scores["direction"]), spent)
            for name, scores, spent in runs + floors
        ]
    if results["mode"] == "reach":
        found = results["reach"]
        return [
            (
                name,
                f"{found[name]['reached']['count']} of {found['episodes']}",
                _cell(found[name]["final"], CM),
            )
            for name in ("planned", "nothing", "random", "expert")
        ]
    held = results["held_out"]
    names = {"before": "inferred", "after": "calibrated", "zero": "floor: standing still"}
    return [(said, _cell(held[key], CM)) for key, said in names.items()]


def _cell(found: dict[str, Any], scale: float = 1.0) -> str:
    if found["value"] is None:
        return "-"
    if found["low"] is None:
        return number(scale * found["value"])
    low, high = (number(scale * found[key]) for key in ("low", "high"))
    return f"{number(scale * found['value'])} [{low}, {high}]"
