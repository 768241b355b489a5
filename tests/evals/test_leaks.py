"""Recordings in two parts are found in every disguise, and honest data are let through."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from saccade.data.egodex.reader import EgoDexConfig
from saccade.data.episodes import Episodes, Subset, split
from saccade.data.synthetic import SyntheticConfig
from saccade.errors import DataError
from saccade.evals.leaks import check_parts, repeats
from tests.evals.known import World
from tests.evals.oracle import parts
from tests.fixtures.egodex import write_egodex

PARTS = parts(episodes=36)


def recordings(
    count: int = 30, length: int = 60, seed: int = 0, jitter: float = 1e-4, goals: float = 0.1
) -> list[np.ndarray]:
    """Film arms that start at one place, as scripted experts do, and go to an object and away.

    A gain of the distance, of limited speed, with the sensor's noise: Meta-World's look.
    """
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        at = np.array([0.0, 0.6, 0.2]) + rng.normal(0, 1e-3, 3)
        thing = np.array([0.0, 0.7, 0.02]) + rng.uniform(-goals, goals, 3) * [1, 1, 0.1]
        goal = thing + rng.uniform(-goals, goals, 3) + [0, 0, 0.2]
        states = []
        for t in range(length):
            target = thing if t < length // 2 else goal
            step = 0.2 * (target - at)
            at = at + step * min(1, 0.012 / max(1e-9, np.linalg.norm(step)))
            states.append([*(at + rng.normal(0, jitter, 3)), float(t > length // 2)])
        found.append(np.array(states))
    return found


def dealt(train: list[np.ndarray], test: list[np.ndarray]) -> dict[str, Episodes]:
    """Put recordings into parts, each part a data set of its own."""
    others = recordings(4, seed=99)
    return {
        "train": World(train, videos=[filmed(states) for states in train], name="a"),
        "select": World(others, videos=[filmed(states) for states in others], name="b"),
        "test": World(test, videos=[filmed(states, noise=1) for states in test], name="c"),
    }


def filmed(states: np.ndarray, scene: int = 0, noise: int = 0) -> Tensor:
    """Draw a scene, an arm that brightens it as it moves, and what a camera adds."""
    scenery, grain = (np.random.default_rng(seed) for seed in (scene, 100 + noise))
    pictures = 60 + 40 * scenery.uniform(size=(1, 3, 32, 32)).repeat(len(states), 0)
    pictures += 100 * states[:, :1, None, None] + grain.normal(0, 2, pictures.shape)
    return torch.from_numpy(pictures.round().clip(0, 255).astype(np.uint8))


def test_an_episode_in_two_parts_is_refused() -> None:
    leaky: dict[str, Episodes] = dict(PARTS)
    leaky["test"] = Subset(PARTS["test"], [0, 1])  # subsets of subsets are seen through
    check_parts(leaky, "front")
    episode = PARTS["train"].keep[3]
    leaky["test"] = Subset(Subset(PARTS["train"], [2, 3]), [1])
    with pytest.raises(DataError, match=rf"episode {episode} of .* in 'train' and in 'test'"):
        check_parts(leaky, "front")


def test_a_missing_part_is_named() -> None:
    with pytest.raises(DataError, match=r"lacks the parts \['select'\]"):
        check_parts({name: part for name, part in PARTS.items() if name != "select"}, "front")


def test_a_copy_under_another_index_or_name_is_refused() -> None:
    films = recordings()
    with pytest.raises(DataError, match="100% of the moving steps of episode 1 of 'test' are also"):
        check_parts(dealt(films[:20], [films[20], films[7]]), "front")


def test_an_expert_that_repeats_itself_in_another_scene_is_let_through() -> None:
    films = recordings(24)
    world = dealt(films[:20], [films[3], films[21]])
    with pytest.raises(DataError, match=r"episode 0 .* \(in episode 3\), .* 1 of 2 episodes"):
        check_parts(world, "front")
    (found,) = repeats(world, "front")["test"]
    assert (found.episode, found.share, found.part, found.of) == (0, 1.0, "train", 3)
    elsewhere = [filmed(states, scene=7) for states in (films[3], films[21])]
    world["test"] = World([films[3], films[21]], videos=elsewhere, name="c")
    check_parts(world, "front")
    assert repeats(world, "front") == {}


def test_overlapping_pieces_are_refused() -> None:
    films = recordings()
    windows = [film[low : low + 30] for film in films for low in (0, 15, 30)]
    with pytest.raises(DataError, match=r"of the moving steps of episode .* split by recording"):
        check_parts(dealt(windows[0::2], windows[1::2]), "front")


def test_pieces_of_one_recording_are_refused() -> None:
    films = recordings()
    pieces = [film[low : low + 12] for film in films for low in range(0, 60, 12)]
    order = np.random.default_rng(0).permutation(len(pieces))
    train, test = ([pieces[i] for i in some] for some in (order[:100], order[100:]))
    with pytest.raises(
        DataError, match=r"go on, in motion, where one of '.*' ends .* by recording"
    ):
        check_parts(dealt(train, test), "front")


@pytest.mark.parametrize("dims", [4, 12])
def test_every_second_frame_is_refused(dims: int) -> None:
    films = recordings()
    if dims > 4:  # as many joints see the same motion
        mix = np.random.default_rng(1).normal(size=(4, dims))
        films = [film @ mix for film in films]
    with pytest.raises(DataError, match="of the moments of episode 0 of 'test' at which it moves"):
        check_parts(
            dealt([film[0::2] for film in films[:20]], [film[1::2] for film in films[:20]]), "front"
        )


def test_frames_dealt_at_random_are_refused() -> None:
    rng, train, test = np.random.default_rng(0), [], []
    for film in recordings(length=120):
        some = rng.uniform(size=len(film)) < 0.6
        train.append(film[some])
        test.append(film[~some])
    with pytest.raises(DataError, match="lie between successive moments of episode"):
        check_parts(dealt(train, test), "front")


@pytest.mark.parametrize("goals", [0.1, 0.02])
@pytest.mark.parametrize("seed", range(2))
def test_experts_that_start_alike_are_let_through(seed: int, goals: float) -> None:
    films = recordings(80, seed=seed, goals=goals)
    check_parts(dealt(films[:60], films[60:]), "front")


def test_one_motion_begun_at_other_moments_is_let_through(tmp_path: Path) -> None:
    """Every hand of this fixture goes along the same curve, from another point of it."""
    root = write_egodex(tmp_path / "egodex", size=(18, 32))
    world = EgoDexConfig(root=str(root)).build()
    check_parts(split(world, {"train": 0.6, "select": 0.2, "test": 0.2}), "front")


@pytest.mark.parametrize("jitter", [0.0, 1e-3])
def test_still_arms_are_let_through(jitter: float) -> None:
    rng = np.random.default_rng(0)
    films = [0.3 + jitter * rng.normal(size=(40, 4)) for _ in range(60)]
    check_parts(dealt(films[:40], films[40:]), "front")


def test_toy_worlds_and_worlds_without_states_are_let_through() -> None:
    shares = {"train": 0.6, "select": 0.2, "test": 0.2}
    for episodes, length in ((12, 16), (16, 12), (60, 24)):
        world = SyntheticConfig(episodes=episodes, length=length).build()
        check_parts(split(world, shares), "front")
    check_parts(split(World([np.zeros((9, 0))] * 20), shares), "front")
    check_parts(split(World([np.zeros((1, 3))] * 20), shares), "front")


def test_perturbed_copies_are_of_the_part_they_name() -> None:
    check_parts({**PARTS, "test | noise 16": PARTS["test"]}, "front")
    with pytest.raises(DataError, match="in 'test' and in 'noisy'"):
        check_parts({**PARTS, "noisy": PARTS["test"]}, "front")
