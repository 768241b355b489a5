"""What is learned of a LIBERO file once: its task, how it was written, and its demonstrations."""

import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float

from saccade.data.files.folder import Folder
from saccade.data.files.hdf5 import Column, Hdf5Files
from saccade.errors import DataError

VERSION = 2  # of what ``scan`` returns
SUFFIX = "_demo.hdf5"
FPS = 20.0  # robosuite's control_freq in LIBERO, where a file does not say another
CAMERAS = {"agentview": "agentview_rgb", "wrist": "eye_in_hand_rgb"}  # what is stored in obs/
ALIASES = {
    "agentview": ("agentview_rgb", "agentview_image"),
    "wrist": ("eye_in_hand_rgb", "eye_in_hand", "robot0_eye_in_hand", "robot0_eye_in_hand_image"),
}
PICTURE, FLOATS, ANY = "u1", "f4 f8", ""
LAYOUT: dict[str, tuple[str, tuple[int | None, ...]]] = {  # kinds, and the shape of a row
    "actions": (FLOATS, (7,)),
    "obs/ee_states": (FLOATS, (6,)),
    "obs/joint_states": (FLOATS, (7,)),
    "obs/gripper_states": (FLOATS, (2,)),
    **{f"obs/{key}": (PICTURE, (None, None, 3)) for key in CAMERAS.values()},
    "states": (FLOATS, (None,)),
    "dones": (ANY, ()),
    "rewards": (ANY, ()),
}
LIBERO = {"problem_info", "bddl_file_name", "env_args", "macros_image_convention", "tag"}
DEMO = re.compile(r"demo_([0-9]+)")
SCENE = re.compile(r"([A-Z]+(?:_[A-Z]+)*_SCENE\d+)_")
ARM = slice(1, 8)  # of a row of ``states``: time, then the seven joints of the robot
ENOUGH = 8  # rows from which the alignment is judged
STILL = 1e-3  # radians per step: an arm that moves less says nothing


def find_files(folder: Folder, most_folders: int | None = None) -> list[str]:
    """Return the names of LIBERO's files, here or one folder below."""
    top = folder.children()
    found = [name for name in top if name.endswith(SUFFIX)]
    for below in [name for name in top if name.endswith("/")][:most_folders]:
        names = folder.children(below.rstrip("/"))
        found += [below + name for name in names if name.endswith(SUFFIX)]
    return found


def scan(folder: Folder, name: str) -> dict[str, Any]:
    """Return what is needed of a file; pictures are not read.

    A demonstration that is broken has a ``fault``, the others go on.

    Raises:
        DataError: the file is broken, or says of itself what we do not understand.
    """
    files, label = Hdf5Files(folder), folder.label(name)
    attributes = files.attrs(name, "data")
    demos = {}
    for group in files.keys(name, "data"):
        number = DEMO.fullmatch(group)
        if not number:
            raise DataError(f"{label}: data/{group} is none of demo_0, demo_1 ...; rename it")
        try:
            demos[number[1]] = _scan_demo(files, name, f"data/{group}")
        except DataError as error:
            demos[number[1]] = {"rows": 0, "absent": [], "success": None, "fault": str(error)}
    alignment = next(filter(None, (_measured(files, name, n, d) for n, d in demos.items())), None)
    if alignment is None:
        known = bool(LIBERO & attributes.keys())
        alignment = "after" if known else None if attributes else "before"
    stem = _stem(attributes, name)
    place = SCENE.match(stem)
    return {
        "task": _instruction(attributes, label) or words(stem),
        "scene": place[1] if place else suite(label),
        "flipped": _flipped(attributes, label),
        "fps": _rate(attributes, label),
        "alignment": alignment,
        "demos": demos,
        "bytes": folder.size(name),
    }


def words(stem: str) -> str:
    """Return the instruction that a BDDL file is called after.

    Names of LIBERO-90 and -10 begin with a scene: ``KITCHEN_SCENE10_close_the_top_drawer``.
    """
    return " ".join(SCENE.sub("", stem, count=1).split("_"))


def suite(label: str) -> str:
    """Return the suite that a file belongs to: the name of its folder."""
    return PurePosixPath(label).parent.name.removesuffix("_no_noops")


def normalised(text: Any) -> str:
    """Return an instruction as one text, which LIBERO keeps as a text, quoted or not, or a list."""
    if isinstance(text, list):
        parts = [str(part) for part in text]
        text = ("" if all(len(part) == 1 for part in parts) else " ").join(parts)
    return " ".join(str(text).split()).strip("\"' ")


def aligned(joints: Float[np.ndarray, "t 7"], simulated: Float[np.ndarray, "t 7"]) -> str | None:
    """Tell from the arm whether observations were stored before or after the action of their row.

    ``simulated`` are the joint angles before each action. What is seen after an action is the
    state before the next one. None where the arm rests, or where the numbers are other ones.
    """
    step = np.abs(np.diff(simulated, axis=0)).mean()
    before = np.abs(joints[1:] - simulated[1:]).mean()  # the first may be from before a reset
    after = np.abs(joints[:-1] - simulated[1:]).mean()
    if not np.isfinite([step, before, after]).all() or step < STILL:
        return None
    if min(before, after) > 0.5 * min(step, max(before, after)):
        return None
    return "before" if before < after else "after"


def _scan_demo(files: Hdf5Files, name: str, group: str) -> dict[str, Any]:
    """Check shapes and kinds of a demonstration.

    Raises:
        DataError: they are not LIBERO's, or differ in length.
    """
    label = f"{files.folder.label(name)}: {group}"
    here, seen = set(files.keys(name, group)), set(files.keys(name, f"{group}/obs"))
    have = here | {f"obs/{key}" for key in seen}
    if "actions" not in have:
        raise DataError(f"{label} has no actions, it has {sorted(have)}; download it again")
    rows = files.dataset(name, f"{group}/actions").shape[0]
    for key in LAYOUT.keys() & have:
        _check_layout(files.dataset(name, f"{group}/{key}"), key, rows)
    told = files.attrs(name, group, only=("num_samples",)).get("num_samples", rows)
    if told != rows:
        raise DataError(
            f"{label} has {rows} rows, its num_samples is {told!r}; its writer was killed or it "
            "was cut: download it again"
        )
    success = None
    if rows and have & {"dones", "rewards"}:
        key = "dones" if "dones" in have else "rewards"
        success = bool(files.rows(name, f"{group}/{key}", np.array([rows - 1]))[0])
    return {"rows": rows, "absent": sorted(LAYOUT.keys() - have), "success": success, "fault": ""}


def _check_layout(column: Column, key: str, rows: int) -> None:
    kinds, row = LAYOUT[key]
    expected = (rows, *row)
    fits = len(column.shape) == len(expected) and all(
        size in (None, found) for size, found in zip(expected, column.shape, strict=True)
    )
    if not fits or (kinds and column.dtype.str[1:] not in kinds.split()):
        form = ", ".join("any" if size is None else str(size) for size in expected)
        raise DataError(
            f"{column.label} is {column.dtype}{list(column.shape)}, expected [{form}] as the "
            f"actions are long, of {kinds or 'any kind'}; download it again"
        )


def _measured(files: Hdf5Files, name: str, number: str, demo: Mapping[str, Any]) -> str | None:
    group = f"data/demo_{number}"
    if demo["rows"] < ENOUGH or {"obs/joint_states", "states"} & set(demo["absent"]):
        return None
    rows = np.arange(demo["rows"])
    joints = files.rows(name, f"{group}/obs/joint_states", rows)
    states = files.rows(name, f"{group}/states", rows)
    if states.shape[1] < ARM.stop:
        return None
    return aligned(joints.astype(np.float64), states[:, ARM].astype(np.float64))


def _stem(attributes: Mapping[str, Any], name: str) -> str:
    """Return the stem of the BDDL file, whose path is one of the author's machine."""
    given = attributes.get("bddl_file_name")
    return PurePosixPath(given if isinstance(given, str) else name).stem.removesuffix("_demo")


def _instruction(attributes: Mapping[str, Any], label: str) -> str:
    found = _json(attributes, "problem_info", label).get("language_instruction") or ""
    if not isinstance(found, (str, list)):
        raise DataError(
            f"{label}: language_instruction is {found!r:.60}, expected a text or a list of words; "
            "download it again"
        )
    return normalised(found)


def _flipped(attributes: Mapping[str, Any], label: str) -> bool:
    """Whether the last row is stored first, as MuJoCo renders it."""
    convention = attributes.get("macros_image_convention", "opengl")
    if convention not in ("opengl", "opencv"):
        raise DataError(
            f"{label}: macros_image_convention is {convention!r}, expected opengl or opencv; "
            "download it again"
        )
    return convention == "opengl"


def _rate(attributes: Mapping[str, Any], label: str) -> float:
    settings = _json(attributes, "env_args", label).get("env_kwargs", {})
    rate = settings.get("control_freq", FPS) if isinstance(settings, dict) else FPS
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0.1 < rate < 1e4:
        raise DataError(f"{label}: control_freq is {rate!r}, expected one in Hz; download it again")
    return float(rate)


def _json(attributes: Mapping[str, Any], key: str, label: str) -> dict[str, Any]:
    try:
        value = json.loads(attributes.get(key, "{}"))
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{label}: {key} is not JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise DataError(f"{label}: {key} is a {type(value).__name__}, expected a JSON object")
    return value
