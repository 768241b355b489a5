"""The files of a checkpoint, and the list that tells whether each is as it was written.

    objective.safetensors                   weights and buffers
    optimizer.safetensors                   moments, PARAMETER.SLOT
    state.json                              step, best score, identity of the run
    MANIFEST.json                           size and checksums of each, and of itself

Ranks that share weights out write one file each, ``objective-00001-of-00004.safetensors`` and so
on: every rank its own rows of each tensor, in the order of ranks, the first also what is not
shared out. Any number of ranks reads them. sha256 says that a file is damaged, crc32 of its
blocks where. Schema 1 had no blocks and one file of each kind.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from saccade import sabotage
from saccade.checkpoint import write_atomic
from saccade.errors import CheckpointError

SCHEMA = 2
OBJECTIVE, OPTIMIZER = "objective", "optimizer"  # what shard files are of
STATE, MANIFEST = "state.json", "MANIFEST.json"
BLOCK = 4 << 20  # bytes that one crc32 is of

Entry = dict[str, Any]  # "bytes", "sha256", "crc32"


class Pieces(Mapping[str, Tensor]):
    """Tensors of one kind, of which several files may hold rows; joined when asked for."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = [load_file(path) for path in files]  # mapped into memory
        self.names = sorted({name for held in self.files for name in held})

    def __getitem__(self, name: str) -> Tensor:
        """Return a whole tensor."""
        found = [held[name] for held in self.files if name in held]
        if not found:
            raise KeyError(name)
        return found[0] if len(found) == 1 else torch.cat(found)

    def __iter__(self) -> Iterator[str]:
        """Return all names, in order."""
        return iter(self.names)

    def __len__(self) -> int:
        """Return how many tensors there are."""
        return len(self.names)


def shard_name(kind: str, place: int = 0, places: int = 1) -> str:
    """Name the file of one rank, of so many that write."""
    part = f"-{place + 1:05d}-of-{places:05d}" if places > 1 else ""
    return f"{kind}{part}.safetensors"


def write_tensors(folder: Path, name: str, tensors: Mapping[str, Tensor], step: int) -> Entry:
    """Write one shard; return its entry in the manifest.

    Raises:
        SpaceError: the disk is full.
    """
    sabotage.at("save.shard", step=step, file=name)
    return _write(folder / name, to_bytes({k: v.contiguous() for k, v in tensors.items()}))


def write_state(folder: Path, state: Mapping[str, Any]) -> Entry:
    """Write what is no tensor; return its entry in the manifest.

    Raises:
        SpaceError: the disk is full.
    """
    sabotage.at("save.shard", step=state["step"], file=STATE)
    return _write(folder / STATE, json.dumps(state, indent=2, allow_nan=False).encode())


def _write(path: Path, raw: bytes) -> Entry:
    write_atomic(path, raw)
    blocks = [zlib.crc32(raw[at : at + BLOCK]) for at in range(0, len(raw), BLOCK)]
    return {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest(), "crc32": blocks}


def write_manifest(folder: Path, step: int, files: Mapping[str, Entry]) -> None:
    """Write the list last: without it there is no checkpoint.

    Raises:
        SpaceError: the disk is full.
    """
    sabotage.at("save.manifest", step=step)
    content = {"schema": SCHEMA, "step": step, "files": dict(sorted(files.items()))}
    write_atomic(folder / MANIFEST, json.dumps(content | {"sha256": _digest(content)}))


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> tuple[int, dict[str, Entry], str]:
    """Return the step, the entries of all files, and the manifest's own digest.

    Raises:
        CheckpointError: there is none, it is damaged, or of a version to come.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_bytes())
        digest = content.pop("sha256")
        schema, step, files = (content[key] for key in ("schema", "step", "files"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: it is no manifest") from error
    if digest != _digest(content):
        raise CheckpointError(f"{path} is damaged: its own checksum is another")
    if schema > SCHEMA:
        raise CheckpointError(
            f"{path} has schema {schema}, this version reads up to {SCHEMA}; it was written by a "
            "newer saccade: install that one"
        )
    for name in files:
        if Path(name).name != name:
            raise CheckpointError(f"{path} names {name!r}, which is no file beside it")
    return step, files, digest


def verify_file(path: Path, entry: Entry) -> None:
    """Compare a file with its entry.

    Raises:
        CheckpointError: it is missing, cut or changed; it says where.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size != entry["bytes"]:
            raise CheckpointError(f"{path} has {size} bytes, should have {entry['bytes']}")
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found == entry["sha256"]:
            return
        file.seek(0)
        wrong = [
            f"{BLOCK * i}-{min(BLOCK * (i + 1), size) - 1}"
            for i, expected in enumerate(entry.get("crc32", []))
            if zlib.crc32(file.read(BLOCK)) != expected
        ]
    where = f" in bytes {', '.join(wrong[:8])}" if wrong else ""
    raise CheckpointError(
        f"{path} is damaged{where}: sha256 {found[:12]}, should be {entry['sha256'][:12]}"
    )


def tensors(folder: Path, kind: str, files: Mapping[str, Entry]) -> Pieces:
    """Map all tensors of one kind into memory.

    Raises:
        CheckpointError: a file has another form than its checksum promises.
    """
    names = sorted(n for n in files if n.startswith(kind) and n.endswith(".safetensors"))
    try:
        return Pieces([folder / name for name in names])
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder} holds {kind} files that cannot be read: {error}"
        ) from error
