"""What a data set reader provides; windows, splits, caches and probes are derived from it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from jaxtyping import Float, Float64, Int, UInt8
from torch import Tensor

from saccade.errors import DataError

POSITION = frozenset({"x", "y", "z"})
ROTATION = frozenset({"roll", "pitch", "yaw", "rx", "ry", "rz"})


class Frames(TypedDict):
    """Some frames of one episode. ``action[t]`` is executed from frame ``t`` on."""

    video: UInt8[Tensor, "t v 3 h w"]
    state: Float[Tensor, "t s"]
    action: Float[Tensor, "t a"]


class Episodes(ABC):
    """A data set as a list of episodes, read lazily and at random.

    Readers are picklable and open their files per process, so loader workers may fork or spawn.
    """

    fps: float
    cameras: tuple[str, ...]
    lengths: list[int]  # frames of each episode
    tasks: list[str]  # the instruction of each episode
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    fingerprint: str  # changes when the content does: names caches, guards a resume
    world_to_camera: Mapping[str, Float64[np.ndarray, "3 3"]]  # rotations; empty where unknown

    @abstractmethod
    def read(
        self,
        episode: int,
        frames: Int[np.ndarray, " t"],
        cameras: Sequence[str] | None = None,
    ) -> Frames:
        """Load frames of one episode, upright RGB.

        ``cameras=None`` reads every camera; ``cameras=()`` decodes no pixels (``v`` is 0).

        Raises:
            DataError: a file is missing or damaged, or a frame is outside the episode.
        """

    def timestamps(self, episode: int) -> Float64[np.ndarray, " t"]:
        """Return when each frame was exposed, in seconds. Default: evenly, at ``fps``."""
        return np.arange(self.lengths[episode]) / self.fps


class Subset(Episodes):
    """Some episodes of a reader. Splits are made of these, never of frames."""

    def __init__(self, episodes: Episodes, keep: Sequence[int]) -> None:
        self.fps, self.cameras = episodes.fps, episodes.cameras
        self.state_names, self.action_names = episodes.state_names, episodes.action_names
        self.world_to_camera = episodes.world_to_camera
        self.lengths = [episodes.lengths[i] for i in keep]
        self.tasks = [episodes.tasks[i] for i in keep]
        self.fingerprint = f"{episodes.fingerprint}[{','.join(map(str, keep))}]"
        self.episodes, self.keep = episodes, list(keep)

    def read(
        self,
        episode: int,
        frames: Int[np.ndarray, " t"],
        cameras: Sequence[str] | None = None,
    ) -> Frames:
        """Load frames of the ``episode``-th kept episode."""
        return self.episodes.read(self.keep[episode], frames, cameras)

    def timestamps(self, episode: int) -> Float64[np.ndarray, " t"]:
        """Return the times of the ``episode``-th kept episode."""
        return self.episodes.timestamps(self.keep[episode])


def split(
    episodes: Episodes,
    shares: Mapping[str, float],
    held_out_tasks: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, Subset]:
    """Deal whole episodes into named parts; episodes of held-out tasks become ``unseen``.

    Each task is dealt on its own, so every part sees every task. Of a task with as many
    episodes as parts or more, every part gets at least one.

    Raises:
        DataError: a held-out task is not in the data, or a part would be empty.
    """
    absent = set(held_out_tasks) - set(episodes.tasks)
    if absent:
        known = sorted(set(episodes.tasks))
        raise DataError(f"held-out tasks {sorted(absent)} are not in the data; it has {known}")
    parts: dict[str, list[int]] = {name: [] for name in shares}
    bounds = np.cumsum(list(shares.values())) / sum(shares.values())
    for number, task in enumerate(sorted(set(episodes.tasks) - set(held_out_tasks))):
        members = [i for i, text in enumerate(episodes.tasks) if text == task]
        members = np.random.default_rng((seed, number)).permutation(members).tolist()
        cuts = np.round(bounds * len(members)).astype(int)
        if len(members) >= len(shares):  # every part gets one
            for j in range(len(cuts) - 1):
                low, high = (cuts[j - 1] if j else 0) + 1, len(members) - (len(cuts) - 1 - j)
                cuts[j] = min(max(cuts[j], low), high)
        for name, low, high in zip(parts, [0, *cuts[:-1]], cuts, strict=True):
            parts[name] += members[low:high]
    empty = [name for name, members in parts.items() if not members]
    if empty:
        raise DataError(
            f"{len(episodes.lengths)} episodes are too few for the parts {empty}; collect more"
        )
    if held_out_tasks:
        held_out = set(held_out_tasks)
        parts["unseen"] = [i for i, text in enumerate(episodes.tasks) if text in held_out]
    return {name: Subset(episodes, sorted(members)) for name, members in parts.items()}


def state_groups(names: Sequence[str]) -> dict[str, list[int]]:
    """Sort state (or action) dimensions into position, rotation and gripper by their names."""
    groups: dict[str, list[int]] = {"position": [], "rotation": [], "gripper": []}
    for index, name in enumerate(names):
        last = name.lower().rsplit(".", 1)[-1]
        if last in POSITION:
            groups["position"].append(index)
        elif last in ROTATION:
            groups["rotation"].append(index)
        elif "gripper" in last:
            groups["gripper"].append(index)
    return {name: indices for name, indices in groups.items() if indices}
