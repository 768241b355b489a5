"""What a probe must predict: how the end effector moved, in a frame that the image determines.

    displacement   position p[t+g] - p[t] (m), the rotation vector of R[t+g] R[t]^T (rad),
                   gripper opening o[t+g] - o[t]
    action         position commands summed over the steps t .. t+g-1, in the controller's units,
                   and the last gripper command

Robot states live in the world (base) frame. A camera that may stand anywhere cannot tell that
frame's axes, so labels are turned into the camera's; the world variant is there to compare with
published numbers. Under one fixed camera the two differ by one rotation for all pairs, so linear
scores agree; they part when cameras differ between data sets.

Where the state has several bodies (two hands and their finger tips), those that have a rotation
are predicted together, all of them where none has one; the tolerance bounds the joint error.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float64

from saccade import geometry
from saccade.data.episodes import Episodes
from saccade.errors import DataError
from saccade.evals.features import Pairs

Motion = Literal["displacement", "action"]
TOLERANCE = {"position": 0.01, "rotation": np.deg2rad(5.0), "gripper": 0.1}  # m, rad, opening
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
Body = dict[str, list[int]]  # kind of AXES -> the columns of the state that hold its axes


class Target(NamedTuple):
    """The labels of one group in one frame; ``tolerance`` bounds the error that counts as right.

    ``tolerance`` is None where the unit is a controller's own.
    """

    group: str
    frame: Literal["camera", "world"]
    values: Float64[np.ndarray, "n a"]
    tolerance: float | None


def targets(episodes: Episodes, pairs: Pairs, camera: str, kind: Motion) -> list[Target]:
    """Label every pair, in the camera frame where it is known, and in the world frame.

    Raises:
        DataError: the data names no position, rotation or gripper, or only part of one, or a
            label is not finite.
    """
    labels = displacements(episodes, pairs) if kind == "displacement" else actions(episodes, pairs)
    for group, values in labels.items():
        bad = pairs.episode[~np.isfinite(values).all(1)]
        if len(bad):
            raise DataError(f"{group} of episode {bad[0]} is not finite; leave that episode out")
    found: list[Target] = []
    if camera in episodes.world_to_camera:
        turn = episodes.world_to_camera[camera]
        for group, values in labels.items():
            vectors = values if group == "gripper" else values.reshape(len(values), -1, 3)
            seen = values if group == "gripper" else geometry.to_frame(turn, vectors)
            seen = seen.reshape(values.shape)
            found.append(Target(group, "camera", seen, _tolerance(group, kind, values)))
    found += [
        Target(group, "world", values, _tolerance(group, kind, values))
        for group, values in labels.items()
    ]
    return found


def _tolerance(group: str, kind: Motion, values: Float64[np.ndarray, "n a"]) -> float | None:
    if kind == "action" and group != "gripper":
        return None
    bodies = 1 if group == "gripper" else values.shape[1] // 3
    return TOLERANCE[group] * bodies**0.5


def displacements(episodes: Episodes, pairs: Pairs) -> dict[str, Float64[np.ndarray, "n a"]]:
    """Return how far each group of the state moved over the gap, in the world frame."""
    before, after = [], []
    for episode, start in pairs.by_episode():
        state = episodes.read(episode, np.concatenate([start, start + pairs.gap]), ())["state"]
        first, second = np.split(state.double().numpy(), 2)
        before.append(first)
        after.append(second)
    old, new = np.concatenate(before), np.concatenate(after)
    bodies, gripper = moving(episodes.state_names)
    labels: dict[str, list[Float64[np.ndarray, "n a"]]] = {}
    for body in bodies:
        for kind, columns in body.items():
            if kind == "position":
                labels.setdefault(kind, []).append(new[:, columns] - old[:, columns])
            else:
                first, second = MATRIX[kind](old[:, columns]), MATRIX[kind](new[:, columns])
                turned = geometry.rotation_between(first, second)
                labels.setdefault("rotation", []).append(turned)
    if gripper:
        labels["gripper"] = [new[:, gripper] - old[:, gripper]]
    return {group: np.concatenate(values, 1) for group, values in labels.items()}


def actions(episodes: Episodes, pairs: Pairs) -> dict[str, Float64[np.ndarray, "n a"]]:
    """Return the commands executed over the gap: summed positions, the last gripper."""
    bodies, gripper = moving(episodes.action_names)
    position = [column for body in bodies for column in body.get("position", ())]
    summed, last = [], []
    for episode, start in pairs.by_episode():
        frames = np.arange(episodes.lengths[episode])
        action = episodes.read(episode, frames, ())["action"].double().numpy()
        total = np.concatenate([np.zeros((1, action.shape[1])), np.cumsum(action, 0)])
        summed.append(total[start + pairs.gap] - total[start])
        last.append(action[start + pairs.gap - 1])
    labels = {
        "position": np.concatenate(summed)[:, position],
        "gripper": np.concatenate(last)[:, gripper],
    }
    return {group: values for group, values in labels.items() if values.shape[1]}


def moving(names: Sequence[str]) -> tuple[list[Body], list[int]]:
    """Find the bodies that a probe is asked about, and the grippers, by the names of a state.

    Raises:
        DataError: none is there, or a body has some axes of a position or rotation, not all.
    """
    gripper, axes = [], {}
    for index, name in enumerate(names):
        body, _, axis = name.lower().rpartition(".")
        if "gripper" in axis:
            gripper.append(index)
        elif any(axis in known for known in AXES.values()):
            if axis in axes.setdefault(body, {}):
                raise DataError(f"{name} is named twice in {list(names)}; name each body apart")
            axes[body][axis] = index
    bodies = [_body(name, held) for name, held in axes.items()]
    oriented = [body for body in bodies if body.keys() != {"position"}]
    if not bodies and not gripper:
        raise DataError(f"no position, rotation or gripper is named in {list(names)}; name them")
    return oriented or bodies, gripper


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
