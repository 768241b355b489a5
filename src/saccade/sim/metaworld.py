"""Meta-World: fifty table-top tasks of a Sawyer arm, with scripted experts (arXiv 1910.10897).

State ``[x, y, z, gripper]``: the hand in the world frame in metres, and how open the gripper is
(1 open, 0 closed). Action ``[x, y, z, gripper]``: a step of the commanded hand position in units
of 0.01 m, and the commanded gripper (1 open, 0 closed).

On a processor the shadow map and multisampling cost ten times as much as the picture itself.
They are off; edges are smoothed by drawing at twice the size. The scene hangs its corner cameras
upside down; every picture that leaves this module is upright.
"""

import difflib
import os
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from saccade.data.truth import SceneTruth
from saccade.errors import ConfigError, DataError
from saccade.sim import graphics

graphics.choose()
try:
    import mujoco
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE as _ENVIRONMENTS
    from metaworld.policies import ENV_POLICY_MAP as _EXPERTS

    from saccade.sim.truth import Surveyor
except ModuleNotFoundError as error:
    raise ConfigError(f"{error}, which simulation needs; pip install 'saccade[sim]'") from error
except (AttributeError, ImportError, RuntimeError) as error:  # how PyOpenGL says: no library
    raise ConfigError(
        f"MUJOCO_GL={os.environ['MUJOCO_GL']} does not load ({error}); it must be osmesa or "
        f"egl, and their libraries come with: {graphics.LIBRARIES}"
    ) from error

_BROKEN = (AttributeError, ImportError, RuntimeError, mujoco.FatalError)  # pyright: ignore[reportAttributeAccessIssue]
_FLAGS = mujoco.mjtRndFlag  # pyright: ignore[reportAttributeAccessIssue]
TASKS = tuple(sorted(_EXPERTS))
AXES = ("x", "y", "z", "gripper")  # of state and action alike
STEP = 0.01  # metres that an action of 1 moves the hand by, in one control step
LEG = (20, 61)  # control steps, a quarter to three quarters of a second, towards one place
MAX_STEPS = 500  # Meta-World refuses to go on after these
_CORNER2 = (0.75, 0.075, 0.7)  # metres; nearer than the scene's own, the place LeRobot uses


def find_tasks(names: Sequence[str]) -> tuple[str, ...]:
    """Complete task names (``-v3`` may be left out; ``all`` means all fifty), in their order.

    Raises:
        ConfigError: no such task.
    """
    if "all" in names:
        return TASKS
    complete = [name if name.endswith("-v3") else f"{name}-v3" for name in names]
    for name in complete:
        if name not in TASKS:
            near = difflib.get_close_matches(name, TASKS) or TASKS
            raise ConfigError(f"Meta-World has no task {name!r}; it has {', '.join(near)}")
    return tuple(dict.fromkeys(complete))


def instruction(task: str) -> str:
    """Put a task in words: ``drawer-open-v3`` becomes ``drawer open``."""
    return task.removesuffix("-v3").replace("-", " ")


class MetaWorld:
    """One task, one goal per episode. Close it (or use ``with``) to free the graphics memory.

    ``supersample`` is how many times larger, per side, pictures are drawn before averaging.
    """

    def __init__(self, task: str, size: int = 128, supersample: int = 2) -> None:
        (self.task,) = find_tasks([task])
        create = _ENVIRONMENTS[f"{self.task}-goal-observable"]
        self._env = create(seed=0)  # pyright: ignore[reportCallIssue]
        self._env._freeze_rand_vec = False  # reset draws the goal
        self._env.seeded_rand_vec = True  # from the environment's own generator
        self._model, self._data = self._env.model, self._env.data
        cameras = [self._model.camera(i).name for i in range(self._model.ncam)]
        self.cameras = tuple(cameras)
        self._model.cam_pos[cameras.index("corner2")] = _CORNER2
        self.fps = 1 / self._env.dt
        self.size, self._supersample = size, supersample
        self._renderer: mujoco.Renderer | None = None
        self._surveyor: Surveyor | None = None
        self.reset((0,))

    def __enter__(self) -> "MetaWorld":
        """Return the simulator, to be closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Free the graphics memory."""
        self.close()

    def reset(self, seed: Sequence[int]) -> None:
        """Begin an episode whose layout and goal depend on the task and ``seed`` only."""
        self._env.seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        self._observation, _ = self._env.reset()
        self._expert = _EXPERTS[self.task]()
        self.success = False

    def expert(self) -> Float32[np.ndarray, "4"]:
        """Return the action of the scripted expert, not yet clipped."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says at each step that its action will be clipped
            action = np.asarray(self._expert.get_action(self._observation), np.float32)
        return np.append(action[:3], (1 - action[3:]) / 2)

    def workspace(self) -> tuple[Float64[np.ndarray, "3"], Float64[np.ndarray, "3"]]:
        """Return the corners of the box that the hand can be led through, in metres."""
        return self._env.mocap_low.copy(), self._env.mocap_high.copy()

    def step(self, action: Float32[np.ndarray, "4"]) -> Float32[np.ndarray, "4"]:
        """Clip and execute an action; return it as executed. ``success`` tells of this moment."""
        executed = np.clip(action, (-1, -1, -1, 0), 1).astype(np.float32)
        effort = 1 - 2 * executed[3:]  # Meta-World: 1 closes, -1 opens
        self._observation, _, _, _, info = self._env.step(np.append(executed[:3], effort))
        self.success = bool(info["success"])
        return executed

    def observe(self) -> Float32[np.ndarray, "4"]:
        """Return the state."""
        return self._observation[:4].astype(np.float32)

    def render(self, camera: str) -> UInt8[np.ndarray, "h w 3"]:
        """Draw the scene, upright.

        Raises:
            ConfigError: no such camera, or OpenGL does not work here.
            DataError: the picture is blank, which broken drivers give without an error.
        """
        turned = self._upside_down(camera)
        renderer = self._renderer = self._renderer or self._open_renderer()
        renderer.update_scene(self._data, camera)
        drawn = renderer.render()
        if drawn.min() == drawn.max():
            raise DataError(
                f"camera {camera} of {self.task} gave a blank picture with "
                f"MUJOCO_GL={os.environ['MUJOCO_GL']}; run: saccade doctor"
            )
        image = _shrink(drawn, self._supersample)
        return image[::-1, ::-1] if turned else image

    def truth(self, camera: str, size: int) -> SceneTruth:
        """Return what the picture shows: depth and bodies, as one upright frame of ``size``.

        Raises:
            ConfigError: no such camera, or OpenGL does not work here.
            DataError: nothing is seen, which broken drivers give without an error.
        """
        turned = self._upside_down(camera)
        if self._surveyor is None or self._surveyor.size != size:
            self._close_surveyor()
            try:
                self._surveyor = Surveyor(self._model, size)
            except _BROKEN as error:
                raise _cannot_draw(error) from error
        return self._surveyor(self._data, camera, turned)

    def world_to_camera(self, camera: str) -> Float64[np.ndarray, "3 3"]:
        """Return the rotation into camera axes: x right, y down, z forward in the picture."""
        turn = -1 if self._upside_down(camera) else 1
        return self._axes(camera) * np.array([turn, -turn, -1])[:, None]

    def close(self) -> None:
        """Free the graphics memory."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        self._close_surveyor()

    def _close_surveyor(self) -> None:
        if self._surveyor is not None:
            self._surveyor.close()
            self._surveyor = None

    def _axes(self, camera: str) -> Float64[np.ndarray, "3 3"]:
        """Return the camera's right, up and backward in the world, as drawn."""
        if camera not in self.cameras:
            raise ConfigError(f"Meta-World has no camera {camera!r}; it has {list(self.cameras)}")
        return self._data.camera(camera).xmat.reshape(3, 3).T

    def _upside_down(self, camera: str) -> bool:
        return bool(self._axes(camera)[1, 2] < -1e-6)

    def _open_renderer(self) -> mujoco.Renderer:
        side = self.size * self._supersample
        visual = self._model.vis
        visual.quality.offsamples = 0
        visual.global_.offwidth = visual.global_.offheight = side
        try:
            renderer = mujoco.Renderer(self._model, side, side)
        except _BROKEN as error:
            raise _cannot_draw(error) from error
        for flag in (_FLAGS.mjRND_SHADOW, _FLAGS.mjRND_REFLECTION):
            renderer.scene.flags[flag] = 0
        return renderer


class Wanderer:
    """Leads the hand from one random place to the next, whatever the task.

    An expert's action is a function of what it sees, so its demonstrations do not tell what any
    other action would have done. These do: a world model can learn from them what actions do.

    Args:
        simulator: what is led.
        rng: draws places in the workspace, speeds, and whether the gripper opens or closes.
    """

    def __init__(self, simulator: MetaWorld, rng: np.random.Generator) -> None:
        self.simulator, self.rng, self.left = simulator, rng, 0

    def __call__(self) -> Float32[np.ndarray, "4"]:
        """Return the next action."""
        if not self.left:
            self.left = int(self.rng.integers(*LEG))
            self.place = self.rng.uniform(*self.simulator.workspace())
            self.speed, self.grip = self.rng.uniform(0.2, 1), self.rng.integers(2)
        self.left -= 1
        way = (self.place - self.simulator.observe()[:3]) / STEP
        way *= self.speed / max(self.speed, np.abs(way).max())
        return np.append(way, self.grip).astype(np.float32)


def _cannot_draw(error: Exception) -> ConfigError:
    return ConfigError(
        f"MUJOCO_GL={os.environ['MUJOCO_GL']} cannot draw ({error}); set it to osmesa or egl "
        f"before anything imports mujoco; their libraries come with: {graphics.LIBRARIES}"
    )


def _shrink(image: UInt8[np.ndarray, "H W 3"], factor: int) -> UInt8[np.ndarray, "h w 3"]:
    """Average squares of ``factor`` by ``factor`` pixels, rounded."""
    parts = [image[i::factor, j::factor] for i in range(factor) for j in range(factor)]
    total = np.stack(parts).sum(0, dtype=np.uint16)
    return ((total + factor**2 // 2) // factor**2).astype(np.uint8)
