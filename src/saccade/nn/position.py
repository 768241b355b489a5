"""Fixed position codes (Vaswani et al., 2017, https://arxiv.org/abs/1706.03762)."""

import torch
from jaxtyping import Float
from torch import Tensor


def sinusoid(positions: int, dim: int) -> Float[Tensor, "l d"]:
    """Return one row per position: sine at even and cosine at odd dimensions."""
    rate = 10000.0 ** -(2 * (torch.arange(dim) // 2).double() / dim)
    angle = torch.arange(positions).double()[:, None] * rate
    angle[:, 0::2] = angle[:, 0::2].sin()
    angle[:, 1::2] = angle[:, 1::2].cos()
    return angle.float()
