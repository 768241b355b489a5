"""How an expert moves: a proportional controller on the actions of LIBERO's arm controller.

An action is a step of the commanded pose: 1 is 0.05 m or 0.5 rad (rotation vector, world frame).
The seventh number is the gripper, 1 open and 0 closed. A movement is a generator: it yields an
action, and reads the simulator again once the caller has taken the step.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, Float64

from saccade.sim.libero.experts.world import Rotation, Vector, World

Action = Float32[np.ndarray, "7"]
Moves = Iterator[Action]

OPEN, CLOSED = 1.0, 0.0
REACH, TURN = 0.05, 0.5  # metres and radians that an action of 1 stands for
GAIN, TURN_GAIN = 0.8, 0.6
NEAR = 0.03  # metres: within these, what keeps lacking is summed up
SUM_GAIN, MOST_SUM = 0.15, 0.8
WRIST_ROOM = 0.4  # radians to the limit of the wrist that a hand needs to be carried about
DOWN = np.array([0.0, 0.0, -1.0])
UP = -DOWN


class Hand:
    """Leads the hand of a robot; ``noise`` is the deviation of what is added to x, y and z."""

    def __init__(self, world: World, rng: np.random.Generator, noise: float = 0.0) -> None:
        self.world, self._rng, self._noise = world, rng, noise
        self._sum = np.zeros(3)

    @property
    def position(self) -> Vector:
        """Where the point between the finger tips is."""
        return self.world.hand()[0]

    @property
    def rotation(self) -> Rotation:
        """The axes of the hand, as columns."""
        return self.world.hand()[1]

    def towards(
        self,
        position: Vector,
        rotation: Rotation | None,
        grip: float,
        gain: float = GAIN,
        limit: float = 1.0,
    ) -> Action:
        """Return the action that leads towards a pose; without ``rotation`` the hand keeps its."""
        here, axes = self.world.hand()
        lack = (position - here) / REACH
        # The arm sags by up to a centimetre below what it is told: near the goal, sum that up.
        if np.abs(lack).max() < NEAR / REACH:
            self._sum = (self._sum + SUM_GAIN * lack).clip(-MOST_SUM, MOST_SUM)
        action = np.zeros(7)
        action[:3] = (gain * lack + self._sum).clip(-limit, limit)
        if rotation is not None:
            action[3:6] = (TURN_GAIN / TURN * vector(rotation @ axes.T)).clip(-1, 1)
        action[:3] = (action[:3] + self._rng.normal(0, self._noise, 3)).clip(-1, 1)
        action[6] = grip
        return action.astype(np.float32)

    def go(
        self,
        position: Vector,
        rotation: Rotation | None,
        grip: float,
        within: float = 0.008,
        steps: int = 60,
        limit: float = 1.0,
        gain: float = GAIN,
    ) -> Moves:
        """Go to a pose until the hand is ``within`` metres of it, for so many steps at most."""
        self.rest()
        for _ in range(steps):
            yield self.towards(position, rotation, grip, gain, limit)
            here, axes = self.world.hand()
            turned = rotation is None or np.linalg.norm(vector(rotation @ axes.T)) < 0.12
            if turned and np.linalg.norm(position - here) < within:
                return

    def hold(
        self, rotation: Rotation | None, grip: float, steps: int, position: Vector | None = None
    ) -> Moves:
        """Stay, for the fingers to close or to open."""
        place = self.position if position is None else position
        for _ in range(steps):
            yield self.towards(place, rotation, grip)

    def rest(self) -> None:
        """Forget what was summed up on the way to an earlier goal."""
        self._sum = np.zeros(3)

    def facing_down(self, angle: float) -> Rotation:
        """Return axes of a hand that points down and closes along ``angle``, by the nearer turn."""
        axes = self.rotation
        now = np.arctan2(axes[1, 0], axes[0, 0])
        angle = now + (angle - now + np.pi / 2) % np.pi - np.pi / 2
        close = np.array([np.cos(angle), np.sin(angle), 0.0])
        return np.stack([close, np.cross(DOWN, close), DOWN], 1)

    def pointing(self, way: Vector, close: Vector) -> Rotation:
        """Return axes of a hand that points along ``way`` and closes along ``close`` or against it.

        Of the two it is the one nearer to now, unless that takes the wrist close to its limit,
        where a hand that is carried elsewhere gets stuck.
        """
        axes, (wrist, limit) = self.rotation, self.world.wrist()
        if close @ axes[:, 0] < 0:
            close = -close
        turn = np.arctan2(close @ axes[:, 1], close @ axes[:, 0])
        if abs(wrist + turn) > limit - WRIST_ROOM:
            close = -close
        return np.stack([close, np.cross(way, close), way], 1)


def about_z(angle: float) -> Rotation:
    """Return a rotation about the vertical."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])


def vector(rotation: Float64[np.ndarray, "3 3"]) -> Vector:
    """Return the rotation vector of a rotation: its axis, as long as its angle."""
    angle = np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))
    if angle < 1e-6:
        return np.zeros(3)
    if np.pi - angle < 1e-4:  # half a turn: the axis is what R + I keeps
        return np.linalg.eigh((rotation + rotation.T) / 2)[1][:, -1] * angle
    skew = (rotation - rotation.T)[[2, 0, 1], [1, 2, 0]]
    return skew / (2 * np.sin(angle)) * angle
