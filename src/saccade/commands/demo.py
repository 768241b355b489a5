"""``saccade demo``."""

import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from saccade.commands.collect import Line, tell
from saccade.commands.common import command_line, data_set, replace_folder, say, show_results
from saccade.data.lerobot.reader import LeRobotConfig
from saccade.recipes import demo
from saccade.sim.collect import collect

MARK = "train/*/*/experiment.json"  # what a comparison writes first


@dataclass(frozen=True, kw_only=True)
class Command:
    """The whole path in small: collect in simulation, pretrain three ways, probe, report.

    Ten Meta-World tasks, two of them held out; Two-Stream (both presets), Single-Stream and
    VideoMAE on equal budgets. Run it again after an interruption and it goes on.

    Example: saccade demo --out runs/demo

    Args:
        data: train and probe on this data set of any format (`saccade data formats`) instead of
            collecting one; no task is held out.
        data_options: options of its reader, like state=joint.
        out: folder of the data, the runs and the report.
        overwrite: delete the folder first.
    """

    data: str | None = None
    data_options: tuple[str, ...] = ()
    out: Path = Path("runs/demo")
    overwrite: bool = False


def main(args: list[str]) -> int:
    """Run the demonstration and print the verdict, the table and the path of the report."""
    command = tyro.cli(Command, args=args, prog="saccade demo")
    began, seconds = time.perf_counter(), {}
    if command.overwrite:
        replace_folder(command.out, "data/collection.json" if command.data is None else MARK)
    if command.data is None:
        say("collecting demonstrations of ten Meta-World tasks")
        tell(collect(demo.collection(command.out / "data"), Line()), str(command.out / "data"))
        seconds["collect"] = time.perf_counter() - began
        episodes, held_out = LeRobotConfig(root=command.out / "data"), demo.HELD_OUT
    else:
        episodes, held_out = data_set(command.data, command.data_options), ()
    results = demo.comparison(episodes, held_out, command.out / "cache").run(
        command.out, command=command_line("demo", args), report=say, seconds=seconds
    )
    show_results(results, command.out)
    print(f"took {(time.perf_counter() - began) / 60:.1f} minutes")
    return 0
