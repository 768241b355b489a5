"""Which bodies the numbers of a robot's state or action are about, and where they are in space.

Names say it: ``x``, ``left.yaw``, ``right_hand.r21``, ``gripper``. Bodies with some axes of a
position or rotation, not all, are refused rather than guessed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from saccade import geometry
from saccade.data.libero.reader import FINGER
from saccade.errors import DataError

AXES = {
    "position": ("x", "y", "z"),
    "euler": ("roll", "pitch", "yaw"),
    "vector": ("rx", "ry", "rz"),
    "columns": ("r11", "r21", "r31", "r12", "r22", "r32"),  # the first two of the matrix
}
MATRIX = {
    "euler": geometry.euler_xyz_to_matrix,
    "vector": geometry.rotation_vector_to_matrix,
    "columns": geometry.columns_to_matrix,
}
OPENING = {"gripper_left": 1 / FINGER, "gripper_right": -1 / FINGER}  # of a metre, LIBERO's fingers
Body = dict[str, list[int]]  # kind of AXES -> the columns that hold its axes


class Layout(NamedTuple):
    """The columns of each body, by its name, and of the grippers with what makes them openings."""

    bodies: dict[str, Body]
    gripper: list[int]
    opening: list[float]

    @property
    def acting(self) -> list[str]:
        """Name the bodies that act: those with a rotation, all of them where none has one."""
        oriented = [name for name, body in self.bodies.items() if body.keys() != {"position"}]
        return oriented or list(self.bodies)


class Poses(NamedTuple):
    """Where bodies are, in the world, in metres; a body may lack a position or a rotation."""

    position: dict[str, Float64[np.ndarray, "n 3"]]
    rotation: dict[str, Float64[np.ndarray, "n 3 3"]]
    gripper: Float64[np.ndarray, "n _"]  # openings


def layout(names: Sequence[str]) -> Layout:
    """Find bodies and grippers by the names of a state or an action.

    Raises:
        DataError: a body has some axes of a position or rotation, not all, or one twice.
    """
    gripper, opening, axes = [], [], {}
    for index, name in enumerate(names):
        body, _, axis = name.lower().rpartition(".")
        if "gripper" in axis:
            gripper.append(index)
            opening.append(OPENING.get(axis, 1.0))
        elif any(axis in known for known in AXES.values()):
            if axis in axes.setdefault(body, {}):
                raise DataError(f"{name} is named twice in {list(names)}; name each body apart")
            axes[body][axis] = index
    return Layout({name: _body(name, held) for name, held in axes.items()}, gripper, opening)


def _body(name: str, axes: dict[str, int]) -> Body:
    """Return the columns of one body's position and rotation, in the order of their axes."""
    body = {
        kind: [axes[axis] for axis in known]
        for kind, known in AXES.items()
        if axes.keys() >= set(known)
    }
    part = axes.keys() - {axis for kind in body for axis in AXES[kind]}
    if part or len(body.keys() - {"position"}) > 1:
        raise DataError(
            f"{name or 'the state'} has the axes {sorted(axes)}, a probe expects one position and "
            f"one rotation, whole: {list(AXES.values())}; name all axes, or leave them out"
        )
    return body


def kinds(body: Body) -> set[str]:
    """Say whether a body has a position, a rotation, or both."""
    return {"position" if kind == "position" else "rotation" for kind in body}


def rotations(
    body: Body, values: Float64[np.ndarray, "n s"], radians: float = 1.0
) -> Float64[np.ndarray, "n 3 3"] | None:
    """Return a body's rotation as matrices, where it has one.

    ``radians`` are in a unit of an angle, which columns of a matrix are not.
    """
    for kind, matrix in MATRIX.items():
        if kind in body:
            return matrix(values[:, body[kind]] * (1.0 if kind == "columns" else radians))
    return None


def poses(
    known: Layout,
    values: Float64[np.ndarray, "n s"],
    camera: Float64[np.ndarray, "n 4 4"] | None = None,
) -> Poses:
    """Read bodies out of states, or of commands to reach one.

    ``camera`` has the pose of the camera in whose frame values are; without, it is the world's.
    """
    found = Poses({}, {}, values[:, known.gripper] * np.array(known.opening))
    for name, body in known.bodies.items():
        turn = rotations(body, values)
        if "position" in body:
            place = values[:, body["position"]]
            if camera is not None:
                place = (camera[:, :3, :3] @ place[..., None])[..., 0] + camera[:, :3, 3]
            found.position[name] = place
        if turn is not None:
            found.rotation[name] = turn if camera is None else camera[:, :3, :3] @ turn
    return found
