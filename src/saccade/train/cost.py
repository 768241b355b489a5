"""What a sample costs: the arithmetic of its matrix products, forward and backward.

Samples per second times this is the rate at which a run computes; divided by what the machine's
matrix products reach, it is the model FLOPs utilisation (Chowdhery et al., 2022,
https://arxiv.org/abs/2204.02311, appendix B).
"""

import torch
from torch.utils.flop_counter import FlopCounterMode

from saccade.train.alarms import looking
from saccade.types import Clip, Objective


def flops_per_sample(objective: Objective, clip: Clip) -> float:
    """Count the operations of a step's matrix products and convolutions, per sample.

    Elementwise work is not counted, so a network of scans or norms computes more than this says.
    """
    learned = [p for p in objective.parameters() if p.requires_grad]
    counter = FlopCounterMode(display=False)
    with looking(objective), counter, torch.enable_grad():
        loss = torch.stack(list(objective.terms(clip).values())).sum()
        torch.autograd.grad(loss, learned, allow_unused=True)
    return counter.get_total_flops() / len(clip["gap"])
