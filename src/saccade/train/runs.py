"""What the run folders below a place are: how far, how good, how large, and whether intact."""

import fcntl
import json
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from saccade.errors import CheckpointError, ConfigError
from saccade.train import checkpoint

State = Literal["running", "finished", "stopped", "empty"]
FLOCK = "hhqqi4x"  # struct flock of Linux on 64 bits: type, whence, start, length, pid


@dataclass(frozen=True)
class RunInfo:
    """A run as its folder tells it; ``seconds`` since a number was last written."""

    folder: str
    state: State
    pid: int | None
    step: int
    steps: int | None
    best_step: int | None
    best_loss: float | None
    checkpoints: int
    bytes: int
    seconds: float | None


def find(place: Path) -> Iterator[Path]:
    """Yield the run folders at and below a place, in order; links are not followed."""
    for folder, below, files in os.walk(place):
        below.sort()
        if "experiment.json" in files and (".lock" in files or "metrics.jsonl" in files):
            yield Path(folder)
            below.clear()


def describe(run_dir: Path) -> RunInfo:
    """Read what a run folder says of itself; checkpoints are not verified.

    Raises:
        ConfigError: it is no run folder.
    """
    if not (run_dir / "experiment.json").is_file():
        raise ConfigError(f"{run_dir} has no experiment.json: it is no run folder")
    metrics = run_dir / "metrics.jsonl"
    records = list(_records(metrics))
    steps = _steps(run_dir)
    scored = [r for r in records if "eval/loss" in r and r["step"] > 0]
    best = min(scored, key=lambda r: r["eval/loss"], default=None)
    pid = holder(run_dir)
    step = max([r["step"] for r in records] + checkpoint.steps(run_dir), default=0)
    state: State = "stopped" if records else "empty"
    if pid is not None:
        state = "running"
    elif (run_dir / "result.json").is_file() and step == steps:
        state = "finished"
    return RunInfo(
        folder=str(run_dir),
        state=state,
        pid=pid,
        step=step,
        steps=steps,
        best_step=best["step"] if best else None,
        best_loss=best["eval/loss"] if best else None,
        checkpoints=len(checkpoint.steps(run_dir)),
        bytes=sum(path.stat().st_size for path in run_dir.rglob("*") if path.is_file()),
        seconds=max(0.0, time.time() - metrics.stat().st_mtime) if metrics.exists() else None,
    )


def holder(run_dir: Path) -> int | None:
    """Return the process that holds a run folder, without taking the lock."""
    path = run_dir / ".lock"
    if not path.is_file():
        return None
    with path.open("rb") as file:
        asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK else pid


def verify(run_dir: Path) -> dict[int, str]:
    """Compare every checkpoint with its manifest; return what is wrong by step, '' if nothing."""
    found = {}
    for step in checkpoint.steps(run_dir):
        try:
            checkpoint.verify(checkpoint.folder_of(run_dir, step))
            found[step] = ""
        except CheckpointError as error:
            found[step] = str(error)
    return found


def keep(run_dir: Path, step: int) -> Path:
    """Mark a checkpoint as one that no run ever deletes.

    Raises:
        CheckpointError: there is none of this step, or it is damaged.
    """
    folder = checkpoint.folder_of(run_dir, step)
    if step not in checkpoint.steps(run_dir):
        has = ", ".join(map(str, checkpoint.steps(run_dir))) or "none"
        raise CheckpointError(f"{run_dir} has no checkpoint of step {step}; it has {has}")
    checkpoint.verify(folder)
    (folder / checkpoint.KEEP).touch()
    return folder


def prune(run_dir: Path) -> list[int]:
    """Delete all checkpoints but the newest intact one, the best and the marked ones.

    Raises:
        BusyError: a process trains in the folder.
        CheckpointError: none is intact.
    """
    with checkpoint.lock(run_dir):
        folder, _ = checkpoint.newest(run_dir, fall_back=True)
        if folder is None:
            return []
        state = checkpoint.read(folder).state
        protected = {state["step"], (state["best"] or [0])[0]}
        before = checkpoint.steps(run_dir)
        checkpoint.prune(run_dir, 1, 0, protected)
        return sorted(set(before) - set(checkpoint.steps(run_dir)))


def _records(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        if line.endswith(b"}\n"):  # the last one may be half written
            yield json.loads(line)


def _steps(run_dir: Path) -> int | None:
    """Return how many steps a run is to make; None where its settings do not say."""
    try:
        train = json.loads((run_dir / "experiment.json").read_text())["train"]
        return -(-train["samples"] // train["batch_size"])
    except (ValueError, KeyError, TypeError):
        return None
