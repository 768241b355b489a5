"""What recorded actions are, and which way round a gripper is."""

from collections.abc import Callable

import numpy as np
import pytest

from saccade.data.passes.contract.actions import gripper_sense, recorded_actions
from saccade.data.passes.contract.findings import Sample, gather
from tests.fixtures.arm import ArmConfig

Change = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def changed(change: Change, **config) -> Sample:
    episodes = ArmConfig(**config).build()
    episodes.tables = [change(state.copy(), action.copy()) for state, action in episodes.tables]
    return gather(episodes, 0.25)


def test_displacements_are_recognised_with_scale_and_lag() -> None:
    found = recorded_actions(gather(ArmConfig(noise=0.0).build(), 0.25))
    assert (found.verdict, found.numbers["kind"]) == ("ok", "displacements")
    assert found.numbers["metres_per_unit"] == pytest.approx([0.075] * 3, rel=1e-3)
    assert found.numbers["lag_frames"] == 1  # the fixture's commands are one frame ahead
    assert found.numbers["correlation"] == pytest.approx([1, 1, 1], abs=1e-5)


def test_targets_are_recognised_with_their_distance() -> None:
    def ahead(state: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        action[:-1, :3] = state[1:, :3] + [0.03, 0.04, 0]
        return state, action

    found = recorded_actions(changed(ahead))
    assert (found.verdict, found.numbers["kind"]) == ("ok", "targets")
    assert found.numbers["median_distance"] == pytest.approx(0.05, rel=1e-3)


def test_noise_is_no_action() -> None:
    def noise(state: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return state, np.random.default_rng(0).normal(0, 1, action.shape)

    found = recorded_actions(changed(noise))
    assert (found.verdict, found.numbers["kind"]) == ("warning", "unknown")
    assert "neither displacements nor targets" in found.found


def test_a_constant_axis_has_no_correlation() -> None:
    found = recorded_actions(gather(ArmConfig(defect="dead axis").build(), 0.25))
    assert found.numbers["correlation"][1] is None
    assert "y constant" in found.found
    names = tuple(f"joint_{i}" for i in range(7))
    joints = recorded_actions(gather(ArmConfig(names=names).build(), 0.25))
    assert (joints.verdict, "actions: joint_0" in joints.found) == ("not decidable", True)


def test_command_and_starts_together_decide_the_sense() -> None:
    sound = gripper_sense(gather(ArmConfig().build(), 0.25))
    assert sound.verdict == "ok"
    assert sound.numbers["start_open"] == 1
    assert sound.numbers["agree"] + sound.numbers["agree_if_turned"] <= 1
    few = gripper_sense(gather(ArmConfig(episodes=4).build(), 0.25))
    assert (few.verdict, few.numbers["agree"] > 0.8) == ("not decidable", True)


@pytest.mark.parametrize("kind", ["change", "sign"])
@pytest.mark.parametrize(("turned", "verdict"), [(False, "ok"), (True, "fails")])
def test_commands_of_every_kind_are_compared(kind: str, turned: bool, verdict: str) -> None:
    def command(state: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        change = np.diff(state[:, 6], append=state[-1, 6])
        action[:, 6] = change if kind == "change" else 2 * action[:, 6] - 1
        action[:, 6] *= -1 if turned else 1
        return state, action

    found = gripper_sense(changed(command))
    assert found.verdict == verdict, found


def test_starts_half_way_decide_nothing() -> None:
    def half(state: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        state[:, 6] = 0.5
        return state, action

    found = gripper_sense(changed(half))
    assert found.verdict == "not decidable"
    assert "no command to compare" in found.found  # since nothing moves


def test_a_command_that_is_not_the_grippers_decides_nothing() -> None:
    def random(state: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # pulls up and down in turn, whatever the gripper does
        action[:, 6] = state[:, 6] + 0.3 * (-1) ** (np.arange(len(state)) // 2)
        return state, action.clip(0, 1)

    assert gripper_sense(changed(random)).verdict == "not decidable"
