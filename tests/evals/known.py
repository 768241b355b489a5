"""Worlds and readers whose right answers are known, for tests of probes."""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from saccade.data.episodes import Episodes, Subset
from saccade.data.truth import SceneTruth
from saccade.evals.clips import Clips
from saccade.evals.features import Reader, Request
from saccade.evals.probe import Probed, Representation, probe, rows_of
from saccade.evals.probes.base import Prepared, ProbeConfig

AXES = ("x", "y", "z", "gripper")
Feature = Callable[[Episodes, Clips], Tensor]


class World(Episodes):
    """Episodes in memory: states, commands that reach the next state, and pictures if given."""

    cameras = ("front",)
    fps = 10.0
    fingerprint = "world"

    def __init__(
        self,
        states: list[np.ndarray],
        tasks: list[str] | None = None,
        videos: list[Tensor] | None = None,
        truths: list[SceneTruth | None] | None = None,
        name: str = "world",
    ) -> None:
        self.states = [state.astype(np.float32) for state in states]
        self.state_names = self.action_names = AXES[: self.states[0].shape[1]]
        self.lengths = [len(state) for state in states]
        self.tasks = tasks or [""] * len(states)
        self.world_to_camera, self.videos, self.truths = {}, videos, truths
        self.fingerprint = name

    def numbers(self, episode: int, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        state = self.states[episode]
        ahead = np.concatenate([state[1:], state[-1:]]) - state
        return state[frames], ahead[frames]

    def pixels(self, episode: int, camera: str, frames: np.ndarray) -> Tensor:
        assert self.videos is not None
        return self.videos[episode][torch.from_numpy(frames)]

    def truth(self, episode: int, camera: str) -> SceneTruth | None:
        return None if self.truths is None else self.truths[episode]


def deal(world: Episodes) -> dict[str, Subset]:
    """Deal episodes in turn: half to train, a quarter to select, a quarter to test."""
    count = len(world.lengths)
    return {
        "train": Subset(world, [i for i in range(count) if i % 4 < 2]),
        "select": Subset(world, [i for i in range(count) if i % 4 == 2]),
        "test": Subset(world, [i for i in range(count) if i % 4 == 3]),
    }


class Given:
    """A reader whose features a test computes."""

    def __init__(
        self, views: Mapping[str, Episodes], vectors: Feature, cells: Feature | None = None
    ) -> None:
        self.views, self._vectors, self._cells = views, vectors, cells

    def prepare(self, requests: Iterable[Request]) -> None:
        pass

    def vectors(self, part: str, clips: Clips) -> Tensor:
        return self._vectors(self.views[part], clips)

    def cells(self, part: str, clips: Clips) -> Tensor | None:
        return None if self._cells is None else self._cells(self.views[part], clips)


def state_at(episodes: Episodes, clips: Clips, offset: int) -> Tensor:
    """Return the state at one frame of each clip."""
    at = clips.start + offset
    rows = [episodes.numbers(int(e), at[[i]])[0] for i, e in enumerate(clips.episode)]
    return torch.from_numpy(np.concatenate(rows)).double()


def displacement(episodes: Episodes, clips: Clips) -> Tensor:
    """Return how the state changes from the first frame shown to the last, beside some noise."""
    first, last = clips.offsets[0], clips.offsets[-1]
    moved = state_at(episodes, clips, last) - state_at(episodes, clips, first)
    return torch.cat([moved, noise(episodes, clips)[:, :3]], 1)


def noise(episodes: Episodes, clips: Clips, dims: int = 20) -> Tensor:
    """Return numbers that depend on the clip and on what is shown, and tell nothing."""
    rows = [
        np.random.default_rng(
            [*episodes.fingerprint.encode()[-8:], e, s, *(100 + o for o in clips.offsets)]
        ).standard_normal(dims)
        for e, s in zip(clips.episode.tolist(), clips.start.tolist(), strict=True)
    ]
    return torch.from_numpy(np.stack(rows))


def asked(
    reader: Reader | None,
    prepared: Mapping[str, Prepared],
    config: ProbeConfig,
    kind: Literal["method", "floor"] = "method",
) -> tuple[Probed, list[dict]]:
    """Put the probes to one reader."""
    readers = {} if reader is None else {0: reader}
    who = Representation(name="given", kind=kind, readers=readers)
    probed = probe(who, prepared, config)
    return probed, list(rows_of(probed, config))


def pick(rows: list[dict], **wanted: object) -> dict:
    """Return the one row of these properties, by default of the clean test part and all labels."""
    wanted = {"split": "test", "condition": "", "labels": 1.0} | wanted
    found = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    assert len(found) == 1, f"{len(found)} rows for {wanted}"
    return found[0]


def covers(row: dict, value: float, slack: float = 0.0) -> bool:
    """Say whether a row's interval holds a value."""
    return row["low"] - slack <= value <= row["high"] + slack
