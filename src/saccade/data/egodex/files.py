"""What lies in the files of EgoDex: joints, attributes, and what one pair of files says.

https://arxiv.org/abs/2505.11709, https://github.com/apple/ml-egodex
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int, Int64

from saccade.data.files.folder import Folder, natural
from saccade.data.files.hdf5 import Column, Hdf5Files
from saccade.data.video.codec import video_info
from saccade.errors import DataError

PARTS = ("part1", "part2", "part3", "part4", "part5", "test", "extra")
NUMBERED = re.compile(r"(\d+)\.(hdf5|mp4)")
INTRINSIC = "camera/intrinsic"
RIGID = 0.01  # largest error of a rotation matrix, in R^T R

FINGERS = ("Thumb", "IndexFinger", "MiddleFinger", "RingFinger", "LittleFinger")
BONES = ("Metacarpal", "Knuckle", "IntermediateBase", "IntermediateTip", "Tip")
HAND_JOINTS = tuple(f + b for f in FINGERS for b in BONES if (f, b) != ("Thumb", "Metacarpal"))
ARM_JOINTS = ("Shoulder", "Arm", "Forearm", "Hand")  # the pose of the hand is the wrist's
JOINTS = (
    "hip",
    *(f"spine{i}" for i in range(1, 8)),
    *(f"neck{i}" for i in range(1, 5)),
    *(side + joint for side in ("left", "right") for joint in ARM_JOINTS + HAND_JOINTS),
)

# of a 4 x 4 matrix in a row: the position, and the first two columns of the rotation
CELLS = {"x": 3, "y": 7, "z": 11, "r11": 0, "r21": 4, "r31": 8, "r12": 1, "r22": 5, "r32": 9}

State = Literal["hands", "wrists", "all"]
Layout = tuple[tuple[str, bool], ...]  # joints in order, and whether with rotation


def layout(state: State) -> Layout:
    """Return which joints make a state."""
    if state == "all":
        return tuple((joint, True) for joint in JOINTS)
    tips = tuple((f"{finger}Tip", False) for finger in FINGERS if state == "hands")
    hand = (("Hand", True), *tips)
    return tuple((side + joint, turned) for side in ("left", "right") for joint, turned in hand)


def dimensions(joints: Layout) -> tuple[tuple[str, ...], Int64[np.ndarray, " s"]]:
    """Name each number of a state, and say where it is among the joints' matrices, row by row.

    ``left_hand.x`` is a position, ``left_hand.r21`` the rotation matrix's row 2, column 1.
    """
    names, cells = [], []
    for number, (joint, turned) in enumerate(joints):
        for name, cell in CELLS.items() if turned else list(CELLS.items())[:3]:
            names.append(f"{body_of(joint)}.{name}")
            cells.append(16 * number + cell)
    return tuple(names), np.array(cells, np.int64)


def body_of(joint: str) -> str:
    """Return the name of a joint in a state: ``left_hand`` of ``leftHand``."""
    return re.sub(r"([A-Z])", r"_\1", joint).lower()


def wrist_of(joint: str) -> str | None:
    """Return the wrist that the confidence of a finger's joint is relative to."""
    for side in ("left", "right"):
        if joint.startswith(side) and joint.removeprefix(side) in HAND_JOINTS:
            return f"{side}Hand"
    return None


def find_pairs(folder: Folder, parts: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return ``part/task/k`` of each pair in the order of numbers, and the files without a mate.

    Raises:
        DataError: there is no such part, or no pair at all.
    """
    pairs, alone = [], {}
    for place in task_folders(folder, parts):
        kinds: dict[str, set[str]] = {"hdf5": set(), "mp4": set()}
        for name in folder.children(place):
            if found := NUMBERED.fullmatch(name):
                kinds[found[2]].add(f"{place}/{found[1]}".lstrip("/"))
        pairs += sorted(kinds["hdf5"] & kinds["mp4"], key=natural)
        for kind, other in (("hdf5", "mp4"), ("mp4", "hdf5")):
            lone = sorted(kinds[kind] - kinds[other], key=natural)
            alone |= {f"{stem}.{kind}": f"there is no {stem}.{other}" for stem in lone}
    if not pairs:
        raise DataError(
            f"{folder.root} has no pairs of <part>/<task>/<k>.hdf5 and .mp4 ({len(alone)} lack the "
            "other); unpack the archives here, or give the folder that holds them"
        )
    return pairs, alone


def task_folders(folder: Folder, parts: Sequence[str]) -> Iterator[str]:
    """Yield the folders that may hold pairs; with ``parts``, of those alone.

    Raises:
        DataError: there is no such part.
    """
    if not parts:
        top = folder.children()
        if any(NUMBERED.fullmatch(name) for name in top):
            yield ""
            return
        parts = [name for name in folders(top) if name in PARTS]
        if not parts:
            yield from folders(top)
    for part in dict.fromkeys(part.strip("/") for part in parts):
        tasks = folders(folder.children(part))
        if not tasks:
            raise DataError(
                f"{folder.label(part)} is missing or empty, expected a folder for each task; "
                f"unpack {part}.zip there, or leave it out of parts"
            )
        yield from (f"{part}/{task}" for task in tasks)


def folders(children: Sequence[str]) -> list[str]:
    """Return the names of the folders among children."""
    return [name[:-1] for name in children if name.endswith("/")]


def likely_places(folder: Folder) -> Iterator[str]:
    """Yield where pairs would be, nearest first; of a whole data set, part 1 before all others."""
    yield ""
    top = folders(folder.children())
    for name in ([part for part in PARTS if part in top] or top)[:8]:
        yield name
        yield from (f"{name}/{task}" for task in folders(folder.children(name))[:4])


def holds_pairs(folder: Folder, place: str) -> bool:
    """Whether there is ``<k>.hdf5`` with ``<k>.mp4``."""
    names = {name for name in folder.children(place) if NUMBERED.fullmatch(name)}
    return any(name.replace(".hdf5", ".mp4") in names for name in names if "hdf5" in name)


def scan_poses(folder: Folder, name: str) -> dict[str, Any]:
    """Return the rows, the texts and the gaps of one HDF5 file.

    Raises:
        DataError: not HDF5, no camera, or data sets that differ in length.
    """
    files, label = Hdf5Files(folder), folder.label(name)
    rows, *_ = (*files.dataset(name, "transforms/camera").shape, 0)
    present = set(files.keys(name, "transforms"))
    for joint in ("camera", *(joint for joint, _ in layout("hands") if joint in present)):
        column(files, name, joint, rows)  # of the others when they are read: there are many
    top, attributes = files.keys(name), files.attrs(name)
    texts = descriptions(attributes, label)
    stored = "camera" in top and "intrinsic" in files.keys(name, "camera")
    return {
        "rows": rows,
        "text": texts[0] if texts else "",
        "about": {
            **describe(attributes, texts),
            "confidences": "confidences" in top,
            "intrinsics": "stored" if stored else "default",
        },
        "missing": [joint for joint in JOINTS if joint not in present],
        "bytes": folder.size(name),
    }


def column(files: Hdf5Files, name: str, joint: str, rows: int) -> Column:
    """Find the poses of a joint.

    Raises:
        DataError: there are none, or they are not one matrix for each row.
    """
    poses = files.dataset(name, f"transforms/{joint}")
    if poses.shape != (rows, 4, 4) or poses.dtype.kind != "f":
        raise DataError(
            f"{files.folder.label(name)}: transforms/{joint} has the shape {list(poses.shape)} of "
            f"{poses.dtype}, expected [{rows}, 4, 4] of float32; download it again"
        )
    return poses


def scan_video(folder: Folder, name: str) -> dict[str, Any]:
    """Return what the index of an MP4 says: no more than that is read.

    Raises:
        DataError: the video is broken or cut off.
    """
    info = video_info(folder.path(name))
    size = [info.height, info.width]
    return {"frames": info.frames, "fps": info.fps, "size": size, "bytes": folder.size(name)}


def descriptions(attributes: Mapping[str, Any], label: str) -> list[str]:
    """Return every text of an episode, first the one that holds.

    A reversible task has two, of which ``which_llm_description`` says the direction. Files of an
    older annotator have ``description`` alone.

    Raises:
        DataError: the direction is neither 1 nor 2.
    """
    chosen = "llm_description"
    if text(attributes, "llm_type") == "reversible":
        which = text(attributes, "which_llm_description") or "1"
        if which not in ("1", "2"):
            raise DataError(
                f"{label}: which_llm_description is {which!r}, expected 1 or 2; download it again"
            )
        chosen = {"1": "llm_description", "2": "llm_description2"}[which]
    order = (chosen, "description", "llm_description", "llm_description2", "description2")
    found = dict.fromkeys(text(attributes, key) for key in order)
    if not text(attributes, chosen) and not text(attributes, "description"):
        return []  # the other direction's text would be a lie
    return [words for words in found if words]


def describe(attributes: Mapping[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """Return what is said of an episode besides its instruction, as JSON values."""
    place = [text(attributes, key) for key in ("environment", "session_name")]
    scene = "/".join(part for part in place if part)
    named = {
        "scene": scene,
        "environment": place[0],
        "session": place[1],
        "object": text(attributes, "object"),
        "kind": text(attributes, "llm_type") or text(attributes, "type"),
        "verbs": word_list(attributes.get("llm_verbs")),
        "objects": word_list(attributes.get("llm_objects")),
        "tasks": list(texts),
        "extra": text(attributes, "extra"),
        "annotator_version": text(attributes, "annotator_version"),
    }
    given = {key: value for key, value in named.items() if value}
    if "annotated" in attributes:
        given["annotated"] = text(attributes, "annotated").lower() in ("true", "1")
    return given


def text(attributes: Mapping[str, Any], key: str) -> str:
    """Return an attribute as text, whatever scalar it was stored as; "" where it is not."""
    value = attributes.get(key)
    if getattr(value, "shape", ()) is None:  # h5py's way to say that a text has no characters
        return ""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.item() if value.size == 1 else value.tolist()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value.strip() if isinstance(value, str) else "" if value is None else str(value)


def word_list(value: Any) -> list[str]:
    """Return an attribute that is a list of texts, or one text."""
    many = list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value]
    return [word for one in many if (word := text({"": one}, ""))]


def check_poses(
    poses: Float64[np.ndarray, "t j 4 4"],
    frames: Int[np.ndarray, " t"],
    joints: Sequence[str],
    label: str,
) -> None:
    """Check that matrices are rigid motions.

    Raises:
        DataError: a matrix is not finite, or no rotation and translation.
    """
    rotation = poses[..., :3, :3]
    with np.errstate(invalid="ignore", over="ignore"):
        wrong = np.abs(np.swapaxes(rotation, -1, -2) @ rotation - np.eye(3)).max((-1, -2))
        wrong = np.maximum(wrong, np.abs(poses[..., 3, :] - [0, 0, 0, 1]).max(-1))
        good = (wrong < RIGID) & (np.linalg.det(rotation) > 0) & np.isfinite(poses).all((-1, -2))
    if not good.all():
        row, joint = np.argwhere(~good)[0]
        raise DataError(
            f"{label}: transforms/{joints[joint]} is {np.round(poses[row, joint], 3).tolist()} at "
            f"frame {frames[row]}, expected a rotation and a translation; download it again"
        )
