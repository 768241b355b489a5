"""LeRobot data sets, v3.0 and v2.x: parquet for numbers, MP4 for pixels, JSON for the rest.

Camera ``front`` is the feature ``observation.images.front``; the features ``observation.state``
and ``action`` may be missing (width 0). The numbers of a file are loaded once and kept, videos
are decoded when read. https://github.com/huggingface/lerobot
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8
from torch import Tensor

from saccade.config import Config
from saccade.data.episodes import Episodes
from saccade.data.folder import Folder
from saccade.data.lerobot_files import (
    ACTION,
    STATE,
    Columns,
    Entry,
    field,
    layout,
    load_columns,
    load_images,
    load_info,
    number,
)
from saccade.data.video import decode
from saccade.errors import DataError

LARGEST = 4096  # dimensions of a state or action; more is a damaged file


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
        root = Path(config.root)
        info, path = load_info(root)
        self.fps = number(info, "fps", path, 1e-3)
        features = field(info, "features", path, dict)
        features = {key: field(features, key, path, dict) for key in features}
        keys = {camera_name(key): key for key, value in features.items() if _is_camera(value)}
        unknown = set(config.cameras) - keys.keys()
        if unknown:
            raise DataError(f"{root} has no cameras {sorted(unknown)}; it has {sorted(keys)}")
        self.cameras = config.cameras or tuple(keys)
        self._keys = {camera: keys[camera] for camera in self.cameras}
        videos = [key for key in keys.values() if features[key]["dtype"] == "video"]
        self._entries = layout(root, info, videos)
        self.lengths = [entry.length for entry in self._entries]
        self.tasks = [entry.task for entry in self._entries]
        self.state_names = _names(features.get(STATE), "state", path)
        self.action_names = _names(features.get(ACTION), "action", path)
        self.world_to_camera = _rotations(info, self.cameras, path)
        self.fingerprint = self._digest(path)
        self._columns: dict[Path, Columns] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_columns": {}}  # a worker loads what it reads

    def numbers(
        self, episode: int, frames: Int64[np.ndarray, " t"]
    ) -> tuple[Float32[np.ndarray, "t s"], Float32[np.ndarray, "t a"]]:
        """Return rows of the episode's data file."""
        columns, first = self._numbers(self._entries[episode])
        return columns.state[first + frames], columns.action[first + frames]

    def pixels(
        self, episode: int, camera: str, frames: Int64[np.ndarray, " t"]
    ) -> UInt8[Tensor, "t 3 h w"]:
        """Decode frames from the camera's video, or from pictures beside the numbers."""
        entry, key = self._entries[episode], self._keys[camera]
        if key not in entry.videos:
            _, first = self._numbers(entry)
            return load_images(entry.data, key, first + frames)
        path, start = entry.videos[key]
        return decode(path, frames, self.fps, start)

    def timestamps(self, episode: int) -> Float64[np.ndarray, " t"]:
        """Return the recorded times, in seconds from the episode's start."""
        columns, first = self._numbers(self._entries[episode])
        return columns.timestamp[first : first + self.lengths[episode]].astype(np.float64)

    def about(self, episode: int) -> dict[str, Any]:
        """Return the outcome that our writer recorded."""
        success = self._entries[episode].success
        return {} if success is None else {"success": success}

    def _numbers(self, entry: Entry) -> tuple[Columns, int]:
        """Return the columns of an episode's file, loaded once, and its first row there."""
        if entry.data not in self._columns:
            widths = len(self.state_names), len(self.action_names)
            self._columns[entry.data] = load_columns(entry.data, *widths)
        columns = self._columns[entry.data]
        first, count = columns.spans.get(entry.index, (0, 0))
        if count != entry.length:
            raise DataError(
                f"{entry.data} has {count} rows of episode {entry.index}, its metadata say "
                f"{entry.length}; download or convert the data set again"
            )
        return columns, first

    def _digest(self, info: Path) -> str:
        """Digest what the data set says of itself and the size of every file.

        Raises:
            DataError: a file that will be read is missing.
        """
        needed = {entry.data for entry in self._entries}
        files = set(needed)
        for entry in self._entries:
            files |= {path for path, _ in entry.videos.values()}
            needed |= {
                path for key, (path, _) in entry.videos.items() if key in self._keys.values()
            }
        missing = sorted(path for path in needed if not path.is_file())
        if missing:
            raise DataError(
                f"{missing[0]} is missing ({len(missing)} files are); download it again"
            )
        sizes = [path.stat().st_size if path.is_file() else None for path in sorted(files)]
        record = json.dumps([self.lengths, sizes]).encode()
        return hashlib.sha256(info.read_bytes() + record).hexdigest()[:16]


def camera_name(key: str) -> str:
    """Shorten ``observation.images.front`` to ``front``."""
    return key.removeprefix("observation.").removeprefix("images.")


def _is_camera(feature: Mapping[str, Any]) -> bool:
    about = feature.get("info") or feature.get("video_info")
    depth = isinstance(about, dict) and about.get("video.is_depth_map")
    return feature.get("dtype") in ("video", "image") and not depth


def _names(feature: Mapping[str, Any] | None, kind: str, path: Path) -> tuple[str, ...]:
    """Name each dimension; where the data set does not, by number."""
    if feature is None:
        return ()
    shape, names = field(feature, "shape", path, list), feature.get("names")
    if not all(isinstance(n, int) and 0 < n <= LARGEST for n in shape) or len(shape) > 2:
        raise DataError(f"{path}: the {kind} has the shape {shape!r:.40}, expected a small one")
    width = math.prod(shape)
    if isinstance(names, dict):  # {"motors": [...]} or {"x": 0, ...}
        lists = [value for value in names.values() if isinstance(value, list)]
        names = list(chain(*lists)) if lists else list(names)
    texts = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return tuple(texts if len(texts) == width else (f"{kind}_{i}" for i in range(width)))


def _rotations(
    info: Mapping[str, Any], cameras: Sequence[str], path: Path
) -> dict[str, Float64[np.ndarray, "3 3"]]:
    """Return the rotations of cameras that our writer recorded."""
    ours = field({"saccade": {}, **info}, "saccade", path, dict)
    known = field({"cameras": {}, **ours}, "cameras", path, dict)
    about = {name: field(known, name, path, dict) for name in cameras if name in known}
    given = {name: field(a, "world_to_camera", path, list) for name, a in about.items()}
    return {name: _rotation(rows, path) for name, rows in given.items()}


def _rotation(rows: list, path: Path) -> Float64[np.ndarray, "3 3"]:
    flat = [number for row in rows if isinstance(row, list) for number in row]
    if len(rows) != 3 or len(flat) != 9 or not all(isinstance(n, (int, float)) for n in flat):
        raise DataError(f"{path}: world_to_camera is {rows!r:.60}, expected 3 rows of 3 numbers")
    return np.array(flat, np.float64).reshape(3, 3)
