"""Bodies are found by the names of their axes, whole, and read the same in every convention."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from saccade.errors import DataError
from saccade.evals.bodies import kinds, layout, poses, rotations

AXES = ("x", "y", "z", "r11", "r21", "r31", "r12", "r22", "r32")


def test_axes_are_taken_by_name_not_by_order() -> None:
    known = layout(("arm.gripper", "arm.z", "arm.x", "j1", "arm.y"))
    assert known.bodies == {"arm": {"position": [2, 4, 1]}}
    assert known.gripper == [0]
    read = poses(known, np.array([[0.5, 3.0, 1.0, 9.0, 2.0]]))
    np.testing.assert_array_equal(read.position["arm"], [[1, 2, 3]])
    np.testing.assert_array_equal(read.gripper, [[0.5]])


def test_fingers_in_metres_are_openings() -> None:
    known = layout(("x", "y", "z", "gripper_left", "gripper_right"))
    read = poses(known, np.array([[0, 0, 0, 0.04, -0.04], [0, 0, 0, 0.01, -0.02]]))
    np.testing.assert_allclose(read.gripper, [[1, 1], [0.25, 0.5]])


@pytest.mark.parametrize(
    "names",
    [("x", "y"), ("left.x", "right.x"), ("x", "x"), ("rx", "yaw"), ("x", "y", "z", "roll")],
)
def test_parts_of_a_body_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="name"):
        layout(names)


def test_two_rotations_of_one_body_are_refused() -> None:
    with pytest.raises(DataError, match="one position and one rotation"):
        layout(("roll", "pitch", "yaw", "rx", "ry", "rz"))


def test_bodies_with_a_rotation_act_and_the_others_where_there_is_none() -> None:
    tips = [f"tip.{axis}" for axis in "xyz"]
    assert layout([f"hand.{axis}" for axis in AXES] + tips).acting == ["hand"]
    assert layout(tips + [f"toe.{axis}" for axis in "xyz"]).acting == ["tip", "toe"]
    assert kinds(layout(AXES).bodies[""]) == {"position", "rotation"}


def test_every_convention_of_a_rotation_is_the_same_matrix() -> None:
    turn = Rotation.from_euler("xyz", [[0.3, -0.2, 1.0], [3.0, 0.1, -2.0]])
    given = {
        ("roll", "pitch", "yaw"): turn.as_euler("xyz"),
        ("rx", "ry", "rz"): turn.as_rotvec(),
        AXES[3:]: turn.as_matrix()[:, :, :2].transpose(0, 2, 1).reshape(2, 6),
    }
    for names, values in given.items():
        body = layout(names).bodies[""]
        found = rotations(body, values)
        assert found is not None
        np.testing.assert_allclose(found, turn.as_matrix(), atol=1e-9)
    half = rotations(layout(("rx", "ry", "rz")).bodies[""], turn.as_rotvec() * 2, radians=0.5)
    assert half is not None
    np.testing.assert_allclose(half, turn.as_matrix(), atol=1e-9)
    assert rotations(layout(("x", "y", "z")).bodies[""], np.zeros((1, 3))) is None


def test_what_a_camera_sees_is_put_where_it_is_in_the_world() -> None:
    rng = np.random.default_rng(0)
    world, turn = rng.normal(0, 1, (4, 3)), Rotation.random(4, rng)
    camera = np.tile(np.eye(4), (4, 1, 1))
    camera[:, :3, :3], camera[:, :3, 3] = Rotation.random(4, rng).as_matrix(), rng.normal(0, 1, 3)
    back = np.linalg.inv(camera)
    seen = np.einsum("nij,nj->ni", back[:, :3, :3], world) + back[:, :3, 3]
    vector = Rotation.from_matrix(back[:, :3, :3] @ turn.as_matrix()).as_rotvec()
    known = layout(("x", "y", "z", "rx", "ry", "rz"))
    read = poses(known, np.concatenate([seen, vector], 1), camera)
    np.testing.assert_allclose(read.position[""], world, atol=1e-9)
    np.testing.assert_allclose(read.rotation[""], turn.as_matrix(), atol=1e-9)
