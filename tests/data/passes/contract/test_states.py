"""Units and axes of states, by numbers worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from saccade.data.passes.contract.findings import (
    EULER,
    POSITION,
    VECTOR,
    Recording,
    Sample,
    gather,
)
from saccade.data.passes.contract.states import (
    axes,
    check_states,
    dead,
    gripper,
    motion,
    position,
    readable,
    rotation,
    steps,
)
from saccade.data.synthetic import SyntheticConfig
from tests.fixtures.arm import ArmConfig

SEVEN = (*POSITION, *EULER, "gripper")


def of(state: np.ndarray, names: tuple[str, ...] = SEVEN, step: float = 0.25) -> Sample:
    """Make a sample of one recording in which each frame is one step after the one before."""
    source = SyntheticConfig(episodes=1).build()
    source.state_names = names
    count, none = len(state), np.zeros((len(state), 0))
    at = np.arange(count)
    recording = Recording(0, state.astype(float), none, at * step, at[:-1], at[1:])
    return Sample(source, step, [recording])


def table(**columns: float | np.ndarray) -> np.ndarray:
    """Make rows in which all else is a plausible motion."""
    t = np.linspace(0, 1, 21)
    known = {"x": 0.3 + 0.2 * t, "y": 0.1 * t, "z": 0.4 - 0.1 * t}
    known |= {"roll": 3 - 0.2 * t, "pitch": 0.1 * t, "yaw": 0.3 * t, "gripper": 1 - t}
    return np.stack([np.broadcast_to(columns.get(name, known[name]), 21) for name in SEVEN], 1)


def test_sound_states_pass() -> None:
    assert {f.check: f.verdict for f in check_states(of(table())) if f.verdict != "ok"} == {}


@pytest.mark.parametrize(
    ("names", "verdict", "told"),
    [
        (SEVEN, "ok", ""),
        (tuple(f"state.{name}" for name in SEVEN), "ok", ""),
        ((*SEVEN, "joint_1"), "warning", "among others or in another order"),
        (SEVEN[::-1], "warning", "in another order"),
        ((*POSITION, *VECTOR, "gripper"), "fails", "rotation vector"),
        (SEVEN[:-1], "fails", "no gripper"),
        ((*SEVEN, "other.x"), "fails", "several x"),
        (tuple(f"joint_{i}" for i in range(7)), "fails", "no x, y, z, roll, pitch, yaw, gripper"),
    ],
)
def test_axes_are_judged_by_name(names: tuple[str, ...], verdict: str, told: str) -> None:
    found = axes(of(np.zeros((3, len(names))), names))
    assert (found.verdict, told in found.found) == (verdict, True), found


@pytest.mark.parametrize(
    ("scale", "offset", "verdict", "told"),
    [
        (1, 0, "ok", "0.2 x 0.1 x 0.1 wide"),
        (1, 5, "warning", "far from the robot's base"),
        (0.1, 0, "warning", "hardly any motion"),
        (1000, 0, "fails", ": no arm is so large; as centimetres or millimetres it would fit"),
        (5000, 0, "fails", "as millimetres it would fit"),
        (1e6, 0, "fails", "up to 5.92e+05 from the origin"),
    ],
)
def test_positions_are_metres(scale: float, offset: float, verdict: str, told: str) -> None:
    rows = table()
    rows[:, :3] = rows[:, :3] * scale + offset
    found = position(of(np.repeat(rows, 20, 0)))
    assert (found.verdict, told in found.found) == (verdict, True), found


def test_standardised_positions_are_found() -> None:
    rows = table()
    rows[:, :3] = (rows[:, :3] - rows[:, :3].mean(0)) / rows[:, :3].std(0)
    assert position(of(rows)).verdict == "fails"


@pytest.mark.parametrize(
    ("yaw", "verdict"),
    [(3.14, "ok"), (3.2, "warning"), (6.2, "warning"), (6.4, "fails"), (-180.0, "fails")],
)
def test_angles_are_radians_from_minus_pi_to_pi(yaw: float, verdict: str) -> None:
    assert rotation(of(table(yaw=np.linspace(0, yaw, 21)))).verdict == verdict


def test_a_hand_that_never_turns_says_nothing_of_the_unit() -> None:
    still = rotation(of(table(roll=0.0, pitch=0.0, yaw=0.0)))
    assert still.verdict == "not decidable"


def test_motion_of_a_step_is_a_distance_and_an_angle() -> None:
    rows = table(x=0.0, y=0.0, z=0.0, roll=0.0, pitch=0.0, yaw=0.0)[:3]
    rows[1, :3], rows[1, 5] = (0.03, 0.04, 0), 3.1
    rows[2, :3], rows[2, 5] = (0.03, 0.04, 0.1), -3.1
    moved, turned = motion(of(rows))
    assert moved == pytest.approx([0.05, 0.1])
    assert turned == pytest.approx([3.1, 2 * np.pi - 6.2])  # across pi


def test_long_steps_warn_and_then_fail() -> None:
    rows = np.repeat(table()[:1], 301, 0)
    for share, verdict in ((0, "ok"), (2, "ok"), (6, "warning"), (30, "fails")):
        rows[:, 0] = np.cumsum(np.where(np.arange(301) < share, 0.4, 0.01))
        found = steps(of(rows))
        assert found.verdict == verdict, found
        assert found.numbers["moved"]["far"] == pytest.approx(max(share - 1, 0) / 300)
    assert steps(of(np.repeat(table()[:1], 9, 0))).verdict == "warning"  # it stands still
    assert steps(of(rows, step=1.0)).verdict == "ok"  # a second is enough for 0.4 m


def test_boxed_steps_are_counted() -> None:
    rows = table()[:3]
    rows[:, :3] = [[0, 0, 0], [0.07, 0.07, 0.07], [0.15, 0.07, 0.07]]
    assert steps(of(rows)).numbers["within_planner_box"] == 0.5


def test_dead_axes_are_named() -> None:
    assert dead(of(table(yaw=1.0))).numbers["constant"] == ["yaw"]
    assert dead(of(table(yaw=1.0))).verdict == "warning"
    assert dead(of(table(x=1.0, y=1.0, z=1.0))).verdict == "fails"


@pytest.mark.parametrize(
    ("low", "high", "verdict", "told"),
    [
        (0, 1, "ok", "0 to 1"),
        (0, 1.05, "warning", "1.05"),
        (0, 0.08, "warning", "metres?"),
        (0.5, 0.7, "warning", "a small part"),
        (-1, 1, "fails", "-1 to 1?"),
        (0, 255, "fails", "counts to 255?"),
        (0, 98, "fails", "per cent?"),
    ],
)
def test_grippers_go_from_0_to_1(low: float, high: float, verdict: str, told: str) -> None:
    found = gripper(of(table(gripper=np.linspace(low, high, 21))))
    assert (found.verdict, told in found.found) == (verdict, True), found


def test_what_cannot_be_read_is_said() -> None:
    sample = replace(of(table()), unreadable={4: "part 4 is cut"}, invalid=[7], backwards=[8, 9])
    found = readable(sample)
    assert found.verdict == "fails"
    for told in ("1 episode cannot be read (4)", "not finite (7)", "2 episodes", "part 4 is cut"):
        assert told in found.found


def test_without_recordings_nothing_is_decided() -> None:
    sample = replace(of(table()), recordings=[])
    verdicts = {f.check: f.verdict for f in check_states(sample)}
    assert set(verdicts.values()) == {"ok", "not decidable"}
    assert [check for check, v in verdicts.items() if v == "ok"] == ["readable", "state axes"]


def test_rotation_vectors_turn_as_well() -> None:
    names = (*POSITION, *VECTOR, "gripper")
    config = ArmConfig(names=names, episodes=1)
    plain, vectors = (gather(c.build(), 0.25) for c in (ArmConfig(episodes=1), config))
    assert motion(vectors)[1] == pytest.approx(motion(plain)[1], abs=1e-5)
