"""Plain folders of videos, with or without a file of labels, as Something-Something v2 comes.

Every MP4, WebM, MKV, AVI or MOV below the folder is an episode without states and actions. Times
are those at which frames are shown, never the rate in the header. Videos may differ in rate and
size: ``timestamps`` are each video's own, ``fps`` is the median.
https://arxiv.org/abs/1706.04261
"""

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8
from torch import Tensor

from saccade.config import Config
from saccade.data.episodes import Episodes
from saccade.data.files.faults import OnError, Skipped
from saccade.data.files.folder import Folder, open_folder
from saccade.data.files.index import index
from saccade.data.video.codec import decode_frames, video_info
from saccade.data.video.film import film
from saccade.errors import DataError

CAMERA = "video"
SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".mov")
EVEN = 1e-3  # seconds by which frames may be off an even rate: WebM rounds to milliseconds
HEADINGS = {"id", "name", "video", "path", "file", "filename", "file_name", "video_id"}
DEPTH = 4  # folders below which a video is looked for to recognise the format
VERSION = 1  # of the scan


@dataclass(frozen=True, kw_only=True)
class VideoFolderConfig(Config["VideoFolder"]):
    """``root`` holds videos, at any depth.

    Args:
        labels: a file in ``root`` or elsewhere that says which videos to read, in its order, and
            their texts: a JSON list of ``{"id", "label"}`` (or ``template``, or neither) as
            Something-Something v2 has it, or lines of ``name,label`` (``;``, tab or space do as
            well; the first line may be a heading). A video is named by its path, its file name,
            or either without suffix. Without labels all videos are read, and the text of each
            is the name of the folder that it lies in, "" for those in ``root`` itself.
        on_error: ``skip`` leaves out broken and missing videos, up to ``most_skipped``.
    """

    format: ClassVar[str] = "videos"
    about: ClassVar[str] = "folders of MP4, WebM, MKV, AVI, MOV; labels=FILE gives their texts"

    root: str | Path
    cameras: tuple[str, ...] = ()
    labels: str = ""
    on_error: OnError = "raise"
    most_skipped: float = 0.01

    @staticmethod
    def recognises(folder: Folder) -> bool:
        """Whether there is a video in the folder, or in the first folders below."""
        places = [""]
        for _ in range(DEPTH):
            inside = [(place, folder.children(place)) for place in places]
            if any(is_video(name) for _, names in inside for name in names):
                return True
            below = [
                f"{place}{name}" for place, names in inside for name in names if name[-1] == "/"
            ]
            places = below[:8]
        return False

    def build(self) -> "VideoFolder":
        """Index the videos."""
        return VideoFolder(self)


class VideoFolder(Episodes):
    """Every video of a folder in natural order, or those that a file of labels lists.

    ``skipped`` says of each video that is left out why (``on_error="skip"``).

    Raises:
        DataError: there is no video, one is broken, or a label is of none or of several.
    """

    state_names, action_names = (), ()
    world_to_camera: Mapping[str, Float64[np.ndarray, "3 3"]] = {}

    def __init__(self, config: VideoFolderConfig) -> None:
        if set(config.cameras) - {CAMERA}:
            raise DataError(f"{config.root} has no cameras {config.cameras}; it has {CAMERA!r}")
        self.cameras = (CAMERA,)
        self._folder = open_folder(config.root)
        names = [name for name in self._folder.names() if is_video(name)]
        if not names:
            raise DataError(
                f"{config.root} holds no video, expected {', '.join(SUFFIXES)}; "
                "give the folder of a data set"
            )
        limits = config.on_error, config.most_skipped
        skipped = Skipped(*limits)
        texts = {name: PurePosixPath(name).parent.name for name in names}
        if config.labels:
            texts = labelled(names, *_read_labels(self._folder, config.labels), skipped)
        listed = len(texts) + len(skipped.found)
        videos, faults = index(self._folder, list(texts), scan_video, VERSION, *limits)
        skipped.found |= faults
        skipped.settle(listed, "videos")
        self.skipped = skipped.found
        self.names = list(videos)  # of the files, relative to the folder
        self.tasks = [texts[name] for name in videos]
        self.lengths = [video["frames"] for video in videos.values()]
        self.rates = [video["fps"] for video in videos.values()]  # measured; 0 for one frame
        self._even = [video["even"] for video in videos.values()]
        rates = [rate for rate in self.rates if rate]
        if not rates:
            raise DataError(
                f"{config.root} has no video of two frames or more; give another folder"
            )
        self.fps = float(np.median(rates))
        known = [VERSION, [[n, t, videos[n]["bytes"]] for n, t in texts.items() if n in videos]]
        self.fingerprint = hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]

    def numbers(
        self, episode: int, frames: Int64[np.ndarray, " t"]
    ) -> tuple[Float32[np.ndarray, "t s"], Float32[np.ndarray, "t a"]]:
        """Return nothing for each frame."""
        nothing = np.empty((len(frames), 0), np.float32)
        return nothing, nothing

    def pixels(
        self, episode: int, camera: str, frames: Int64[np.ndarray, " t"]
    ) -> UInt8[Tensor, "t 3 h w"]:
        """Decode frames by their place in the order in which they are shown."""
        return decode_frames(self._folder.path(self.names[episode]), frames)

    def timestamps(self, episode: int) -> Float64[np.ndarray, " t"]:
        """Return when each frame is shown, from the first on, to a millisecond or better."""
        if self._even[episode]:
            return np.arange(self.lengths[episode]) / (self.rates[episode] or self.fps)
        return _times(self._folder.path(self.names[episode]))

    def about(self, episode: int) -> dict[str, Any]:
        """Return the file and its rate."""
        return {"source": self.names[episode], "fps": self.rates[episode]}


def is_video(name: str) -> bool:
    """Whether a file is a video by its suffix."""
    return name.lower().endswith(SUFFIXES)


def scan_video(folder: Folder, name: str) -> dict[str, Any]:
    """Count the frames of a video and measure its rate, reading every packet, decoding none.

    Raises:
        DataError: the video is broken or has no frame.
    """
    path = folder.path(name)
    info, times = video_info(path), _times(path)
    if len(times) != info.frames:
        raise DataError(
            f"{folder.label(name)} has an index of {info.frames} frames, but {len(times)}; "
            "download or write it again"
        )
    fps = (len(times) - 1) / times[-1] if len(times) > 1 else 0.0
    even = len(times) == 1 or float(np.abs(times - np.arange(len(times)) / fps).max()) <= EVEN
    return {"frames": len(times), "fps": float(fps), "even": even, "bytes": folder.size(name)}


def labelled(
    names: Sequence[str], labels: Sequence[tuple[str, str]], source: str, skipped: Skipped
) -> dict[str, str]:
    """Return the text of each video that is listed, in the order of the list.

    Raises:
        DataError: a name is listed twice, or is that of no video or of several.
    """
    files: dict[str, set[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        for key in (str(path.with_suffix("")), path.name, path.stem):
            files.setdefault(key, set()).add(name)
    files |= {name: {name} for name in names}
    texts: dict[str, str] = {}
    for key, text in labels:
        with skipped.guard(key):
            found = files.get(key, set())
            if len(found) != 1:
                one = f"are {len(found)} videos" if found else "is no video"
                raise DataError(
                    f"{source} lists {key!r}, of which there {one}, expected one; download it, or "
                    "name it by its path"
                )
            (name,) = found
            if name in texts:
                raise DataError(f"{source} lists {key!r} twice; leave one line out")
            texts[name] = text
    return texts


def _read_labels(folder: Folder, labels: str) -> tuple[list[tuple[str, str]], str]:
    """Return names with their texts, and where they were found."""
    if labels in folder:
        data, source = folder.read(labels), folder.label(labels)
    elif Path(labels).is_file():
        data, source = Path(labels).read_bytes(), labels
    else:
        raise DataError(f"there is no file of labels {labels}, nor in {folder.root}; give its path")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is no UTF-8 text ({error}); convert it") from error
    found = _json_labels(text, source) if source.endswith(".json") else _line_labels(text, source)
    if not found:
        raise DataError(f"{source} lists no video; expected a name and a label on each line")
    return found, source


def _json_labels(text: str, source: str) -> list[tuple[str, str]]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source} is no JSON ({error}); download it again") from error
    found = []
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        entry = entry if isinstance(entry, dict) else {}
        name, label = entry.get("id"), entry.get("label", entry.get("template", ""))
        if not isinstance(name, (str, int)) or not isinstance(label, (str, int)):
            raise DataError(
                f"{source}: entry {number} is {str(entry)[:60]}, expected {{id, label}} as in "
                "something-something-v2-train.json; give a list of these"
            )
        found.append((str(name), str(label)))
    return found


def _line_labels(text: str, source: str) -> list[tuple[str, str]]:
    """Split each line at its first separator, which is the first one in the first line."""
    lines = [line for line in text.splitlines() if line.strip()]
    marks = ",;\t" if source.endswith(".csv") else ",;\t "
    separator = next((sign for line in lines[:1] for sign in line if sign in marks), ",")
    found = []
    for line in lines:
        try:
            name, *rest = next(csv.reader([line], delimiter=separator, strict=True))
        except csv.Error as error:
            raise DataError(f"{source}: {line[:60]!r} is no line of a table ({error})") from error
        found.append((name.strip(), separator.join(rest).strip()))
    return found[1:] if found and found[0][0].lower() in HEADINGS else found


def _times(path: Path) -> Float64[np.ndarray, " t"]:
    """Return when the frames of a video are shown, from the first on, in seconds."""
    with film(path) as lent:
        pts = lent.pts()
        return (pts - pts[0]) * float(lent.base)
