"""Where a LeRobot data set keeps what: its metadata, its columns, its embedded pictures.

    v3.0  meta/{info.json, tasks.parquet, episodes/*/*.parquet}      many episodes in one file
    v2.x  meta/{info.json, tasks.jsonl, episodes.jsonl}              one episode in one file

``info.json`` says where data and videos lie, as templates. ``layout`` turns either version into
one ``Entry`` per episode; nothing else knows of versions.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Float32, Int, UInt8
from torch import Tensor

from saccade.data.video import decode_image
from saccade.errors import DataError

T = TypeVar("T")

VERSIONS = ("v3.0", "v2.1", "v2.0")
STATE, ACTION = "observation.state", "action"
FIELD = re.compile(r"\{(\w+)(?::0?(\d{1,2})d)?\}")  # all that a path template may contain


@dataclass(frozen=True)
class Entry:
    """Where one episode lies; ``videos`` has the file and the second at which it starts there."""

    index: int
    length: int
    task: str
    success: bool | None
    data: Path
    videos: Mapping[str, tuple[Path, float]]


@dataclass(frozen=True)
class Columns:
    """The numbers of one data file; ``spans`` has the first row and the length of each episode."""

    spans: Mapping[int, tuple[int, int]]
    timestamp: Float32[np.ndarray, " n"]
    state: Float32[np.ndarray, "n s"]
    action: Float32[np.ndarray, "n a"]


def load_info(root: Path) -> tuple[dict[str, Any], Path]:
    """Load ``meta/info.json``; return it with its path.

    Raises:
        DataError: there is none, or it is of a version that we cannot read.
    """
    path = root / "meta" / "info.json"
    if not path.is_file():
        raise DataError(f"{path} is missing; give the folder of a finished LeRobot data set")
    info = _json(path.read_bytes(), path)
    version = info.get("codebase_version")
    if version not in VERSIONS:
        raise DataError(f"{path} is of version {version!r:.20}, readable are {', '.join(VERSIONS)}")
    return info, path


def layout(root: Path, info: Mapping[str, Any], videos: Sequence[str]) -> list[Entry]:
    """Locate every episode and its videos, whatever the version.

    Raises:
        DataError: metadata are missing, contradict themselves, or point outside the root.
    """
    packed, source = info["codebase_version"] == "v3.0", root / "meta"
    rows = _rows_v3(root) if packed else _lines(source / "episodes.jsonl")
    tasks = _tasks(source / ("tasks.parquet" if packed else "tasks.jsonl"))
    rows.sort(key=lambda row: number(row, "episode_index", source))
    indices = {row["episode_index"] for row in rows}
    total = info.get("total_episodes", len(rows))
    if not rows or not len(rows) == len(indices) == total:
        raise DataError(
            f"{source} lists {len(rows)} episodes ({len(indices)} distinct), info.json says "
            f"{total!r:.20}; download or convert the data set again"
        )
    return [_entry(root, info, row, tasks, videos) for row in rows]


def _entry(
    root: Path,
    info: Mapping[str, Any],
    row: Mapping[str, Any],
    tasks: set[str],
    videos: Sequence[str],
) -> Entry:
    source, index = root / "meta", int(row["episode_index"])
    length, fps = int(number(row, "length", source, 1.0)), number(info, "fps", source, 1e-3)
    texts = [t for t in field(row, "tasks", source, list) if isinstance(t, str) and t in tasks]
    if not texts:
        raise DataError(f"{source}: episode {index} has no task of {sorted(tasks)}; download again")
    chunk = index // int(number({"chunks_size": 1000, **info}, "chunks_size", source, 1.0))

    def place(template: str, prefix: str, **more: str | int) -> Path:
        names = [name for name in ("chunk_index", "file_index") if f"{prefix}/{name}" in row]
        more |= {name: int(number(row, f"{prefix}/{name}", source)) for name in names}
        more |= {"episode_index": index, "episode_chunk": chunk}
        return locate(root, field(info, template, source, str), more)

    places = {}
    for key in videos:
        column = f"videos/{key}"
        alone = {f"{column}/from_timestamp": 0.0, f"{column}/to_timestamp": length / fps}
        window = row if info["codebase_version"] == "v3.0" else alone
        start, end = (number(window, name, source) for name in alone)
        if round((end - start) * fps) != length:
            raise DataError(
                f"{source}: episode {index} has {length} frames but {end - start:.4f} s of {key} "
                f"at {fps} Hz; download or convert the data set again"
            )
        places[key] = (place("video_path", column, video_key=key), start)
    success = row.get("success")
    known = success if isinstance(success, bool) else None
    return Entry(index, length, texts[0], known, place("data_path", "data"), places)


def locate(root: Path, template: str, values: Mapping[str, Any]) -> Path:
    """Fill a path template without ``str.format``, which could reach into objects.

    Raises:
        DataError: the template has unknown or unusual fields, or leaves the root.
    """
    try:
        text = FIELD.sub(lambda m: str(values[m[1]]).zfill(int(m[2] or 0)), template)
    except KeyError as error:
        raise DataError(f"{root}: path {template!r} has the unknown field {error}") from error
    path = PurePosixPath(text)
    if "{" in text or "}" in text or path.is_absolute() or ".." in path.parts:
        raise DataError(f"{root}: path {template!r} is refused; it must stay inside the data set")
    return root / path


def load_columns(path: Path, state: int, action: int) -> Columns:
    """Load the numbers of a data file, ``state`` and ``action`` being their widths.

    Raises:
        DataError: the file is damaged, a value is missing or not finite, or rows are out of order.
    """
    widths = {STATE: state, ACTION: action}
    scalars = ("episode_index", "frame_index", "timestamp")
    table = read_parquet(path, [*scalars, *(key for key, width in widths.items() if width)])
    episode, frame, timestamp = (_matrix(table, name, 1, path)[:, 0] for name in scalars)
    numbers = (_matrix(table, k, w, path).astype(np.float32) for k, w in widths.items())
    indices, first, count = np.unique(episode, return_index=True, return_counts=True)
    expected = np.arange(len(frame)) - np.repeat(first, count)
    if np.any(np.diff(episode) < 0) or not np.array_equal(frame, expected):
        raise DataError(f"{path} has rows out of order or lost; download or convert it again")
    spans = zip(first.tolist(), count.tolist(), strict=True)
    spans = dict(zip(indices.astype(int).tolist(), spans, strict=True))
    return Columns(spans, timestamp.astype(np.float32), *numbers)


def load_images(path: Path, key: str, rows: Int[np.ndarray, " t"]) -> UInt8[Tensor, "t 3 h w"]:
    """Decode pictures that are embedded in a data file, loading only the row groups they are in."""
    with _reading(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        groups = range(file.num_row_groups)
        sizes = np.array([file.metadata.row_group(group).num_rows for group in groups])
        ends = np.cumsum(sizes)
        group = np.searchsorted(ends, rows, "right")
        chosen, which = np.unique(group, return_inverse=True)
        before = np.cumsum(sizes[chosen]) - sizes[chosen]
        table = file.read_row_groups(chosen.tolist(), columns=[key])
    within = before[which] + rows - (ends - sizes)[group]
    cells = table[key].take(pa.array(within)).to_pylist()
    data = [(cell and cell.get("bytes")) or b"" for cell in cells]
    named = (f"{path}, row {row}, {key}" for row in rows)
    return torch.stack([decode_image(*pair) for pair in zip(data, named, strict=True)])


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Load a parquet file, or some of its columns.

    Raises:
        DataError: the file or a column is missing, or a checksum or the structure is wrong.
    """
    with _reading(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        absent = set(columns or ()) - set(file.schema_arrow.names)
        if absent:
            raise DataError(f"{path} has no columns {sorted(absent)}; convert it again")
        return file.read(columns=None if columns is None else list(columns))


def _matrix(table: pa.Table, name: str, width: int, path: Path) -> Float[np.ndarray, "n w"]:
    """Convert a column of numbers or (nested) lists to a matrix."""
    if not width:
        return np.zeros((len(table), 0))
    flat = table[name].combine_chunks()
    while pa.types.is_list(flat.type) or pa.types.is_fixed_size_list(flat.type):
        flat = flat.flatten()
    values = flat.to_numpy(zero_copy_only=False).astype(np.float64)
    if len(values) != len(table) * width or not np.isfinite(values).all():
        raise DataError(
            f"{path}, column {name}: {len(values)} numbers ({np.isfinite(values).sum()} finite) "
            f"in {len(table)} rows of {width}; mend or convert the data set"
        )
    return values.reshape(-1, width)


def _rows_v3(root: Path) -> list[dict[str, Any]]:
    files = sorted((root / "meta" / "episodes").rglob("*.parquet"))
    rows = []
    for path in files:
        with _reading(path):
            names = pq.read_schema(path).names
        names = [name for name in names if not name.startswith("stats/")]
        rows += read_parquet(path, names).to_pylist()
    return rows


def _tasks(path: Path) -> set[str]:
    if path.suffix == ".jsonl":
        return {field(line, "task", path, str) for line in _lines(path)}
    with _reading(path):
        names = pq.read_schema(path).names
    column = "task" if "task" in names else "__index_level_0__"  # the index of a pandas table
    return set(read_parquet(path, [column])[column].to_pylist())


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise DataError(f"{path} is missing; download or convert the data set again")
    return [_json(line, path) for line in path.read_bytes().splitlines() if line.strip()]


def _json(raw: bytes, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a JSON {type(value).__name__}, expected an object")
    return value


def field(record: Mapping[str, Any], name: str, path: Path, kind: type[T]) -> T:
    """Return a field that must be there and of a kind; ``path`` says in errors where.

    Raises:
        DataError: it is something else.
    """
    value: Any = record.get(name)
    if not isinstance(value, kind):
        raise _unfit(name, value, path, f"a {kind.__name__}")
    return value


def number(record: Mapping[str, Any], name: str, path: Path, low: float = 0.0) -> float:
    """Return a field that must be a finite number of at least ``low``.

    Raises:
        DataError: it is something else.
    """
    value: Any = record.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value < 2**53:
        raise _unfit(name, value, path, f"a number of at least {low}")
    return float(value)


def _unfit(name: str, value: object, path: Path, expected: str) -> DataError:
    return DataError(
        f"{path}: {name!r} is {value!r:.40}, expected {expected}; "
        "download or convert the data set again"
    )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn errors of Arrow into ours, with the file's name."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read ({error}); download it again") from error
