"""What a data set reader provides; windows, splits, caches and probes are derived from it."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int, Int64, UInt8
from torch import Tensor

from saccade.data.truth import SceneTruth
from saccade.errors import DataError

POSITION = frozenset({"x", "y", "z"})
ROTATION = frozenset({"roll", "pitch", "yaw", "rx", "ry", "rz"}) | {
    f"r{row}{column}"
    for row in (1, 2, 3)
    for column in (1, 2, 3)  # of a matrix
}


class Frames(TypedDict):
    """Some frames of one episode. ``action[t]`` is executed from frame ``t`` on."""

    video: UInt8[Tensor, "t v 3 h w"]
    state: Float[Tensor, "t s"]
    action: Float[Tensor, "t a"]


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """What states and actions are, where their names do not say it.

    Args:
        commands: ``steps`` from where the body is, or ``goals`` to reach; "" where not known.
        metres: in a commanded displacement of 1; 0 where not known.
        radians: in a commanded rotation of 1.
        camera: in whose frame, of that moment, states and actions are; "" for the world's.
    """

    commands: Literal["steps", "goals", ""] = ""
    metres: float = 0.0
    radians: float = 1.0
    camera: str = ""


class Episodes(ABC):
    """A data set as a list of episodes, read lazily and at random.

    A reader fills the attributes, ``numbers`` and ``pixels``; ``read`` checks every request and
    puts the two together. Readers are picklable and open their files per process, so loader
    workers may fork or spawn; what they keep open or in memory is bounded. An episode may be
    empty, and may lack a camera.
    """

    fps: float
    cameras: tuple[str, ...]
    lengths: list[int]  # frames of each episode
    tasks: list[str]  # the instruction of each episode, "" where there is none
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    fingerprint: str  # changes when the content does: names caches, guards a resume
    world_to_camera: Mapping[str, Float64[np.ndarray, "3 3"]]  # rotations; empty where unknown
    skipped: Mapping[str, str] = MappingProxyType({})  # what was left out when opened, and why
    conventions: Conventions = Conventions()

    @abstractmethod
    def numbers(
        self, episode: int, frames: Int64[np.ndarray, " t"]
    ) -> tuple[Float32[np.ndarray, "t s"], Float32[np.ndarray, "t a"]]:
        """Load states and actions of frames that are in the episode."""

    @abstractmethod
    def pixels(
        self, episode: int, camera: str, frames: Int64[np.ndarray, " t"]
    ) -> UInt8[Tensor, "t 3 h w"]:
        """Decode frames that are in the episode, from a camera that it has: upright RGB.

        The memory may be laid out in any order (``[t, h, w, 3]`` permuted is fastest to use).
        """

    def read(
        self,
        episode: int,
        frames: Int[np.ndarray, " t"],
        cameras: Sequence[str] | None = None,
    ) -> Frames:
        """Load frames of one episode, in the order given; they may repeat.

        ``cameras=None`` reads every camera that the episode has; ``cameras=()`` decodes no
        pixels (``v`` is 0).

        Raises:
            DataError: a file is missing or damaged, the episode or a frame of it does not exist,
                or it has no such camera.
        """
        frames = self._checked(episode, frames)
        has = self.cameras_of(episode)
        names = has if cameras is None else tuple(cameras)
        absent = sorted(set(names) - set(has))
        if absent:
            raise DataError(f"episode {episode} has no cameras {absent}; it has {sorted(has)}")
        state, action = self.numbers(episode, frames)
        video = self.views(episode, names, frames)
        return Frames(video=video, state=torch.from_numpy(state), action=torch.from_numpy(action))

    def views(
        self, episode: int, cameras: Sequence[str], frames: Int64[np.ndarray, " t"]
    ) -> UInt8[Tensor, "t v 3 h w"]:
        """Decode frames of several cameras. Default: ``pixels`` of each, copied side by side.

        Raises:
            DataError: as ``pixels``, or the pictures differ in size.
        """
        if not cameras:
            return torch.empty(len(frames), 0, 3, 0, 0, dtype=torch.uint8)
        found = [self.pixels(episode, camera, frames) for camera in cameras]
        if len(found) == 1:
            return found[0][:, None]
        sizes = {tuple(view.shape[2:]) for view in found}
        if len(sizes) > 1:
            raise DataError(f"cameras {cameras} differ in size {sorted(sizes)}; read one")
        # as pictures lie in memory, [h, w, 3]: ten times as fast
        return torch.stack([v.permute(0, 2, 3, 1) for v in found], 1).permute(0, 1, 4, 2, 3)

    def timestamps(self, episode: int) -> Float64[np.ndarray, " t"]:
        """Return when each frame was exposed, in seconds. Default: evenly, at ``fps``."""
        return np.arange(self.lengths[episode]) / self.fps

    def cameras_of(self, episode: int) -> tuple[str, ...]:
        """Return the cameras that the episode has. Default: all of them."""
        return self.cameras

    def about(self, episode: int) -> dict[str, Any]:
        """Return what else the data set says of an episode, as JSON values.

        Known keys, each only where the data set has it: ``success`` (bool), ``scene`` (str: what
        two episodes share that were recorded in one place), ``source`` (str: file and record),
        ``tasks`` (list of str: every instruction, where there are several), ``versions`` (dict of
        str: of what recorded it).
        """
        return {}

    def encoded(
        self, episode: int, camera: str, frames: Int[np.ndarray, " t"]
    ) -> list[bytes] | None:
        """Return frames as they are stored, where each is a JPEG or PNG of its own.

        So a conversion can copy them instead of encoding again. Default: None, they are not.
        """
        return None

    def features(
        self, episode: int, frames: Int64[np.ndarray, " t"]
    ) -> Float[Tensor, "t n d"] | None:
        """Return what a frozen encoder made of frames, to be trained on in place of the pixels.

        Default: None, nothing is kept of them.
        """
        return None

    def camera_poses(self, episode: int, camera: str) -> Float64[np.ndarray, "t 4 4"] | None:
        """Return the pose of a camera at each frame, camera to world (or robot base), in metres.

        Camera axes: x right, y down, z forward. Default: None, unknown.
        """
        return None

    def camera_rotations(
        self, episode: int, camera: str, frames: Int[np.ndarray, " t"]
    ) -> Float64[np.ndarray, "t 3 3"] | None:
        """Return what turns world axes into a camera's at some frames; None where unknown.

        Default: the constant ``world_to_camera`` where it is known, else out of ``camera_poses``.
        """
        if camera in self.world_to_camera:
            return np.tile(self.world_to_camera[camera], (len(frames), 1, 1))
        poses = self.camera_poses(episode, camera)
        return None if poses is None else np.swapaxes(poses[frames, :3, :3], 1, 2)

    def confidences(
        self, episode: int, body: str, frames: Int[np.ndarray, " t"]
    ) -> Float64[np.ndarray, " t"] | None:
        """Return how far to trust a body of the state (``right_hand``), 0 to 1. Default: unknown.

        Raises:
            DataError: there is no such body or frame, or what is stored is no share.
        """
        return None

    def intrinsics(self, episode: int, camera: str) -> Float64[np.ndarray, "3 3"] | None:
        """Return a camera's matrix, in pixels of what ``pixels`` returns. Default: unknown."""
        return None

    def truth(self, episode: int, camera: str) -> SceneTruth | None:
        """Return what a simulator knows of the pictures, which optical flow follows from.

        The fingerprint is silent about it: pixels, states and actions are the same with and
        without. Default: None, unknown.
        """
        return None

    def _checked(self, episode: int, frames: Int[np.ndarray, " t"]) -> Int64[np.ndarray, " t"]:
        if not 0 <= episode < len(self.lengths):
            raise DataError(f"there is no episode {episode}; there are {len(self.lengths)}")
        frames, length = np.asarray(frames, np.int64), self.lengths[episode]
        if len(frames) and frames.view(np.uint64).max() >= length:  # negative ones are huge
            raise DataError(
                f"frames {frames.min()} to {frames.max()} are outside episode {episode}, "
                f"which has {length}"
            )
        return frames


class Subset(Episodes):
    """Some episodes of a reader. Splits are made of these, never of frames."""

    def __init__(self, episodes: Episodes, keep: Sequence[int]) -> None:
        self.fps, self.cameras = episodes.fps, episodes.cameras
        self.state_names, self.action_names = episodes.state_names, episodes.action_names
        self.world_to_camera = episodes.world_to_camera
        self.conventions = episodes.conventions
        self.lengths = [episodes.lengths[i] for i in keep]
        self.tasks = [episodes.tasks[i] for i in keep]
        members = hashlib.sha256(json.dumps(list(keep)).encode()).hexdigest()[:16]
        self.fingerprint = f"{episodes.fingerprint}[{members}]"
        self.episodes, self.keep = episodes, list(keep)

    def numbers(
        self, episode: int, frames: Int64[np.ndarray, " t"]
    ) -> tuple[Float32[np.ndarray, "t s"], Float32[np.ndarray, "t a"]]:
        """Load states and actions of the ``episode``-th kept episode."""
        return self.episodes.numbers(self.keep[episode], frames)

    def pixels(
        self, episode: int, camera: str, frames: Int64[np.ndarray, " t"]
    ) -> UInt8[Tensor, "t 3 h w"]:
        """Decode frames of the ``episode``-th kept episode."""
        return self.episodes.pixels(self.keep[episode], camera, frames)

    def views(
        self, episode: int, cameras: Sequence[str], frames: Int64[np.ndarray, " t"]
    ) -> UInt8[Tensor, "t v 3 h w"]:
        """Decode frames of several cameras of the ``episode``-th kept episode."""
        return self.episodes.views(self.keep[episode], cameras, frames)

    def timestamps(self, episode: int) -> Float64[np.ndarray, " t"]:
        """Return the times of the ``episode``-th kept episode."""
        return self.episodes.timestamps(self.keep[episode])

    def cameras_of(self, episode: int) -> tuple[str, ...]:
        """Return the cameras of the ``episode``-th kept episode."""
        return self.episodes.cameras_of(self.keep[episode])

    def about(self, episode: int) -> dict[str, Any]:
        """Return what is said of the ``episode``-th kept episode."""
        return self.episodes.about(self.keep[episode])

    def encoded(
        self, episode: int, camera: str, frames: Int[np.ndarray, " t"]
    ) -> list[bytes] | None:
        """Return stored frames of the ``episode``-th kept episode."""
        return self.episodes.encoded(self.keep[episode], camera, frames)

    def features(
        self, episode: int, frames: Int64[np.ndarray, " t"]
    ) -> Float[Tensor, "t n d"] | None:
        """Return kept features of the ``episode``-th kept episode."""
        return self.episodes.features(self.keep[episode], frames)

    def camera_poses(self, episode: int, camera: str) -> Float64[np.ndarray, "t 4 4"] | None:
        """Return the poses of the ``episode``-th kept episode."""
        return self.episodes.camera_poses(self.keep[episode], camera)

    def camera_rotations(
        self, episode: int, camera: str, frames: Int[np.ndarray, " t"]
    ) -> Float64[np.ndarray, "t 3 3"] | None:
        """Return the rotations of the ``episode``-th kept episode."""
        return self.episodes.camera_rotations(self.keep[episode], camera, frames)

    def confidences(
        self, episode: int, body: str, frames: Int[np.ndarray, " t"]
    ) -> Float64[np.ndarray, " t"] | None:
        """Return the confidences of the ``episode``-th kept episode."""
        return self.episodes.confidences(self.keep[episode], body, frames)

    def intrinsics(self, episode: int, camera: str) -> Float64[np.ndarray, "3 3"] | None:
        """Return the camera matrix of the ``episode``-th kept episode."""
        return self.episodes.intrinsics(self.keep[episode], camera)

    def truth(self, episode: int, camera: str) -> SceneTruth | None:
        """Return what a simulator knows of the ``episode``-th kept episode."""
        return self.episodes.truth(self.keep[episode], camera)


def split(
    episodes: Episodes,
    shares: Mapping[str, float],
    held_out_tasks: Sequence[str] = (),
    seed: int = 0,
    left_out: Collection[int] = (),
) -> dict[str, Subset]:
    """Deal whole episodes into named parts; episodes of held-out tasks become ``unseen``.

    Those that are ``left_out`` go to no part, unless their task is held out.

    Each task with as many episodes as parts or more is dealt on its own, and every part gets at
    least one of it. Rarer tasks are dealt together, as if they were one: where nearly every
    episode has an instruction of its own, parts keep their shares.

    Raises:
        DataError: a held-out task is not in the data, or a part would be empty.
    """
    absent = set(held_out_tasks) - set(episodes.tasks)
    if absent:
        known = sorted(set(episodes.tasks))
        raise DataError(f"held-out tasks {sorted(absent)} are not in the data; it has {known}")
    parts: dict[str, list[int]] = {name: [] for name in shares}
    bounds = np.cumsum(list(shares.values())) / sum(shares.values())
    groups: dict[str, list[int]] = {}
    for index in sorted(set(range(len(episodes.tasks))) - set(left_out)):
        groups.setdefault(episodes.tasks[index], []).append(index)
    dealt, rare = [], []
    for task in sorted(groups.keys() - set(held_out_tasks)):
        common = len(groups[task]) >= len(shares)
        (dealt.append if common else rare.extend)(groups[task])
    for number, members in enumerate([*dealt, rare] if rare else dealt):
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
        count = sum(map(len, dealt)) + len(rare)
        raise DataError(f"{count} episodes are too few for the parts {empty}; collect more")
    if held_out_tasks:
        held_out = set(held_out_tasks)
        parts["unseen"] = [i for i, text in enumerate(episodes.tasks) if text in held_out]
    return {name: Subset(episodes, sorted(members)) for name, members in parts.items()}


def state_groups(names: Sequence[str]) -> dict[str, list[int]]:
    """Sort state (or action) dimensions into position, rotation and gripper by their names.

    Names may begin with a body (``leftHand.x``); the groups are over all bodies.
    """
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
