"""``saccade demo``."""

import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from saccade.commands.collect import Line, tell
from saccade.commands.common import command_line, replace_folder, say, show_results
from saccade.recipes import demo
from saccade.sim.collect import collect


@dataclass(frozen=True, kw_only=True)
class Command:
    """The whole path in small: collect in simulation, pretrain three ways, probe, report.

    Ten Meta-World tasks, two of them held out; Two-Stream (both presets), Single-Stream and
    VideoMAE on equal budgets. Run it again after an interruption and it goes on.

    Example: saccade demo --out runs/demo

    Args:
        out: folder of the data, the runs and the report.
        overwrite: delete the folder first.
    """

    out: Path = Path("runs/demo")
    overwrite: bool = False


def main(args: list[str]) -> int:
    """Run the demonstration and print the verdict, the table and the path of the report."""
    command = tyro.cli(Command, args=args, prog="saccade demo")
    began = time.perf_counter()
    if command.overwrite:
        replace_folder(command.out, "data/collection.json")
    say("collecting demonstrations of ten Meta-World tasks")
    tell(collect(demo.collection(command.out / "data"), Line()), str(command.out / "data"))
    collected = time.perf_counter() - began
    results = demo.comparison(command.out / "data", command.out / "cache").run(
        command.out,
        command=command_line("demo", args),
        report=say,
        seconds={"collect": collected},
    )
    show_results(results, command.out)
    print(f"took {(time.perf_counter() - began) / 60:.1f} minutes")
    return 0
