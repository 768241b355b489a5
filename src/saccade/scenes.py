"""What a simulator provides: suites of tasks, and scenes in which a task is tried.

Evaluation and collection know these two interfaces and no simulator. A scene is opened in the
process that uses it: OpenGL contexts do not survive a fork, and one process draws one scene.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task of a suite.

    Args:
        suite: name of the suite.
        name: as the benchmark calls it; unique in the suite.
        instruction: what a policy is told.
        initial_states: how many fixed ones there are; 0: any number is one, drawn by the seed.
    """

    suite: str
    name: str
    instruction: str
    initial_states: int = 0


class Scene(ABC):
    """One task in a simulator. Close it (or use ``with``) to free the graphics memory.

    Numbers are SI; a gripper is 1 open, 0 closed, in states and in actions.
    """

    task: Task
    fps: float  # actions per second
    cameras: tuple[str, ...]
    action_names: tuple[str, ...]
    success: bool  # whether the goal is reached at this moment

    @abstractmethod
    def reset(self, initial_state: int, seed: int) -> None:
        """Begin an episode: what follows depends on the task, these two and the actions only.

        Raises:
            ConfigError: there is no such initial state.
            DataError: the simulator does not come back, or cannot load a file.
        """

    @abstractmethod
    def state(self) -> Mapping[str, float]:
        """Return everything measured of the robot, by name, as readers name it."""

    @abstractmethod
    def render(self, camera: str, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
        """Draw what a camera sees, upright.

        Raises:
            ConfigError: no such camera, or OpenGL does not work here.
            DataError: the picture is blank.
        """

    @abstractmethod
    def step(self, action: Float32[np.ndarray, " a"]) -> None:
        """Execute one action, clipped to what the controller takes."""

    @abstractmethod
    def close(self) -> None:
        """Free what the scene holds."""

    def __enter__(self) -> "Scene":
        """Return the scene, to be closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


class Suite(ABC):
    """Tasks that belong together. Picklable: a worker process gets a copy and opens scenes."""

    name: str
    tasks: tuple[Task, ...]
    remark: str = ""  # what stands beside every number from it, such as pictures of substitutes

    @abstractmethod
    def open(self, task: Task) -> Scene:
        """Load a task, in seconds; then ``reset`` begins episodes of it.

        Raises:
            ConfigError: the task is not of this suite.
            DataError: a file is missing or damaged.
        """

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Return the versions of packages that pictures and physics depend on."""
