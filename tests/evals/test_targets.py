import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from saccade.errors import DataError
from saccade.evals.features import Pairs, enumerate_pairs
from saccade.evals.targets import Target, targets
from tests.evals.oracle import Poses, parts

TURN = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])  # world x is the camera's forward
MOVES = np.array([[0.0, 0, 0, 0], [0.1, 0, 0, 1], [0.1, 0.2, 0, 1], [0.1, 0.2, 0.3, 0.5]])
NAMES = ("x", "y", "z", "gripper")


def by_key(found: list[Target]) -> dict[tuple[str, str], Target]:
    return {(target.group, target.frame): target for target in found}


def first_pair(gap: int) -> Pairs:
    return Pairs(np.array([0]), np.array([0]), gap)


def test_displacements_by_hand_in_both_frames() -> None:
    found = by_key(targets(Poses(MOVES, NAMES, TURN), first_pair(3), "front", "displacement"))
    np.testing.assert_allclose(found["position", "world"].values, [[0.1, 0.2, 0.3]], atol=1e-6)
    np.testing.assert_allclose(found["position", "camera"].values, [[-0.2, -0.3, 0.1]], atol=1e-6)
    assert (
        found["gripper", "camera"].values.item() == found["gripper", "world"].values.item() == 0.5
    )
    assert found["position", "camera"].tolerance == 0.01


def test_an_unknown_camera_leaves_the_world_frame_only() -> None:
    found = targets(Poses(MOVES, NAMES), first_pair(1), "front", "displacement")
    assert {target.frame for target in found} == {"world"}


def test_actions_are_summed_over_the_gap_and_the_last_gripper_counts() -> None:
    found = by_key(targets(Poses(MOVES, NAMES, TURN), first_pair(3), "front", "action"))
    total = MOVES[:3].sum(0)  # steps 0, 1, 2; not the one that starts at the last frame
    np.testing.assert_allclose(found["position", "world"].values, total[None, :3], atol=1e-6)
    np.testing.assert_allclose(found["position", "camera"].values, [TURN @ total[:3]], atol=1e-6)
    assert found["gripper", "world"].values.item() == 1
    assert found["position", "world"].tolerance is None


def test_actions_over_the_gap_move_the_state_as_far() -> None:
    episodes = parts()["test"]
    pairs = enumerate_pairs(episodes, gap=4, stride=3)
    commanded, moved = (
        by_key(targets(episodes, pairs, "front", kind))["position", "world"].values
        for kind in ("action", "displacement")
    )
    np.testing.assert_allclose(commanded, moved, atol=1e-6)


@pytest.mark.parametrize("names", [("roll", "pitch", "yaw"), ("rx", "ry", "rz")])
def test_rotations_are_the_vector_that_turns_the_first_pose_into_the_second(
    names: tuple[str, ...],
) -> None:
    angles = np.random.default_rng(0).uniform(-1, 1, (2, 3)).astype(np.float32)
    turn = Rotation.from_euler("xyz", angles) if "yaw" in names else Rotation.from_rotvec(angles)
    found = by_key(targets(Poses(angles, names, TURN), first_pair(1), "front", "displacement"))
    expected = (turn[1] * turn[0].inv()).as_rotvec()
    np.testing.assert_allclose(found["rotation", "world"].values, [expected], atol=1e-6)
    np.testing.assert_allclose(found["rotation", "camera"].values, [TURN @ expected], atol=1e-6)


def test_axes_are_taken_by_name_not_by_order() -> None:
    swapped = Poses(MOVES[:, [3, 2, 0, 1]], ("arm.gripper", "arm.z", "arm.x", "arm.y"))
    found = by_key(targets(swapped, first_pair(3), "front", "displacement"))
    np.testing.assert_allclose(found["position", "world"].values, [[0.1, 0.2, 0.3]], atol=1e-6)


@pytest.mark.parametrize(
    "names", [("x", "y"), ("left.x", "right.x"), ("x", "x"), ("j0", "j1"), ("rx", "yaw")]
)
def test_states_that_name_no_whole_group_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="name"):
        targets(Poses(MOVES[:, :2], names), first_pair(1), "front", "displacement")


def test_two_hands_are_predicted_together_and_finger_tips_with_them_are_not() -> None:
    matrix = Rotation.from_rotvec([[0, 0, 0], [0, 0, 0.5]]).as_matrix()
    axes = ("x", "y", "z", "r11", "r21", "r31", "r12", "r22", "r32")
    names, columns = [], []
    for hand, way in (("left", 1.0), ("right", -2.0)):
        names += [f"{hand}.{axis}" for axis in axes] + [f"{hand}_tip.{axis}" for axis in "xyz"]
        columns += [np.outer([0, 1], [way, 0, 0]), *matrix.transpose(2, 0, 1)[:2], np.zeros((2, 3))]
    poses = Poses(np.concatenate(columns, 1), tuple(names), TURN)
    found = by_key(targets(poses, first_pair(1), "front", "displacement"))
    position, rotation = found["position", "camera"], found["rotation", "world"]
    np.testing.assert_allclose(position.values, [[0, 0, 1, 0, 0, -2]], atol=1e-6)
    np.testing.assert_allclose(rotation.values, [[0, 0, 0.5, 0, 0, 0.5]], atol=1e-6)
    assert position.tolerance == pytest.approx(0.01 * 2**0.5)


def test_a_label_that_is_not_finite_names_its_episode() -> None:
    state = MOVES.copy()
    state[1, 0] = np.nan
    with pytest.raises(DataError, match="position of episode 0 is not finite"):
        targets(Poses(state, NAMES), first_pair(1), "front", "displacement")
