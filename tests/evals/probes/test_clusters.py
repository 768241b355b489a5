import numpy as np
import pytest
import torch

from saccade.data.episodes import Episodes
from saccade.evals.clips import Clips
from saccade.evals.probe import prepare
from saccade.evals.probes.base import Data, ProbeConfig
from saccade.evals.probes.clusters import STATIC, ClustersProbe
from tests.evals.known import Feature, Given, World, asked, covers, deal, noise, pick

CONFIG = ProbeConfig(probes=("clusters",), gaps=(4,), headline=4, stride=2, resamples=300)


def world() -> World:
    """Make arms that go along one axis each episode, six ways, under one of three tasks."""
    rng, states, tasks = np.random.default_rng(0), [], []
    for i in range(96):
        way = np.zeros(3)
        way[(i // 4) % 3] = 0.02 * (-1) ** (i // 12)
        states.append(rng.normal(0, 0.2, 3) + np.arange(16)[:, None] * way)
        tasks.append(f"task {(i // 4) % 8 % 3}")
    return World(states, tasks)


WORLD = world()
PARTS = deal(WORLD)


def rows_for(features: Feature) -> list[dict]:
    reader = Given(PARTS, features)
    return asked(reader, prepare(Data(PARTS, "front"), CONFIG), CONFIG)[1]


def blobs_of(target: str) -> Feature:
    """Put the clips of each label at one place, far from the others, if any motion is shown."""
    probe = ClustersProbe(Data(PARTS, "front"), CONFIG)
    (labels,) = [each for each in probe.labels["test"] if each.target == target]

    def blobs(episodes: Episodes, clips: Clips) -> torch.Tensor:
        centre = 50 * torch.eye(len(labels.names))[torch.from_numpy(labels.label)]
        return (centre if clips.gap else 0) + noise(episodes, clips, len(labels.names))

    return blobs


def test_labels_that_lie_apart_are_found_whole() -> None:
    for target in ("task", "behaviour"):
        rows = rows_for(blobs_of(target))
        assert pick(rows, target=target, metric="purity")["value"] == 1
        assert pick(rows, target=target, metric="silhouette")["value"] > 0.6
        assert pick(rows, target=target, metric="nmi")["value"] == pytest.approx(1)
        still = pick(rows, target=target, metric="purity", condition=STATIC)
        assert covers(still, still["chance"])  # the first frame shows noise alone


def test_noise_has_the_purity_of_chance() -> None:
    rows = rows_for(noise)
    for target in ("task", "behaviour"):
        for condition in ("", STATIC):
            found = pick(rows, target=target, metric="purity", condition=condition)
            assert covers(found, found["chance"])
            assert 0.1 < found["chance"] < 0.5
            silhouette = pick(rows, target=target, metric="silhouette", condition=condition)
            assert abs(silhouette["value"]) < 0.1
            assert pick(rows, target=target, metric="nmi", condition=condition)["value"] < 0.15


def test_behaviours_are_what_the_arm_did() -> None:
    probe = ClustersProbe(Data(PARTS, "front"), CONFIG)
    (labels,) = [each for each in probe.labels["test"] if each.target == "behaviour"]
    for label, episode in zip(labels.label, probe.clips["test"].episode, strict=True):
        moved = np.diff(PARTS["test"].numbers(int(episode), np.array([0, 4]))[0], axis=0)[0]
        assert labels.names[label] == "+-"[int(moved.min() < -0.01)] + "xyz"[np.abs(moved).argmax()]


def test_a_world_without_tasks_or_states_is_asked_about_what_it_has() -> None:
    untold = deal(World(WORLD.states))
    probe = ClustersProbe(Data(untold, "front"), CONFIG)
    assert [each.target for each in probe.labels["test"]] == ["behaviour"]
    still = deal(World([np.zeros((16, 0))] * 96, WORLD.tasks))
    probe = ClustersProbe(Data(still, "front"), CONFIG)
    assert [each.target for each in probe.labels["test"]] == ["task"]
