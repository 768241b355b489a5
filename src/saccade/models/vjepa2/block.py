"""The transformer block of V-JEPA 2, in its encoder and in its action-conditioned predictor.

Pre-norm, rotary positions, one fused map for queries, keys and values, an exact GELU; the names of
the weights are those of https://github.com/facebookresearch/vjepa2.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from saccade.models.vjepa2.rope import Table, apply

EPS = 1e-6  # of the layer norms inside the network; features are normalised with another
KeyValue = tuple[Float[Tensor, "_ h _ c"], Float[Tensor, "_ h _ c"]]


class Attention(nn.Module):
    """Multi-head self-attention over rotated queries and keys."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self,
        qkv: Float[Tensor, "b l three_d"],
        turn: Table,
        mask: Bool[Tensor, "l l"] | None,
        past: tuple[KeyValue, ...],
    ) -> tuple[Float[Tensor, "b l d"], KeyValue]:
        """Mix the tokens that ``qkv`` projected with each other and with the past."""
        heads = rearrange(qkv, "b l (g c) -> b l g c", g=3 * self.heads)
        count = 2 * self.heads
        turned = apply(heads[:, :, :count], turn.over_heads())  # queries and keys in one go
        q, k = turned.transpose(1, 2).chunk(2, 1)
        v = heads[:, :, count:].transpose(1, 2)
        keys, values = k, v
        if past:
            shape = (len(q), -1, -1, -1)
            keys = torch.cat([*(piece[0].expand(shape) for piece in past), k], 2)
            values = torch.cat([*(piece[1].expand(shape) for piece in past), v], 2)
        mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        return self.proj(rearrange(mixed, "b h l c -> b l (h c)")), (k, v)


class Block(nn.Module):
    """Attention, then an MLP, each around a residual."""

    def __init__(self, dim: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        parts = {"fc1": nn.Linear(dim, mlp), "act": nn.GELU(), "fc2": nn.Linear(mlp, dim)}
        self.mlp = nn.Sequential(OrderedDict(parts))

    def project(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b l three_d"]:
        """Return queries, keys and values, not yet rotated."""
        return self.attn.qkv(self.norm1(x))

    def forward(
        self,
        x: Float[Tensor, "b l d"],
        turn: Table,
        mask: Bool[Tensor, "l l"] | None = None,
        past: tuple[KeyValue, ...] = (),
        qkv: Float[Tensor, "b l three_d"] | None = None,
    ) -> tuple[Float[Tensor, "b l d"], KeyValue]:
        """Return tokens, and their keys and values; ``qkv`` if they are projected already."""
        mixed, own = self.attn(self.project(x) if qkv is None else qkv, turn, mask, past)
        x = x + mixed
        return x + self.mlp(self.norm2(x)), own
