"""Folders as the Hugging Face hub has them: ``config.json``, safetensors, and what goes with them.

Networks are those of transformers, which is imported where it is needed; every weight is
accounted for.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from logging import CRITICAL
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError

from saccade.errors import CheckpointError

ENDS = (".safetensors", ".bin", ".pth", ".pt")  # of files of weights


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Read a file of settings.

    Raises:
        CheckpointError: it is missing, or holds no settings.
    """
    try:
        settings = json.loads((folder / name).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{folder / name} cannot be read ({error}); give a folder of the hub, for example "
            "what `hf download openai/clip-vit-base-patch16 --local-dir FOLDER` writes"
        ) from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{folder / name} holds a {type(settings).__name__}, no settings")
    return settings


def part_settings(settings: dict[str, Any], part: str, kinds: Collection[str], source: str) -> Any:
    """Return the settings of one part, such as ``vision``, of a model that may have several.

    Raises:
        CheckpointError: the model is of another kind.
    """
    kind = settings.get("model_type")
    if kind not in kinds:
        raise CheckpointError(f"{source} is of model_type {kind!r}, not {' or '.join(kinds)}")
    return settings.get(f"{part}_config", settings)


def load_network(kind: Any, settings: Any, folder: Path, others: Collection[str]) -> Any:
    """Return a network of transformers with the folder's weights, frozen.

    ``others`` are beginnings of the names of parts that are not wanted. Names of weights differ
    between files and versions of transformers, so its own reader is asked; it only warns.

    Raises:
        CheckpointError: a weight is missing, left over, or of another shape.
    """
    try:
        with quiet():
            network, told = kind.from_pretrained(
                folder,
                config=settings,
                local_files_only=True,
                use_safetensors=not list(folder.glob("*.bin")) or _has_safetensors(folder),
                weights_only=True,  # of files from before there were safetensors
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # told below, by name
                dtype=torch.float32,
            )
    except (OSError, RuntimeError, ValueError, SafetensorError, UnpicklingError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"the weights in {folder} cannot be read as a {kind.__name__} ({first}); fetch the "
            "whole folder again, with model.safetensors"
        ) from error
    extra = sorted(
        name
        for name in told["unexpected_keys"]
        if not name.startswith(tuple(others)) and not name.endswith(".position_ids")  # constants
    )
    shapes = sorted(
        f"{name} {tuple(found)} should be {tuple(expected)}"
        for name, found, expected in told["mismatched_keys"]
    )
    other = {name.partition(" ")[0] for name in shapes}  # transformers calls them missing, too
    missing = sorted(set(told["missing_keys"]) - other)
    wrong = {"missing": missing, "left over": extra, "of another shape": shapes}
    if any(wrong.values()):
        listed = "; ".join(f"{len(v)} {k}: {', '.join(v[:8])}" for k, v in wrong.items() if v)
        raise CheckpointError(f"{folder} does not fit {kind.__name__}: {listed}")
    return network.requires_grad_(False).eval()


def _has_safetensors(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def weight_files(folder: Path) -> list[Path]:
    """List the files of a folder that may hold weights."""
    return sorted(file for end in ENDS for file in folder.glob(f"*{end}"))


def download(repository: str) -> Path:
    """Return the hub's folder of this name, out of the cache where it is there.

    Raises:
        CheckpointError: it cannot be had, for example without a network.
    """
    how = (
        f"fetch it where there is a network with `hf download {repository} --local-dir FOLDER` "
        "and give --weights FOLDER"
    )
    try:
        from huggingface_hub import snapshot_download  # optional, and slow to import
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError as error:
        raise CheckpointError(
            f"without huggingface_hub, {repository} cannot be asked for; {how}"
        ) from error
    try:
        folder = Path(snapshot_download(repository, allow_patterns=["*.json", "*.safetensors"]))
        if not _has_safetensors(folder):
            snapshot_download(repository, allow_patterns=[f"*{end}" for end in ENDS])
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"the hub does not give {repository} ({first}); {how}") from error
    return folder


@contextmanager
def quiet() -> Iterator[None]:
    """Let transformers report nothing while it loads: what matters becomes an error."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def require_transformers(source: Path) -> None:
    """Look whether networks of the hub can be built.

    Raises:
        CheckpointError: transformers is not installed.
    """
    try:
        import transformers  # noqa: F401  optional, and slow to import
    except ImportError as error:
        raise CheckpointError(
            f"{source} is a network of the Hugging Face hub, which needs transformers: "
            "pip install 'transformers>=5'"
        ) from error
