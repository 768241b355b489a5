"""One data set at every size of picture that the encoders want, split once.

train, select, test, unseen, unseen scenes    as ``experiments/source.py`` deals them
test | noise 16                               the test part as a worse camera would have shown it
NAME                                          all episodes of another data set, only reported on
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from saccade.data.episodes import Episodes, Subset
from saccade.data.perturbed import SUITE, Kind, Perturbed
from saccade.data.truth import SceneTruth
from saccade.errors import ConfigError, DataError
from saccade.evals import leaks
from saccade.evals.features import Views
from saccade.evals.leaks import Repeat
from saccade.evals.probes.base import Data, ProbeConfig
from saccade.experiments.source import NAMES, Parts, Report, SourceConfig
from saccade.types import Encoder


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Another data set to report on, and what its split is called."""

    name: str
    source: SourceConfig


class Opened(NamedTuple):
    """The parts in pictures of one size."""

    parts: Parts
    views: Views


class Sizes:
    """Opens the data at each size that is asked for, once.

    Args:
        source: the data set and its split.
        config: of the probes; it decides whether perturbed parts are needed.
        transfers: other data sets.
        perturbations: what the test part is shown through, for the robustness probe.
        report: is told how it goes.

    ``left_out`` tells, once the data are open, which episodes repeat those of an earlier part.
    """

    left_out: tuple[str, ...] = ()

    def __init__(
        self,
        source: SourceConfig,
        config: ProbeConfig,
        transfers: Sequence[Transfer] = (),
        perturbations: Sequence[tuple[Kind, float]] = SUITE,
        report: Report = lambda _: None,
    ) -> None:
        self.source, self.transfers, self.report = source, transfers, report
        self.perturbations = perturbations if "robustness" in config.probes else ()
        self._opened: dict[int, Opened] = {}
        self._repeats: Mapping[str, Sequence[Repeat]] | None = None

    def at(self, size: int) -> Opened:
        """Open the data set, and the others, at a size.

        Raises:
            ConfigError: a data set to report on is called like a part.
            DataError: another data set is this one, or lacks its states.
        """
        if size in self._opened:
            return self._opened[size]
        parts = self._once(self.source.open(size, self.report))
        views: dict[str, Episodes] = parts.named()
        for kind, strength in self.perturbations:
            worse = Perturbed(parts.whole, kind, strength)
            views[f"test | {worse.name}"] = Subset(worse, parts.test.keep)
        for other in self.transfers:
            if other.name in (*views, *NAMES) or " | " in other.name:
                raise ConfigError(f"another data set cannot be called {other.name!r}; rename it")
            views[other.name] = self._whole(other, size, parts)
        self._opened[size] = Opened(parts, views)
        return self._opened[size]

    def _once(self, parts: Parts) -> Parts:
        """Leave out of a part what a part before it holds too; most of a part is a wrong split."""
        named = parts.named()
        if self._repeats is None:
            found = leaks.repeats(named, parts.camera)
            few = {n: each for n, each in found.items() if 2 * len(each) <= len(named[n].lengths)}
            self._repeats = few
            self.left_out = tuple(_told(name, named[name], each) for name, each in few.items())
        kept = {}
        for name, repeated in self._repeats.items():
            part, gone = named[name], {each.episode for each in repeated}
            assert isinstance(part, Subset)
            keep = [number for i, number in enumerate(part.keep) if i not in gone]
            kept[name.replace(" ", "_")] = Subset(part.episodes, keep)
        return parts._replace(**kept)

    def _whole(self, other: Transfer, size: int, parts: Parts) -> Episodes:
        whole, camera = other.source.whole(size, self.report)
        if whole.fingerprint == parts.whole.fingerprint:
            raise DataError(
                f"{other.name} is the data set itself; report on its test part, or on other data"
            )
        if whole.state_names != parts.whole.state_names:
            raise DataError(
                f"{other.name} has the states {list(whole.state_names)}, the first data set "
                f"{list(parts.whole.state_names)}; choose reader options that give both the same"
            )
        return SeenAs(whole, camera, parts.camera)

    def of(self, encoder: Encoder) -> Opened:
        """Open the data at the size that an encoder takes, or that it resizes itself."""
        return self.at(self.size_of(encoder))

    def size_of(self, encoder: Encoder) -> int:
        """Return the side of the squares to give to an encoder.

        Those that resize as their authors did get squares of the edge that they resize to, or
        smaller ones where the pictures were recorded smaller.
        """
        if not encoder.edge:
            return encoder.preprocessing.image_size
        return min(encoder.edge, min(self.recorded))

    @cached_property
    def recorded(self) -> tuple[int, int]:
        """Height and width of the pictures as they were recorded."""
        return self.source.recorded()

    def labels(self, size: int) -> Data:
        """Return the parts that labels are taken from: perturbed ones are labelled as they were."""
        parts, views = self.at(size)
        clean = {
            name: views["test"] if name.startswith("test | ") else view
            for name, view in views.items()
        }
        return Data(clean, parts.camera)


class SeenAs(Subset):
    """All episodes of a reader, one of whose cameras goes by another name here."""

    def __init__(self, episodes: Episodes, camera: str, name: str) -> None:
        super().__init__(episodes, range(len(episodes.lengths)))
        self.camera, self.cameras = camera, (name,)
        known = episodes.world_to_camera
        self.world_to_camera = {name: known[camera]} if camera in known else {}
        self.fingerprint = f"{episodes.fingerprint}@{camera}"

    def pixels(self, episode: int, camera: str, frames: np.ndarray) -> Tensor:
        """Decode frames of the camera that is meant."""
        return self.episodes.pixels(episode, self.camera, frames)

    def views(self, episode: int, cameras: Sequence[str], frames: np.ndarray) -> Tensor:
        """Decode frames of the camera that is meant."""
        return Episodes.views(self, episode, cameras, frames)

    def cameras_of(self, episode: int) -> tuple[str, ...]:
        """Return the one camera, under its new name."""
        return self.cameras

    def camera_rotations(self, episode: int, camera: str, frames: np.ndarray) -> Any:
        """Return the rotations of the camera that is meant."""
        return self.episodes.camera_rotations(episode, self.camera, frames)

    def truth(self, episode: int, camera: str) -> SceneTruth | None:
        """Return the truth as the camera that is meant sees it."""
        return self.episodes.truth(episode, self.camera)

    def encoded(self, episode: int, camera: str, frames: np.ndarray) -> list[bytes] | None:
        """Return stored frames of the camera that is meant."""
        return self.episodes.encoded(episode, self.camera, frames)


def _told(name: str, part: Episodes, repeated: Sequence[Repeat]) -> str:
    tasks = sorted({part.tasks[each.episode] for each in repeated})
    return (
        f"Left out {len(repeated)} of {len(part.lengths)} episodes of the part {name!r}: their "
        f"states, commands and pictures are also in {repeated[0].part!r} (the episodes of "
        f"{', '.join(tasks)} hardly vary), and scores on them would measure memory."
    )


def sizes_of_parts(views: Mapping[str, Episodes]) -> dict[str, dict[str, Any]]:
    """Count episodes and frames of the parts, without perturbed copies."""
    return {
        name: {"episodes": len(part.lengths), "frames": sum(part.lengths)}
        for name, part in views.items()
        if " | " not in name
    }


def told_parts(views: Mapping[str, Episodes]) -> str:
    """Name the parts with their episodes, as a line of text."""
    sizes = sizes_of_parts(views).items()
    return "episodes: " + ", ".join(f"{name} {size['episodes']:,}" for name, size in sizes)
