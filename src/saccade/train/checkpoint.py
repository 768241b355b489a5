"""Training states on disk, complete or absent, and verified before they are used.

    RUN/checkpoints/step-00000123/    files and their list: ``manifest.py``

A checkpoint is written beside its place, synced, and renamed: a kill at any moment leaves the
old ones and a ``.tmp-`` folder that nobody reads. The newest is the largest step, whatever the
clock says. One process at a time may work in a run folder; its ranks write together.
"""

import fcntl
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from saccade import sabotage
from saccade.checkpoint import sync_folder
from saccade.errors import BusyError, CheckpointError, SaccadeError, SpaceError
from saccade.train import manifest
from saccade.train.distributed import Ranks
from saccade.train.manifest import OBJECTIVE, OPTIMIZER, STATE

T = TypeVar("T")
KEEP = "KEEP"  # a file of this name in a checkpoint protects it for ever
ALONE = Ranks(0, 1, torch.device("cpu"))


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on."""

    folder: Path
    objective: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    state: dict[str, Any]  # "step", "identity" and whatever else the engine remembers
    digest: str  # of its manifest


def folder_of(run_dir: Path, step: int) -> Path:
    """Say where the checkpoint of a step lies."""
    return run_dir / "checkpoints" / f"step-{step:08d}"


def steps(run_dir: Path) -> list[int]:
    """List the steps that have a checkpoint, in order; whether they are intact is not looked at."""
    found = (
        re.fullmatch(r"step-(\d+)", path.name) for path in folder_of(run_dir, 0).parent.glob("*")
    )
    return sorted(int(match[1]) for match in found if match)


def save(
    run_dir: Path,
    objective: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, Any],
    ranks: Ranks = ALONE,
    place: int | None = 0,
    places: int = 1,
) -> Path:
    """Write the checkpoint of ``state["step"]`` and read it back; replace one of the same step.

    Where weights are shared out all ranks call it together, each with its own rows, of which
    those with a ``place`` write.

    Raises:
        SpaceError: it does not fit on the disk; older checkpoints are untouched.
        CheckpointError: the disk does not return what was written.
    """
    folder = folder_of(run_dir, state["step"])
    kept = f"kept {_names(run_dir)}"
    kinds = {} if place is None else {OBJECTIVE: objective, OPTIMIZER: optimizer}
    size = sum(value.nbytes for tensors in kinds.values() for value in tensors.values())
    need = sum(ranks.gather(size))

    def begin() -> Path:
        sabotage.at("save.begin", step=state["step"])
        folder.parent.mkdir(parents=True, exist_ok=True)
        _require_space(folder.parent, need, kept)
        return folder.with_name(f"{folder.name}.tmp-{os.getpid()}")

    def write() -> dict[str, manifest.Entry]:
        entries = {}
        for kind, tensors in kinds.items():  # one at a time: its bytes are a copy of its tensors
            name = manifest.shard_name(kind, place or 0, places)
            entries[name] = manifest.write_tensors(temporary, name, tensors, state["step"])
        if place == 0:
            entries[STATE] = manifest.write_state(temporary, state)
        return entries

    def end() -> None:
        manifest.write_manifest(temporary, state["step"], files)
        if folder.exists():
            discard(folder)
        temporary.rename(folder)
        sabotage.at("save.renamed", step=state["step"])
        sync_folder(folder.parent)
        sabotage.at("save.synced", step=state["step"])

    temporary = ranks.on_main(lambda: _writing(begin))
    try:
        mine = ranks.together(lambda: _writing(write))
        files = {name: entry for held in ranks.gather(mine) for name, entry in held.items()}
        ranks.on_main(lambda: _writing(end))
    except SpaceError as error:
        raise SpaceError(f"{error}; {kept}") from error
    finally:
        if ranks.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
    ranks.on_main(lambda: verify(folder))
    return folder


def _writing(work: Callable[[], T]) -> T:
    """Do work; a disk that fails is an error that the other ranks can be told of."""
    try:
        return work()
    except SaccadeError:
        raise
    except OSError as error:
        raise CheckpointError(
            f"cannot write {error.filename or 'a checkpoint'} ({error.strerror}); see to the disk "
            "and resume"
        ) from error


def _require_space(folder: Path, size: int, kept: str) -> None:
    need, free = 1.05 * size, shutil.disk_usage(folder).free
    if free < need:
        raise SpaceError(
            f"a checkpoint needs {need / 1e6:.1f} MB, {free / 1e6:.1f} MB are free in {folder}; "
            f"free some space and resume ({kept})"
        )


def verify(folder: Path) -> str:
    """Compare every file with the manifest, and return its digest.

    Raises:
        CheckpointError: a file is missing, cut or changed.
    """
    return _verified(folder)[1]


def _verified(folder: Path) -> tuple[dict[str, manifest.Entry], str]:
    step, files, digest = manifest.read_manifest(folder)
    if folder != folder_of(folder.parents[1], step):
        raise CheckpointError(f"{folder} is damaged, or belongs to another step: {step}")
    for name, entry in files.items():
        manifest.verify_file(folder / name, entry)
    return files, digest


def read(folder: Path) -> Checkpoint:
    """Load a checkpoint whose every byte is as it was written.

    Raises:
        CheckpointError: it is not.
    """
    files, digest = _verified(folder)
    return Checkpoint(
        folder=folder,
        digest=digest,
        objective=manifest.tensors(folder, OBJECTIVE, files),
        optimizer=manifest.tensors(folder, OPTIMIZER, files),
        state=json.loads((folder / STATE).read_bytes()),
    )


def newest(run_dir: Path, fall_back: bool = False) -> tuple[Path | None, list[str]]:
    """Find the newest checkpoint; or the newest intact one, and what to tell of those that are not.

    Raises:
        CheckpointError: the newest is damaged; or, where older ones will do, all are.
    """
    damage: list[str] = []
    for step in reversed(steps(run_dir)):
        folder = folder_of(run_dir, step)
        try:
            verify(folder)
        except CheckpointError as error:
            damage.append(str(error))
            if not fall_back:
                raise CheckpointError(
                    f"{error}; --resume auto would use the newest one that is intact"
                ) from error
            continue
        return folder, [f"{told}; using {folder.name} instead" for told in damage]
    if damage:
        raise CheckpointError(
            f"no checkpoint of {run_dir} is intact ({'; '.join(damage)}); train in a new folder"
        )
    return None, []


def require_same(
    saved: Mapping[str, Any], now: Mapping[str, Any], source: Path, allowed: Sequence[str] = ()
) -> list[str]:
    """Refuse to continue a run as another experiment, but for what is allowed to change.

    Returns what has changed so; ``train.lr`` allows itself, ``train`` all settings of the loop.

    Raises:
        CheckpointError: a table of what differs.
    """
    old, new = dict(_flat(saved)), dict(_flat(json.loads(json.dumps(now))))
    rows = {
        key: f"{key}: saved {old.get(key)!r}, now {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    }
    free = {key for key in rows for name in allowed if key == name or key.startswith(f"{name}.")}
    if left := [f"  {row}" for key, row in rows.items() if key not in free]:
        raise CheckpointError(
            f"{source} belongs to another experiment; use its settings or a new folder, or name "
            "what may change with --allow-change KEY:\n" + "\n".join(left)
        )
    return [f"changed {rows[key]}" for key in sorted(free)]


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}".lstrip("."))
    else:
        yield path, value


def prune(run_dir: Path, keep: int, every: int, protect: set[int]) -> None:
    """Delete all but the ``keep`` newest checkpoints, those of every so many steps (0: none),
    the protected steps and those that are marked."""
    for step in steps(run_dir)[:-keep]:
        marked = (folder_of(run_dir, step) / KEEP).exists()
        if not (step in protect or marked or (every and step % every == 0)):
            sabotage.at("keep.before", step=step)
            discard(folder_of(run_dir, step))
            sabotage.at("keep.after", step=step)


def discard(folder: Path) -> None:
    """Delete a checkpoint; a kill half way leaves a leftover, never half a checkpoint."""
    doomed = folder.with_name(f"{folder.name}.tmp-{os.getpid()}-old")
    folder.rename(doomed)
    shutil.rmtree(doomed)


def tidy(run_dir: Path) -> list[str]:
    """Remove what killed runs left unfinished; return the names of checkpoints among it."""
    unfinished = sorted(folder_of(run_dir, 0).parent.glob("step-*.tmp-*"))
    for leftover in unfinished:
        shutil.rmtree(leftover)
    for leftover in run_dir.rglob(".*.tmp-*"):
        leftover.unlink()
    return [leftover.name for leftover in unfinished]


def _names(run_dir: Path) -> str:
    return ", ".join(folder_of(run_dir, step).name for step in steps(run_dir)) or "nothing so far"


_held: set[tuple[int, Path]] = set()  # process and folder


@contextmanager
def lock(run_dir: Path) -> Iterator[None]:
    """Hold a run folder. The system drops the lock when the process dies, however it dies.

    A POSIX record lock, because a ``flock`` would live on in forked loader workers. Closing any
    descriptor of the file drops it, so who holds it already does not open it again.

    Raises:
        BusyError: another process holds it.
    """
    mine = os.getpid(), run_dir.resolve()
    if mine in _held:
        yield
        return
    new = not run_dir.exists()
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            raise BusyError(
                f"{run_dir} is in use by {file.read() or 'another process'}; "
                "wait for it or choose another folder"
            ) from error
        file.truncate(0)
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"pid {os.getpid()} on {socket.gethostname()} since {now}")
        file.flush()
        _held.add(mine)
        try:
            yield
        except BaseException:  # leave no folder of a run that never began
            if new and [path.name for path in run_dir.iterdir()] == [".lock"]:
                (run_dir / ".lock").unlink()
                run_dir.rmdir()
            raise
        finally:
            _held.remove(mine)
