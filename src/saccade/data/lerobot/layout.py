"""Where a LeRobot data set keeps what: its metadata, for every version one ``Layout``.

    v3.0  meta/{info.json, tasks.parquet, episodes/*/*.parquet}      many episodes in one file
    v2.x  meta/{info.json, tasks.jsonl, episodes.jsonl}              one episode in one file

``info.json`` says where data and videos lie, as templates; nothing else knows of versions.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float64, Int64

from saccade.data.files.folder import Folder
from saccade.data.lerobot.tables import column_names, read_parquet
from saccade.errors import DataError

T = TypeVar("T")

VERSIONS = ("v3.0", "v2.1", "v2.0")
FIELD = re.compile(r"\{(\w+)(?::0?(\d{1,2})d)?\}")  # all that a path template may contain
OURS = {"success": bool, "scene": str, "source": str}  # what our conversion adds to an episode
AGAIN = "download or convert the data set again"


@dataclass(frozen=True)
class Layout:
    """Where each episode lies. Lists and arrays have one entry per episode.

    Args:
        index: the number of the episode in its data file.
        lengths: frames.
        tasks: the first instruction.
        about: what else is known, of those episodes of which something is.
        templates: of the names of data files and of videos.
        places: numbers that the templates are filled with, such as ``data/chunk_index``.
        starts: by the feature's name, the second at which the episode starts in its video.
    """

    root: str
    index: Int64[np.ndarray, " n"]
    lengths: list[int]
    tasks: list[str]
    about: Mapping[int, Mapping[str, Any]]
    templates: Mapping[str, str]
    chunks_size: int
    places: Mapping[str, Int64[np.ndarray, " n"]]
    starts: Mapping[str, Float64[np.ndarray, " n"]]

    def data(self, episode: int) -> str:
        """Return the name of the file that has an episode's numbers."""
        return self._name("data_path", "data", episode)

    def video(self, key: str, episode: int) -> tuple[str, float]:
        """Return the name of the file that has a camera's frames, and where they start in it."""
        name = self._name("video_path", f"videos/{key}", episode, video_key=key)
        return name, float(self.starts[key][episode])

    def files(self, keys: Sequence[str], most: int) -> set[str] | None:
        """Name the files of all episodes, with videos of ``keys``; None if they are too many."""
        episodes: Sequence[int] = range(len(self.lengths))
        alone = any(re.search(r"\{episode_(index|chunk)", text) for text in self.templates.values())
        if not alone:  # many episodes share a file
            numbers = np.stack([np.zeros(len(self.lengths), int), *self.places.values()])
            episodes = np.unique(numbers, axis=1, return_index=True)[1].tolist()
        if len(episodes) * (1 + len(keys)) > most:
            return None
        names = {self.data(episode) for episode in episodes}
        return names | {self.video(key, episode)[0] for key in keys for episode in episodes}

    def _name(self, template: str, prefix: str, episode: int, **more: str | int) -> str:
        index = int(self.index[episode])
        for name in ("chunk_index", "file_index"):
            if f"{prefix}/{name}" in self.places:
                more[name] = int(self.places[f"{prefix}/{name}"][episode])
        more |= {"episode_index": index, "episode_chunk": index // self.chunks_size}
        return _located(self.root, self.templates[template], tuple(more.items()))


@lru_cache(4096)  # every sample asks, and a regular expression and a path take their time
def _located(root: str, template: str, values: tuple[tuple[str, Any], ...]) -> str:
    return locate(root, template, dict(values))


def load_info(folder: Folder) -> dict[str, Any]:
    """Load ``meta/info.json``.

    Raises:
        DataError: there is none, or it is of a version that we cannot read.
    """
    name = "meta/info.json"
    label = folder.label(name)
    if name not in folder:
        raise DataError(f"{label} is missing; give the folder of a finished LeRobot data set")
    info = _json(folder.read(name), label)
    version = info.get("codebase_version")
    if version not in VERSIONS:
        raise DataError(
            f"{label} is of version {version!r:.20}, readable are {', '.join(VERSIONS)}"
        )
    return info


def layout(folder: Folder, info: Mapping[str, Any], videos: Sequence[str]) -> Layout:
    """Locate every episode and its videos, whatever the version.

    Raises:
        DataError: metadata are missing, contradict themselves, or point outside the root.
    """
    label, about = folder.label("meta"), folder.label("meta/info.json")
    packed = info["codebase_version"] == "v3.0"
    prefixes = ["data", *(f"videos/{key}" for key in videos)]
    pairs = [f"{prefix}/{name}" for prefix in prefixes for name in ("chunk_index", "file_index")]
    spans = [f"videos/{key}/{end}_timestamp" for key in videos for end in ("from", "to")]
    rows = _rows_v3(folder, [*spans, *pairs, *OURS]) if packed else _rows_v2(folder)
    rows = _sorted(rows, info, label)
    lengths = _numbers(rows, "length", label)
    fps = number(info, "fps", about, 1e-3)
    tasks, known = _tasks(folder, packed), _told(rows)
    templates = {"data_path": required(info, "data_path", about, str)}
    if videos:
        templates["video_path"] = required(info, "video_path", about, str)
    found = Layout(
        root=folder.root,
        index=_numbers(rows, "episode_index", label).astype(np.int64),
        lengths=lengths.astype(int).tolist(),
        tasks=[_first(texts, tasks, i, label) for i, texts in enumerate(rows["tasks"])],
        about=known,
        templates=templates,
        chunks_size=int(number({"chunks_size": 1000, **info}, "chunks_size", about, 1.0)),
        places={name: _numbers(rows, name, label).astype(int) for name in pairs if name in rows},
        starts={key: _starts(rows, key, lengths, fps, label, packed) for key in videos},
    )
    found.data(0)  # a template that is refused is refused now
    for key in videos:
        found.video(key, 0)
    return found


def locate(root: str, template: str, values: Mapping[str, Any]) -> str:
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
    return str(path)


def required(record: Mapping[str, Any], name: str, label: str, kind: type[T]) -> T:
    """Return a field that must be there and of a kind; ``label`` says in errors where.

    Raises:
        DataError: it is something else.
    """
    value: Any = record.get(name)
    if not isinstance(value, kind):
        raise _unfit(name, value, label, f"a {kind.__name__}")
    return value


def number(record: Mapping[str, Any], name: str, label: str, low: float = 0.0) -> float:
    """Return a field that must be a finite number of at least ``low``.

    Raises:
        DataError: it is something else.
    """
    value: Any = record.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value < 2**53:
        raise _unfit(name, value, label, f"a number of at least {low}")
    return float(value)


def _rows_v2(folder: Folder) -> dict[str, list[Any]]:
    lines = _lines(folder, "meta/episodes.jsonl")
    names = ["episode_index", "length", "tasks"]
    names += [name for name in OURS if any(name in line for line in lines)]
    return {name: [line.get(name) for line in lines] for name in names}


def _rows_v3(folder: Folder, more: Sequence[str]) -> dict[str, list[Any]]:
    """Read the columns that we need: most of a table of episodes is statistics."""
    rows: dict[str, list[Any]] = {}
    for file in folder.names("meta/episodes", ".parquet"):
        path = folder.path(file)
        there = column_names(path)
        names = ["episode_index", "length", "tasks", *(name for name in more if name in there)]
        table = read_parquet(path, names)
        if rows and len(table) and rows.keys() != set(names):
            odd = sorted(rows.keys() ^ set(names))
            raise DataError(
                f"{folder.label(file)} lacks columns of other files, or has more: {odd}"
            )
        for name in names:
            rows.setdefault(name, []).extend(table[name].to_pylist())
    return rows or {"episode_index": [], "length": [], "tasks": []}


def _sorted(
    rows: Mapping[str, list[Any]], info: Mapping[str, Any], label: str
) -> dict[str, list[Any]]:
    """Put episodes in the order of their numbers, of which none may be missing or twice."""
    index = _numbers(rows, "episode_index", label)
    total, distinct = info.get("total_episodes", len(index)), len(np.unique(index))
    if not len(index) or not len(index) == distinct == total:
        raise DataError(
            f"{label} lists {len(index)} episodes ({distinct} distinct), info.json says "
            f"{total!r:.20}; {AGAIN}"
        )
    order = np.argsort(index, kind="stable").tolist()
    return {name: [values[i] for i in order] for name, values in rows.items()}


def _starts(
    rows: Mapping[str, list[Any]],
    key: str,
    lengths: Float64[np.ndarray, " n"],
    fps: float,
    label: str,
    packed: bool,
) -> Float64[np.ndarray, " n"]:
    """Return when each episode starts in a camera's video, whose span must fit its length."""
    if not packed:
        return np.zeros(len(lengths))
    start, end = (_numbers(rows, f"videos/{key}/{at}_timestamp", label) for at in ("from", "to"))
    wrong = np.flatnonzero(np.round((end - start) * fps) != lengths)
    if len(wrong):
        i = wrong[0]
        raise DataError(
            f"{label}: episode {rows['episode_index'][i]} has {lengths[i]:.0f} frames but "
            f"{end[i] - start[i]:.4f} s of {key} at {fps} Hz; {AGAIN}"
        )
    return start


def _first(texts: Any, tasks: Mapping[str, str], row: int, label: str) -> str:
    """Return the first instruction that the list of tasks knows; equal texts share memory."""
    listed = texts if isinstance(texts, list) else []
    known = next((tasks[text] for text in listed if isinstance(text, str) and text in tasks), None)
    if known is None:
        some = sorted(tasks)[:5]
        raise DataError(
            f"{label}: episode {row} has no task of {some} ..., but {texts!r:.60}; {AGAIN}"
        )
    return known


def _told(rows: Mapping[str, list[Any]]) -> dict[int, dict[str, Any]]:
    """Collect what is known of single episodes beyond the least."""
    about: dict[int, dict[str, Any]] = {}
    for name, kind in OURS.items():
        for row, value in enumerate(rows.get(name, ())):
            if isinstance(value, kind):
                about.setdefault(row, {})[name] = value
    for row, texts in enumerate(rows["tasks"]):
        if isinstance(texts, list) and len(texts) > 1:
            about.setdefault(row, {})["tasks"] = [text for text in texts if isinstance(text, str)]
    return about


def _numbers(
    rows: Mapping[str, list[Any]], name: str, label: str, low: float = 0.0
) -> Float64[np.ndarray, " n"]:
    if name not in rows:
        raise DataError(f"{label}: the episodes have no {name!r}; {AGAIN}")
    for value in rows[name]:
        if type(value) not in (int, float) or not low <= value < 2**53:
            raise _unfit(name, value, label, f"a number of at least {low}")
    return np.array(rows[name], np.float64)


def _tasks(folder: Folder, packed: bool) -> dict[str, str]:
    if not packed:
        name = "meta/tasks.jsonl"
        texts = [required(line, "task", folder.label(name), str) for line in _lines(folder, name)]
    else:
        path = folder.path("meta/tasks.parquet")
        names = column_names(path)
        column = "task" if "task" in names else "__index_level_0__"  # the index of a pandas table
        texts = read_parquet(path, [column])[column].to_pylist()
    return {text: text for text in texts if isinstance(text, str)}


def _lines(folder: Folder, name: str) -> list[dict[str, Any]]:
    label = folder.label(name)
    if name not in folder:
        raise DataError(f"{label} is missing; {AGAIN}")
    lines = [line for line in folder.read(name).splitlines() if line.strip()]
    return [_json(line, f"{label}, line {number}") for number, line in enumerate(lines, 1)]


def _json(raw: bytes, label: str) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{label} is not JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise DataError(f"{label} holds a JSON {type(value).__name__}, expected an object")
    return value


def _unfit(name: str, value: object, label: str, expected: str) -> DataError:
    return DataError(f"{label}: {name!r} is {value!r:.40}, expected {expected}; {AGAIN}")
