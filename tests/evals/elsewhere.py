"""A world whose camera stands elsewhere in every episode, so that the right answer is known.

Pictures tell how the square moves along the camera's axes, and nothing of the world's: what was
turned by one rotation per episode cannot be undone by one map for all. A probe in the camera
frame finds the motion, the same probe in the world frame does not.
"""

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from saccade.data.episodes import Episodes, Subset, split
from saccade.data.synthetic import Synthetic, SyntheticConfig
from saccade.evals.clips import Clips


class Elsewhere(Synthetic):
    """The square of ``Synthetic``, its states and steps in a world that each camera sees its way.

    ``unplaced`` episodes come without the camera's pose.
    """

    def __init__(self, config: SyntheticConfig, unplaced: frozenset[int] = frozenset()) -> None:
        super().__init__(config)
        self.world_to_camera, self.unplaced = {}, unplaced
        count = len(self.lengths)
        self.turns = Rotation.random(count, np.random.default_rng(config.seed)).as_matrix()
        self.places = np.random.default_rng(config.seed + 1).uniform(-1, 1, (count, 3))

    def numbers(self, episode: int, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        state, action = (values.copy() for values in super().numbers(episode, frames))
        state[:, :3] = state[:, :3] @ self.turns[episode].T + self.places[episode]
        action[:, :3] = action[:, :3] @ self.turns[episode].T
        return state, action

    def camera_poses(self, episode: int, camera: str) -> np.ndarray | None:
        if episode in self.unplaced or camera not in self.cameras:
            return None
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = self.turns[episode], self.places[episode]
        return np.tile(pose, (self.lengths[episode], 1, 1))


def elsewhere(episodes: int = 48, unplaced: frozenset[int] = frozenset()) -> dict[str, Subset]:
    """Deal such episodes into train, select and test."""
    world = Elsewhere(SyntheticConfig(episodes=episodes, image_size=64, tasks=3), unplaced)
    return split(world, {"train": 0.5, "select": 0.25, "test": 0.25})


def seen_change(episodes: Episodes, clips: Clips, camera: str = "front") -> Tensor:
    """Return what a perfect encoder reads off the pictures: where the square is, and how large."""
    found = []
    for episode, start in clips.by_episode():
        both = [episodes.read(episode, start + o, (camera,))["video"][:, 0] for o in (0, clips.gap)]
        measured = []
        for video in both:
            red = (video[:, 0] > 130).double()
            mass = red.sum((1, 2)).clamp_min(1)
            axis = (torch.arange(video.shape[-1]) + 0.5) / video.shape[-1]
            x, y = (red.sum(1) * axis).sum(-1) / mass, (red.sum(2) * axis).sum(-1) / mass
            measured.append(torch.stack([x, y, mass.sqrt()], -1))
        found.append(measured[1] - measured[0])
    return torch.cat(found)
