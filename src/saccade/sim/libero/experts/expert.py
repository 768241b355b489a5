"""The scripted expert of LIBERO: it takes the goals of a task one by one until they hold."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from saccade.errors import ConfigError
from saccade.sim.libero.experts.fixtures import close_drawer, open_drawer, push, turn_on
from saccade.sim.libero.experts.motion import OPEN, Action, Hand, Moves
from saccade.sim.libero.experts.skills import put
from saccade.sim.libero.experts.world import Goal, Vector, World

ORDER = {"open": 0, "turnon": 1, "in": 2, "on": 2, "close": 3}
SPREAD = 0.7  # of a region's half size: how far from its middle things go that share it


def has_skill(goal: Goal) -> bool:
    """Whether the expert knows what to do for a goal; of what opens and closes, for drawers."""
    return goal[0] in ORDER and (goal[0] not in ("open", "close") or "region" in goal[1])


class Expert:
    """Yields one action after another for ever; the caller takes the step in between.

    Args:
        env: LIBERO's ``ControlEnv``, after a reset.
        rng: draws the noise.
        noise: deviation of what is added to x, y and z of every action (1 is 0.05 m).
    """

    def __init__(self, env: Any, rng: np.random.Generator, noise: float = 0.0) -> None:
        self.world = World(env)
        self.hand = Hand(self.world, rng, noise)

    def __iter__(self) -> Iterator[Action]:
        """Work on the first goal that does not hold, again and again; then rest."""
        while True:
            open_goals = [goal for goal in self.world.goals() if not self.world.holds(goal)]
            if open_goals:
                yield from self.pursue(min(open_goals, key=lambda goal: ORDER.get(goal[0], 9)))
            else:
                yield from self.hand.hold(None, OPEN, 1)

    def pursue(self, goal: Goal) -> Moves:
        """Do what leads to one goal.

        Raises:
            ConfigError: the expert has no skill for it.
        """
        if not has_skill(goal):
            told = f"({' '.join(goal)})"
            raise ConfigError(f"the expert has no skill for {told}; leave this task out")
        if goal[0] in ("in", "on"):
            yield from self._put(goal[1], goal[2])
        else:
            skill = {"open": open_drawer, "close": close_drawer, "turnon": turn_on}[goal[0]]
            yield from skill(self.hand, goal[1])

    def _put(self, name: str, place: str) -> Moves:
        drawer = "region" in place and self.world.joint(place) is not None
        if drawer and not self.world.holds(("open", place)):
            yield from open_drawer(self.hand, place)
        if name.startswith("plate"):
            yield from push(self.hand, name, place)
        else:
            yield from put(self.hand, name, place, self._aside(name, place))

    def _aside(self, name: str, place: str) -> Vector:
        """Return where on a place that several objects share this one goes, from the middle."""
        sharing = [
            goal[1] for goal in self.world.goals() if goal[0] == "on" and goal[2:] == (place,)
        ]
        aside = np.zeros(3)
        if len(sharing) > 1:
            narrow = int(np.argmin(np.ptp(self.world.solid(name).corners()[:, :2], axis=0)))
            share = np.linspace(-1, 1, len(sharing))[sharing.index(name)]
            aside[narrow] = SPREAD * share * self.world.half_size(place)[narrow]
        return aside
