"""A model on disk is a folder: a config that says what to build, and weights to fill it.

``config.json`` holds the config and the pixel contract, ``model.safetensors`` the weights,
``README.md`` the model card. Nothing is pickled, and every write is atomic: a reader sees the
old file or the new one, never half of one.
"""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from saccade.config import Config, from_dict, to_dict
from saccade.errors import CheckpointError, SpaceError

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


@contextmanager
def space_for(path: Path) -> Iterator[None]:
    """Turn a full disk into our error.

    Raises:
        SpaceError: no space, or no quota, is left for the path.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, SpaceError) or error.errno not in (ENOSPC, EDQUOT):
            raise
        raise SpaceError(f"no room for {path}; free some space and rerun") from error


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that a crash leaves the old content or the new, never a mixture.

    Raises:
        SpaceError: the disk is full; the old file is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}-{threading.get_ident()}")
    try:
        with space_for(path):
            with temporary.open("wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make a rename inside the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_model(
    folder: Path,
    model: nn.Module,
    config: Config[nn.Module],
    preprocessing: Mapping[str, Any],
    card: str = "",
) -> None:
    """Write a model so that ``load_model`` needs nothing but the folder."""
    weights = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    write_atomic(folder / WEIGHTS, save(weights))
    write_atomic(folder / CARD, card)
    record = {"model": to_dict(config), "preprocessing": dict(preprocessing)}
    write_atomic(folder / CONFIG, json.dumps(record, indent=2) + "\n")


def load_model(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild the model that was saved; return it with its pixel contract.

    Raises:
        CheckpointError: a file is missing or damaged, or a weight is missing, left over, or of
            another shape than the config says. Nothing is loaded in part.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder} has no {name}; a model folder holds {CONFIG} and {WEIGHTS}, "
                "for example RUN/encoder"
            )
    try:
        record = json.loads((folder / CONFIG).read_text())
        weights = load_file(folder / WEIGHTS)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{folder} is damaged ({error}); export the model again") from error
    absent = {"model", "preprocessing"} - set(record)
    if absent:
        raise CheckpointError(f"{folder / CONFIG} lacks {sorted(absent)}; export the model again")
    model = from_dict(record["model"]).build()
    load_weights(model, weights, str(folder))
    return model, record["preprocessing"]


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Fill a model with weights, every key accounted for.

    Raises:
        CheckpointError: it lists what is missing, left over, or of another shape.
    """
    own = model.state_dict()
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = [
        f"{name} {tuple(weights[name].shape)} should be {tuple(own[name].shape)}"
        for name in sorted(own.keys() & weights.keys())
        if weights[name].shape != own[name].shape
    ]
    if missing or extra or shapes:
        parts = {"missing": missing, "left over": extra, "of another shape": shapes}
        told = "; ".join(f"{len(v)} {k}: {', '.join(v[:8])}" for k, v in parts.items() if v)
        raise CheckpointError(f"{source} does not fit {type(model).__name__}: {told}")
    model.load_state_dict(dict(weights), strict=True)
