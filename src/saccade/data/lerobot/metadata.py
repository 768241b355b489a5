"""What a LeRobot v3.0 data set says of itself: names, info.json, tasks, statistics of indices.

https://github.com/huggingface/lerobot (layout of version 3.0)
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from saccade.data.lerobot.tables import ACTION, STATE, TIME
from saccade.data.passes.statistics import QUANTILES, describe_counts, to_lists
from saccade.data.video.codec import CODEC, PIXELS

CHUNK, DATA_MB, VIDEO_MB = 1000, 100, 200  # files of a folder, megabytes of a file
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
SCALARS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
LOSSLESS = "gbrp"  # the pixel format of lossless RGB


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What all episodes of a data set have in common.

    Args:
        fps: frames per second.
        robot: its name.
        state_names: one per dimension.
        action_names: one per dimension.
        cameras: (height, width) of each.
        extra: kept under ``saccade`` in info.json.
        pictures: cameras whose frames are embedded JPEG or PNG pictures, not video.
        exact: whether video is lossless.
        timed: whether every frame has a recorded time.
        mixed: whether frames of an episode may have another size than ``cameras`` says.
        made_from: what the data set is made of and how; whoever resumes must agree.
    """

    fps: float
    robot: str
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    cameras: Mapping[str, tuple[int, ...]]
    extra: Mapping[str, Any]
    pictures: tuple[str, ...] = ()
    exact: bool = False
    timed: bool = False
    mixed: bool = False
    made_from: Mapping[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """Return what episodes must agree on to be put together, as JSON values."""
        values = {key: value for key, value in vars(self).items() if key != "extra"}
        return json.loads(json.dumps(values))

    @property
    def videos(self) -> list[str]:
        """Return the cameras that are stored as video."""
        return [camera for camera in self.cameras if camera not in self.pictures]


def video_key(camera: str) -> str:
    """Return the feature's name of a camera."""
    return f"observation.images.{camera}"


def info_json(contents: Contents, episodes: int, frames: int, tasks: int) -> dict[str, Any]:
    """Compose ``info.json``."""
    fps = int(contents.fps) if float(contents.fps).is_integer() else contents.fps
    features: dict[str, Any] = {}
    for name, names in ((STATE, contents.state_names), (ACTION, contents.action_names)):
        if names:
            features[name] = {"dtype": "float32", "shape": [len(names)], "names": list(names)}
    for camera, (height, width) in contents.cameras.items():
        axes = {"shape": [height, width, 3], "names": ["height", "width", "channels"]}
        about = {"height": height, "width": width, "codec": CODEC}
        about |= {"pix_fmt": LOSSLESS if contents.exact else PIXELS}
        about |= {"is_depth_map": False, "fps": fps, "channels": 3}
        video = {f"video.{key}": value for key, value in about.items()} | {"has_audio": False}
        features[video_key(camera)] = (
            {"dtype": "image", **axes}
            if camera in contents.pictures
            else {"dtype": "video", **axes, "info": video}
        )
    if contents.timed:
        features[TIME] = {"dtype": "float64", "shape": [1], "names": None}
    for name in SCALARS:
        dtype = "float32" if name == "timestamp" else "int64"
        features[name] = {"dtype": dtype, "shape": [1], "names": None}
    made_from = {"made_from": dict(contents.made_from)} if contents.made_from else {}
    return {
        "codebase_version": "v3.0",
        "robot_type": contents.robot,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": CHUNK,
        "data_files_size_in_mb": DATA_MB,
        "video_files_size_in_mb": VIDEO_MB,
        "fps": fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if contents.videos else None,
        "features": features,
        "saccade": dict(contents.extra) | made_from,
    }


def write_tasks(path: Path, tasks: Sequence[str]) -> None:
    """Write the instructions as the index of a pandas table: there LeRobot looks them up."""
    index = {"name": None, "field_name": "__index_level_0__", "metadata": None}
    index |= {"pandas_type": "unicode", "numpy_type": "object"}
    number = {"name": "task_index", "field_name": "task_index", "metadata": None}
    number |= {"pandas_type": "int64", "numpy_type": "int64"}
    axis = {"name": None, "field_name": None, "metadata": {"encoding": "UTF-8"}}
    axis |= {"pandas_type": "unicode", "numpy_type": "object"}
    pandas = {
        "index_columns": ["__index_level_0__"],
        "column_indexes": [axis],
        "columns": [number, index],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.3",
    }
    texts = pa.array(tasks, pa.large_string())
    columns = {"task_index": pa.array(range(len(tasks)), pa.int64()), "__index_level_0__": texts}
    pq.write_table(pa.table(columns, metadata={"pandas": json.dumps(pandas)}), path)


def describe_scalars(
    fps: float, lengths: Int64[np.ndarray, " n"], tasks: Int64[np.ndarray, " n"]
) -> dict[str, dict[str, list]]:
    """Describe the columns that all sets have, from the episodes' lengths and task numbers."""
    total, steps = int(lengths.sum()), np.arange(lengths.max())
    longer = len(lengths) - np.searchsorted(np.sort(lengths), steps, "right")
    times = (steps / fps).astype(np.float32).astype(np.float64)
    numbers, frames = np.arange(len(lengths)), np.zeros(tasks.max() + 1, np.int64)
    np.add.at(frames, tasks, lengths)
    shares = {name: np.array([share * (total - 1)]) for name, share in QUANTILES.items()}
    index = {
        "min": np.array([0]),
        "max": np.array([total - 1]),
        "mean": np.array([(total - 1) / 2]),
        "std": np.array([np.sqrt((total**2 - 1) / 12)]),
        "count": np.array([total]),
    }
    described = (
        describe_counts(times, longer),
        describe_counts(steps, longer),
        describe_counts(numbers, lengths),
        index | shares,
        describe_counts(np.arange(len(frames)), frames),
    )
    return {name: to_lists(found) for name, found in zip(SCALARS, described, strict=True)}
