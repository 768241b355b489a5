"""What a probe must predict: how the end effector moved, in a frame that the image determines.

    displacement   position p[t+g] - p[t] (m), the rotation vector of R[t+g] R[t]^T (rad),
                   gripper opening o[t+g] - o[t]
    action         position commands summed over the steps t .. t+g-1, in the controller's units,
                   and the last gripper command

Robot states live in the world (base) frame. A camera that may stand anywhere cannot tell that
frame's axes, so labels are turned into the camera's; the world variant is there to compare with
published numbers. Under one fixed camera the two differ by one rotation for all pairs, so linear
scores agree; they part when cameras differ between data sets.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float64

from saccade import geometry
from saccade.data.episodes import Episodes, state_groups
from saccade.errors import DataError
from saccade.evals.features import Pairs

Motion = Literal["displacement", "action"]
TOLERANCE = {"position": 0.01, "rotation": np.deg2rad(5.0), "gripper": 0.1}  # m, rad, opening
AXES = {
    "position": ("x", "y", "z"),
    "euler": ("roll", "pitch", "yaw"),
    "vector": ("rx", "ry", "rz"),
}


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
            seen = values if group == "gripper" else geometry.to_frame(turn, values)
            found.append(Target(group, "camera", seen, _tolerance(group, kind)))
    found += [
        Target(group, "world", values, _tolerance(group, kind)) for group, values in labels.items()
    ]
    return found


def _tolerance(group: str, kind: Motion) -> float | None:
    return TOLERANCE[group] if kind == "displacement" or group == "gripper" else None


def displacements(episodes: Episodes, pairs: Pairs) -> dict[str, Float64[np.ndarray, "n a"]]:
    """Return how far each group of the state moved over the gap, in the world frame."""
    before, after = [], []
    for episode, start in pairs.by_episode():
        state = episodes.read(episode, np.concatenate([start, start + pairs.gap]), ())["state"]
        first, second = np.split(state.double().numpy(), 2)
        before.append(first)
        after.append(second)
    old, new = np.concatenate(before), np.concatenate(after)
    labels = {}
    for group, columns in named_groups(episodes.state_names).items():
        if group in ("euler", "vector"):
            matrix = (
                geometry.euler_xyz_to_matrix
                if group == "euler"
                else geometry.rotation_vector_to_matrix
            )
            turned = geometry.rotation_between(matrix(old[:, columns]), matrix(new[:, columns]))
            labels["rotation"] = turned
        else:
            labels[group] = new[:, columns] - old[:, columns]
    return labels


def actions(episodes: Episodes, pairs: Pairs) -> dict[str, Float64[np.ndarray, "n a"]]:
    """Return the commands executed over the gap: summed positions, the last gripper."""
    groups = named_groups(episodes.action_names)
    summed, last = [], []
    for episode, start in pairs.by_episode():
        frames = np.arange(episodes.lengths[episode])
        action = episodes.read(episode, frames, ())["action"].double().numpy()
        total = np.concatenate([np.zeros((1, action.shape[1])), np.cumsum(action, 0)])
        summed.append(total[start + pairs.gap] - total[start])
        last.append(action[start + pairs.gap - 1])
    columns = {"position": np.concatenate(summed), "gripper": np.concatenate(last)}
    return {group: columns[group][:, groups[group]] for group in columns if group in groups}


def named_groups(names: Sequence[str]) -> dict[str, list[int]]:
    """Find position, euler or (rotation) vector, and gripper, each in the order of its axes.

    Raises:
        DataError: no group is there, or one has other axes than one arm's three.
    """
    last = [name.lower().rsplit(".", 1)[-1] for name in names]
    found: dict[str, list[int]] = {}
    for group, indices in state_groups(names).items():
        if group == "gripper":
            found[group] = indices
            continue
        held = sorted(last[i] for i in indices)
        kind = next((kind for kind, axes in AXES.items() if sorted(axes) == held), None)
        if kind is None:
            raise DataError(
                f"{group} is named {held}, a probe expects one arm's {list(AXES.values())}; "
                "name three axes, or leave them out of the state"
            )
        found[kind] = [last.index(axis) for axis in AXES[kind]]
    if not found:
        raise DataError(f"no position, rotation or gripper is named in {list(names)}; name them")
    return found
