"""Meta-World behind the interface of every simulator: see ``scenes.py`` and ``metaworld.py``."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version

import numpy as np
from jaxtyping import Float32, UInt8

from saccade.errors import ConfigError, DataError
from saccade.scenes import Scene, Suite, Task
from saccade.sim import graphics, metaworld
from saccade.sim.metaworld import AXES, MAX_STEPS, MetaWorld


class MetaWorldSuite(Suite):
    """Tasks of Meta-World. Layouts and goals are drawn by the seed and the initial state.

    Args:
        tasks: their names, with or without -v3; "all" means all fifty.

    Raises:
        ConfigError: no such task.
    """

    name = "metaworld"

    def __init__(self, tasks: Sequence[str] = ("all",)) -> None:
        self.tasks = tuple(
            Task(suite=self.name, name=name, instruction=metaworld.instruction(name))
            for name in metaworld.find_tasks(tasks)
        )

    def open(self, task: Task) -> "MetaWorldScene":
        """Load a task, in about a second."""
        if task not in self.tasks:
            names = ", ".join(known.name for known in self.tasks[:5])
            raise ConfigError(f"{task.name!r} is no task of this suite; it has {names} ...")
        return MetaWorldScene(task)

    def versions(self) -> dict[str, str]:
        """Return the versions of mujoco and metaworld, and the OpenGL that draws."""
        found = {name: version(name) for name in ("mujoco", "metaworld")}
        return found | {"gl": graphics.choose()}


class MetaWorldScene(Scene):
    """A Sawyer arm at its task. An episode ends after 500 steps, as Meta-World has it.

    ``simulator`` is what is beneath, for the scripted expert.
    """

    action_names = AXES

    def __init__(self, task: Task) -> None:
        self.task, self.simulator = task, MetaWorld(task.name)
        self.fps, self.cameras = self.simulator.fps, self.simulator.cameras
        self.reset(0, 0)

    def reset(self, initial_state: int, seed: int) -> None:
        """Begin an episode; each initial state and each seed gives another layout and goal."""
        for name, value in (("initial state", initial_state), ("seed", seed)):
            if value < 0:
                raise ConfigError(f"the {name} is {value}, expected 0 or more")
        self.simulator.reset((seed, initial_state))
        self.success, self._steps = False, 0

    def state(self) -> Mapping[str, float]:
        """Return the hand's position in metres, and how open the gripper is."""
        return dict(zip(AXES, self.simulator.observe().tolist(), strict=True))

    def render(self, camera: str, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
        """Draw what a camera sees, upright; pictures are squares, of any size."""
        if height != width:
            raise ConfigError(f"Meta-World draws squares, not {height} x {width}; crop one instead")
        if self.simulator.size != height:
            self.simulator.close()
            self.simulator.size = height
        return self.simulator.render(camera)

    def step(self, action: Float32[np.ndarray, " a"]) -> None:
        """Execute an action for one control step, an eightieth of a second."""
        if action.shape != (4,) or not np.isfinite(action).all():
            raise DataError(
                f"the action is {action.tolist()}, expected 4 finite numbers: {', '.join(AXES)}"
            )
        if self._steps == MAX_STEPS:
            raise DataError(
                f"{self.task.name} was given more than {MAX_STEPS} steps, after which Meta-World "
                "refuses to go on; give a smaller limit"
            )
        self._steps += 1
        self.simulator.step(action)
        self.success = self.simulator.success

    def close(self) -> None:
        """Free the graphics memory."""
        self.simulator.close()
