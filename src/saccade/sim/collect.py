"""Collect demonstrations of scripted experts as a LeRobot v3 data set.

Everything random is a function of ``(seed, task, number of the episode, attempt)``, so the same
settings give the same states and actions for any number of workers, and across a kill. Workers
stage whole episodes; ``collection.json`` beside them holds the settings and the episodes that were
given up, so that a rerun of the same command goes on where the last one stopped.

Pixels of a simulator do not change at all where nothing moves, which no camera shows and which
makes motion an oracle. Sensor noise takes that shortcut away.
"""

import fcntl
import json
import multiprocessing
import signal
import time
import zlib
from bisect import insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from jaxtyping import Float32, UInt8

from saccade.checkpoint import write_atomic
from saccade.config import to_dict
from saccade.data.lerobot.writer import LeRobotWriter
from saccade.errors import BusyError, ConfigError, DataError, SaccadeError
from saccade.processes import die_with_parent
from saccade.sim import metaworld
from saccade.sim.metaworld import AXES, MAX_STEPS, MetaWorld

AFTER_SUCCESS = 5  # steps still taken once the task is solved, so that the end is seen
ATTEMPTS = 3  # goals tried before an episode is given up
RECORD = "collection.json"


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


@dataclass(frozen=True)
class Progress:
    """How far a collection is."""

    done: int
    total: int
    frames_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class Summary:
    """What a collection produced; ``given_up`` names episodes whose expert failed every time."""

    episodes: int
    frames: int
    given_up: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Slot:
    """The ``number``-th episode of a task."""

    task: str
    number: int

    def __str__(self) -> str:
        return f"{self.task} episode {self.number}"


@dataclass(frozen=True)
class Episode:
    """One recorded trial; ``action[t]`` is executed from frame ``t`` on."""

    video: Mapping[str, UInt8[np.ndarray, "t h w 3"]]
    state: Float32[np.ndarray, "t 4"]
    action: Float32[np.ndarray, "t 4"]
    success: bool


def collect(config: CollectConfig, progress: Callable[[Progress], None] | None = None) -> Summary:
    """Collect into ``config.out``, or go on with a collection that was stopped.

    Workers are spawned: a script that calls this needs ``if __name__ == "__main__":``.

    Raises:
        ConfigError: a setting is out of range, or the folder holds something else.
        BusyError: another process collects into this folder.
        DataError: an episode cannot be recorded, or no episode succeeded.
    """
    config = _checked(config)
    start = time.monotonic()
    with _lock(config.out):
        given_up = _open_record(config)
        if not (config.out / "meta" / "info.json").is_file():
            _fill(config, given_up, progress or (lambda _: None))
        info = json.loads((config.out / "meta" / "info.json").read_text())
    names = tuple(str(_slot(config, index)) for index in given_up)
    seconds = time.monotonic() - start
    return Summary(info["total_episodes"], info["total_frames"], names, seconds)


def record(simulator: MetaWorld, config: CollectConfig, key: Sequence[int]) -> Episode:
    """Let the policy try once; the trial depends on the task, ``config`` and ``key`` only."""
    simulator.reset(key)
    rng = np.random.default_rng([*key, 1])
    wander = config.policy == "wander"
    policy = metaworld.Wanderer(simulator, rng) if wander else simulator.expert
    video: dict[str, list[np.ndarray]] = {camera: [] for camera in config.cameras}
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
        executed = simulator.step(command)
        if recorded:
            action.append(executed)
        solved += solved > 0 or simulator.success
        if solved > AFTER_SUCCESS and not wander:
            break
    stacked = {camera: np.stack(images) for camera, images in video.items()}
    return Episode(stacked, np.stack(state), np.stack(action), solved > 0)


def _add_noise(
    image: UInt8[np.ndarray, "h w 3"], deviation: float, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    noisy = rng.standard_normal(image.shape, np.float32) * np.float32(deviation) + image
    return np.rint(noisy).clip(0, 255).astype(np.uint8)


def _checked(config: CollectConfig) -> CollectConfig:
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


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".collect.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(f"another process collects into {folder}; wait for it") from error
        yield


def _settings(config: CollectConfig) -> dict[str, Any]:
    """Return what determines the data: everything but the place and the number of workers."""
    settings = json.loads(json.dumps(to_dict(config)))
    return {key: value for key, value in settings.items() if key not in ("type", "out", "workers")}


def _open_record(config: CollectConfig) -> list[int]:
    """Return the episodes that an earlier run gave up; begin the record where there is none."""
    path, settings = config.out / RECORD, _settings(config)
    if not path.is_file():
        if (config.out / "meta").exists():
            raise ConfigError(f"{config.out} holds another data set; choose another --out")
        _write_record(config, [])
        return []
    found = json.loads(path.read_text())
    changed = [key for key in settings if found["settings"].get(key) != settings[key]]
    if changed:
        before, now = ({key: s.get(key) for key in changed} for s in (found["settings"], settings))
        raise ConfigError(
            f"{config.out} was begun with {before}, not {now}; repeat those or choose another --out"
        )
    return found["given_up"]


def _write_record(config: CollectConfig, given_up: list[int]) -> None:
    record = {"settings": _settings(config), "given_up": given_up}
    write_atomic(config.out / RECORD, json.dumps(record, indent=2) + "\n")


def _index(config: CollectConfig, slot: Slot) -> int:
    return config.tasks.index(slot.task) * config.episodes + slot.number


def _slot(config: CollectConfig, index: int) -> Slot:
    task, number = divmod(index, config.episodes)
    return Slot(config.tasks[task], number)


def _fill(config: CollectConfig, given_up: list[int], progress: Callable[[Progress], None]) -> None:
    """Record what is missing, adding to ``given_up``, then assemble the data set."""
    writer, start, frames = _open_writer(config), time.monotonic(), 0
    total = len(config.tasks) * config.episodes
    missing = sorted(set(range(total)) - writer.staged() - set(given_up))
    outcomes = _outcomes(config, writer, [_slot(config, index) for index in missing])
    for count, (slot, length) in enumerate(outcomes, 1):
        if not length:
            insort(given_up, _index(config, slot))
            _write_record(config, given_up)
        frames += length
        seconds, left = time.monotonic() - start, len(missing) - count
        progress(Progress(total - left, total, frames / seconds, left * seconds / count))
    if len(given_up) == total:
        raise DataError(
            f"no expert succeeded within {config.max_steps} steps in {total} episodes; "
            "raise max_steps, lower action_noise, or set keep_failures"
        )
    writer.finish()


def _open_writer(config: CollectConfig) -> LeRobotWriter:
    with MetaWorld(config.tasks[0]) as simulator:
        cameras = {
            camera: {"world_to_camera": simulator.world_to_camera(camera).tolist()}
            for camera in config.cameras
        }
        fps = simulator.fps / config.stride
    versions = {name: version(name) for name in ("metaworld", "mujoco")}
    return LeRobotWriter(
        config.out,
        fps=fps,
        robot="sawyer",
        state_names=AXES,
        action_names=AXES,
        cameras=dict.fromkeys(config.cameras, (config.size, config.size)),
        extra={"cameras": cameras, "collection": _settings(config), "versions": versions},
    )


class _Worker:
    """A process that records one slot at a time."""

    def __init__(self, config: CollectConfig, writer: LeRobotWriter) -> None:
        context = multiprocessing.get_context("spawn")  # OpenGL contexts do not survive a fork
        self.pipe, far_end = context.Pipe()
        self.process = context.Process(target=_work, args=(config, writer, far_end), daemon=True)
        self.process.start()
        far_end.close()  # so that the death of the worker ends our pipe
        self.slot: Slot | None = None

    def give(self, slot: Slot) -> None:
        """Send the next slot; that the process died is for ``outcome`` to find."""
        self.slot = slot
        with suppress(BrokenPipeError):
            self.pipe.send(slot)

    def outcome(self) -> tuple[Slot, int]:
        """Return the slot and its number of frames, 0 when it was given up."""
        assert self.slot is not None
        try:
            outcome = self.pipe.recv()
        except (ConnectionResetError, EOFError) as error:
            self.process.join()
            raise DataError(
                f"the worker that recorded {self.slot} ended with exit code "
                f"{self.process.exitcode}; its message is above (-9: out of memory?)"
            ) from error
        if isinstance(outcome, str):
            raise DataError(f"{self.slot} cannot be recorded: {outcome}")
        return self.slot, outcome

    def stop(self) -> None:
        """End the process, at once."""
        self.process.terminate()
        self.process.join()
        self.pipe.close()


def _outcomes(
    config: CollectConfig, writer: LeRobotWriter, slots: list[Slot]
) -> Iterator[tuple[Slot, int]]:
    """Deal slots to workers and yield their outcomes in the order in which they arrive."""
    workers: list[_Worker] = []
    try:
        for _ in range(min(config.workers, len(slots))):
            workers.append(_Worker(config, writer))
            workers[-1].give(_take(slots, None))
        busy = list(workers)
        while busy:
            ready = wait([worker.pipe for worker in busy])
            for worker in [worker for worker in busy if worker.pipe in ready]:
                yield worker.outcome()
                if slots:
                    worker.give(_take(slots, worker.slot))
                else:
                    busy.remove(worker)
    finally:
        for worker in workers:
            worker.stop()


def _take(slots: list[Slot], last: Slot | None) -> Slot:
    """Remove a slot: one of the worker's own task, else of the task with the most slots left.

    Loading a task takes as long as half an episode.
    """
    left = [slot.task for slot in slots]
    own = last is not None and last.task in left
    task = last.task if last is not None and own else max(left, key=left.count)
    return slots.pop(left.index(task))


def _work(config: CollectConfig, writer: LeRobotWriter, pipe: Connection) -> None:
    """Record the slots that arrive; answer with the number of frames, or with an error's text."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    die_with_parent()
    simulator = None
    with suppress(EOFError):
        while True:
            slot: Slot = pipe.recv()
            try:
                if simulator is None or simulator.task != slot.task:
                    if simulator is not None:
                        simulator.close()
                    simulator = MetaWorld(slot.task, config.size, config.supersample)
                pipe.send(_store(config, writer, simulator, slot))
            except SaccadeError as error:
                pipe.send(str(error))


def _store(config: CollectConfig, writer: LeRobotWriter, simulator: MetaWorld, slot: Slot) -> int:
    """Record and stage one slot; return its number of frames, 0 when no attempt succeeded."""
    for attempt in range(ATTEMPTS):
        key = (config.seed, zlib.crc32(slot.task.encode()), slot.number, attempt)
        episode = record(simulator, config, key)
        if episode.success or config.keep_failures or config.policy == "wander":
            writer.write_episode(
                _index(config, slot),
                video=episode.video,
                state=episode.state,
                action=episode.action,
                task=metaworld.instruction(slot.task),
                success=episode.success,
            )
            return len(episode.state)
    return 0
