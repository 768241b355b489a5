"""``saccade probe``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.table import Table

from saccade.commands.common import command_line, data_set, say, show_results
from saccade.errors import ConfigError
from saccade.evals.probes.base import ProbeConfig, ProbeName
from saccade.experiments.probing import Probing, chosen, estimate, offline
from saccade.experiments.source import SourceConfig
from saccade.experiments.views import Transfer
from saccade.models.published.catalogue import ENTRIES


@dataclass(frozen=True, kw_only=True)
class Command:
    """Ask frozen encoders what they know of behaviour, beside the floors they must beat.

    Encoders are folders (of a run, of a model, or of the hub) or names such as dinov2-base;
    NAME=PATH takes a name's weights from a folder or file, NAME=random its architecture with
    random weights. `saccade probe --list` names them.

    Example: saccade probe runs/first dinov2-base r3m-18=weights/r3m.pt --data data/metaworld
    --probes all --out runs/probe

    Features are computed once and kept, so another probe of the same data costs little.

    Args:
        encoders: what to ask.
        data: data set of any format (`saccade data formats`).
        out: folder of results.json, report.html and tables.
        probes: action, flow, order, clusters, factors, curves, robustness; all asks those that
            the data can answer, and says which it cannot.
        weights: folder with the weights of named encoders, by their names, or those of the one.
        data_options: options of its reader, like state=joint.
        camera: camera to look through; empty takes the first.
        held_out_tasks: instructions of tasks that only the report may see.
        held_out_scenes: scenes that only the report may see, as the data set names them.
        transfer: other data sets, to report on what was fitted on this one; NAME=PATH names one.
        transfer_options: options of their reader.
        transfer_camera: the camera of the others; empty takes the first.
        split_seed: decides which episodes go where; use that of the training.
        probe: how to ask.
        dry_run: measure the encoders' speed, estimate time and disk, and stop.
        list: print the names of published encoders, and stop.
    """

    encoders: tyro.conf.Positional[tuple[str, ...]] = ()
    data: str = ""
    out: Path = Path("runs/probe")
    probes: tuple[ProbeName | Literal["all"], ...] = ()
    weights: Path | None = None
    data_options: tuple[str, ...] = ()
    camera: str = ""
    held_out_tasks: tuple[str, ...] = ()
    held_out_scenes: tuple[str, ...] = ()
    transfer: tuple[str, ...] = ()
    transfer_options: tuple[str, ...] = ()
    transfer_camera: str = ""
    split_seed: int = 0
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    dry_run: bool = False
    list: bool = False


def main(args: list[str]) -> int:
    """Probe."""
    command = tyro.cli(Command, args=args, prog="saccade probe")
    if command.list:
        _list()
        return 0
    if not command.data:
        raise ConfigError("--data is missing; name a data set to probe on")
    probing = configured(command)
    if command.dry_run:
        for line in estimate(probing):
            print(line)
        return 0
    results = probing.run(command.out, command=command_line("probe", args), report=say)
    show_results(results, command.out)
    return 0


def configured(command: Command) -> Probing:
    """Return what the command asks for."""
    config, optional = chosen(command.probes, command.probe)
    return Probing(
        encoders=offline(command.encoders, command.weights),
        source=SourceConfig(
            episodes=data_set(command.data, command.data_options),
            camera=command.camera,
            held_out_tasks=command.held_out_tasks,
            held_out_scenes=command.held_out_scenes,
            split_seed=command.split_seed,
        ),
        probe=config,
        transfers=tuple(_transfer(given, command) for given in command.transfer),
        optional=optional,
    )


def _transfer(given: str, command: Command) -> Transfer:
    """Read URI, whose last part is the name, or NAME=URI."""
    name, equals, uri = given.partition("=")
    if not equals or "/" in name:
        name, uri = Path(given.rstrip("/")).name, given
    episodes = data_set(uri, command.transfer_options)
    return Transfer(
        name=name, source=SourceConfig(episodes=episodes, camera=command.transfer_camera)
    )


def _list() -> None:
    """Print the published encoders as a table."""
    table = Table("name", "repository", "millions", "licence", box=None, header_style="bold")
    for name, entry in ENTRIES.items():
        table.add_row(name, entry.repository, f"{entry.parameters / 1e6:.0f}", entry.licence)
    Console().print(table)
