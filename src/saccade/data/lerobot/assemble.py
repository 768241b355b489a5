"""Put staged episodes together as a LeRobot v3.0 data set: columns, packing and metadata.

Episodes follow one another in files of bounded size, data and each camera on their own; where an
episode lies is a row of ``meta/episodes``. Numbers get one row group per episode and page
checksums; videos are joined without encoding again. One episode is in memory at a time.
https://github.com/huggingface/lerobot (layout of version 3.0)
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Float64, Int64

from saccade.checkpoint import write_atomic
from saccade.data.lerobot.metadata import (
    CHUNK,
    DATA_MB,
    DATA_PATH,
    SCALARS,
    VIDEO_MB,
    VIDEO_PATH,
    Contents,
    describe_scalars,
    info_json,
    video_key,
    write_tasks,
)
from saccade.data.lerobot.reader import LeRobotConfig
from saccade.data.lerobot.tables import ACTION, STATE, TIME, read_parquet
from saccade.data.passes.statistics import Numbers, PixelCounts, describe, to_lists
from saccade.data.video.codec import concatenate
from saccade.errors import DataError
from saccade.progress import progress

META_FILE, META_GROUP = 10_000, 1000  # episodes of a file and of a row group of ``meta/episodes``
PICTURE_GROUP = 32  # rows of a row group that holds pictures: what one random frame costs
SAMPLE = 200  # episodes whose pictures are read back
META_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
OURS = {"success": pa.bool_(), "scene": pa.string(), "source": pa.string()}  # beside LeRobot's


class Staged(NamedTuple):
    """One episode on its way into the data set; ``tasks`` has every instruction, first the main."""

    folder: Path
    tasks: tuple[str, ...]
    length: int
    nbytes: int
    sizes: dict[str, list[int]]  # of the frames of each camera

    def record(self) -> dict[str, Any]:
        """Load everything that was staged but numbers and pixels."""
        return json.loads((self.folder / "episode.json").read_text())


class Places(NamedTuple):
    """In which file each episode lies, and there, between which seconds or rows."""

    files: Int64[np.ndarray, " n"]
    spans: Float64[np.ndarray, "n 2"] | Int64[np.ndarray, "n 2"]


def load_staged(folder: Path) -> Staged:
    """Load what ``LeRobotWriter.write_episode`` staged, less what is long."""
    record = json.loads((folder / "episode.json").read_text())
    values = (record[name] for name in ("length", "nbytes", "sizes"))
    return Staged(folder, tuple(record["tasks"]), *values)


def assemble(root: Path, contents: Contents, episodes: Sequence[Staged]) -> None:
    """Write the data set under an empty root, ``info.json`` last."""
    tasks = {text: i for i, text in enumerate(dict.fromkeys(t for e in episodes for t in e.tasks))}
    data, numbers = _write_data(root, contents, episodes, tasks)
    videos = {camera: _write_videos(root, camera, episodes) for camera in contents.videos}
    pixels: dict[str, PixelCounts] = {}
    rows = _rows(contents, episodes, tasks, data, videos, pixels)
    _write_episodes(root, rows, len(episodes))
    write_tasks(root / "meta" / "tasks.parquet", list(tasks))
    lengths = np.array([episode.length for episode in episodes])
    which = np.array([tasks[episode.tasks[0]] for episode in episodes])
    totals = {key: to_lists(value.describe()) for key, value in numbers.items()}
    totals |= {video_key(camera): to_lists(counts.describe()) for camera, counts in pixels.items()}
    totals |= describe_scalars(contents.fps, lengths, which)
    write_atomic(root / "meta" / "stats.json", json.dumps(totals, indent=4))
    info = info_json(contents, len(episodes), int(lengths.sum()), len(tasks))
    write_atomic(root / "meta" / "info.json", json.dumps(info, indent=4))


def verify(root: Path, lengths: Sequence[int]) -> None:
    """Read back the numbers of every episode, and the last frame of up to ``SAMPLE`` of them.

    Raises:
        DataError: something is missing or cannot be read.
    """
    data = LeRobotConfig(root=root).build()
    if data.lengths != list(lengths):
        raise DataError(
            f"{root} has {len(data.lengths)} episodes of {sum(data.lengths)} frames, expected "
            f"{len(lengths)} of {sum(lengths)}; finish it again"
        )
    seen = set(np.linspace(0, len(lengths) - 1, min(SAMPLE, len(lengths))).astype(int).tolist())
    for episode, length in enumerate(lengths):
        for camera in data.cameras if episode in seen else ():
            data.read(episode, np.array([length - 1]), (camera,))
        data.read(episode, np.arange(length), ())


def to_table(
    state: Float[np.ndarray, "t s"],
    action: Float[np.ndarray, "t a"],
    fps: float,
    times: Float64[np.ndarray, " t"] | None = None,
    pictures: Mapping[str, Sequence[bytes]] | None = None,
) -> pa.Table:
    """Convert one episode to the columns that do not depend on its place in the data set."""
    steps = np.arange(len(state))
    arrays = {name: rows for name, rows in ((STATE, state), (ACTION, action)) if rows.shape[1]}
    columns = {name: _column(rows) for name, rows in arrays.items()}
    columns |= {video_key(camera): _embedded(data) for camera, data in (pictures or {}).items()}
    if times is not None:
        columns[TIME] = pa.array(times, pa.float64())
    seconds = (steps / fps).astype(np.float32)
    return pa.table(columns | {"timestamp": pa.array(seconds), "frame_index": pa.array(steps)})


def write_rows(table: pa.Table, path: Path) -> None:
    """Stage the numbers and pictures of one episode."""
    pq.write_table(table, path, **_options(table.schema))


def statistics(table: pa.Table) -> dict[str, dict[str, list]]:
    """Describe every column of numbers."""
    names = [n for n in table.column_names if n != TIME and table[n].type != PICTURE]
    return {name: to_lists(describe(matrix(table[name]))) for name in names}


def matrix(column: pa.ChunkedArray) -> Float[np.ndarray, "n d"] | Int64[np.ndarray, "n d"]:
    """Convert a column of numbers or of lists of fixed size."""
    flat = column.combine_chunks()
    lists = pa.types.is_fixed_size_list(flat.type)
    values = flat.flatten() if lists else flat
    return values.to_numpy(zero_copy_only=False).reshape(len(column), -1)


def _column(rows: Float[np.ndarray, "t d"]) -> pa.Array:
    """Convert rows to LeRobot's column type: lists of fixed size, or numbers where that is 1."""
    flat, width = pa.array(rows.astype(np.float32).ravel()), rows.shape[1]
    return flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width)


def _embedded(pictures: Sequence[bytes]) -> pa.Array:
    """Convert pictures to LeRobot's column type, named as LeRobot names them."""
    ends = ("png" if data.startswith(b"\x89PNG") else "jpg" for data in pictures)
    paths = [f"frame-{number:06d}.{end}" for number, end in enumerate(ends)]
    parts = [pa.array(pictures, pa.binary()), pa.array(paths, pa.string())]
    return pa.StructArray.from_arrays(parts, fields=list(PICTURE))


def _options(schema: pa.Schema) -> dict[str, Any]:
    """Keep no dictionary and no range of pictures: they would be useless and large."""
    plain = [column.name for column in schema if column.type != PICTURE]
    return {"write_page_checksum": True, "use_dictionary": plain, "write_statistics": plain}


def _completed(episodes: Sequence[Staged], tasks: Mapping[str, int]) -> Iterator[pa.Table]:
    """Load the numbers of each episode and add the columns that every data set has."""
    first = 0
    for number, episode in enumerate(episodes):
        table = read_parquet(episode.folder / "rows.parquet")
        if len(table) != episode.length:
            raise DataError(
                f"{episode.folder} has {len(table)} rows, expected {episode.length}; delete it "
                "and convert again"
            )
        for name, column in _placed(number, first, episode, tasks).items():
            table = table.append_column(name, pa.array(column))
        yield table
        first += episode.length


def _placed(
    number: int, first: int, episode: Staged, tasks: Mapping[str, int]
) -> dict[str, Int64[np.ndarray, " t"]]:
    """Return the columns that depend on the episode's place."""
    steps = np.arange(episode.length)
    same = np.ones_like(steps)
    columns = (number * same, first + steps, tasks[episode.tasks[0]] * same)
    return dict(zip(SCALARS[2:], columns, strict=True))


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


def _place(number: int) -> dict[str, int]:
    return dict(zip(("chunk_index", "file_index"), divmod(number, CHUNK), strict=True))


def _write_data(
    root: Path, contents: Contents, episodes: Sequence[Staged], tasks: Mapping[str, int]
) -> tuple[Places, dict[str, Numbers]]:
    """Write the data files; return where episodes are, and the statistics of all together."""
    wide = {STATE: contents.state_names, ACTION: contents.action_names}
    numbers = {name: Numbers(len(names)) for name, names in wide.items() if names}
    files, spans, tables = [], [], _completed(episodes, tasks)
    # Three columns of eight bytes are added to each row that was staged.
    packed = _packed([e.nbytes + 24 * e.length for e in episodes], DATA_MB)
    with progress(f"writing {root.parent} (numbers)", len(episodes), "episodes") as told:
        for number, members in enumerate(packed):
            path = root / DATA_PATH.format(**_place(number))
            path.parent.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                writer = None
                for table in islice(tables, len(members)):
                    if writer is None:
                        writer = pq.ParquetWriter(path, table.schema, **_options(table.schema))
                        stack.enter_context(writer)
                    group = PICTURE_GROUP if contents.pictures else len(table)
                    writer.write_table(table, row_group_size=group)
                    for name, total in numbers.items():
                        total.update(matrix(table[name]).astype(np.float32))
                    start = table["index"][0].as_py()
                    spans.append((start, start + len(table)))
                    files.append(number)
                    told(len(files))
    return Places(np.array(files), np.array(spans)), numbers


def _write_videos(root: Path, camera: str, episodes: Sequence[Staged]) -> Places:
    """Join videos, those of one frame size in files of their own."""
    paths = [episode.folder / f"{camera}.mp4" for episode in episodes]
    alike: dict[tuple[int, ...], list[int]] = {}
    for i, episode in enumerate(episodes):
        alike.setdefault(tuple(episode.sizes[camera]), []).append(i)
    files, spans = np.zeros(len(paths), np.int64), np.zeros((len(paths), 2))
    number = done = 0
    with progress(f"writing {root.parent} ({camera})", len(paths), "episodes") as told:
        for group in alike.values():
            for packed in _packed([paths[i].stat().st_size for i in group], VIDEO_MB):
                members = [group[i] for i in packed]
                out = root / VIDEO_PATH.format(video_key=video_key(camera), **_place(number))
                out.parent.mkdir(parents=True, exist_ok=True)
                spans[members] = concatenate([paths[i] for i in members], out)
                files[members] = number
                number, done = number + 1, done + len(members)
                told(done)
    return Places(files, spans)


def _rows(
    contents: Contents,
    episodes: Sequence[Staged],
    tasks: Mapping[str, int],
    data: Places,
    videos: Mapping[str, Places],
    totals: dict[str, PixelCounts],
) -> Iterator[dict[str, Any]]:
    """Yield the rows of ``meta/episodes``, adding the pixels of each to ``totals``."""
    for i, episode in enumerate(episodes):
        record = episode.record()
        row = {"episode_index": i, "tasks": list(episode.tasks), "length": episode.length}
        row |= {f"data/{key}": value for key, value in _place(int(data.files[i])).items()}
        first, end = data.spans[i].tolist()
        row |= {"dataset_from_index": first, "dataset_to_index": end}
        for camera, places in videos.items():
            span = dict(
                zip(("from_timestamp", "to_timestamp"), places.spans[i].tolist(), strict=True)
            )
            values = _place(int(places.files[i])) | span
            row |= {f"videos/{video_key(camera)}/{key}": value for key, value in values.items()}
        described = record["stats"]
        scalars = {name: described.pop(name) for name in SCALARS[:2]}
        for camera in contents.cameras:
            counts = PixelCounts(episode.length, np.array(record["pixels"][camera], np.int64))
            totals[camera] = totals.get(camera, PixelCounts()) + counts
            described[video_key(camera)] = to_lists(counts.describe())
        placed = _placed(i, first, episode, tasks)
        described |= scalars | {n: to_lists(describe(v[:, None])) for n, v in placed.items()}
        for feature, values in described.items():
            row |= {f"stats/{feature}/{name}": value for name, value in values.items()}
        row |= {f"meta/episodes/{key}": value for key, value in _place(i // META_FILE).items()}
        yield row | {name: record[name] for name in OURS}


def _write_episodes(root: Path, rows: Iterator[dict[str, Any]], count: int) -> None:
    """Write ``meta/episodes``, some rows at a time."""
    schema, done = None, 0
    with progress(f"writing {root.parent} (episodes)", count, "episodes") as told:
        for number in range(-(-count // META_FILE)):
            path = root / META_PATH.format(**_place(number))
            path.parent.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                writer = None
                while done < min(count, (number + 1) * META_FILE):
                    group = list(islice(rows, META_GROUP))
                    schema = schema or _schema(group)
                    if writer is None:
                        writer = pq.ParquetWriter(path, schema, write_page_checksum=True)
                        stack.enter_context(writer)
                    writer.write_table(pa.Table.from_pylist(group, schema=schema))
                    done += len(group)
                    told(done)


def _schema(rows: Sequence[dict[str, Any]]) -> pa.Schema:
    """Infer types, but for columns of which all values may be missing."""
    found = pa.Table.from_pylist(list(rows)).schema
    return pa.schema(list((dict(zip(found.names, found.types, strict=True)) | OURS).items()))
