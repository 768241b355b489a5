"""Mamba-1: a selective state space (Gu and Dao, arXiv 2312.00752).

Names and layout of weights are those of mamba-ssm, so that published ones load as they are.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def selective_scan(
    x: Float[Tensor, "b l e"],
    dt: Float[Tensor, "b l e"],
    a: Float[Tensor, "e n"],
    b: Float[Tensor, "b l n"],
    c: Float[Tensor, "b l n"],
    d: Float[Tensor, " e"],
) -> Float[Tensor, "b l e"]:
    """Return ``y_t = <c_t, h_t> + d x_t`` with ``h_t = exp(dt_t a) h_{t-1} + dt_t x_t b_t``."""
    h, ys = x.new_zeros(x.shape[0], a.shape[1], x.shape[2]), []
    u, at = dt * x, a.t()
    for dt_t, u_t, b_t, c_t in zip(
        dt.unbind(1), u.unbind(1), b.unbind(1), c.unbind(1), strict=True
    ):
        h = torch.exp(dt_t[:, None] * at) * h + b_t[:, :, None] * u_t[:, None]
        ys.append(torch.bmm(c_t[:, None], h)[:, 0])
    return torch.stack(ys, 1) + x * d


class Mamba(nn.Module):
    """The mixer: tokens see those before them and themselves."""

    def __init__(self, dim: int, state: int = 16, conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        inner, rank = expand * dim, math.ceil(dim / 16)
        self.rank, self.state = rank, state
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, conv, groups=inner, padding=conv - 1)
        self.x_proj = nn.Linear(inner, rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, state + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, tokens: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        """Mix tokens, each with those before it."""
        x, gate = self.in_proj(tokens).chunk(2, -1)
        x = F.silu(self.conv1d(x.mT)[..., : x.shape[1]]).mT
        low, b, c = self.x_proj(x).split([self.rank, self.state, self.state], -1)
        dt = F.softplus(self.dt_proj(low))
        return self.out_proj(selective_scan(x, dt, -self.A_log.exp(), b, c, self.D) * F.silu(gate))


class GatedMlp(nn.Module):
    """``fc2(value * silu(gate))`` without biases, as in mamba-ssm."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * hidden, bias=False)
        self.fc2 = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        """Return tokens of the same shape."""
        value, gate = self.fc1(x).chunk(2, -1)
        return self.fc2(value * F.silu(gate))


class MambaBlock(nn.Module):
    """Pre-norm mixer, then (where ``hidden`` is not 0) a gated MLP, each around a residual."""

    def __init__(self, dim: int, state: int, conv: int, expand: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(dim, eps=1e-5)
        self.mixer = Mamba(dim, state, conv, expand)
        self.norm2 = nn.RMSNorm(dim, eps=1e-5) if hidden else None
        self.mlp = GatedMlp(dim, hidden) if hidden else None

    def forward(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        """Return tokens of the same shape."""
        x = x + self.mixer(self.norm(x))
        if self.norm2 is not None and self.mlp is not None:
            x = x + self.mlp(self.norm2(x))
        return x


class MambaStack(nn.Module):
    """Blocks and a final RMSNorm."""

    def __init__(
        self,
        dim: int,
        depth: int,
        state: int = 16,
        conv: int = 4,
        expand: int = 2,
        hidden: int = 0,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            MambaBlock(dim, state, conv, expand, hidden) for _ in range(depth)
        )
        self.norm_f = nn.RMSNorm(dim, eps=1e-5)

    def forward(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        """Mix tokens; the last one has seen all."""
        for layer in self.layers:
            x = layer(x)
        return self.norm_f(x)
