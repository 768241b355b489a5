"""Low-rank adapters inside any of our networks, in the files of peft (``saccade[finetune]``).

A linear map ``W`` becomes ``W + s B A`` with ``A [r, in]`` random, ``B [out, r]`` zero, and only
these two trained; ``s`` is ``alpha / sqrt(r)`` by rank-stabilised scaling, ``alpha / r`` without.
LoRA: Hu et al., 2021, https://arxiv.org/abs/2106.09685; its scaling: Kalajdzievski, 2023,
https://arxiv.org/abs/2312.03732
The folder opens with ``peft.PeftModel.from_pretrained`` as well.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from saccade.checkpoint import write_atomic
from saccade.errors import CheckpointError, ConfigError

PREFIX = "base_model.model."  # of peft's files
NAME = "default"  # of the one adapter in a network
ALL_LINEAR = "all-linear"  # every linear map but a language model's last
LAST = "lm_head"
WEIGHTS, CONFIG, RECORD = "adapter_model.safetensors", "adapter_config.json", "saccade.json"


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which linear maps get an adapter, and how large.

    Args:
        rank: of the update of each map.
        alpha: of the scale.
        rslora: divide alpha by the square root of the rank instead of the rank.
        dropout: of an adapter's input, in training.
        targets: last parts of the names of the maps, in every block; ``all-linear`` are all of
            them but the last one of a language model.
        start: how ``A`` is drawn: ``uniform`` as peft does, or ``gaussian`` of deviation 1 / rank.
    """

    rank: int = 16
    alpha: float = 32.0
    rslora: bool = True
    dropout: float = 0.05
    targets: tuple[str, ...] = ("qkv", "proj", "fc1", "fc2")
    start: Literal["uniform", "gaussian"] = "uniform"


def add_lora(network: nn.Module, config: LoraConfig, skipped: Collection[str] = ()) -> list[str]:
    """Put adapters into a network, freeze the rest of it, and return the names of the maps.

    The network computes what it did before: ``B`` is zero. ``skipped`` are submodules that get no
    adapters where the targets are all linear maps, for example because nothing uses them.

    Raises:
        ConfigError: a target names no linear map, or there are adapters already.
    """
    if adapters(network):
        raise ConfigError("the network has adapters already; merge or remove them first")
    targets = _targets(network, config.targets, skipped)
    peft = _peft()
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        use_rslora=config.rslora,
        lora_dropout=config.dropout,
        target_modules=targets,
        bias="none",
        init_lora_weights="gaussian" if config.start == "gaussian" else True,
    )
    network.requires_grad_(False)
    peft.inject_adapter_in_model(settings, network, adapter_name=NAME)
    second = [value for name, value in network.named_parameters() if ".lora_B." in name]
    if any(value.any() for value in second if not value.is_meta):
        raise ConfigError("fresh adapters would change the network; use another version of peft")
    return sorted(adapters(network))


def _targets(network: nn.Module, wanted: tuple[str, ...], skipped: Collection[str]) -> list[str]:
    """Return the names that peft looks for: last parts, or whole ones.

    Raises:
        ConfigError: one of them names no linear map.
    """
    if wanted == (ALL_LINEAR,):
        return linear_maps(network, skipped)
    kinds: dict[str, set[bool]] = {}
    for name, part in network.named_modules():
        kinds.setdefault(name.rpartition(".")[2], set()).add(isinstance(part, nn.Linear))
    known = sorted(name for name, linear in kinds.items() if linear == {True})
    lost = sorted(set(wanted) - set(known))
    if lost or not wanted:
        raise ConfigError(f"no linear map is named {lost or 'so'}; those there are: {known}")
    return list(wanted)


def linear_maps(network: nn.Module, skipped: Collection[str] = ()) -> list[str]:
    """Return the names of the linear maps inside a network but a language model's last.

    Raises:
        ConfigError: there is none, or the network is one itself.
    """
    left = tuple(f"{name}." for name in skipped)
    found = [
        name
        for name, part in network.named_modules()
        if isinstance(part, nn.Linear)
        and name.rpartition(".")[2] != LAST
        and not f"{name}.".startswith(left)
    ]
    if not found or "" in found:
        raise ConfigError("there is no linear map inside to be adapted")
    return found


def merged_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights with adapters added to them, by the names of the plain network.

    Maps kept in fewer bits (``models/four_bit.py``) are written out. The network itself stays as
    it is.
    """
    state = {
        name.replace(".base_layer.", "."): value.detach()
        for name, value in network.state_dict().items()
        if not is_adapter(name)
    }
    packed: dict[str, Any] = {
        n: part for n, part in network.named_modules() if hasattr(part, "plain")
    }
    for name, layer in packed.items():
        plain = name.removesuffix(".base_layer")
        state[f"{plain}.weight"] = layer.plain()
        del state[f"{plain}.scales"]
    for name, layer in adapters(network).items():
        weight = state[f"{name}.weight"]
        update = layer.get_delta_weight(NAME).detach()
        state[f"{name}.weight"] = (weight.float() + update.float()).to(weight.dtype)
    return state


def adapters(network: nn.Module) -> dict[str, Any]:
    """Return the maps that have an adapter, by name."""
    return {n: part for n, part in network.named_modules() if hasattr(part, "lora_A")}


def lora_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of the adapters alone, by the names that peft gives them in a file."""
    return {
        file_name(name): value.detach().cpu().contiguous()
        for name, value in network.state_dict().items()
        if is_adapter(name)
    }


def is_adapter(name: str) -> bool:
    """Whether a weight of a network is one of an adapter, by its name."""
    return ".lora_A." in name or ".lora_B." in name


def file_name(name: str) -> str:
    """Return the name that peft gives an adapter's weight in a file."""
    return PREFIX + name.replace(f".{NAME}.", ".")


def base_digest(network: nn.Module) -> str:
    """Return a digest of all weights but adapters', the same for float32 and bfloat16 of them."""
    return digest_of(sorted(network.state_dict().items()))


def digest_of(weights: Iterable[tuple[str, Tensor]]) -> str:
    """Return the same of a network's weights, adapters among them or not, sorted by name."""
    digest = hashlib.sha256()
    for name, value in weights:
        if ".lora_" not in name:
            digest.update(f"{name.replace('.base_layer.', '.')} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().to(torch.bfloat16).view(torch.int16).numpy().data)
    return digest.hexdigest()[:16]


def save_lora(
    folder: Path, network: nn.Module, config: LoraConfig, record: Mapping[str, Any]
) -> None:
    """Write the adapters alone: peft's two files, and ``saccade.json``.

    That has the record given, and the digest of the network that they were trained on.
    """
    write_lora(folder, lora_state(network), config, base_digest(network), record)


def write_lora(
    folder: Path,
    weights: Mapping[str, Tensor],
    config: LoraConfig,
    base: str,
    record: Mapping[str, Any],
) -> None:
    """Write the same of weights that are at hand, by their names in a file, without the network."""
    known = {
        "peft_type": "LORA",
        "r": config.rank,
        "lora_alpha": config.alpha,
        "use_rslora": config.rslora,
        "lora_dropout": config.dropout,
        "target_modules": sorted(config.targets),
        "bias": "none",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "init_lora_weights": "gaussian" if config.start == "gaussian" else True,
    }
    ours = {"base": base, "lora": asdict(config), "tensors": len(weights), **record}
    write_atomic(folder / WEIGHTS, save(dict(weights), {"format": "pt"}))
    write_atomic(folder / CONFIG, json.dumps(known, indent=2) + "\n")
    write_atomic(folder / RECORD, json.dumps(ours, indent=2) + "\n")


def read_lora(folder: Path) -> tuple[dict[str, Tensor], LoraConfig, dict[str, Any]]:
    """Read saved adapters and their record, of whatever network.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    try:
        record = json.loads((folder / RECORD).read_text())
        weights = load_file(folder / WEIGHTS)
        config = LoraConfig(**{**record["lora"], "targets": tuple(record["lora"]["targets"])})
        str(record["base"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{folder} holds no adapters of ours ({error}); expected are {WEIGHTS} and {RECORD}, "
            "as saccade export lora writes them"
        ) from error
    return weights, config, record


def load_lora(folder: Path, network: nn.Module) -> dict[str, Any]:
    """Put saved adapters into a network, every tensor accounted for; return their record.

    Raises:
        CheckpointError: a file is missing or damaged, a tensor is missing, left over or of another
            shape, or the adapters were trained on another network.
    """
    weights, config, record = read_lora(folder)
    base = base_digest(network)
    if record["base"] != base:
        raise CheckpointError(
            f"{folder} was trained on the network {record['base']}, this one is {base}; load the "
            "adapters into the network that they belong to"
        )
    add_lora(network, config)
    own = lora_state(network)
    wrong = sorted(
        name
        for name in own.keys() | weights.keys()
        if name not in own or name not in weights or own[name].shape != weights[name].shape
    )
    if wrong:
        remove_lora(network)
        raise CheckpointError(
            f"{folder / WEIGHTS} has {len(weights)} tensors, the network takes {len(own)}; "
            f"missing, left over or of another shape are {len(wrong)}: {', '.join(wrong[:4])}"
        )
    places = {file_name(name): name for name in network.state_dict() if ".lora_" in name}
    network.load_state_dict({places[n]: v for n, v in weights.items()}, strict=False)
    return record


def merge_lora(network: nn.Module) -> None:
    """Add the adapters to the weights and remove them: the network is plain again, and as fast."""
    _unload(network, "merge")


def remove_lora(network: nn.Module) -> None:
    """Remove the adapters: the network is bit for bit what it was before."""
    _unload(network, "drop")


def _unload(network: nn.Module, way: Literal["merge", "drop"]) -> None:
    for name, layer in adapters(network).items():
        if way == "merge":
            layer.merge(safe_merge=True)
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, layer.get_base_layer())
    if hasattr(network, "peft_config"):
        del network.peft_config


def _peft() -> Any:
    try:
        import peft  # an extra: it takes seconds to import
    except ImportError as error:
        raise ConfigError("adapters need peft: pip install 'saccade[finetune]'") from error
    return peft
