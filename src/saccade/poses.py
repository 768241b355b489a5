"""Poses of an end effector in torch: what an action did, and where it leads, differentiable.

An action is a difference of two *measured* states, and adds up again:

    position    after - before
    rotation    Q of after before^T, a turn about the axes of the robot's base: after = Q before
    the rest    after - before, the gripper among it

Which axes are which is read from their names, as in data: ``roll, pitch, yaw`` are extrinsic xyz
Euler angles, ``rx, ry, rz`` a rotation vector (``geometry.py`` defines both), and a hand of a body
has a prefix, ``left.roll``. Everything is computed in float64, for any leading axes at once, and
returned in the dtype that came in. The convention is that of V-JEPA 2-AC (arXiv 2506.09985;
https://github.com/facebookresearch/vjepa2, ``notebooks/utils/mpc_utils.py``).
"""

from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saccade.errors import ConfigError

NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")  # of V-JEPA 2-AC
EULER, VECTOR = ("roll", "pitch", "yaw"), ("rx", "ry", "rz")
LOCKED = 1e-7  # the cosine of a pitch that leaves roll and yaw undefined, as in ``geometry.py``

Angles = Float[Tensor, "*b 3"]
Matrices = Float[Tensor, "*b 3 3"]


class _Layout(NamedTuple):
    """Which of the axes belong together."""

    euler: tuple[tuple[int, ...], ...]
    vector: tuple[tuple[int, ...], ...]
    gripper: tuple[int, ...]


def difference(
    before: Float[Tensor, "*b s"], after: Float[Tensor, "*b s"], names: tuple[str, ...] = NAMES
) -> Float[Tensor, "*b s"]:
    """Return the action that leads from one state to another, in metres and radians.

    Raises:
        ConfigError: the names are not those of these axes, or name a part of a rotation.
    """
    layout = _layout(names, before.shape[-1])
    first, second = before.double(), after.double()
    action = second - first
    for axes, to_matrix, from_matrix in _rotations(layout):
        turn = to_matrix(second[..., axes]) @ to_matrix(first[..., axes]).mT
        action = _with(action, axes, from_matrix(turn))
    return action.to(before.dtype)


def moved(
    state: Float[Tensor, "*b s"],
    action: Float[Tensor, "*b s"],
    names: tuple[str, ...] = NAMES,
    clip_gripper: bool = True,
) -> Float[Tensor, "*b s"]:
    """Return the state after an action; ``clip_gripper`` keeps it within [0, 1], as officially.

    Raises:
        ConfigError: the names are not those of these axes, or name a part of a rotation.
    """
    layout = _layout(names, state.shape[-1])
    start, step = state.double(), action.double()
    end = start + step
    for axes, to_matrix, from_matrix in _rotations(layout):
        turned = to_matrix(step[..., axes]) @ to_matrix(start[..., axes])
        end = _with(end, axes, from_matrix(turned))
    if clip_gripper and layout.gripper:
        end = _with(end, layout.gripper, end[..., layout.gripper].clamp(0, 1))
    return end.to(state.dtype)


def other_gripper(
    values: Float[Tensor, "*b s"], names: tuple[str, ...], kind: Literal["state", "action"]
) -> Float[Tensor, "*b s"]:
    """Go from a gripper that is 1 when open to one that is 1 when closed, or back.

    Raises:
        ConfigError: the names are not those of these axes.
    """
    axes = _layout(names, values.shape[-1]).gripper
    if not axes:
        return values
    gripper = values[..., axes]
    return _with(values, axes, 1 - gripper if kind == "state" else -gripper)


def euler_xyz_to_matrix(angles: Angles) -> Matrices:
    """Turn by roll about the fixed x axis, then pitch about y, then yaw about z."""
    (sr, sp, sy), (cr, cp, cy) = angles.sin().unbind(-1), angles.cos().unbind(-1)
    rows = (
        *(cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr),
        *(sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr),
        *(-sp, cp * sr, cp * cr),
    )
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def matrix_to_euler_xyz(matrix: Matrices) -> Angles:
    """Read roll and yaw in [-pi, pi] and pitch in [-pi/2, pi/2]; gradients are finite.

    Where pitch is a right angle, only a combination of roll and yaw is defined: yaw is zero, and
    has no gradient.
    """
    m = matrix.unbind(-2)
    (m00, _, _), (m10, m11, m12), (m20, m21, m22) = (row.unbind(-1) for row in m)
    square = m00**2 + m10**2
    locked = square < LOCKED**2
    across = torch.where(locked, 0.0, torch.where(locked, 1.0, square).sqrt())  # cos(pitch)
    roll = torch.atan2(torch.where(locked, -m12, m21), torch.where(locked, m11, m22))
    yaw = torch.atan2(torch.where(locked, 0.0, m10), torch.where(locked, 1.0, m00))
    return torch.stack([roll, torch.atan2(-m20, across), yaw], -1)


def rotation_vector_to_matrix(vector: Angles) -> Matrices:
    """Apply Rodrigues' formula, exact at angle zero too."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    turns = (_length(vector) / torch.pi)[..., None]  # torch.sinc(t) = sin(pi t) / (pi t)
    eye = torch.eye(3, dtype=vector.dtype, device=vector.device)
    return eye + turns.sinc() * cross + (turns / 2).sinc() ** 2 / 2 * cross @ cross


def matrix_to_rotation_vector(matrix: Matrices) -> Angles:
    """Read the axis and angle, by way of the quaternion (Shepperd, 1978): stable at 0 and pi."""
    (m00, m01, m02), (m10, m11, m12), (m20, m21, m22) = (r.unbind(-1) for r in matrix.unbind(-2))
    x, y, z = m21 - m12, m02 - m20, m10 - m01
    xy, xz, yz = m10 + m01, m02 + m20, m21 + m12
    rows = (  # 4 q q^T; its longest row gives q with no cancellation
        *(1 + m00 + m11 + m22, x, y, z),
        *(x, 1 + m00 - m11 - m22, xy, xz),
        *(y, xy, 1 - m00 + m11 - m22, yz),
        *(z, xz, yz, 1 - m00 - m11 + m22),
    )
    outer = torch.stack(rows, -1).unflatten(-1, (4, 4))
    longest = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]
    q = outer.gather(-2, longest.expand(*longest.shape[:-1], 4)).squeeze(-2)
    q = torch.where(q[..., :1] < 0, -q, q)
    axis = q[..., 1:]
    sine, none = _length(axis), (axis == 0).all(-1, keepdim=True)
    angle = 2 * torch.atan2(torch.where(none, 1.0, sine), q[..., :1])
    return axis * torch.where(none, 2 / q[..., :1], angle / torch.where(none, 1.0, sine))


def _length(vector: Angles) -> Float[Tensor, "*b 1"]:
    """Return the length, with a gradient of zero where it is zero."""
    square = vector.square().sum(-1, keepdim=True)
    none = square == 0
    return torch.where(none, 0.0, torch.where(none, 1.0, square).sqrt())


def _with(
    values: Float[Tensor, "*b s"], axes: tuple[int, ...], part: Float[Tensor, "*b p"]
) -> Float[Tensor, "*b s"]:
    """Replace some of the axes."""
    columns = list(values.unbind(-1))
    for axis, column in zip(axes, part.unbind(-1), strict=True):
        columns[axis] = column
    return torch.stack(columns, -1)


def _rotations(layout: _Layout) -> tuple:
    """Return the axes of each rotation, with the functions that read and write it."""
    euler = [(axes, euler_xyz_to_matrix, matrix_to_euler_xyz) for axes in layout.euler]
    vector = [
        (axes, rotation_vector_to_matrix, matrix_to_rotation_vector) for axes in layout.vector
    ]
    return (*euler, *vector)


@lru_cache(maxsize=64)
def _layout(names: tuple[str, ...], axes: int) -> _Layout:
    """Find rotations, one for each prefix, and grippers."""
    if len(names) != axes:
        raise ConfigError(f"states or actions have {axes} axes, but {len(names)} names: {names}")
    found: dict[tuple[str, ...], list[tuple[int, ...]]] = {EULER: [], VECTOR: []}
    for kind, groups in found.items():
        for prefix in dict.fromkeys(n.rpartition(".")[:2] for n in names if _last(n) in kind):
            wanted = ["".join((*prefix, last)) for last in kind]
            missing = [name for name in wanted if name not in names]
            if missing:
                raise ConfigError(
                    f"the axes {names} hold a part of a rotation; it needs {missing} too, "
                    "or none of it"
                )
            groups.append(tuple(names.index(name) for name in wanted))
    gripper = tuple(i for i, name in enumerate(names) if "gripper" in _last(name))
    return _Layout(tuple(found[EULER]), tuple(found[VECTOR]), gripper)


def _last(name: str) -> str:
    return name.lower().rpartition(".")[2]
