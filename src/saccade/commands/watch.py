"""``saccade watch``."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from saccade.progress import duration
from saccade.train import runs
from saccade.train.runs import RunInfo

BLOCKS = " ▁▂▃▄▅▆▇█"
WIDTH, PIPE = 40, 200  # characters of a curve; of a line where there is no terminal
SHOWN = ("train/loss", "eval/loss", "eval/ratio", "grad_norm", "lr")  # the rest is in the files


@dataclass(frozen=True, kw_only=True)
class Command:
    """Watch a run: progress, losses, speed, checkpoints, alarms. It may run anywhere that shares
    the folder; looking never disturbs it.

    Example: saccade watch runs/first

    Args:
        run: run folder.
        every: seconds between looks.
        once: look once, for scripts and pipes.
    """

    run: tyro.conf.Positional[Path]
    every: float = 2.0
    once: bool = False


def main(args: list[str]) -> int:
    """Look until the run ends, or Ctrl-C."""
    command = tyro.cli(Command, args=args, prog="saccade watch")
    info = runs.describe(command.run)
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else PIPE)
    if command.once or not console.is_terminal:
        console.print(view(command.run, info))
        return 0
    with Live(view(command.run, info), console=console, screen=False) as live:
        while info.state == "running":
            time.sleep(command.every)
            info = runs.describe(command.run)
            live.update(view(command.run, info))
    return 0


def view(run: Path, info: RunInfo) -> RenderableType:
    """Draw a run as it is now."""
    records, clock = list(_records(run / "metrics.jsonl")), list(_records(run / "timing.jsonl"))
    steps = info.steps or max(info.step, 1)
    head = Text(f"{run}  {info.state}", style="bold")
    if info.pid:
        head.append(f" (pid {info.pid})", style="dim")
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        ProgressBar(total=steps, completed=info.step, width=WIDTH),
        f"step {info.step:,} of {info.steps or '?'}",
        _eta(info, clock),
    )
    return Group(head, bar, _curves(records, clock), *_remarks(run, info))


def _eta(info: RunInfo, clock: Sequence[dict[str, Any]]) -> str:
    if info.state != "running" or len(clock) < 2 or info.steps is None:
        return ""
    first, last = clock[-min(len(clock), 20)], clock[-1]
    seconds = last["seconds"] - first["seconds"]
    if seconds <= 0 or last["step"] <= first["step"]:  # it was resumed in between
        return ""
    left = (info.steps - info.step) * seconds / (last["step"] - first["step"])
    return f"{duration(left)} to go"


def _curves(records: Sequence[dict[str, Any]], clock: Sequence[dict[str, Any]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name in SHOWN:
        values = [float(r[name]) for r in records if name in r]
        if values:
            table.add_row(name, sparkline(values), f"{values[-1]:.4g}", f"least {min(values):.4g}")
    for name, unit in (
        ("samples_per_second", ""),
        ("teraflops", "TFLOP/s"),
        ("data_wait", "of the time"),
        ("peak_memory_mb", "MB"),
    ):
        values = [float(r[name]) for r in clock if name in r]
        if values:
            table.add_row(name.replace("_", " "), sparkline(values), f"{values[-1]:.3g}", unit)
    return table


def _remarks(run: Path, info: RunInfo) -> Iterator[Text]:
    best = "" if info.best_step is None else f"; best {info.best_loss:.4g} at {info.best_step:,}"
    size = f"{info.bytes / 1e6:.1f} MB"
    late = "" if info.seconds is None else f"; last number {duration(info.seconds)} ago"
    yield Text(f"{info.checkpoints} checkpoints, {size}{best}{late}", style="dim")
    alarms = run / "alarms.json"
    for alarm in json.loads(alarms.read_text())["alarms"] if alarms.is_file() else ():
        yield Text(f"ALARM {alarm['name']}: {alarm['detail']}", style="red")
    if bad := len(list((run / "bad").glob("step-*.json"))):
        yield Text(f"{bad} steps were not taken, see {run / 'bad'}", style="red")


def sparkline(values: Sequence[float]) -> str:
    """Draw numbers as blocks, the means of equal stretches where there are more than fit."""
    count = min(WIDTH, len(values))
    cut = [len(values) * i // count for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(cut)]
    low, high = min(means), max(means)
    scale = (len(BLOCKS) - 2) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[1 + round((value - low) * scale)] for value in means)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else ():
        if line.endswith(b"}\n"):  # the last one may be half written
            yield json.loads(line)
