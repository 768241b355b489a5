"""Rotations, frames and mirror images, in radians and right-handed axes.

    matrix          R [3, 3], p_new = R p
    Euler xyz       (roll, pitch, yaw), extrinsic: R = Rz(yaw) Ry(pitch) Rx(roll)
    rotation vector the axis times the angle, the angle in [0, pi]
    columns         the first two of R, one after the other: r11 r21 r31 r12 r22 r32

A rotation vector changes frame like any vector (``to_frame``), but not in a mirror: it is axial.
Camera axes are x right, y down, z forward.
"""

import numpy as np
from jaxtyping import Float, Float64

Matrices = Float64[np.ndarray, "*b 3 3"]


def euler_xyz_to_matrix(angles: Float[np.ndarray, "*b 3"]) -> Matrices:
    """Turn by roll about the fixed x axis, then pitch about y, then yaw about z."""
    roll, pitch, yaw = (angles[..., [i]].astype(np.float64) * np.eye(3)[i] for i in range(3))
    first, second, third = (rotation_vector_to_matrix(axis) for axis in (roll, pitch, yaw))
    return third @ second @ first


def matrix_to_euler_xyz(matrix: Matrices) -> Float64[np.ndarray, "*b 3"]:
    """Read roll and yaw in [-pi, pi] and pitch in [-pi/2, pi/2].

    Where pitch is a right angle, only a combination of roll and yaw is defined: yaw is zero.
    """
    m = np.moveaxis(matrix, (-2, -1), (0, 1))
    across = np.hypot(m[0, 0], m[1, 0])  # cos(pitch)
    locked = across < 1e-7
    roll = np.where(locked, np.arctan2(-m[1, 2], m[1, 1]), np.arctan2(m[2, 1], m[2, 2]))
    yaw = np.where(locked, 0.0, np.arctan2(m[1, 0], m[0, 0]))
    return np.stack([roll, np.arctan2(-m[2, 0], across), yaw], -1)


def rotation_vector_to_matrix(vector: Float[np.ndarray, "*b 3"]) -> Matrices:
    """Apply Rodrigues' formula, exact at angle zero too."""
    x, y, z = np.moveaxis(vector.astype(np.float64), -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*x.shape, 3, 3)
    turns = np.sqrt(x**2 + y**2 + z**2)[..., None, None] / np.pi  # np.sinc(t) = sin(pi t) / (pi t)
    return np.eye(3) + np.sinc(turns) * cross + np.sinc(turns / 2) ** 2 / 2 * cross @ cross


def columns_to_matrix(columns: Float[np.ndarray, "*b 6"]) -> Matrices:
    """Complete the first two columns of a matrix, made orthonormal (Zhou et al., 2019).

    https://arxiv.org/abs/1812.07035
    """
    first, second = np.split(columns.astype(np.float64), 2, -1)
    x = first / np.linalg.norm(first, axis=-1, keepdims=True)
    along = (x * second).sum(-1, keepdims=True)
    y = (second - along * x) / np.linalg.norm(second - along * x, axis=-1, keepdims=True)
    return np.stack([x, y, np.cross(x, y)], -1)


def matrix_to_rotation_vector(matrix: Matrices) -> Float64[np.ndarray, "*b 3"]:
    """Read the axis and angle, by way of the quaternion (Shepperd, 1978): stable at 0 and pi."""
    m = np.moveaxis(matrix, (-2, -1), (0, 1))
    trace = m[0, 0] + m[1, 1] + m[2, 2]
    outer = np.empty((*trace.shape, 4, 4))  # 4 q q^T; its longest row gives q with no cancellation
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        outer[..., 0, i + 1] = outer[..., i + 1, 0] = m[k, j] - m[j, k]
        outer[..., j + 1, k + 1] = outer[..., k + 1, j + 1] = m[j, k] + m[k, j]
        outer[..., i + 1, i + 1] = 1 + 2 * m[i, i] - trace
    outer[..., 0, 0] = 1 + trace
    longest = np.diagonal(outer, axis1=-2, axis2=-1).argmax(-1)
    q = np.take_along_axis(outer, longest[..., None, None], axis=-2)[..., 0, :]
    q *= np.where(q[..., :1] < 0, -1, 1)
    sine = np.linalg.norm(q[..., 1:], axis=-1, keepdims=True)
    scale = 2 / np.linalg.norm(q, axis=-1, keepdims=True)  # where the angle is 0
    np.divide(2 * np.arctan2(sine, q[..., :1]), sine, out=scale, where=sine > 0)
    return scale * q[..., 1:]


def rotation_between(before: Matrices, after: Matrices) -> Float64[np.ndarray, "*b 3"]:
    """Return the rotation vector of ``after before^T``, in the frame that both are given in."""
    return matrix_to_rotation_vector(after @ np.swapaxes(before, -1, -2))


def to_frame(
    rotation: Float64[np.ndarray, "3 3"], vectors: Float64[np.ndarray, "*b 3"]
) -> Float64[np.ndarray, "*b 3"]:
    """Express displacements or rotation vectors in another frame, such as a camera's."""
    return vectors @ rotation.T


def mirror(displacement: Float64[np.ndarray, "*b 3"]) -> Float64[np.ndarray, "*b 3"]:
    """Show a camera-frame displacement as the left-right flipped image does."""
    return displacement * np.array([-1.0, 1.0, 1.0])


def mirror_rotation(vector: Float64[np.ndarray, "*b 3"]) -> Float64[np.ndarray, "*b 3"]:
    """Show a camera-frame rotation vector as the left-right flipped image does."""
    return vector * np.array([1.0, -1.0, -1.0])
