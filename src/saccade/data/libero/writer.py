"""Write LIBERO's HDF5 files: stage demonstrations in any order, then publish them all at once.

    ROOT/.staging/000012.hdf5       one demonstration in a file of its own, one rename each
    ROOT/<task>_demo.hdf5           by finish, each built aside, read back, and renamed

A process may be killed at any moment: a demonstration is staged whole or not at all, and while
the staging is there the files are unfinished, so ``finish`` simply builds them again.

The layout is that of LIBERO's ``scripts/create_dataset.py``: pictures with the last row first, as
MuJoCo renders, in one piece; actions in LIBERO's sense, -1 opens the gripper, 1 closes it. One
thing is other: what is seen in row t is from *before* ``actions[t]``, as in OpenVLA's files. Our
reader tells them apart by the joint angles.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float, UInt8

from saccade.checkpoint import space_for, sync_folder
from saccade.data.files.folder import Folder
from saccade.data.libero.files import CAMERAS, SUFFIX, scan
from saccade.errors import DataError

STAGING, REMOVED = ".staging", ".staging-removed"
TAG = "libero-v1"


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """What was seen and done; row t is from before ``actions[t]``.

    Args:
        pictures: upright frames of ``agentview`` and ``wrist``.
        hand: position and rotation vector of the end effector, in metres and radians.
        joints: seven angles.
        fingers: positions of the two fingers, in metres.
        states: the simulator's, flattened: time, positions, velocities.
        actions: in LIBERO's sense, as executed.
        model: the scene as XML.
        about: further attributes, such as the number of the initial state.
    """

    pictures: Mapping[str, UInt8[np.ndarray, "t h w 3"]]
    hand: Float[np.ndarray, "t 6"]
    joints: Float[np.ndarray, "t 7"]
    fingers: Float[np.ndarray, "t 2"]
    states: Float[np.ndarray, "t n"]
    actions: Float[np.ndarray, "t 7"]
    model: str
    about: Mapping[str, Any]


class LiberoWriter:
    """Write the files of one suite; several processes may stage different demonstrations.

    Picklable. ``root`` is the folder of the suite.
    """

    def __init__(self, root: Path) -> None:
        self.root, self._staging = root, root / STAGING
        self._staging.mkdir(parents=True, exist_ok=True)

    def write_episode(
        self, index: int, task: str, attributes: Mapping[str, Any], demo: Demonstration
    ) -> None:
        """Stage one demonstration, whole or not at all. Its number only decides the order.

        Args:
            index: number of the demonstration.
            task: stem of the BDDL file, after which the file is called.
            attributes: what the file says of its task.
            demo: what was recorded.

        Raises:
            DataError: it is staged already, lengths differ, or numbers are not finite.
            SpaceError: the disk is full.
        """
        path = self._path(index)
        _check(f"demonstration {index} of {task}", demo)
        if path.exists():
            raise DataError(f"{path} is staged already; give the demonstration another number")
        with _written(path) as file:
            data = file.create_group("data")
            data.attrs.update(attributes)
            file.attrs["task"] = task
            _write(data.create_group("demo_0"), demo)

    def staged(self) -> set[int]:
        """Return the numbers of the demonstrations that are staged."""
        return {int(path.stem) for path in self._staging.glob("[0-9]*.hdf5")}

    def finish(self) -> None:
        """Publish a file for each task, its demonstrations numbered from 0; end the staging.

        Raises:
            DataError: nothing is staged, or what was written cannot be read as it was meant.
            SpaceError: the disk is full.
        """
        tasks: dict[str, list[Path]] = {}
        for index in sorted(self.staged()):
            with h5py.File(self._path(index)) as file:
                tasks.setdefault(str(file.attrs["task"]), []).append(self._path(index))
        if not tasks:
            raise DataError(f"{self.root} has no staged demonstrations; write some first")
        for left in self.root.glob(".*.tmp"):  # of a finish that was killed
            left.unlink()
        for task, paths in tasks.items():
            self._assemble(task, paths)
        tidy(self.root)
        # In one step: half a staging would look whole.
        self._staging.rename(self.root / REMOVED)
        sync_folder(self.root)
        tidy(self.root)

    def _assemble(self, task: str, paths: list[Path]) -> None:
        """Copy staged demonstrations into one file."""
        with _written(self.root / f"{task}{SUFFIX}") as file:
            data, total = file.create_group("data"), 0
            for number, path in enumerate(paths):
                with h5py.File(path) as one:
                    data.attrs.update(one["data"].attrs)
                    demo = one["data/demo_0"]
                    one.copy(demo, data, f"demo_{number}")
                    total += int(np.asarray(demo.attrs["num_samples"]))
            data.attrs.update(num_demos=len(paths), total=total)

    def _path(self, index: int) -> Path:
        return self._staging / f"{index:06d}.hdf5"


def finished(root: Path) -> bool:
    """Whether the files of a suite are published, all of them."""
    return not (root / STAGING).exists() and any(root.glob(f"*{SUFFIX}"))


def tidy(root: Path) -> None:
    """Remove what is left of a staging whose removal was killed."""
    shutil.rmtree(root / REMOVED, ignore_errors=True)


def count(root: Path) -> tuple[int, int]:
    """Return how many demonstrations and rows the files of a suite hold."""
    folder = Folder(root)
    demos = [
        demo
        for path in sorted(root.glob(f"*{SUFFIX}"))
        for demo in scan(folder, path.name)["demos"].values()
    ]
    return len(demos), sum(demo["rows"] for demo in demos)


@contextmanager
def _written(path: Path) -> Iterator[h5py.File]:
    """Write a file aside; put it in its place when it is whole, on disk, and our reader reads it.

    Raises:
        DataError: it cannot be read back.
        SpaceError: the disk is full.
    """
    temporary = path.with_name(f".{path.stem}-{os.getpid()}.tmp")
    try:
        with space_for(path):
            with h5py.File(temporary, "w") as file:
                yield file
            found = scan(Folder(path.parent), temporary.name)["demos"]
            if faults := [demo["fault"] for demo in found.values() if demo["fault"]]:
                raise DataError(faults[0])
            sync_folder(temporary)  # a descriptor for reading serves files as well
            temporary.replace(path)
            sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _check(label: str, demo: Demonstration) -> None:
    numbers = {
        "hand": demo.hand,
        "joints": demo.joints,
        "fingers": demo.fingers,
        "states": demo.states,
        "actions": demo.actions,
    }
    lengths = {name: len(rows) for name, rows in (numbers | dict(demo.pictures)).items()}
    if set(demo.pictures) != set(CAMERAS) or len(set(lengths.values())) != 1 or not len(demo.hand):
        raise DataError(
            f"{label} has rows {lengths}, expected equally many of {[*CAMERAS, *numbers]}"
        )
    if odd := [name for name, rows in numbers.items() if not np.isfinite(rows).all()]:
        raise DataError(f"{label}: {odd} are not finite; leave it out")


def _write(group: h5py.Group, demo: Demonstration) -> None:
    rows = len(demo.actions)
    last = (np.arange(rows) == rows - 1).astype(np.uint8)
    seen = {
        "gripper_states": demo.fingers,
        "joint_states": demo.joints,
        "ee_states": demo.hand,
        "ee_pos": demo.hand[:, :3],
        "ee_ori": demo.hand[:, 3:],
    }
    tables: dict[str, np.ndarray] = {f"obs/{name}": value for name, value in seen.items()}
    pose = [demo.fingers, demo.hand[:, :3], _quaternion(demo.hand[:, 3:])]
    tables |= {"robot_states": np.concatenate(pose, 1)}
    tables |= {"actions": demo.actions, "states": demo.states}
    for name, value in tables.items():
        group[name] = value.astype(np.float64)
    for camera, key in CAMERAS.items():
        group[f"obs/{key}"] = np.ascontiguousarray(demo.pictures[camera][:, ::-1])
    group["rewards"], group["dones"] = last, last
    group.attrs.update(num_samples=rows, model_file=demo.model, init_state=demo.states[0])
    group.attrs.update(demo.about)


def _quaternion(turns: Float[np.ndarray, "t 3"]) -> Float[np.ndarray, "t 4"]:
    """Return the quaternions (x, y, z, w) of rotation vectors."""
    half = np.linalg.norm(turns, axis=1, keepdims=True) / 2
    return np.concatenate([turns / 2 * np.sinc(half / np.pi), np.cos(half)], 1)
