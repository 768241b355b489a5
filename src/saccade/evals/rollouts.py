"""One rollout: a player acts in a scene until the goal is reached or the steps are used up.

A rollout is named by its key. The scene is reset by the key, and all random numbers of the player
are a function of the protocol's seed, the key and the number of the chunk; so the outcome depends
on the key only, in whatever process, order or run it is played.
"""

import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from saccade.config import Config
from saccade.errors import ConfigError, DataError
from saccade.evals.protocols import Protocol
from saccade.scenes import Scene, Task

SIDE = 256  # pixels of a video's frame
EVERY = 2  # steps from one frame of a video to the next


class Key(NamedTuple):
    """What a rollout is called, and all that its outcome may depend on besides the protocol."""

    suite: str
    task: str
    initial_state: int
    seed: int

    def __str__(self) -> str:
        return f"{self.task}, initial state {self.initial_state}, seed {self.seed}"

    def numbers(self, protocol: Protocol) -> tuple[int, ...]:
        """Return the seed of everything random that a player does."""
        names = (zlib.crc32(name.encode()) for name in (self.suite, self.task))
        return (protocol.policy_seed, *names, self.initial_state, self.seed)

    def scene_seed(self, protocol: Protocol) -> int:
        """Return the seed of the simulator."""
        trial = self.initial_state if protocol.env_seed_per_trial else 0
        return protocol.env_seed + self.seed + trial


class Player(ABC):
    """Who acts: a policy, or a floor. One per worker process; ``latencies`` are of one rollout."""

    latencies: list[float]  # seconds of each answer of a network; empty where there is none

    def check(self, scene: Scene) -> None:
        """Refuse a scene in which the player cannot act. Default: all will do.

        Raises:
            ConfigError: something that it needs is not there, or not as it was trained.
        """
        del scene

    @abstractmethod
    def begin(self, scene: Scene, seed: Sequence[int]) -> None:
        """Forget the rollout before."""

    @abstractmethod
    def act(self, scene: Scene) -> Float32[np.ndarray, " a"]:
        """Return the next action."""


@dataclass(frozen=True, kw_only=True)
class PlayerConfig(Config[Player]):
    """What a worker process builds its player from."""

    def about(self) -> dict[str, Any]:
        """Return what tells this player from any other, as JSON values. Default: its class."""
        return {"player": type(self).__name__.removesuffix("Config").lower()}


class Film:
    """Keeps pictures of a rollout, and writes them as a video."""

    def __init__(self, path: Path) -> None:
        self.path, self._frames = path, list[UInt8[np.ndarray, "h w 3"]]()

    def look(self, scene: Scene, step: int) -> None:
        """Draw what the first camera sees, every other step."""
        if step % EVERY == 0:
            self._frames.append(scene.render(scene.cameras[0], SIDE, SIDE))

    def write(self, fps: float) -> None:
        """Write the video under its name, whole or not at all."""
        from saccade.data.video.codec import encode  # slow to import, and few workers film

        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".tmp.mp4")
        encode(draft, self._frames, fps / EVERY, gop=10, crf=23)
        draft.replace(self.path)


def plan(
    tasks: Sequence[Task],
    trials: int,
    initial_states: Sequence[int] = (),
    seeds: int = 1,
) -> list[Key]:
    """List the rollouts of an evaluation, task by task: every trial with every seed.

    ``initial_states`` are those that the trials begin in; by default the first ones.

    Raises:
        ConfigError: a task has no such initial state, or one is named twice.
    """
    states = list(initial_states) or list(range(trials))
    if len(set(states)) < len(states) or min(states) < 0 or seeds < 1:
        raise ConfigError(
            f"initial states {states} and {seeds} seeds: give distinct numbers from 0 on, and at "
            "least one seed"
        )
    for task in tasks:
        if 0 < task.initial_states <= max(states):
            raise ConfigError(
                f"{task.suite} has {task.initial_states} initial states of {task.name}, and "
                f"{max(states)} is asked for; give fewer --trials, or several --seeds"
            )
    return [
        Key(task.suite, task.name, state, seed)
        for task in tasks
        for state in states
        for seed in range(seeds)
    ]


def play(
    scene: Scene,
    player: Player,
    key: Key,
    protocol: Protocol,
    tick: Callable[[str], None] = lambda _: None,
    film: Film | None = None,
) -> dict[str, Any]:
    """Play one rollout; return its record, as JSON values.

    ``tick`` is told what comes next ("reset", "step", "film"), so that somebody may watch the time.
    ``actions`` names the actions that were executed: equal rollouts have equal names. The return
    is that of a reward of 1 at success.

    Raises:
        DataError: the player's action is not finite, or the simulator fails.
    """
    began = time.perf_counter()
    tick("reset")
    scene.reset(key.initial_state, key.scene_seed(protocol))
    still = stand_still(scene, protocol.settle_gripper)
    for _ in range(protocol.settle):
        tick("step")
        scene.step(still)
    tick("step")
    player.latencies = []
    player.begin(scene, key.numbers(protocol))
    name, steps, success = 0, 0, False
    while steps < protocol.horizon(key.suite) and not success:
        if film is not None:
            film.look(scene, steps)
        tick("step")
        action = _finite(player.act(scene), scene)
        scene.step(action)
        name = zlib.crc32(action.tobytes(), name)
        steps += 1
        success = bool(scene.success)
    if film is not None:
        tick("film")
        film.look(scene, 0)
        film.write(scene.fps)
    answers = 1000 * np.array(player.latencies)
    return {
        **key._asdict(),
        "success": success,
        "steps": steps,
        "return": float(success),
        "seconds": round(time.perf_counter() - began, 3),
        "chunks": len(answers),
        "latency_ms": round(float(np.median(answers)), 3) if len(answers) else None,
        "actions": f"{name:08x}",
    }


def stand_still(scene: Scene, gripper: float) -> Float32[np.ndarray, " a"]:
    """Return the action that moves nothing; the gripper is told what is given."""
    return np.array(
        [gripper if "gripper" in name else 0 for name in scene.action_names], np.float32
    )


def _finite(action: Float32[np.ndarray, " a"], scene: Scene) -> Float32[np.ndarray, " a"]:
    action = np.ascontiguousarray(action, np.float32)
    if action.shape != (len(scene.action_names),) or not np.isfinite(action).all():
        raise DataError(
            f"the player's action is {action.tolist()}, not {len(scene.action_names)} finite "
            "numbers; look at its training"
        )
    return action


def key_of(record: Mapping[str, Any]) -> Key:
    """Return the key that a record has."""
    return Key(*(record[name] for name in Key._fields))
