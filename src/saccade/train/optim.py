"""AdamW with the right parameters decayed, and a learning rate that is a function of the step.

With n the number of the update (1 is the first), W warm-up updates and N in all:

    rate(n) = lr n / W                                                   n <= W
    rate(n) = lr (m + (1 - m) (1 + cos(pi (n - W) / (N - W))) / 2)       n >  W

so the last update is made at ``m lr`` and no schedule has a state to save.
AdamW: Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from saccade.errors import CheckpointError

SLOTS = ("exp_avg", "exp_avg_sq", "step")


def learning_rate(update: int, updates: int, lr: float, warmup: float, min_lr: float) -> float:
    """Return the rate of one update; ``warmup`` is a share of all updates, ``min_lr`` of ``lr``."""
    rising = round(warmup * updates)
    if update <= rising:
        return lr * update / rising
    falling = (update - rising) / (updates - rising)
    return lr * (min_lr + (1 - min_lr) * (1 + math.cos(math.pi * falling)) / 2)


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


def adamw(
    module: nn.Module, lr: float, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.AdamW:
    """Build the optimizer of every parameter that learns."""
    matrices = decayed(module)
    learned = {name: p for name, p in module.named_parameters() if p.requires_grad}
    groups = [
        {"params": [learned[n] for n in learned if n in matrices], "weight_decay": weight_decay},
        {"params": [learned[n] for n in learned if n not in matrices], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)


def moments(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Name the optimizer's state ``PARAMETER.SLOT``; a parameter without gradient has none."""
    return {
        f"{name}.{slot}": value
        for name, parameter in module.named_parameters()
        for slot, value in optimizer.state.get(parameter, {}).items()
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
        f"{name}.{slot}": torch.Size() if slot == "step" else learned[name].shape
        for name in owners & learned.keys()
        for slot in SLOTS
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
    position = {p: i for i, p in enumerate(p for g in optimizer.param_groups for p in g["params"])}
    state = {
        position[learned[name]]: {slot: saved[f"{name}.{slot}"].clone() for slot in SLOTS}
        for name in owners
    }
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
