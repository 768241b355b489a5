"""``saccade probe``."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from saccade.commands.common import command_line, data_set, say, show_results
from saccade.evals.probe import ProbeConfig
from saccade.experiments.probing import Probing
from saccade.experiments.source import SourceConfig


@dataclass(frozen=True, kw_only=True)
class Command:
    """Ask frozen encoders how the end effector moved, beside the floors they must beat.

    Example: saccade probe runs/first/encoder runs/second/encoder --data data/metaworld
    --out runs/probe --probe.gaps 1 5 10 --probe.readouts linear attentive

    Args:
        encoders: model folders that runs have exported.
        data: data set of any format (`saccade data formats`) with end-effector states.
        out: folder of results.json and report.html.
        data_options: options of its reader, like state=joint.
        camera: camera to look through; empty takes the first.
        held_out_tasks: instructions of tasks that only the report may see.
        split_seed: decides which episodes go where; use that of the training.
        probe: what to ask.
    """

    encoders: tyro.conf.Positional[tuple[Path, ...]]
    data: str
    out: Path
    data_options: tuple[str, ...] = ()
    camera: str = ""
    held_out_tasks: tuple[str, ...] = ()
    split_seed: int = 0
    probe: ProbeConfig = field(default_factory=ProbeConfig)


def main(args: list[str]) -> int:
    """Probe."""
    command = tyro.cli(Command, args=args, prog="saccade probe")
    probing = Probing(
        encoders=command.encoders,
        source=SourceConfig(
            episodes=data_set(command.data, command.data_options),
            camera=command.camera,
            held_out_tasks=command.held_out_tasks,
            split_seed=command.split_seed,
        ),
        probe=command.probe,
    )
    results = probing.run(command.out, command=command_line("probe", args), report=say)
    show_results(results, command.out)
    return 0
