"""LIBERO demonstrations: one HDF5 file per task, ``data/demo_<i>`` in it for each demonstration.

    <suite>/<task>_demo.hdf5
        data                         attributes: problem_info, macros_image_convention, ...
        data/demo_<i>/actions        [T, 7]: six displacements in [-1, 1], gripper -1 open 1 closed
        data/demo_<i>/obs/...        agentview_rgb, eye_in_hand_rgb [T, h, w, 3] uint8,
                                     ee_states [T, 6], joint_states [T, 7], gripper_states [T, 2]

The original files (128 pixels), those rendered again at 256, and OpenVLA's ``no_noops``, which
have no attributes. Two things differ between them, and no file says so:

*Rows.* MuJoCo renders the last row first, and that is what is stored, also in ``no_noops``.
``upright`` turns the rows back, unless the file says ``opencv``. What OpenVLA, LeRobot and openpi
feed is ``rot180``, upright but mirrored.

*Time.* LIBERO stored what is seen *after* ``actions[t]``, OpenVLA what is seen *before* it. Here
``action[t]`` always follows frame ``t``: for the former it is ``actions[t + 1]``, and an episode
has one frame less than the file, whose last frame no action follows.

https://github.com/Lifelong-Robot-Learning/LIBERO (``scripts/create_dataset.py``) and
https://github.com/openvla/openvla (``experiments/robot/libero/regenerate_libero_dataset.py``)
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from saccade.config import Config
from saccade.data.episodes import Conventions, Episodes
from saccade.data.files.faults import OnError, Skipped
from saccade.data.files.folder import Folder, open_folder
from saccade.data.files.hdf5 import Column, Hdf5Files
from saccade.data.files.index import index
from saccade.data.libero.files import ALIASES, CAMERAS, VERSION, find_files, scan
from saccade.errors import ConfigError, DataError
from saccade.types import Orientation

Alignment = Literal["auto", "after", "before"]
State = Literal["eef", "joint", "eef_joint", "openvla", "joint_fingers"]
Action = Literal["normalised", "metric"]
Table = tuple[Float32[np.ndarray, "t s"], Float32[np.ndarray, "t a"]]

POSE = ("x", "y", "z", "rx", "ry", "rz")
JOINTS = tuple(f"joint_{i}" for i in range(1, 8))
FINGERS = ("gripper_left", "gripper_right")
STATES: dict[State, tuple[tuple[str, ...], tuple[str, ...]]] = {  # what is read, its names
    "eef": (("ee_states",), (*POSE, "gripper")),
    "joint": (("joint_states",), (*JOINTS, "gripper")),
    "eef_joint": (("ee_states", "joint_states"), (*POSE, *JOINTS, "gripper")),
    "openvla": (("ee_states",), (*POSE, *FINGERS)),
    "joint_fingers": (("joint_states",), (*JOINTS, *FINGERS)),
}
FINGER = 0.04  # metres that each finger of the Panda's gripper travels
REACH = np.repeat([0.05, 0.5], 3).astype(np.float32)  # metres, radians: 1 in osc_pose.json
KEPT = 256  # tables of demonstrations in memory per process: about 4 MB
TURNS: dict[Orientation, tuple[slice, slice]] = {
    "upright": (slice(None, None, -1), slice(None)),
    "raw": (slice(None), slice(None)),
    "rot180": (slice(None, None, -1), slice(None, None, -1)),
}


@dataclass(frozen=True, kw_only=True)
class LiberoConfig(Config["Libero"]):
    """``root`` is a suite, a folder of suites, or one file.

    Args:
        cameras: ``agentview`` and ``wrist``, or LIBERO's and robosuite's own names for them.
        orientation: ``upright``; ``raw`` as stored; ``rot180`` is the stored picture turned by
            180 degrees, as OpenVLA, LeRobot and openpi do it: upright, but mirrored.
        alignment: whether frames were stored ``after`` or ``before`` the action of their row.
            ``auto`` compares joint angles with the simulator's states; where these are missing,
            LIBERO's attributes mean ``after`` and none at all ``before``.
        state: ``eef`` is position and rotation vector of the hand and the gripper's opening,
            ``joint`` seven angles and the opening, ``eef_joint`` all. In place of the opening,
            ``openvla`` (``eef``: 8 numbers, as OpenVLA, LeRobot and openpi use them) and
            ``joint_fingers`` (``joint``: 9) have the two fingers' positions in metres.
        action: ``normalised`` displacements in [-1, 1], or ``metric`` ones in metres and radians
            (rotation vector), each per step; the gripper is 1 open, 0 closed in both.
        on_error: ``skip`` leaves out broken files and demonstrations, up to ``most_skipped``.
    """

    format: ClassVar[str] = "libero"
    about: ClassVar[str] = "LIBERO: <task>_demo.hdf5; see orientation, alignment, state, action"

    root: str | Path
    cameras: tuple[str, ...] = ()
    orientation: Orientation = "upright"
    alignment: Alignment = "auto"
    state: State = "eef"
    action: Action = "normalised"
    on_error: OnError = "raise"
    most_skipped: float = 0.01

    @staticmethod
    def recognises(folder: Folder) -> bool:
        """Whether a ``<task>_demo.hdf5`` lies here or in one of the first folders."""
        return bool(find_files(folder, most_folders=8))

    def build(self) -> "Libero":
        """Index the demonstrations."""
        return Libero(self)


@dataclass(frozen=True, slots=True)
class _Demo:
    """One demonstration: where it is, and how its rows become frames."""

    name: str
    number: str
    alignment: str
    flipped: bool
    scene: str
    success: bool | None

    @property
    def source(self) -> str:
        return f"{self.name}: demo_{self.number}"

    @property
    def group(self) -> str:
        return f"data/demo_{self.number}"

    @property
    def shift(self) -> int:
        """From a frame to the row of its action."""
        return int(self.alignment == "after")


class Libero(Episodes):
    """Every demonstration, by suite, task and number; numbers may have gaps.

    ``about`` has ``source``, ``scene`` (``KITCHEN_SCENE3``, or the suite), ``alignment`` and, where
    they are stored, ``success`` and the simulator's ``versions``. ``skipped`` says why each file
    or demonstration was left out.
    """

    def __init__(self, config: LiberoConfig) -> None:
        self.config = config
        self.cameras = _cameras(config.cameras)
        self._columns, self.state_names = STATES[config.state]
        self.action_names = (*POSE, "gripper")
        self.world_to_camera = {}
        metres, radians = (1.0, 1.0) if config.action == "metric" else REACH[[0, -1]].tolist()
        self.conventions = Conventions(commands="steps", metres=metres, radians=radians)
        self._folder, names = _files(config.root)
        self._files, self._tables = Hdf5Files(self._folder), OrderedDict[int, Table]()
        self._recorded_with: dict[str, dict[str, str]] = {}
        self.lengths, self.tasks, self._demos = [], [], list[_Demo]()
        if _is_file(config.root):  # soon read, and nothing is left in the cache
            scans, self.skipped = {names[0]: scan(self._folder, names[0])}, {}
        else:
            scans, self.skipped = index(
                self._folder, names, scan, VERSION, config.on_error, config.most_skipped
            )
        broken = Skipped(config.on_error, config.most_skipped)
        for name, found in scans.items():
            self._add(name, found, broken)
        broken.settle(len(self._demos) + len(broken.found), "demonstrations")
        self.skipped |= broken.found
        if not self._demos:
            raise DataError(f"{config.root} holds no demonstrations; give another folder or file")
        self.fps = _one_rate(scans, self._folder)
        choices = [config.orientation, config.alignment, config.state, config.action]
        sizes = [(name, found["bytes"]) for name, found in scans.items()]
        content = json.dumps([VERSION, self.cameras, choices, sizes, sorted(self.skipped)])
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()[:16]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tables": OrderedDict()}

    def numbers(
        self, episode: int, frames: Int64[np.ndarray, " t"]
    ) -> tuple[Float32[np.ndarray, "t s"], Float32[np.ndarray, "t a"]]:
        """Return states in metres and radians, and the actions that follow them."""
        state, action = self._table(episode)
        return state[frames], action[frames]

    def pixels(
        self, episode: int, camera: str, frames: Int64[np.ndarray, " t"]
    ) -> UInt8[Tensor, "t 3 h w"]:
        """Read frames of a camera, and turn them as the config says."""
        return self.views(episode, (camera,), frames)[:, 0]

    def views(
        self, episode: int, cameras: Sequence[str], frames: Int64[np.ndarray, " t"]
    ) -> UInt8[Tensor, "t v 3 h w"]:
        """Read frames of several cameras straight to where they belong."""
        if not cameras:  # asked for numbers alone, which should take no time
            return super().views(episode, cameras, frames)
        demo = self._demos[episode]
        keys = [f"{demo.group}/obs/{CAMERAS[camera]}" for camera in cameras]
        columns = [self._files.dataset(demo.name, key) for key in keys]
        sizes = {column.shape[1:] for column in columns}
        if len(sizes) > 1:
            raise DataError(f"{demo.source}: cameras differ in size {sorted(sizes)}; read one")
        out = np.empty((len(frames), len(columns), *sizes.pop()), np.uint8)
        turn = TURNS["upright" if demo.flipped else "raw"]
        if self.config.orientation != "upright":
            turn = TURNS[self.config.orientation]
        for view, column in enumerate(columns):
            _copy(column, frames, turn, out[:, view])
        return torch.from_numpy(out).permute(0, 1, 4, 2, 3)

    def about(self, episode: int) -> dict[str, Any]:
        """Return file and demonstration, scene, success, and how frames and actions were stored."""
        demo = self._demos[episode]
        found: dict[str, Any] = {"source": demo.source, "scene": demo.scene}
        found["alignment"] = demo.alignment
        if versions := self._versions(demo.name):
            found["versions"] = versions
        return found if demo.success is None else found | {"success": demo.success}

    def _versions(self, name: str) -> dict[str, str]:
        """Return the versions of what a file was recorded with, where its writer says so."""
        if name not in self._recorded_with:
            told = self._files.attrs(name, "data", only=("collection",)).get("collection", "{}")
            try:
                versions = dict(json.loads(told).get("versions", {}))
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                raise DataError(
                    f"{self._folder.label(name)}: collection is not what saccade writes ({error}); "
                    "collect it again"
                ) from error
            self._recorded_with[name] = {str(k): str(v) for k, v in versions.items()}
        return self._recorded_with[name]

    def _table(self, episode: int) -> Table:
        """Load all states and actions of a demonstration, a few kilobytes, and keep them."""
        # Threads may come here at once: each step is one that the interpreter does not interrupt.
        table = self._tables.pop(episode, None) or self._load(self._demos[episode], episode)
        self._tables[episode] = table
        while len(self._tables) > KEPT:
            with suppress(KeyError):
                self._tables.popitem(last=False)
        return table

    def _load(self, demo: _Demo, episode: int) -> Table:
        seen = np.arange(self.lengths[episode])
        parts = [self._rows(demo, f"obs/{key}", seen) for key in self._columns]
        fingers = self._rows(demo, "obs/gripper_states", seen)
        parts.append(fingers if FINGERS[0] in self.state_names else opening(fingers))
        action = self._rows(demo, "actions", seen + demo.shift)
        if self.config.action == "metric":  # robosuite's controller clips, too
            action[:, :6] = action[:, :6].clip(-1, 1) * REACH
        action[:, 6] = (1 - action[:, 6]) / 2
        return np.concatenate(parts, 1), action

    def _rows(
        self, demo: _Demo, key: str, rows: Int64[np.ndarray, " t"]
    ) -> Float32[np.ndarray, "t n"]:
        column = self._files.dataset(demo.name, f"{demo.group}/{key}")
        with np.errstate(over="ignore"):
            values = column.rows(rows).astype(np.float32)
        finite = np.isfinite(values)
        if not finite.all():
            first = int(np.argmin(finite.all(1)))
            raise DataError(
                f"{column.label} is {values[first].tolist()} in row {rows[first]}, expected finite "
                "numbers; download it again"
            )
        return values

    def _add(self, name: str, found: dict[str, Any], broken: Skipped) -> None:
        """Add the demonstrations of a file."""
        label = self._folder.label(name)
        alignment = self.config.alignment
        if alignment == "auto":
            alignment = found["alignment"]
        if alignment is None:
            raise ConfigError(
                f"{label} does not tell whether its frames were stored before or after the "
                "action of their row; say so by alignment=before or alignment=after"
            )
        for number, seen in found["demos"].items():
            scene, success = found["scene"], seen["success"]
            demo = _Demo(name, number, alignment, found["flipped"], scene, success)
            with broken.guard(demo.source):
                self._check(f"{label}: {demo.group}", seen)
                self.lengths.append(max(0, seen["rows"] - demo.shift))
                self.tasks.append(found["task"])
                self._demos.append(demo)

    def _check(self, label: str, demo: dict[str, Any]) -> None:
        """Refuse a demonstration that lacks what is asked for."""
        if demo["fault"]:
            raise DataError(demo["fault"])
        keys = [f"obs/{CAMERAS[camera]}" for camera in self.cameras]
        keys += ["actions", "obs/gripper_states", *(f"obs/{key}" for key in self._columns)]
        absent = [key for key in keys if key in demo["absent"]]
        if absent:
            raise DataError(f"{label} has no {absent[0]}; download it again, or do not ask for it")


def _copy(
    column: Column,
    frames: Int64[np.ndarray, " t"],
    turn: tuple[slice, slice],
    out: UInt8[np.ndarray, "t h w 3"],
) -> None:
    """Copy frames, each with its rows and columns turned."""
    if not column.plain:
        out[:] = column.rows(frames)[:, *turn]
        return
    picture = np.empty(column.shape[1:], np.uint8)
    for i, row in enumerate(frames.tolist()):  # turned while the processor has it at hand
        column.fill(picture, row)
        out[i] = picture[turn]


def opening(fingers: Float32[np.ndarray, "t 2"]) -> Float32[np.ndarray, "t 1"]:
    """Return how open a gripper is, 1 open and 0 closed, of the positions of its two fingers.

    They move by 0.04 m each, one to either side; a little less or more is noise of the simulator.
    """
    return ((fingers[:, :1] - fingers[:, 1:]) / (2 * FINGER)).clip(0, 1)


def _cameras(asked: Sequence[str]) -> tuple[str, ...]:
    """Return our names of cameras; LIBERO and robosuite call them otherwise."""
    ours = {alias: camera for camera, aliases in ALIASES.items() for alias in (camera, *aliases)}
    unknown = [name for name in asked if name not in ours]
    if unknown:
        raise DataError(f"LIBERO has no camera {unknown[0]!r}; it has {', '.join(CAMERAS)}")
    return tuple(dict.fromkeys(ours[name] for name in asked)) or tuple(CAMERAS)


def _files(root: str | Path) -> tuple[Folder, list[str]]:
    """Return a folder and the names of its files; ``root`` may be one of them."""
    text = str(root).rstrip("/")
    if _is_file(root):
        above, _, name = text.rpartition("/")
        folder = open_folder(above or ("/" if text.startswith("/") else "."))
        if name in folder:
            return folder, [name]
        raise DataError(f"{text} does not exist; give the file or its folder")
    folder = open_folder(root)
    names = find_files(folder)
    if not names:
        raise DataError(
            f"{root} has no <task>_demo.hdf5, nor have the folders in it; give a suite, or a "
            "folder of suites"
        )
    return folder, names


def _is_file(root: str | Path) -> bool:
    return str(root).rstrip("/").endswith((".hdf5", ".h5"))


def _one_rate(scans: Mapping[str, Any], folder: Folder) -> float:
    rates = {found["fps"]: name for name, found in scans.items()}
    if len(rates) > 1:
        (one, first), (other, second) = list(rates.items())[:2]
        raise DataError(
            f"{folder.label(first)} was recorded at {one:g} Hz, {second} at {other:g} Hz; "
            "open them apart"
        )
    return next(iter(rates))
