"""DROID as RLDS, in every release: 1.0.0, 1.0.1 and the first hundred episodes (``droid_100``).

Pictures are 180 x 320, of two cameras beside the robot (numbered by their serial numbers: neither
is always the left one) and one on its wrist. Keys, units and senses are in
``droid_conventions``; what ``features.json`` says of actions is wrong and not used.
https://droid-dataset.github.io/droid/the-droid-dataset
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float32, Float64, Int, Int64, UInt8
from torch import Tensor

from saccade.config import Config
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
    nonidle_ranges,
    with_gripper,
)
from saccade.data.episodes import Episodes
from saccade.data.files.folder import Folder
from saccade.data.rlds.episode import Episode
from saccade.data.rlds.generic import chosen
from saccade.data.rlds.records import Records, RecordsOptions
from saccade.data.rlds.shards import described, scan_shard
from saccade.errors import DataError
from saccade.geometry import euler_xyz_to_matrix

OBSERVED, COMMANDED = "steps/observation/", "steps/action_dict/"
POSE, JOINTS, GRIPPER = "cartesian_position", "joint_position", "gripper_position"
CAMERAS = {
    "exterior_1": "exterior_image_1_left",
    "exterior_2": "exterior_image_2_left",
    "wrist": "wrist_image_left",
}
KEYS = {  # by which DROID is known
    *(OBSERVED + CAMERAS[name] for name in ("exterior_1", "wrist")),
    OBSERVED + POSE,
    COMMANDED + COMMANDS["joint_velocity"],
}
WIDTHS = {"cartesian": 6, "joint": 7, "gripper": 1}  # of every key that has such a name
EXTRINSICS = {"exterior_1": "extrinsics_exterior_cam_1", "exterior_2": "extrinsics_exterior_cam_2"}
LANGUAGE = tuple(f"steps/language_instruction{n}" for n in ("", "_2", "_3"))


@dataclass(frozen=True, kw_only=True)
class DroidConfig(RecordsOptions, Config["Droid"]):
    """Options of ``Droid``, besides those of ``RecordsOptions``.

    Args:
        cameras: of ``exterior_1``, ``exterior_2`` and ``wrist`` (or their names in the files).
        state: the pose of the end effector, or the joints; with the gripper.
        action: what was commanded (a pose or joints to reach, or the step towards them), or the
            measured ``delta`` to the next frame, which is zero at the last one.
        outcome: keep successes, failures, or all; paths of the recordings tell which is which.
        idle: ``drop`` leaves out where the robot stands still, as openpi does. Every range that is
            kept is an episode then.
        turn_wrist: turn the pictures of the wrist by half: which way up they are depends on the
            laboratory.
    """

    format: ClassVar[str] = "droid"
    about: ClassVar[str] = "DROID as RLDS (1.0.0, 1.0.1, droid_100): state, action, outcome, idle"

    cameras: tuple[str, ...] = ()
    state: State = "cartesian"
    action: Action = "cartesian"
    outcome: Literal["all", "success", "failure"] = "all"
    idle: Literal["keep", "drop"] = "keep"
    turn_wrist: bool = False

    @staticmethod
    def recognises(folder: Folder) -> bool:
        """Whether ``features.json`` has DROID's keys."""
        return described(folder).keys() >= KEYS

    def build(self) -> "Droid":
        """Index the records."""
        return Droid(self)


class Droid(Episodes):
    """The episodes of DROID, or with ``idle="drop"`` the parts of them in which the robot moves."""

    def __init__(self, config: DroidConfig) -> None:
        self.config, self.fps = config, FPS
        self.records = Records(config, scans=(scan, checked_scan), keys=_keys(config))
        short = {key: name for name, key in CAMERAS.items()}
        self.skipped = self.records.skipped  # of each record that is left out, why
        known = [n for n, key in CAMERAS.items() if OBSERVED + key in self.records.features]
        wanted = [short.get(name, name) for name in config.cameras]
        self.cameras = chosen(wanted, known, "cameras", str(config.root))
        self.state_names, self.action_names = names(config.state), names(config.action)
        self._parts = self._kept()
        self.lengths = (self._parts[:, 2] - self._parts[:, 1]).tolist()
        self.tasks = [self.records.tasks[record] for record in self._parts[:, 0]]
        self.world_to_camera, self.conventions = {}, conventions(config.action)
        options = [config.state, config.action, config.turn_wrist, self.cameras]
        options += [config.outcome, config.idle]
        self.fingerprint = self.records.digest(json.dumps(options))

    def numbers(
        self, episode: int, frames: Int64[np.ndarray, " t"]
    ) -> tuple[Float32[np.ndarray, "t s"], Float32[np.ndarray, "t a"]]:
        """Return states and actions; the gripper is 1 open, 0 closed (stored the other way)."""
        record, first, _ = self._parts[episode].tolist()
        kind = self.config.action

        def stored(key: str) -> Float32[np.ndarray, "t d"]:
            return self.records.rows(record, [key])

        closed = stored(OBSERVED + GRIPPER)[:, 0]
        body = stored(OBSERVED + (JOINTS if self.config.state == "joint" else POSE))
        if kind == "delta":
            action = measured_delta(stored(OBSERVED + POSE), gripper_open(closed))
        else:
            asked = stored(COMMANDED + GRIPPER)[:, 0]
            action = command(kind, stored(COMMANDED + COMMANDS[kind]), asked)
        state, steps = with_gripper(body, closed), first + frames
        return state[steps].astype(np.float32), action[steps].astype(np.float32)

    def pixels(
        self, episode: int, camera: str, frames: Int64[np.ndarray, " t"]
    ) -> UInt8[Tensor, "t 3 h w"]:
        """Decode the pictures of these steps, and no others."""
        record, first, _ = self._parts[episode].tolist()
        video = self.records.pictures(record, OBSERVED + CAMERAS[camera], first + frames)
        return video.flip(2, 3) if self._turned(camera) else video

    def about(self, episode: int) -> dict[str, Any]:
        """Return outcome, shard and record, all instructions, and the scene where it is known."""
        record, first, end = self._parts[episode].tolist()
        note, source = self.records.note(record), self.records.source(record)
        success, scene = _success(note), _scene(note["metadata"])
        whole = self.config.idle == "keep"
        return {
            "source": source if whole else f"{source}, steps {first} to {end - 1}",
            "tasks": note["tasks"],
            **({} if success is None else {"success": success}),
            **({"scene": scene} if scene else {}),
        }

    def key(self, episode: int) -> str:
        """Return the name by which openpi's lists of ranges know the recording.

        Raises:
            DataError: the record has none.
        """
        record = int(self._parts[episode, 0])
        known = self.records.metadata(record)
        try:
            return f"{known['recording_folderpath']}--{known['file_path']}"
        except KeyError as error:
            raise DataError(
                f"{self.records.where(record)} has no {error} in its metadata, only {[*known]}; "
                "idle=drop needs no names"
            ) from error

    def encoded(
        self, episode: int, camera: str, frames: Int[np.ndarray, " t"]
    ) -> list[bytes] | None:
        """Return the pictures as they are stored, unless they are to be turned."""
        if self._turned(camera):
            return None
        record, first, _ = self._parts[episode].tolist()
        key = OBSERVED + CAMERAS[camera]
        return list(map(bytes, self.records.jpegs(record, key, first + np.asarray(frames))))

    def camera_poses(self, episode: int, camera: str) -> Float64[np.ndarray, "t 4 4"] | None:
        """Return the pose of an exterior camera in the robot base, where it was measured (1.0.1).

        It does not move. Of the wrist camera only one pose is stored, so it is unknown.
        """
        known = self.records.metadata(int(self._parts[episode, 0]))
        values = np.array(known.get(EXTRINSICS.get(camera, ""), []), np.float64)
        if values.shape != (6,) or not values.any() or not np.isfinite(values).all():
            return None
        pose = np.eye(4)
        pose[:3, 3], pose[:3, :3] = values[:3], euler_xyz_to_matrix(values[3:])
        return np.tile(pose, (self.lengths[episode], 1, 1))

    def _turned(self, camera: str) -> bool:
        return self.config.turn_wrist and camera == "wrist"

    def _kept(self) -> Int64[np.ndarray, "n 3"]:
        """Return the parts of records that are episodes: record, first step, end."""
        config, steps = self.config, self.records.steps
        drop = config.idle == "drop"
        parts = [(record, 0, count) for record, count in enumerate(steps)]
        if config.outcome != "all" or drop:
            notes = ((record, self.records.note(record)) for record in range(len(steps)))
            wanted = {"success": (True,), "failure": (False,)}.get(config.outcome)
            parts = [
                (record, first, end)
                for record, note in notes
                if wanted is None or _success(note) in wanted
                for first, end in (note["ranges"] if drop else [(0, steps[record])])
            ]
        if not parts:
            raise DataError(
                f"{config.root} has no episodes with outcome={config.outcome} and "
                f"idle={config.idle}; keep more"
            )
        return np.array(parts, np.int64)


def _keys(config: DroidConfig) -> dict[str, int]:
    """Return what must be there, with its width: what tells DROID, and what is read of it."""
    needed = {OBSERVED + (JOINTS if config.state == "joint" else POSE), OBSERVED + GRIPPER}
    if config.action == "delta":
        needed |= {OBSERVED + POSE}
    else:
        needed |= {COMMANDED + COMMANDS[config.action], COMMANDED + GRIPPER}
    return {key: next((n for name, n in WIDTHS.items() if name in key), 0) for key in KEYS | needed}


def scan(folder: Folder, name: str) -> dict[str, Any]:
    """Scan a shard of DROID."""
    return scan_shard(folder, name, _summary)


def checked_scan(folder: Folder, name: str) -> dict[str, Any]:
    """Scan a shard of DROID and compare all of it with its checksums."""
    return scan_shard(folder, name, _summary, check=True)


def _summary(episode: Episode) -> dict[str, Any]:
    """Return the first instruction; all of them, and where the robot moves."""
    texts = (text for key in LANGUAGE if key in episode for text in episode.texts(key))
    tasks = list(dict.fromkeys(filter(None, texts)))
    velocity = episode.numbers(COMMANDED + COMMANDS["joint_velocity"]).astype(np.float64)
    ranges = nonidle_ranges(velocity.reshape(-1, 7))
    return {"task": next(iter(tasks), ""), "tasks": tasks, "ranges": ranges}


def _success(note: Mapping[str, Any]) -> bool | None:
    """Return the outcome, which only the path of the recording tells."""
    path = note["metadata"].get("file_path", "")
    return True if "/success/" in path else False if "/failure/" in path else None


def _scene(metadata: Mapping[str, Any]) -> str:
    """Return what names the place of a recording, where 1.0.1 says it."""
    building, scene = metadata.get("building", ""), metadata.get("scene_id", -1)
    return f"{building}/{scene}" if building and isinstance(scene, int) and scene >= 0 else ""
