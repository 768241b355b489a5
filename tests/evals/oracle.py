"""Encoders whose scores are known beforehand, and what else probe tests share."""

import numpy as np
import torch
from torch import nn

from saccade.data.episodes import Episodes, Subset, split
from saccade.data.synthetic import SyntheticConfig
from saccade.types import Encoder, Preprocessing


class Oracle(Encoder):
    """Report where the bright pixels are and how many, as an encoder should learn to."""

    embed_dim = 4

    def __init__(self, size: int = 32) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(num_frames=2, image_size=size)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        red, blue = (video[:, :, 0] > 130).float(), video[:, :, 2] / 255
        mass = red.sum((2, 3)).clamp_min(1)
        axis = (torch.arange(video.shape[-1]) + 0.5) / video.shape[-1]
        x, y = (red.sum(2) * axis).sum(-1) / mass, (red.sum(3) * axis).sum(-1) / mass
        return torch.stack([x, y, mass.sqrt(), (red * blue).sum((2, 3)) / mass], -1)[:, :, None]


class RandomInit(Encoder):
    """An untrained network with one token per pixel row and frame."""

    embed_dim = 8

    def __init__(self, seed: int = 0, size: int = 32) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(num_frames=2, image_size=size)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            self.map = nn.Linear(3 * size, self.embed_dim)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return self.map(video.permute(0, 1, 3, 2, 4).flatten(3) / 255).tanh()


def parts(held_out: bool = True, **size: int) -> dict[str, Subset]:
    episodes = SyntheticConfig(**({"episodes": 24, "tasks": 3} | size)).build()
    shares = {"train": 0.5, "select": 0.25, "test": 0.25}
    return split(episodes, shares, ["follow command 2"] if held_out else [])


class Poses(Episodes):
    """One moving arm without pixels, from given states."""

    cameras = ("front",)
    fps = 10.0

    def __init__(
        self, state: np.ndarray, names: tuple[str, ...], world_to_camera: np.ndarray | None = None
    ) -> None:
        self.state = state.astype(np.float32)
        self.state_names = self.action_names = names
        self.lengths, self.tasks, self.fingerprint = [len(state)], ["move"], "poses"
        self.world_to_camera = {} if world_to_camera is None else {"front": world_to_camera}

    def numbers(self, episode: int, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.state[frames], self.state[frames]

    def pixels(self, episode: int, camera: str, frames: np.ndarray) -> torch.Tensor:
        raise AssertionError("a probe of numbers decodes no pixels")
