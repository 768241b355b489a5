"""The official notebook's way of computing energies, on the weights of our own predictor.

Our words, no line copied; what is done, and when, is that of the MIT code of
https://github.com/facebookresearch/vjepa2 (``src/models/ac_predictor.py``, ``notebooks/``):

    all samples are one batch, the context repeated for each
    a further step computes every frame again, under a causal mask of frames made beforehand
    condition tokens are projected one by one, and merged with the patches in every block
    queries and keys are cut by axis, turned by angles made anew in every block, and joined again
    poses are composed on the processor, by SciPy, one sample after the other
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from saccade.models.vjepa2.block import Block
from saccade.models.vjepa2.predictor import ActionPredictor

CONDITIONS = 2  # tokens of a frame that are no patches: its action and its state
Rows = Float[Tensor, "b h l c"]


class Rollout(NamedTuple):
    """What the samples did and saw, the context first."""

    features: Float[Tensor, "b t n d"]
    actions: Float[Tensor, "b k a"]
    poses: Float[Tensor, "b t s"]


class NotebookWay:
    """A world model of one predictor, for up to ``frames`` frames."""

    def __init__(self, predictor: ActionPredictor, frames: int = 16) -> None:
        self.predictor, config = predictor, predictor.config
        if config.rope != "tiled" or config.use_extrinsics:
            raise ValueError("the notebook knows tiled rotary positions and no cameras")
        self.mask = mask_of_frames(frames, config.grid[0] * config.grid[1] + CONDITIONS)

    def predict(
        self,
        features: Float[Tensor, "b t n d"],
        actions: Float[Tensor, "b t a"],
        poses: Float[Tensor, "b t s"],
    ) -> Float[Tensor, "b t n d"]:
        """Predict every next frame."""
        model, (samples, frames) = self.predictor, features.shape[:2]
        conditions = [model.action_encoder(actions), model.state_encoder(poses)]
        x = torch.cat([*(c.unsqueeze(2) for c in conditions), model.predictor_embed(features)], 2)
        x = x.flatten(1, 2)
        mask = self.mask[: x.shape[1], : x.shape[1]].to(x.device, non_blocking=True)
        for block in model.blocks():
            x = x + attention(block, block.norm1(x), mask, model.config.grid)
            x = x + block.mlp(block.norm2(x))
        x = x.view(samples, frames, -1, x.shape[-1])[:, :, CONDITIONS:].flatten(1, 2)
        return model.predictor_proj(model.predictor_norm(x)).view_as(features)

    def roll_out(
        self,
        features: Float[Tensor, "1 n d"],
        pose: Float[Tensor, "1 s"],
        steps: list[Float[Tensor, "b a"]],
    ) -> Rollout:
        """Take one step after the other from a frame, with all samples at once."""
        samples = len(steps[0])
        seen, poses = features.repeat(samples, 1, 1, 1), pose.repeat(samples, 1, 1)
        done = steps[0][:, None][:, :0]
        for step in steps:
            done = torch.cat([done, step[:, None]], 1)
            after = self.predict(seen, done, poses)[:, -1:]
            after = F.layer_norm(after, after.shape[-1:])
            seen = torch.cat([seen, after], 1)
            poses = torch.cat([poses, moved(poses[:, -1], step)[:, None]], 1)
        return Rollout(seen, done, poses)

    def landscape(
        self,
        features: Float[Tensor, "1 n d"],
        pose: Float[Tensor, "1 s"],
        goal: Float[Tensor, "n d"],
        actions: Float[Tensor, "b a"],
        horizon: int,
    ) -> Float[Tensor, " b"]:
        """Return the energies after each action, done ``horizon`` times."""
        seen = self.roll_out(features, pose, [actions] * horizon).features
        return (seen[:, -1] - goal).abs().mean((1, 2))

    def cem_step(
        self,
        features: Float[Tensor, "1 n d"],
        pose: Float[Tensor, "1 s"],
        goal: Float[Tensor, "n d"],
        steps: list[Float[Tensor, "b a"]],
        elites: int,
    ) -> tuple[Float[Tensor, "k a"], Float[Tensor, "k a"]]:
        """Return the mean and the deviation of the samples that come nearest to the goal."""
        rollout = self.roll_out(features, pose, steps)
        goals = goal.repeat(len(rollout.features), 1, 1)
        apart = (rollout.features[:, -1].flatten(1) - goals.flatten(1)).abs().mean(-1)
        best = rollout.actions[apart.topk(elites, largest=False).indices]
        return best.mean(0), best.std(0)


def mask_of_frames(frames: int, tokens: int) -> Bool[Tensor, "l l"]:
    """Let every frame attend to itself and to earlier ones."""
    mask = torch.zeros(frames * tokens, frames * tokens, dtype=torch.bool)
    for frame in range(frames):
        mask[frame * tokens : (frame + 1) * tokens, : (frame + 1) * tokens] = True
    return mask


def attention(
    block: Block, x: Float[Tensor, "b l d"], mask: Bool[Tensor, "l l"], grid: tuple[int, int]
) -> Float[Tensor, "b l d"]:
    """Mix normed tokens."""
    attn, (height, width) = block.attn, grid
    frames = x.shape[1] // (height * width + CONDITIONS)
    framed = x.view(len(x), frames, -1, x.shape[-1])
    axis = 2 * (x.shape[-1] // attn.heads // 3 // 2)
    time = torch.arange(frames, device=x.device)

    def projected(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        qkv = attn.qkv(tokens).unflatten(-1, (3, attn.heads, -1)).permute(2, 0, 3, 1, 4)
        return qkv[0], qkv[1], qkv[2]

    parts: list[list[Tensor]] = [[], [], []]
    for i in range(CONDITIONS):
        q, k, v = projected(framed[:, :, i])
        for kept, heads in zip(parts, (*(turned(y, [time], axis) for y in (q, k)), v), strict=True):
            kept.append(heads.unsqueeze(3))
    place = torch.arange(frames * height * width, device=x.device)
    row, column = place // width % height, place % width
    positions = [place // (height * width), row, column * (height / width)]
    q, k, v = projected(framed[:, :, CONDITIONS:].flatten(1, 2))
    patches = (turned(q, positions, axis), turned(k, positions, axis), v)
    q, k, v = (
        torch.cat([*kept, heads.unflatten(2, (frames, -1))], 3).flatten(2, 3)
        for kept, heads in zip(parts, patches, strict=True)
    )
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return attn.proj(mixed.transpose(1, 2).reshape(x.shape))


def turned(x: Rows, positions: list[Tensor], axis: int) -> Rows:
    """Turn ``axis`` channels by each of the positions, and leave the rest."""
    count = len(positions)
    slices = x.split([axis] * count + [x.shape[-1] - count * axis], -1)
    return torch.cat([*map(turned_axis, slices[:-1], positions), slices[-1]], -1)


def turned_axis(x: Rows, position: Float[Tensor, " l"]) -> Rows:
    """Turn neighbours; the frequencies are tiled over the channels, as in the 2.0 weights."""
    half = x.shape[-1] // 2
    omega = 10000 ** -(torch.arange(half, dtype=x.dtype, device=x.device) / half)
    angle = position[:, None] * omega
    sin, cos = (values.repeat(1, 1, 1, 2) for values in (angle.sin(), angle.cos()))
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack((-second, first), -1).flatten(-2) * sin


def moved(pose: Float[Tensor, "b s"], action: Float[Tensor, "b a"]) -> Float[Tensor, "b s"]:
    """Compose poses (position, extrinsic xyz Euler angles, gripper) one sample after the other."""
    before, step = pose.cpu().numpy(), action.cpu().numpy()
    to_matrix: Callable[[np.ndarray], np.ndarray] = lambda angles: (  # noqa: E731
        Rotation.from_euler("xyz", angles).as_matrix()
    )
    angles = [
        Rotation.from_matrix(to_matrix(turn) @ to_matrix(start)).as_euler("xyz")
        for turn, start in zip(step[:, 3:6], before[:, 3:6], strict=True)
    ]
    gripper = np.clip(before[:, 6:] + step[:, 6:], 0, 1)
    after = np.concatenate([before[:, :3] + step[:, :3], np.stack(angles), gripper], 1)
    return torch.from_numpy(after).to(pose.device, pose.dtype)
