"""What a probe must predict: how an end effector moved, in a frame that the image determines.

    displacement   position p[t+g] - p[t] (m), the rotation vector of R[t+g] R[t]^T (rad),
                   gripper opening o[t+g] - o[t]
    action         the commands at t .. t+g-1. Steps: positions summed (m, or the controller's
                   units where no metres are known), rotations composed (rad). Goals: from where
                   the body is at t to where the last command sends it (m, rad). The gripper is
                   the last one commanded
    hand           p[t+g] - p[t] of one wrist and its five finger tips (m): all together, and each

Robot states live in the world (or base) frame. A camera that may stand anywhere cannot tell that
frame's axes, so labels are turned into the camera's as it is at t: R_cam(t) (p[t+g] - p[t]). Both
ends of a motion are seen from one place, so a camera's own motion, such as a head's, is no part of
the label. The world variant is there to compare with published numbers: EgoDex's were all taken
so, in a frame whose directions differ from recording to recording and that no picture tells.
Under one fixed camera the two differ by one rotation for all clips, so linear scores agree; they
part when the camera moves, or stands elsewhere in another episode.

Where the state has several bodies (two hands and their finger tips), those that have a rotation
are predicted together, all of them where none has one; the tolerance bounds the joint error.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

from saccade.data.episodes import Episodes
from saccade.errors import ConfigError, DataError
from saccade.evals.clips import Clips
from saccade.evals.motions import MEASURES, Groups, Labels, commands, confident

Unit = Literal["m", "rad", "opening", "controller"]
TOLERANCE: dict[Unit, float] = {"m": 0.01, "rad": float(np.deg2rad(5.0)), "opening": 0.1}
STILL = 1e-6  # of any unit: labels that are all below it are rounding, and become zero
UNSEEN = "confidence too low"
UNPLACED = "camera pose unknown"


class Target(NamedTuple):
    """The labels of one group in one frame; ``tolerance`` bounds the error that counts as right.

    ``tolerance`` is None for commands, which nothing needs to reach, except the gripper's.
    """

    group: str
    frame: Literal["camera", "world"]
    values: Float64[np.ndarray, "n a"]
    tolerance: float | None
    unit: Unit


class Labelled(NamedTuple):
    """The clips that could be labelled, their labels, and how many were left out and why."""

    clips: Clips
    targets: list[Target]
    left_out: dict[str, int]


def targets(
    episodes: Episodes, clips: Clips, camera: str, labels: Labels | None = None
) -> Labelled:
    """Label clips, in the camera frame where it is known, and in the world frame.

    Clips of episodes without the camera's pose are left out where others have it, so that both
    frames score the same clips.

    Raises:
        ConfigError: a confidence that cannot be.
        DataError: the data name no such body, or part of one; a label is not finite; or no clip
            is left.
    """
    labels = labels or Labels()
    if not 0 <= labels.confidence <= 1:
        raise ConfigError(f"confidence is {labels.confidence}, expected a share from 0 to 1")
    groups, turns, sure = _measured(episodes, clips, camera, labels)
    placed = np.isin(clips.episode, list(turns)) if turns else np.ones_like(sure)
    kept = np.flatnonzero(sure & placed)
    reasons = {UNSEEN: int((~sure).sum()), UNPLACED: int((sure & ~placed).sum())}
    left_out = {reason: count for reason, count in reasons.items() if count}
    if not len(kept):
        raise DataError(
            f"none of {len(sure)} clips of {episodes.fingerprint} has a label ({left_out}); lower "
            "the confidence, or take other episodes"
        )
    world = {
        name: _scattered(clips, {episode: known[name] for episode, known in groups.items()})[kept]
        for name in next(iter(groups.values()))
    }
    found = [_target("world", name, values, labels, episodes) for name, values in world.items()]
    if turns:
        turn = _scattered(clips, turns)[kept]
        found = [
            _target("camera", name, _turned(name, values, turn), labels, episodes)
            for name, values in world.items()
        ] + found
    return Labelled(clips.taken(kept) if len(kept) < len(sure) else clips, found, left_out)


def check_alike(parts: Mapping[str, Labelled]) -> None:
    """Refuse parts of which one has labels that another lacks, such as those of its camera.

    Raises:
        DataError: it names the parts and the labels.
    """
    had = {
        part: [(t.frame, t.group, t.values.shape[1]) for t in known.targets]
        for part, known in parts.items()
    }
    (first, expected), *others = had.items()
    for part, found in others:
        if found != expected:
            frame, group, _ = next(iter(set(found) ^ set(expected)))
            raise DataError(
                f"only one of the parts {first!r} and {part!r} has the {group} in the {frame} "
                "frame; give each part episodes whose camera's pose is known, or another camera"
            )


def _measured(
    episodes: Episodes, clips: Clips, camera: str, labels: Labels
) -> tuple[dict[int, Groups], dict[int, Float64[np.ndarray, "_ 3 3"]], Bool[np.ndarray, " clips"]]:
    """Return labels in the world and rotations of the camera by episode, and clips to rely on."""
    measure = MEASURES[labels.motion](episodes, labels)
    groups, turns, sure = {}, {}, np.ones(len(clips.start), bool)
    for episode in np.unique(clips.episode).tolist():
        rows = clips.episode == episode
        start = np.asarray(clips.start[rows], np.int64)
        groups[episode] = _finite(episode, measure(episode, start, start + clips.gap))
        turn = episodes.camera_rotations(episode, camera, start)
        if turn is not None:
            turns[episode] = turn
        if labels.motion == "hand" and labels.confidence:
            sure[rows] = confident(episodes, episode, start, start + clips.gap, labels)
    return groups, turns, sure


def _finite(episode: int, groups: Groups) -> Groups:
    for group, values in groups.items():
        if not np.isfinite(values).all():
            raise DataError(f"{group} of episode {episode} is not finite; leave that episode out")
    return groups


def _scattered(
    clips: Clips, parts: Mapping[int, Float64[np.ndarray, "_ *a"]]
) -> Float64[np.ndarray, "n *a"]:
    """Put what was found episode by episode where the clips are; zeros where nothing was."""
    shape = next(iter(parts.values())).shape[1:]
    whole = np.zeros((len(clips.episode), *shape))
    for episode, part in parts.items():
        whole[clips.episode == episode] = part
    return whole


def _turned(
    name: str, values: Float64[np.ndarray, "n a"], turn: Float64[np.ndarray, "n 3 3"]
) -> Float64[np.ndarray, "n a"]:
    """Express displacements and rotation vectors in each clip's camera frame."""
    if name == "gripper":
        return values
    vectors = values.reshape(len(values), -1, 3)
    return np.einsum("nij,nbj->nbi", turn, vectors).reshape(values.shape)


def _target(
    frame: Literal["camera", "world"],
    name: str,
    values: Float64[np.ndarray, "n a"],
    labels: Labels,
    episodes: Episodes,
) -> Target:
    if np.abs(values).max() < STILL:
        values = np.zeros_like(values)  # a score of it would be one of rounding
    unit: Unit = "opening" if name == "gripper" else "rad" if name == "rotation" else "m"
    summed = labels.motion == "action" and commands(episodes, labels) == "steps"
    if name == "position" and summed and not episodes.conventions.metres:
        unit = "controller"
    if labels.motion == "action" and name != "gripper":
        return Target(name, frame, values, None, unit)
    bodies = values.shape[1] // (1 if name == "gripper" else 3)
    return Target(name, frame, values, TOLERANCE[unit] * bodies**0.5, unit)
