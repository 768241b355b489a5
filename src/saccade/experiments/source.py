"""Where an experiment's samples come from: a data set, its cameras, and who may see what.

Whole episodes are dealt into ``train`` (60 %: pretraining and readouts learn from it),
``select`` (20 %: held-out losses, penalties, early stopping) and ``test`` (20 %: reported).
Policies are tested in a simulator, and leave ``test`` empty. Episodes of held-out tasks are
``unseen``, and others of held-out scenes ``unseen scenes``: both are only ever reported.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from saccade.config import Config
from saccade.data.cache.reader import CachedEpisodes
from saccade.data.episodes import Episodes, Subset
from saccade.data.files.faults import OnError
from saccade.data.files.index import cache_folder
from saccade.data.framed import FramedEpisodes, SquareEpisodes
from saccade.data.splits import UNSEEN_SCENES, hold_out
from saccade.data.transforms import Framing
from saccade.errors import ConfigError
from saccade.types import Crop

PARALLEL = 5_000  # frames from which several processes pay
PARTS = ("train", "select", "test")
NAMES = (*PARTS, "unseen", UNSEEN_SCENES)  # of all parts that there may be
Report = Callable[[str], None]


class Parts(NamedTuple):
    """A data set, split, at one size; ``camera`` is the first of its cameras."""

    whole: Episodes
    train: Subset
    select: Subset
    test: Subset
    unseen: Subset | None
    unseen_scenes: Subset | None
    camera: str
    cameras: tuple[str, ...]

    def named(self) -> dict[str, Episodes]:
        """Return the parts by name, without those that are empty."""
        parts = (self.train, self.select, self.test, self.unseen, self.unseen_scenes)
        return {
            name: part
            for name, part in zip(NAMES, parts, strict=True)
            if part is not None and part.lengths
        }

    def held_out(self) -> dict[str, list[str]]:
        """Name what only the report sees, as ``results.json`` does.

        ``new_tasks`` are of unseen scenes, and in no episode that was trained on.
        """
        found = {"held_out_tasks": sorted(set(self.unseen.tasks)) if self.unseen else []}
        there = self.unseen_scenes
        if there is None:
            return found
        places = {there.about(i)["scene"] for i in range(len(there.lengths))}
        new = set(there.tasks) - {*self.train.tasks, ""}
        return found | {"held_out_scenes": sorted(places), "new_tasks": sorted(new)}


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """A data set and how it is split.

    Args:
        episodes: the reader.
        camera: the camera to look through; empty takes the data set's first.
        cameras: several, in this order, in place of ``camera``.
        crop: how frames become squares: the whole central ``square``; the ``centre`` of a shortest
            edge of 292 for 256 pixels, as V-JEPA 2; as V-JEPA 2-``ac`` was trained; the whole
            frame squashed (``stretch``, as OpenVLA) or between black bars (``pad``, as pi0).
        held_out_tasks: instructions of tasks that only the report may see.
        held_out_scenes: scenes that only the report may see, as the data set names them. An
            episode of a held-out task stays with the unseen tasks, wherever it was recorded.
        shares: of the episodes, for ``train``, ``select`` and ``test``, which may be 0.
        split_seed: decides which episodes go where.
        demos: share of the training episodes that is learned from, of every task alike; whole
            demonstrations, never a part of one, and a smaller share is part of a larger.
        cache: folder of decoded frames; empty takes $SACCADE_CACHE or ~/.cache/saccade.
        decode: ``once`` keeps decoded frames in the cache, ``always`` decodes at each read, for
            data sets whose frames fit on no disk.
        on_error: ``raise`` stops at an episode that cannot be decoded, ``skip`` leaves it out.
        most_skipped: share of the episodes that may be left out.
    """

    episodes: Config[Episodes]
    camera: str = ""
    cameras: tuple[str, ...] = ()
    crop: Crop = "square"
    held_out_tasks: tuple[str, ...] = ()
    held_out_scenes: tuple[str, ...] = ()
    shares: tuple[float, float, float] = (0.6, 0.2, 0.2)
    split_seed: int = 0
    demos: float = 1.0
    cache: str = ""
    decode: Literal["once", "always"] = "once"
    on_error: OnError = "raise"
    most_skipped: float = 0.01

    def open(self, size: int, report: Report = lambda _: None) -> Parts:
        """Decode frames once, at ``size`` pixels, and split.

        Raises:
            ConfigError: the data set has no such camera, or shares cannot be dealt.
            DataError: a file is missing or damaged, there are too few episodes, or none of what
                is to be held out.
        """
        train, select, test = self.shares
        if not (train > 0 and select > 0 and test >= 0):
            raise ConfigError(
                f"shares are {self.shares}; train and select need more than 0, test 0 or more"
            )
        if not 0 < self.demos <= 1:
            raise ConfigError(
                f"demos is {self.demos:g}; give the share of the demonstrations, above 0 and at "
                "most 1, as 0.2"
            )
        whole, cameras = self._whole(size, report)
        shares = {name: share for name, share in zip(PARTS, self.shares, strict=True) if share}
        parts = hold_out(whole, shares, self.held_out_tasks, self.held_out_scenes, self.split_seed)
        learned = fraction(parts["train"], self.demos, self.split_seed)
        if self.demos < 1:
            count, every = len(learned.lengths), len(parts["train"].lengths)
            report(f"{count} of {every} demonstrations are learned from ({self.demos:.3g} of them)")
        found = Parts(
            whole=whole,
            train=learned,
            select=parts["select"],
            test=parts.get("test", Subset(whole, [])),
            unseen=parts.get("unseen"),
            unseen_scenes=parts.get(UNSEEN_SCENES),
            camera=cameras[0],
            cameras=cameras,
        )
        _tell_scenes(found, report)
        return found

    def whole(self, size: int, report: Report = lambda _: None) -> tuple[Episodes, str]:
        """Decode frames once, at ``size`` pixels; return the data set unsplit, and the camera.

        Raises:
            ConfigError: the data set has no such camera.
            DataError: a file is missing or damaged.
        """
        episodes, cameras = self._whole(size, report)
        return episodes, cameras[0]

    def recorded(self) -> tuple[int, int]:
        """Return height and width of the pictures as the reader gives them.

        Raises:
            ConfigError: the data set has no such camera, or cameras differ in size.
        """
        episodes = self.episodes.build()
        cameras = self._cameras(episodes)
        return recorded_size(seen_by(cameras, episodes, lambda _: None), cameras)

    def _whole(self, size: int, report: Report) -> tuple[Episodes, tuple[str, ...]]:
        episodes = self.episodes.build()
        cameras = self._cameras(episodes)
        episodes = seen_by(cameras, episodes, report)
        framing = Framing.named(self.crop, size)
        if self.decode == "always":
            return FramedEpisodes(episodes, framing, cameras), cameras
        return self._cached(episodes, cameras, framing, report), cameras

    def _cameras(self, episodes: Episodes) -> tuple[str, ...]:
        """Return the cameras to look through.

        Raises:
            ConfigError: the data set has no such camera, or two fields name them.
        """
        if self.cameras and self.camera:
            raise ConfigError(
                f"camera is {self.camera!r} and cameras {list(self.cameras)}; give one of them"
            )
        cameras = self.cameras or (self.camera or next(iter(episodes.cameras), ""),)
        for i, camera in enumerate(cameras):
            if camera not in episodes.cameras:
                raise ConfigError(
                    f"there is no camera {camera!r}; the data set has {list(episodes.cameras)}"
                )
            if camera in cameras[:i]:
                raise ConfigError(f"cameras name {camera!r} twice; name each one once")
        return cameras

    def _cached(
        self, episodes: Episodes, cameras: tuple[str, ...], framing: Framing, report: Report
    ) -> Episodes:
        cached = CachedEpisodes(
            episodes,
            cache_folder(self.cache),
            framing,
            cameras=cameras,
            workers=os.cpu_count() or 0 if sum(episodes.lengths) > PARALLEL else 0,
            on_error=self.on_error,
            most_skipped=self.most_skipped,
        )
        for name, reason in cached.skipped.items():
            report(f"skipped {name}: {reason}")
        return seen_by(cameras, cached, report)


def fraction(part: Subset, share: float, seed: int) -> Subset:
    """Keep a share of the episodes, rounded for each task, and at least one of each.

    Which come first depends on the seed and the task alone.
    """
    if share == 1:
        return part
    tasks: dict[str, list[int]] = {}
    for i, task in enumerate(part.tasks):
        tasks.setdefault(task, []).append(i)
    kept: list[int] = []
    for number, task in enumerate(sorted(tasks)):
        order = np.random.default_rng((seed, number, len(tasks[task]))).permutation(tasks[task])
        kept += order[: max(1, round(share * len(order)))].tolist()
    return Subset(part.episodes, [part.keep[i] for i in sorted(kept)])


def _tell_scenes(parts: Parts, report: Report) -> None:
    """Tell which episodes are in no part, and whether unseen scenes are of new tasks besides."""
    if parts.unseen_scenes is None:
        return
    count = len(parts.whole.lengths)
    left = count - sum(len(part.lengths) for part in parts.named().values())
    if left:
        report(
            f"{left} of {count} episodes name no scene and may be of a held-out one: they are in "
            "no part"
        )
    new, tasks = parts.held_out()["new_tasks"], set(parts.unseen_scenes.tasks)
    if new:
        report(
            f"{len(new)} of {len(tasks)} tasks of the unseen scenes were never trained on: what "
            "is lost there may be lost to the task"
        )


def seen_by(cameras: Sequence[str], episodes: Episodes, report: Report) -> Episodes:
    """Return the episodes that have frames of all cameras, and report where these are not all."""
    seen = [
        i for i, n in enumerate(episodes.lengths) if n and set(cameras) <= {*episodes.cameras_of(i)}
    ]
    if len(seen) == len(episodes.lengths):
        return episodes
    names = " and ".join(repr(camera) for camera in cameras)
    report(f"{len(seen)} of {len(episodes.lengths)} episodes have frames of {names}")
    return Subset(episodes, seen)


def recorded_size(episodes: Episodes, cameras: Sequence[str]) -> tuple[int, int]:
    """Return height and width of frames as the reader gives them, decoding one of each camera.

    Raises:
        ConfigError: the cameras' differ.
    """
    episode = next(i for i, length in enumerate(episodes.lengths) if length)
    while isinstance(episodes, (Subset, SquareEpisodes)):
        episode = episodes.keep[episode] if isinstance(episodes, Subset) else episode
        episodes = episodes.episodes
    first = np.zeros(1, np.int64)
    sizes = {name: episodes.pixels(episode, name, first).shape[2:] for name in cameras}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {size[0]} x {size[1]}" for name, size in sizes.items())
        raise ConfigError(f"the cameras' frames differ in size ({told}); use one of them")
    height, width = next(iter(sizes.values()))
    return height, width
