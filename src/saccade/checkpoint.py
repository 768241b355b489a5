"""A model on disk is a folder: a config that says what to build, and weights to fill it.

``config.json`` holds the config and the pixel contract, ``model.safetensors`` the weights,
``README.md`` the model card. Large weights are cut into shards as Hugging Face does:
``model-00001-of-00002.safetensors`` and so on, listed in ``model.safetensors.index.json``.
Nothing is pickled, and every write is atomic: a reader sees the old file or the new one, never
half of one. Weights are mapped into memory, not read, so that opening a folder costs little.
"""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from saccade import sabotage
from saccade.config import Config, from_dict, to_dict
from saccade.errors import CheckpointError, SpaceError

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
INDEX = f"{WEIGHTS}.index.json"
SHARD_BYTES = 4_000_000_000
INITIALISERS = (
    *("uniform_", "normal_", "trunc_normal_", "constant_", "ones_", "zeros_"),
    *("xavier_uniform_", "kaiming_uniform_"),
)
UNREADABLE = (
    *(SafetensorError, OSError),
    *(ValueError, KeyError, AttributeError, TypeError, RecursionError),  # of JSON
)
SAME = 0.04  # root mean square of fingerprints; bfloat16 moves normalised features by 0.016


@runtime_checkable
class Fingerprinted(Protocol):
    """A model that a wrong option could change without a trace in the weights' names and shapes."""

    def fingerprint(self) -> list[float]:
        """Return normalised features of a fixed input, the same for the same function."""
        ...


@contextmanager
def space_for(path: Path) -> Iterator[None]:
    """Turn a full disk into our error.

    Raises:
        SpaceError: no space, or no quota, is left for the path, or a limit on files forbids it.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, SpaceError) or error.errno not in (ENOSPC, EDQUOT, EFBIG):
            raise
        raise SpaceError(
            f"no room for {path} ({error.strerror}); free some space and rerun"
        ) from error


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
                sabotage.at("write.data", file=path.name)
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            sabotage.at("write.synced", file=path.name)
            temporary.replace(path)
            sabotage.at("write.renamed", file=path.name)
            sync_folder(path.parent)
    except BaseException:  # a signal may raise anywhere
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
    origin: Mapping[str, Any] | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a model so that ``load_model`` needs nothing but the folder.

    ``origin`` says where weights that were not trained here come from; it is kept beside them.
    ``weights`` are written in place of the model's own, such as merged ones.
    """
    state = model.state_dict() if weights is None else weights
    weights = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    write_weights(folder, weights)
    write_atomic(folder / CARD, card)
    record = {"model": to_dict(config), "preprocessing": dict(preprocessing)}
    if isinstance(model, Fingerprinted):
        record["fingerprint"] = model.fingerprint()
    if origin is not None:
        record["origin"] = dict(origin)
    write_atomic(folder / CONFIG, json.dumps(record, indent=2) + "\n")


def write_weights(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write weights to one file, or to shards of at most ``SHARD_BYTES`` and their index."""
    shards: list[dict[str, Tensor]] = [{}]
    room = SHARD_BYTES
    for name, value in weights.items():
        if shards[-1] and value.nbytes > room:
            shards.append({})
            room = SHARD_BYTES
        shards[-1][name] = value
        room -= value.nbytes
    count = len(shards)
    names = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    names = names if count > 1 else [WEIGHTS]
    for name, shard in zip(names, shards, strict=True):
        write_atomic(folder / name, save(shard))
    if count > 1:
        where = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        size = sum(value.nbytes for value in weights.values())
        index = {"metadata": {"total_size": size}, "weight_map": where}
        write_atomic(folder / INDEX, json.dumps(index, indent=2) + "\n")
        names.append(INDEX)
    for old in folder.glob("model*.safetensors*"):
        if old.name not in names:
            old.unlink()


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Map the weights of a folder into memory, from one file or from shards.

    Raises:
        CheckpointError: there are none, both kinds, or a file is missing or damaged.
    """
    single, index = folder / WEIGHTS, folder / INDEX
    if single.is_file() and index.is_file():
        raise CheckpointError(
            f"{folder} holds both {WEIGHTS} and {INDEX}, left by two exports; delete the older"
        )
    try:
        if not index.is_file():
            return load_file(single)
        where = json.loads(index.read_text())["weight_map"]
        weights: dict[str, Tensor] = {}
        for name in sorted(set(where.values())):
            if Path(name).name != name:
                raise CheckpointError(f"{index} names {name!r}, which is not a file beside it")
            weights |= {key: v for key, v in load_file(folder / name).items() if where[key] == name}
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} lacks {Path(str(error.filename or error)).name}; copy the whole folder again"
        ) from error
    except CheckpointError:
        raise
    except UNREADABLE as error:
        raise CheckpointError(f"{folder} is damaged ({error}); export the model again") from error
    if missing := sorted(where.keys() - weights.keys()):
        raise CheckpointError(f"{folder} is damaged: its shards lack {', '.join(missing[:8])}")
    return weights


def read_record(folder: Path) -> dict[str, Any]:
    """Return what ``config.json`` says of a saved model; no weight is read.

    Raises:
        CheckpointError: the file is missing, damaged, or not of a model.
    """
    try:
        record = json.loads((folder / CONFIG).read_text())
        absent = {"model", "preprocessing"} - set(record)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} has no {CONFIG}; it holds no model") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{folder} is damaged ({error}); export the model again") from error
    if absent:
        raise CheckpointError(f"{folder / CONFIG} lacks {sorted(absent)}; export the model again")
    return record


@contextmanager
def uninitialised() -> Iterator[None]:
    """Construct networks without drawing their weights, which are about to be replaced."""
    before = {name: getattr(nn.init, name) for name in INITIALISERS}
    try:
        for name in INITIALISERS:
            setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor)
        yield
    finally:
        for name, function in before.items():
            setattr(nn.init, name, function)


def load_model(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild the model that was saved; return it with its pixel contract.

    A model whose config says ``on_meta`` is built without memory of its own: its weights are the
    mapped file's, in the file's dtype; so are those of one that says ``assign``, which is built
    where it will be, but for what it would draw at random. Any other is filled by copying.

    Raises:
        CheckpointError: a file is missing or damaged, a weight is missing, left over, or of
            another shape than the config says, or a model that has a fingerprint computes
            something else than when it was saved. Nothing is loaded in part.
    """
    weights_file = INDEX if (folder / INDEX).is_file() else WEIGHTS
    for name in (CONFIG, weights_file):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder} has no {name}; a model folder holds {CONFIG} and {WEIGHTS}, "
                "for example RUN/encoder"
            )
    record = read_record(folder)
    weights = read_weights(folder)
    config = from_dict(record["model"])
    on_meta = getattr(config, "on_meta", False)
    assign = getattr(config, "assign", False)
    with torch.device("meta") if on_meta else uninitialised() if assign else nullcontext():
        model: nn.Module = config.build()
    load_weights(model, weights, str(folder), assign=on_meta or assign)
    checked: object = model
    if isinstance(checked, Fingerprinted):
        check_fingerprint(checked.fingerprint(), record.get("fingerprint", []), str(folder))
    return model, record["preprocessing"]


def check_fingerprint(found: list[float], saved: list[float], source: str) -> None:
    """Compare features of a fixed input with those of the day of saving.

    Raises:
        CheckpointError: they differ by more than rounding.
    """
    if len(found) != len(saved):
        raise CheckpointError(
            f"{source} has a fingerprint of {len(saved)} numbers, not {len(found)}; export it again"
        )
    apart = float((torch.tensor(found) - torch.tensor(saved)).square().mean().sqrt())
    if not apart <= SAME:
        raise CheckpointError(
            f"{source} computes other features of a fixed image than when it was saved: they are "
            f"{apart:.2f} apart, at most {SAME} is rounding; its {CONFIG} (heads, rope) or weights "
            "were changed: export it again"
        )


def load_weights(
    model: nn.Module, weights: Mapping[str, Tensor], source: str, assign: bool = False
) -> None:
    """Fill a model with weights, every key accounted for; or make them the model's own.

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
    model.load_state_dict(dict(weights), strict=True, assign=assign)
