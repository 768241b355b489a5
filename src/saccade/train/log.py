"""What a run says: numbers to files, one line to the screen.

``metrics.jsonl`` holds functions of the seed and the step only, so that a killed and resumed
run writes the same bytes as an uninterrupted one. What depends on the clock or the machine goes
to ``timing.jsonl``.
"""

import json
import os
import resource
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

from saccade.checkpoint import write_atomic
from saccade.errors import SpaceError
from saccade.train.boards import Boards, Name, Record


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is; ``note`` is something that a human should read now."""

    step: int
    steps: int
    loss: float | None = None
    samples_per_second: float = 0.0
    data_wait: float = 0.0  # share of the time spent waiting for the loader
    eta: float = 0.0  # seconds to go
    note: str = ""


class JsonLines:
    """A file of JSON objects, one per line, each line written whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("ab", buffering=0)

    def write(self, record: Record) -> None:
        """Append one record.

        Raises:
            SpaceError: the disk is full.
        """
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        try:
            written = self.file.write(line)
        except OSError as error:
            raise SpaceError(f"cannot write {self.path} ({error}); free some space") from error
        if written != len(line):
            raise SpaceError(f"no room for a whole line in {self.path}; free some space")

    def sync(self) -> None:
        """Make what was written survive a power cut."""
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Close the file."""
        self.file.close()


class Log:
    """The files of one run, metrics and timing, and what else shows its metrics."""

    def __init__(self, folder: Path, boards: tuple[Name, ...], warn: Callable[[str], None]) -> None:
        self.lines = JsonLines(folder / "metrics.jsonl")
        self.clock = JsonLines(folder / "timing.jsonl")
        self.boards = Boards(boards, folder, warn)

    def metrics(self, record: Record) -> None:
        """Write what depends on the seed and the step only."""
        self.lines.write(record)
        self.boards.write(record)

    def pictures(self, found: Mapping[str, Path], step: int) -> None:
        """Show pictures, PNG files by name, where else metrics are shown."""
        self.boards.show(found, step)

    def timing(self, record: Record) -> None:
        """Write what depends on the clock or the machine."""
        self.clock.write(record)

    def sync(self) -> None:
        """Make the metrics survive a power cut."""
        self.lines.sync()

    def close(self) -> None:
        """Close every file."""
        for writer in (self.lines, self.clock, self.boards):
            writer.close()


def truncate(path: Path, last_step: int) -> None:
    """Keep the records up to a step; a half-written line goes too."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    kept = [
        line for line in lines if line.endswith(b"}\n") and json.loads(line)["step"] <= last_step
    ]
    write_atomic(path, b"".join(kept))


class BadSamples:
    """A file of what could not be read, one line for each; made when there is something to say."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Add a record; a run that was resumed finds again what it found after its checkpoint."""
        if not self.count:
            truncate(self.path, record["step"] - 1)
        self.count += 1
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")


class Meter:
    """Speed over the last steps. Evaluating and saving are not counted."""

    def __init__(self, batch_size: int, window: int) -> None:
        self.batch_size = batch_size
        self.flops_per_sample = 0.0  # where it is known
        self.steps: deque[tuple[float, float]] = deque(maxlen=window)  # seconds, of them waiting
        self.seconds, self.count, self.began = 0.0, 0, time.monotonic()

    def add(self, seconds: float, waiting: float) -> None:
        """Count one step."""
        self.steps.append((seconds, waiting))
        self.seconds, self.count = self.seconds + seconds, self.count + 1

    @property
    def samples_per_second(self) -> float:
        """Return the recent rate."""
        return self.batch_size * len(self.steps) / max(sum(s for s, _ in self.steps), 1e-9)

    def progress(self, step: int, steps: int, loss: float | None, note: str) -> Progress:
        """Say how far a run is and how long the rest will take."""
        rate = self.samples_per_second
        return Progress(
            step=step,
            steps=steps,
            loss=loss,
            samples_per_second=rate,
            data_wait=self.data_wait,
            eta=(steps - step) * self.batch_size / rate if rate else 0.0,
            note=note,
        )

    def record(self, device: torch.device) -> dict[str, float]:
        """Return what ``timing.jsonl`` keeps of this moment."""
        rate = self.samples_per_second
        return {
            "samples_per_second": rate,
            "teraflops": rate * self.flops_per_sample / 1e12,
            "data_wait": self.data_wait,
            "peak_memory_mb": peak_memory_mb(device),
            "seconds": time.monotonic() - self.began,  # of this process, all included
        }

    @property
    def overall(self) -> float:
        """Return the rate since the start of this process."""
        return self.batch_size * self.count / max(self.seconds, 1e-9)

    @property
    def data_wait(self) -> float:
        """Return the recent share of time that was spent waiting for data."""
        return sum(w for _, w in self.steps) / max(sum(s for s, _ in self.steps), 1e-9)


def peak_memory_mb(device: torch.device) -> float:
    """Return the most memory that was in use: of the GPU if there is one, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


class Screen:
    """Render progress: one living line on a terminal, else a plain line every ten seconds.

    Screens with a ``label`` share a terminal, so their lines stay plain.
    """

    def __init__(self, stream: TextIO, period: float = 10.0, label: str = "") -> None:
        self.stream, self.live = stream, stream.isatty() and not label
        self.label = f"{label}: " if label else ""
        self.period = 0.1 if self.live else period
        self.next = -float("inf")

    def __call__(self, progress: Progress) -> None:
        """Show the progress if it is time to; notes always."""
        done = progress.step == progress.steps
        if progress.note:
            self.stream.write(f"{self._clear()}{self.label}{progress.note}\n")
        elif time.monotonic() >= self.next or done:
            self.next = time.monotonic() + self.period
            end = "" if self.live and not done else "\n"
            self.stream.write(f"{self._clear()}{self.label}{line(progress)}{end}")
        self.stream.flush()

    def _clear(self) -> str:
        return "\r\x1b[2K" if self.live else ""


def line(progress: Progress) -> str:
    """Put progress into one line."""
    minutes, seconds = divmod(round(progress.eta), 60)
    loss = "-" if progress.loss is None else f"{progress.loss:.4g}"
    return (
        f"step {progress.step}/{progress.steps}  loss {loss}  "
        f"{progress.samples_per_second:.0f} samples/s  data wait {progress.data_wait:.0%}  "
        f"ETA {minutes}:{seconds:02d}"
    )
