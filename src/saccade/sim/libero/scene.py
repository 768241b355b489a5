"""One task of LIBERO, for as many episodes as wanted.

Two things of LIBERO's own environment make an episode depend on those before it, and are mended
here: a hard reset loads everything again and each time draws one more random number for a door
that begins open or shut, which moves what is placed after it; and a soft reset leaves the gripper
half way to where the last episode sent it. A reset here gives what a new environment gives that is
seeded and reset once (bit for bit, a test compares them), and takes a hundredth of the time.

What is measured and drawn is what LIBERO observes, bit for bit: up to 4 ms before the end of a
control step.
"""

import gc
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from saccade.data.libero.reader import FINGERS, JOINTS, POSE, opening
from saccade.errors import ConfigError, DataError, SaccadeError
from saccade.scenes import Scene, Task
from saccade.sim.libero import package
from saccade.sim.libero.initial_states import load_initial_states

CAMERAS = {"agentview": "agentview", "wrist": "robot0_eye_in_hand"}  # ours, and robosuite's
LOWEST = np.array([-1, -1, -1, -1, -1, -1, 0], np.float32)
ATTEMPTS = 10  # at placing objects so that they do not touch
SEEDS = 2**32
FAULTS = (
    AssertionError, AttributeError, IndexError, KeyError, NameError, OSError, RuntimeError,
    SyntaxError, TypeError, ValueError,
)  # fmt: skip


class LiberoScene(Scene):
    """A Panda arm at its task, drawn only when asked.

    State: the hand's position and rotation vector in the world, how open the gripper is, where its
    two fingers are (metres), and seven joint angles. Action: six displacements of the hand in
    [-1, 1] (1 is 0.05 m, 0.5 rad) and the gripper, 1 open and 0 closed.

    ``env`` is LIBERO's environment, for scripted experts, and ``bddl`` the file of the task.
    """

    cameras = tuple(CAMERAS)
    action_names = (*POSE, "gripper")

    def __init__(self, task: Task, assets: Path) -> None:
        self.task, self.success = task, False
        self.bddl = package.bddl_path(task.suite, task.name)
        self._states = load_initial_states(package.initial_states_path(task.suite, task.name))
        with _faults(task, f"cannot be loaded with the assets {assets}"), _own_numbers(0):
            self.env = package.control_environment(self.bddl, assets)
            self._observed = SimpleNamespace(_data=package.observed(self.env))
        world = self.env.env
        world.hard_reset = False  # should an expert call the environment's own reset
        world.object_property_initializers *= 2  # as the first hard reset does
        self.fps = float(world.control_freq)
        have, need = self._states.shape[1], len(self.sim_state())
        if have != need:
            raise DataError(
                f"{task.name} has initial states of {have} numbers, its scene has {need}; "
                "install hf-libero again"
            )
        self.reset(0, 0)

    def reset(self, initial_state: int, seed: int) -> None:
        """Begin an episode; the seed places what is fixed, the initial state everything else."""
        if not 0 <= initial_state < len(self._states):
            raise ConfigError(
                f"{self.task.name} has no initial state {initial_state}; it has 0 to "
                f"{len(self._states) - 1}"
            )
        if not 0 <= seed < SEEDS:
            raise ConfigError(f"seed is {seed}, expected 0 to {SEEDS - 1}")
        with _faults(self.task, "cannot be reset"), _own_numbers(seed):
            self._place()
            self._observation = self.env.set_init_state(self._states[initial_state])
        self.success = bool(self.env.check_success())

    def state(self) -> Mapping[str, float]:
        """Return what LIBERO's files hold of the robot, by the names of their reader."""
        seen = self._observation
        turn = package.rotation_vector(seen["robot0_eef_quat"])
        fingers = np.asarray(seen["robot0_gripper_qpos"], np.float32)
        values = np.concatenate(
            [
                *(seen["robot0_eef_pos"], turn, opening(fingers[None])[0], fingers),
                seen["robot0_joint_pos"],
            ]
        ).astype(np.float32)
        names = (*POSE, "gripper", *FINGERS, *JOINTS)
        return dict(zip(names, values.tolist(), strict=True))

    def render(self, camera: str, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
        """Draw what ``agentview`` or ``wrist`` sees, upright."""
        if camera not in CAMERAS:
            raise ConfigError(f"LIBERO has no camera {camera!r}; it has {', '.join(CAMERAS)}")
        with _faults(self.task, f"cannot be drawn at {height} x {width}"):
            context = self.env.sim._render_context_offscreen
            context.gl_ctx.make_current()  # robosuite leaves the last scene's
            context.data = self._observed
            drawn = self.env.sim.render(camera_name=CAMERAS[camera], height=height, width=width)
        if drawn.min() == drawn.max():
            raise DataError(
                f"camera {camera} of {self.task.name} gave a blank picture with "
                f"MUJOCO_GL={package.versions()['gl']}; run: saccade doctor"
            )
        return drawn[::-1].copy()

    def step(self, action: Float32[np.ndarray, " a"]) -> None:
        """Execute an action for a twentieth of a second."""
        if action.shape != (7,) or not np.isfinite(action).all():
            raise DataError(
                f"the action is {action.tolist()}, expected 7 finite numbers: "
                f"{', '.join(self.action_names)}"
            )
        executed = np.clip(action, LOWEST, 1).astype(np.float64)
        executed[6] = 1 - 2 * executed[6]  # robosuite: -1 opens, 1 closes
        with _faults(self.task, "cannot go on"):
            self._observation, _, done, _ = self.env.step(executed)
        self.success = bool(done)

    def sim_state(self) -> Float64[np.ndarray, " n"]:
        """Return the simulator's time, positions and velocities, as LIBERO's files hold them."""
        return self.env.get_sim_state()

    def model_xml(self) -> str:
        """Return the MuJoCo model of this episode, with what is fixed where it stands."""
        model = self.env.sim.model
        tree = ElementTree.fromstring(self.env.env.model.get_xml())
        for body in tree.iter("body"):
            index = model.body_name2id(body.attrib["name"])
            for key in ("axisangle", "euler", "xyaxes", "zaxis"):
                body.attrib.pop(key, None)
            body.set("pos", " ".join(map(repr, model.body_pos[index].tolist())))
            body.set("quat", " ".join(map(repr, model.body_quat[index].tolist())))
        return ElementTree.tostring(tree, encoding="unicode")

    def close(self) -> None:
        """Free the graphics memory."""
        if hasattr(self.env, "env"):
            context = self.env.sim._render_context_offscreen
            context.gl_ctx.make_current()  # else what another scene holds is freed
            del context
            self.env.close()
            gc.collect()

    def _begin(self) -> None:
        """Do what robosuite's hard reset does, without loading the model again."""
        world = self.env.env
        world.sim.reset()
        world.sim.forward()  # twice, as loading does: contact forces start from the last ones
        world.sim.forward()
        for robot in world.robots:
            robot.gripper.current_action = np.zeros(robot.gripper.dof)
        world._reset_internal()
        world.sim.forward()
        world._obs_cache = {}
        world.visualize(dict.fromkeys(world._visualizations, False))
        world._get_observations(force_update=True)

    def _place(self) -> None:
        """Begin, again while objects find no place of their own, which LIBERO would do for ever."""
        for _ in range(ATTEMPTS - 1):
            with suppress(package.placement_error()):
                return self._begin()
        return self._begin()


@contextmanager
def _faults(task: Task, what: str) -> Iterator[None]:
    """Turn errors of the simulator into ours."""
    try:
        yield
    except SaccadeError:
        raise
    except (*FAULTS, *package.simulator_errors()) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{task.name} of {task.suite} {what}: {message:.200}") from error


@contextmanager
def _own_numbers(seed: int) -> Iterator[None]:
    """Seed the global random numbers that robosuite draws, and give them back as they were."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
