"""How far bodies moved between two frames of an episode, in the world: measured or commanded.

``displacement``, ``action`` and ``hand`` look at what a data set names, once, and return what
measures any of its episodes.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int

from saccade import geometry
from saccade.data.episodes import Episodes
from saccade.errors import ConfigError, DataError
from saccade.evals.bodies import Layout, Poses, kinds, layout, poses, rotations

Motion = Literal["displacement", "action", "hand"]
HAND = {  # what a joint is called here, and in a state after its side
    "wrist": "hand",
    "thumb": "thumb_tip",
    "index": "index_finger_tip",
    "middle": "middle_finger_tip",
    "ring": "ring_finger_tip",
    "little": "little_finger_tip",
}
LOOKED_AT = 8  # episodes, to tell what actions are
OPTIONS = "state=cartesian and action=cartesian for DROID, state=eef for LIBERO"

Groups = dict[str, Float64[np.ndarray, "n _"]]
Motions = Float64[np.ndarray, "n 3"]
Rows = Int[np.ndarray, " n"]
Measure = Callable[[int, Rows, Rows], Groups]  # of an episode, from some frames to others


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What to predict.

    Args:
        motion: displacement, action or hand.
        side: of the hand.
        confidence: of each joint of the hand, in both frames, below which a clip is left out
            (that of a finger times that of its wrist); 0 keeps all, and needs none to be stored.
        commands: what actions are, where the data do not say it: ``steps`` from where the body
            is, or ``goals`` to reach. "" takes what the data say, or else ``steps``, and refuses
            those that look like goals.
    """

    motion: Motion = "displacement"
    side: Literal["right", "left"] = "right"
    confidence: float = 0.3
    commands: Literal["steps", "goals", ""] = ""


def displacement(episodes: Episodes, labels: Labels) -> Measure:
    """Measure how far each group of the state moves."""
    known = _effector(episodes, "state")

    def measure(episode: int, start: Rows, end: Rows) -> Groups:
        before, after = _states(episodes, known, episode, start, end)
        return _groups(*_moved(known.acting, before, after), after.gripper - before.gripper)

    return measure


def _moved(
    bodies: Sequence[str], before: Poses, after: Poses
) -> tuple[list[Motions], list[Motions]]:
    """Return displacements and rotation vectors of bodies from one pose to another."""
    places = [after.position[b] - before.position[b] for b in bodies if b in after.position]
    turns = [
        geometry.rotation_between(before.rotation[b], after.rotation[b])
        for b in bodies
        if b in after.rotation
    ]
    return places, turns


def _groups(
    position: list[Motions], rotation: list[Motions], gripper: Float64[np.ndarray, "n _"]
) -> Groups:
    """Put the bodies of each group side by side; leave out groups that nothing belongs to."""
    parts = {"position": position, "rotation": rotation, "gripper": [gripper]}
    groups = {name: np.concatenate(found, 1) for name, found in parts.items() if found}
    return {name: values for name, values in groups.items() if values.shape[1]}


def hand(episodes: Episodes, labels: Labels) -> Measure:
    """Measure how far the wrist and the finger tips of a hand move."""
    known = layout(episodes.state_names)
    joints = {name: f"{labels.side}_{joint}" for name, joint in HAND.items()}
    lacking = [j for j in joints.values() if "position" not in known.bodies.get(j, {})]
    if lacking:
        raise DataError(
            f"the state of {episodes.fingerprint} names no position of {', '.join(lacking)}; a "
            "probe of hands takes EgoDex with state=hands, others take the displacement"
        )

    def measure(episode: int, start: Rows, end: Rows) -> Groups:
        before, after = _states(episodes, known, episode, start, end)
        moved = {n: after.position[j] - before.position[j] for n, j in joints.items()}
        return {"hand": np.concatenate(list(moved.values()), 1), **moved}

    return measure


def confident(
    episodes: Episodes, episode: int, start: Rows, end: Rows, labels: Labels
) -> Bool[np.ndarray, " n"]:
    """Tell which clips have every joint of the hand seen well enough at both ends."""
    sure = np.ones(len(start), bool)
    for joint in HAND.values():
        shares = episodes.confidences(
            episode, f"{labels.side}_{joint}", np.concatenate([start, end])
        )
        if shares is None:
            raise DataError(
                f"episode {episode} of {episodes.fingerprint} has no confidences; leave it out, "
                "or give a confidence of 0 to keep every clip"
            )
        sure &= (shares.reshape(2, -1) >= labels.confidence).all(0)
    return sure


def action(episodes: Episodes, labels: Labels) -> Measure:
    """Measure what was commanded: steps that add up, or goals."""
    known = _effector(episodes, "action")
    if commands(episodes, labels) == "goals":
        return _goals(episodes, known)
    if not episodes.conventions.commands and not labels.commands:
        _refuse_goals(episodes)
    said = episodes.conventions
    bodies = [known.bodies[name] for name in known.acting]

    def measure(episode: int, start: Rows, end: Rows) -> Groups:
        frames = np.arange(episodes.lengths[episode])
        steps = episodes.read(episode, frames, ())["action"].double().numpy()
        total = np.concatenate([np.zeros((1, steps.shape[1])), np.cumsum(steps, 0)])
        summed = total[end] - total[start]
        places = [summed[:, body["position"]] for body in bodies if "position" in body]
        turns = [rotations(body, steps, said.radians) for body in bodies]
        return _groups(
            [place * (said.metres or 1.0) for place in places],
            [_composed(turn, start, end) for turn in turns if turn is not None],
            poses(known, steps[end - 1]).gripper,
        )

    return measure


def _composed(
    turn: Float64[np.ndarray, "t 3 3"], start: Rows, end: Rows
) -> Float64[np.ndarray, "n 3"]:
    """Turn by each step's rotation, one after the other, about the fixed axes of the base."""
    total = np.tile(np.eye(3), (len(start), 1, 1))
    for step in range(int((end - start).max())):  # of all clips the same
        total = turn[start + step] @ total
    return geometry.matrix_to_rotation_vector(total)


def _goals(episodes: Episodes, known: Layout) -> Measure:
    """Measure from where bodies are to where the last command of a clip sends them."""
    state = layout(episodes.state_names)
    for name in known.acting:
        lacking = kinds(known.bodies[name]) - kinds(state.bodies.get(name, {}))
        if lacking:
            raise DataError(
                f"actions of {episodes.fingerprint} are goals, and its state names no "
                f"{' or '.join(sorted(lacking))} of {name or 'the hand'} to start from; open the "
                f"data with its pose ({OPTIONS})"
            )

    def measure(episode: int, start: Rows, end: Rows) -> Groups:
        before = poses(state, *_read(episodes, episode, start, "state"))
        asked = poses(known, *_read(episodes, episode, end - 1, "action"))
        return _groups(*_moved(known.acting, before, asked), asked.gripper)

    return measure


def _read(
    episodes: Episodes, episode: int, frames: Rows, kind: Literal["state", "action"]
) -> tuple[Float64[np.ndarray, "n s"], Float64[np.ndarray, "n 4 4"] | None]:
    """Load states or actions, and the poses of the camera in whose frame they are."""
    values = episodes.read(episode, frames, ())[kind].double().numpy()
    camera = episodes.conventions.camera
    if not camera:
        return values, None
    seen = episodes.camera_poses(episode, camera)
    if seen is None:
        raise DataError(
            f"episode {episode} of {episodes.fingerprint} has states in the frame of {camera!r} "
            "and no pose of it; leave it out"
        )
    return values, seen[frames]


def _states(
    episodes: Episodes, known: Layout, episode: int, start: Rows, end: Rows
) -> tuple[Poses, Poses]:
    """Return where bodies are at the first frames and at the last ones, read in one go."""
    whole = poses(known, *_read(episodes, episode, np.concatenate([start, end]), "state"))
    halves = [
        Poses(
            {name: values[part] for name, values in whole.position.items()},
            {name: values[part] for name, values in whole.rotation.items()},
            whole.gripper[part],
        )
        for part in (slice(None, len(start)), slice(len(start), None))
    ]
    return halves[0], halves[1]


def _effector(episodes: Episodes, kind: Literal["state", "action"]) -> Layout:
    """Find the bodies of a state or action.

    Raises:
        DataError: it names none, or part of one.
    """
    names = episodes.state_names if kind == "state" else episodes.action_names
    known = layout(names)
    if known.bodies:
        return known
    mend = f"open the data with its pose ({OPTIONS}), or name its axes x, y and z"
    if not names:
        mend = "take the displacement" if episodes.state_names else "take probes of pixels alone"
    raise DataError(
        f"the {kind} of {episodes.fingerprint} names no position or rotation of an end effector, "
        f"only {_listed(names)}; {mend}"
    )


def _listed(names: Collection[str]) -> str:
    return ", ".join([*islice(names, 8), *(["..."] if len(names) > 8 else [])]) or "nothing"


def commands(episodes: Episodes, labels: Labels) -> Literal["steps", "goals"]:
    """Say what actions are.

    Raises:
        ConfigError: the labels say otherwise than the data.
    """
    said, asked = episodes.conventions.commands, labels.commands
    if said and asked and said != asked:
        raise ConfigError(
            f"actions of {episodes.fingerprint} are {said}, not {asked}; leave commands out"
        )
    return said or asked or "steps"


def _refuse_goals(episodes: Episodes) -> None:
    """Refuse actions that lie near where the body is next: they cannot be summed.

    Raises:
        DataError: they do.
    """
    asked, state = layout(episodes.action_names), layout(episodes.state_names)
    common = [n for n in asked.acting if "position" in asked.bodies[n] and n in state.bodies]
    for name in (n for n in common if "position" in state.bodies[n]):
        goals, reached = [], []
        for episode in range(min(len(episodes.lengths), LOOKED_AT)):
            frames = episodes.read(episode, np.arange(episodes.lengths[episode]), ())
            goals.append(frames["action"].double().numpy()[:-1, asked.bodies[name]["position"]])
            reached.append(frames["state"].double().numpy()[1:, state.bodies[name]["position"]])
        found, away = np.concatenate(reached), np.concatenate(goals) - np.concatenate(reached)
        if len(found) < 2:
            continue
        spread = np.linalg.norm(found - found.mean(0), axis=1).mean()
        if np.linalg.norm(away, axis=1).mean() < 0.5 * spread:
            raise DataError(
                f"actions of {episodes.fingerprint} lie where {name or 'the hand'} is at the next "
                "frame, so they are no steps to be summed; give commands=goals"
            )


MEASURES: dict[Motion, Callable[[Episodes, Labels], Measure]] = {
    "displacement": displacement,
    "action": action,
    "hand": hand,
}
