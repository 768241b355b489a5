"""Write LeRobot v3.0 data sets: stage episodes in any order, then publish them all at once.

    ROOT/.staging/episode-000123/{rows.parquet, CAMERA.mp4, episode.json}   one rename each
    ROOT/.building/{data, videos, meta}                                     by finish, then verified
    ROOT/{data, videos, meta}                                               meta last: complete

A process may be killed at any moment: an episode is staged whole or not at all, and a data set
without ``meta`` is unfinished, so ``finish`` simply builds it again.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float, UInt8

from saccade.checkpoint import space_for, sync_folder, write_atomic
from saccade.data.lerobot_assemble import Contents, assemble, load_staged, to_table, verify
from saccade.data.statistics import PixelCounts
from saccade.data.video import encode
from saccade.errors import ConfigError, DataError

PARTS = ("data", "videos", "meta")  # in the order of publication: ``meta`` marks completeness


class LeRobotWriter:
    """Write one data set; several processes may stage different episodes of it.

    ``cameras`` maps names to (height, width). ``extra`` is kept under ``saccade`` in info.json,
    where the reader looks for ``cameras.NAME.world_to_camera``.

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
    ) -> None:
        self.root, self._staging = root, root / ".staging"
        self.contents = Contents(
            fps=fps,
            robot=robot,
            state_names=tuple(state_names),
            action_names=tuple(action_names),
            cameras={name: tuple(size) for name, size in cameras.items()},
            extra=dict(extra or {}),
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
        video: Mapping[str, UInt8[np.ndarray, "t _ _ 3"]],
        state: Float[np.ndarray, "t s"],
        action: Float[np.ndarray, "t a"],
        task: str,
        success: bool | None = None,
    ) -> None:
        """Stage one episode, whole or not at all. Its number only decides the order.

        Raises:
            DataError: the arrays do not fit the data set or one another, or are not finite.
            SpaceError: the disk is full.
        """
        self._check(index, video, state, action)
        folder = self._folder(index)
        temporary = folder.with_name(f".{folder.name}-{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        counts = {camera: PixelCounts() for camera in video}
        with space_for(self.root):
            temporary.mkdir(parents=True)
            for camera, frames in video.items():
                counts[camera].update(frames)
                encode(temporary / f"{camera}.mp4", frames, self.contents.fps)
            table = to_table(state, action, self.contents.fps)
            pq.write_table(table, temporary / "rows.parquet", write_page_checksum=True)
            pixels = {camera: value.counts.tolist() for camera, value in counts.items()}
            record = {"task": task, "success": success, "length": len(state), "pixels": pixels}
            (temporary / "episode.json").write_text(json.dumps(record))
            sync_tree(temporary)
            temporary.rename(folder)
            sync_folder(self._staging)

    def staged(self) -> set[int]:
        """Return the numbers of the episodes that are staged."""
        names = (path.name for path in self._staging.glob("episode-*"))
        return {int(name.removeprefix("episode-")) for name in names}

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
                episodes = [load_staged(self._folder(index)) for index in sorted(self.staged())]
                assemble(building, self.contents, episodes)
                verify(building, [episode.length for episode in episodes])
                sync_tree(building)
            for name in PARTS:
                shutil.rmtree(self.root / name, ignore_errors=True)  # of a finish that was killed
                if (building / name).is_dir():  # no cameras, no videos
                    (building / name).rename(self.root / name)
            sync_folder(self.root)
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(self._staging, ignore_errors=True)

    def _folder(self, index: int) -> Path:
        return self._staging / f"episode-{index:06d}"

    def _claim(self) -> None:
        """Refuse a folder with someone's data; remember the settings for those who resume."""
        finished = (self.root / "meta" / "info.json").is_file()
        foreign = not self._staging.is_dir() and any((self.root / n).exists() for n in PARTS)
        if finished or foreign:
            raise ConfigError(
                f"{self.root} already holds a data set; choose another folder or use --overwrite"
            )
        record, given = self._staging / "settings.json", self.contents.settings()
        if record.is_file() and json.loads(record.read_text()) != given:
            raise ConfigError(
                f"{self.root} has episodes staged with other settings ({record.read_text()}); "
                "continue with the same ones, choose another folder or use --overwrite"
            )
        write_atomic(record, json.dumps(given))

    def _check(
        self,
        index: int,
        video: Mapping[str, UInt8[np.ndarray, "t _ _ 3"]],
        state: Float[np.ndarray, "t s"],
        action: Float[np.ndarray, "t a"],
    ) -> None:
        if index < 0 or self._folder(index).exists():
            raise DataError(f"episode {index} is staged already in {self.root}, or negative")
        contents = self.contents
        found = {camera: frames.shape for camera, frames in video.items()}
        expected = {name: (len(state), *size, 3) for name, size in contents.cameras.items()}
        found |= {"state": state.shape, "action": action.shape}
        expected["state"] = (len(state), len(contents.state_names))
        expected["action"] = (len(state), len(contents.action_names))
        if found != expected:
            raise DataError(f"episode {index} has arrays {found}, expected {expected}")
        if not (len(state) and np.isfinite(state).all() and np.isfinite(action).all()):
            raise DataError(
                f"episode {index} is empty or has states or actions that are not finite"
            )


def sync_tree(folder: Path) -> None:
    """Make every file under a folder survive a power cut."""
    for path in (folder, *folder.rglob("*")):
        sync_folder(path)  # a descriptor for reading serves files as well
