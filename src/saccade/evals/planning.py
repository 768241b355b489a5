"""Offline planning error: does a planner find the action that the robot took?

At many moments of held-out episodes the planner is shown where the robot was and what it saw
next, and its actions are compared with the logged ones. Floors say what the numbers are worth:
standing still, the mean action of the training data, a random action in the planner's box, and
doing again what was done last. Moments of one episode are near-copies: the unit of resampling is
the episode.

Errors are of the summed actions of a plan (the displacement), as in jepa-wms
(github.com/facebookresearch/jepa-wms), whose action score is reported beside.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from saccade.data.episodes import POSITION
from saccade.errors import ConfigError, DataError
from saccade.evals import statistics
from saccade.evals.energy import evaluating
from saccade.evals.planners import Plan, Planner, generator_of
from saccade.evals.statistics import Statistic
from saccade.types import Context, WorldModel

STILL = 0.01  # metres: below it a true displacement has no direction worth scoring
GRIPS = 0.1  # below it the gripper did not move


class Moment(NamedTuple):
    """A place in a recorded episode: what was seen, what was done, and what was seen then."""

    episode: int
    start: int
    features: Float[Tensor, "t n d"]  # the last one is the present
    state: Float[Tensor, "t s"]
    earlier: Float[Tensor, "j a"]  # the t - 1 actions between them
    last: Float[Tensor, " a"] | None  # the action before the present; none at an episode's start
    action: Float[Tensor, "k a"]  # the truth
    goal: Float[Tensor, "n d"]  # what was seen after it

    def look(self, model: WorldModel) -> Context:
        """Prepare to imagine what comes next."""
        with evaluating(model), torch.no_grad():
            return model.look(self.features, self.state, self.earlier)


def moments(
    features: Float[Tensor, "t n d"],
    state: Float[Tensor, "t s"],
    action: Float[Tensor, "j a"],
    episode: int,
    *,
    context: int = 1,
    horizon: int = 1,
    stride: int = 1,
) -> Iterator[Moment]:
    """Walk through an episode given in the model's steps: ``j = t - 1`` actions between frames.

    Raises:
        DataError: not one action fewer than frames.
        ConfigError: a count below 1.
    """
    if not len(features) == len(state) == len(action) + 1:
        raise DataError(
            f"episode {episode} has {len(features)} frames, {len(state)} states and {len(action)} "
            "actions; a frame and a state are needed before each action and after the last"
        )
    if min(context, horizon, stride) < 1:
        raise ConfigError(f"context {context}, horizon {horizon}, stride {stride} must be >= 1")
    for now in range(context - 1, len(action) - horizon + 1, stride):
        first = now - context + 1
        yield Moment(
            episode,
            now,
            features[first : now + 1],
            state[first : now + 1],
            action[first:now],
            action[now - 1] if now else None,
            action[now : now + horizon],
            features[now + horizon],
        )


class SubGoal(NamedTuple):
    """Features to bring about, and the number of actions to spend on it."""

    features: Float[Tensor, "n d"]
    steps: int


def plan_through(
    model: WorldModel,
    planner: Planner,
    place: Context,
    goals: Sequence[SubGoal],
    generator: torch.Generator,
    frames: int = 1,
    warm_start: bool = True,
) -> list[Plan]:
    """Bring about one goal after the other in imagination: act, believe what is imagined, replan.

    Args:
        model: imagines.
        planner: plans before each action.
        place: only its last frame is looked back on.
        goals: in their order.
        generator: draws the planner's numbers.
        frames: how many of the latest frames the model looks back on.
        warm_start: start each search from the plan before, one step on.

    Returns:
        One plan for each action; its first action is the one that is taken.
    """
    features, state = place.features[-1:], place.state[-1:]
    taken = state.new_zeros(0, len(model.action_names))
    plans: list[Plan] = []
    for goal in goals:
        for _ in range(goal.steps):
            with evaluating(model), torch.no_grad():
                context = model.look(features, state, taken)
            previous = plans[-1] if plans and warm_start else None
            plans.append(planner.plan(model, context, goal.features, generator, previous))
            action = plans[-1].actions[:1].to(state)
            with evaluating(model), torch.no_grad():
                features = torch.cat([features, model.imagine(context, action[None])[0]])
                state = torch.cat([state, model.moved(state[-1:], action)])
            features, state = features[-frames:], state[-frames:]
            taken = torch.cat([taken, action])[len(taken) + 2 - len(state) :]
    return plans


class Planned(NamedTuple):
    """What was planned at each moment, beside the truth and the floors, summed over the plan."""

    names: tuple[str, ...]
    episode: np.ndarray
    true: Float64[np.ndarray, "n a"]
    guesses: Mapping[str, Float64[np.ndarray, "n a"]]  # "planned" and the floors; NaN: none
    seconds: float
    evaluations: int


def plan_all(
    model: WorldModel,
    planner: Planner,
    places: Iterable[Moment],
    mean_action: Float[Tensor, " a"] | None,
    seed: int = 0,
) -> Planned:
    """Plan at every moment; each plan is a function of (seed, episode, start).

    Args:
        model: imagines.
        planner: its horizon must be that of the moments.
        places: moments of held-out episodes.
        mean_action: of one step, over the *training* data; None where there are none, and then
            that floor is absent.
        seed: of the planner's and of the random floor's numbers.

    Raises:
        DataError: no moment, or one whose horizon is not the planner's.
    """
    rows: dict[str, list[Tensor]] = {}
    episodes, seconds, evaluations = [], 0.0, 0
    for place in places:
        if len(place.action) != planner.horizon:
            raise DataError(
                f"episode {place.episode} has {len(place.action)} actions to the goal, the planner "
                f"plans {planner.horizon}; give both the same horizon"
            )
        generator = generator_of(seed, place.episode, place.start)
        plan = planner.plan(model, place.look(model), place.goal, generator)
        episodes.append(place.episode)
        seconds, evaluations = seconds + plan.seconds, evaluations + plan.evaluations
        chance = generator_of(seed, place.episode, place.start, 1)  # the same for every planner
        guesses = floors(place, planner, model.action_names, mean_action, chance)
        for name, action in {"true": place.action, "planned": plan.actions, **guesses}.items():
            rows.setdefault(name, []).append(action.sum(0).double().cpu())
    if not episodes:
        raise DataError("there is no moment to plan at; the episodes are shorter than the horizon")
    sums = {name: torch.stack(parts).numpy() for name, parts in rows.items()}
    true = sums.pop("true")
    return Planned(model.action_names, np.array(episodes), true, sums, seconds, evaluations)


FLOORS = ("zero", "mean", "random", "last")


def floors(
    place: Moment,
    planner: Planner,
    names: tuple[str, ...],
    mean_action: Float[Tensor, " a"] | None,
    generator: torch.Generator,
) -> dict[str, Float[Tensor, "k a"]]:
    """Guess without a model. ``last`` is NaN where nothing was done before."""
    still = torch.zeros_like(place.action)
    box = planner.limits.space(names, planner.horizon)
    anywhere = (2 * torch.rand(still.shape, generator=generator) - 1) * box.limit
    mean = {} if mean_action is None else {"mean": still + mean_action.to(still)}
    return {
        "zero": still,
        **mean,
        "random": box.clip(anywhere).to(still),
        "last": still + (torch.nan if place.last is None else place.last),
    }


def summarise(planned: Planned, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Score plan and floors, with 95 % intervals over episodes, as JSON values.

    Each of ``scores[name]`` holds ``{value, low, high, moments}`` of

        x, y, z ...    mean absolute error of one axis, in its unit
        xyz            mean distance of planned from true displacement (m)
        direction      mean cosine of the two, where the truth moves at least 1 cm
        gripper_sign   share of agreement in sign, where the true gripper moves at least 0.1
        action_score   800 (0.1 - E) where E, the sum of the mean errors of x, y and z, is below
                       0.1 m; otherwise 0

    and ``better_by[floor]`` how much smaller the planner's ``xyz`` error is than the floor's, on
    the moments that both have: above 0 means that planning beats it.
    """
    guesses = planned.guesses
    scores = {name: _scores(guess, planned, resamples, seed) for name, guess in guesses.items()}
    place = _positions(planned.names)
    error = {
        name: np.linalg.norm((guess - planned.true)[:, place], axis=1)
        for name, guess in guesses.items()
    }
    better = {
        name: mean_over_episodes(error[name] - error["planned"], planned.episode, resamples, seed)
        for name in FLOORS
        if name in error
    }
    return {
        "episodes": len(np.unique(planned.episode)),
        "moments": len(planned.episode),
        "seconds_per_plan": planned.seconds / len(planned.episode),
        "evaluations_per_plan": planned.evaluations / len(planned.episode),
        "scores": scores,
        "better_by": better,
    }


def _scores(
    guess: Float64[np.ndarray, "n a"], planned: Planned, resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Score one source of actions."""
    true, episode, place = planned.true, planned.episode, _positions(planned.names)
    error = np.abs(guess - true)
    columns = {name: error[:, i] for i, name in enumerate(planned.names)}
    columns["xyz"] = np.linalg.norm((guess - true)[:, place], axis=1)
    columns["direction"] = _cosine(guess[:, place], true[:, place])
    if "gripper" in planned.names:
        i = planned.names.index("gripper")
        agree = np.where(np.sign(guess[:, i]) == np.sign(true[:, i]), 1.0, 0.0)
        counts = (np.abs(true[:, i]) >= GRIPS) & np.isfinite(guess[:, i])
        columns["gripper_sign"] = np.where(counts, agree, np.nan)
    found = {
        name: mean_over_episodes(values, episode, resamples, seed)
        for name, values in columns.items()
    }
    total = error[:, place].sum(1)
    found["action_score"] = mean_over_episodes(total, episode, resamples, seed, _action_score)
    return found


def _cosine(
    guess: Float64[np.ndarray, "n 3"], true: Float64[np.ndarray, "n 3"]
) -> Float64[np.ndarray, " n"]:
    """Compare directions; standing still has none and scores 0, a still truth is left out."""
    length, far = np.linalg.norm(true, axis=1), np.linalg.norm(guess, axis=1)
    product = (guess * true).sum(1) / np.where(length * far > 0, length * far, 1)
    return np.where(length >= STILL, product, np.nan)


def _action_score(error: Float64[np.ndarray, "*b"]) -> Float64[np.ndarray, "*b"]:
    return 800 * np.maximum(0.1 - error, 0)


def _positions(names: Sequence[str]) -> list[int]:
    found = [i for i, name in enumerate(names) if name in POSITION]
    if len(found) != 3:
        raise ConfigError(f"actions {list(names)} are no displacement; planning needs x, y and z")
    return found


def mean_over_episodes(
    values: Float64[np.ndarray, " n"],
    episode: np.ndarray,
    resamples: int = 2000,
    seed: int = 0,
    then: Statistic = lambda mean: mean,
) -> dict[str, Any]:
    """Average what is defined, with a 95 % interval over episodes; ``then`` maps the average."""
    there = np.isfinite(values)
    result = {"moments": int(there.sum())}
    if not there.any():
        return {"value": None, "low": None, "high": None, **result}
    _, place = np.unique(episode[there], return_inverse=True)
    sums = np.zeros((1, place.max() + 1, 2))
    np.add.at(sums[0], place, np.column_stack([values[there], np.ones(there.sum())]))
    estimate = statistics.bootstrap(
        sums, lambda table: then(table[..., 0] / table[..., 1]), resamples, seed
    )
    bounds = {key: _json(value) for key, value in estimate._asdict().items()}
    return {**bounds, **result}


def _json(value: float) -> float | None:
    return value if np.isfinite(value) else None
