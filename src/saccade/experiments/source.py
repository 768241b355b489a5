"""Where an experiment's samples come from: a data set, one camera, and who may see what.

Whole episodes are dealt into ``train`` (60 %: pretraining and readouts learn from it),
``select`` (20 %: held-out losses, penalties, early stopping) and ``test`` (20 %: reported).
Episodes of held-out tasks are ``unseen`` and only ever reported.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from saccade.config import Config
from saccade.data.cache.reader import CachedEpisodes
from saccade.data.episodes import Episodes, Subset, split
from saccade.data.files.faults import OnError
from saccade.data.files.index import cache_folder
from saccade.data.framed import FramedEpisodes
from saccade.data.transforms import Framing
from saccade.errors import ConfigError
from saccade.types import Crop

PARALLEL = 5_000  # frames from which several processes pay
SHARES = {"train": 0.6, "select": 0.2, "test": 0.2}
Report = Callable[[str], None]


class Parts(NamedTuple):
    """A data set, split, at one size and from one camera."""

    whole: Episodes
    train: Subset
    select: Subset
    test: Subset
    unseen: Subset | None
    camera: str

    def named(self) -> dict[str, Episodes]:
        """Return the parts by name, without an empty ``unseen``."""
        parts: dict[str, Episodes] = {
            "train": self.train,
            "select": self.select,
            "test": self.test,
        }
        return parts if self.unseen is None else {**parts, "unseen": self.unseen}


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """A data set and how it is split.

    Args:
        episodes: the reader.
        camera: the camera to look through; empty takes the data set's first.
        crop: how frames become squares: the whole central ``square``; the ``centre`` of a shortest
            edge of 292 for 256 pixels, as V-JEPA 2; or as V-JEPA 2-``ac`` was trained.
        held_out_tasks: instructions of tasks that only the report may see.
        split_seed: decides which episodes go where.
        cache: folder of decoded frames; empty takes $SACCADE_CACHE or ~/.cache/saccade.
        decode: ``once`` keeps decoded frames in the cache, ``always`` decodes at each read, for
            data sets whose frames fit on no disk.
        on_error: ``raise`` stops at an episode that cannot be decoded, ``skip`` leaves it out.
        most_skipped: share of the episodes that may be left out.
    """

    episodes: Config[Episodes]
    camera: str = ""
    crop: Crop = "square"
    held_out_tasks: tuple[str, ...] = ()
    split_seed: int = 0
    cache: str = ""
    decode: Literal["once", "always"] = "once"
    on_error: OnError = "raise"
    most_skipped: float = 0.01

    def open(self, size: int, report: Report = lambda _: None) -> Parts:
        """Decode frames once, at ``size`` pixels, and split.

        Raises:
            ConfigError: the data set has no such camera.
            DataError: a file is missing or damaged, or there are too few episodes.
        """
        whole, camera = self.whole(size, report)
        parts = split(whole, SHARES, self.held_out_tasks, self.split_seed)
        return Parts(
            whole=whole,
            train=parts["train"],
            select=parts["select"],
            test=parts["test"],
            unseen=parts.get("unseen"),
            camera=camera,
        )

    def whole(self, size: int, report: Report = lambda _: None) -> tuple[Episodes, str]:
        """Decode frames once, at ``size`` pixels; return the data set unsplit, and the camera.

        Raises:
            ConfigError: the data set has no such camera.
            DataError: a file is missing or damaged.
        """
        episodes = self.episodes.build()
        camera = self.camera or next(iter(episodes.cameras), "")
        if camera not in episodes.cameras:
            raise ConfigError(
                f"there is no camera {self.camera!r}; the data set has {list(episodes.cameras)}"
            )
        episodes = seen_by(camera, episodes, report)
        framing = Framing.named(self.crop, size)
        if self.decode == "always":
            return FramedEpisodes(episodes, framing, (camera,)), camera
        return self._cached(episodes, camera, framing, report), camera

    def _cached(
        self, episodes: Episodes, camera: str, framing: Framing, report: Report
    ) -> Episodes:
        cached = CachedEpisodes(
            episodes,
            cache_folder(self.cache),
            framing,
            cameras=(camera,),
            workers=os.cpu_count() or 0 if sum(episodes.lengths) > PARALLEL else 0,
            on_error=self.on_error,
            most_skipped=self.most_skipped,
            progress=lambda done, total: report(f"decoded {done} of {total} frames"),
        )
        for name, reason in cached.skipped.items():
            report(f"skipped {name}: {reason}")
        return seen_by(camera, cached, report)


def seen_by(camera: str, episodes: Episodes, report: Report) -> Episodes:
    """Return the episodes that have frames of a camera, and report where these are not all."""
    seen = [i for i, n in enumerate(episodes.lengths) if n and camera in episodes.cameras_of(i)]
    if len(seen) == len(episodes.lengths):
        return episodes
    report(f"{len(seen)} of {len(episodes.lengths)} episodes have frames of {camera!r}")
    return Subset(episodes, seen)
