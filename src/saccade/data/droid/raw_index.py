"""What is learned once from the files of raw DROID's episodes, and which episodes it makes."""

import math
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from saccade.data.droid.raw_files import (
    NUMBERS,
    VIDEOS,
    Place,
    load_json,
    placed,
    read_anywhere,
)
from saccade.data.files.faults import Skipped
from saccade.data.files.folder import Folder
from saccade.data.files.hdf5 import Hdf5Files
from saccade.data.files.index import Scan, index
from saccade.data.video.codec import video_info
from saccade.errors import DataError

VERSION = 2  # of what is learned from each file
TIMES, RECEIVED = "observation/timestamp/cameras", "_frame_received"
FARTHEST = 100  # m that a camera may be from the robot
ROBOT = "observation/robot_state"
POSE, JOINTS = f"{ROBOT}/cartesian_position", f"{ROBOT}/joint_positions"
GRIPPER, GRIPPER_COMMAND = f"{ROBOT}/gripper_position", "action/gripper_position"
WIDTHS = {  # what is read, with the values of a row
    POSE: 6,
    GRIPPER: 1,
    JOINTS: 7,
    "action/cartesian_position": 6,
    "action/cartesian_velocity": 6,
    "action/joint_position": 7,
    "action/joint_velocity": 7,
    GRIPPER_COMMAND: 1,
}
OUTCOMES = {"success": True, "failure": False}  # folders
CAMERAS = {  # what a camera is called in the metadata
    "left": "left",
    "right": "right",
    "wrist": "wrist",
    "exterior_1": "ext1",
    "exterior_2": "ext2",
    "ext1": "ext1",
    "ext2": "ext2",
}


class Entry(NamedTuple):
    """What is known of one episode; ``serials`` and so on are of the cameras that it has."""

    place: Place
    rows: int
    frames: int
    serials: dict[str, str]
    videos: dict[str, str]  # names of files
    rates: dict[str, float]  # in the headers of the videos, in frames/s
    sizes: tuple[int, ...]  # of the files, in bytes
    metadata: dict[str, Any]
    success: bool | None
    tasks: list[str]
    clock: tuple[str, str | None] | None = None  # key of the first camera's times, these packed


def index_episodes(
    folder: Folder,
    places: Sequence[str],
    cameras: Sequence[str],
    keys: Sequence[str],
    success: bool | None,
    annotations: str,
    timed: bool,
    faults: Skipped,
) -> tuple[list[Entry], dict[str, str]]:
    """Learn what is needed of every file of the episodes in ``places``.

    Args:
        folder: the data set.
        places: the folders of the episodes.
        cameras: those whose videos count.
        keys: of the numbers that an episode must have.
        success: leave out what ended otherwise; ``None`` keeps all.
        annotations: a file of instructions, or "".
        timed: whether recorded times are used, so that those without good ones are skipped.
        faults: what happens to broken ones; says which were left out in the end.

    Raises:
        DataError: an episode is broken.
    """

    def learn(names: Iterable[str], scan: Scan) -> dict[str, Any]:
        once = list(dict.fromkeys(names))
        known, bad = index(folder, once, scan, VERSION, faults.on_error, faults.most)
        faults.found |= bad
        return known

    chosen = _placed(folder, places, faults)
    metadata = learn((place.metadata for place in chosen), scan_metadata)
    ended = {
        place: outcome(folder, place.folder, metadata[place.metadata]["success"])
        for place in chosen
        if place.metadata in metadata
    }
    chosen = [place for place, end in ended.items() if success in (None, end)]
    videos = {place: _videos(place, cameras, metadata[place.metadata]) for place in chosen}
    numbers = learn((place.numbers for place in chosen), scan_numbers)
    films = learn((name for found in videos.values() for name in found.values()), scan_video)
    texts = load_annotations(folder, annotations) if annotations else {}
    entries = []
    for place in chosen:
        seen = {camera: films[name] for camera, name in videos[place].items() if name in films}
        if place.numbers not in numbers or len(seen) < len(videos[place]):
            continue  # listed as broken already
        about, rows = metadata[place.metadata], numbers[place.numbers]
        with faults.guard(place.folder or folder.root):
            frames = _length(folder, place, rows, seen, videos[place], keys)
            tasks = [*texts.get(about["uuid"], []), about["task"]]
            entry = _entry(place, frames, rows, seen, videos[place], about, ended[place], tasks)
            entry = entry._replace(clock=_clock(cameras, about["serials"], rows["clocks"]))
            if timed and faults.on_error == "skip":
                recorded_times(folder, entry)
            entries.append(entry)
    faults.settle(len(places), "episodes")
    return entries, faults.found


def _placed(folder: Folder, places: Sequence[str], faults: Skipped) -> list[Place]:
    """List the files of each episode."""
    found = []
    for name in places:
        with faults.guard(name or folder.root):
            found.append(placed(folder, name))
    return found


def _entry(
    place: Place,
    frames: int,
    numbers: Mapping[str, Any],
    seen: Mapping[str, Any],
    videos: dict[str, str],
    about: dict[str, Any],
    success: bool | None,
    tasks: Sequence[str],
) -> Entry:
    """Put together what the files of one episode say; ``seen`` are its videos by camera."""
    return Entry(
        place=place,
        rows=numbers["rows"],
        frames=frames,
        serials={camera: about["serials"][CAMERAS[camera]] for camera in seen},
        videos=videos,
        rates={camera: film["rate"] for camera, film in seen.items()},
        sizes=tuple(found["bytes"] for found in (numbers, *seen.values())),
        metadata=about,
        success=success,
        tasks=[text for text in dict.fromkeys(tasks) if text],
    )


def recorded_times(folder: Folder, entry: Entry) -> Float64[np.ndarray, " t"] | None:
    """Return when frames were received, in seconds from the first; None if it is not recorded.

    Raises:
        DataError: a time is missing, or no later than the one before.
    """
    if entry.clock is None:
        return None
    key, packed = entry.clock
    where = f"{folder.label(entry.place.numbers)}: {TIMES}/{key}"
    mend = "leave the episode out (on_error=skip) or read another camera's first"
    if packed is None:
        raise DataError(f"{where} has no finite time in each of {entry.rows} rows; {mend}")
    steps = np.frombuffer(zlib.decompress(b64decode(packed)), "<f8")
    times = np.concatenate([np.zeros(1), np.cumsum(steps)])[: entry.frames] / 1000
    back = np.flatnonzero(np.diff(times) <= 0)
    if len(back):
        row = int(back[0]) + 1
        raise DataError(
            f"{where} does not increase in row {row} ({times[row - 1]:.3f} s, then "
            f"{times[row]:.3f} s); {mend}"
        )
    return times


def _clock(
    cameras: Sequence[str], serials: Mapping[str, str], clocks: Mapping[str, str | None]
) -> tuple[str, str | None] | None:
    """Return the times of the first camera that has some, by their key."""
    keys = (f"{serials.get(CAMERAS[camera])}{RECEIVED}" for camera in cameras)
    return next(((key, clocks[key]) for key in keys if key in clocks), None)


def check_complete(
    entries: Sequence[Entry], root: str | Path, outcome: str, cameras: Sequence[str]
) -> None:
    """Check that there is something to read.

    Raises:
        DataError: there are no episodes, or no videos of a camera that was asked for by name.
    """
    if not entries:
        kind = "episodes" if outcome == "all" else f"episodes of {outcome}"
        raise DataError(
            f"{root} has no {kind} in raw DROID's layout (folders with {NUMBERS} and "
            "metadata_*.json); give another folder or outcome"
        )
    seen = {camera for entry in entries for camera in entry.serials}
    absent = sorted(set(cameras) - seen)
    if absent:
        raise DataError(
            f"{root} has no videos of {absent}: none of its {len(entries)} episodes has the "
            f"camera's {VIDEOS}/<serial>.mp4; download them or choose from {sorted(seen)}"
        )


def _videos(place: Place, cameras: Sequence[str], about: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of the videos of those cameras whose videos are there."""
    names = {camera: place.video(about["serials"].get(CAMERAS[camera])) for camera in cameras}
    return {camera: name for camera, name in names.items() if name}


def _length(
    folder: Folder,
    place: Place,
    numbers: Mapping[str, Any],
    films: Mapping[str, Any],
    videos: Mapping[str, str],
    keys: Sequence[str],
) -> int:
    """Return how many rows have a frame of every camera.

    Raises:
        DataError: a key is missing, or a video is longer than the rows or shorter by more than 1.
    """
    absent = sorted(set(keys) & set(numbers["absent"]))
    if absent:
        raise DataError(
            f"{folder.label(place.numbers)} has no {', '.join(absent)}; read another state or "
            "action (action=delta needs only what was measured), or leave the episode out"
        )
    rows = numbers["rows"]
    for camera, film in films.items():
        if not rows - 1 <= film["frames"] <= rows:
            raise DataError(
                f"{folder.label(videos[camera])} has {film['frames']} frames and {NUMBERS} beside "
                f"it {rows} rows, expected as many frames as rows or one less; download both "
                "again, or leave the episode out"
            )
    return min([rows, *(film["frames"] for film in films.values())])


def scan_metadata(folder: Folder, name: str) -> dict[str, Any]:
    """Return what is kept of an episode's metadata; ``None`` for what they do not say.

    Raises:
        DataError: the file is no JSON object, or a field is of another kind than expected.
    """
    label = folder.label(name)
    record = load_json(folder.read(name), label)

    def field(key: str, *kinds: type) -> Any:
        value = record.get(key)
        if value is not None and type(value) not in kinds:
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise DataError(
                f"{label}: {key!r} is {value!r:.60}, expected {expected}; download it again"
            )
        return value

    known = {key: field(key, str) for key in ("uuid", "lab", "building", "current_task")}
    scene = field("scene_id", int)
    serials = {key: field(f"{key}_cam_serial", str) for key in ("wrist", "ext1", "ext2")}
    for key in ("wrist", "ext1", "ext2", "left", "right"):
        path = field(f"{key}_mp4_path", str)
        if path and not serials.get(key):  # the folders in it are those of the machine it was on
            serials[key] = PurePosixPath(path).stem.removesuffix("-stereo")
    if not serials.get("left") and not serials.get("right"):
        serials |= _by_side(serials, field("ext1_cam_extrinsics", list), record)
    return {
        "uuid": known["uuid"],
        "lab": known["lab"],
        "success": field("success", bool),
        "scene": None if scene is None or scene < 0 else f"{known['building'] or 'N/A'}/{scene}",
        "task": known["current_task"] or "",
        "serials": {key: serial for key, serial in serials.items() if serial},
    }


def scan_numbers(folder: Folder, name: str) -> dict[str, Any]:
    """Return how many rows an episode has, and which keys it lacks, after a look at all shapes.

    Raises:
        DataError: the file is damaged, or the shapes do not fit each other.
    """
    files, absent, rows = Hdf5Files(folder), [], None
    groups = {group: keys(files, name, group) for group in (ROBOT, "action")}
    for key, width in WIDTHS.items():
        group, _, last = key.rpartition("/")
        if last not in groups[group]:
            absent.append(key)
            continue
        shape = tuple(files.dataset(name, key).shape)
        if rows is None and shape:
            rows = shape[0]
        if shape not in ((rows, width), (rows,) if width == 1 else ()):
            raise DataError(
                f"{folder.label(name)}: {key} has the shape {shape}, expected {(rows, width)} as "
                f"of {POSE}; the recording is damaged, leave the episode out"
            )
    if rows is None:
        raise DataError(
            f"{folder.label(name)} has none of {', '.join(WIDTHS)}; it is no trajectory of DROID"
        )
    received = [key for key in keys(files, name, TIMES) if key.endswith(RECEIVED)]
    clocks = {key: _packed_times(files, name, f"{TIMES}/{key}", rows) for key in received}
    return {"rows": rows, "absent": absent, "clocks": clocks, "bytes": folder.size(name)}


def _packed_times(files: Hdf5Files, name: str, key: str, rows: int) -> str | None:
    """Return a clock of milliseconds as a short text: its few distinct steps, compressed.

    So the index of a large data set stays small, and planning opens no file. None if a row has no
    time.
    """
    shape = tuple(files.dataset(name, key).shape)
    if not shape or shape[0] != rows or math.prod(shape) != rows:
        return None
    stamps = files.rows(name, key, np.arange(rows)).astype(np.float64).ravel()
    if not np.isfinite(stamps).all():
        return None
    return b64encode(zlib.compress(np.diff(stamps).astype("<f8").tobytes())).decode()


def scan_video(folder: Folder, name: str) -> dict[str, Any]:
    """Return how many frames a video has, and at which rate its header says they are shown."""
    info = video_info(folder.path(name))
    return {"frames": info.frames, "rate": float(info.fps), "bytes": folder.size(name)}


def outcome(folder: Folder, place: str, success: bool | None) -> bool | None:
    """Return whether an episode succeeded: as it says itself, or else the folder that it is in."""
    if success is not None:
        return success
    parts = [part for part in PurePosixPath(folder.label(place)).parts if part in OUTCOMES]
    return OUTCOMES[parts[-1]] if parts else None


def load_annotations(folder: Folder, name: str) -> dict[str, list[str]]:
    """Load instructions from a file like ``aggregated-annotations-030724.json``, by uuid.

    Raises:
        DataError: it is missing or of another form.
    """
    found, texts = load_json(read_anywhere(folder, name), name), {}
    for uuid, record in found.items():
        keys = [f"language_instruction{i}" for i in (1, 2, 3)]
        values = [record.get(key) for key in keys] if isinstance(record, dict) else [0]
        if not all(value is None or isinstance(value, str) for value in values):
            raise DataError(
                f"{name}: {uuid!r:.80} has {record!r:.60}, expected an object with "
                "language_instruction1 to 3; give DROID's aggregated annotations"
            )
        texts[uuid] = [value for value in values if value]
    return texts


def keys(files: Hdf5Files, name: str, group: str) -> frozenset[str]:
    """List a group; one that is not there has no keys."""
    above, _, last = group.rpartition("/")
    if last not in (keys(files, name, above) if above else files.keys(name, "")):
        return frozenset()
    return frozenset(files.keys(name, group))


def _by_side(
    serials: Mapping[str, str | None], extrinsics: object, record: Mapping[str, Any]
) -> dict[str, str | None]:
    """Tell left from right by which camera is further along y, the robot's left."""
    poses = [record.get(f"{key}_cam_extrinsics") for key in ("ext1", "ext2")]
    sides = [pose[1] for pose in poses if isinstance(pose, list) and len(pose) == 6]
    known = all(isinstance(side, (int, float)) and abs(side) < FARTHEST for side in sides)
    if len(sides) < 2 or not known:
        return {}
    order = ("left", "right") if sides[0] > sides[1] else ("right", "left")
    return dict(zip(order, (serials.get("ext1"), serials.get("ext2")), strict=True))
