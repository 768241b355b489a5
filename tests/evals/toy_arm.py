"""A world model that is right by construction, and an arm that it can plan for.

Features are sines of linear maps of the state, with weights from a seeded NumPy generator: smooth,
nonlinear, with one minimum inside the box of actions. Pictures hold the state in fixed point.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from saccade.types import Context, WorldModel

FRANKA = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
SAWYER = ("x", "y", "z", "gripper")
REST = torch.tensor([0.5, 0.0, 0.3, -3.0, 0.03, -1.9, 0.4])
SCALE = 2.0**20  # of the fixed point: 1e-6 m


class ToyWorld(WorldModel):
    """``turn`` is how its idea of the axes differs from the robot's: it moves by ``turn @ xyz``."""

    def __init__(
        self,
        names: tuple[str, ...] = FRANKA,
        turn: Float[Tensor, "3 3"] | None = None,
        tokens: int = 6,
        dim: int = 8,
    ) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        self.state_names = self.action_names = names
        self.step_seconds = 0.25
        gain = np.array([4.0 if name in "xyz" else 0.7 for name in names])
        weight = rng.normal(size=(len(names), tokens * dim)) * gain[:, None]
        self.weight = nn.Parameter(torch.from_numpy(weight.astype(np.float32)))
        self.phase = torch.from_numpy(rng.uniform(0, 6.28, tokens * dim).astype(np.float32))
        self.turn, self.shape = turn, (tokens, dim)
        self.most = 0  # candidates imagined at once

    def see(self, state: Float[Tensor, "*b s"]) -> Float[Tensor, "*b n d"]:
        return torch.sin(state @ self.weight + self.phase).unflatten(-1, self.shape)

    def encode(self, video: UInt8[Tensor, "b t 3 h w"]) -> Float[Tensor, "b t n d"]:
        return self.see(state_in(video, len(self.state_names)))

    def look(self, features: Tensor, state: Tensor, action: Tensor) -> Context:
        assert len(features) == len(state) == len(action) + 1
        return Context(features=features, state=state)

    def imagine(self, context: Context, action: Float[Tensor, "b k a"]) -> Tensor:
        self.most = max(self.most, len(action))
        state, seen = context.state[-1].expand(len(action), -1), []
        for step in action.unbind(1):
            if self.turn is not None:
                step = torch.cat([step[:, :3] @ self.turn.T, step[:, 3:]], -1)
            state = self.moved(state, step)
            seen.append(self.see(state))
        return torch.stack(seen, 1)

    def moved(self, state: Float[Tensor, "*b s"], action: Float[Tensor, "*b a"]) -> Tensor:
        new = state + action  # right for the rotation too, where it does not turn
        return torch.cat([new[..., :-1], new[..., -1:].clamp(0, 1)], -1)

    def measured(self, before: Float[Tensor, "*b s"], after: Float[Tensor, "*b s"]) -> Tensor:
        return after - before


def picture(state: Float32[np.ndarray, " s"]) -> UInt8[np.ndarray, "8 8 3"]:
    """Write a state into the first pixels of a picture."""
    image = np.zeros((8, 8, 3), np.uint8)
    fixed = np.round((state.astype(np.float64) + 4) * SCALE).astype(np.int64)
    image[0, : len(state)] = np.stack([fixed >> 16, fixed >> 8 & 255, fixed & 255], -1)
    return image


def state_in(video: UInt8[Tensor, "*b 3 8 8"], size: int) -> Float[Tensor, "*b s"]:
    red, green, blue = video[..., 0, :size].double().unbind(-2)
    return ((red * 65536 + green * 256 + blue) / SCALE - 4).float()


class ToyArm:
    """An environment whose hand obeys at once, at most 0.01 m a step, with its goal in sight."""

    fps = 40.0

    def __init__(self) -> None:
        self.reset((0,))

    def reset(self, seed: Sequence[int]) -> None:
        rng = np.random.default_rng(seed)
        self._state = np.append(rng.uniform(-0.1, 0.1, 3), 0.5).astype(np.float32)
        self.goal = self._state[:3] + rng.choice([-0.2, 0.2], 3).astype(np.float32)
        self.success = False

    def observe(self) -> Float32[np.ndarray, "4"]:
        return self._state.copy()

    def render(self, camera: str) -> UInt8[np.ndarray, "8 8 3"]:
        assert camera == "front"
        return picture(self._state)

    def step(self, action: Float32[np.ndarray, "4"]) -> Float32[np.ndarray, "4"]:
        action = np.clip(action, (-1, -1, -1, 0), 1).astype(np.float32)
        self._state = np.append(self._state[:3] + 0.01 * action[:3], action[3:])
        self.success = bool(np.linalg.norm(self._state[:3] - self.goal) < 0.03)
        return action

    def expert(self) -> Float32[np.ndarray, "4"]:
        return np.append((self.goal - self._state[:3]) / 0.01, 0.5).astype(np.float32)
