"""Trajectories in NumPy's own files, as the notebook of V-JEPA 2-AC keeps its example.

    observations  uint8 [e, t, h, w, 3]
    states        float [e, t, 7]: x, y, z in metres, roll, pitch, yaw (extrinsic xyz), gripper

A file has no times, and says neither what 1 means for the gripper nor what the axes are: options
do. Actions are not read: the format has none, a world model measures them between states. An array
``actions`` must fit the states all the same, since one that does not shows that they are of two
recordings; it and any other array is named in ``about``.

https://github.com/facebookresearch/vjepa2 (``notebooks/franka_example_traj.npz``)
"""

import hashlib
import json
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from saccade.config import Config
from saccade.data.episodes import Episodes, state_groups
from saccade.data.files.folder import Folder, open_folder
from saccade.errors import ConfigError, DataError
from saccade.poses import NAMES

CAMERA, SUFFIX = "camera", ".npz"
FRAMES, STATES, ACTIONS = "observations", "states", "actions"
LARGEST = 4_000_000_000  # bytes of pictures in one file, which are in memory as a whole
KEPT = 2  # files whose pictures are
VERSION = 1  # of what is read of them
BROKEN = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, kw_only=True)
class NpzConfig(Config["Npz"]):
    """``root`` is a file, or a folder of files, which are read in the order of their names.

    Args:
        fps: frames per second, which no file says. The default is an assumption: the rate that
            V-JEPA 2-AC is said to have learned at; of the official example it is not known.
        gripper: what 1 means in the file; inside it is always open. Official data: closed.
        names: axes of a state, in the order of the file.
    """

    format: ClassVar[str] = "npz"
    about: ClassVar[str] = "NumPy trajectories of V-JEPA 2-AC's notebook; fps, gripper, names"

    root: str | Path
    cameras: tuple[str, ...] = ()
    fps: float = 4.0
    gripper: Literal["closed_is_1", "open_is_1"] = "closed_is_1"
    names: tuple[str, ...] = NAMES

    @staticmethod
    def recognises(folder: Folder) -> bool:
        """Whether there is a file of NumPy arrays in the folder."""
        return any(name.endswith(SUFFIX) for name in folder.children())

    def build(self) -> "Npz":
        """Read states, and the sizes of pictures."""
        return Npz(self)


class _Header(NamedTuple):
    """What an array is, before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    checksum: int


class Npz(Episodes):
    """Every trajectory of every file.

    ``about`` has the source, where the rate and the sense of the gripper come from, and which
    arrays are not read.

    Raises:
        ConfigError: a rate that cannot be.
        DataError: a file is missing, damaged or too large, or its arrays are not those above.
    """

    def __init__(self, config: NpzConfig) -> None:
        if not 0 < config.fps < float("inf"):
            raise ConfigError(f"fps is {config.fps}; give the frames per second of the recording")
        if set(config.cameras) - {CAMERA}:
            raise DataError(f"{config.root} has no cameras {config.cameras}; it has {CAMERA!r}")
        self.config, self.fps = config, config.fps
        self.cameras, self.world_to_camera = (CAMERA,), {}
        self.state_names, self.action_names = config.names, ()
        self._folder, names = _files(config.root)
        self._pictures, self._states = OrderedDict[str, UInt8[np.ndarray, "e t h w 3"]](), []
        self._entries: list[tuple[str, int]] = []  # file, number in it
        self._unread: dict[str, list[str]] = {}
        self.lengths, known = [], []
        for name in names:
            headers = _headers(self._folder, name)
            self._check(name, headers)
            count, length = headers[FRAMES].shape[:2]
            self._states += list(self._read_states(name))
            self._entries += [(name, number) for number in range(count)]
            self._unread[name] = sorted(headers.keys() - {FRAMES, STATES})
            self.lengths += [length] * count
            known.append([name, *(headers[key].checksum for key in (FRAMES, STATES))])
        self.tasks = [""] * len(self.lengths)
        content = json.dumps([VERSION, known, config.fps, config.gripper, config.names])
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()[:16]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pictures": OrderedDict()}

    def numbers(
        self, episode: int, frames: Int64[np.ndarray, " t"]
    ) -> tuple[Float32[np.ndarray, "t s"], Float32[np.ndarray, "t a"]]:
        """Return states, the gripper 1 when open, and no actions."""
        return self._states[episode][frames], np.empty((len(frames), 0), np.float32)

    def pixels(
        self, episode: int, camera: str, frames: Int64[np.ndarray, " t"]
    ) -> UInt8[Tensor, "t 3 h w"]:
        """Copy the pictures of these frames."""
        name, number = self._entries[episode]
        # Threads may come here at once: each step is one that the interpreter does not interrupt.
        pictures = self._pictures.pop(name, None)
        if pictures is None:
            pictures = _array(self._folder, name, FRAMES)
        self._pictures[name] = pictures
        while len(self._pictures) > KEPT:
            with suppress(KeyError):
                self._pictures.popitem(last=False)
        return torch.from_numpy(pictures[number, frames]).permute(0, 3, 1, 2)

    def about(self, episode: int) -> dict[str, Any]:
        """Return file and trajectory, and what is known by options alone."""
        name, number = self._entries[episode]
        return {
            "source": f"{name}: trajectory {number}",
            "fps_from": f"the option fps={self.fps:g}; the file has no times",
            "gripper_from": f"the option gripper={self.config.gripper}",
            "not_read": self._unread[name],
        }

    def _check(self, name: str, headers: Mapping[str, _Header]) -> None:
        """Refuse arrays of other names, kinds or sizes, before any is read."""
        label = self._folder.label(name)
        absent = [key for key in (FRAMES, STATES) if key not in headers]
        if absent:
            raise DataError(
                f"{label} has no array {absent[0]!r}; it has {sorted(headers)}, expected are "
                f"{FRAMES!r} and {STATES!r}"
            )
        seen, states = headers[FRAMES], headers[STATES]
        if len(seen.shape) != 5 or seen.shape[-1] != 3 or seen.dtype != np.uint8:
            raise DataError(
                f"{label}: {FRAMES} are {seen.dtype} {seen.shape}, expected uint8 [trajectory, "
                "frame, row, column, 3]; convert them"
            )
        if not all(seen.shape):
            raise DataError(f"{label}: {FRAMES} of shape {seen.shape} hold nothing; leave it out")
        if (size := np.prod(seen.shape, dtype=np.int64)) > LARGEST:
            raise DataError(
                f"{label} has {size / 1e9:.1f} GB of pictures, at most {LARGEST / 1e9:g} are read "
                "at once; cut it into several files, by trajectory"
            )
        expected = (*seen.shape[:2], len(self.state_names))
        if states.shape != expected or states.dtype.kind != "f":
            raise DataError(
                f"{label}: {STATES} are {states.dtype} {states.shape}, expected floats {expected}, "
                f"one {list(self.state_names)} for each frame; give names=, or mend the file"
            )
        action = headers.get(ACTIONS)
        fitting = [(seen.shape[0], seen.shape[1] - less) for less in (0, 1)]
        if action is not None and action.shape[:2] not in fitting:
            raise DataError(
                f"{label}: {ACTIONS} have the shape {action.shape}, but there are {seen.shape[0]} "
                f"trajectories of {seen.shape[1]} frames; they are not of one recording"
            )

    def _read_states(self, name: str) -> Float32[np.ndarray, "e t s"]:
        """Read states, and turn the gripper to 1 when open."""
        with np.errstate(over="ignore"):
            states = _array(self._folder, name, STATES).astype(np.float32)
        if not np.isfinite(states).all():
            e, t = np.argwhere(~np.isfinite(states).all(-1))[0].tolist()
            raise DataError(
                f"{self._folder.label(name)}: {STATES} of trajectory {e}, frame {t} are "
                f"{states[e, t].tolist()}, expected finite numbers; leave it out"
            )
        if self.config.gripper == "closed_is_1":
            gripper = state_groups(self.state_names).get("gripper", [])
            states[..., gripper] = 1 - states[..., gripper]
        return states


def _files(root: str | Path) -> tuple[Folder, list[str]]:
    """Return a folder and the names of its files; ``root`` may be one of them."""
    text = str(root).rstrip("/")
    if text.endswith(SUFFIX):
        above, _, name = text.rpartition("/")
        folder = open_folder(above or ("/" if text.startswith("/") else "."))
        if name in folder:
            return folder, [name]
        raise DataError(f"{text} does not exist; give the file or its folder")
    folder = open_folder(root)
    names = [name for name in folder.children() if name.endswith(SUFFIX)]
    if not names:
        raise DataError(f"{root} holds no file *{SUFFIX}; give a file, or a folder of some")
    return folder, names


def _headers(folder: Folder, name: str) -> dict[str, _Header]:
    """Read what arrays there are, and none of them."""
    found = {}
    try:
        with zipfile.ZipFile(folder.path(name)) as file:
            for info in file.infolist():
                if not info.filename.endswith(".npy"):
                    continue
                with file.open(info) as member:
                    version = np.lib.format.read_magic(member)
                    read = np.lib.format.read_array_header_1_0
                    if version != (1, 0):
                        read = np.lib.format.read_array_header_2_0
                    shape, _, dtype = read(member)
                found[info.filename.removesuffix(".npy")] = _Header(shape, dtype, info.CRC)
    except BROKEN as error:
        raise _broken(folder, name, error) from error
    return found


def _array(folder: Folder, name: str, key: str) -> np.ndarray:
    """Read one array; nothing is unpickled."""
    try:
        with np.load(folder.path(name), allow_pickle=False) as file:
            return file[key]
    except BROKEN as error:
        raise _broken(folder, name, error) from error


def _broken(folder: Folder, name: str, error: Exception) -> DataError:
    if isinstance(error, DataError):
        return error
    return DataError(
        f"{folder.label(name)} cannot be read ({error}); write it by numpy.savez_compressed, or "
        "download it again"
    )
