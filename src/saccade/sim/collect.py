"""Collect demonstrations of scripted experts as a LeRobot v3 data set.

Everything random is a function of ``(seed, task, number of the episode, attempt)``, so the same
settings give the same states and actions for any number of workers, and across a kill. Workers
stage whole episodes; ``collection.json`` beside them holds the settings and the episodes that were
given up, so that a rerun of the same command goes on where the last one stopped.

Pixels of a simulator do not change at all where nothing moves, which no camera shows and which
makes motion an oracle. Sensor noise takes that shortcut away.
"""

import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from jaxtyping import Float32, UInt8

from saccade.data.lerobot.writer import LeRobotWriter
from saccade.data.truth import SceneTruth
from saccade.errors import ConfigError, DataError
from saccade.sim import metaworld
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
from saccade.sim.metaworld import AXES, MAX_STEPS, MetaWorld

AFTER_SUCCESS = 5  # steps still taken once the task is solved, so that the end is seen


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """Which demonstrations to collect, and how.

    Args:
        out: folder of the data set.
        tasks: names of Meta-World, with or without -v3; "all" means all fifty.
        episodes: successful episodes of each task.
        size: height and width of the pictures, in pixels.
        cameras: corner, corner2, corner3, corner4, topview, behindGripper or gripperPOV.
        workers: processes that simulate.
        seed: decides goals, layouts and noise.
        action_noise: standard deviation added to the expert's x, y and z (1 is 0.01 m).
        sensor_noise: standard deviation added to every pixel, in grey levels.
        stride: control steps (80 per second) from one recorded frame to the next.
        max_steps: control steps after which an episode has failed.
        supersample: how many times larger, per side, pictures are drawn before averaging.
        keep_failures: keep failed episodes, marked, instead of retrying with another goal.
        policy: ``wander`` leads the hand to random places, ``max_steps`` long, for world models.
        truth: side in pixels of the depth and bodies that are recorded with each picture, for
            exact optical flow (64: 15 kB a frame and camera); 0 records none.
    """

    out: Path
    tasks: tuple[str, ...]
    episodes: int = 10
    size: int = 128
    cameras: Annotated[tuple[str, ...], tyro.conf.arg(aliases=("--camera",))] = ("corner2",)
    workers: int = 1
    seed: int = 0
    action_noise: float = 0.0
    sensor_noise: float = 2.0
    stride: int = 1
    max_steps: int = MAX_STEPS
    supersample: int = 2
    keep_failures: bool = False
    policy: Literal["expert", "wander"] = "expert"
    truth: int = 0


@dataclass(frozen=True)
class Episode:
    """One recorded trial; ``action[t]`` is executed from frame ``t`` on."""

    video: Mapping[str, UInt8[np.ndarray, "t h w 3"]]
    state: Float32[np.ndarray, "t 4"]
    action: Float32[np.ndarray, "t 4"]
    success: bool
    truth: Mapping[str, SceneTruth] = field(default_factory=dict)


def collect(config: CollectConfig, progress: Callable[[Progress], None] | None = None) -> Summary:
    """Collect into ``config.out``, or go on with a collection that was stopped.

    Workers are spawned: a script that calls this needs ``if __name__ == "__main__":``.

    Raises:
        ConfigError: a setting is out of range, or the folder holds something else.
        BusyError: another process collects into this folder.
        DataError: an episode cannot be recorded, or no episode succeeded.
    """
    config = checked(config)
    start, told = time.monotonic(), progress or (lambda _: None)
    slots = slots_of(config.tasks, config.episodes)
    with lock(config.out):
        foreign = (config.out / "meta").exists()
        log = Record.open(config.out, _settings(config), foreign)
        if not (config.out / "meta" / "info.json").is_file():
            log.go_on_with(_versions())
            writer = _open_writer(config)
            fill(Recorder(config, writer), slots, writer.staged(), log, config.workers, told)
            if len(log.given_up) == len(slots):
                raise DataError(
                    f"no expert succeeded within {config.max_steps} steps in {len(slots)} "
                    "episodes; raise max_steps, lower action_noise, or set keep_failures"
                )
            writer.finish()
        info = json.loads((config.out / "meta" / "info.json").read_text())
    names = tuple(str(slots[index]) for index in log.given_up)
    seconds = time.monotonic() - start
    return Summary(info["total_episodes"], info["total_frames"], names, seconds)


def record(simulator: MetaWorld, config: CollectConfig, key: Sequence[int]) -> Episode:
    """Let the policy try once; the trial depends on the task, ``config`` and ``key`` only."""
    simulator.reset(key)
    rng = np.random.default_rng([*key, 1])
    wander = config.policy == "wander"
    policy = metaworld.Wanderer(simulator, rng) if wander else simulator.expert
    video: dict[str, list[np.ndarray]] = {camera: [] for camera in config.cameras}
    truth: dict[str, list[SceneTruth]] = {c: [] for c in config.cameras if config.truth}
    state, action = [], []
    solved = 0  # steps since success
    for step in range(config.max_steps):
        command = policy()
        # The grip stays as it is: noise on it only makes the expert drop things.
        command[:3] += rng.normal(0, config.action_noise, 3)
        if recorded := step % config.stride == 0:
            state.append(simulator.observe())
            for number, camera in enumerate(config.cameras):
                noise = np.random.default_rng([*key, 2, step, number])
                image = simulator.render(camera)
                video[camera].append(_add_noise(image, config.sensor_noise, noise))
            for camera, moments in truth.items():
                moments.append(simulator.truth(camera, config.truth))
        executed = simulator.step(command)
        if recorded:
            action.append(executed)
        solved += solved > 0 or simulator.success
        if solved > AFTER_SUCCESS and not wander:
            break
    stacked = {camera: np.stack(images) for camera, images in video.items()}
    scenes = {camera: SceneTruth.joined(moments) for camera, moments in truth.items()}
    return Episode(stacked, np.stack(state), np.stack(action), solved > 0, scenes)


def _add_noise(
    image: UInt8[np.ndarray, "h w 3"], deviation: float, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    noisy = rng.standard_normal(image.shape, np.float32) * np.float32(deviation) + image
    return np.rint(noisy).clip(0, 255).astype(np.uint8)


def checked(config: CollectConfig) -> CollectConfig:
    """Return the settings with whole names of tasks, and each camera once.

    Raises:
        ConfigError: a setting is out of range, or there is no such task.
    """
    limits = {
        "episodes": (1, 1_000_000),
        "size": (16, 2048),
        "workers": (1, 256),
        "seed": (0, 2**63),
        "action_noise": (0, 10),
        "sensor_noise": (0, 255),
        "stride": (1, MAX_STEPS),
        "max_steps": (1, MAX_STEPS),
        "supersample": (1, 8),
        "truth": (8 if config.truth else 0, config.size),
    }
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        if not low <= value <= high:
            raise ConfigError(f"{name} is {value}; it must lie in {low} to {high}")
    if config.size % 2:
        raise ConfigError(f"size is {config.size}; video needs an even number of pixels")
    if not config.tasks or not config.cameras:
        raise ConfigError("tasks and cameras must not be empty; for example reach and corner2")
    cameras = tuple(dict.fromkeys(config.cameras))
    return replace(config, tasks=metaworld.find_tasks(config.tasks), cameras=cameras)


class Recorder:
    """Tries slots in Meta-World, and stages them."""

    def __init__(self, config: CollectConfig, writer: LeRobotWriter) -> None:
        self.config, self.writer = config, writer
        self.simulator: MetaWorld | None = None  # opened in the process that uses it

    def store(self, slot: Slot) -> int:
        """Record and stage one slot; return its number of frames, 0 when no attempt succeeded."""
        config = self.config
        for attempt in range(ATTEMPTS):
            key = (config.seed, zlib.crc32(slot.task.encode()), slot.number, attempt)
            episode = record(self._open(slot.task), config, key)
            if episode.success or config.keep_failures or config.policy == "wander":
                self.writer.write_episode(
                    slot.index,
                    video=episode.video,
                    state=episode.state,
                    action=episode.action,
                    task=metaworld.instruction(slot.task),
                    success=episode.success,
                    truth=episode.truth,
                )
                return len(episode.state)
        return 0

    def _open(self, task: str) -> MetaWorld:
        if self.simulator is None or self.simulator.task != task:
            if self.simulator is not None:
                self.simulator.close()
            self.simulator = MetaWorld(task, self.config.size, self.config.supersample)
        return self.simulator


def _open_writer(config: CollectConfig) -> LeRobotWriter:
    with MetaWorld(config.tasks[0]) as simulator:
        cameras = {
            camera: {"world_to_camera": simulator.world_to_camera(camera).tolist()}
            for camera in config.cameras
        }
        fps = simulator.fps / config.stride
    recorded = {name: value for name, value in _settings(config).items() if value is not None}
    return LeRobotWriter(
        config.out,
        fps=fps,
        robot="sawyer",
        state_names=AXES,
        action_names=AXES,
        cameras=dict.fromkeys(config.cameras, (config.size, config.size)),
        extra={"cameras": cameras, "collection": recorded, "versions": _versions()},
    )


def _settings(config: CollectConfig) -> dict[str, Any]:
    """Return what determines the data; without truth, as versions that knew of none said it."""
    return settings_of(config) | {"truth": config.truth or None}


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("metaworld", "mujoco")}
