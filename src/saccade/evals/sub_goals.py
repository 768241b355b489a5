"""Sub-goals of a recorded episode, pursued in imagination: where would the plans have led?

The model is shown the first frame only. It plans towards the frame that the robot saw some steps
later, believes what it imagines, and goes on to the next frame. Where the hand would be by then is
compared with where it was. Floors: standing still, and random actions in the planner's box.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from saccade.errors import ConfigError, DataError
from saccade.evals.calibration import POSITION
from saccade.evals.energy import evaluating
from saccade.evals.planners import Planner, generator_of
from saccade.evals.planning import Moment, SubGoal, mean_over_episodes, plan_through
from saccade.types import WorldModel

FLOORS = ("still", "random")


class Chased(NamedTuple):
    """Distance (m) at each sub-goal of the hand from where it was; one row for each episode."""

    episode: np.ndarray
    planned: Float64[np.ndarray, "e g"]
    still: Float64[np.ndarray, "e g"]
    random: Float64[np.ndarray, "e g"]
    seconds: float  # of all plans
    plans: int


def chase(
    model: WorldModel,
    planner: Planner,
    places: Sequence[Moment],
    steps: Sequence[int],
    seed: int = 0,
    warm_start: bool = False,
    frames: int = 1,
    tell: Callable[[int], None] = lambda _: None,
) -> Chased:
    """Pursue the frames of an episode that lie ``steps`` apart; each plan is one action of them.

    Args:
        model: its states must be moved by its actions.
        planner: plans before each action.
        places: episodes, each as a moment that looks back on all the frames in question.
        steps: actions to spend on each sub-goal, and so how far apart they are.
        seed: of the planner's and of the random floor's numbers.
        warm_start: start each search from the plan before.
        frames: how many of the latest frames the model looks back on.
        tell: is told how many episodes are done.

    Raises:
        ConfigError: no step, a count below 1, or a model whose states are not moved.
        DataError: no episode is long enough.
    """
    if not steps or min(steps) < 1:
        raise ConfigError(f"sub-goals are {list(steps)} steps apart; give counts of at least 1")
    if not places:
        raise DataError(f"no episode has the {sum(steps)} steps of the sub-goals; give fewer")
    stops = np.cumsum(steps)
    rows: dict[str, list[Float64[np.ndarray, " g"]]] = {"planned": [], "still": [], "random": []}
    seconds = 0.0
    for done, place in enumerate(places):
        tell(done)
        with evaluating(model), torch.no_grad():
            start = model.look(place.features[:1], place.state[:1], place.earlier[:0])
        goals = [SubGoal(place.features[i], n) for i, n in zip(stops, steps, strict=True)]
        generator = generator_of(seed, place.episode, place.start)
        plans = plan_through(model, planner, start, goals, generator, frames, warm_start)
        seconds += sum(plan.seconds for plan in plans)
        taken = torch.stack([plan.actions[0] for plan in plans])
        chance = _anywhere(planner, model, len(taken), generator_of(seed, place.episode, 1))
        paths = {"planned": taken, "still": torch.zeros_like(taken), "random": chance.to(taken)}
        for name, actions in paths.items():
            rows[name].append(_apart(model, place.state, actions, stops))
    tell(len(places))
    found = {name: np.stack(parts) for name, parts in rows.items()}
    episodes = np.array([place.episode for place in places])
    return Chased(episodes, **found, seconds=seconds, plans=len(places) * sum(steps))


def _anywhere(
    planner: Planner, model: WorldModel, steps: int, generator: torch.Generator
) -> Float[Tensor, "k a"]:
    box = planner.limits.space(model.action_names, steps)
    return box.clip((2 * torch.rand(box.limit.shape, generator=generator) - 1) * box.limit)


def _apart(
    model: WorldModel,
    logged: Float[Tensor, "t s"],
    actions: Float[Tensor, "k a"],
    stops: np.ndarray,
) -> Float64[np.ndarray, " g"]:
    """Move the first state by the actions; measure how far it is from the logged ones."""
    columns = [model.state_names.index(name) for name in POSITION if name in model.state_names]
    if len(columns) != len(POSITION):
        raise ConfigError(f"states {list(model.state_names)} have no x, y and z to be compared")
    state, path = logged[0], [logged[0]]
    for action in actions.to(logged):
        state = model.moved(state, action)
        path.append(state)
    if bool(actions.any()) and torch.equal(path[-1], path[0]):
        raise ConfigError(
            "the model holds its states, so imagined actions lead nowhere; sub-goals need a model "
            "whose states are composed"
        )
    apart = (torch.stack(path)[stops] - logged[stops])[:, columns]
    return apart.double().norm(dim=1).cpu().numpy()


def summarise(chased: Chased, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Average over episodes with 95 % intervals, as JSON values.

    ``scores[name][i]`` is the distance at sub-goal ``i`` of ``planned``, ``still`` and ``random``;
    ``better_by[floor]`` how much smaller the planner's is at the last one.
    """

    def mean(values: Float64[np.ndarray, " e"]) -> dict[str, Any]:
        return mean_over_episodes(values, chased.episode, resamples, seed)

    rows = {"planned": chased.planned, "still": chased.still, "random": chased.random}
    return {
        "episodes": len(np.unique(chased.episode)),
        "seconds_per_plan": chased.seconds / chased.plans,
        "scores": {name: [mean(column) for column in row.T] for name, row in rows.items()},
        "better_by": {name: mean(rows[name][:, -1] - chased.planned[:, -1]) for name in FLOORS},
    }
