"""What was commanded, composed over a gap as the robot would: by hand, and against its motion."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from saccade.data.episodes import Conventions
from saccade.errors import ConfigError, DataError
from saccade.evals.motions import Labels, action, displacement, hand
from tests.evals.oracle import Poses

POSE = ("x", "y", "z", "rx", "ry", "rz", "gripper")
NOW, LATER = np.array([0, 2]), np.array([3, 5])
COMMANDED = Labels(motion="action")


class Arm(Poses):
    """An arm whose commands are not its states."""

    def __init__(self, state: np.ndarray, act: np.ndarray, **conventions) -> None:
        super().__init__(state, POSE)
        self.act, self.conventions = act.astype(np.float32), Conventions(**conventions)

    def numbers(self, episode: int, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.state[frames], self.act[frames]


def trajectory(length: int = 7) -> tuple[np.ndarray, Rotation]:
    """Return states that turn far about all axes, and their rotations."""
    rng = np.random.default_rng(3)
    turn = Rotation.random(length, rng)
    place, gripper = rng.normal(0, 0.2, (length, 3)), rng.uniform(0, 1, (length, 1))
    return np.concatenate([place, turn.as_rotvec(), gripper], 1), turn


def steps(metres: float, radians: float) -> np.ndarray:
    """Return the commands that lead from each state of the trajectory to the next."""
    state, turn = trajectory()
    move = np.diff(state[:, :3], axis=0, append=state[-1:, :3])
    way = np.zeros((len(state), 3))
    way[:-1] = (turn[1:] * turn[:-1].inv()).as_rotvec()
    grip = np.roll(state[:, 6:], -1, 0)
    return np.concatenate([move / metres, way / radians, grip], 1)


@pytest.mark.parametrize(("metres", "radians"), [(1.0, 1.0), (0.05, 0.5)])
def test_steps_of_any_unit_lead_where_the_arm_went(metres: float, radians: float) -> None:
    arm = Arm(
        trajectory()[0], steps(metres, radians), commands="steps", metres=metres, radians=radians
    )
    asked = action(arm, COMMANDED)(0, NOW, LATER)
    went = displacement(arm, Labels())(0, NOW, LATER)
    np.testing.assert_allclose(asked["position"], went["position"], atol=1e-6)
    np.testing.assert_allclose(asked["rotation"], went["rotation"], atol=1e-5)
    np.testing.assert_allclose(asked["gripper"], arm.state[LATER, 6:])


def test_steps_of_an_unknown_unit_stay_in_the_controllers() -> None:
    arm = Arm(trajectory()[0], steps(0.05, 1.0), commands="steps")
    asked = action(arm, COMMANDED)(0, NOW, LATER)
    moved = (arm.state[LATER, :3] - arm.state[NOW, :3]) / 0.05
    np.testing.assert_allclose(asked["position"], moved, atol=1e-5)


def test_rotation_vectors_of_steps_are_not_summed() -> None:
    quarter = np.zeros((3, 7))
    quarter[0, 3], quarter[1, 4] = np.pi / 2, np.pi / 2  # about x, then about the fixed y
    arm = Arm(np.zeros((3, 7)), quarter, commands="steps")
    asked = action(arm, COMMANDED)(0, np.array([0]), np.array([2]))
    expected = Rotation.from_matrix([[0, 1, 0], [0, 0, -1], [-1, 0, 0]]).as_rotvec()
    np.testing.assert_allclose(asked["rotation"], [expected], atol=1e-6)
    assert np.linalg.norm(expected) == pytest.approx(2 * np.pi / 3)


def test_goals_are_told_from_where_the_arm_is() -> None:
    state, turn = trajectory()
    arm = Arm(state, np.roll(state, -1, 0), commands="goals")
    asked = action(arm, COMMANDED)(0, NOW, LATER)
    np.testing.assert_allclose(asked["position"], state[LATER, :3] - state[NOW, :3], atol=1e-6)
    way = [(turn[b] * turn[a].inv()).as_rotvec() for a, b in ((0, 3), (2, 5))]
    np.testing.assert_allclose(asked["rotation"], way, atol=1e-5)
    np.testing.assert_allclose(asked["gripper"], arm.state[LATER, 6:])  # absolute, not a change


def test_goals_that_the_data_do_not_call_so_are_refused_not_summed() -> None:
    state, _ = trajectory(30)
    arm = Arm(state, np.roll(state, -1, 0))
    with pytest.raises(DataError, match="no steps to be summed; give commands=goals"):
        action(arm, COMMANDED)
    asked = action(arm, Labels(motion="action", commands="goals"))(0, NOW, LATER)
    np.testing.assert_allclose(asked["position"], state[LATER, :3] - state[NOW, :3], atol=1e-6)
    away = np.array([0.4, 0, 0.4, 0, 0, 0, 0])
    far = Arm(state + away, np.diff(state, axis=0, append=state[-1:]))
    assert "position" in action(far, COMMANDED)(0, NOW, LATER)  # steps are taken for what they are


def test_labels_may_not_contradict_the_data() -> None:
    arm = Arm(trajectory()[0], steps(1, 1), commands="steps")
    with pytest.raises(ConfigError, match="are steps, not goals; leave commands out"):
        action(arm, Labels(motion="action", commands="goals"))


def test_goals_need_a_state_to_start_from() -> None:
    arm = Arm(trajectory()[0], trajectory()[0], commands="goals")
    arm.state_names = (*(f"joint_{i}" for i in range(1, 7)), "gripper")
    with pytest.raises(DataError, match=r"names no position or rotation of the hand.*cartesian"):
        action(arm, COMMANDED)


def test_without_a_state_goals_and_hands_say_what_to_do() -> None:
    with pytest.raises(DataError, match=r"right_thumb_tip.*EgoDex with state=hands"):
        hand(Arm(trajectory()[0], steps(1, 1)), Labels(motion="hand"))
