"""Velocity fields: from noisy commands, the noise level and a condition to a direction.

A sequence model reads ``[level, condition, command 1 .. command k]``, each as one token with a
learned position, and speaks at the commands. A 1-D U-Net (Diffusion Policy, arXiv 2303.04137)
convolves over the commands, and level and condition shift and scale its channels.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from saccade.errors import ConfigError
from saccade.models.policies.head import Condition, Sizes, mlp
from saccade.nn.mamba import MambaStack
from saccade.nn.transformer import Block

Backbone = Literal["mamba", "transformer", "unet1d"]
LEVELS = 1000.0  # a level in [0, 1] is spread over as many positions of the sinusoid


class LevelEmbedding(nn.Module):
    """A noise level in [0, 1] as a vector: sinusoids, then two linear maps."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.mlp = mlp(dim, dim, dim)

    def forward(self, level: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """Embed each level."""
        half = self.dim // 2
        place = torch.arange(half, device=level.device) / half
        angle = LEVELS * level[:, None] * 10000.0**-place
        return self.mlp(torch.cat([angle.sin(), angle.cos()], -1))


class CrossAttention(nn.Module):
    """Let commands look at tokens of the observation, around a residual."""

    def __init__(self, dim: int, tokens: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm_tokens = nn.LayerNorm(dim), nn.LayerNorm(tokens)
        self.q, self.kv = nn.Linear(dim, dim), nn.Linear(tokens, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "b n d"], tokens: Float[Tensor, "b l e"]
    ) -> Float[Tensor, "b n d"]:
        """Add what each of ``x`` finds among the tokens."""
        q = rearrange(self.q(self.norm(x)), "b n (h d) -> b h n d", h=self.heads)
        both = self.kv(self.norm_tokens(tokens))
        k, v = rearrange(both, "b n (kv h d) -> kv b h n d", kv=2, h=self.heads)
        found = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj(rearrange(found, "b h n d -> b n (h d)"))


class TransformerStack(nn.Module):
    """Blocks that see the whole sequence, and a final norm."""

    def __init__(self, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm_f = nn.LayerNorm(dim)


class SequenceVelocity(nn.Module):
    """Mamba or a transformer over level, condition and commands.

    Where there are tokens of the observation, each layer is followed by attention to them.
    """

    def __init__(
        self, sizes: Sizes, motion: int, stack: MambaStack | TransformerStack, dim: int, heads: int
    ) -> None:
        super().__init__()
        self.level = LevelEmbedding(dim)
        self.condition = nn.Linear(sizes.condition, dim)
        self.action = nn.Linear(motion, dim)
        self.position = nn.Parameter(torch.empty(1, sizes.chunk + 2, dim))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.backbone = stack
        depth = len(stack.layers) if sizes.tokens else 0
        self.cross = nn.ModuleList(CrossAttention(dim, sizes.tokens, heads) for _ in range(depth))
        self.out = mlp(dim, dim, motion)

    def forward(
        self, x: Float[Tensor, "b k m"], level: Float[Tensor, " b"], condition: Condition
    ) -> Float[Tensor, "b k m"]:
        """Return the velocity at each command."""
        first = torch.stack([self.level(level), self.condition(condition.z)], 1)
        hidden = torch.cat([first, self.action(x)], 1) + self.position
        for i, layer in enumerate(self.backbone.layers):
            hidden = layer(hidden)
            if condition.tokens is not None:
                hidden = self.cross[i](hidden, condition.tokens)
        return self.out(self.backbone.norm_f(hidden)[:, 2:])


class ShiftedBlock(nn.Module):
    """Two convolutions over time; the condition scales and shifts channels in between."""

    def __init__(self, inputs: int, outputs: int, condition: int) -> None:
        super().__init__()
        self.before = nn.Sequential(
            nn.Conv1d(inputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.SiLU()
        )
        self.film = nn.Linear(condition, 2 * outputs)
        self.after = nn.Sequential(
            nn.Conv1d(outputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.SiLU()
        )
        self.skip = nn.Conv1d(inputs, outputs, 1)

    def forward(
        self, x: Float[Tensor, "b c k"], condition: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b e k"]:
        """Return channels of the same length."""
        scale, shift = self.film(condition)[..., None].chunk(2, 1)
        return self.after(self.before(x) * (1 + scale) + shift) + self.skip(x)


class UNetVelocity(nn.Module):
    """A U-Net over time that halves the length ``depth - 1`` times (rounded up)."""

    def __init__(self, sizes: Sizes, motion: int, dim: int, depth: int) -> None:
        super().__init__()
        if sizes.tokens:
            raise ConfigError(
                "the unet1d backbone attends to no tokens; condition on z, or use mamba or "
                "transformer"
            )
        self.level = LevelEmbedding(dim)
        self.condition = nn.Linear(sizes.condition, dim)
        widths = [motion] + [dim * 2**i for i in range(depth)]
        self.down = nn.ModuleList(
            ShiftedBlock(widths[i], widths[i + 1], 2 * dim) for i in range(depth)
        )
        self.middle = ShiftedBlock(widths[-1], widths[-1], 2 * dim)
        self.up = nn.ModuleList(
            ShiftedBlock(widths[i + 1] + widths[i], widths[i], 2 * dim)
            for i in range(depth - 1, 0, -1)
        )
        self.out = nn.Conv1d(widths[1], motion, 1)

    def forward(
        self, x: Float[Tensor, "b k m"], level: Float[Tensor, " b"], condition: Condition
    ) -> Float[Tensor, "b k m"]:
        """Return the velocity at each command."""
        told = torch.cat([self.level(level), self.condition(condition.z)], -1)
        hidden, seen = x.mT, []
        for i, block in enumerate(self.down):
            if i:
                seen.append(hidden)
                hidden = F.avg_pool1d(hidden, 2, ceil_mode=True)
            hidden = block(hidden, told)
        hidden = self.middle(hidden, told)
        for block in self.up:
            skip = seen.pop()
            wide = F.interpolate(hidden, size=skip.shape[-1])
            hidden = block(torch.cat([wide, skip], 1), told)
        return self.out(hidden).mT
