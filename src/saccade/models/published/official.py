"""Checkpoint files as their authors publish them, in the names that transformers has in memory.

DINOv2 and MAE (VC-1 is one) come from Meta as one file in the layout of timm, with queries, keys
and values in one matrix; the hub has the same weights under other names, and transformers renamed
them once more. All of these spellings are read, in any mixture:

    timm, Meta                     the hub's files                       transformers 5
    blocks.{i}.attn.qkv            attention.attention.{query, ...}      attention.{q, k, v}_proj
    blocks.{i}.attn.proj           attention.output.dense                attention.o_proj
    blocks.{i}.ls1.gamma           layer_scale1.lambda1                  layer_scale1.lambda1
    blocks.{i}.mlp.w12, w3         mlp.weights_in, weights_out           mlp.{gate, up, down}_proj
    patch_embed.proj               embeddings.patch_embeddings.projection

Training with FSDP puts the number of a chunk before that of a block, which stays the same:
``blocks.{chunk}.{i}``. Nothing is unpickled but tensors and plain containers, files are mapped
into memory, and every key is accounted for: what is left out is named here.

    https://github.com/facebookresearch/dinov2, https://github.com/facebookresearch/mae,
    https://github.com/facebookresearch/eai-vc (VC-1)
"""

import pickle
import re
from argparse import Namespace
from collections.abc import Mapping
from importlib import import_module
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from saccade.checkpoint import load_weights
from saccade.errors import CheckpointError, ConfigError
from saccade.models.hub_folder import require_transformers

PICKLED, MAPPED = (".pth", ".pt", ".bin"), ".safetensors"
PARTS = ("model", "teacher")  # where a training run keeps the weights: MAE's, DINOv2's
PREFIXES = ("module.", "backbone.", "dinov2.", "dinov2_with_registers.", "vit.")
BLOCK = re.compile(r"(?:blocks\.(?:\d+\.)?|encoder\.layer\.|layers\.)(\d+)\.(.+)\.(\w+)")
UNREADABLE = (
    pickle.UnpicklingError,
    SafetensorError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    KeyError,
)
GLOBAL = re.compile(r"GLOBAL (\S+)")
QKV = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
AROUND = {  # what is not in a block
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "register_tokens": "embeddings.register_tokens",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
ATTENTION = {
    "attn.proj": "attention.o_proj",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}
DECODER = ("decoder_embed.", "decoder_blocks.", "decoder_norm.", "decoder_pred.", "decoder.")


class Layout(NamedTuple):
    """How transformers names the weights of one kind of network."""

    network: str  # its class, less "Model"
    blocks: str
    inside: Mapping[str, str]  # a block's parts
    split: Mapping[str, tuple[str, ...]]  # matrices that are several in one
    around: Mapping[str, str]
    unused: tuple[str, ...]  # beginnings of names that are no part of the encoder


DINOV2 = Layout(
    network="Dinov2",
    blocks="encoder.layer",
    inside=ATTENTION
    | {
        "ls1": "layer_scale1",
        "ls2": "layer_scale2",
        "mlp.w3": "mlp.down_proj",
        "mlp.weights_out": "mlp.down_proj",
    },
    split={
        "attn.qkv": QKV,
        "mlp.w12": ("mlp.gate_proj", "mlp.up_proj"),
        "mlp.weights_in": ("mlp.gate_proj", "mlp.up_proj"),
    },
    around=AROUND | {"mask_token": "embeddings.mask_token"},
    unused=("dino_head.", "ibot_head.", "classifier."),
)
MAE = Layout(
    network="ViTMAE",
    blocks="layers",
    inside=ATTENTION
    | {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
    },
    split={"attn.qkv": QKV},
    around=AROUND,
    unused=(*DECODER, "decoder_pos_embed", "mask_token", "head."),  # the mask is the decoder's
)
LAYOUTS = {
    "dinov2": DINOV2,
    "dinov2_with_registers": DINOV2._replace(network="Dinov2WithRegisters"),
    "vit_mae": MAE,
}


def hub_state(path: Path, kind: str) -> dict[str, Tensor]:
    """Return the weights of a published file, named as in transformers' network of that kind.

    Their sizes are read off the tensors, and the network that has these sizes must find every
    weight, and no other. Whether they are the sizes that somebody wants is for the caller to see.

    Args:
        path: ``.pth``, ``.pt``, ``.bin`` or ``.safetensors``.
        kind: ``model_type`` of the hub, one of ``LAYOUTS``.

    Raises:
        ConfigError: no published file of that kind is known.
        CheckpointError: the file is absent, damaged, or more than tensors; or a weight is
            missing, left over, twice there, or of another shape.
    """
    path = Path(path)
    if kind not in LAYOUTS:
        raise ConfigError(f"no published file is a {kind!r}; known are {', '.join(LAYOUTS)}")
    layout, source = LAYOUTS[kind], str(path)
    weights = rename(tensors_of(read_file(path), PARTS, source), layout, source)
    require_transformers(path)
    with torch.device("meta"):
        network = _network(kind, weights, source)
    load_weights(network, weights, source, assign=True)
    return weights


def read_file(path: Path) -> dict[str, Any]:
    """Map a published file into memory; only tensors, numbers and plain containers are unpickled.

    Raises:
        CheckpointError: it is absent, damaged, of another format, or could be read only by
            running code that it names.
    """
    if not path.is_file():
        found = "is no file" if path.exists() else "does not exist"
        raise CheckpointError(f"{path} {found}; give a {', '.join(PICKLED)} or {MAPPED} file")
    if path.suffix not in (*PICKLED, MAPPED):
        raise CheckpointError(
            f"{path} ends in {path.suffix!r}; weights are in {', '.join(PICKLED)} or {MAPPED} files"
        )
    try:
        if path.suffix == MAPPED:
            return dict(load_file(path))
        with torch.serialization.safe_globals([Namespace]):  # options of a run; runs no code
            content = torch.load(
                path, map_location="cpu", weights_only=True, mmap=is_zipfile(path) or None
            )
    except UNREADABLE as error:
        if named := GLOBAL.search(str(error)):
            raise CheckpointError(
                f"{path} holds a {named[1]} beside its tensors, which only running its code could "
                "read; save the weights alone, with torch.save(model.state_dict(), FILE), where "
                "you trust it"
            ) from error
        told = [] if isinstance(error, pickle.UnpicklingError) else str(error).splitlines()
        raise CheckpointError(
            f"{path} ({path.stat().st_size:,} bytes) is damaged, or no file of weights "
            f"({told[0] if told else type(error).__name__}); download it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not named weights")
    return content


def tensors_of(
    content: Mapping[str, Any], parts: tuple[str, ...], source: str
) -> Mapping[str, Tensor]:
    """Return the weights, which are the file itself or one of its parts.

    Raises:
        CheckpointError: there are none, or two of the parts.
    """
    found = [part for part in parts if isinstance(content.get(part), Mapping)]
    if len(found) > 1:
        raise CheckpointError(f"{source} holds both {found[0]!r} and {found[1]!r}; leave one of it")
    weights = content[found[0]] if found else content
    if not weights or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items()
    ):
        expected = f"named weights, nor are they under {' or '.join(map(repr, parts))}"
        raise CheckpointError(f"{source} is not {expected}; it has {sorted(map(str, content))[:8]}")
    return weights


def rename(weights: Mapping[str, Tensor], layout: Layout, source: str) -> dict[str, Tensor]:
    """Give weights transformers' names; unknown ones keep their own, for loading to refuse.

    Raises:
        CheckpointError: two weights have one name, or the encoder has no final norm.
    """
    short = {key: strip(key, PREFIXES) for key in weights}
    pooled = {name for name in short.values() if name.startswith("fc_norm.")}
    if pooled and "norm.weight" not in short.values():
        raise CheckpointError(
            f"{source} is a classifier with a norm of the pooled tokens (fc_norm) and none of the "
            "tokens themselves; give the file of the pretraining"
        )
    renamed: dict[str, Tensor] = {}
    for key, value in weights.items():
        name = short[key]
        if name.startswith(layout.unused) or (layout is MAE and name in pooled):
            continue
        names = _new_names(name, layout)
        values = value.tensor_split(len(names)) if len(names) > 1 and value.ndim else (value,)
        for new, part in zip(names, values, strict=False):
            if new in renamed:
                raise CheckpointError(f"{source} has two tensors for {new}, the second is {key}")
            renamed[new] = part
    return renamed


def strip(name: str, prefixes: tuple[str, ...]) -> str:
    """Return a name without what wrappers put in front of it."""
    while prefix := next((p for p in prefixes if name.startswith(p)), None):
        name = name.removeprefix(prefix)
    return name


def _new_names(name: str, layout: Layout) -> tuple[str, ...]:
    block = BLOCK.fullmatch(name)
    if not block:
        return (layout.around.get(name, name),)
    number, part, leaf = block.groups()
    leaf = "lambda1" if leaf == "gamma" else leaf
    parts = layout.split.get(part, (layout.inside.get(part, part),))
    return tuple(f"{layout.blocks}.{number}.{new}.{leaf}" for new in parts)


def _network(kind: str, weights: Mapping[str, Tensor], source: str) -> Any:
    """Return transformers' network with the sizes of the weights."""
    layout = LAYOUTS[kind]
    module = import_module(f"transformers.models.{kind}.modeling_{kind}")
    config = import_module(f"transformers.models.{kind}.configuration_{kind}")
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    kernel = shapes.get("embeddings.patch_embeddings.projection.weight", ())
    places = shapes.get("embeddings.position_embeddings", ())
    if len(kernel) != 4 or len(places) != 3:
        raise CheckpointError(
            f"{source} is no {kind}: its patch embedding is {kernel or 'absent'} and its positions "
            f"{places or 'absent'}, not tensors of 4 and 3 axes; it has {sorted(weights)[:4]}"
        )
    blocks = {m[1] for name in weights if (m := BLOCK.fullmatch(name))}
    first = f"{layout.blocks}.0.mlp"
    hidden = shapes.get(f"{first}.fc1.weight", (4 * kernel[0],))[0]
    settings: dict[str, Any] = {
        "hidden_size": kernel[0],
        "num_hidden_layers": len(blocks),
        "num_attention_heads": 1,  # no weight tells, and no shape depends on it
        "patch_size": kernel[-1],
        "image_size": isqrt(max(places[1] - 1, 0)) * kernel[-1],
    }
    if layout is MAE:
        settings["intermediate_size"] = hidden
    else:
        swiglu = shapes.get(f"{first}.gate_proj.weight")
        settings["use_swiglu_ffn"] = swiglu is not None
        wide = swiglu[0] * 1.5 if swiglu else hidden  # SwiGLU keeps two thirds
        settings["mlp_ratio"] = round(wide / kernel[0])
    if (registers := shapes.get("embeddings.register_tokens")) and kind.endswith("registers"):
        settings["num_register_tokens"] = registers[1]
    return getattr(module, f"{layout.network}Model")(
        getattr(config, f"{layout.network}Config")(**settings)
    )
