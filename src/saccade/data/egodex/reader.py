"""EgoDex: what a head camera saw while two hands worked, and where every joint was.

Folders ``<part>/<task>/<k>.mp4`` and ``<k>.hdf5``: 1920 x 1080 at 30 Hz, poses of the camera and
68 joints at each frame (frame i of the one is row i of the other). Poses are joint to world, in
metres. The world is where the recording began, which no picture tells and no two episodes share:
the default is the frame of the head camera (x right, y down, z forward).

The licence is CC BY-NC-ND 4.0: read it in place, hand on no copy in another form.
https://arxiv.org/abs/2505.11709, https://github.com/apple/ml-egodex
"""

import hashlib
import json
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float32, Float64, Int, Int64, UInt8
from torch import Tensor

from saccade.config import Config
from saccade.data.egodex.files import (
    INTRINSIC,
    JOINTS,
    State,
    body_of,
    check_poses,
    column,
    dimensions,
    find_pairs,
    holds_pairs,
    layout,
    likely_places,
    scan_poses,
    scan_video,
    wrist_of,
)
from saccade.data.episodes import Conventions, Episodes
from saccade.data.files.faults import OnError, Skipped
from saccade.data.files.folder import Folder, open_folder
from saccade.data.files.hdf5 import Hdf5Files
from saccade.data.files.index import index
from saccade.data.video.codec import decode_frames
from saccade.errors import DataError

FPS, CAMERA = 30.0, "head"
SIZE = (1080, 1920)  # of the official pictures, which intrinsics are about
INTRINSICS = ((736.6339, 0.0, 960.0), (0.0, 736.6339, 540.0), (0.0, 0.0, 1.0))  # where not stored
LICENCE = "CC BY-NC-ND 4.0: do not distribute the data, whole, in part or changed"
OFFICIAL = {"hours": 829, "episodes": 338_000, "tasks": 194}  # of all parts, as the paper says
VERSION = 1  # of the scans
BODIES = {body_of(joint): joint for joint in JOINTS}
KEPT = 4  # episodes whose poses stay in memory: a window reads one twice

Frame = Literal["camera", "world"]


@dataclass(frozen=True, kw_only=True)
class EgoDexConfig(Config["EgoDex"]):
    """``root`` holds the parts, or is one part, or one task of a part.

    Args:
        parts: those to read, such as ``part1``; nothing else is listed or opened. Empty: all.
        state: ``hands`` is the paper's vector of 48, per hand the position and rotation of the
            wrist and the positions of five finger tips; ``wrists`` leaves out the tips (18);
            ``all`` has the position and rotation of each of the 68 joints (612). A rotation is
            the first two columns of its matrix.
        frame: of states and actions: the head camera's, or the world's of the recording.
        on_error: ``skip`` leaves out broken pairs, up to the share ``most_skipped``.
    """

    format: ClassVar[str] = "egodex"
    about: ClassVar[str] = "EgoDex: <part>/<task>/<k>.mp4 and .hdf5; parts=part1 reads that alone"

    root: str | Path
    cameras: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    state: State = "hands"
    frame: Frame = "camera"
    on_error: OnError = "raise"
    most_skipped: float = 0.01

    @staticmethod
    def recognises(folder: Folder) -> bool:
        """Whether numbered pairs of HDF5 and MP4 lie at most two folders deep."""
        return any(holds_pairs(folder, place) for place in likely_places(folder))

    def build(self) -> "EgoDex":
        """Index the episodes."""
        return EgoDex(self)


class EgoDex(Episodes):
    """Every pair of files, by part, task and number.

    An episode is as long as the shorter of its two files, which may differ by one frame. The
    action at a frame is the state of the next row, seen from the camera of this frame (the
    paper's convention); at the last row the hands stay where they are.

    ``skipped`` says of each file that is left out why: it has no mate (a few official ones have
    none), or it is broken and ``on_error`` is ``skip``.

    Raises:
        DataError: there are no pairs, a file is damaged or lacks a joint of the state, or the
            files of a pair differ by more than one frame.
    """

    world_to_camera: Mapping[str, Float64[np.ndarray, "3 3"]] = {}  # moves: see ``camera_poses``

    def __init__(self, config: EgoDexConfig) -> None:
        if set(config.cameras) - {CAMERA}:
            raise DataError(f"{config.root} has no cameras {config.cameras}; it has {CAMERA!r}")
        self.config, self.fps, self.cameras = config, FPS, (CAMERA,)
        joints = layout(config.state)
        self._joints = ("camera", *(joint for joint, _ in joints))
        self.state_names, self._cells = dimensions(joints)
        self.action_names = self.state_names
        seen_from = CAMERA if config.frame == "camera" else ""
        self.conventions = Conventions(commands="goals", metres=1.0, camera=seen_from)
        self._folder = open_folder(config.root)
        root = self._folder.root
        self._root = root if "://" in root else str(Path(root).resolve())  # names part and task
        pairs, self.skipped = find_pairs(self._folder, config.parts)
        if self.skipped:
            warnings.warn(
                f"{config.root}: {len(self.skipped)} files without their mate are left out; "
                "if these are not a few, the download is not complete",
                stacklevel=3,
            )
        self.stems: list[str] = []  # of the files of each episode
        self.lengths, self.tasks = [], []
        self._about: list[str] = []
        self._sizes: list[tuple[int, int]] = []
        self._rows: list[int] = []
        self.bytes: list[int] = []
        self._index(pairs)
        self.fingerprint = self._digest()
        self._files = Hdf5Files(self._folder)
        self._kept: OrderedDict[tuple[str, tuple[str, ...]], np.ndarray] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": OrderedDict()}

    def numbers(
        self, episode: int, frames: Int64[np.ndarray, " t"]
    ) -> tuple[Float32[np.ndarray, "t s"], Float32[np.ndarray, "t a"]]:
        """Return where the joints are, and where they are at the next frame, in metres."""
        later = np.minimum(frames + 1, self._rows[episode] - 1)
        poses = self._poses(episode, self._joints, np.concatenate([frames, later]))
        if self.config.frame == "camera":
            to_view = np.linalg.inv(poses[: len(frames), :1])
            poses = np.tile(to_view, (2, 1, 1, 1)) @ poses
        flat = poses[:, 1:].reshape(len(poses), 16 * (len(self._joints) - 1))
        numbers = flat[:, self._cells].astype(np.float32)
        return numbers[: len(frames)], numbers[len(frames) :]

    def pixels(
        self, episode: int, camera: str, frames: Int64[np.ndarray, " t"]
    ) -> UInt8[Tensor, "t 3 h w"]:
        """Decode frames by their place in the video: frame i belongs to row i."""
        return decode_frames(self._folder.path(f"{self.stems[episode]}.mp4"), frames)

    def transforms(
        self, episode: int, joint: str, frames: Int[np.ndarray, " t"], frame: Frame = "camera"
    ) -> Float64[np.ndarray, "t 4 4"]:
        """Return the poses of any of the 68 joints, or of ``camera``.

        ``frame="camera"`` means the head camera at the same frame: ``inv(camera[t]) @ joint[t]``.

        Raises:
            DataError: there is no such joint or frame, or a pose is not rigid.
        """
        if joint not in ("camera", *JOINTS):
            raise DataError(f"there is no joint {joint!r}; there are camera, {', '.join(JOINTS)}")
        frames = self._checked(episode, frames)
        poses = self._poses(episode, ("camera", joint), frames)
        return poses[:, 1] if frame == "world" else np.linalg.inv(poses[:, 0]) @ poses[:, 1]

    def confidences(
        self, episode: int, body: str, frames: Int[np.ndarray, " t"]
    ) -> Float64[np.ndarray, " t"] | None:
        """Return how far each pose can be trusted: 1 fully, 0 not seen; None where not stored.

        ``body`` is a joint as the file names it (``rightHand``) or as the state does.

        What is stored of a finger is relative to its hand, whose own confidence says whether the
        hand was found at all: returned is the product of both.

        Raises:
            DataError: there is no such joint or frame, or a value outside 0 to 1.
        """
        frames = self._checked(episode, frames)
        if not json.loads(self._about[episode])["confidences"]:
            return None
        joint = BODIES.get(body, body)
        wrist = wrist_of(joint)
        name, product = f"{self.stems[episode]}.hdf5", np.ones(len(frames))
        for key in (f"confidences/{one}" for one in (joint, wrist) if one):
            shares = self._files.rows(name, key, frames).astype(np.float64)
            if shares.shape != frames.shape or not ((shares >= 0) & (shares <= 1)).all():
                raise DataError(
                    f"{self._folder.label(name)}: {key} has the shape {list(shares.shape)} and "
                    f"values like {shares.ravel()[:3].tolist()}, expected one from 0 to 1 for "
                    "each frame; download it again"
                )
            product *= shares
        return product

    def camera_poses(self, episode: int, camera: str) -> Float64[np.ndarray, "t 4 4"]:
        """Return the pose of the head at each frame, camera to world."""
        return self._poses(episode, ("camera",), np.arange(self.lengths[episode]))[:, 0]

    def intrinsics(self, episode: int, camera: str) -> Float64[np.ndarray, "3 3"]:
        """Return the camera matrix, scaled where the video is not 1920 x 1080.

        Where the file has none, it is the one that all official files share
        (``about(episode)["intrinsics"]`` says which).

        Raises:
            DataError: what is stored is no camera matrix.
        """
        matrix, name = np.array(INTRINSICS), f"{self.stems[episode]}.hdf5"
        if json.loads(self._about[episode])["intrinsics"] == "stored":
            matrix = self._files.rows(name, INTRINSIC, np.arange(3)).astype(np.float64)
            focal = np.diagonal(matrix)[:2] if matrix.shape == (3, 3) else np.zeros(2)
            if not (focal > 0).all() or not np.isfinite(matrix).all():
                raise DataError(
                    f"{self._folder.label(name)}: {INTRINSIC} is {matrix.tolist()}, expected a "
                    "camera matrix of 3 x 3; download it again"
                )
        (height, width), (rows, columns) = self._sizes[episode], SIZE
        return np.diag([width / columns, height / rows, 1.0]) @ matrix

    def about(self, episode: int) -> dict[str, Any]:
        """Return the texts and names in the file, and where it lies."""
        part, task = self.place(self.stems[episode])
        found = {"part": part, "task": task, "source": f"{self.stems[episode]}.hdf5"}
        return found | json.loads(self._about[episode]) | {"licence": LICENCE}

    def place(self, name: str) -> tuple[str, str]:
        """Return the part and the task of a file: the folders that it lies in."""
        part, task = PurePosixPath(self._root, name).parts[-3:-1]
        return part, task

    def _index(self, pairs: list[str]) -> None:
        """Fill the lists with what the files of each pair say."""
        limits = self.config.on_error, self.config.most_skipped
        poses, faults = index(
            self._folder, [f"{stem}.hdf5" for stem in pairs], scan_poses, VERSION, *limits
        )
        videos, more = index(
            self._folder, [f"{stem}.mp4" for stem in pairs], scan_video, VERSION, *limits
        )
        skipped = Skipped(*limits)
        skipped.found |= faults | more
        texts: dict[str, str] = {}  # episodes share theirs with many others
        for stem in pairs:
            table, video = poses.get(f"{stem}.hdf5"), videos.get(f"{stem}.mp4")
            if table is None or video is None:
                continue
            with skipped.guard(f"{stem}.hdf5"):
                self.lengths.append(self._length(stem, table, video))
                self.stems.append(stem)
                self.tasks.append(texts.setdefault(table["text"], table["text"]))
                about = json.dumps(table["about"] | self._oddities(table, video))
                self._about.append(texts.setdefault(about, about))
                self._rows.append(table["rows"])
                self._sizes.append(tuple(video["size"]))
                self.bytes.append(table["bytes"] + video["bytes"])
        skipped.settle(len(pairs), "pairs")
        self.skipped = {**self.skipped, **skipped.found}
        if not self.stems:
            raise DataError(f"{self.config.root} has no episode left; download it again")

    def _length(self, stem: str, table: Mapping[str, Any], video: Mapping[str, Any]) -> int:
        label = self._folder.label(f"{stem}.hdf5")
        lacking = [joint for joint in self._joints if joint in table["missing"]]
        if lacking:
            raise DataError(
                f"{label} lacks {len(lacking)} joints of the state {self.config.state!r}, such as "
                f"transforms/{lacking[0]}; download it again, or ask for another state"
            )
        rows, frames = table["rows"], video["frames"]
        if abs(rows - frames) > 1:
            raise DataError(
                f"{label} has {rows} rows, its video {frames} frames, expected the same "
                "(give or take one); download both again"
            )
        return min(rows, frames)

    def _oddities(self, table: Mapping[str, Any], video: Mapping[str, Any]) -> dict[str, Any]:
        odd: dict[str, Any] = {}
        if table["rows"] != video["frames"]:
            odd |= {"rows": table["rows"], "video_frames": video["frames"]}
        if abs(video["fps"] - FPS) > 0.01 * FPS:
            odd["video_fps"] = video["fps"]
        return odd

    def _poses(
        self, episode: int, joints: tuple[str, ...], frames: Int[np.ndarray, " t"]
    ) -> Float64[np.ndarray, "t j 4 4"]:
        """Load and check poses, joint to world."""
        name = f"{self.stems[episode]}.hdf5"
        poses = self._kept.pop((name, joints), None)
        if poses is None:
            rows = self._rows[episode]
            tables = [column(self._files, name, joint, rows) for joint in joints]
            poses = np.stack([table.rows(np.arange(rows)) for table in tables], 1)
        self._kept[name, joints] = poses
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        with np.errstate(invalid="ignore"):  # a damaged number is refused below
            found = poses[frames].astype(np.float64)
        check_poses(found, frames, joints, self._folder.label(name))
        return found

    def _digest(self) -> str:
        options = [VERSION, self.config.state, self.config.frame]
        known = [options, self.stems, self.lengths, self.bytes]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]


def manifest(episodes: EgoDex) -> dict[str, dict[str, int | float]]:
    """Return what each part holds: episodes, tasks, frames, hours, bytes and files left out.

    From the index alone; ``OFFICIAL`` has the totals of the whole data set, for comparison. Tasks
    are folders. A file that is left out is broken or has no mate (``episodes.skipped``).
    """
    keys = ("episodes", "tasks", "frames", "hours", "bytes", "left_out")
    parts: dict[str, dict[str, int | float]] = {}
    tasks: set[tuple[str, str]] = set()
    for stem, frames, size in zip(episodes.stems, episodes.lengths, episodes.bytes, strict=True):
        part, task = episodes.place(stem)
        found = parts.setdefault(part, dict.fromkeys(keys, 0))
        found["tasks"] += (part, task) not in tasks
        tasks.add((part, task))
        found["episodes"] += 1
        found["frames"] += frames
        found["bytes"] += size
    for name in episodes.skipped:
        parts.setdefault(episodes.place(name)[0], dict.fromkeys(keys, 0))["left_out"] += 1
    return {name: found | {"hours": found["frames"] / FPS / 3600} for name, found in parts.items()}
