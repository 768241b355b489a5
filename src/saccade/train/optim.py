"""AdamW with the right parameters decayed, and a learning rate that is a function of the step.

With n the number of the update (1 is the first), W warm-up updates, C of the cool-down, N in all:

    rate(n) = lr (s + (1 - s) n / W)                                     n <= W
    rate(n) = lr (m + (1 - m) (1 + cos(pi (n - W) / (N - W))) / 2)       n >  W, cosine
    rate(n) = lr (1 - (1 - m) max(0, n - (N - C)) / C)                   n >  W, wsd
    rate(n) = lr                                                         n >  W, constant

so the last update is made at ``m lr`` (but for constant) and no schedule has a state to save.
AdamW: Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101
WSD, as V-JEPA 2-AC was trained: Hu et al., 2024, https://arxiv.org/abs/2404.06395
8-bit moments in blocks: Dettmers et al., 2021, https://arxiv.org/abs/2110.02861
"""

import importlib
import logging
import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from saccade.errors import CheckpointError, ConfigError
from saccade.train.layout import share

EIGHT_BIT_FROM, EIGHT_BIT_BLOCK = 4096, 256  # numbers: smaller parameters keep 32 bits
MOMENTS = {"1": "exp_avg", "2": "exp_avg_sq"}  # by the number that ends a slot's name


def learning_rate(
    update: int,
    updates: int,
    lr: float,
    warmup: float,
    min_lr: float,
    *,
    start_lr: float = 0.0,
    schedule: str = "cosine",
    cooldown: float = 0.0,
) -> float:
    """Return the rate of one update.

    ``warmup`` and ``cooldown`` are shares of all updates, ``start_lr`` and ``min_lr`` of ``lr``.
    """
    rising = round(warmup * updates)
    if schedule == "constant":
        min_lr = 1.0
    if update <= rising:
        return lr * (start_lr + (1 - start_lr) * update / rising)
    if schedule == "cosine":
        left = (1 + math.cos(math.pi * (update - rising) / (updates - rising))) / 2
    else:
        falling = min(round(cooldown * updates), updates - rising)
        left = min(1.0, (updates - update) / falling) if falling else 1.0
    return lr * (min_lr + (1 - min_lr) * left)


def decayed(module: nn.Module) -> set[str]:
    """Name the parameters that weight decay may shrink: the matrices and kernels of layers.

    Biases, gains of norms, embeddings and learned tokens (position, CLS, mask) are not layers'
    weights: zero is no natural place for them.
    """
    return {
        f"{prefix}.{name}".lstrip(".")
        for prefix, owner in module.named_modules()
        if not isinstance(owner, (nn.Embedding, nn.LayerNorm, nn.RMSNorm))
        for name, value in owner.named_parameters(recurse=False)
        if value.ndim > 1 and "weight" in name
    }


def groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the parameters that learn: those that decay, and those that do not."""
    matrices = decayed(module)
    learned = {name: p for name, p in module.named_parameters() if p.requires_grad}
    return [
        {"params": [learned[n] for n in learned if n in matrices], "weight_decay": weight_decay},
        {"params": [learned[n] for n in learned if n not in matrices], "weight_decay": 0.0},
    ]


def adamw(
    module: nn.Module,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    kind: str = "adamw",
) -> torch.optim.Optimizer:
    """Build the optimizer of every parameter that learns.

    Raises:
        ConfigError: ``kind`` needs a package that is not installed.
    """
    made = groups(module, weight_decay)
    if kind == "adamw8bit_torchao":
        return _torchao().AdamW8bit(made, lr=lr, betas=betas)
    if kind == "adamw8bit":
        return _bitsandbytes().optim.AdamW8bit(made, lr=lr, betas=betas)
    return torch.optim.AdamW(made, lr=lr, betas=betas, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups; torchao keeps it as a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def moments(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Name the optimizer's state ``PARAMETER.SLOT``; a parameter without gradient has none.

    Where parameters are sharded so are their moments.
    """
    return {
        f"{name}.{slot}": torch.as_tensor(_piece(state, slot))
        for name, parameter in module.named_parameters()
        if (state := optimizer.state.get(parameter))
        for slot in _slots(optimizer, parameter)
    }


def load_moments(
    module: nn.Module, optimizer: torch.optim.Optimizer, saved: Mapping[str, Tensor], source: str
) -> None:
    """Restore what ``moments`` returned.

    Raises:
        CheckpointError: a slot is missing, unknown, or of another shape than its parameter.
    """
    learned = {name: p for name, p in module.named_parameters() if p.requires_grad}
    owners = {key.rpartition(".")[0] for key in saved}
    expected = {
        f"{name}.{slot}": shape
        for name in owners & learned.keys()
        for slot, shape in _slots(optimizer, learned[name]).items()
    }
    found = {key: value.shape for key, value in saved.items()}
    wrong = sorted(
        key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)
    )
    if wrong:
        raise CheckpointError(
            f"{source} does not fit the optimizer: {len(wrong)} of its slots are missing, left "
            f"over or of another shape ({', '.join(wrong[:8])})"
        )
    state = {
        learned[name]: {slot: saved[f"{name}.{slot}"] for slot in _slots(optimizer, learned[name])}
        for name in owners
    }
    if eight_bit(optimizer):
        _fill(optimizer, state)
        return
    if in_codes(optimizer):
        _fill_codes(optimizer, state)
        return
    position = {p: i for i, p in enumerate(p for g in optimizer.param_groups for p in g["params"])}
    numbered = {
        position[p]: {
            name: share(value, p) if value.shape == p.shape else value.clone()
            for name, value in slots.items()
        }
        for p, slots in state.items()
    }
    settings = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": numbered, "param_groups": settings})


def eight_bit(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer is that of ``kind="adamw8bit"``."""
    return type(optimizer).__module__.startswith("bitsandbytes.")


def in_codes(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer is that of ``kind="adamw8bit_torchao"``."""
    return type(optimizer).__module__.startswith("torchao.")


def moment_bytes(count: int, kind: str = "adamw") -> int:
    """Return the memory that the moments of a parameter of ``count`` numbers take."""
    if kind == "adamw8bit_torchao" and count % EIGHT_BIT_BLOCK:
        return 8 * count
    if kind.startswith("adamw8bit") and count >= EIGHT_BIT_FROM:
        return 2 * count + 2 * 4 * _blocks(count)
    return 8 * count


def _slots(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, torch.Size]:
    """Return what an optimizer keeps for a parameter, without what is the same for all."""
    one, same, count = torch.Size(), parameter.shape, parameter.numel()
    if in_codes(optimizer) and count >= EIGHT_BIT_FROM and not count % EIGHT_BIT_BLOCK:
        scales = torch.Size([count // EIGHT_BIT_BLOCK])
        return {"codes1": same, "codes2": same, "scale1": scales, "scale2": scales, "step": one}
    if not eight_bit(optimizer):
        return {"exp_avg": same, "exp_avg_sq": same, "step": one}
    slots = {"state1": same, "state2": same, "step": one}
    if parameter.numel() >= EIGHT_BIT_FROM:
        scales = torch.Size([_blocks(parameter.numel())])
        slots |= {"absmax1": scales, "absmax2": scales}
    return slots


def _blocks(count: int) -> int:
    return -(-count // EIGHT_BIT_BLOCK)


def _fill(optimizer: Any, state: Mapping[nn.Parameter, Mapping[str, Tensor]]) -> None:
    """Let bitsandbytes lay out its state, then copy the saved one into it, bit for bit."""
    for i, group in enumerate(optimizer.param_groups):
        for j, parameter in enumerate(group["params"]):
            if parameter in state:
                optimizer.init_state(group, parameter, i, j)
                own = optimizer.state[parameter]
                for slot, value in state[parameter].items():
                    if slot == "step":
                        own[slot] = int(value)
                    else:
                        own[slot].copy_(value)


def _piece(state: Mapping[str, Any], slot: str) -> Any:
    """Return what an optimizer keeps in a slot; torchao's moments are codes and scales."""
    if slot in state:
        return state[slot]
    return getattr(state[MOMENTS[slot[-1]]], slot[:-1])


def _fill_codes(optimizer: Any, state: Mapping[nn.Parameter, Mapping[str, Tensor]]) -> None:
    """Let torchao lay out its state, then copy the saved one into it."""
    for parameter, slots in state.items():
        own = optimizer.state[parameter]
        for i, (number, name) in enumerate(MOMENTS.items()):
            own[name] = optimizer._new_buffer(parameter, signed=i == 0)
            if name in slots:
                own[name].copy_(slots[name])
            else:
                own[name].codes.copy_(slots[f"codes{number}"])
                own[name].scale.copy_(slots[f"scale{number}"])
        own["step"] = slots["step"].clone()


def _torchao() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.getLogger("torchao").setLevel(logging.ERROR)  # of kernels for other machines
            return importlib.import_module("torchao.optim")  # an extra
    except ImportError as error:
        raise ConfigError(
            "optimizer adamw8bit_torchao needs torchao: pip install 'saccade[torchao]', or train "
            "with --train.optimizer adamw8bit or adamw"
        ) from error


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes  # an extra: it takes seconds to import
    except ImportError as error:
        raise ConfigError(
            "optimizer adamw8bit needs bitsandbytes: pip install 'saccade[finetune]', or train "
            "with --train.optimizer adamw"
        ) from error
    return bitsandbytes
