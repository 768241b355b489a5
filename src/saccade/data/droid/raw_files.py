"""Where raw DROID keeps what: one folder per episode, and what is learned from its files once.

    <LAB>/<success|failure>/<date>/<time>/   or such folders by name, one per line of a list
        metadata_<uuid>.json                 cameras, task, scene, outcome
        trajectory.h5                        a row of numbers per step
        recordings/MP4/<serial>.mp4          a frame per row, left lens

https://github.com/droid-dataset/droid (``postprocessing/schema.py``, ``trajectory_writer.py``)
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from posixpath import join, normpath
from typing import Any

from saccade.data.files.folder import Folder, open_folder
from saccade.errors import DataError

NUMBERS, VIDEOS = "trajectory.h5", "recordings/MP4"
DEEPEST = 6  # folders between the root and an episode: version, lab, outcome, date, time, and one
GLIMPSES = 24  # folders that are listed to recognise the format
FIRST_COLUMN = re.compile(r'\s*(?:"([^"]*)"|([^\s,;]*))')


@dataclass(frozen=True)
class Place:
    """The folder of an episode and the names of its files; ``videos`` without the folder's."""

    folder: str
    metadata: str
    numbers: str
    videos: frozenset[str]

    def video(self, serial: str | None) -> str | None:
        """Return the name of a camera's video, where there is one."""
        name = f"{serial}.mp4"
        return join(self.folder, VIDEOS, name) if name in self.videos else None


def recognised(folder: Folder) -> bool:
    """Whether an episode is found soon, going down by the first folders first."""
    waiting, listed = [""], 0
    while waiting and listed < GLIMPSES:
        place = waiting.pop()
        names, listed = folder.children(place), listed + 1
        if NUMBERS in names:  # other projects have a trajectory.h5 too
            return "recordings/" in names or any(map(is_metadata, names))
        if place.count("/") < DEEPEST:
            waiting += [join(place, n.rstrip("/")) for n in names[:4][::-1] if n.endswith("/")]
    return False


def is_metadata(name: str) -> bool:
    """Whether a file is called as metadata are."""
    return name.startswith("metadata") and name.endswith(".json")


def found(folder: Folder, under: str = "", above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the folders of episodes: those with a file of numbers, or with metadata only.

    A link to a folder above it is not followed.
    """
    place = os.path.realpath(folder.label(under))
    names = () if place in above else folder.children(under)
    if NUMBERS in names or any(map(is_metadata, names)):
        yield under
    elif len(above) < DEEPEST:
        for name in names:
            if name.endswith("/"):
                yield from found(folder, join(under, name.rstrip("/")), (*above, place))


def listed(folder: Folder, csv: str) -> list[str]:
    """Return the folders that a list names in its first column, one per line.

    Raises:
        DataError: there is no such list, it names a folder twice, or one without an episode.
    """
    lines = decoded(read_anywhere(folder, csv), csv).splitlines()
    places: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = FIRST_COLUMN.match(line)
        text = (match[1] or match[2] or "") if match else ""
        place = _inside(folder, text)
        if not text or join(place, NUMBERS) not in folder:
            raise DataError(
                f"{csv}: line {number} names {text!r}, where there is no {NUMBERS} (looked for "
                f"{folder.label(join(place, NUMBERS))}); correct the line or the root"
            )
        if place in places:
            raise DataError(
                f"{csv}: line {number} names the folder of line {places[place]} again ({text}); "
                "delete one"
            )
        places[place] = number
    return list(places)


def placed(folder: Folder, name: str) -> Place:
    """List the files of an episode.

    Raises:
        DataError: it has no numbers, or not one metadata file.
    """
    names = folder.children(name)
    if NUMBERS not in names:
        raise DataError(f"{folder.label(name)} has no {NUMBERS}; download the folder again")
    metadata = [n for n in names if is_metadata(n)] or [n for n in names if n.endswith(".json")]
    if len(metadata) != 1:
        raise DataError(
            f"{folder.label(name)} has {len(metadata)} metadata files, expected one "
            "metadata_<uuid>.json that says which camera is which; download the folder again"
        )
    videos = folder.children(join(name, VIDEOS)) if "recordings/" in names else []
    return Place(name, join(name, metadata[0]), join(name, NUMBERS), frozenset(videos))


def load_json(raw: bytes, label: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        DataError: it is something else.
    """
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{label} is not JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise DataError(f"{label} holds a JSON {type(value).__name__}, expected an object")
    return value


def read_anywhere(folder: Folder, name: str) -> bytes:
    """Read a file of the data set, or one that lies elsewhere.

    Raises:
        DataError: there is none.
    """
    if name in folder:
        return folder.read(name)
    parent, last = os.path.split(name)
    return open_folder(parent or ".").read(last)


def decoded(raw: bytes, label: str) -> str:
    """Decode text.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{label} is no text in UTF-8 ({error}); write it again") from error


def _inside(folder: Folder, place: str) -> str:
    """Make a full path relative to the root, where it lies there."""
    for root in (folder.root, os.path.abspath(folder.root)):
        place = place.removeprefix(root.rstrip("/") + "/")
    return "" if normpath(place) == "." else normpath(place)
