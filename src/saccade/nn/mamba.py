"""Mamba-1: a selective state space (Gu and Dao, arXiv 2312.00752).

Names and layout of weights are those of mamba-ssm, so that published ones load as they are.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from saccade.checkpoint import load_weights
from saccade.errors import CheckpointError
from saccade.nn.selective_scan import selective_scan

DT = (1e-3, 0.1)  # the steps that a new layer takes lie between these


class MambaCache(NamedTuple):
    """What a mixer remembers of the tokens so far: its last inputs and its state."""

    window: Float[Tensor, "b w e"]
    h: Float[Tensor, "b e n"]


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
        self._init_steps()

    @torch.no_grad()
    def _init_steps(self) -> None:
        """Let ``softplus(bias)`` be log-uniform within ``DT``; ``low`` changes it little."""
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        low, high = (math.log(limit) for limit in DT)
        dt = torch.empty_like(self.dt_proj.bias).uniform_(low, high).exp()
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def forward(self, tokens: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        """Mix tokens, each with those before it."""
        x, gate = self.in_proj(tokens).chunk(2, -1)
        x = F.silu(
            self.conv1d(x.mT)[..., : x.shape[1]]
        ).mT.contiguous()  # once, for all who read it
        y = selective_scan(x, *self._parameters_of(x))
        return self.out_proj(y * F.silu(gate))

    def start(self, batch: int) -> MambaCache:
        """Return what there is to remember before the first token."""
        (inner, width), weight = self.conv1d.weight.shape[::2], self.conv1d.weight
        kind = torch.promote_types(weight.dtype, torch.float32)
        return MambaCache(
            weight.new_zeros(batch, width - 1, inner),
            weight.new_zeros(batch, inner, self.state, dtype=kind),
        )

    def step(
        self, token: Float[Tensor, "b d"], cache: MambaCache
    ) -> tuple[Float[Tensor, "b d"], MambaCache]:
        """Mix one more token; what ``forward`` returns for it, without the tokens before it."""
        x, gate = self.in_proj(token).chunk(2, -1)
        window = torch.cat([cache.window, x[:, None]], 1)
        x = torch.einsum("bwe,ew->be", window, self.conv1d.weight[:, 0])
        x = F.silu(x if self.conv1d.bias is None else x + self.conv1d.bias)
        dt, a, b, c, d = self._parameters_of(x)
        h = torch.exp(dt[..., None] * a) * cache.h + (dt * x)[..., None] * b[:, None]
        y = ((h * c[:, None]).sum(-1) + x * d).to(x.dtype)
        return self.out_proj(y * F.silu(gate)), MambaCache(window[:, 1:], h)

    def _parameters_of(self, x: Float[Tensor, "*b e"]) -> tuple[Tensor, ...]:
        """Return what the scan needs beside ``x``: dt, a, b, c and d."""
        low, b, c = self.x_proj(x).split([self.rank, self.state, self.state], -1)
        dt = F.linear(low, self.dt_proj.weight) + self.dt_proj.bias  # float32 under autocast
        return F.softplus(dt), -self.A_log.exp(), b, c, self.D


class GatedMlp(nn.Module):
    """``fc2(value * silu(gate))`` without biases, as in mamba-ssm."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * hidden, bias=False)
        self.fc2 = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
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
        return self._after_mixer(x + self.mixer(self.norm(x)))

    def step(
        self, x: Float[Tensor, "b d"], cache: MambaCache
    ) -> tuple[Float[Tensor, "b d"], MambaCache]:
        """Return what ``forward`` returns for one more token."""
        mixed, cache = self.mixer.step(self.norm(x), cache)
        return self._after_mixer(x + mixed), cache

    def _after_mixer(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
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

    def start(self, batch: int) -> list[MambaCache]:
        """Return what there is to remember before the first token, of every layer."""
        return [layer.mixer.start(batch) for layer in self._blocks()]

    def step(
        self, x: Float[Tensor, "b d"], caches: Sequence[MambaCache]
    ) -> tuple[Float[Tensor, "b d"], list[MambaCache]]:
        """Return what ``forward`` returns for one more token, and what to remember."""
        kept = []
        for layer, cache in zip(self._blocks(), caches, strict=True):
            x, cache = layer.step(x, cache)
            kept.append(cache)
        return self.norm_f(x), kept

    def _blocks(self) -> list[MambaBlock]:
        return [layer for layer in self.layers if isinstance(layer, MambaBlock)]


def load_mamba(weights: Mapping[str, Tensor], source: str) -> MambaStack:
    """Build the stack that published weights are of, and fill it; all sizes are read off shapes.

    They are named as mamba-ssm or transformers' ``MambaForCausalLM`` do (``backbone.layers.N...``)
    or its ``MambaModel`` (``layers.N...``). What maps words to tokens and back is left out.

    Raises:
        CheckpointError: it lists what is missing, left over, or of another shape.
    """
    words = ("embedding.weight", "embeddings.weight", "lm_head.weight")
    short = {name.removeprefix("backbone."): value for name, value in weights.items()}
    own = {name: value for name, value in short.items() if name not in words}
    depth = len({m[1] for name in own if (m := re.match(r"layers\.(\d+)\.", name))})
    told = ("norm_f.weight", "layers.0.mixer.A_log", "layers.0.mixer.conv1d.weight")
    try:
        (dim,), (inner, state), (_, _, conv) = (own[name].shape for name in told)
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{source} holds no Mamba ({error}); expected backbone.norm_f.weight and "
            f"backbone.layers.N.mixer.*, as mamba-ssm names them, found {sorted(weights)[:4]}"
        ) from error
    fc2 = own.get("layers.0.mlp.fc2.weight")
    hidden = fc2.shape[-1] if fc2 is not None else 0
    stack = MambaStack(dim, depth, state, conv, inner // max(dim, 1), hidden)
    load_weights(stack, own, source)
    return stack
