"""DROID's numbers, worked out by hand from how its controller and its users define them."""

import numpy as np
import pytest

from saccade.data.droid import conventions as droid
from saccade.data.episodes import state_groups


def test_an_open_gripper_is_1() -> None:
    np.testing.assert_allclose(droid.gripper_open(np.array([0.0, 0.25, 1.0])), [1.0, 0.75, 0.0])


def test_names_say_what_each_dimension_is() -> None:
    assert droid.names("joint")[6:] == ("joint_7", "gripper")
    groups = state_groups(droid.names("delta"))
    assert groups == {"position": [0, 1, 2], "rotation": [3, 4, 5], "gripper": [6]}
    assert all(len(droid.names(kind)) == 7 + ("joint" in kind) for kind in droid.COMMANDS)


def test_a_commanded_velocity_is_the_step_that_the_controller_makes() -> None:
    velocity = np.array(
        [
            [1, 0, 0, 0, 0, 1],  # the longest step
            [0.5, 0, 0, 0, -0.5, 0],  # half of it
            [3, 4, 0, 0, 0, 2],  # shortened to length 1: (0.6, 0.8, 0) and (0, 0, 1)
        ],
        np.float32,
    )
    expected = [
        [0.075, 0, 0, 0, 0, 0.15],
        [0.0375, 0, 0, 0, -0.075, 0],
        [0.045, 0.06, 0, 0, 0, 0.15],
    ]
    np.testing.assert_allclose(droid.command_velocity(velocity), expected, atol=1e-9)


def test_joint_velocities_are_shortened_together() -> None:
    velocity = np.array([[1, -0.5, 0, 0, 0, 0, 0], [4, -2, 0, 0, 0, 0, 1]])
    expected = [[0.2, -0.1, 0, 0, 0, 0, 0], [0.2, -0.1, 0, 0, 0, 0, 0.05]]
    np.testing.assert_allclose(droid.command_velocity(velocity), expected, atol=1e-9)


def test_positions_are_commanded_as_they_are_and_the_gripper_by_how_open() -> None:
    values, closed = np.arange(12.0).reshape(2, 6), np.array([0.0, 0.75])
    absolute = droid.command("cartesian", values, closed)
    np.testing.assert_allclose(absolute, [[0, 1, 2, 3, 4, 5, 1], [6, 7, 8, 9, 10, 11, 0.25]])
    step = droid.command("cartesian_velocity", np.array([[1.0, 0, 0, 0, 0, 0]]), np.array([1.0]))
    np.testing.assert_allclose(step, [[0.075, 0, 0, 0, 0, 0, 0]])


def test_the_measured_delta_turns_in_the_base_frame_and_ends_with_zero() -> None:
    quarter = np.pi / 2
    pose = np.array(
        [
            [0.1, 0, 0, 0, 0, 0],
            [0.4, -0.1, 0, quarter, 0, 0],  # turned about the fixed x axis
            [0.4, -0.1, 0.2, quarter, 0, quarter],  # then about the fixed z axis
        ]
    )
    delta = droid.measured_delta(pose, np.array([1.0, 0.25, 0.5]))
    expected = [
        [0.3, -0.1, 0, quarter, 0, 0, -0.75],
        [0, 0, 0.2, 0, 0, quarter, 0.25],
        [0, 0, 0, 0, 0, 0, 0],
    ]
    np.testing.assert_allclose(delta, expected, atol=1e-9)


def test_a_turn_across_pi_is_a_small_one() -> None:
    pose = np.array([[0, 0, 0, np.pi - 0.05, 0, 0], [0, 0, 0, 0.05 - np.pi, 0, 0]])
    np.testing.assert_allclose(droid.measured_delta(pose, np.zeros(2))[0, 3:6], [0.1, 0, 0])


@pytest.mark.parametrize("length", [0, 1])
def test_nothing_moves_in_an_episode_without_a_second_frame(length: int) -> None:
    delta = droid.measured_delta(np.ones((length, 6)), np.ones(length))
    np.testing.assert_array_equal(delta, np.zeros((length, 7)))
    assert droid.nonidle_ranges(np.ones((length, 7))) == []


def moving(*flags: tuple[int, bool]) -> np.ndarray:
    """Velocities that change by 0.1 in moving steps; each run is its length and whether it moves.

    The first step of all is never idle.
    """
    steps = np.concatenate([np.full(count, moves) for count, moves in flags])
    return np.cumsum(0.1 * steps)[:, None] * np.array([0, 0, 1, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("runs", "kept"),
    [
        (((16, True),), [(0, 6)]),  # a run of exactly 16 leaves 6 steps
        (((15, True),), []),
        (((10, True), (6, False), (10, True)), [(0, 16)]),  # 6 idle steps stay
        (((16, True), (7, False), (16, True)), [(0, 6), (23, 29)]),  # 7 split
        (((15, True), (7, False), (17, True)), [(22, 29)]),
        (((8, False), (16, True)), [(8, 14)]),  # step 0 is not idle: idle are 1 to 7, a run of 7
        (((7, False), (16, True)), [(0, 13)]),  # idle are 1 to 6 only
        (((40, False),), []),
    ],
)
def test_idle_steps_are_dropped_as_openpi_does(
    runs: tuple[tuple[int, bool], ...], kept: list[tuple[int, int]]
) -> None:
    assert droid.nonidle_ranges(moving(*runs)) == kept


def test_a_change_of_a_thousandth_is_no_idling() -> None:
    ramp = np.outer(np.arange(20) * 1.1e-3, np.ones(7))
    assert droid.nonidle_ranges(ramp) == [(0, 10)]
    assert droid.nonidle_ranges(ramp * 0.9 / 1.1) == []
