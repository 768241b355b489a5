"""The toy of ``data/synthetic_reach`` as scenes, to act in for policies that learned from it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from saccade.data.synthetic_reach import NEAR, REACH, Reach, ReachConfig
from saccade.evals.protocols import Protocol
from saccade.scenes import Scene, Suite, Task

PROTOCOL = Protocol(name="reach", source="here", trials=2, horizons=(("reach", 5),), settle=0)


class ReachScene(Scene):
    """A hand and two squares; success is a closed gripper on the square of the instruction."""

    fps = 20.0
    cameras = ("agentview", "wrist")
    action_names = Reach.action_names

    def __init__(self, task: Task) -> None:
        self.task = task

    def reset(self, initial_state: int, seed: int) -> None:
        self.world = ReachConfig(episodes=20).build()  # the layouts that were learned from
        self.episode = 2 * initial_state + int("blue" in self.task.instruction)
        self.success = False

    def state(self) -> Mapping[str, float]:
        values = self.world.state[self.episode, 0].tolist()
        return dict(zip(self.world.state_names, values, strict=True))

    def render(self, camera: str, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
        assert height == width == self.world.config.image_size
        frame = self.world.pixels(self.episode, camera, np.zeros(1, np.int64))[0]
        return np.ascontiguousarray(frame.permute(1, 2, 0).numpy())

    def step(self, action: Float32[np.ndarray, " a"]) -> None:
        hand = self.world.state[self.episode, 0]
        hand[:2] = (hand[:2] + REACH * action[:2].clip(-1, 1)).clip(0, 1)
        hand[3] = float(action[6] > 0.5)
        colour = self.task.name
        near = np.abs(self.world.squares[colour][self.episode] - hand[:2]).max() < NEAR
        self.success = bool(near and not hand[3])

    def close(self) -> None:
        pass


@dataclass
class ReachSuite(Suite):
    """Both colours."""

    name = "reach"
    tasks = tuple(
        Task(suite="reach", name=colour, instruction=f"go to the {colour} square")
        for colour in ("red", "blue")
    )

    def open(self, task: Task) -> ReachScene:
        return ReachScene(task)

    def versions(self) -> dict[str, str]:
        return {"reach": "1"}
