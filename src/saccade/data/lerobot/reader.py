"""LeRobot data sets, v3.0 and v2.x: parquet for numbers, MP4 for pixels, JSON for the rest.

Camera ``front`` is the feature ``observation.images.front``; the features ``observation.state``
and ``action`` may be missing (width 0). Metadata are read when a data set is opened; tables are
loaded and videos decoded when frames of them are asked for. https://github.com/huggingface/lerobot
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, Float64, Int, Int64, UInt8
from torch import Tensor

from saccade.config import Config
from saccade.data.episodes import Episodes
from saccade.data.files.folder import Folder, open_folder
from saccade.data.lerobot.layout import layout, load_info, number, required
from saccade.data.lerobot.tables import ACTION, STATE, Columns, Tables
from saccade.data.truth import SceneTruth
from saccade.data.video.codec import decode
from saccade.data.video.images import decode_images
from saccade.errors import DataError

LARGEST = 4096  # dimensions of a state or action; more is a damaged file
TRUTH = "truth/{camera}/episode-{number:06d}.safetensors"
CHECKED = 2000  # files up to which each is looked for when a data set is opened


@dataclass(frozen=True, kw_only=True)
class LeRobotConfig(Config["LeRobot"]):
    """``root`` holds ``meta/info.json``; ``cameras`` are names like ``front``, empty for all."""

    format: ClassVar[str] = "lerobot"
    about: ClassVar[str] = "LeRobot v3.0, v2.1 and v2.0: meta/info.json, parquet, MP4 or pictures"

    root: str | Path
    cameras: tuple[str, ...] = ()

    @staticmethod
    def recognises(folder: Folder) -> bool:
        """Whether there is a ``meta/info.json``."""
        return "meta/info.json" in folder

    def build(self) -> "LeRobot":
        """Index the episodes."""
        return LeRobot(self)


class LeRobot(Episodes):
    """Every episode of one data set, in the order of its index.

    An episode with several instructions is known by its first.
    """

    def __init__(self, config: LeRobotConfig) -> None:
        self._folder = folder = open_folder(config.root)
        info, label = load_info(folder), folder.label("meta/info.json")
        self.fps = number(info, "fps", label, 1e-3)
        features = required(info, "features", label, dict)
        features = {key: required(features, key, label, dict) for key in features}
        keys = {camera_name(key): key for key, value in features.items() if _is_camera(value)}
        unknown = set(config.cameras) - keys.keys()
        if unknown:
            raise DataError(
                f"{folder.root} has no cameras {sorted(unknown)}; it has {sorted(keys)}"
            )
        self.cameras = config.cameras or tuple(keys)
        self._keys = {camera: keys[camera] for camera in self.cameras}
        videos = [key for key in keys.values() if features[key]["dtype"] == "video"]
        self._layout = layout(folder, info, videos)
        self.lengths, self.tasks = self._layout.lengths, self._layout.tasks
        self.state_names = _names(features.get(STATE), "state", label)
        self.action_names = _names(features.get(ACTION), "action", label)
        self.world_to_camera = _rotations(info, self.cameras, label)
        self.fingerprint = self._digest(videos)
        self._tables: Tables | None = None
        self._last: tuple[int, Columns] | None = None  # a sample asks twice for one episode

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tables": None, "_last": None}  # a worker opens what it reads

    def numbers(
        self, episode: int, frames: Int64[np.ndarray, " t"]
    ) -> tuple[Float32[np.ndarray, "t s"], Float32[np.ndarray, "t a"]]:
        """Return rows of the episode's data file."""
        last = self._last
        if last is None or last[0] != episode:
            last = self._last = episode, self._files().numbers(*self._place(episode))
        return last[1].state[frames], last[1].action[frames]

    def pixels(
        self, episode: int, camera: str, frames: Int64[np.ndarray, " t"]
    ) -> UInt8[Tensor, "t 3 h w"]:
        """Decode frames from the camera's video, or from pictures beside the numbers."""
        key = self._keys[camera]
        if key in self._layout.starts:
            name, start = self._layout.video(key, episode)
            return decode(self._folder.path(name), frames, self.fps, start)
        label = self._folder.label(self._layout.data(episode))
        return decode_images(
            self._pictures(episode, key, frames),
            lambda i: f"{label}, episode {episode}, frame {frames[i]}, {key}",
        )

    def encoded(
        self, episode: int, camera: str, frames: Int[np.ndarray, " t"]
    ) -> list[bytes] | None:
        """Return embedded pictures as they are stored; None where the camera has a video."""
        key = self._keys[camera]
        embedded = key not in self._layout.starts
        return self._pictures(episode, key, np.asarray(frames, np.int64)) if embedded else None

    def timestamps(self, episode: int) -> Float64[np.ndarray, " t"]:
        """Return the recorded times, in seconds from the episode's start."""
        return self._files().numbers(*self._place(episode)).timestamp

    def about(self, episode: int) -> dict[str, Any]:
        """Return what our writer recorded, and every instruction where there are several."""
        return dict(self._layout.about.get(episode, {}))

    def truth(self, episode: int, camera: str) -> SceneTruth | None:
        """Read what ``saccade collect --truth`` recorded beside the camera's video.

        Raises:
            DataError: the file is missing or damaged, or has another number of frames.
        """
        folder, length = self._folder, self.lengths[episode]
        name = TRUTH.format(camera=camera, number=int(self._layout.index[episode]))
        if name not in folder and not folder.children(f"truth/{camera}"):
            return None
        truth = SceneTruth.load(folder.path(name))
        if len(truth.depth) != length:
            raise DataError(
                f"{folder.label(name)} has {len(truth.depth)} frames, but the episode {length}; "
                "collect it again"
            )
        return truth

    def _files(self) -> Tables:
        if self._tables is None or self._tables.process != os.getpid():
            self._tables = Tables(self._folder, len(self.state_names), len(self.action_names))
        return self._tables

    def _place(self, episode: int) -> tuple[str, int, int]:
        index = int(self._layout.index[episode])
        return self._layout.data(episode), index, self.lengths[episode]

    def _pictures(self, episode: int, key: str, frames: Int64[np.ndarray, " t"]) -> list[bytes]:
        name, index, length = self._place(episode)
        return self._files().pictures(name, key, index, length, frames)

    def _digest(self, videos: Sequence[str]) -> str:
        """Digest what the data set says of itself, and the sizes of its files if they are few.

        Looking at every file of 100,000 would take minutes where storage is remote: there a file
        that is missing is an error when it is read.

        Raises:
            DataError: a file that will be read is missing.
        """
        folder = self._folder
        used = [key for key in videos if key in self._keys.values()]
        needed, files = (self._layout.files(keys, CHECKED) for keys in (used, videos))
        missing = sorted(name for name in needed or () if name not in folder)
        if missing:
            raise DataError(
                f"{folder.label(missing[0])} is missing ({len(missing)} files are); "
                "download it again"
            )
        sizes = [folder.size(name) if name in folder else None for name in sorted(files or ())]
        record = json.dumps([self.lengths, self.tasks, sizes]).encode()
        return hashlib.sha256(folder.read("meta/info.json") + record).hexdigest()[:16]


def camera_name(key: str) -> str:
    """Shorten ``observation.images.front`` to ``front``."""
    return key.removeprefix("observation.").removeprefix("images.")


def _is_camera(feature: Mapping[str, Any]) -> bool:
    about = feature.get("info") or feature.get("video_info")
    depth = isinstance(about, dict) and about.get("video.is_depth_map")
    return feature.get("dtype") in ("video", "image") and not depth


def _names(feature: Mapping[str, Any] | None, kind: str, label: str) -> tuple[str, ...]:
    """Name each dimension; where the data set does not, by number."""
    if feature is None:
        return ()
    shape, names = required(feature, "shape", label, list), feature.get("names")
    if not all(isinstance(n, int) and 0 < n <= LARGEST for n in shape) or len(shape) > 2:
        raise DataError(f"{label}: the {kind} has the shape {shape!r:.40}, expected a small one")
    width = math.prod(shape)
    if isinstance(names, dict):  # {"motors": [...]} or {"x": 0, ...}
        lists = [value for value in names.values() if isinstance(value, list)]
        names = list(chain(*lists)) if lists else list(names)
    texts = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return tuple(texts if len(texts) == width else (f"{kind}_{i}" for i in range(width)))


def _rotations(
    info: Mapping[str, Any], cameras: Sequence[str], label: str
) -> dict[str, Float64[np.ndarray, "3 3"]]:
    """Return the rotations of cameras that our writer recorded."""
    ours = required({"saccade": {}, **info}, "saccade", label, dict)
    known = required({"cameras": {}, **ours}, "cameras", label, dict)
    about = {name: required(known, name, label, dict) for name in cameras if name in known}
    given = {name: required(a, "world_to_camera", label, list) for name, a in about.items()}
    return {name: _rotation(rows, label) for name, rows in given.items()}


def _rotation(rows: list, label: str) -> Float64[np.ndarray, "3 3"]:
    flat = [number for row in rows if isinstance(row, list) for number in row]
    if len(rows) != 3 or len(flat) != 9 or not all(isinstance(n, (int, float)) for n in flat):
        raise DataError(f"{label}: world_to_camera is {rows!r:.60}, expected 3 rows of 3 numbers")
    return np.array(flat, np.float64).reshape(3, 3)
