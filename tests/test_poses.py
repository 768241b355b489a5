"""Differences and sums of poses, against SciPy, the official numbers and finite differences."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from saccade import geometry
from saccade.errors import ConfigError
from saccade.poses import (
    NAMES,
    difference,
    euler_xyz_to_matrix,
    matrix_to_euler_xyz,
    matrix_to_rotation_vector,
    moved,
    other_gripper,
    rotation_vector_to_matrix,
)

VECTOR_NAMES = ("x", "y", "z", "rx", "ry", "rz", "gripper")


def states(count: int, seed: int = 0, turn: float = 3.0) -> Tensor:
    rng = np.random.default_rng(seed)
    low, high = [-1.0] * 3 + [-turn, -1.5, -turn, 0.0], [1.0] * 3 + [turn, 1.5, turn, 1.0]
    return torch.from_numpy(rng.uniform(low, high, (count, 7)))


def scipy_difference(before: np.ndarray, after: np.ndarray, kind: str) -> np.ndarray:
    first, second = read(before, kind), read(after, kind)
    turn = second * first.inv()
    angles = turn.as_euler("xyz") if kind == "euler" else turn.as_rotvec()
    return np.concatenate([(after - before)[:, :3], angles, (after - before)[:, 6:]], 1)


def scipy_moved(state: np.ndarray, action: np.ndarray, kind: str) -> np.ndarray:
    turned = read(action, kind) * read(state, kind)
    angles = turned.as_euler("xyz") if kind == "euler" else turned.as_rotvec()
    gripper = (state + action)[:, 6:].clip(0, 1)
    return np.concatenate([(state + action)[:, :3], angles, gripper], 1)


def read(values: np.ndarray, kind: str) -> Rotation:
    angles = values[:, 3:6]
    return Rotation.from_euler("xyz", angles) if kind == "euler" else Rotation.from_rotvec(angles)


@pytest.mark.parametrize(("kind", "names"), [("euler", NAMES), ("vector", VECTOR_NAMES)])
def test_scipy_agrees(kind: str, names: tuple[str, ...]) -> None:
    before, after = states(500), states(500, seed=1)
    expected = scipy_difference(before.numpy(), after.numpy(), kind)
    found = difference(before, after, names)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    small = states(500, seed=2) * torch.tensor([0.05] * 3 + [0.1] * 3 + [1.0])
    expected = scipy_moved(before.numpy(), small.numpy(), kind)
    np.testing.assert_allclose(moved(before, small, names).numpy(), expected, atol=1e-12)


def test_single_precision_is_that_of_its_rounding() -> None:
    before, after = states(200).float(), states(200, seed=1).float()
    found = difference(before, after)
    assert found.dtype == torch.float32
    exact = scipy_difference(before.double().numpy(), after.double().numpy(), "euler")
    np.testing.assert_allclose(found.numpy(), exact, atol=1e-6)


def test_moving_by_the_difference_arrives() -> None:
    before, after = states(100), states(100, seed=3)
    end = moved(before, difference(before, after))
    torch.testing.assert_close(end, after, rtol=0, atol=1e-12)


def test_by_hand() -> None:
    """A quarter turn about the base's z axis turns roll into pitch of the other sign."""
    state = torch.tensor([[1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 0.75]]).double()
    action = torch.tensor([[0.5, 0.0, -1.0, 0.0, 0.0, torch.pi / 2, 0.5]]).double()
    expected = [[1.5, 2.0, 2.0, 0.0, 0.0, torch.pi / 2, 1.0]]
    torch.testing.assert_close(moved(state, action), torch.tensor(expected).double())
    free = moved(state, action, clip_gripper=False)
    assert free[0, 6] == 1.25
    rolled = torch.tensor([[0.0, 0, 0, 0.3, 0, 0, 0]]).double()
    turn = torch.tensor([[0.0, 0, 0, 0, 0.2, 0, 0]]).double()
    base = geometry.euler_xyz_to_matrix(np.array([0, 0.2, 0])) @ geometry.euler_xyz_to_matrix(
        np.array([0.3, 0, 0])
    )
    np.testing.assert_allclose(moved(rolled, turn)[0, 3:6], geometry.matrix_to_euler_xyz(base))


def test_official_actions(shared_data: Path) -> None:
    official = np.load(shared_data / "vjepa2_ac" / "tiny_official_vjepa2ac.npz")
    measured = torch.from_numpy(official["states"])
    actions = difference(measured[:, :-1], measured[:, 1:])
    np.testing.assert_allclose(actions.numpy(), official["actions_from_diffs"], atol=1e-12)


def test_the_franka_pair(shared_data: Path) -> None:
    pair = np.load(shared_data / "vjepa2_ac" / "franka_example_traj.npz")["states"]
    action = difference(torch.from_numpy(pair[0, 0]), torch.from_numpy(pair[0, 1]))
    expected = [0.0924, 0.0310, 0.0843, -0.0172, -0.0100, -0.00002, 0.0]
    np.testing.assert_allclose(action.numpy(), expected, atol=6e-5)


@pytest.mark.parametrize("pitch", [np.pi / 2, -np.pi / 2, np.pi / 2 - 1e-9])
def test_gimbal_lock_is_that_of_geometry(pitch: float) -> None:
    angles = np.array([[0.4, pitch, 0.9], [0.4, 0.3, 0.9]])
    matrix = geometry.euler_xyz_to_matrix(angles)
    leaf = torch.from_numpy(matrix).requires_grad_()
    found = matrix_to_euler_xyz(leaf)
    np.testing.assert_allclose(
        found.detach().numpy(), geometry.matrix_to_euler_xyz(matrix), atol=1e-7
    )
    assert found[0, 2] == 0
    found.sum().backward()
    assert leaf.grad is not None
    assert bool(leaf.grad.isfinite().all())


def test_matrices_are_those_of_geometry() -> None:
    angles = states(50)[:, 3:6]
    vectors = torch.cat([angles, torch.zeros(1, 3).double(), torch.eye(3).double() * torch.pi])
    for ours, theirs, values in (
        (euler_xyz_to_matrix, geometry.euler_xyz_to_matrix, angles),
        (rotation_vector_to_matrix, geometry.rotation_vector_to_matrix, vectors),
    ):
        np.testing.assert_allclose(ours(values), theirs(values.numpy()), atol=1e-15)
    matrices = geometry.rotation_vector_to_matrix(vectors.numpy())
    np.testing.assert_allclose(
        matrix_to_rotation_vector(torch.from_numpy(matrices)),
        geometry.matrix_to_rotation_vector(matrices),
        atol=1e-12,
    )


@pytest.mark.parametrize("names", [NAMES, VECTOR_NAMES])
@pytest.mark.parametrize("function", [difference, moved])
def test_gradients(function: Callable[..., Tensor], names: tuple[str, ...]) -> None:
    """They are those of finite differences, and finite where nothing moves."""
    first = states(4).mul(0.4).add(0.1).requires_grad_()
    second = states(4, seed=5).mul(0.4).add(0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: function(a, b, names), (first, second))
    still = torch.zeros(1, 7, dtype=torch.float64, requires_grad=True)
    function(first[:1].detach(), still, names).sum().backward()
    function(still, still, names).sum().backward()
    assert still.grad is not None
    assert bool(still.grad.isfinite().all())
    assert still.grad[0, 0] != 0


def test_any_leading_axes() -> None:
    before, after = states(24), states(24, seed=1)
    flat = difference(before, after)
    assert torch.equal(
        difference(before.view(2, 3, 4, 7), after.view(2, 3, 4, 7)).view(24, 7), flat
    )
    assert torch.equal(difference(before[0], after[0]), flat[0])


def test_other_axes_and_two_hands() -> None:
    """Without rotations all is addition; each hand of a body turns by itself."""
    names = ("x", "y", "z", "gripper")
    start, step = torch.tensor([[0.1, 0.2, 0.3, 0.9]]), torch.tensor([[0.1, 0.0, -0.1, 0.5]])
    torch.testing.assert_close(moved(start, step, names), torch.tensor([[0.2, 0.2, 0.2, 1.0]]))
    one, two = states(5), states(5, seed=1)
    hands = tuple(f"{side}.{name}" for side in ("left", "right") for name in NAMES)
    both = difference(torch.cat([one, two], 1), torch.cat([two, one], 1), hands)
    expected = torch.cat([difference(one, two), difference(two, one)], 1)
    torch.testing.assert_close(both, expected)


def test_the_sense_of_the_gripper_goes_both_ways() -> None:
    before, after = states(6), states(6, seed=1)
    flipped = other_gripper(before, NAMES, "state")
    torch.testing.assert_close(flipped[:, 6], 1 - before[:, 6])
    assert torch.equal(flipped[:, :6], before[:, :6])
    torch.testing.assert_close(other_gripper(flipped, NAMES, "state"), before)
    action = other_gripper(difference(before, after), NAMES, "action")
    expected = difference(flipped, other_gripper(after, NAMES, "state"))
    torch.testing.assert_close(action, expected)
    positions = before[:, :3]
    assert torch.equal(other_gripper(positions, ("x", "y", "z"), "state"), positions)


@pytest.mark.parametrize(
    ("names", "told"), [(NAMES[:6], "7 axes, but 6 names"), ((*NAMES[:5], "a", "b"), "'yaw'")]
)
def test_names_that_do_not_fit(names: tuple[str, ...], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        difference(states(1), states(1), names)
