"""The shards of an RLDS data set: which there are, and what an index knows of their records.

    <name>/<version>/dataset_info.json     splits, and how many records each shard has
                     features.json         keys, shapes, types
                     <base>-<split>.tfrecord-00000-of-00031

``<base>`` need not be the folder's name, and some of the shards suffice.
https://www.tensorflow.org/datasets/external_tfrecord
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

from saccade.data.files.folder import Folder, natural
from saccade.data.rlds import tfrecord
from saccade.data.rlds.episode import Episode
from saccade.data.rlds.features import Feature, load_features, load_json
from saccade.errors import DataError

Summary = Callable[[Episode], dict[str, Any]]  # what a reader wants to know of every episode

INFO, FEATURES = "dataset_info.json", "features.json"
MOST_RECORDS = 1_000_000  # of one shard; each that lacks is listed
VERSION = 2  # of what ``scan_shard`` returns
RELEASE = re.compile(r"\d+\.\d+\.\d+/")
SHARD = re.compile(
    r"(?P<base>.*?)-?(?P<split>[^-]+)\.tfrecord-(?P<number>\d{5,})-of-(?P<of>\d{5,})"
)


def locate(folder: Folder, version: str = "") -> str:
    """Return where the data set lies in the folder: ``""`` or, of several versions, the highest.

    Raises:
        DataError: nowhere, or not in this version.
    """
    if FEATURES in folder and not version:
        return ""
    found = [v for v in folder.children() if RELEASE.fullmatch(v) and f"{v}{FEATURES}" in folder]
    if version and f"{version}/" not in found:
        raise DataError(f"{folder.root} has no version {version}; it has {found}")
    if not found:
        raise DataError(
            f"{folder.root} has no {FEATURES}, nor has a version below it; give the folder of a "
            "TFDS data set, with its two JSON files"
        )
    return f"{version}/" if version else found[-1]


def described(folder: Folder) -> dict[str, Feature]:
    """Return the features of a folder that may be an RLDS data set; nothing if it is none."""
    try:
        return load_features(folder, locate(folder) + FEATURES)
    except DataError:
        return {}


def is_tfds(folder: Folder) -> bool:
    """Whether a folder has the two files of a TFDS data set, be they damaged."""
    try:
        return locate(folder) + INFO in folder
    except DataError:
        return False


def scan_shard(folder: Folder, name: str, summary: Summary, check: bool = False) -> dict[str, Any]:
    """Return what the index keeps of a shard, by jumping over the pictures in it.

    ``records`` has number, start, length, steps, instruction and a JSON text for each: its
    metadata, its texts and what ``summary`` says; the instruction is what that calls ``task``.
    ``faults`` says why others cannot be read; it is not ``complete`` if all after the last fault
    is lost. ``check`` compares each record with its checksum.
    """
    features = load_features(folder, str(PurePosixPath(name).with_name(FEATURES)))
    records, faults, number = [], [], -1
    try:
        for number, (start, length) in enumerate(tfrecord.records(folder, name)):
            try:
                with blamed(folder, name, number, start, length):
                    if check and not tfrecord.intact(folder, name, start, length):
                        raise DataError("its data are damaged")
                    if not length:
                        raise DataError("it is empty")
                    episode = Episode(tfrecord.Window(folder, name, start, length), features)
                    about = {"metadata": episode.metadata(), "texts": _texts(episode)}
                    about |= summary(episode)
                    task = about.pop("task", "")
                records.append((number, start, length, episode.steps, task, json.dumps(about)))
            except DataError as error:
                faults.append((number, str(error)))
    except DataError as error:
        faults.append((number + 1, str(error)))
        return {"records": records, "faults": faults, "complete": False}
    return {"records": records, "faults": faults, "complete": True}


def load_splits(folder: Folder, name: str) -> dict[str, list[int]]:
    """Return how many records each shard of each split has, as ``dataset_info.json`` says.

    Raises:
        DataError: it is missing or damaged, or says that the shards are of another format.
    """
    info, where = load_json(folder, name), folder.label(name)
    kind = info.get("fileFormat", "tfrecord")
    if kind != "tfrecord":
        raise DataError(f"{where} says the shards are {kind!r:.40}; only tfrecord is read: convert")
    try:
        splits = {str(s["name"]): list(map(int, s.get("shardLengths", []))) for s in info["splits"]}
        if any(not 0 <= n <= MOST_RECORDS for lengths in splits.values() for n in lengths):
            raise ValueError("a shard has no such length")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{where} lists no splits that we understand; download it again") from error
    if not splits:
        raise DataError(f"{where} lists no splits; its data set was not finished: build it again")
    return splits


def find_shards(
    folder: Folder, place: str, counts: dict[str, list[int]]
) -> tuple[list[str], list[int | None]]:
    """List the shards that are there, split by split, and how many records each should have.

    Raises:
        DataError: there are none, or they do not belong together.
    """
    found = [m for name in folder.children(place) if (m := SHARD.fullmatch(name))]
    names: list[str] = []
    expected: list[int | None] = []
    for split, lengths in counts.items():
        own = sorted((m for m in found if m["split"] == split), key=lambda m: natural(m[0]))
        kinds = sorted({(m["base"], int(m["of"])) for m in own})
        if len(kinds) > 1 or (kinds and lengths and kinds[0][1] != len(lengths)):
            raise DataError(
                f"{folder.label(place)} has shards of {split!r} that do not belong together "
                f"({', '.join(f'{base}, of {of}' for base, of in kinds)}; dataset_info.json says "
                f"of {len(lengths)}); download them again into an empty folder"
            )
        for m in own:
            number = int(m["number"])
            if number >= int(m["of"]):
                raise DataError(f"{folder.label(place + m[0])} is beyond the last; rename it")
            names.append(place + m[0])
            expected.append(lengths[number] if lengths else None)
    if not names:
        raise DataError(
            f"{folder.label(place)} has no shards of {', '.join(counts)} "
            "(*.tfrecord-00000-of-00031); download some"
        )
    return names, expected


@contextmanager
def blamed(
    folder: Folder, name: str, number: int, start: int, length: int, key: str = ""
) -> Iterator[None]:
    """Say in an error which record of which file it is about, and whether that is damaged."""
    try:
        yield
    except DataError as error:
        place = place_of(folder.label(name), number, start)
        if str(error).startswith(place) or folder.label(name) in str(error):
            raise
        if not tfrecord.intact(folder, name, start, length):
            raise DataError(
                f"{place} fails its checksum (crc32c); download the file again"
            ) from error
        raise DataError(
            f"{place}{', ' * bool(key)}{key}: {error}; the file does not fit its features.json: "
            "download both again"
        ) from error


def place_of(label: str, number: int, start: int) -> str:
    """Name a record in messages."""
    return f"{label}: record {number} at byte {start - tfrecord.HEADER.size}"


def _texts(episode: Episode) -> dict[str, list[str]]:
    """Return the distinct texts of the steps by key, in their order."""
    keys = [k for k, feature in episode.features.items() if feature.kind == "text"]
    steps = (key for key in keys if episode.features[key].per_step and key in episode)
    return {key: list(dict.fromkeys(episode.texts(key))) for key in steps}


def faults_of(label: str, found: dict[str, Any], expected: int | None) -> dict[int, DataError]:
    """Return what is wrong with a shard, by the number of the record."""
    faults = {number: DataError(text) for number, text in found["faults"]}
    total = len(found["records"]) + len(faults)
    if expected is not None and total != expected:
        text = f"{label} has {total} records, dataset_info.json says {expected}"
        cause = (
            "it is cut off between records" if total < expected else "one of them is not its own"
        )
        for number in range(min(total, expected), max(total, expected)):
            faults[number] = DataError(f"{text}; {cause}: download both again")
        if not found["complete"]:  # the rest is lost behind the damage
            faults |= dict.fromkeys(range(total, expected), DataError(found["faults"][-1][1]))
    return faults
