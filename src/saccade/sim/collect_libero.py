"""Collect demonstrations of LIBERO's scripted expert, as official HDF5 files or LeRobot v3.

Everything random is a function of ``(seed, task, number of the episode, attempt)``, so the same
settings give the same states and actions for any number of workers, and across a kill. Which of
LIBERO's fixed initial states are used is a setting, kept with the data: a policy is judged on
others. An attempt that fails is repeated from the same initial state with other noise.
"""

import json
import re
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from saccade.data.lerobot.writer import LeRobotWriter
from saccade.data.libero import writer as hdf5
from saccade.data.libero.files import CAMERAS, FPS
from saccade.data.libero.reader import FINGERS, JOINTS, POSE
from saccade.data.libero.writer import Demonstration, LiberoWriter
from saccade.errors import ConfigError, DataError
from saccade.scenes import Task
from saccade.sim.crew import (
    ATTEMPTS,
    Progress,
    Record,
    Slot,
    Summary,
    fill,
    lock,
    settings_of,
    slots_of,
)
from saccade.sim.libero import package
from saccade.sim.libero.experts.expert import Expert, has_skill
from saccade.sim.libero.scene import LiberoScene
from saccade.sim.libero.suite import LiberoSuite, tasks_of

SuiteName = Literal["libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90"]

SETTLE = 10  # steps before the first frame, in which things fall to rest; evaluations take as many
IDLE = np.array([0, 0, 0, 0, 0, 0, 1], np.float32)
LIMITS: dict[SuiteName, int] = {
    "libero_spatial": 280, "libero_object": 280, "libero_goal": 300, "libero_10": 520,
    "libero_90": 400,
}  # fmt: skip
STATE = (*POSE, *FINGERS)  # what LeRobot's own data sets of LIBERO have


@dataclass(frozen=True, kw_only=True)
class LiberoCollectConfig:
    """Which demonstrations to collect, and how.

    Args:
        out: folder of the data; the suite's files come into a folder of its name.
        suite: libero_object, libero_spatial, libero_goal, libero_10 or libero_90.
        tasks: numbers in the benchmark's order, or names; all where none is given.
        episodes: successful episodes of each task.
        initial_states: which of the 50 fixed ones, FIRST:END with END left out; in turn. Judge a
            policy on others.
        format: ``hdf5`` as LIBERO's own files, or ``lerobot`` v3 with video.
        size: height and width of the pictures, in pixels.
        action_noise: standard deviation added to the expert's x, y and z (1 is 0.05 m).
        after_success: steps still recorded once the task is solved. LIBERO's own demonstrations,
            and its evaluations, end there: 0. More shows how the hand lets go.
        max_steps: steps after which an attempt has failed; the benchmark's limit where none.
        workers: processes that simulate.
        seed: decides the noise, and poses of fixtures.
        assets: LIBERO's assets, a folder or archive, where they are not installed.
    """

    out: Path
    suite: SuiteName = "libero_object"
    tasks: tuple[str, ...] = ()
    episodes: int = 10
    initial_states: str = "10:50"
    format: Literal["hdf5", "lerobot"] = "hdf5"
    size: int = 128
    action_noise: float = 0.1
    after_success: int = 0
    max_steps: int | None = None
    workers: int = 1
    seed: int = 0
    assets: Path | None = None

    @property
    def folder(self) -> Path:
        """Where the suite's data come."""
        return self.out / self.suite

    @property
    def limit(self) -> int:
        """Steps after which an attempt has failed."""
        return LIMITS[self.suite] if self.max_steps is None else self.max_steps


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One attempt; row t was seen before ``actions[t]``, whose gripper is 1 open, 0 closed."""

    pictures: dict[str, UInt8[np.ndarray, "t h w 3"]]
    numbers: dict[str, Float64[np.ndarray, " t"]]  # of the robot, by name
    states: Float64[np.ndarray, "t n"]
    actions: Float32[np.ndarray, "t 7"]
    success: bool

    def columns(self, names: Sequence[str]) -> Float64[np.ndarray, "t n"]:
        """Return some of the numbers side by side."""
        return np.stack([self.numbers[name] for name in names], 1)


def collect_libero(
    config: LiberoCollectConfig, progress: Callable[[Progress], None] | None = None
) -> Summary:
    """Collect into ``config.folder``, or go on with a collection that was stopped.

    Workers are spawned: a script that calls this needs ``if __name__ == "__main__":``.

    Raises:
        ConfigError: a setting is out of range, or the folder holds something else.
        BusyError: another process collects into this folder.
        DataError: an episode cannot be recorded, or no episode succeeded.
    """
    config = checked(config, tasks_of(config.suite))
    suite = LiberoSuite(config.suite, config.assets)
    start, folder, told = time.monotonic(), config.folder, progress or (lambda _: None)
    slots = slots_of(config.tasks, config.episodes)
    with lock(folder):
        foreign = (folder / "meta").exists() or any(folder.glob("*.hdf5"))
        log = Record.open(folder, settings_of(config, ("out", "workers", "assets")), foreign)
        if _finished(config):
            hdf5.tidy(folder)
        else:
            log.go_on_with(suite.versions() | {"remark": suite.remark})
            recorder = Recorder(config, suite)
            fill(recorder, slots, recorder.writer.staged(), log, config.workers, told)
            if len(log.given_up) == len(slots):
                raise DataError(
                    f"the expert never succeeded within {config.limit} steps in {len(slots)} "
                    "episodes; lower action_noise, or choose other tasks"
                )
            recorder.writer.finish()
        episodes, frames = _count(config)
    names = tuple(str(slots[index]) for index in log.given_up)
    return Summary(episodes, frames, names, time.monotonic() - start)


def record(
    scene: LiberoScene, config: LiberoCollectConfig, initial_state: int, key: Sequence[int]
) -> Trial:
    """Let the expert try once; the trial depends on the arguments only."""
    scene.reset(initial_state, config.seed)
    for _ in range(SETTLE):
        scene.step(IDLE)
    expert = Expert(scene.env, np.random.default_rng(key), config.action_noise)
    pictures: dict[str, list[np.ndarray]] = {camera: [] for camera in CAMERAS}
    numbers: dict[str, list[float]] = {name: [] for name in (*POSE, *FINGERS, *JOINTS)}
    states, actions = [], []
    solved = 0  # steps since success, that one among them
    for action in expert:
        seen = scene.state()
        for name, column in numbers.items():
            column.append(seen[name])
        for camera, frames in pictures.items():
            frames.append(scene.render(camera, config.size, config.size))
        states.append(scene.sim_state())
        actions.append(action)
        scene.step(action)
        solved += solved > 0 or scene.success
        if solved > config.after_success or len(actions) == config.limit:
            break
    return Trial(
        pictures={camera: np.stack(frames) for camera, frames in pictures.items()},
        numbers={name: np.array(column, float) for name, column in numbers.items()},
        states=np.stack(states),
        actions=np.stack(actions),
        success=solved > 0,
    )


class Recorder:
    """Tries slots in LIBERO, and stages them."""

    def __init__(self, config: LiberoCollectConfig, suite: LiberoSuite) -> None:
        self.config, self.suite = config, suite
        self.writer = (
            LiberoWriter(config.folder) if config.format == "hdf5" else _lerobot(config, suite)
        )
        self._tasks = {task.name: task for task in suite.tasks}
        self._scene: LiberoScene | None = None  # opened in the process that uses it

    def store(self, slot: Slot) -> int:
        """Record and stage one slot; return its number of frames, 0 when no attempt succeeded."""
        config, task = self.config, self._tasks[slot.task]
        first, end = _span(config.initial_states)
        initial_state = first + slot.number % (end - first)
        for attempt in range(ATTEMPTS):
            key = (config.seed, zlib.crc32(slot.task.encode()), slot.number, attempt)
            scene = self._open(task)
            trial = record(scene, config, initial_state, key)
            if trial.success:
                about = {"initial_state": initial_state, "attempt": attempt}
                self._stage(slot, scene, trial, about)
                return len(trial.actions)
        return 0

    def _stage(self, slot: Slot, scene: LiberoScene, trial: Trial, about: dict[str, int]) -> None:
        if isinstance(self.writer, LeRobotWriter):
            self.writer.write_episode(
                slot.index,
                video=trial.pictures,
                state=trial.columns(STATE).astype(np.float32),
                action=trial.actions,
                task=scene.task.instruction,
                success=True,
                about={"source": f"{slot.task}, initial state {about['initial_state']}"},
            )
            return
        demo = Demonstration(
            pictures=trial.pictures,
            hand=trial.columns(POSE),
            joints=trial.columns(JOINTS),
            fingers=trial.columns(FINGERS),
            states=trial.states,
            actions=to_libero(trial.actions),
            model=scene.model_xml(),
            about=about,
        )
        attributes = file_attributes(scene, self.config, self.suite)
        self.writer.write_episode(slot.index, slot.task, attributes, demo)

    def _open(self, task: Task) -> LiberoScene:
        if self._scene is None or self._scene.task != task:
            if self._scene is not None:
                self._scene.close()
            self._scene = self.suite.open(task)
        return self._scene


def to_libero(actions: Float32[np.ndarray, "t 7"]) -> Float64[np.ndarray, "t 7"]:
    """Turn the gripper of actions into LIBERO's sense: -1 opens, 1 closes."""
    turned = actions.astype(np.float64)
    turned[:, 6] = 1 - 2 * turned[:, 6]
    return turned


def file_attributes(
    scene: LiberoScene, config: LiberoCollectConfig, suite: LiberoSuite
) -> dict[str, Any]:
    """Return what LIBERO's files say of their task, and how these were made."""
    env, task = scene.env, scene.task.name
    name = type(env.env).__name__  # as official files have it
    problem = {"problem_name": env.problem_name, "domain_name": env.domain_name}
    bddl = f"libero/libero/bddl_files/{config.suite}/{task}.bddl"
    controller = env.robots[0].controller_config
    settings = {
        "robots": ["Panda"],
        "controller_configs": {
            k: controller[k] for k in ("type", "output_max", "output_min", "kp")
        },
        "control_freq": FPS,
        "camera_names": ["agentview", "robot0_eye_in_hand"],
        "camera_heights": config.size,
        "camera_widths": config.size,
    }
    made = {"by": "saccade collect libero", "remark": suite.remark, "versions": suite.versions()}
    made |= settings_of(config, ("out", "workers", "assets"))
    return {
        "env_name": name,
        "problem_info": json.dumps(problem | {"language_instruction": scene.task.instruction}),
        "macros_image_convention": "opengl",
        "bddl_file_name": bddl,
        "bddl_file_content": Path(scene.bddl).read_text(),
        "env_args": json.dumps(
            {"type": 1, "env_name": name, "bddl_file": bddl, "env_kwargs": settings} | problem
        ),
        "tag": hdf5.TAG,
        "collection": json.dumps(made),
    }


def checked(config: LiberoCollectConfig, tasks: Sequence[Task]) -> LiberoCollectConfig:
    """Return the settings with the tasks by name, of those of the suite.

    Raises:
        ConfigError: a setting is out of range, the suite has no such task, or the expert has no
            skill for one.
    """
    limits = {
        "episodes": (1, 100_000),
        "size": (16, 1024),
        "action_noise": (0, 1),
        "after_success": (0, 100),
        "limit": (1, 2000),
        "workers": (1, 256),
        "seed": (0, 2**32 - 1),
    }
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        if not low <= value <= high:
            told = "max_steps" if name == "limit" else name
            raise ConfigError(f"{told} is {value}; it must lie in {low} to {high}")
    if config.size % 2:
        raise ConfigError(f"size is {config.size}; video needs an even number of pixels")
    names = [task.name for task in tasks]
    chosen = [_task(name, names, config.suite) for name in config.tasks] or names
    _, end = _span(config.initial_states)
    most = min(task.initial_states for task in tasks if task.name in chosen)
    if end > most:
        raise ConfigError(
            f"initial_states is {config.initial_states}; {config.suite} has {most}, up to 0:{most}"
        )
    for name in chosen:  # now, not hours later
        for goal in package.goals(package.bddl_path(config.suite, name)):
            if not has_skill(goal):
                raise ConfigError(
                    f"the expert has no skill for ({' '.join(goal)}) of task "
                    f"{names.index(name)}, {name}; give the other --tasks"
                )
    return replace(config, tasks=tuple(dict.fromkeys(chosen)))


def _task(given: str, names: Sequence[str], suite: str) -> str:
    if given in names:
        return given
    if given.isdecimal() and int(given) < len(names):
        return names[int(given)]
    raise ConfigError(
        f"{suite} has no task {given!r}; it has 0 to {len(names) - 1}: {', '.join(names[:3])} ..."
    )


def _span(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise ConfigError(f"initial_states is {text!r}; give FIRST:END, for example 10:50")
    return int(found[1]), int(found[2])


def _lerobot(config: LiberoCollectConfig, suite: LiberoSuite) -> LeRobotWriter:
    made = {"collection": settings_of(config, ("out", "workers", "assets"))}
    made |= {"versions": suite.versions(), "remark": suite.remark}
    return LeRobotWriter(
        config.folder,
        fps=FPS,
        robot="panda",
        state_names=STATE,
        action_names=(*POSE, "gripper"),
        cameras=dict.fromkeys(CAMERAS, (config.size, config.size)),
        extra=made,
    )


def _finished(config: LiberoCollectConfig) -> bool:
    if config.format == "hdf5":
        return hdf5.finished(config.folder)
    return (config.folder / "meta" / "info.json").is_file()


def _count(config: LiberoCollectConfig) -> tuple[int, int]:
    if config.format == "hdf5":
        return hdf5.count(config.folder)
    info = json.loads((config.folder / "meta" / "info.json").read_text())
    return info["total_episodes"], info["total_frames"]
