"""The clusters probe: do tasks and behaviours lie apart in the features, without any fit?

    task        the episode's instruction
    behaviour   what the end effector did over the gap: rest, one of six directions, or the
                gripper opening or closing (``evals/clusters.py``)

    purity      share of the ten nearest neighbours (cosine) with the same label, among clips of
                other episodes: frames of one episode are near-copies
    nmi         of k-means with as many clusters as labels (Strehl & Ghosh, 2002)
    silhouette  mean over clips (Rousseeuw, 1987)

Features are standardised on the clips that are compared. Tasks differ in appearance, so a picture
of the first frame may tell them; the condition ``first frame only`` measures that.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from torch import Tensor

from saccade.data.episodes import Episodes, state_groups
from saccade.evals import clusters, statistics
from saccade.evals.clips import Clips, enumerate_clips
from saccade.evals.features import Reader, Request
from saccade.evals.probes.base import Answer, Data, Key, ProbeConfig, split_of
from saccade.evals.targets import Labels, targets

MOST = 1_000  # clips that are compared with each other
STILL = 0.1  # of the median displacement: below it a clip counts as rest
STATIC = "first frame only"


class Labelled(NamedTuple):
    """One way to label the clips of a part."""

    target: str
    label: Int64[np.ndarray, " n"]
    names: tuple[str, ...]


class ClustersProbe:
    """Purity, mutual information and silhouette, for each split."""

    def __init__(self, data: Data, config: ProbeConfig) -> None:
        self.data, self.config = data, config
        self.parts = [part for part in data.reported() if not split_of(part)[1]]
        most = min(config.most or MOST, MOST)
        gap = (0, config.main_gap)
        self.clips: Mapping[str, Clips] = {
            part: enumerate_clips(data.parts[part], gap, config.stride, most) for part in self.parts
        }
        self.labels: dict[str, list[Labelled]] = {
            part: [
                labels
                for labels in (
                    by_task(data.parts[part], clips),
                    by_behaviour(data.parts[part], clips, data.camera),
                )
                if labels is not None and len(np.unique(labels.label)) > 1 < len(set(clips.episode))
            ]
            for part, clips in self.clips.items()
        }

    def requests(self) -> Iterator[Request]:
        """Ask for every clip, and for its first frame alone."""
        for part, clips in self.clips.items():
            yield Request(part, clips)
            yield Request(part, clips.shown(0, 0))

    def answers(self, reader: Reader | None, seed: int) -> Iterator[Answer]:
        """Score each labelling of each split."""
        if reader is None:
            return
        for condition in ("", STATIC):
            shown = (0, 0) if condition else (0, self.config.main_gap)
            for part, clips in self.clips.items():
                x = reader.vectors(part, clips.shown(*shown))
                for labels in self.labels[part]:
                    yield from self._scored(x, part, labels, condition, seed)

    def _scored(
        self, x: Tensor, part: str, labels: Labelled, condition: str, seed: int
    ) -> Iterator[Answer]:
        episode, label = self.clips[part].episode, labels.label
        here, label = np.unique(label, return_inverse=True)
        count = len(here)
        group = clusters.kmeans(x, count, self.config.seed + seed)
        found = {
            "purity": (
                statistics.error_sums(clusters.knn_purity(x, label, episode), episode),
                statistics.mean_error,
                float(clusters.chance_purity(label, episode).mean()),
            ),
            "nmi": (
                statistics.contingency_sums(group, label, episode, count, count),
                statistics.nmi,
                None,
            ),
            "silhouette": (
                statistics.error_sums(clusters.silhouettes(x, label), episode),
                statistics.mean_error,
                0.0,
            ),
        }
        for metric, (sums, statistic, chance) in found.items():
            key = Key(
                "clusters", labels.target, "", "", "", self.config.main_gap, part, condition, 1.0,
                metric,
            )  # fmt: skip
            yield Answer(key, sums, statistic, samples=len(label), chance=chance, dims=x.shape[-1])


def by_task(episodes: Episodes, clips: Clips) -> Labelled | None:
    """Label clips by the instruction of their episode, where there is one."""
    names = tuple(sorted({episodes.tasks[e] for e in np.unique(clips.episode)}))
    if names == ("",):
        return None
    place = {name: i for i, name in enumerate(names)}
    label = np.array([place[episodes.tasks[e]] for e in clips.episode], np.int64)
    return Labelled("task", label, names)


def by_behaviour(episodes: Episodes, clips: Clips, camera: str) -> Labelled | None:
    """Label clips by what the end effector did, where the data set says where that was."""
    axes = len(state_groups(episodes.state_names).get("position", ()))
    if axes == 0 or axes % 3:
        return None
    found = targets(episodes, clips, camera, Labels()).targets
    position = next((t for t in found if t.group == "position" and t.values.shape[1] == 3), None)
    if position is None or len(position.values) < len(clips.start):
        return None
    gripper = next((t for t in found if t.group == "gripper" and t.frame == position.frame), None)
    grip: Float64[np.ndarray, " n"] | None = None
    if gripper is not None and gripper.values.shape[1] == 1:
        grip = gripper.values[:, 0]
    still = STILL * float(np.median(np.linalg.norm(position.values, axis=1)))
    label, names = clusters.motion_labels(position.values, grip, still)
    return Labelled("behaviour", label, names)
