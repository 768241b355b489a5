"""Write LeRobot v3.0 data sets: stage episodes in any order, then publish them all at once.

    ROOT/.staging/episode-000123/{rows.parquet, CAMERA.mp4, episode.json}   one rename each
                                 CAMERA.safetensors                         of a simulator: truth
    ROOT/.staging/left-out-000124.json                                      why there is no such
    ROOT/.building/{data, videos, truth, meta}                              by finish, then verified
    ROOT/{data, videos, truth, meta}                                        meta last: complete

A process may be killed at any moment: an episode is staged whole or not at all, and a data set
without ``meta`` is unfinished, so ``finish`` simply builds it again.
"""

import json
import os
import re
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from errno import EEXIST, ENOTEMPTY
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, UInt8

from saccade.checkpoint import space_for, sync_folder, write_atomic
from saccade.data.lerobot.assemble import (
    OURS,
    assemble,
    load_staged,
    statistics,
    to_table,
    verify,
    write_rows,
)
from saccade.data.lerobot.metadata import Contents
from saccade.data.lerobot.reader import TRUTH
from saccade.data.passes.statistics import PixelCounts
from saccade.data.truth import SceneTruth
from saccade.data.video.codec import encode
from saccade.errors import ConfigError, DataError

PARTS = ("data", "videos", "truth", "meta")  # as they are published: ``meta`` marks completeness
LEFT_OUT = "meta/left_out.json"


class LeRobotWriter:
    """Write one data set; several processes may stage different episodes of it.

    ``cameras`` maps names to (height, width). ``extra`` is kept under ``saccade`` in info.json,
    where the reader looks for ``cameras.NAME.world_to_camera``; ``more`` are further fields of
    ``Contents``: how cameras are stored, and what the data set is made from.

    Raises:
        ConfigError: the root holds a data set, or episodes staged with other settings.
    """

    def __init__(
        self,
        root: Path,
        fps: float,
        robot: str,
        state_names: Sequence[str],
        action_names: Sequence[str],
        cameras: Mapping[str, tuple[int, int]],
        extra: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        self.root, self._staging = root, root / ".staging"
        self.contents = Contents(
            fps=fps,
            robot=robot,
            state_names=tuple(state_names),
            action_names=tuple(action_names),
            cameras={name: tuple(size) for name, size in cameras.items()},
            extra=dict(extra or {}),
            **more,
        )
        odd = [name for name in cameras if not re.fullmatch(r"[\w-]+", name)]
        if odd:
            raise ConfigError(
                f"camera names {odd} are not letters, digits, '_' and '-'; rename them"
            )
        self._claim()

    def write_episode(
        self,
        index: int,
        video: Mapping[str, Iterable[UInt8[np.ndarray, "_ _ 3"]]],
        state: Float[np.ndarray, "t s"],
        action: Float[np.ndarray, "t a"],
        task: str,
        success: bool | None = None,
        *,
        pictures: Mapping[str, Sequence[bytes]] | None = None,
        times: Float64[np.ndarray, " t"] | None = None,
        about: Mapping[str, Any] | None = None,
        truth: Mapping[str, SceneTruth] | None = None,
    ) -> None:
        """Stage one episode, whole or not at all. Its number only decides the order.

        Args:
            index: number of the episode.
            video: the frames of each camera, as an array or one after another.
            state, action: one row per frame.
            task: the instruction.
            success: whether it succeeded, where that is known.
            pictures: the frames once more as they are stored, of cameras that embed pictures.
            times: when each frame was exposed, in seconds, where the data set is timed.
            about: what ``Episodes.about`` says: success, scene, source, further instructions.
            truth: what a simulator knows of the pictures of cameras, where it was asked.

        Raises:
            DataError: the arrays do not fit the data set or one another, or are not finite.
            SpaceError: the disk is full.
        """
        pictures, about = dict(pictures or {}), {"success": success, **(about or {})}
        self._check(index, video, state, action, pictures, times, truth := dict(truth or {}))
        folder, counts = self.folder(index), {camera: PixelCounts() for camera in video}
        sizes: dict[str, tuple[int, ...]] = {}
        temporary = folder.with_name(f".{folder.name}-{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            with space_for(self.root):
                temporary.mkdir(parents=True)
                save_truth(temporary, truth)
                for camera, frames in video.items():
                    watched = self._watched(index, camera, frames, len(state), counts, sizes)
                    if camera in pictures:
                        deque(watched, maxlen=0)  # seen, and counted
                    else:
                        path = temporary / f"{camera}.mp4"
                        encode(path, watched, self.contents.fps, exact=self.contents.exact)
                table = to_table(state, action, self.contents.fps, times, pictures)
                write_rows(table, temporary / "rows.parquet")
                tasks = [task, *(text for text in about.get("tasks", ()) if text != task)]
                record = {name: about.get(name) for name in OURS} | {"tasks": tasks, "sizes": sizes}
                record |= {"length": len(state), "nbytes": table.nbytes, "stats": statistics(table)}
                record |= {"pixels": {c: value.counts.tolist() for c, value in counts.items()}}
                (temporary / "episode.json").write_text(json.dumps(record))
                sync_tree(temporary)
                self._publish(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def leave_out(self, index: int, reason: str) -> None:
        """Record why an episode of the source is not in the data set."""
        write_atomic(self._staging / f"left-out-{index:06d}.json", json.dumps(reason))

    def staged(self) -> set[int]:
        """Return the numbers of the episodes that are staged."""
        return self._numbers("episode-")

    def left_out(self) -> dict[int, str]:
        """Return the numbers of the episodes that were left out, and why."""
        numbers = sorted(self._numbers("left-out-") - self.staged())
        paths = {number: self._staging / f"left-out-{number:06d}.json" for number in numbers}
        return {number: json.loads(path.read_text()) for number, path in paths.items()}

    def finish(self) -> None:
        """Number the staged episodes from 0, publish the data set and remove the staging.

        Raises:
            DataError: nothing is staged, or what was built cannot be read.
            SpaceError: the disk is full.
        """
        building = self.root / ".building"
        if not (self.root / "meta" / "info.json").is_file():
            if not self.staged():
                raise DataError(f"{self.root} has no staged episodes; write some before finishing")
            shutil.rmtree(building, ignore_errors=True)
            with space_for(self.root):
                episodes = [load_staged(self.folder(index)) for index in sorted(self.staged())]
                assemble(building, self.contents, episodes)
                for number, episode in enumerate(episodes):
                    copy_truth(episode.folder, building, number)
                if left_out := self.left_out():
                    write_atomic(building / LEFT_OUT, json.dumps(left_out, indent=4))
                verify(building, [episode.length for episode in episodes])
                sync_tree(building)
            for name in PARTS:
                shutil.rmtree(self.root / name, ignore_errors=True)  # of a finish that was killed
                if (building / name).is_dir():  # no cameras, no videos
                    (building / name).rename(self.root / name)
            sync_folder(self.root)
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(self._staging, ignore_errors=True)

    def folder(self, index: int) -> Path:
        """Return where an episode is staged."""
        return self._staging / f"episode-{index:06d}"

    def _numbers(self, prefix: str) -> set[int]:
        with os.scandir(self._staging) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(prefix)]
        return {int(name.removeprefix(prefix).removesuffix(".json")) for name in names}

    def _publish(self, temporary: Path, folder: Path) -> None:
        try:
            temporary.rename(folder)
        except OSError as error:
            if error.errno not in (EEXIST, ENOTEMPTY):
                raise
            shutil.rmtree(temporary)  # another process was faster with the same episode
        sync_folder(self._staging)

    def _watched(
        self,
        index: int,
        camera: str,
        frames: Iterable[UInt8[np.ndarray, "_ _ 3"]],
        length: int,
        counts: Mapping[str, PixelCounts],
        sizes: dict[str, tuple[int, ...]],
    ) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """Pass frames on, count their pixels and see that there are as many as there should be."""
        counted = counts[camera]
        if not self.contents.mixed:
            sizes[camera] = tuple(self.contents.cameras[camera])
        for frame in frames:
            size = sizes.setdefault(camera, frame.shape[:2])
            if frame.shape[:2] != size:
                raise DataError(
                    f"episode {index}, {camera}: frame {counted.frames} is {frame.shape[:2]}, "
                    f"expected {size} as the others; leave the episode out, or resize it"
                )
            counted.update(frame[None])
            yield frame
        if counted.frames != length:
            raise DataError(
                f"episode {index} has {counted.frames} frames of {camera}, expected {length}, one "
                "for each state"
            )

    def _claim(self) -> None:
        """Refuse a folder with someone's data; remember the settings for those who resume."""
        finished = (self.root / "meta" / "info.json").is_file()
        foreign = not self._staging.is_dir() and any((self.root / n).exists() for n in PARTS)
        if finished or foreign:
            raise ConfigError(
                f"{self.root} already holds a data set; choose another folder or use --overwrite"
            )
        record, given = self._staging / "settings.json", self.contents.settings()
        if record.is_file():
            found = json.loads(record.read_text())
            changed = [name for name, value in given.items() if found.get(name) != value]
            if changed:
                before, now = ({n: values.get(n) for n in changed} for values in (found, given))
                raise ConfigError(
                    f"{self.root} has episodes staged with other settings ({before}, now {now}); "
                    "continue with the same ones, choose another folder or use --overwrite"
                )
            return
        write_atomic(record, json.dumps(given))

    def _check(
        self,
        index: int,
        video: Mapping[str, Iterable[UInt8[np.ndarray, "_ _ 3"]]],
        state: Float[np.ndarray, "t s"],
        action: Float[np.ndarray, "t a"],
        pictures: Mapping[str, Sequence[bytes]],
        times: Float64[np.ndarray, " t"] | None,
        truth: Mapping[str, SceneTruth],
    ) -> None:
        if index < 0 or self.folder(index).exists():
            raise DataError(f"episode {index} is staged already in {self.root}, or negative")
        contents, length = self.contents, len(state)
        found: dict[str, Any] = {"cameras": sorted(video), "state": state.shape}
        found |= {"action": action.shape, "times": None if times is None else times.shape}
        found |= {"pictures": {camera: len(data) for camera, data in pictures.items()}}
        found |= {"truth": {camera: len(scene.depth) for camera, scene in truth.items()}}
        expected: dict[str, Any] = {"cameras": sorted(contents.cameras)}
        expected |= {"state": (length, len(contents.state_names))}
        expected |= {"action": (length, len(contents.action_names))}
        expected |= {"times": (length,) if contents.timed else None}
        expected |= {"pictures": dict.fromkeys(contents.pictures, length)}
        expected |= {"truth": {c: length for c in truth if c in contents.cameras}}
        if found != expected:
            raise DataError(f"episode {index} has {found}, expected {expected}")
        numbers = [state, action] if times is None else [state, action, times]
        if not (length and all(np.isfinite(array).all() for array in numbers)):
            raise DataError(
                f"episode {index} is empty or has states, actions or times that are not finite"
            )


def save_truth(folder: Path, truth: Mapping[str, SceneTruth]) -> None:
    """Stage what a simulator knows of an episode."""
    for camera, scene in truth.items():
        scene.save(folder / f"{camera}.safetensors")


def copy_truth(staged: Path, root: Path, number: int) -> None:
    """Give what a simulator knows of a staged episode its place in the data set."""
    for path in staged.glob("*.safetensors"):
        place = root / TRUTH.format(camera=path.stem, number=number)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def sync_tree(folder: Path) -> None:
    """Make every file under a folder survive a power cut."""
    for path in (folder, *folder.rglob("*")):
        sync_folder(path)  # a descriptor for reading serves files as well
