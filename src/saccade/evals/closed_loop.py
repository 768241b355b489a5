"""Closed loop: plan, act, look again. Does the hand get to where the goal picture shows it?

The goal of an episode is a picture (and the hand's place in it) that a scripted expert left
behind from the same start; sub-goals are pictures from along its way. Floors run in the same
episodes: doing nothing, random actions in the planner's box, and the expert itself.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, UInt8
from torch import Tensor

from saccade.data.transforms import Framing
from saccade.errors import ConfigError, DataError
from saccade.evals import statistics
from saccade.evals.energy import evaluating
from saccade.evals.planners import Plan, Planner, generator_of
from saccade.evals.planning import mean_over_episodes
from saccade.types import WorldModel

AXES = ("x", "y", "z", "gripper")


@runtime_checkable
class Environment(Protocol):
    """What a closed loop needs of a simulator; ``sim.metaworld.MetaWorld`` is one.

    State ``[x, y, z, gripper]`` in metres, action a step of the commanded hand position in a unit
    of the simulator's own and the commanded gripper; 1 is open.
    """

    fps: float
    success: bool

    def reset(self, seed: Sequence[int]) -> None:
        """Begin an episode that depends on the seed only."""

    def observe(self) -> Float32[np.ndarray, "4"]:
        """Return the state."""
        ...

    def render(self, camera: str) -> UInt8[np.ndarray, "h w 3"]:
        """Draw the scene, upright."""
        ...

    def step(self, action: Float32[np.ndarray, "4"]) -> Float32[np.ndarray, "4"]:
        """Clip and execute an action; ``success`` then tells of this moment."""
        ...

    def expert(self) -> Float32[np.ndarray, "4"]:
        """Return the action of a scripted expert."""
        ...


class Arm:
    """A simulated hand that obeys a world model's actions: displacements in metres per step.

    The simulator runs many control steps for one step of the model. In each of them the hand is
    commanded towards the place where it should be by then, so what is executed is the measured
    displacement that the model speaks of.

    Args:
        environment: moves.
        model: its axes must be x, y, z and gripper, of state and action alike, and its actions
            measured displacements, not commands in a controller's units.
        camera: sees.
        framing: makes squares of pictures, as for the data that the model was trained on.
        noise: standard deviation of the sensor noise in those data, in grey levels.
        unit: metres that an action of 1 moves the hand by.
        closed_is_one: the model's gripper is 1 when closed.
        most_steps: control steps after which the simulator ends an episode; 500 in Meta-World.
    """

    def __init__(
        self,
        environment: Environment,
        model: WorldModel,
        camera: str,
        *,
        framing: Framing | None = None,
        noise: float = 0.0,
        unit: float = 0.01,
        closed_is_one: bool = False,
        most_steps: int = 500,
    ) -> None:
        for axes in (model.state_names, model.action_names):
            if axes != AXES:
                raise ConfigError(
                    f"the model acts on {list(axes)}, the simulator on {list(AXES)}; train a model "
                    "on data of this simulator"
                )
        self.steps = round(model.step_seconds * environment.fps)
        if self.steps < 1:
            raise ConfigError(
                f"a step of {model.step_seconds:g} s is shorter than one of the simulator, "
                f"{1 / environment.fps:g} s; use a model with longer steps"
            )
        self.environment, self.camera, self.unit = environment, camera, unit
        self.framing, self.noise = framing, noise
        self.closed_is_one, self.most_steps = closed_is_one, most_steps

    def reset(self, seed: Sequence[int], take: int = 0) -> None:
        """Begin an episode; another ``take`` of the same one has other sensor noise."""
        self.environment.reset(seed)
        self.success = False
        self._sensor = np.random.default_rng([*seed, 2, take])

    def see(self) -> UInt8[Tensor, "3 _ _"]:
        """Take a picture as the model was trained to see it."""
        image = self.environment.render(self.camera)
        if self.noise:
            spread = np.float32(self.noise)
            noisy = self._sensor.standard_normal(image.shape, np.float32) * spread + image
            image = np.rint(noisy).clip(0, 255).astype(np.uint8)
        return self._framed(image)

    def picture(self) -> UInt8[Tensor, "3 _ _"]:
        """Take a picture for people: the same view without noise, which changes nothing."""
        return self._framed(self.environment.render(self.camera))

    def _framed(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[Tensor, "3 _ _"]:
        video = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
        return (video if self.framing is None else self.framing(video))[0].contiguous()

    def state(self) -> Float32[Tensor, "4"]:
        """Return the state, the gripper in the model's sense."""
        return torch.from_numpy(self._turned(self.environment.observe()))

    def act(self, action: Float[Tensor, "4"]) -> None:
        """Move by one action of the model."""
        target = self.state().numpy() + action.detach().cpu().float().numpy()
        target[3] = np.clip(target[3], 0, 1)
        goal = self._turned(target)
        for left in range(self.steps, 0, -1):
            missing = (goal - self.environment.observe())[:3] / left
            self._step(np.append(missing / self.unit, goal[3:]))

    def follow_expert(self) -> None:
        """Let the scripted expert act for as long as one action of the model."""
        for _ in range(self.steps):
            self._step(self.environment.expert())

    def _step(self, command: np.ndarray) -> None:
        self.environment.step(command.astype(np.float32))
        self.success = self.success or self.environment.success

    def _turned(self, state: Float32[np.ndarray, "4"]) -> Float32[np.ndarray, "4"]:
        if not self.closed_is_one:
            return state
        return np.append(state[:3], 1 - state[3:]).astype(np.float32)


class Goal(NamedTuple):
    """A picture to bring about, where the hand is in it, and the actions to spend on it."""

    image: UInt8[Tensor, "3 h w"]
    hand: Float64[np.ndarray, "3"]
    steps: int


@dataclass(frozen=True, kw_only=True)
class ReachConfig:
    """How a closed loop is run.

    Args:
        episodes: of the planner and of each floor, with the same starts and goals.
        goal_steps: actions to spend on each goal; several goals are pictures at these shares of
            the expert's way, such as (4, 10, 4) for pick and place.
        expert_steps: how long the expert acts to make the goal picture, in the model's steps.
        context: frames that the model looks back on.
        tolerance: metres from the goal that count as reached.
        warm_start: start each search from the plan before, one step on.
        seed: decides starts, goals and every random number.
    """

    episodes: int = 20
    goal_steps: tuple[int, ...] = (10,)
    expert_steps: int = 10
    context: int = 1
    tolerance: float = 0.05
    seed: int = 0
    warm_start: bool = False


class Episode(NamedTuple):
    """How one episode went."""

    distance: Float64[np.ndarray, " t"]  # metres from the final goal, before and after each action
    success: bool  # the simulator's word, at any moment
    seconds: float  # spent planning


Behaviour = Callable[[Arm, Sequence[Goal], torch.Generator], Iterator[float]]
Watch = Callable[[str, int, Arm], None]  # of behaviour and episode, before and after each action


def goals_of(arm: Arm, config: ReachConfig, seed: Sequence[int]) -> list[Goal]:
    """Let the expert act from a start, and take pictures on its way."""
    arm.reset(seed, take=1)
    shares = np.cumsum(config.goal_steps) / sum(config.goal_steps)
    stops = np.maximum(np.round(shares * config.expert_steps).astype(int), 1)
    goals: list[Goal] = []
    for step in range(1, config.expert_steps + 1):
        arm.follow_expert()
        for steps in (n for n, stop in zip(config.goal_steps, stops, strict=True) if stop == step):
            hand = arm.environment.observe()[:3].astype(np.float64)
            goals.append(Goal(arm.see(), hand, steps))
    return goals


def by_planning(
    model: WorldModel, planner: Planner, context: int = 1, warm_start: bool = False
) -> Behaviour:
    """Plan before each action, from standing still or from the last plan.

    The model looks back on the last ``context`` frames, and on the motion measured between them.
    """

    def behave(arm: Arm, goals: Sequence[Goal], generator: torch.Generator) -> Iterator[float]:
        features: list[Tensor] = []
        states: list[Tensor] = []
        plan: Plan | None = None
        for goal in goals:
            wanted = _encode(model, goal.image)
            for _ in range(goal.steps):
                features.append(_encode(model, arm.see()))
                states.append(arm.state().to(features[-1].device))
                del features[:-context], states[:-context]
                state = torch.stack(states)
                with evaluating(model), torch.no_grad():
                    moved = model.measured(state[:-1], state[1:])
                    seen = model.look(torch.stack(features), state, moved)
                plan = planner.plan(model, seen, wanted, generator, plan if warm_start else None)
                arm.act(plan.actions[0])
                yield plan.seconds

    return behave


def _encode(model: WorldModel, image: UInt8[Tensor, "3 h w"]) -> Float[Tensor, "n d"]:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with evaluating(model), torch.no_grad():
        return model.encode(image[None, None].to(device))[0, 0]


def doing_nothing(arm: Arm, goals: Sequence[Goal], generator: torch.Generator) -> Iterator[float]:
    """Stay."""
    del generator
    for _ in range(sum(goal.steps for goal in goals)):
        arm.act(torch.zeros(len(AXES)))
        yield 0.0


def by_chance(planner: Planner) -> Behaviour:
    """Act anywhere in the planner's box."""
    box = planner.limits.space(AXES, 1)

    def behave(arm: Arm, goals: Sequence[Goal], generator: torch.Generator) -> Iterator[float]:
        for _ in range(sum(goal.steps for goal in goals)):
            anywhere = (2 * torch.rand(1, len(AXES), generator=generator) - 1) * box.limit
            arm.act(box.clip(anywhere)[0])
            yield 0.0

    return behave


def by_expert(arm: Arm, goals: Sequence[Goal], generator: torch.Generator) -> Iterator[float]:
    """Let the scripted expert act."""
    del generator
    for _ in range(sum(goal.steps for goal in goals)):
        arm.follow_expert()
        yield 0.0


def run(
    arm: Arm,
    behaviour: Behaviour,
    config: ReachConfig,
    episode: int,
    watch: Callable[[Arm], None] = lambda _: None,
) -> Episode:
    """Run one episode: what happens is a function of (seed, episode) and the behaviour."""
    seed = (config.seed, episode)
    goals = goals_of(arm, config, seed)
    arm.reset(seed)
    hand = goals[-1].hand
    distance = [_distance(arm, hand)]
    seconds = 0.0
    watch(arm)
    for spent in behaviour(arm, goals, generator_of(*seed)):
        distance.append(_distance(arm, hand))
        seconds += spent
        watch(arm)
    return Episode(np.array(distance), arm.success, seconds)


def _distance(arm: Arm, hand: Float64[np.ndarray, "3"]) -> float:
    return float(np.linalg.norm(arm.environment.observe()[:3] - hand))


def reach(
    model: WorldModel,
    planner: Planner,
    arm: Arm,
    config: ReachConfig,
    watch: Watch = lambda *_: None,
) -> dict[str, Any]:
    """Run the planner and the floors, and return JSON values.

    Each of ``planned``, ``nothing``, ``random`` and ``expert`` holds ``success`` (the simulator's
    word) and ``reached`` (within the tolerance at the end) as ``{value, low, high, count,
    episodes}`` with Wilson's interval, ``final`` (metres, bootstrap interval over episodes),
    ``distance`` (mean over episodes, before and after each action), ``finals`` (metres, of each
    episode) and ``seconds`` per action. ``better_by`` holds how much nearer to the goal the planner
    ends than each of the others, in the same episodes.

    Raises:
        ConfigError: a count below 1, or more steps than the simulator allows.
    """
    counts = (config.episodes, config.expert_steps, config.context, *config.goal_steps)
    if not config.goal_steps or min(counts) < 1:
        raise ConfigError(f"{config} has a count below 1, or no goal; reach needs at least one")
    needed = arm.steps * max(config.expert_steps, sum(config.goal_steps))
    if needed > arm.most_steps:
        raise ConfigError(
            f"an episode would take {needed} control steps, {arm.steps} for each action, and the "
            f"simulator ends it after {arm.most_steps}; use fewer expert_steps or goal_steps"
        )
    behaviours: dict[str, Behaviour] = {
        "planned": by_planning(model, planner, config.context, config.warm_start),
        "nothing": doing_nothing,
        "random": by_chance(planner),
        "expert": by_expert,
    }
    results: dict[str, Any] = {"tolerance": config.tolerance, "episodes": config.episodes}
    for name, behaviour in behaviours.items():
        episodes = [
            run(arm, behaviour, config, i, partial(watch, name, i)) for i in range(config.episodes)
        ]
        results[name] = _summary(episodes, config.tolerance)
    ends = {name: np.array(results[name]["finals"]) for name in behaviours}
    results["better_by"] = {
        name: mean_over_episodes(end - ends["planned"], np.arange(config.episodes))
        for name, end in ends.items()
        if name != "planned"
    }
    return results


def _summary(episodes: Sequence[Episode], tolerance: float) -> dict[str, Any]:
    distance = np.stack([episode.distance for episode in episodes])
    if not np.isfinite(distance).all():
        raise DataError("the simulator put the hand at a place that is not finite")
    actions = distance.shape[1] - 1
    return {
        "success": _share([episode.success for episode in episodes]),
        "reached": _share([bool(d < tolerance) for d in distance[:, -1]]),
        "final": mean_over_episodes(distance[:, -1], np.arange(len(episodes))),
        "distance": distance.mean(0).tolist(),
        "finals": distance[:, -1].tolist(),
        "seconds": sum(episode.seconds for episode in episodes) / (actions * len(episodes)),
    }


def _share(successes: list[bool]) -> dict[str, Any]:
    low, high = statistics.wilson(sum(successes), len(successes))
    share = sum(successes) / len(successes)
    count, trials = sum(successes), len(successes)
    return {"value": share, "low": low, "high": high, "count": count, "episodes": trials}
