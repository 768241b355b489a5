"""Put staged episodes together as a LeRobot v3.0 data set: columns, packing and metadata.

Episodes follow one another in files of bounded size, data and each camera on their own; where an
episode lies is a row of ``meta/episodes``. Numbers get one row group per episode and page
checksums; videos are joined without encoding again.
https://github.com/huggingface/lerobot (layout of version 3.0)
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int64

from saccade.checkpoint import write_atomic
from saccade.data.lerobot import LeRobotConfig
from saccade.data.lerobot_files import ACTION, STATE, read_parquet
from saccade.data.statistics import PixelCounts, describe, to_lists
from saccade.data.video import CODEC, PIXELS, concatenate
from saccade.errors import DataError

CHUNK, DATA_MB, VIDEO_MB = 1000, 100, 200  # files of a folder, megabytes of a file
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
SCALARS = ("timestamp", "frame_index", "episode_index", "index", "task_index")


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What all episodes of a data set have in common; ``cameras`` has (height, width)."""

    fps: float
    robot: str
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    cameras: Mapping[str, tuple[int, ...]]
    extra: Mapping[str, Any]

    def settings(self) -> dict[str, Any]:
        """Return what episodes must agree on to be put together, as JSON values."""
        values = {key: value for key, value in vars(self).items() if key != "extra"}
        return json.loads(json.dumps(values))


@dataclass(frozen=True)
class Staged:
    """One episode on its way into the data set."""

    folder: Path
    task: str
    success: bool | None
    numbers: pa.Table  # state, action, timestamp and frame_index
    pixels: Mapping[str, PixelCounts]

    @property
    def length(self) -> int:
        """Number of frames."""
        return len(self.numbers)


def load_staged(folder: Path) -> Staged:
    """Load what ``LeRobotWriter.write_episode`` staged."""
    record = json.loads((folder / "episode.json").read_text())
    pixels = {
        camera: PixelCounts(record["length"], np.array(counts, np.int64))
        for camera, counts in record["pixels"].items()
    }
    numbers = read_parquet(folder / "rows.parquet")
    return Staged(folder, record["task"], record["success"], numbers, pixels)


def assemble(root: Path, contents: Contents, episodes: Sequence[Staged]) -> None:
    """Write the data set under an empty root, ``info.json`` last."""
    tasks = list(dict.fromkeys(episode.task for episode in episodes))
    tables = _tables(episodes, tasks)
    rows = [
        {"episode_index": i, "tasks": [episode.task], "length": episode.length}
        for i, episode in enumerate(episodes)
    ]
    _write_data(root, tables, rows)
    for camera in contents.cameras:
        _write_videos(
            root, _video_key(camera), [e.folder / f"{camera}.mp4" for e in episodes], rows
        )
    pixels = [{_video_key(c): counts for c, counts in e.pixels.items()} for e in episodes]
    for row, episode, table, counts in zip(rows, episodes, tables, pixels, strict=True):
        for feature, statistics in _statistics(table, counts).items():
            row |= {f"stats/{feature}/{name}": value for name, value in statistics.items()}
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        row["success"] = episode.success
    _write_meta(root, tasks, rows)
    total = {key: sum((p[key] for p in pixels), PixelCounts()) for key in pixels[0]}
    statistics = _statistics(pa.concat_tables(tables), total)
    write_atomic(root / "meta" / "stats.json", json.dumps(statistics, indent=4))
    info = _info(contents, len(episodes), sum(episode.length for episode in episodes), len(tasks))
    write_atomic(root / "meta" / "info.json", json.dumps(info, indent=4))


def verify(root: Path, lengths: Sequence[int]) -> None:
    """Read the numbers and the last frame of every episode back.

    Raises:
        DataError: something is missing or cannot be read.
    """
    data = LeRobotConfig(root=root).build()
    if data.lengths != list(lengths):
        raise DataError(f"{root} has episodes of {data.lengths} frames, expected {list(lengths)}")
    for episode, length in enumerate(lengths):
        for camera in data.cameras:
            data.read(episode, np.array([length - 1]), (camera,))
        data.read(episode, np.arange(length), ())


def to_table(
    state: Float[np.ndarray, "t s"], action: Float[np.ndarray, "t a"], fps: float
) -> pa.Table:
    """Convert one episode to the columns that do not depend on its place in the data set."""
    steps = np.arange(len(state))
    arrays = {name: rows for name, rows in ((STATE, state), (ACTION, action)) if rows.shape[1]}
    columns = {name: _column(rows) for name, rows in arrays.items()}
    times = (steps / fps).astype(np.float32)
    return pa.table(columns | {"timestamp": pa.array(times), "frame_index": pa.array(steps)})


def _column(rows: Float[np.ndarray, "t d"]) -> pa.Array:
    """Convert rows to LeRobot's column type: lists of fixed size, or numbers where that is 1."""
    flat, width = pa.array(rows.astype(np.float32).ravel()), rows.shape[1]
    return flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width)


def _tables(episodes: Sequence[Staged], tasks: Sequence[str]) -> list[pa.Table]:
    """Complete the numbers of each episode with the columns that every data set has."""
    tables, first = [], 0
    for number, episode in enumerate(episodes):
        steps = np.arange(episode.length)
        same = np.ones_like(steps)
        columns = (number * same, first + steps, tasks.index(episode.task) * same)
        table = episode.numbers
        for name, column in zip(SCALARS[2:], columns, strict=True):
            table = table.append_column(name, pa.array(column))
        tables.append(table)
        first += episode.length
    return tables


def _packed(sizes: Sequence[int], megabytes: int) -> list[list[int]]:
    """Fill files with consecutive episodes up to a size; each holds at least one."""
    files, filled = [[0]], sizes[0]
    for episode, size in enumerate(sizes[1:], 1):
        if filled + size > megabytes * 10**6:
            files.append([])
            filled = 0
        files[-1].append(episode)
        filled += size
    return files


def _write_data(root: Path, tables: Sequence[pa.Table], rows: Sequence[dict[str, Any]]) -> None:
    files = _packed([table.nbytes for table in tables], DATA_MB)
    for number, members in enumerate(files):
        place = dict(zip(("chunk_index", "file_index"), divmod(number, CHUNK), strict=True))
        path = root / DATA_PATH.format(**place)
        path.parent.mkdir(parents=True, exist_ok=True)
        schema = tables[0].schema
        with pq.ParquetWriter(path, schema, write_page_checksum=True) as writer:
            for episode in members:
                writer.write_table(tables[episode])  # one row group
                start = tables[episode]["index"][0].as_py()
                rows[episode].update({f"data/{key}": value for key, value in place.items()})
                rows[episode]["dataset_from_index"] = start
                rows[episode]["dataset_to_index"] = start + len(tables[episode])


def _write_videos(
    root: Path, key: str, paths: Sequence[Path], rows: Sequence[dict[str, Any]]
) -> None:
    for number, members in enumerate(_packed([path.stat().st_size for path in paths], VIDEO_MB)):
        place = dict(zip(("chunk_index", "file_index"), divmod(number, CHUNK), strict=True))
        out = root / VIDEO_PATH.format(video_key=key, **place)
        out.parent.mkdir(parents=True, exist_ok=True)
        spans = concatenate([paths[episode] for episode in members], out)
        for episode, (start, end) in zip(members, spans, strict=True):
            values = place | {"from_timestamp": start, "to_timestamp": end}
            rows[episode].update({f"videos/{key}/{name}": v for name, v in values.items()})


def _statistics(table: pa.Table, pixels: Mapping[str, PixelCounts]) -> dict[str, dict[str, list]]:
    """Describe every feature, numbers first, then cameras, then the columns all sets have."""
    numbers = {name: to_lists(describe(_matrix(table[name]))) for name in table.column_names}
    cameras = {key: to_lists(counts.describe()) for key, counts in pixels.items()}
    scalars = {name: numbers.pop(name) for name in SCALARS}
    return numbers | cameras | scalars


def _matrix(column: pa.ChunkedArray) -> Float[np.ndarray, "n d"] | Int64[np.ndarray, "n d"]:
    flat = column.combine_chunks()
    lists = pa.types.is_fixed_size_list(flat.type)
    values = flat.flatten() if lists else flat
    return values.to_numpy(zero_copy_only=False).reshape(len(column), -1)


def _write_meta(root: Path, tasks: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    path = root / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    path.parent.mkdir(parents=True)
    table = pa.Table.from_pylist(list(rows))
    success = table.column_names.index("success")  # all None would be a column without a type
    table = table.set_column(success, "success", table["success"].cast(pa.bool_()))
    pq.write_table(table, path, write_page_checksum=True)

    index = {"name": None, "field_name": "__index_level_0__", "metadata": None}
    index |= {"pandas_type": "unicode", "numpy_type": "object"}
    number = {"name": "task_index", "field_name": "task_index", "metadata": None}
    number |= {"pandas_type": "int64", "numpy_type": "int64"}
    axis = {"name": None, "field_name": None, "metadata": {"encoding": "UTF-8"}}
    axis |= {"pandas_type": "unicode", "numpy_type": "object"}
    pandas = {  # LeRobot looks tasks up in the index of a pandas table
        "index_columns": ["__index_level_0__"],
        "column_indexes": [axis],
        "columns": [number, index],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.3",
    }
    metadata = {"pandas": json.dumps(pandas)}
    texts = pa.array(tasks, pa.large_string())
    columns = {"task_index": pa.array(range(len(tasks)), pa.int64()), "__index_level_0__": texts}
    named = pa.table(columns, metadata=metadata)
    pq.write_table(named, root / "meta" / "tasks.parquet")


def _info(contents: Contents, episodes: int, frames: int, tasks: int) -> dict[str, Any]:
    fps = int(contents.fps) if float(contents.fps).is_integer() else contents.fps
    features: dict[str, Any] = {}
    for name, names in ((STATE, contents.state_names), (ACTION, contents.action_names)):
        if names:
            features[name] = {"dtype": "float32", "shape": [len(names)], "names": list(names)}
    for camera, (height, width) in contents.cameras.items():
        about = {"height": height, "width": width, "codec": CODEC, "pix_fmt": PIXELS}
        about |= {"is_depth_map": False, "fps": fps, "channels": 3}
        features[_video_key(camera)] = {
            "dtype": "video",
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
            "info": {f"video.{key}": value for key, value in about.items()} | {"has_audio": False},
        }
    for name in SCALARS:
        dtype = "float32" if name == "timestamp" else "int64"
        features[name] = {"dtype": dtype, "shape": [1], "names": None}
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
        "video_path": VIDEO_PATH if contents.cameras else None,
        "features": features,
        "saccade": dict(contents.extra),
    }


def _video_key(camera: str) -> str:
    return f"observation.images.{camera}"
