"""Read the V-JEPA 2 encoders that Meta published on the Hugging Face hub, ``facebook/vjepa2-*``.

Their ``config.json`` and ``model.safetensors`` are those of transformers' ``VJEPA2Model``; no code
of it is needed. Its weights have other names, and keep queries, keys and values apart:

    encoder.embeddings.patch_embeddings.proj           patch_embed.proj
    encoder.layer.{i}.attention.{query, key, value}    blocks.{i}.attn.qkv, their rows in a row
    encoder.layer.{i}.attention.proj                   blocks.{i}.attn.proj
    encoder.layer.{i}.{norm1, norm2, mlp}              blocks.{i}.{norm1, norm2, mlp}
    encoder.layernorm                                  norm

They are not the encoder of V-JEPA 2-AC, which its official file holds (``official.py``).
https://github.com/huggingface/transformers, ``models/vjepa2``
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from saccade.checkpoint import CONFIG, read_weights
from saccade.config import Config
from saccade.errors import CheckpointError
from saccade.models.vjepa2.encoder import VJepa2, VJepa2Config
from saccade.models.vjepa2.official import HEADS, fill

# what transformers leaves out of config.json where it is so
DEFAULTS = {
    "patch_size": 16,
    "crop_size": 256,
    "frames_per_clip": 64,
    "tubelet_size": 2,
    "hidden_size": 1024,
    "in_chans": 3,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "mlp_ratio": 4.0,
    "layer_norm_eps": 1e-6,
    "qkv_bias": True,
    "hidden_act": "gelu",
}
FIXED = ("in_chans", "layer_norm_eps", "qkv_bias", "hidden_act")  # no encoder has others
OTHER_PARTS = ("predictor.", "pooler.", "classifier.")
RENAMED = {
    "encoder.embeddings.patch_embeddings.proj.": "patch_embed.proj.",
    "encoder.layernorm.": "norm.",
}
LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)")
PROJECTION = re.compile(r"attention\.(query|key|value)\.(weight|bias)")


@dataclass(frozen=True, kw_only=True)
class PublishedVJepa2Config(Config[VJepa2]):
    """An encoder of the hub.

    Args:
        source: a folder with ``config.json`` and weights, or a name such as
            ``facebook/vjepa2-vitl-fpc64-256``, looked up in the hub's cache, then downloaded.
        revision: which version of that name; a commit pins it.
        frames: see ``VJepa2Config``.
        num_frames: length of a clip; None takes that of the pretraining.
        dtype: of the weights in memory.
        trainable: let gradients through.
    """

    source: str
    revision: str | None = None
    frames: Literal["clip", "each"] = "clip"
    num_frames: int | None = None
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    trainable: bool = False

    def build(self) -> VJepa2:
        """Load the encoder, in evaluation mode.

        Raises:
            CheckpointError: it cannot be found, is of another kind, or a weight does not fit.
        """
        folder = Path(self.source)
        if not folder.is_dir():
            folder = _download(self.source, self.revision)
        values = read_config(folder)
        weights = rename(read_weights(folder), str(folder))
        mlp = weights.get("blocks.0.mlp.fc1.weight", torch.empty(0)).shape[0]
        config = VJepa2Config(
            image_size=values["crop_size"],
            num_frames=self.num_frames or values["frames_per_clip"],
            tubelet=values["tubelet_size"],
            patch=values["patch_size"],
            dim=values["hidden_size"],
            depth=values["num_hidden_layers"],
            heads=values["num_attention_heads"],
            mlp=mlp,  # its ratio to the width is not a round number for ViT-g
            frames=self.frames,
        )
        encoder = fill(config, weights, getattr(torch, self.dtype), str(folder))
        return encoder.requires_grad_(self.trainable)


def read_config(folder: Path) -> dict[str, Any]:
    """Read the sizes in transformers' ``config.json``.

    Raises:
        CheckpointError: there is none, it is of another model, or describes what we do not build.
    """
    path = folder / CONFIG
    try:
        given = json.loads(path.read_text())
        kind = given.get("model_type")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); a folder of the hub holds {CONFIG} and weights"
        ) from error
    if kind != "vjepa2":
        raise CheckpointError(f"{path} is of model_type {kind!r}, not 'vjepa2'")
    values = {name: given.get(name, default) for name, default in DEFAULTS.items()}
    for name in FIXED:
        if values[name] != DEFAULTS[name]:
            raise CheckpointError(
                f"{path} has {name} {values[name]!r}; the V-JEPA 2 encoder has {DEFAULTS[name]!r}"
            )
    for name, default in DEFAULTS.items():
        if isinstance(default, int) and not isinstance(values[name], int):
            raise CheckpointError(f"{path} has {name} {values[name]!r}, not a whole number")
    heads, dim = values["num_attention_heads"], values["hidden_size"]
    if HEADS.get(dim, heads) != heads:
        raise CheckpointError(
            f"{path} says {heads} heads; encoders of width {dim} have {HEADS[dim]}, and others "
            "would load but compute wrong features"
        )
    return values


def rename(weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Give the encoder's weights our names, and leave out the parts that are no encoder.

    Raises:
        CheckpointError: a query, key or value has not its two fellows.
    """
    renamed: dict[str, Tensor] = {}
    apart: dict[str, dict[str, Tensor]] = {}
    for key, value in weights.items():
        name = key.removeprefix("vjepa2.")  # of a classifier around the model
        if name.startswith(OTHER_PARTS):
            continue
        for old, new in RENAMED.items():
            if name.startswith(old):
                name = new + name.removeprefix(old)
        if layer := LAYER.fullmatch(name):
            block, rest = layer.groups()
            if projection := PROJECTION.fullmatch(rest):
                which, kind = projection.groups()
                apart.setdefault(f"blocks.{block}.attn.qkv.{kind}", {})[which] = value
                continue
            name = f"blocks.{block}.{rest.replace('attention.', 'attn.')}"
        renamed[name] = value
    for name, parts in apart.items():
        if missing := {"query", "key", "value"} - parts.keys():
            raise CheckpointError(f"{source} lacks the {' and '.join(sorted(missing))} of {name}")
        renamed[name] = torch.cat([parts["query"], parts["key"], parts["value"]])
    return renamed


def _download(name: str, revision: str | None) -> Path:
    """Return the hub's folder for a name, out of the cache where it is there."""
    try:
        from huggingface_hub import snapshot_download  # optional, and slow to import
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"{name} is not a folder, and without huggingface_hub the hub cannot be asked; install "
            "it with `pip install huggingface_hub`"
        ) from error
    try:
        files = [CONFIG, "*.safetensors", "*.safetensors.index.json"]
        return Path(snapshot_download(name, revision=revision, allow_patterns=files))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{name} is neither a folder nor to be had from the hub ({first}); download it where "
            f"there is a network (`hf download {name}`) and give its folder"
        ) from error
