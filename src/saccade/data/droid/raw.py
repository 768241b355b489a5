"""Raw DROID: a folder per episode with trajectory.h5, metadata and one MP4 per camera.

This is what V-JEPA 2-AC is trained on. Frame i of a video belongs to row i of the numbers; frames
are found by counting them, never by the video's clock: its header says 60 Hz, the camera's mode,
but a frame was taken at each step of the 15 Hz control loop. When, the rows say.

Facts: https://github.com/droid-dataset/droid, https://github.com/facebookresearch/vjepa2
(``app/vjepa_droid/droid.py``) and issues 54 and 183 of the two.
"""

import hashlib
import json
import math
import os
import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8
from torch import Tensor

from saccade.checkpoint import write_atomic
from saccade.config import Config
from saccade.data.droid import raw_files as files
from saccade.data.droid.conventions import (
    COMMANDS,
    FPS,
    Action,
    State,
    command,
    conventions,
    gripper_open,
    measured_delta,
    names,
    with_gripper,
)
from saccade.data.droid.raw_index import (
    CAMERAS,
    GRIPPER,
    GRIPPER_COMMAND,
    JOINTS,
    OUTCOMES,
    POSE,
    VERSION,
    check_complete,
    index_episodes,
    keys,
    recorded_times,
)
from saccade.data.episodes import Episodes
from saccade.data.files.faults import OnError, Skipped
from saccade.data.files.folder import Folder, open_folder
from saccade.data.files.hdf5 import Hdf5Files
from saccade.data.video.codec import decode_frames, video_info
from saccade.errors import ConfigError, DataError
from saccade.geometry import euler_xyz_to_matrix

Numbers = tuple[Float32[np.ndarray, "t s"], Float32[np.ndarray, "t a"]]
Outcome = Literal["all", "success", "failure"]

DEFAULT = ("left", "right", "wrist")
KEPT = 256  # episodes whose numbers stay in memory, some 20 kB each
HALF_TURN = np.diag([-1.0, -1.0, 1.0, 1.0])  # about the axis that a camera looks along


@dataclass(frozen=True, kw_only=True)
class DroidRawConfig(Config["DroidRaw"]):
    """What to read of raw DROID.

    Args:
        root: any folder of ``<LAB>/<success|failure>/<date>/<time>``, or above or inside it.
        csv: a list of episode folders to read instead of all, one per line, in the first column
            (separated by a space or comma): below ``root`` or full paths. As for V-JEPA 2.
        cameras: of ``left``, ``right`` (exterior, as seen from the robot), ``wrist``,
            ``exterior_1`` and ``exterior_2`` (exterior, by serial number; also ``ext1``,
            ``ext2``); the left lens of each. Empty: left, right, wrist.
        state: the pose of the end effector or the joints, as measured; and the gripper, 1 is open.
        action: as commanded: a ``cartesian`` or ``joint`` position, or the step towards one that
            the controller makes of a velocity, in m and rad; or ``delta``, the measured motion to
            the next frame (``droid_conventions``), which V-JEPA 2-AC is trained on (except that
            its gripper is 1 closed).
        clock: ``recorded``: when each frame was received, at 15 Hz; ``header``: as if the rate in
            the videos' headers were true, as V-JEPA 2-AC was trained (``official_stride``).
        outcome: which episodes to read.
        turn_wrist: turn the wrist camera by 180 degrees (some labs mounted it upside down).
        annotations: a file of instructions by uuid (``aggregated-annotations-030724.json``); the
            task that the collector was given stands in where it has none.
    """

    format: ClassVar[str] = "droid_raw"
    about: ClassVar[str] = "raw DROID: trajectory.h5, metadata and MP4 per episode; csv= lists them"

    root: str | Path
    csv: str = ""
    cameras: tuple[str, ...] = ()
    state: State = "cartesian"
    action: Action = "cartesian"
    clock: Literal["recorded", "header"] = "recorded"
    outcome: Outcome = "all"
    turn_wrist: bool = False
    annotations: str = ""
    on_error: OnError = "raise"
    most_skipped: float = 0.01

    @staticmethod
    def recognises(folder: Folder) -> bool:
        """Whether a ``trajectory.h5`` with metadata or recordings is found soon."""
        return files.recognised(folder)

    def build(self) -> "DroidRaw":
        """Index the episodes."""
        return DroidRaw(self)


class DroidRaw(Episodes):
    """Every episode, in the order of its folder's name, or of the list.

    An episode whose videos are one frame shorter than its rows ends with the videos. One without
    videos has no cameras. ``skipped`` says which were left out as broken, and why.

    Raises:
        ConfigError: an unknown camera.
        DataError: no episodes, or a broken one.
    """

    def __init__(self, config: DroidRawConfig) -> None:
        unknown = sorted(set(config.cameras) - CAMERAS.keys())
        if unknown:
            raise ConfigError(f"DROID has no cameras {unknown}; it has {', '.join(CAMERAS)}")
        self.config, self.cameras = config, tuple(dict.fromkeys(config.cameras)) or DEFAULT
        self.state_names, self.action_names = names(config.state), names(config.action)
        self.world_to_camera, self.conventions = {}, conventions(config.action)
        self._folder = open_folder(config.root)
        self._memory: OrderedDict[int, Numbers] = OrderedDict()
        places = (
            files.listed(self._folder, config.csv) if config.csv else [*files.found(self._folder)]
        )
        self._entries, self.skipped = index_episodes(
            self._folder,
            places,
            self.cameras,
            tuple(self._keys()),
            success=OUTCOMES.get(config.outcome),
            annotations=config.annotations,
            timed=config.clock == "recorded",
            faults=Skipped(config.on_error, config.most_skipped),
        )
        check_complete(self._entries, config.root, config.outcome, config.cameras)
        self.lengths = [entry.frames for entry in self._entries]
        self.tasks = [next(iter(entry.tasks), "") for entry in self._entries]
        self.fps = FPS if config.clock == "recorded" else self._header_rate()
        self.fingerprint = self._digest()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_memory": OrderedDict()}

    def numbers(
        self, episode: int, frames: Int64[np.ndarray, " t"]
    ) -> tuple[Float32[np.ndarray, "t s"], Float32[np.ndarray, "t a"]]:
        """Return rows of the measured state and of the action."""
        # Threads may come here at once: each step is one that the interpreter does not interrupt.
        kept = self._memory.pop(episode, None) or self._load(episode)
        self._memory[episode] = kept
        while len(self._memory) > KEPT:
            self._memory.popitem(last=False)
        state, action = kept
        return state[frames], action[frames]

    def pixels(
        self, episode: int, camera: str, frames: Int64[np.ndarray, " t"]
    ) -> UInt8[Tensor, "t 3 h w"]:
        """Decode the frames that were shown as the ``frames``-th of the camera's video."""
        name = self._entries[episode].videos[camera]
        video = decode_frames(self._folder.path(name), frames)
        return video.flip(2, 3) if self._turned(camera) else video

    def timestamps(self, episode: int) -> Float64[np.ndarray, " t"]:
        """Return when the first camera's frames were received, in seconds from the first.

        Where no camera has recorded that, frames are 1/15 s apart; by the header's clock, they
        are what the header says.

        Raises:
            DataError: a frame was received no later than the one before (``on_error="skip"``
                leaves such episodes out).
        """
        if self.config.clock == "header":
            return super().timestamps(episode)
        entry = self._entries[episode]
        times = recorded_times(self._folder, entry)
        return np.arange(entry.frames) / FPS if times is None else times

    def cameras_of(self, episode: int) -> tuple[str, ...]:
        """Return the cameras whose videos are there."""
        return tuple(self._entries[episode].serials)

    def about(self, episode: int) -> dict[str, Any]:
        """Return outcome, scene, instructions, and what the metadata say besides.

        ``dropped_frames`` is how many rows have no frame; ``header_fps`` is the rate that the
        first camera's video claims.
        """
        entry = self._entries[episode]
        known = {
            "success": entry.success,
            "scene": entry.metadata["scene"],
            "source": entry.place.numbers,
            "tasks": entry.tasks,
            "uuid": entry.metadata["uuid"],
            "lab": entry.metadata["lab"],
            "dropped_frames": entry.rows - entry.frames or None,
            "header_fps": next(iter(entry.rates.values()), None),
        }
        return {key: value for key, value in known.items() if value is not None}

    def folder(self, episode: int) -> str:
        """Return the full name of an episode's folder."""
        name = self._folder.label(self._entries[episode].place.folder).rstrip("/")
        return name if "://" in name else os.path.abspath(name)

    def camera_poses(self, episode: int, camera: str) -> Float64[np.ndarray, "t 4 4"] | None:
        """Return camera to robot base, as the lab calibrated it (which is not always well)."""
        rows = self._of_camera(episode, "observation/camera_extrinsics", camera, (6,))
        if rows is None:
            return None
        poses = np.tile(np.eye(4), (len(rows), 1, 1))
        poses[:, :3, :3], poses[:, :3, 3] = euler_xyz_to_matrix(rows[:, 3:]), rows[:, :3]
        return poses @ HALF_TURN if self._turned(camera) else poses

    def intrinsics(self, episode: int, camera: str) -> Float64[np.ndarray, "3 3"] | None:
        """Return the camera matrix that the ZED camera reported; older files have none."""
        rows = self._of_camera(episode, "observation/camera_intrinsics", camera, (3, 3))
        if rows is None or not len(rows):
            return None
        matrix = rows[0]
        if self._turned(camera):
            info = video_info(self._folder.path(self._entries[episode].videos[camera]))
            matrix[:2, 2] = info.width - 1 - matrix[0, 2], info.height - 1 - matrix[1, 2]
        return matrix

    def _keys(self) -> list[str]:
        """Return what states and actions are made of: a body and a gripper each."""
        config = self.config
        state = [POSE if config.state == "cartesian" else JOINTS, GRIPPER]
        if config.action == "delta":
            return [*state, POSE, GRIPPER]
        return [*state, f"action/{COMMANDS[config.action]}", GRIPPER_COMMAND]

    def _load(self, episode: int) -> Numbers:
        """Load the states and actions of an episode; the motion to a row without a frame too."""
        entry = self._entries[episode]
        opened = Hdf5Files(self._folder)  # for this episode only: what is read of it is kept
        body, closed, goal, goal_closed = (
            self._column(opened, episode, key) for key in self._keys()
        )
        state = with_gripper(body, closed[:, 0])
        if self.config.action == "delta":
            action = measured_delta(goal, gripper_open(goal_closed[:, 0]))
        else:
            action = command(self.config.action, goal, goal_closed[:, 0])
        cut = slice(entry.frames)
        return state[cut].astype(np.float32), action[cut].astype(np.float32)

    def _column(self, opened: Hdf5Files, episode: int, key: str) -> Float64[np.ndarray, "t d"]:
        """Load a key of an episode whole, a row of numbers for each step.

        Raises:
            DataError: it has not as many rows as the episode, or a value is not finite.
        """
        entry = self._entries[episode]
        name, shape = entry.place.numbers, opened.dataset(entry.place.numbers, key).shape
        if not shape or shape[0] != entry.rows:
            raise DataError(
                f"{self._folder.label(name)}: {key} has the shape {tuple(shape)}, expected "
                f"{entry.rows} rows; the recording is damaged, leave the episode out"
            )
        values = opened.rows(name, key, np.arange(entry.rows)).astype(np.float64)
        values = values.reshape(entry.rows, math.prod(shape[1:]))
        broken = np.flatnonzero(~np.isfinite(values).all(1))
        if len(broken):
            raise DataError(
                f"{self._folder.label(name)}: {key} is not finite in row {broken[0]} "
                f"({len(broken)} rows are not); leave the episode out"
            )
        return values

    def _of_camera(
        self, episode: int, group: str, camera: str, shape: tuple[int, ...]
    ) -> Float64[np.ndarray, "t *d"] | None:
        """Load what is recorded of a camera's left lens at each frame, where it is."""
        entry, opened = self._entries[episode], Hdf5Files(self._folder)
        last = f"{entry.serials.get(camera)}_left"
        if last not in keys(opened, entry.place.numbers, group):
            return None
        values = self._column(opened, episode, f"{group}/{last}")[: entry.frames]
        if values.shape[1] != math.prod(shape):
            raise DataError(
                f"{self._folder.label(entry.place.numbers)}: {group}/{last} has "
                f"{values.shape[1]} values in a row, expected {math.prod(shape)}; "
                "leave the episode out"
            )
        return values.reshape(-1, *shape)

    def _turned(self, camera: str) -> bool:
        return camera == "wrist" and self.config.turn_wrist

    def _header_rate(self) -> float:
        """Return the rate that all videos claim."""
        rates = {rate for entry in self._entries for rate in entry.rates.values()}
        if len(rates) != 1 or not min(rates) > 0:
            raise DataError(
                f"{self.config.root}: the videos' headers say {sorted(rates)} frames/s, and "
                "clock=header needs one rate; list episodes of one rate with csv, or use "
                "clock=recorded"
            )
        return rates.pop()

    def _digest(self) -> str:
        """Digest names and sizes of what is read, and the options."""
        sizes = [[entry.place.numbers, entry.rows, *entry.sizes] for entry in self._entries]
        config = self.config
        options = [config.state, config.action, config.clock, config.turn_wrist, self.cameras]
        record = json.dumps([VERSION, options, self.lengths, self.tasks, sizes])
        return hashlib.sha256(record.encode()).hexdigest()[:16]


def official_stride(header_fps: int | float, fps: int | float = 4) -> int:
    """Return how many rows V-JEPA 2-AC's loader goes from one frame of a clip to the next.

    It divides the rate in the video's header by the one asked for. With 60 and 4 that is every
    15th row, which is a second in truth, not a quarter.
    """
    return math.ceil(header_fps / fps)


def write_csv(
    root: str | Path,
    out: str | Path,
    outcome: Outcome = "all",
    camera: str = "left",
    shortest: int = 1,
    on_error: OnError = "raise",
    most_skipped: float = 0.01,
) -> int:
    """List episode folders for V-JEPA 2's ``datasets`` or our ``csv``; return how many.

    One full path per line, without a header. Listed are episodes that have the camera and at
    least ``shortest`` frames (V-JEPA 2-AC passes over those shorter than 121, of 8 frames at a
    stride of 15).

    Raises:
        ConfigError: an unknown camera.
        DataError: an episode is broken, or none is left.
    """
    episodes = DroidRawConfig(
        root=root,
        cameras=(camera,),
        action="delta",  # theirs: commands are not needed
        outcome=outcome,
        on_error=on_error,
        most_skipped=most_skipped,
    ).build()
    lines = [
        episodes.folder(i)
        for i, length in enumerate(episodes.lengths)
        if episodes.cameras_of(i) and length >= shortest
    ]
    if not lines:
        raise DataError(
            f"{root} has no episode (of {outcome}) with the camera {camera!r} and {shortest} "
            "frames; lower shortest or choose another camera"
        )
    text = "".join(f'"{line}"\n' if re.search(r"[\s,;]", line) else f"{line}\n" for line in lines)
    write_atomic(Path(out), text)
    return len(lines)
