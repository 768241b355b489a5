"""Bridge V2 as NumPy files: ``.../<environment>/<task>/<id>/{train,val}/out.npy``.

A file is a pickled list of trajectories, read without running it (``pickles``). Its pictures are
views of the file; what is kept per file are its Python objects, some 2 kB per frame, of the last
few files. So read episode after episode: at random over many files each read may parse a whole
file again, and a conversion pays.

A frame is an observation with the action that follows it; the last frame of a recording, which no
action follows, is only in ``next_observations`` and left out. Delays of old recordings are mended
in the files. https://github.com/rail-berkeley/bridge_data_v2
(``data_processing/bridgedata_raw_to_numpy.py``)
"""

import hashlib
import json
import re
from collections import OrderedDict
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, UInt8
from torch import Tensor

from saccade.config import Config
from saccade.data.bridge.conventions import FPS, NAMES, Action, scene
from saccade.data.bridge.raw_files import SOON, numbers, walk
from saccade.data.episodes import Conventions, Episodes
from saccade.data.files.faults import OnError, Skipped
from saccade.data.files.folder import Folder, open_folder
from saccade.data.files.index import index
from saccade.data.files.pickles import load_npy
from saccade.errors import DataError

NAME, SPLITS = "out.npy", ("train", "val")
PICTURES = re.compile(r"images(0|[1-9]\d*)")
LISTS = ("observations", "next_observations", "actions")
VERSION = 1  # of the scan
KEPT = 4  # files whose objects stay in memory


@dataclass(frozen=True, kw_only=True)
class BridgeNumpyConfig(Config["BridgeNumpy"]):
    """Options of ``BridgeNumpy``.

    Args:
        root: any folder above the ``out.npy`` files.
        cameras: of ``image_0`` (over the shoulder) to ``image_3``; empty for all that there are.
        action: the motion that was commanded, or ``relabelled``: what was measured from each frame
            to the next. The gripper is the commanded one in both.
        clock: ``recorded`` where the time of frames was, else ``even``, 1/5 s apart.
        on_error: ``skip`` leaves out broken files, and trajectories with a broken clock, up to
            ``most_skipped`` of all.
    """

    format: ClassVar[str] = "bridge_numpy"
    about: ClassVar[str] = "Bridge V2 as NumPy files: */{train,val}/out.npy; action, clock"

    root: str | Path
    cameras: tuple[str, ...] = ()
    action: Action = "commanded"
    clock: Literal["recorded", "even"] = "recorded"
    on_error: OnError = "raise"
    most_skipped: float = 0.01

    @staticmethod
    def recognises(folder: Folder) -> bool:
        """Whether an ``out.npy`` in a folder ``train`` or ``val`` is found soon."""
        return any(
            NAME in children and _split(folder, under + NAME)
            for under, children in islice(walk(folder), SOON)
        )

    def build(self) -> "BridgeNumpy":
        """Index the files."""
        return BridgeNumpy(self)


class BridgeNumpy(Episodes):
    """Every trajectory of every file. ``skipped`` says which are not there, and why.

    Raises:
        DataError: there are none, or one is broken.
    """

    fps = FPS
    state_names = action_names = NAMES
    conventions = Conventions(commands="steps", metres=1.0)

    def __init__(self, config: BridgeNumpyConfig) -> None:
        self.config, self._folder = config, open_folder(config.root)
        names = [u + NAME for u, children in walk(self._folder) if NAME in children]
        if not names:
            raise DataError(f"{config.root} has no {NAME} below it; give a folder of Bridge V2")
        limits = config.on_error, config.most_skipped
        found, self.skipped = index(self._folder, names, scan, VERSION, *limits)
        every = [(n, i, one) for n, file in found.items() for i, one in enumerate(file)]
        broken = Skipped(*limits)
        self._entries, recorded = [], []
        for name, number, one in every:
            with broken.guard(f"{name}, trajectory {number}"):
                recorded.append(self._clock(name, number, one))
                self._entries.append((name, number, one))
        broken.settle(len(every), "trajectories")
        self.skipped |= broken.found
        self._times = np.concatenate([np.empty(0), *recorded])
        self._starts = np.cumsum([0, *map(len, recorded)])
        if not self._entries:
            raise DataError(f"{config.root} has no trajectory; download it again")
        known = sorted({name for *_, one in self._entries for name in one["cameras"]})
        unknown = sorted(set(config.cameras) - set(known))
        if unknown:
            raise DataError(f"{config.root} has no cameras {unknown}; it has {known}")
        self.cameras = tuple(dict.fromkeys(config.cameras)) or tuple(known)
        self.lengths = [one["frames"] for *_, one in self._entries]
        self.tasks = [next(iter(one["texts"]), "") for *_, one in self._entries]
        self.world_to_camera = {}
        record = json.dumps([self._entries, config.action, config.clock, self.cameras])
        self.fingerprint = hashlib.sha256(record.encode()).hexdigest()[:16]
        self._kept: OrderedDict[str, list[Any]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": OrderedDict()}

    def numbers(
        self, episode: int, frames: Int64[np.ndarray, " t"]
    ) -> tuple[Float32[np.ndarray, "t s"], Float32[np.ndarray, "t a"]]:
        """Return states and actions; the gripper is 1 open, 0 closed, as stored."""
        name, number, _ = self._entries[episode]
        state, action, following = _numbers(self._trajectory(episode), self._where(name, number))
        if self.config.action == "relabelled":
            action = np.concatenate([following[:, :6] - state[:, :6], action[:, 6:]], 1)
        return state[frames], action[frames]

    def pixels(
        self, episode: int, camera: str, frames: Int64[np.ndarray, " t"]
    ) -> UInt8[Tensor, "t 3 h w"]:
        """Copy the pictures of these frames."""
        seen, key = self._trajectory(episode)["observations"], f"images{camera[6:]}"
        if not len(frames):
            return torch.empty(0, 3, 0, 0, dtype=torch.uint8)
        video = np.stack([seen[t][key] for t in frames.tolist()])
        return torch.from_numpy(video).permute(0, 3, 1, 2)

    def timestamps(self, episode: int) -> Float64[np.ndarray, " t"]:
        """Return when each frame was recorded, in seconds from the first; else evenly."""
        first, end = self._starts[episode : episode + 2]
        return self._times[first:end]

    def cameras_of(self, episode: int) -> tuple[str, ...]:
        """Return the cameras of which there are pictures."""
        has = self._entries[episode][2]["cameras"]
        return tuple(name for name in self.cameras if name in has)

    def about(self, episode: int) -> dict[str, Any]:
        """Return every instruction, the file and the number in it, split and place of recording."""
        name, number, one = self._entries[episode]
        place, split = scene(name), _split(self._folder, name)
        return {
            "source": f"{name}, trajectory {number}",
            "tasks": one["texts"],
            **({"scene": place} if place else {}),
            **({"split": split} if split else {}),
        }

    def _trajectory(self, episode: int) -> dict[str, Any]:
        name, number, one = self._entries[episode]
        # Threads may come here at once: each step is one that the interpreter does not interrupt.
        kept = self._kept.pop(name, None) or load(self._folder, name)
        self._kept[name] = kept
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        if number >= len(kept) or len(kept[number]["actions"]) != one["frames"]:
            raise DataError(f"{self._where(name, number)} has changed; open the data set again")
        return kept[number]

    def _clock(self, name: str, number: int, one: dict[str, Any]) -> Float64[np.ndarray, " t"]:
        """Take the times of a trajectory out of what is known of it."""
        times = one.pop("times")
        if times is None or self.config.clock == "even":
            return np.arange(one["frames"]) / FPS
        back = np.flatnonzero(np.diff(times) <= 0)
        if len(back):
            raise DataError(
                f"{self._where(name, number)}, time_stamp: frame {back[0] + 1} is no later than "
                f"frame {back[0]}; give clock=even"
            )
        return np.array(times, np.float64)

    def _where(self, name: str, number: int) -> str:
        return f"{self._folder.label(name)}, trajectory {number}"


def scan(folder: Folder, name: str) -> list[dict[str, Any]]:
    """Return what the index keeps of each trajectory in a file, after a check of all of it.

    Raises:
        DataError: it is damaged, or its lists do not belong together.
    """
    return [
        _described(each, f"{folder.label(name)}, trajectory {number}")
        for number, each in enumerate(load(folder, name))
    ]


def load(folder: Folder, name: str) -> list[Any]:
    """Load the trajectories of a file: dicts with lists of equal lengths.

    Raises:
        DataError: it holds something else, or is damaged or refused.
    """
    found = load_npy(folder, name)
    empty = not found.size  # NumPy gives an empty list the type of numbers
    listed: list[Any] = found.ravel().tolist() if empty or found.dtype.kind == "O" else [None]
    for number, each in enumerate(listed):
        where = f"{folder.label(name)}, trajectory {number}"
        if not isinstance(each, dict) or not all(isinstance(each.get(k), list) for k in LISTS):
            raise DataError(f"{where} is no dict with lists {', '.join(LISTS)}; download it again")
        counts = [len(each[key]) for key in LISTS]
        frames = [one for key in LISTS[:2] for one in each[key]]
        if len(set(counts)) > 1 or not all(isinstance(one, dict) for one in frames):
            raise DataError(
                f"{where} has {counts} {', '.join(LISTS)}, expected dicts, as many of each; "
                "download it again"
            )
    return listed


def _described(trajectory: dict[str, Any], where: str) -> dict[str, Any]:
    """Check a trajectory, and say what the index keeps of it."""
    seen = trajectory["observations"]
    state, action, following = _numbers(trajectory, where)
    content = hashlib.sha256(state.tobytes() + action.tobytes() + following.tobytes())
    cameras = sorted({key for one in seen for key in one if PICTURES.fullmatch(str(key))})
    for key in cameras:
        shapes = {getattr(one.get(key), "shape", None) for one in seen}
        kinds = {getattr(one.get(key), "dtype", None) for one in seen}
        (shape, *others) = shapes
        if others or kinds != {np.dtype(np.uint8)} or not shape or shape[2:] != (3,):
            raise DataError(
                f"{where}, {key} has shapes {shapes!s:.60} and types {kinds!s:.60}, expected one "
                "picture [h, w, 3] of uint8 in each frame; download it again"
            )
        content.update(f"{key}{shape}".encode())
    texts = trajectory.get("language", [])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}: language is {texts!r:.40}, expected texts; download it again")
    lines = (line.strip() for text in dict.fromkeys(texts) for line in text.splitlines())
    return {
        "frames": len(seen),
        "cameras": [f"image_{key.removeprefix('images')}" for key in cameras],
        "texts": list(dict.fromkeys(filter(None, lines))),
        "times": _times(seen, where),
        "digest": content.hexdigest()[:16],
    }


def _times(seen: list[dict[str, Any]], where: str) -> list[float] | None:
    stamps = [one.get("time_stamp") for one in seen]
    if any(stamp is None for stamp in stamps):
        return None
    times = numbers(stamps, 1, f"{where}, time_stamp")[:, 0]
    return (times - times[:1]).tolist()


def _numbers(trajectory: dict[str, Any], where: str) -> list[Float32[np.ndarray, "t 7"]]:
    """Return states, actions and the states that follow."""
    seen, then, action = (trajectory[key] for key in LISTS)
    lists = {
        "state": [one.get("state") for one in seen],
        "actions": action,
        "state of next_observations": [one.get("state") for one in then],
    }
    return [numbers(v, 7, f"{where}, {k}").astype(np.float32) for k, v in lists.items()]


def _split(folder: Folder, name: str) -> str:
    """Return the name of the folder that a file is in, if it is a split."""
    last = PurePosixPath(folder.label(name)).parent.name
    return last if last in SPLITS else ""
