"""A toy of LIBERO's shape that needs no disk: a hand goes to the square that it is told. For tests
and recipes.

Two squares, red and blue, lie on a table. The hand goes straight to the one of the instruction and
closes its gripper there, so that neither the pictures nor the text alone tell what to do.
``agentview`` shows the table, ``wrist`` what is around the hand. Actions have LIBERO's seven axes,
of which the hand uses x, y and the gripper (1 open, 0 closed); 1 is ``REACH`` of the table.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, UInt8
from torch import Tensor

from saccade.config import Config
from saccade.data.episodes import Episodes

REACH = 0.03  # of the table's side per step
NEAR = 0.05  # at which the gripper closes
COLOURS = {"red": (220.0, 50.0, 40.0), "blue": (50.0, 70.0, 220.0)}
HAND = (210.0, 210.0, 90.0)


@dataclass(frozen=True, kw_only=True)
class ReachConfig(Config["Reach"]):
    """Size of the toy world; every other episode asks for the other colour.

    Args:
        noise: standard deviation of the demonstrator's commands, of which 1 is the largest.
    """

    episodes: int = 12
    length: int = 20
    image_size: int = 32
    noise: float = 0.1
    seed: int = 0

    def build(self) -> "Reach":
        """Demonstrate every episode."""
        return Reach(self)


class Reach(Episodes):
    """All episodes, drawn when read."""

    cameras = ("agentview", "wrist")
    state_names = ("x", "y", "z", "gripper")
    action_names = ("x", "y", "z", "rx", "ry", "rz", "gripper")

    def __init__(self, config: ReachConfig) -> None:
        self.config = config
        self.fps, self.world_to_camera = 20.0, {}
        self.fingerprint = f"synthetic-{config}"
        self.lengths = [config.length] * config.episodes
        colours = [list(COLOURS)[i % 2] for i in range(config.episodes)]
        self.tasks = [f"go to the {colour} square" for colour in colours]
        rng = np.random.default_rng(config.seed)
        self.squares = {  # left and right of one another, in either order
            colour: np.stack([side, rng.uniform(0.2, 0.8, config.episodes)], 1)
            for colour, side in zip(
                COLOURS,
                rng.permuted(
                    rng.uniform([0.15, 0.65], [0.35, 0.85], (config.episodes, 2)), axis=1
                ).T,
                strict=True,
            )
        }
        goal = np.stack([self.squares[c][i] for i, c in enumerate(colours)])
        self.state, self.action = self._demonstrate(goal, rng)

    def _demonstrate(
        self, goal: Float64[np.ndarray, "e 2"], rng: np.random.Generator
    ) -> tuple[Float32[np.ndarray, "e t s"], Float32[np.ndarray, "e t a"]]:
        config = self.config
        state = np.zeros((config.episodes, config.length, 4), np.float32)
        action = np.zeros((config.episodes, config.length, 7), np.float32)
        place = rng.uniform(0.4, 0.6, (config.episodes, 2))
        opening = np.ones(config.episodes)
        for step in range(config.length):
            state[:, step] = np.column_stack([place, np.full(len(place), 0.1), opening])
            way = goal - place
            command = way / REACH + rng.normal(0, config.noise, way.shape)
            opening = (np.abs(way).max(1) > NEAR) * 1.0
            action[:, step, :2], action[:, step, 6] = command.clip(-1, 1), opening
            place = place + REACH * action[:, step, :2]
        return state, action

    def numbers(
        self, episode: int, frames: Int64[np.ndarray, " t"]
    ) -> tuple[Float32[np.ndarray, "t s"], Float32[np.ndarray, "t a"]]:
        """Look the given frames up."""
        return self.state[episode, frames], self.action[episode, frames]

    def pixels(
        self, episode: int, camera: str, frames: Int64[np.ndarray, " t"]
    ) -> UInt8[Tensor, "t 3 h w"]:
        """Draw the given frames."""
        size = self.config.image_size
        video = np.empty((len(frames), 3, size, size), np.uint8)
        grid = (np.arange(size) + 0.5) / size
        for i, frame in enumerate(frames):
            hand = self.state[episode, frame]
            left, top, side = (0.0, 0.0, 1.0)
            if camera == "wrist":
                left, top, side = hand[0] - 0.2, hand[1] - 0.2, 0.4
            picture = np.full((3, size, size), 60.0)
            things = [(self.squares[name][episode], 0.07, COLOURS[name]) for name in COLOURS]
            for (x, y), half, colour in (*things, (hand[:2], 0.02 + 0.02 * hand[3], HAND)):
                inside = (np.abs(top + side * grid - y) < half)[:, None] & (
                    np.abs(left + side * grid - x) < half
                )
                picture[:, inside] = np.array(colour)[:, None]
            rng = np.random.default_rng((self.config.seed, episode, int(frame)))
            video[i] = (picture + rng.normal(0, 2, picture.shape)).round().clip(0, 255)
        return torch.from_numpy(video)
