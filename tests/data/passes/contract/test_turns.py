"""Which way of reading three numbers is right, from recorded turns."""

import itertools

import numpy as np
import pytest

from saccade.data.passes.contract.findings import gather
from saccade.data.passes.contract.turns import (
    OURS,
    Turns,
    Way,
    cosines,
    euler_order,
    recorded_turns,
    ways,
)
from saccade.geometry import matrix_to_rotation_vector
from tests.fixtures.arm import ArmConfig, Defect, rotation


def test_all_ways_are_listed_once() -> None:
    assert len(ways()) == len(set(ways())) == 6 * 8 * 6 * 2
    assert set(OURS) <= set(ways())


@pytest.mark.parametrize("order", ["".join(order) for order in itertools.permutations("xyz")])
@pytest.mark.parametrize("frame", ["base", "hand"])
def test_each_way_explains_its_own_turns_exactly(order: str, frame: str) -> None:
    rng = np.random.default_rng(1)
    before = rng.uniform(-1.2, 1.2, (80, 3))
    after = before + rng.uniform(-0.02, 0.02, (80, 3))
    columns, signs = (1, 2, 0), (1, -1, 1)
    first, second = (rotation(a * np.array([1, 1, -1]), order, columns) for a in (before, after))
    back = first.swapaxes(1, 2)
    turn = matrix_to_rotation_vector(second @ back if frame == "base" else back @ second)
    found = cosines(Turns(3.0 * turn, before, after, np.arange(80) // 16))
    way = Way(columns, signs, tuple("xyz".index(axis) for axis in order), frame)
    assert found[way] == pytest.approx(1, abs=1e-3)
    rivals = [name for name, cosine in found.items() if cosine[0] > found[way][0]]
    assert rivals == []


def test_a_way_is_named_in_words() -> None:
    assert str(OURS[0]) == "extrinsic xyz (intrinsic ZYX), turns seen from the base"
    odd = str(Way((2, 1, 0), (1, -1, 1), (2, 0, 1), "hand"))
    assert odd == (
        "extrinsic zxy (intrinsic YXZ) of the columns yaw, pitch, roll with pitch negated, "
        "turns seen from the hand"
    )


def test_the_lag_of_a_command_is_found() -> None:
    sample = gather(ArmConfig().build(), 0.25)
    turns = recorded_turns(sample)
    assert turns is not None
    # the fixture's commands are one frame ahead of the motion: pairs begin at frame 1
    assert turns.before[0] == pytest.approx(sample.recordings[0].state[1, 3:6])
    assert turns.recorded[0] == pytest.approx(sample.recordings[0].action[0, 3:6])


@pytest.mark.parametrize("defect", ["", "extrinsic zyx", "yaw first"])
@pytest.mark.parametrize("noise", [0.0, 1.0, 4.0])
def test_noise_leads_to_no_answer_rather_than_to_a_wrong_one(defect: Defect, noise: float) -> None:
    found = euler_order(gather(ArmConfig(defect=defect, noise=noise).build(), 0.25))
    right = "fails" if defect else "ok"
    assert found.verdict == ("not decidable" if noise == 4 else right), found


def test_without_evidence_nothing_is_decided() -> None:
    derived = euler_order(gather(ArmConfig().build(), 0.25), derived=True)
    assert (derived.verdict, "made from the states" in derived.found) == ("not decidable", True)
    short = euler_order(gather(ArmConfig(episodes=1, length=20).build(), 0.25))
    assert (short.verdict, "no recorded turns" in short.found) == ("not decidable", True)
    names = ("x", "y", "z", "a", "b", "c", "gripper")
    none = euler_order(gather(ArmConfig(names=names).build(), 0.25))
    assert (none.verdict, none.found) == ("not decidable", "the state has no roll, pitch, yaw")


def test_targets_say_nothing() -> None:
    episodes = ArmConfig().build()
    episodes.tables = [(s, np.concatenate([s[1:], s[-1:]])) for s, _ in episodes.tables]
    found = euler_order(gather(episodes, 0.25))
    assert (found.verdict, "angles to reach" in found.found) == ("not decidable", True), found


def test_a_hand_that_only_yaws_says_nothing_of_the_order() -> None:
    episodes = ArmConfig().build()
    tables = []
    for state, action in episodes.tables:
        state[:, 3:5] = 0
        turned = np.diff(state[:, 5], append=state[-1, 5])
        action[:, 3:5], action[:, 5] = 0, turned
        tables.append((state, action))
    episodes.tables = tables
    found = euler_order(gather(episodes, 0.25))
    assert found.verdict == "not decidable", found
