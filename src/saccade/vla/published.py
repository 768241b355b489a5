"""OpenVLA's files: the names and sizes of its weights, read strictly and written again.

    FOLDER/config.json, *.safetensors      as the hub has openvla/openvla-7b and its fine-tunes
    FOLDER/config.json, checkpoints/*.pt   as training leaves them, such as
                                           Stanford-ILIAD/prism-qwen25-extra-dinosiglip-224px-0_5b
    FOLDER/tokenizer.json, dataset_statistics.json

Towers come in timm's names, with queries, keys and values in one matrix. Sizes are read off the
tensors; only the number of heads is not in them. Every tensor is used, or loading ends with an
error that names it: also those that no forward pass needs (the towers' last blocks and norms, and
SigLIP's pooling), so that the files can be written again.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from saccade.checkpoint import CONFIG, read_weights
from saccade.errors import CheckpointError
from saccade.models.hub_folder import read_json
from saccade.models.published.official import read_file
from saccade.vla.eyes import EyesConfig, ProjectorConfig
from saccade.vla.timm_towers import HUB, read_towers
from saccade.vla.towers import Kind, PublishedTowerConfig

STATISTICS = "dataset_statistics.json"
TOWERS = ("vision_backbone.featurizer.", "vision_backbone.fused_featurizer.")
PROJECTOR, LANGUAGE = "projector.", "language_model."
HEAD_WIDTH = 64  # of networks that no name tells more of
HEADS = {  # by timm's name, less what it was trained on
    "vit_large_patch14_reg4_dinov2": 16,
    "vit_so400m_patch14_siglip_224": 16,
}
TRAINED = {  # parts of a training's file, and what the hub calls them
    "vision_backbone.dino_featurizer.": TOWERS[0],
    "vision_backbone.siglip_featurizer.": TOWERS[1],
    "vision_backbone.featurizer.": TOWERS[0],
    "projector.projector.0.": "projector.fc1.",
    "projector.projector.2.": "projector.fc2.",
    "projector.projector.4.": "projector.fc3.",
    "llm_backbone.llm.": LANGUAGE,
}


class Piece(NamedTuple):
    """Tensors that are the same numbers, one after another, in their file and in our network."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    form: Literal["plain", "padded", "flat"] = "plain"  # of positions: with a zero; without a batch
    shares: tuple[int, ...] = (1,)  # of the rows, among theirs


def pieces(kind: Kind, depth: int) -> Iterator[Piece]:
    """List the tensors of a tower."""
    dino = kind == "dinov2"
    qkv = ("q_proj", "k_proj", "v_proj")
    attention, out = ("attention", "o_proj") if dino else ("self_attn", "out_proj")
    norms = ("norm1", "norm2") if dino else ("layer_norm1", "layer_norm2")
    blocks = "encoder.layer" if dino else "encoder.layers"
    patches = "patch_embeddings.projection" if dino else "patch_embedding"
    if dino:
        yield Piece(("cls_token",), ("embeddings.cls_token",))
        yield Piece(("reg_token",), ("embeddings.register_tokens",))
        yield Piece(("pos_embed",), ("embeddings.position_embeddings",), "padded")
    else:
        yield Piece(("pos_embed",), ("embeddings.position_embedding.weight",), "flat")
    for leaf in ("weight", "bias"):
        yield Piece((f"patch_embed.proj.{leaf}",), (f"embeddings.{patches}.{leaf}",))
    for i in range(depth):
        a, b = f"blocks.{i}", f"{blocks}.{i}"
        for leaf in ("weight", "bias"):
            yield Piece((f"{a}.norm1.{leaf}",), (f"{b}.{norms[0]}.{leaf}",))
            yield Piece((f"{a}.norm2.{leaf}",), (f"{b}.{norms[1]}.{leaf}",))
            names = tuple(f"{b}.{attention}.{part}.{leaf}" for part in qkv)
            yield Piece((f"{a}.attn.qkv.{leaf}",), names)
            yield Piece((f"{a}.attn.proj.{leaf}",), (f"{b}.{attention}.{out}.{leaf}",))
            yield Piece((f"{a}.mlp.fc1.{leaf}",), (f"{b}.mlp.fc1.{leaf}",))
            yield Piece((f"{a}.mlp.fc2.{leaf}",), (f"{b}.mlp.fc2.{leaf}",))
        for n in (1, 2) if dino else ():
            yield Piece((f"{a}.ls{n}.scale_factor",), (f"{b}.layer_scale{n}.lambda1",))
    for leaf in ("weight", "bias"):
        yield Piece((f"norm.{leaf}",), (f"{'layernorm' if dino else 'post_layernorm'}.{leaf}",))
    if not dino:
        yield from pooling()


def pooling() -> Iterator[Piece]:
    """List the tensors of SigLIP's pooling."""
    yield Piece(("attn_pool.latent",), ("head.probe",))
    for leaf in ("weight", "bias"):
        inside = (f"attn_pool.q.{leaf}", f"attn_pool.kv.{leaf}")
        yield Piece(inside, (f"head.attention.in_proj_{leaf}",), shares=(1, 2))
        yield Piece((f"attn_pool.proj.{leaf}",), (f"head.attention.out_proj.{leaf}",))
        yield Piece((f"attn_pool.norm.{leaf}",), (f"head.layernorm.{leaf}",))
        yield Piece((f"attn_pool.mlp.fc1.{leaf}",), (f"head.mlp.fc1.{leaf}",))
        yield Piece((f"attn_pool.mlp.fc2.{leaf}",), (f"head.mlp.fc2.{leaf}",))


def from_timm(weights: Mapping[str, Tensor], kind: Kind, depth: int) -> dict[str, Tensor]:
    """Give the tensors of a tower the names of ``PublishedTower.network``; others keep theirs.

    A tensor that is not there is left out, for strict loading to name.
    """
    left = {name.replace(".gamma", ".scale_factor"): value for name, value in weights.items()}
    found: dict[str, Tensor] = {}
    for piece in pieces(kind, depth):
        if not set(piece.theirs) <= left.keys():
            continue
        value = torch.cat([left.pop(name) for name in piece.theirs])
        if piece.form == "padded":
            value = torch.cat([value.new_zeros(1, 1, value.shape[-1]), value], 1)
        elif piece.form == "flat":
            value = value[0]
        found |= zip(piece.ours, value.tensor_split(len(piece.ours)), strict=True)
    if kind == "dinov2" and "embeddings.cls_token" in found:
        found["embeddings.mask_token"] = torch.zeros_like(found["embeddings.cls_token"][0])
    return found | left


def to_timm(weights: Mapping[str, Tensor], kind: Kind, depth: int) -> dict[str, Tensor]:
    """Invert ``from_timm``."""
    found: dict[str, Tensor] = {}
    for piece in pieces(kind, depth):
        value = torch.cat([weights[name] for name in piece.ours])
        if piece.form == "padded":
            value = value[:, 1:]
        elif piece.form == "flat":
            value = value[None]
        shares = piece.shares if len(piece.theirs) > 1 else (1,)
        rows = [len(value) * share // sum(shares) for share in shares]
        found |= zip(piece.theirs, value.split(rows), strict=True)
    return found


def tower_config(weights: Mapping[str, Tensor], name: str, source: str) -> PublishedTowerConfig:
    """Read the sizes of a tower off its tensors.

    Args:
        weights: in timm's names.
        name: timm's name of the network, which says how many heads it has.
        source: the file, for errors.

    Raises:
        CheckpointError: it is neither of the two kinds.
    """
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    kernel, places = shapes.get("patch_embed.proj.weight"), shapes.get("pos_embed")
    hidden = shapes.get("blocks.0.mlp.fc1.weight")
    dino, pooled = "reg_token" in shapes, "attn_pool.latent" in shapes
    if not kernel or not places or not hidden or dino == pooled or len(kernel) != 4:
        raise CheckpointError(
            f"{source} has a tower that is neither DINOv2 with registers nor SigLIP: its tensors "
            f"are {', '.join(sorted(shapes)[:6]) or 'none'}"
        )
    depth = 1 + max(int(m[1]) for key in shapes if (m := re.match(r"blocks\.(\d+)\.", key)))
    width = kernel[0]
    return PublishedTowerConfig(
        kind="dinov2" if dino else "siglip",
        dim=width,
        depth=depth,
        heads=HEADS.get(name.partition(".")[0], max(1, width // HEAD_WIDTH)),
        hidden=hidden[0],
        patch=kernel[2],
        image_size=isqrt(places[1]) * kernel[2],
        registers=shapes["reg_token"][1] if dino else 0,
    )


class Read(NamedTuple):
    """What a folder holds, in our words."""

    eyes: EyesConfig
    family: Literal["llama", "qwen2"]
    language: dict[str, Any]  # settings in transformers' words
    padding: int  # rows of the embedding beyond the vocabulary; -1: the tokenizer knows
    weights: dict[str, Tensor]  # by the names of ``OpenVla``
    statistics: dict[str, Any]


def read_folder(folder: Path, towers_of: Sequence[Path] = ()) -> Read:
    """Read an OpenVLA, mapped into memory.

    Args:
        folder: of the hub, or of a training.
        towers_of: folders of timm's towers, for a training that left them as they are published.

    Raises:
        CheckpointError: a file is missing or damaged, or of another kind of model.
    """
    settings = read_json(folder, CONFIG)
    if settings.get("model_type") in ("openvla", "prismatic"):
        weights: Mapping[str, Tensor] = read_weights(folder)
    elif "vla" in settings or "model" in settings:
        weights = trained_weights(folder)
    else:
        raise CheckpointError(
            f"{folder / CONFIG} is of model_type {settings.get('model_type')!r}, not openvla; give "
            "the folder of an OpenVLA, for example `hf download openvla/openvla-7b`"
        )
    names = settings.get("timm_model_ids") or list(HEADS)
    weights, names = _with_towers(weights, names, settings, folder, towers_of)
    found, towers = {}, []
    for i, prefix in enumerate(TOWERS):
        part = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        if not part and i:
            continue
        config = tower_config(part, str(names[i]) if i < len(names) else "", str(folder))
        towers.append(config)
        ours = from_timm(part, config.kind, config.depth)
        found |= {f"eyes.towers.{i}.network.{name}": value for name, value in ours.items()}
    for name, value in weights.items():
        if name.startswith(PROJECTOR):
            found[f"eyes.{name}"] = value
        elif name.startswith(LANGUAGE):
            found[f"language.{name.removeprefix(LANGUAGE)}"] = value
        elif not name.startswith(TOWERS):
            found[name] = value  # unknown, for strict loading to name
    family, language = language_settings(settings, found, str(folder))
    hidden = language["hidden_size"]
    depth = 3 if len(towers) > 1 else 2
    source = sum(tower.dim for tower in towers)
    projector = ProjectorConfig(source=source, target=hidden, depth=depth)
    statistics = settings.get("norm_stats") or {}
    if (folder / STATISTICS).is_file():
        statistics = read_json(folder, STATISTICS)
    padding = settings.get("pad_to_multiple_of", 64) if "text_config" in settings else -1
    return Read(
        EyesConfig(towers=tuple(towers), projector=projector),
        family,
        language,
        padding,
        found,
        statistics,
    )


def trained_weights(folder: Path) -> dict[str, Tensor]:
    """Read the newest checkpoint of a training, in the hub's names.

    Raises:
        CheckpointError: there is none, or it is something else.
    """
    files = sorted((folder / "checkpoints").glob("*.pt"))
    latest = [file for file in files if file.name == "latest-checkpoint.pt"] or files[-1:]
    if not latest:
        raise CheckpointError(f"{folder / 'checkpoints'} has no .pt file; fetch the whole folder")
    model = read_file(latest[0]).get("model")
    if not isinstance(model, dict) or not {"projector", "llm_backbone"} <= model.keys():
        raise CheckpointError(
            f"{latest[0]} has no model of projector and llm_backbone; it is no checkpoint of "
            "OpenVLA's training"
        )
    flat = {f"{part}.{key}": v for part, held in model.items() for key, v in dict(held).items()}
    return {_hub_name(name): value for name, value in flat.items()}


def _with_towers(
    weights: Mapping[str, Tensor],
    names: list[str],
    settings: Mapping[str, Any],
    folder: Path,
    towers_of: Sequence[Path],
) -> tuple[Mapping[str, Tensor], list[str]]:
    """Add timm's towers where a training left them as they are published.

    Raises:
        CheckpointError: they are needed and not given, or given and not needed.
    """
    own = any(name.startswith(TOWERS) for name in weights)
    if own and towers_of:
        raise CheckpointError(f"{folder} has towers of its own; leave --towers out")
    if own:
        return weights, names
    if not towers_of:
        raise CheckpointError(
            f"{folder} has no towers: its training left them as timm publishes them; fetch "
            f"{' and '.join(HUB)} (`hf download REPO --local-dir FOLDER`), and give both folders "
            "in this order with --towers"
        )
    wanted = 2 if f"{PROJECTOR}fc3.weight" in weights else 1  # a fused projector has three layers
    if len(towers_of) != wanted:
        raise CheckpointError(
            f"{folder} has a projector of {wanted} towers; --towers names {len(towers_of)}"
        )
    dtype = next(value.dtype for key, value in weights.items() if key.startswith(PROJECTOR))
    names, towers = read_towers(towers_of, settings, dtype, str(folder / CONFIG))
    added = {
        TOWERS[i] + name: value for i, tower in enumerate(towers) for name, value in tower.items()
    }
    return {**weights, **added}, names


def _hub_name(name: str) -> str:
    for before, after in TRAINED.items():
        if name.startswith(before):
            return after + name.removeprefix(before)
    return name


def language_settings(
    settings: Mapping[str, Any], weights: Mapping[str, Tensor], source: str
) -> tuple[Literal["llama", "qwen2"], dict[str, Any]]:
    """Return the kind of the language model and its settings, in transformers' words.

    A training's file says nothing of it; then sizes are read off the tensors, and the rest is
    what Qwen 2.5 and Llama 2 were published with.

    Raises:
        CheckpointError: it is of another kind, or not there.
    """
    table = weights.get("language.model.embed_tokens.weight")
    query = weights.get("language.model.layers.0.self_attn.q_proj.weight")
    key = weights.get("language.model.layers.0.self_attn.k_proj.weight")
    hidden = weights.get("language.model.layers.0.mlp.gate_proj.weight")
    if table is None or query is None or key is None or hidden is None:
        raise CheckpointError(
            f"{source} has no Llama or Qwen 2 as its language model; other OpenVLAs are not read"
        )
    said = dict(settings.get("text_config") or {})
    biased = "language.model.layers.0.self_attn.q_proj.bias" in weights
    family = "qwen2" if biased else "llama"
    if said.get("model_type", family) != family:
        raise CheckpointError(
            f"{source} says that its language model is a {said['model_type']!r}, its tensors are "
            f"those of a {family}"
        )
    layers = 1 + max(
        int(m[1]) for name in weights if (m := re.match(r"language\.model\.layers\.(\d+)\.", name))
    )
    wide = HEAD_WIDTH if family == "qwen2" or table.shape[1] < 4096 else 128
    heads = said.get("num_attention_heads", max(1, query.shape[0] // wide))
    sizes = {
        "vocab_size": table.shape[0],
        "hidden_size": table.shape[1],
        "intermediate_size": hidden.shape[0],
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key.shape[0] * heads // query.shape[0],
    }
    known: dict[str, Any] = {"rms_norm_eps": 1e-6}
    if family == "qwen2":
        known |= {"rope_theta": 1e6, "max_position_embeddings": 32768, "tie_word_embeddings": True}
    elif not said:
        known["rms_norm_eps"] = 1e-5  # meta-llama/Llama-2-7b-hf; the hub's OpenVLA says 1e-6
    for name in ("torch_dtype", "dtype", "_name_or_path", "transformers_version"):
        said.pop(name, None)
    return family, {**known, **said, **sizes, "model_type": family}


def published_weights(weights: Mapping[str, Tensor], eyes: EyesConfig) -> dict[str, Tensor]:
    """Give weights of an ``OpenVla`` with its own towers the names of the hub."""
    found: dict[str, Tensor] = {}
    for i, config in enumerate(eyes.towers):
        assert isinstance(config, PublishedTowerConfig)
        prefix = f"eyes.towers.{i}.network."
        part = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        theirs = to_timm(part, config.kind, config.depth)
        found |= {TOWERS[i] + name: value.contiguous() for name, value in theirs.items()}
    for name, value in weights.items():
        if name.startswith("eyes.projector."):
            found[name.removeprefix("eyes.")] = value
        elif name.startswith("language."):
            found[LANGUAGE + name.removeprefix("language.")] = value
    return found
