import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from saccade import geometry

RNG = np.random.default_rng(0)


def test_a_quarter_turn_about_z_takes_x_to_y() -> None:
    turn = geometry.euler_xyz_to_matrix(np.array([0, 0, np.pi / 2]))
    np.testing.assert_allclose(turn @ [1, 0, 0], [0, 1, 0], atol=1e-15)
    np.testing.assert_allclose(geometry.matrix_to_rotation_vector(turn), [0, 0, np.pi / 2])


def test_euler_angles_are_extrinsic_roll_first() -> None:
    turn = geometry.euler_xyz_to_matrix(np.array([np.pi / 2, 0, np.pi / 2]))
    np.testing.assert_allclose(turn @ [0, 1, 0], [0, 0, 1], atol=1e-15)  # x turns y up; z keeps it
    angles = RNG.uniform(-3, 3, (50, 3))
    expected = Rotation.from_euler("xyz", angles).as_matrix()
    np.testing.assert_allclose(geometry.euler_xyz_to_matrix(angles), expected, atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-7, 1.0, np.pi - 1e-7, np.pi])
def test_rotation_vectors_survive_the_trip_through_a_matrix(angle: float) -> None:
    axis = RNG.normal(size=(20, 3))
    vector = angle * axis / np.linalg.norm(axis, axis=-1, keepdims=True)
    matrix = geometry.rotation_vector_to_matrix(vector)
    np.testing.assert_allclose(matrix, Rotation.from_rotvec(vector).as_matrix(), atol=1e-12)
    back = geometry.matrix_to_rotation_vector(matrix)
    sign = np.sign((back * vector).sum(-1, keepdims=True)) if angle == np.pi else 1.0
    np.testing.assert_allclose(back * sign, vector, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("axis", range(3))
def test_half_turns_about_each_axis_are_found(axis: int) -> None:
    matrix = -np.eye(3)
    matrix[axis, axis] = 1
    found = np.abs(geometry.matrix_to_rotation_vector(matrix))
    np.testing.assert_allclose(found, np.pi * np.eye(3)[axis])


def test_the_rotation_between_poses_changes_frame_like_a_vector() -> None:
    poses = Rotation.from_rotvec(RNG.normal(size=(10, 3))).as_matrix()
    camera = Rotation.from_rotvec(RNG.normal(size=3)).as_matrix()
    world = geometry.rotation_between(poses[:5], poses[5:])
    seen = geometry.rotation_between(camera @ poses[:5], camera @ poses[5:])
    np.testing.assert_allclose(geometry.to_frame(camera, world), seen, atol=1e-9)


def test_a_mirrored_motion_is_the_motion_of_the_mirrored_body() -> None:
    flip = np.diag([-1.0, 1.0, 1.0])
    point, move = RNG.normal(size=3), RNG.normal(size=3)
    np.testing.assert_allclose(flip @ (point + move) - flip @ point, geometry.mirror(move))
    vector = RNG.uniform(-1, 1, 3)
    seen = flip @ geometry.rotation_vector_to_matrix(vector) @ flip
    mirrored = geometry.rotation_vector_to_matrix(geometry.mirror_rotation(vector))
    np.testing.assert_allclose(mirrored, seen, atol=1e-12)


def test_euler_angles_are_read_back_from_a_matrix() -> None:
    angles = RNG.uniform([-np.pi, -np.pi / 2, -np.pi], [np.pi, np.pi / 2, np.pi], (200, 3))
    back = geometry.matrix_to_euler_xyz(geometry.euler_xyz_to_matrix(angles))
    np.testing.assert_allclose(back, angles, atol=1e-9)
    matrices = Rotation.from_rotvec(RNG.normal(size=(50, 3))).as_matrix()
    expected = Rotation.from_matrix(matrices).as_euler("xyz")
    np.testing.assert_allclose(geometry.matrix_to_euler_xyz(matrices), expected, atol=1e-12)


@pytest.mark.parametrize("pitch", [-np.pi / 2, np.pi / 2])
def test_where_roll_and_yaw_are_one_roll_has_all_of_it(pitch: float) -> None:
    locked = geometry.euler_xyz_to_matrix(np.array([0.5, pitch, 0.2]))
    angles = geometry.matrix_to_euler_xyz(locked)
    np.testing.assert_allclose(angles, [0.5 - np.sign(pitch) * 0.2, pitch, 0], atol=1e-9)
    np.testing.assert_allclose(geometry.euler_xyz_to_matrix(angles), locked, atol=1e-9)


def test_two_columns_are_completed_to_the_matrix_they_came_from() -> None:
    turned = Rotation.from_rotvec(RNG.normal(size=(5, 3))).as_matrix()
    columns = np.concatenate([turned[..., 0], turned[..., 1]], -1)
    np.testing.assert_allclose(geometry.columns_to_matrix(columns), turned, atol=1e-12)
    skewed = columns + np.concatenate([np.zeros((5, 3)), 0.3 * turned[..., 0]], -1)
    np.testing.assert_allclose(geometry.columns_to_matrix(2 * skewed), turned, atol=1e-12)
