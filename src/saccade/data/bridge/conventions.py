"""What Bridge V2's numbers mean, in every form of it.

A state is where the gripper is in the robot's base: x, y, z in m, extrinsic xyz Euler angles in
rad, and how far it is open, 1 to 0. An action is the commanded change of the six, and whether the
gripper shall be open (1) or closed (0), at 5 Hz. What ``features.json`` says of both is wrong.
https://github.com/rail-berkeley/bridge_data_v2 (issue 26 for the units)
"""

from pathlib import PurePosixPath
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32

Action = Literal["commanded", "relabelled"]

FPS = 5.0
NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
OPEN, CLOSED = 0.95, 0.05  # beyond which a command of the gripper counts as one of these


def measured_motion(state: Float[np.ndarray, "t 7"]) -> Float[np.ndarray, "n 6"]:
    """Return the change of position and Euler angles from each frame to the next.

    Angles are subtracted as they are, as OpenVLA and Octo do: a step across 180 degrees shows as
    one of almost 360. https://github.com/openvla/openvla/issues/114
    """
    return state[1:, :6] - state[:-1, :6]


def with_last(
    action: Float32[np.ndarray, "n 7"], state: Float32[np.ndarray, "t 7"]
) -> Float32[np.ndarray, "t 7"]:
    """Append an action for the last frame, where none was recorded: no motion.

    The gripper stays as it was commanded before; if it never was, as it was measured.
    """
    missing = len(state) - len(action)
    last = np.zeros((missing, 7), np.float32)
    if missing:
        last[:, 6] = action[-1, 6] if len(action) else state[-1, 6]
    return np.concatenate([action, last])


def binary(gripper: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    """Return commands of the gripper as 0 or 1, as OpenVLA does.

    What is in between becomes what comes next of the two; where neither comes, the last value.
    """
    decided = np.where(gripper > OPEN, 1.0, np.where(gripper < CLOSED, 0.0, np.nan))
    found, following = decided.copy(), gripper[-1] if len(gripper) else 0.0
    for t in reversed(range(len(gripper))):
        following = found[t] = following if np.isnan(decided[t]) else decided[t]
    return found.astype(gripper.dtype)


def scene(path: str) -> str:
    """Return institution and environment from ``.../<environment>/<task>/<id>/<split>/out.npy``."""
    return "/".join(PurePosixPath(path).parts[:-4][-2:])
