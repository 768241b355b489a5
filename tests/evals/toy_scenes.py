"""A point that must reach a goal, without a simulator: suites that break in ways a test decides."""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from saccade.errors import DataError
from saccade.evals.protocols import Protocol
from saccade.evals.rollouts import Player, PlayerConfig
from saccade.scenes import Scene, Suite, Task

NEAR = 0.05
PROTOCOL = Protocol(name="toy", source="here", trials=4, horizons=(("toy", 30),), settle=2)


class ToyScene(Scene):
    """A point in the plane; the goal depends on the initial state, drafts on the seed."""

    fps = 10.0
    cameras = ("top",)
    action_names = ("x", "y", "gripper")

    def __init__(self, task: Task, suite: "ToySuite") -> None:
        self.task, self.suite, self.drawn = task, suite, 0

    def reset(self, initial_state: int, seed: int) -> None:
        self._break("reset", initial_state)
        rng = np.random.default_rng([initial_state, seed, len(self.task.name)])
        self.place, self.goal = np.zeros(2), rng.uniform(-0.6, 0.6, 2)
        self.wind, self.initial_state = rng.normal(0, 0.005, 2), initial_state
        self.success = False

    def state(self) -> Mapping[str, float]:
        x, y = self.place
        return {"x": x, "y": y, "gripper": 1.0}

    def render(self, camera: str, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
        self.drawn += 1
        image = np.zeros((height, width, 3), np.uint8)
        for channel, place in ((0, self.place), (1, self.goal)):
            row, column = ((place + 1) / 2 * (height - 1, width - 1)).clip(0).astype(int)
            image[min(row, height - 1), min(column, width - 1), channel] = 255
        return image

    def step(self, action: Float32[np.ndarray, " a"]) -> None:
        self._break("step", self.initial_state)
        self.place = (self.place + 0.1 * action[:2].clip(-1, 1) + self.wind).clip(-1, 1)
        self.success = bool(np.linalg.norm(self.place - self.goal) < NEAR)

    def close(self) -> None:
        pass

    def _break(self, where: str, initial_state: int) -> None:
        """Do what the suite says breaks here; with a file, only the first time."""
        kind = self.suite.broken.get((where, initial_state))
        if kind is None:
            return
        if self.suite.once is not None:
            mark = self.suite.once / f"{where}-{initial_state}"
            if mark.exists():
                return
            mark.touch()
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "hang":
            time.sleep(1000)
        raise DataError(f"{where} {kind}")


@dataclass
class ToySuite(Suite):
    """Tasks of a point; ``broken`` maps (reset or step, initial state) to kill, hang or a text."""

    broken: Mapping[tuple[str, int], str]
    once: Path | None = None

    name = "toy"
    tasks = tuple(
        Task(suite="toy", name=name, instruction=f"go to the {name} goal", initial_states=20)
        for name in ("near", "other")
    )
    remark = "points are no robots"

    def open(self, task: Task) -> ToyScene:
        if ("open", 0) in self.broken:
            raise DataError("a mesh is missing")
        return ToyScene(task, self)

    def versions(self) -> dict[str, str]:
        return {"toy": "1"}


@dataclass(frozen=True, kw_only=True)
class SeekerConfig(PlayerConfig):
    """Goes to the goal; with ``blind`` only where the number of the initial state is not of it."""

    blind: tuple[int, ...] = ()
    noise: float = 0.1
    pause: float = 0.0

    def build(self) -> "Seeker":
        return Seeker(self)


class Seeker(Player):
    """A policy that sees the goal, with noise that the seed decides."""

    def __init__(self, config: SeekerConfig) -> None:
        self.config = config

    def begin(self, scene: Scene, seed: Sequence[int]) -> None:
        self.rng = np.random.default_rng(seed)

    def act(self, scene: Scene) -> Float32[np.ndarray, " a"]:
        assert isinstance(scene, ToyScene)
        time.sleep(self.config.pause)
        self.latencies.append(0.001)
        way = 10 * (scene.goal - scene.place - scene.wind)
        way = way / max(1.0, np.abs(way).max())
        if scene.initial_state in self.config.blind:
            way = -way
        noise = self.rng.normal(0, self.config.noise, 2)
        return np.append(way + noise, 1).astype(np.float32)
