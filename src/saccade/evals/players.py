"""Who acts in rollouts: a policy from its folder or behind a server, and what needs no policy."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, UInt8

from saccade.config import Config
from saccade.errors import CheckpointError, ConfigError, DataError
from saccade.evals.protocols import Pictures
from saccade.evals.rollouts import Player, PlayerConfig, stand_still
from saccade.scenes import Scene

if TYPE_CHECKING:  # floors are workers that never wait for torch to be imported
    from saccade.data.episodes import Episodes
    from saccade.deploy.runner import Actor, LocalActor
    from saccade.types import Contract

OPEN = 1.0  # of a gripper


@dataclass(frozen=True, kw_only=True)
class PolicyConfig(PlayerConfig):
    """A policy of ours, or any server that speaks openpi's protocol.

    Args:
        folder: of an exported policy.
        url: of a server, in place of a folder.
        device: cpu, cuda, or auto.
        execute: actions of a chunk before the policy is asked again; 0 takes all.
        ensemble: exponential weight of averaging overlapping chunks; 0 does not.
        pictures: what is shown to a server that says nothing itself.
    """

    folder: Path | None = None
    url: str = ""
    device: str = "cpu"
    execute: int = 0
    ensemble: float = 0.0
    pictures: Pictures | None = None

    def about(self) -> dict[str, Any]:
        """Name the policy, and its weights if they are here."""
        if self.folder is None:
            return {"player": "server", "url": self.url}
        return {"player": "policy", "folder": str(self.folder), "weights": _weights(self.folder)}

    def build(self) -> "PolicyPlayer":
        """Load the policy into this process; a server is called when a scene is known."""
        return PolicyPlayer(self)


class PolicyPlayer(Player):
    """Runs a policy under the contract that it was trained with."""

    def __init__(self, config: PolicyConfig) -> None:
        import torch

        from saccade.deploy.runner import LocalActor

        if (config.folder is None) == (not config.url):
            raise ConfigError("a policy is a folder or a url, one of the two")
        torch.set_num_threads(1)  # workers share the cores
        self.config, self.latencies = config, []
        self._actor: Actor | None = None
        self._foreign = False  # a server that says nothing of itself
        if config.folder is not None:
            self._actor = LocalActor(config.folder, config.device)

    def check(self, scene: Scene) -> None:
        """Compare the contract with the scene, and the path of a picture with that of training."""
        from saccade.deploy.preparation import check_contract
        from saccade.deploy.runner import LocalActor, Runner

        if self._actor is None:
            self._actor = self._connect(scene)
        check_contract(self._actor.contract, scene)
        if isinstance(self._actor, LocalActor):
            self._check_appearance(self._actor, scene)
        self._runner = Runner(self._actor, self.config.execute, self.config.ensemble)

    def _check_appearance(self, actor: "LocalActor", scene: Scene) -> None:
        """Compare the scene with what training saw, which finds pictures turned once too often."""
        from saccade.deploy.appearance import check_appearance
        from saccade.deploy.preparation import Preparation

        reference = actor.policy.appearance()
        if reference:
            prepared = Preparation(actor.contract)
            frames = {camera: self._frame(scene, camera) for camera in reference}
            seen = {name: prepared.frame(name, frame)[None] for name, frame in frames.items()}
            check_appearance(reference, seen)

    def begin(self, scene: Scene, seed: Sequence[int]) -> None:
        """Tell the policy its task."""
        self._runner.begin(scene.task.instruction, seed)

    def act(self, scene: Scene) -> Float32[np.ndarray, " a"]:
        """Ask for frames only where a new chunk needs them."""
        action = self._runner.act(partial(self._frame, scene), scene.state)
        self.latencies = self._runner.latencies
        return action

    def _frame(self, scene: Scene, camera: str) -> UInt8[np.ndarray, "h w 3"]:
        assert self._actor is not None
        pictures = self.config.pictures
        if self._foreign and pictures is not None:
            return drawn(scene, camera, pictures)
        return scene.render(camera, *self._actor.contract.frame_size)

    def _connect(self, scene: Scene) -> "Actor":
        """Call the server; one that does not say its contract is given the protocol's."""
        from saccade.deploy.client import RemoteActor

        pictures = self.config.pictures
        ours = None if pictures is None else contract_of(pictures, scene)
        try:
            actor = RemoteActor(self.config.url, ours)
        except DataError as error:  # nobody is there: no rollout can be played, so none has crashed
            raise ConfigError(str(error)) from error
        self._foreign = not actor.ours
        return actor


def contract_of(pictures: Pictures, scene: Scene) -> "Contract":
    """Return what is promised to a policy that has no contract of its own."""
    from saccade.types import Contract

    side = pictures.resize or pictures.render
    return Contract(
        cameras=pictures.cameras,
        frame_size=(side, side),
        image_size=side,
        orientation=pictures.orientation,
        state_names=pictures.state_names,
        action_names=scene.action_names,
        fps=scene.fps,
        chunk=pictures.chunk,
    )


def drawn(scene: Scene, camera: str, pictures: Pictures) -> UInt8[np.ndarray, "h w 3"]:
    """Draw a frame as a protocol has it: through JPEG, then resized."""
    frame = scene.render(camera, pictures.render, pictures.render)
    if pictures.jpeg:
        import simplejpeg

        packed = simplejpeg.encode_jpeg(
            np.ascontiguousarray(frame), quality=pictures.jpeg, colorsubsampling="420"
        )
        frame = simplejpeg.decode_jpeg(packed)
    if pictures.resize and pictures.resize != pictures.render:
        from PIL import Image

        size = (pictures.resize, pictures.resize)
        way = Image.Resampling[pictures.resample.upper()]
        frame = np.asarray(Image.fromarray(frame).resize(size, way))
    return frame


@dataclass(frozen=True, kw_only=True)
class NothingConfig(PlayerConfig):
    """Does nothing, with the gripper open."""

    def build(self) -> "NothingPlayer":
        """Return the player."""
        return NothingPlayer()


class NothingPlayer(Player):
    """What falls into place by itself is no success of a policy."""

    def begin(self, scene: Scene, seed: Sequence[int]) -> None:
        """Prepare the one action."""
        del seed
        self._action = stand_still(scene, OPEN)

    def act(self, scene: Scene) -> Float32[np.ndarray, " a"]:
        """Return it."""
        del scene
        return self._action


@dataclass(frozen=True, kw_only=True)
class RandomConfig(PlayerConfig):
    """Draws each action evenly from the box that the controller takes."""

    def build(self) -> "RandomPlayer":
        """Return the player."""
        return RandomPlayer()


class RandomPlayer(Player):
    """Moves within [-1, 1], grippers within [0, 1]."""

    def begin(self, scene: Scene, seed: Sequence[int]) -> None:
        """Seed the actions."""
        self._rng = np.random.default_rng(seed)
        self._low = np.array([0 if "gripper" in name else -1 for name in scene.action_names])

    def act(self, scene: Scene) -> Float32[np.ndarray, " a"]:
        """Draw one."""
        del scene
        return self._rng.uniform(self._low, 1).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class ReplayMeanConfig(PlayerConfig):
    """Replays, blindly, the mean action sequence of a task's demonstrations.

    Args:
        data: demonstrations; their instructions are those of the tasks.
    """

    data: Config["Episodes"]

    def about(self) -> dict[str, Any]:
        """Name the data."""
        return {"player": "replay-mean", "data": str(getattr(self.data, "root", self.data))}

    def build(self) -> "ReplayMeanPlayer":
        """Open the demonstrations."""
        return ReplayMeanPlayer(self.data.build())


class ReplayMeanPlayer(Player):
    """What can be done without looking."""

    def __init__(self, episodes: "Episodes") -> None:
        self._episodes, self._means, self._step = episodes, dict[str, np.ndarray](), 0

    def check(self, scene: Scene) -> None:
        """Refuse a task without demonstrations, or commands of another kind."""
        told, names = scene.task.instruction, tuple(self._episodes.action_names)
        if names != tuple(scene.action_names):
            raise ConfigError(
                f"the demonstrations have actions {', '.join(names)}, the scene takes "
                f"{', '.join(scene.action_names)}; give --demonstrations of this robot"
            )
        if told not in self._episodes.tasks:
            known = ", ".join(sorted(set(self._episodes.tasks))[:6])
            raise ConfigError(
                f"there are no demonstrations of {told!r}, only of {known}; give others as "
                "--demonstrations, or leave replay-mean out of --floors"
            )

    def begin(self, scene: Scene, seed: Sequence[int]) -> None:
        """Look up the sequence."""
        del seed
        told = scene.task.instruction
        if told not in self._means:
            self._means[told] = mean_sequence(self._episodes, told)
        self._sequence, self._step = self._means[told], 0

    def act(self, scene: Scene) -> Float32[np.ndarray, " a"]:
        """Return the next mean action; after the longest demonstration, stand still."""
        if self._step < len(self._sequence):
            action = self._sequence[self._step]
        else:
            held = ["gripper" in name for name in scene.action_names]
            action = np.where(held, self._sequence[-1], 0)
        self._step += 1
        return action.astype(np.float32)


def mean_sequence(episodes: "Episodes", instruction: str) -> Float32[np.ndarray, "t a"]:
    """Average the actions of a task's demonstrations, step by step, over those that still run."""
    found = [i for i, task in enumerate(episodes.tasks) if task == instruction]
    longest = max(episodes.lengths[i] for i in found)
    total = np.zeros((longest, len(episodes.action_names)))
    count = np.zeros((longest, 1))
    for episode in found:
        length = episodes.lengths[episode]
        _, action = episodes.numbers(episode, np.arange(length))
        total[:length] += action
        count[:length] += 1
    return (total / count).astype(np.float32)


def _weights(folder: Path) -> str:
    """Name what is in a policy's folder, so that another training is not taken for it.

    Raises:
        CheckpointError: there is no policy.
    """
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    if not files[0].is_file() or len(files) < 2:
        raise CheckpointError(
            f"{folder} holds no policy (config.json and model.safetensors); give the folder that "
            "training exported, such as RUN/policy"
        )
    name = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while part := file.read(1 << 22):
                name.update(part)
    return name.hexdigest()[:16]
