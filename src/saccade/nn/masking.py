"""Which tokens a masked model sees, drawn per sample (He et al., 2022; Tong et al., 2022)."""

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int64
from torch import Tensor

from saccade.nn.noise import uniform


class Mask(NamedTuple):
    """Positions of the visible and of the hidden tokens of every sample."""

    keep: Int64[Tensor, "b m"]
    hide: Int64[Tensor, "b q"]


def random_mask(key: Int64[Tensor, " b"], tokens: int, ratio: float, stream: int = 0) -> Mask:
    """Hide exactly ``floor(ratio * tokens)`` tokens of each sample."""
    hidden = int(ratio * tokens)
    order = uniform(key, tokens, stream).argsort(dim=1, stable=True)
    return Mask(keep=order[:, hidden:], hide=order[:, :hidden])


def tube_mask(key: Int64[Tensor, " b"], steps: int, tokens: int, ratio: float) -> Mask:
    """Hide the same tokens at all time steps, so that no neighbour in time gives them away."""

    def at_all_steps(index: Int64[Tensor, "b n"]) -> Int64[Tensor, "b l"]:
        step = torch.arange(steps, device=index.device)[:, None] * tokens
        return rearrange(index[:, None] + step, "b u n -> b (u n)")

    mask = random_mask(key, tokens, ratio)
    return Mask(keep=at_all_steps(mask.keep), hide=at_all_steps(mask.hide))


def take(x: Float[Tensor, "b l d"], index: Int64[Tensor, "b m"]) -> Float[Tensor, "b m d"]:
    """Pick tokens by position, each sample its own."""
    return x.gather(1, repeat(index, "b m -> b m d", d=x.shape[-1]))


def fill(
    seen: Float[Tensor, "b m d"], mask: Mask, blank: Float[Tensor, " d"]
) -> Float[Tensor, "b l d"]:
    """Put visible tokens back where they came from, with ``blank`` everywhere else."""
    blanks = blank.to(seen.dtype).expand(*mask.hide.shape, -1)
    back = torch.cat([mask.keep, mask.hide], dim=1).argsort(dim=1)
    return take(torch.cat([seen, blanks], dim=1), back)
