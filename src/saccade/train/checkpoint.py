"""Training states on disk, complete or absent, and verified before they are used.

    RUN/checkpoints/step-00000123/objective.safetensors   weights and buffers
                                  optimizer.safetensors   moments, PARAMETER.SLOT
                                  state.json              step, best score, identity of the run
                                  MANIFEST.json           size and sha256 of each, and of itself

A checkpoint is written beside its place, synced, and renamed: a kill at any moment leaves the
old ones and a ``.tmp-`` folder that nobody reads. The newest is the largest step, whatever the
clock says. One process at a time may work in a run folder.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from saccade import sabotage
from saccade.checkpoint import sync_folder, write_atomic
from saccade.errors import BusyError, CheckpointError, SpaceError

SCHEMA = 1
OBJECTIVE, OPTIMIZER = "objective.safetensors", "optimizer.safetensors"
STATE, MANIFEST = "state.json", "MANIFEST.json"
KEEP = "KEEP"  # a file of this name in a checkpoint protects it for ever


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on."""

    folder: Path
    objective: dict[str, Tensor]
    optimizer: dict[str, Tensor]
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
) -> Path:
    """Write the checkpoint of ``state["step"]`` and read it back; replace one of the same step.

    Raises:
        SpaceError: it does not fit on the disk; older checkpoints are untouched.
        CheckpointError: the disk does not return what was written.
    """
    folder = folder_of(run_dir, state["step"])
    folder.parent.mkdir(parents=True, exist_ok=True)
    shards = {OBJECTIVE: objective, OPTIMIZER: optimizer}
    sabotage.at("save.begin", step=state["step"])
    kept = f"kept {_names(run_dir)}"
    _require_space(folder.parent, shards, kept)
    temporary = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    try:
        _write_files(temporary, shards, state)
        if folder.exists():
            discard(folder)
        temporary.rename(folder)
        sabotage.at("save.renamed", step=state["step"])
        sync_folder(folder.parent)
        sabotage.at("save.synced", step=state["step"])
    except SpaceError as error:
        raise SpaceError(f"{error}; {kept}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    verify(folder)
    return folder


def _write_files(
    folder: Path, shards: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> None:
    files = {}
    for name in (*shards, STATE):  # one shard at a time: its bytes are a copy of its tensors
        sabotage.at("save.shard", step=state["step"], file=name)
        raw = (
            json.dumps(state, indent=2, allow_nan=False).encode()
            if name == STATE
            else to_bytes({k: v.detach().cpu().contiguous() for k, v in shards[name].items()})
        )
        files[name] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
        write_atomic(folder / name, raw)
    sabotage.at("save.manifest", step=state["step"])
    content = {"schema": SCHEMA, "step": state["step"], "files": files}
    write_atomic(folder / MANIFEST, json.dumps(content | {"sha256": _digest(content)}))


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _require_space(folder: Path, shards: Mapping[str, Mapping[str, Tensor]], kept: str) -> None:
    need = 1.05 * sum(value.nbytes for shard in shards.values() for value in shard.values())
    free = shutil.disk_usage(folder).free
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
    content = _manifest(folder)
    files = content["files"]
    for name, expected in files.items():
        path = folder / name
        if path.parent != folder or name in ("", ".", ".."):
            raise CheckpointError(f"{folder / MANIFEST} names {name!r}, which is no file beside it")
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if size != expected["bytes"]:
            raise CheckpointError(f"{path} has {size} bytes, should have {expected['bytes']}")
        if found != expected["sha256"]:
            raise CheckpointError(
                f"{path} is damaged: sha256 {found[:12]}, should be {expected['sha256'][:12]}"
            )
    return _digest(content)


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_bytes())
        digest = content.pop("sha256")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (ValueError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: it is no manifest") from error
    if digest != _digest(content) or folder != folder_of(folder.parents[1], content["step"]):
        raise CheckpointError(f"{path} is damaged, or belongs to another step")
    if content["schema"] != SCHEMA:
        raise CheckpointError(f"{path} has schema {content['schema']}, this version reads {SCHEMA}")
    return content


def read(folder: Path) -> Checkpoint:
    """Load a checkpoint whose every byte is as it was written.

    Raises:
        CheckpointError: it is not.
    """
    digest = verify(folder)
    return Checkpoint(
        folder=folder,
        digest=digest,
        objective=load_file(folder / OBJECTIVE),
        optimizer=load_file(folder / OPTIMIZER),
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
