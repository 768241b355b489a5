"""The action-conditioned predictor of V-JEPA 2-AC: features of the next frame, given an action.

Tokens of one frame, in this order; slot ``t`` of the output is the prediction for frame ``t + 1``:

    action, state, (camera extrinsics), patches row by row

Every token attends to all tokens of its own frame and of earlier ones. Patches are rotated by
frame, row and column; the others by frame only. Rows and columns are both measured in units of the
grid's height over its sides, so the columns of a grid that is not square are scaled.

Re-implemented from the facts in arXiv 2506.09985 and https://github.com/facebookresearch/vjepa2
(``src/models/ac_predictor.py``); the names of the weights are those of its files.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from saccade.config import Config
from saccade.errors import ConfigError
from saccade.models.vjepa2.block import EPS, Block, KeyValue
from saccade.models.vjepa2.rope import Style, Table, axis_width, table, working_dtype

EXTRINSICS = 6  # position and Euler angles of a camera
CACHED = 20_000_000  # bytes of one array that a processor works on without waiting for memory


@dataclass(frozen=True, kw_only=True)
class ActionPredictorConfig(Config["ActionPredictor"]):
    """Shape of the predictor; the defaults are those of V-JEPA 2-AC over ViT-g at 256 pixels.

    Args:
        grid: rows and columns of patches of one frame; (1, 1) for one pooled feature per frame.
        feature_dim: width of the features.
        dim: width of a token.
        depth: number of blocks.
        heads: attention heads.
        mlp: hidden width of each block.
        state_size: axes of the state.
        action_size: axes of the action.
        use_extrinsics: condition on the pose of the camera too.
        checkpoint_activations: compute activations again in the backward pass, to save memory.
        rope: how channels are paired by the rotation; "tiled" is that of the 2.0 weights.
    """

    grid: tuple[int, int] = (16, 16)
    feature_dim: int = 1408
    dim: int = 1024
    depth: int = 24
    heads: int = 16
    mlp: int = 4096
    state_size: int = 7
    action_size: int = 7
    use_extrinsics: bool = False
    checkpoint_activations: bool = False
    rope: Style = "tiled"

    def build(self) -> "ActionPredictor":
        """Construct the predictor with fresh weights."""
        return ActionPredictor(self)


class Seen(NamedTuple):
    """Keys and values of earlier frames, for each block in pieces that were added one by one.

    A piece with a batch of one is shared by all candidates.
    """

    blocks: tuple[tuple[KeyValue, ...], ...]
    frames: int


class ActionPredictor(nn.Module):
    """Predict features of the next frame."""

    called_in_parts = True  # beside ``forward``: so blocks cannot be gathered one by one

    def __init__(self, config: ActionPredictorConfig) -> None:
        super().__init__()
        if config.dim % config.heads:
            raise ConfigError(
                f"the predictor is {config.dim} wide with {config.heads} heads; each head needs "
                "a whole number of channels"
            )
        axis_width(config.dim // config.heads)
        self.config = config
        dim = config.dim
        self.predictor_embed = nn.Linear(config.feature_dim, dim)
        self.action_encoder = nn.Linear(config.action_size, dim)
        self.state_encoder = nn.Linear(config.state_size, dim)
        self.extrinsics_encoder = nn.Linear(EXTRINSICS, dim)  # in the files even where unused
        self.predictor_blocks = nn.ModuleList(
            Block(dim, config.heads, config.mlp) for _ in range(config.depth)
        )
        self.predictor_norm = nn.LayerNorm(dim, eps=EPS)
        self.predictor_proj = nn.Linear(dim, config.feature_dim)
        self.extrinsics_encoder.requires_grad_(config.use_extrinsics)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw normal weights of deviation 0.02, smaller where deep blocks add to the residual."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        for depth, block in enumerate(self.blocks(), start=1):
            block.attn.proj.weight.div_((2 * depth) ** 0.5)
            block.mlp.get_submodule("fc2").get_parameter("weight").div_((2 * depth) ** 0.5)

    def blocks(self) -> list[Block]:
        """Return the blocks, under their own type."""
        return [block for block in self.predictor_blocks if isinstance(block, Block)]

    def forward(
        self,
        features: Float[Tensor, "b t n d"],
        action: Float[Tensor, "b _ a"],
        state: Float[Tensor, "b _ s"],
        extrinsics: Float[Tensor, "b t 6"] | None = None,
    ) -> Float[Tensor, "b t n d"]:
        """Predict each next frame from all frames up to then; normalising is the caller's part.

        Raises:
            ConfigError: sizes are not those that the predictor was built for.
        """
        x, _ = self._through_blocks(features, action, state, extrinsics, keep=False)
        rows = rearrange(x, "b (t m) d -> b t m d", t=features.shape[1])
        return self._features(rows[:, :, self._conditions :])

    def remember(
        self,
        features: Float[Tensor, "b t n d"],
        action: Float[Tensor, "b _ a"],
        state: Float[Tensor, "b _ s"],
        extrinsics: Float[Tensor, "b t 6"] | None = None,
    ) -> Seen:
        """Return keys and values of frames whose actions are known, a batch of one for all.

        Raises:
            ConfigError: sizes are not those that the predictor was built for.
        """
        _, own = self._through_blocks(features, action, state, extrinsics, keep=True)
        return Seen(tuple((pair,) for pair in own), features.shape[1])

    def step(
        self,
        seen: Seen | None,
        features: Float[Tensor, "_ n d"],
        action: Float[Tensor, "b a"],
        state: Float[Tensor, "b s"],
        extrinsics: Float[Tensor, "b 6"] | None = None,
        keep: bool = True,
    ) -> tuple[Float[Tensor, "b n d"], Seen | None]:
        """Predict one frame from the newest one and what was seen before it.

        Features with a batch of one are those of every candidate: what does not depend on the
        action is then computed once. ``keep=False`` at the last step returns no keys and values.

        Raises:
            ConfigError: sizes are not those that the predictor was built for.
        """
        self._check(features[:, None], action[:, None], state[:, None], extrinsics is not None)
        past = seen.blocks if seen else ((),) * self.config.depth
        frames = seen.frames if seen else 0
        patches = self._embed(features)
        conditions = self._encode(action, state, extrinsics)
        blocks, count = self.blocks(), len(action)
        parts = (conditions, patches)
        projected = [blocks[0].project(x).expand(count, -1, -1) for x in parts]
        qkv = torch.cat(projected, 1)
        x = torch.cat([part.expand(count, -1, -1) for part in parts], 1)
        turn = self._table(frames, 1, qkv)
        kept: list[tuple[KeyValue, ...]] = []
        for i, block in enumerate(blocks):
            x, own = self._run(block, x, turn, None, past[i], qkv if i == 0 else None)
            kept.append((*past[i], _alone(own)) if keep else ())
        predicted = self._features(x[:, self._conditions :])
        return predicted, Seen(tuple(kept), frames + 1) if keep else None

    def together(self, candidates: int) -> int:
        """Return how many of so many candidates are computed fastest at a time.

        A GPU takes them all. A processor takes what fits its cache, which is also what its
        allocator uses again in place of asking the system for fresh pages.
        """
        weight, config = self.predictor_norm.weight, self.config
        if weight.device.type != "cpu":
            return max(1, candidates)
        tokens = config.grid[0] * config.grid[1] + self._conditions
        widest = tokens * max(config.mlp, 3 * config.dim) * weight.element_size()
        return max(1, CACHED // widest)

    def step_bytes(self, frames: int, horizon: int, gradient: bool = False) -> int:
        """Bound what ``step`` holds of one candidate, ``horizon`` steps after ``frames`` frames.

        Counted in the code, and held against measured peaks by the tests: at its busiest a block
        has 14 arrays as wide as a token, 6 more for the rotation (in float32 at least) and 2 as
        wide as the MLP; each earlier step has left keys and values in every block; attention
        copies the keys and values of all frames for one block at a time. With ``gradient`` every
        block of every step keeps 12 arrays, 2 of the MLP, and those copies.
        """
        config, (height, width) = self.config, self.config.grid
        size = self.predictor_norm.weight.element_size()
        tokens = height * width + self._conditions
        busy = (14 * config.dim + 2 * config.mlp) * size + 6 * config.dim * max(size, 4)
        copies = [2 * config.dim * size * seen for seen in range(frames, frames + horizon)]
        if not gradient:
            kept = (horizon - 1) * config.depth * 2 * config.dim * size
            return tokens * (busy + kept + copies[-1])
        saved = horizon * (12 * config.dim + 2 * config.mlp) * size + sum(copies)
        return tokens * (busy + config.depth * saved)

    @property
    def _conditions(self) -> int:
        """Count the tokens of a frame that are no patches."""
        return 3 if self.config.use_extrinsics else 2

    def _through_blocks(
        self,
        features: Float[Tensor, "b t n d"],
        action: Float[Tensor, "b _ a"],
        state: Float[Tensor, "b _ s"],
        extrinsics: Float[Tensor, "b t 6"] | None,
        keep: bool,
    ) -> tuple[Float[Tensor, "b l e"], list[KeyValue]]:
        """Run whole frames; return the last tokens, and keys and values of every block to keep.

        Kept ones stay in memory, which checkpointing is there to save.
        """
        self._check(features, action, state, extrinsics is not None)
        conditions = self._encode(action, state, extrinsics)
        x = torch.cat([conditions, self._embed(features)], 2)
        frames, tokens = x.shape[1:3]
        mask = None if frames == 1 else causal_mask(frames, tokens, x.device)
        turn = self._table(0, frames, x)
        x, kept = x.flatten(1, 2), []
        for block in self.blocks():
            x, own = self._run(block, x, turn, mask)
            if keep:
                kept.append(own)
        return x, kept

    def _run(self, block: Block, *given: object) -> tuple[Tensor, KeyValue]:
        if self.config.checkpoint_activations and torch.is_grad_enabled():
            return checkpoint(block, *given, use_reentrant=False)
        return block(*given)

    def _encode(
        self,
        action: Float[Tensor, "*b a"],
        state: Float[Tensor, "*b s"],
        extrinsics: Float[Tensor, "*b 6"] | None,
    ) -> Float[Tensor, "*b m e"]:
        dtype = self.predictor_norm.weight.dtype  # poses are exact to the end: not in bfloat16
        tokens = [self.action_encoder(action.to(dtype)), self.state_encoder(state.to(dtype))]
        if extrinsics is not None:
            tokens.append(self.extrinsics_encoder(extrinsics.to(dtype)))
        return torch.stack(tokens, -2)

    def _embed(self, features: Float[Tensor, "*b n d"]) -> Float[Tensor, "*b n e"]:
        return self.predictor_embed(features.to(self.predictor_norm.weight.dtype))

    def _features(self, x: Float[Tensor, "*b n e"]) -> Float[Tensor, "*b n d"]:
        return self.predictor_proj(self.predictor_norm(x))

    def _table(self, first: int, frames: int, like: Tensor) -> Table:
        """Return the rotations of the tokens of some frames; row and column 0 turn nothing."""
        height, width = self.config.grid
        y, x = torch.meshgrid(
            torch.arange(height, device=like.device, dtype=torch.float32),
            torch.arange(width, device=like.device, dtype=torch.float32) * height / width,
            indexing="ij",
        )
        none = y.new_zeros(self._conditions)
        y, x = (torch.cat([none, side.flatten()]).repeat(frames) for side in (y, x))
        time = torch.arange(first, first + frames, device=like.device, dtype=torch.float32)
        time = time.repeat_interleave(len(y) // frames)
        channels = self.config.dim // self.config.heads
        return table((time, y, x), channels, working_dtype(like), self.config.rope)

    def _check(
        self,
        features: Float[Tensor, "_ t n d"],
        action: Float[Tensor, "b _ a"],
        state: Float[Tensor, "b _ s"],
        has_extrinsics: bool,
    ) -> None:
        """Say in words what jaxtyping says in letters, for the user's arrays."""
        config, (height, width) = self.config, self.config.grid
        if has_extrinsics != config.use_extrinsics:
            given = "was given" if has_extrinsics else "lacks"
            raise ConfigError(
                f"the predictor {given} camera extrinsics; it was built with "
                f"use_extrinsics={config.use_extrinsics}"
            )
        frames = features.shape[1]
        shapes = (
            ("features", features, (frames, height * width, config.feature_dim)),
            ("actions", action, (frames, config.action_size)),
            ("states", state, (frames, config.state_size)),
        )
        for name, values, expected in shapes:
            if values.shape[1:] != expected:
                raise ConfigError(
                    f"the predictor was given {name} of shape {tuple(values.shape[1:])}; for "
                    f"{frames} frames of {height} x {width} patches it was built for {expected}"
                )


def _alone(own: KeyValue) -> KeyValue:
    """Copy keys and values out of the arrays that hold the queries too, which then are freed."""
    return own if torch.is_grad_enabled() else (own[0].clone(), own[1].clone())


def causal_mask(frames: int, tokens: int, device: torch.device) -> Bool[Tensor, "l l"]:
    """Allow each token the frames up to its own; ``tokens`` of each."""
    frame = torch.arange(frames, device=device).repeat_interleave(tokens)
    return frame[:, None] >= frame
