"""Splits are made of whole episodes, and every part sees every task."""

from collections import Counter

import numpy as np
import pytest
import torch

from saccade.data.episodes import Subset, split, state_groups
from saccade.data.synthetic import Synthetic, SyntheticConfig
from saccade.errors import DataError

SHARES = {"train": 0.6, "select": 0.2, "test": 0.2}


def world(episodes: int, tasks: int) -> Synthetic:
    return SyntheticConfig(episodes=episodes, tasks=tasks, length=4).build()


def test_parts_are_disjoint_and_complete() -> None:
    parts = split(world(30, 3), SHARES)
    assert list(parts) == ["train", "select", "test"]
    dealt = [i for part in parts.values() for i in part.keep]
    assert sorted(dealt) == list(range(30))
    assert [len(part.lengths) for part in parts.values()] == [18, 6, 6]


@pytest.mark.parametrize("each", [3, 4, 5, 7])
def test_every_part_sees_every_task(each: int) -> None:
    for seed in range(5):
        for part in split(world(4 * each, 4), SHARES, seed=seed).values():
            assert len(set(part.tasks)) == 4


def test_each_task_is_dealt_by_the_shares() -> None:
    parts = split(world(40, 2), SHARES)
    assert Counter(parts["train"].tasks) == {"follow command 0": 12, "follow command 1": 12}
    assert Counter(parts["test"].tasks) == {"follow command 0": 4, "follow command 1": 4}


def test_shares_need_not_sum_to_one() -> None:
    one, two = (
        split(world(20, 2), {"a": 3.0, "b": 1.0}),
        split(world(20, 2), {"a": 0.75, "b": 0.25}),
    )
    assert one["a"].keep == two["a"].keep


def test_held_out_tasks_are_seen_by_no_other_part() -> None:
    parts = split(world(30, 3), SHARES, held_out_tasks=["follow command 1"])
    assert set(parts["unseen"].tasks) == {"follow command 1"}
    assert len(parts["unseen"].lengths) == 10
    for name in SHARES:
        assert set(parts[name].tasks) == {"follow command 0", "follow command 2"}


def test_rare_tasks_are_dealt_together() -> None:
    """Of 20 instructions, each given once, parts get their shares; so do 5 that are given twice."""
    for tasks, episodes in ((20, 20), (5, 10)):
        sizes = [len(part.lengths) for part in split(world(episodes, tasks), SHARES).values()]
        assert sizes == [0.6 * episodes, 0.2 * episodes, 0.2 * episodes]


def test_three_episodes_make_three_parts() -> None:
    for seed in range(5):
        parts = split(world(3, 3), SHARES, seed=seed).values()
        assert sorted(part.keep[0] for part in parts) == [0, 1, 2]


def test_the_seed_decides() -> None:
    data = world(30, 3)
    assert split(data, SHARES)["train"].keep == split(data, SHARES)["train"].keep
    assert split(data, SHARES)["train"].keep != split(data, SHARES, seed=1)["train"].keep


def test_a_task_is_dealt_the_same_whatever_its_neighbours_do() -> None:
    """Holding out the last task must not reshuffle the others."""
    data = world(30, 3)
    free = split(data, SHARES)["test"].keep
    held = split(data, SHARES, held_out_tasks=["follow command 2"])["test"].keep
    assert held == [i for i in free if data.tasks[i] != "follow command 2"]


def test_wrong_splits_are_refused() -> None:
    with pytest.raises(DataError, match=r"held-out tasks \['dance'\] are not in the data; it has"):
        split(world(6, 2), SHARES, held_out_tasks=["dance"])
    with pytest.raises(DataError, match="1 episodes are too few for the parts"):
        split(world(1, 1), SHARES)


def test_a_subset_reads_the_kept_episodes() -> None:
    data = world(6, 2)
    part = Subset(data, [4, 1])
    assert part.tasks == [data.tasks[4], data.tasks[1]]
    assert part.lengths == [4, 4]
    for position, episode in enumerate([4, 1]):
        found, expected = (
            source.read(i, np.array([3, 0])) for source, i in ((part, position), (data, episode))
        )
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        assert np.array_equal(part.timestamps(position), data.timestamps(episode))
    nested = Subset(part, [1])
    assert torch.equal(nested.read(0, np.array([2]))["state"], data.read(1, np.array([2]))["state"])
    assert len({data.fingerprint, part.fingerprint, nested.fingerprint}) == 3


def test_states_are_grouped_by_name() -> None:
    names = ["ee.x", "y", "Z", "roll", "arm.pitch", "ry", "gripper", "left_gripper", "joint_0"]
    assert state_groups(names) == {
        "position": [0, 1, 2],
        "rotation": [3, 4, 5],
        "gripper": [6, 7],
    }
    assert state_groups(["joint_0", "r1", "r14"]) == {}


def test_states_of_two_hands_are_grouped_by_kind() -> None:
    """As EgoDex names them: a position and two columns of a rotation for each hand."""
    axes = ("x", "y", "z", "r11", "r21", "r31", "r12", "r22", "r32")
    names = [f"{hand}Hand.{axis}" for hand in ("left", "right") for axis in axes]
    assert state_groups([*names, "leftThumbTip.x"]) == {
        "position": [0, 1, 2, 9, 10, 11, 18],
        "rotation": [*range(3, 9), *range(12, 18)],
    }


def test_a_request_for_what_is_not_there_is_an_error() -> None:
    data = world(2, 1)
    for episode in (-1, 2):
        with pytest.raises(DataError, match=rf"there is no episode {episode}; there are 2"):
            data.read(episode, np.array([0]))
    for frame in (-1, 4):
        with pytest.raises(DataError, match="are outside episode 1, which has 4"):
            data.read(1, np.array([0, frame]))
    with pytest.raises(DataError, match=r"episode 1 has no cameras \['rear'\]; it has \['front'\]"):
        data.read(1, np.array([0]), ("front", "rear"))
