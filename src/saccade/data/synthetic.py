"""A reader that needs no disk: a bright square that moves as commanded. For tests and recipes.

The state is the square's position and the gripper (1 open, 0 closed: the square is filled when
closed); the action is the displacement to the next frame. Camera axes are the state's axes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from saccade.config import Config
from saccade.data.episodes import Conventions, Episodes


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig(Config["Synthetic"]):
    """Size of the toy world. Episodes take their task from ``tasks`` in turn."""

    episodes: int = 12
    length: int = 16
    image_size: int = 32
    tasks: int = 2
    noise: float = 2.0  # standard deviation of the sensor noise, in grey levels
    seed: int = 0

    def build(self) -> "Synthetic":
        """Draw the trajectories."""
        return Synthetic(self)


class Synthetic(Episodes):
    """All episodes, drawn when read."""

    cameras = ("front",)
    state_names = action_names = ("x", "y", "z", "gripper")
    conventions = Conventions(commands="steps", metres=1.0)

    def __init__(self, config: SyntheticConfig) -> None:
        self.config = config
        self.fps = 10.0
        self.fingerprint = f"synthetic-{config}"
        self.lengths = [config.length] * config.episodes
        self.tasks = [f"follow command {i % config.tasks}" for i in range(config.episodes)]
        self.world_to_camera = {"front": np.eye(3)}
        rng = np.random.default_rng(config.seed)
        shape = (config.episodes, config.length)
        walk = np.cumsum(rng.uniform(-0.06, 0.06, (*shape, 3)), axis=1)
        position = 0.2 + 0.6 * np.abs((walk + 0.5) % 2 - 1)  # reflected at the walls
        gripper = np.repeat(rng.integers(0, 2, shape), 4, axis=1)[:, : config.length]
        self.state = np.concatenate([position, gripper[..., None]], -1).astype(np.float32)
        ahead = np.concatenate([self.state[:, 1:], self.state[:, -1:]], axis=1)
        self.action = np.concatenate([ahead - self.state, ahead], -1)[..., [0, 1, 2, 7]]

    def numbers(
        self, episode: int, frames: Int64[np.ndarray, " t"]
    ) -> tuple[Float32[np.ndarray, "t s"], Float32[np.ndarray, "t a"]]:
        """Look the given frames up."""
        return self.state[episode, frames], self.action[episode, frames]

    def pixels(
        self, episode: int, camera: str, frames: Int64[np.ndarray, " t"]
    ) -> UInt8[Tensor, "t 3 h w"]:
        """Draw the given frames."""
        state, size = self.state[episode, frames], self.config.image_size
        grid = (np.arange(size) + 0.5) / size
        near = np.abs(grid - state[:, :2, None]) < 0.06 + 0.08 * state[:, 2, None, None]
        square = near[:, 1, :, None] & near[:, 0, None, :]
        video = np.zeros((len(frames), 3, size, size), np.uint8)
        for i, frame in enumerate(frames):
            rng = np.random.default_rng((self.config.seed, episode, int(frame)))
            colour = np.array([230.0, 120.0, 60.0 + 150.0 * state[i, 3]])[:, None, None]
            picture = 40 + (colour - 40) * square[i]
            noisy = picture + rng.normal(0, self.config.noise, picture.shape)
            video[i] = noisy.round().clip(0, 255).astype(np.uint8)
        return torch.from_numpy(video)
