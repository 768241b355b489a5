"""Where raw Bridge V2 keeps a trajectory, and what its pickles hold.

    <institution>/<environment>/<task>/<id>/<date>/raw/traj_group0/traj12/
        obs_dict.pkl      a dict of arrays over T frames: full_state [T, 7], time_stamp [T], ...
        policy_out.pkl    T - 1 dicts with ``actions`` [7], or these arrays alone
        lang.txt          instructions, one per line, and how sure their author was; may be missing
        images0/im_7.jpg  480 x 640, numbers without zeros; images1 to images3 may be missing

The depth of the tree varies. https://github.com/rail-berkeley/bridge_data_v2
(``data_processing/bridgedata_raw_to_numpy.py``), https://github.com/kvablack/dlimp
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from saccade.data.files.folder import Folder
from saccade.data.files.pickles import load_pickle
from saccade.errors import DataError

OBSERVED, COMMANDED, LANGUAGE = "obs_dict.pkl", "policy_out.pkl", "lang.txt"
TRAJECTORY, GROUP = re.compile(r"traj\d+/"), re.compile(r"traj_group\d+/")
IMAGES, IMAGE = re.compile(r"images(0|[1-9]\d*)/"), re.compile(r"im_(\d+)\.jpg")
PICTURES = re.compile(r"(depth_)?images\d+/")
DATED = "%Y-%m-%d_%H-%M-%S"
PROMPT = datetime(2021, 7, 23)  # from when on pictures and states were recorded without delay
DEPTH = 16  # levels of folders that are searched
NUMBER = (int, float, np.number, np.bool_)
BEYOND = 1e30  # larger numbers are damaged
SOON = 64  # folders that are looked into to recognise the format


@dataclass(frozen=True)
class Trajectory:
    """The numbers of one trajectory, as they were recorded; ``times`` are from the first frame."""

    state: Float32[np.ndarray, "t 7"]
    action: Float32[np.ndarray, "n 7"]
    times: Float64[np.ndarray, " t"] | None


def walk(
    folder: Folder, under: str = "", above: tuple[str, ...] = ()
) -> Iterator[tuple[str, list[str]]]:
    """Yield folders with what is in them, without those of pictures and what is below ``lmdb``.

    A link to a folder above it is not followed.
    """
    place = os.path.realpath(folder.label(under))
    if place in above or len(above) > DEPTH:
        return
    children = folder.children(under)
    yield under, children
    for child in children:
        if child.endswith("/") and "lmdb" not in child and not PICTURES.fullmatch(child):
            yield from walk(folder, under + child, (*above, place))


def recognised(folder: Folder) -> bool:
    """Whether a group of trajectories, or a trajectory in a folder for itself, is found soon."""
    return any(
        any(GROUP.fullmatch(child) for child in children)
        or (TRAJECTORY.fullmatch(PurePosixPath(under).name + "/") and OBSERVED in children)
        for under, children in islice(walk(folder), SOON)
    )


def trajectories(folder: Folder) -> dict[str, list[str]]:
    """Return every folder ``traj<n>/`` with the names of what is in it."""
    found = walk(folder)
    return {
        under: children
        for under, children in found
        if TRAJECTORY.fullmatch(PurePosixPath(under).name + "/")
    }


def lag(folder: Folder, place: str) -> int:
    """Return by how many frames pictures and states are late: 1 before 2021-07-23, 0 since.

    Raises:
        DataError: the folder above ``raw`` is not named by a date.
    """
    label = folder.label(place)
    parts = PurePosixPath(label if "://" in label else os.path.abspath(label)).parts
    with suppress(ValueError):
        return int(datetime.strptime("".join(parts[-4:-3]), DATED) < PROMPT)
    raise DataError(
        f"{folder.label(place)} is not below a folder named by a date (2021-07-23_12-00-00), so "
        "whether it was recorded with a delay is unknown; give delay=none or delay=one"
    )


def scene(place: str) -> str:
    """Return institution and environment, as far as they are below the root; else nothing."""
    return "/".join(PurePosixPath(place).parts[:-6][-2:])


def scan(folder: Folder, name: str) -> dict[str, Any]:
    """Return what the index keeps of a trajectory, after a check of all but its pictures' pixels.

    Raises:
        DataError: numbers or pictures are missing, damaged, or not as many as the others.
    """
    place = name.removesuffix(OBSERVED)
    found = load(folder, place)
    content = hashlib.sha256(found.state.tobytes() + found.action.tobytes())
    cameras = [m for child in folder.children(place) if (m := IMAGES.fullmatch(child))]
    for camera in cameras:
        names = folder.children(place + camera[0])
        numbers = {int(m[1]) for child in names if (m := IMAGE.fullmatch(child))}
        if numbers != set(range(len(found.state))):
            raise DataError(
                f"{folder.label(place + camera[0])} has {len(numbers)} pictures im_N.jpg (N up to "
                f"{max(numbers, default=-1)}), {OBSERVED} has {len(found.state)} states; unpack "
                "the archive again, or leave the trajectory out (on_error=skip)"
            )
        if numbers:
            content.update(str(folder.size(f"{place}{camera[0]}im_0.jpg")).encode())
    return {
        "frames": len(found.state),
        "cameras": [f"image_{int(camera[1])}" for camera in cameras],
        "times": None if found.times is None else found.times.tolist(),
        "digest": content.hexdigest()[:16],
    }


def scan_language(folder: Folder, name: str) -> list[str]:
    """Return the instructions in a ``lang.txt``, once each, without the author's confidence."""
    try:
        lines = map(str.strip, folder.read(name).decode().splitlines())
    except UnicodeDecodeError as error:
        raise DataError(f"{folder.label(name)} is no UTF-8 text; mend or remove it") from error
    texts = (line for line in lines if line and not line.lower().startswith("confidence:"))
    return list(dict.fromkeys(texts))


def load(folder: Folder, place: str) -> Trajectory:
    """Load the numbers of a trajectory.

    Raises:
        DataError: a pickle is missing, damaged or refused, or has other numbers than expected.
    """
    name = place + OBSERVED
    observed = load_pickle(folder, name)
    if not isinstance(observed, dict) or "full_state" not in observed:
        found = sorted(map(str, observed)) if isinstance(observed, dict) else type(observed)
        raise DataError(
            f"{folder.label(name)} has no full_state, only {found!s:.200}; download it again"
        )
    state = numbers(observed["full_state"], 7, f"{folder.label(name)}, full_state")
    action = _actions(folder, place + COMMANDED)
    if len(action) != max(len(state) - 1, 0):
        raise DataError(
            f"{folder.label(place + COMMANDED)} has {len(action)} actions, {OBSERVED} has "
            f"{len(state)} states, expected one more than actions; unpack the archive again, or "
            "leave the trajectory out (on_error=skip)"
        )
    stamps = observed.get("time_stamp")
    if stamps is None:
        return Trajectory(state.astype(np.float32), action.astype(np.float32), None)
    where = f"{folder.label(name)}, time_stamp"
    times = numbers(stamps, 1, where)[:, 0]
    if len(times) != len(state):
        raise DataError(
            f"{where} has {len(times)} values for {len(state)} states; download it again"
        )
    return Trajectory(state.astype(np.float32), action.astype(np.float32), times - times[:1])


def _actions(folder: Folder, name: str) -> Float64[np.ndarray, "n 7"]:
    listed = load_pickle(folder, name)
    if isinstance(listed, (list, tuple)) and any(isinstance(each, dict) for each in listed):
        lacking = [
            i
            for i, each in enumerate(listed)
            if not isinstance(each, dict) or "actions" not in each
        ]
        if lacking:
            raise DataError(
                f"{folder.label(name)} has no `actions` in entry {lacking[0]} of {len(listed)}; "
                "download it again"
            )
        listed = [each["actions"] for each in listed]
    return numbers(listed, 7, folder.label(name))


def _is_row(row: Any, width: int) -> bool:
    """Whether a row is short and flat: one that is shared may else grow beyond all memory."""
    if isinstance(row, (list, tuple)):
        return len(row) <= width and all(isinstance(value, NUMBER) for value in row)
    return isinstance(row, NUMBER) or (isinstance(row, np.ndarray) and row.size <= width)


def numbers(values: Any, width: int, where: str) -> Float64[np.ndarray, "t d"]:
    """Return vectors of finite numbers as an array.

    Raises:
        DataError: they are something else.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind == "O" and values.ndim:
        values = list(values)  # vectors in a list
    if isinstance(values, (list, tuple)) and not all(_is_row(row, width) for row in values):
        raise DataError(f"{where} holds no vectors of {width} numbers; download it again")
    try:
        found = np.asarray(values)
    except ValueError:
        found = np.empty(0, object)  # a list of unequal lengths
    if found.dtype.kind not in "biuf":
        raise DataError(f"{where} holds no vectors of numbers; download it again")
    array = found.astype(np.float64)
    if width == 1 or not array.size:
        array = array.reshape(-1, width)
    sane = np.abs(array) < BEYOND
    if array.ndim != 2 or array.shape[-1] != width or not sane.all():
        raise DataError(
            f"{where} has the shape {list(array.shape)} ({sane.sum()} of {sane.size} are finite), "
            f"expected finite numbers [t, {width}]; download it again"
        )
    return array
