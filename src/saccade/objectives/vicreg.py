"""What keeps representations from collapsing, and how far they are from it, over all ranks.

All is computed in the type of what is given, under autocast too: in bfloat16 products of states
that vary by a hundredth of a deviation are rounding.

Variance and covariance terms: VICReg, Bardes et al., 2022, https://arxiv.org/abs/2105.04906
"""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

# Under the root, for a gradient at 0. The published 1e-4 weakens the push on states that vary by
# less than 0.01, and those of a fresh encoder of 395 tokens vary by 1e-4.
TINY_VARIANCE = 1e-8


def vicreg(z: Float[Tensor, "b d"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return how far deviations fall short of 1, and how far dimensions repeat each other."""
    samples, dim = z.shape
    centred = z - z.mean(0)
    covariance = _product(centred.T) / (samples - 1)
    variance = covariance.diagonal()
    short = torch.relu(1 - (variance + TINY_VARIANCE).sqrt()).mean()
    return short, (covariance.square().sum() - variance.square().sum()) / dim


def participation(z: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """Return (sum of variances)^2 / (sum of their squares), along the main axes: 1 is a line.

    Nearly free, and never above the effective rank.
    """
    centred = z - z.mean(0)
    gram = _product(centred)  # its eigenvalues are those of the covariance, but for a factor
    return gram.trace().square() / gram.square().sum().clamp_min(1e-30)


def _product(z: Float[Tensor, "a b"]) -> Float[Tensor, "a a"]:
    with torch.autocast(z.device.type, enabled=False):
        return z @ z.T


def gather(z: Float[Tensor, "b d"]) -> Float[Tensor, "_ d"]:
    """Put the samples of all ranks together, in their order, with gradient to each."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return z
    gathered = _Gather.apply(z)
    assert isinstance(gathered, Tensor)
    return gathered


class _Gather(torch.autograd.Function):
    """Every rank computes the same loss of all samples, and ranks' gradients are averaged: so what
    comes back to each is the sum over ranks.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        parts = [torch.empty_like(z) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, z.contiguous())
        ctx.samples = len(z)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        low = dist.get_rank() * ctx.samples
        return total[low : low + ctx.samples]
