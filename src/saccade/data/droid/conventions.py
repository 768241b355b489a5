"""What the numbers of DROID mean, the same in its RLDS and in its raw form.

The robot records and is commanded at 15 Hz. Poses are of the end effector in the robot base frame:
metres, and Euler angles as in ``saccade.geometry``. Its gripper is 0 open and 1 closed; ours is 1
open and 0 closed. A commanded velocity is a share of the longest step that the controller allows;
here it is that step. Facts: https://github.com/droid-dataset/droid (``robot_ik_solver.py``),
https://github.com/facebookresearch/vjepa2 (``vjepa_droid``) and
https://github.com/Physical-Intelligence/openpi (``compute_droid_nonidle_ranges.py``).
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float64

from saccade.data.episodes import Conventions
from saccade.geometry import euler_xyz_to_matrix, matrix_to_euler_xyz

State = Literal["cartesian", "joint"]
Action = Literal["cartesian", "joint", "cartesian_velocity", "joint_velocity", "delta"]

FPS = 15.0
LONGEST_MOVE, LONGEST_TURN, LONGEST_JOINT = 0.075, 0.15, 0.2  # m, rad and rad in one step
COMMANDS: dict[Action, str] = {  # where commanded values lie, in the group of actions
    "cartesian": "cartesian_position",
    "joint": "joint_position",
    "cartesian_velocity": "cartesian_velocity",
    "joint_velocity": "joint_velocity",
}
STILL = 1e-3  # change of a joint's commanded velocity below which a step may be idle
IDLE_RUN, KEPT_RUN, TAIL = 7, 16, 10  # steps: dropped from, kept from, cut off every end


def names(kind: State | Action) -> tuple[str, ...]:
    """Name the dimensions of a state or an action; the gripper is always the last."""
    joints = kind.startswith("joint")
    body = (
        [f"joint_{i}" for i in range(1, 8)] if joints else ["x", "y", "z", "roll", "pitch", "yaw"]
    )
    return (*body, "gripper")


def conventions(kind: Action) -> Conventions:
    """Say whether commands of a kind are steps, in m and rad, or where to go."""
    steps = kind == "delta" or kind.endswith("velocity")
    return Conventions(commands="steps" if steps else "goals", metres=1.0)


def gripper_open(closed: Float[np.ndarray, "*t"]) -> Float[np.ndarray, "*t"]:
    """Turn how far the gripper is closed, 0 to 1, into how far it is open."""
    return 1 - closed


def with_gripper(
    values: Float[np.ndarray, "t d"], closed: Float[np.ndarray, " t"]
) -> Float64[np.ndarray, "t d+1"]:
    """Append to poses or joints how far the gripper is open."""
    return np.concatenate([values, gripper_open(closed)[:, None]], 1, dtype=np.float64)


def command(
    kind: Action, values: Float[np.ndarray, "t d"], closed: Float[np.ndarray, " t"]
) -> Float64[np.ndarray, "t d+1"]:
    """Return what was commanded: a pose or joints to reach, or the step to make towards them.

    ``values`` come from ``COMMANDS[kind]``. The gripper is always commanded by where it shall be.
    """
    return with_gripper(command_velocity(values) if kind.endswith("velocity") else values, closed)


def command_velocity(velocity: Float[np.ndarray, "t d"]) -> Float64[np.ndarray, "t d"]:
    """Turn commanded velocities into the step of 1/15 s that the controller makes of them.

    Six values are a translation (to metres) and Euler angles (to radians), each as a vector no
    longer than 1; seven are joints (to radians), the largest at most 1. What is longer is
    shortened, as the controller does.
    """
    velocity = velocity.astype(np.float64)
    if velocity.shape[1] == 7:
        return velocity / np.maximum(np.abs(velocity).max(1, keepdims=True), 1) * LONGEST_JOINT
    parts = np.split(velocity, 2, axis=1)
    moves, turns = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1) for v in parts)
    return np.concatenate([moves * LONGEST_MOVE, turns * LONGEST_TURN], 1)


def measured_delta(
    pose: Float[np.ndarray, "t 6"], gripper: Float[np.ndarray, " t"]
) -> Float64[np.ndarray, "t 7"]:
    """Return the motion from each frame to the next, as V-JEPA 2-AC's actions are defined.

    That is the translation, the Euler angles of ``R[t+1] R[t]^T`` (a rotation in the base frame)
    and the change of the gripper, in the sense in which it is given (theirs is 1 closed). The
    last row is zero: no frame follows. They apply it to the frames of a clip, at its stride.
    """
    delta = np.zeros((len(pose), 7))
    if len(pose) > 1:
        rotation = euler_xyz_to_matrix(pose[:, 3:])
        delta[:-1, :3] = np.diff(pose[:, :3].astype(np.float64), axis=0)
        delta[:-1, 3:6] = matrix_to_euler_xyz(rotation[1:] @ rotation[:-1].swapaxes(1, 2))
        delta[:-1, 6] = np.diff(gripper.astype(np.float64))
    return delta


def nonidle_ranges(joint_velocity: Float[np.ndarray, "t 7"]) -> list[tuple[int, int]]:
    """Return the steps worth training on, as (start, stop), chosen as openpi does.

    A step is idle if no joint's commanded velocity differs by 0.001 or more from the step before.
    Runs of 7 idle steps or more are dropped; of what is left, runs of 16 or more are kept, less
    their last 10 steps.
    """
    if not len(joint_velocity):
        return []
    still = (np.abs(np.diff(joint_velocity, axis=0)) < STILL).all(1)
    moving = np.ones(len(joint_velocity), bool)
    for start, stop in _runs(np.concatenate([[False], still])):
        moving[start:stop] = stop - start < IDLE_RUN
    return [(start, stop - TAIL) for start, stop in _runs(moving) if stop - start >= KEPT_RUN]


def _runs(flags: Bool[np.ndarray, " t"]) -> list[tuple[int, int]]:
    """Return where runs of true values start and stop."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
