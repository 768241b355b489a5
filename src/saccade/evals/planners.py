"""Planners: search for the actions after which a world model sees the goal.

All three minimise the same energy, the distance of the imagined last frame from the goal's
features, over the same box of actions, and differ in how they search:

    CEM       refit a Gaussian to the best samples (Rubinstein, 1999; arXiv 2506.09985 for the
              settings, github.com/facebookresearch/vjepa2 for the update)
    MPPI      average all samples, weighted by exp(-energy) (Williams et al., 2017)
    gradient  Adam on the actions, through the model

A planner is a config with a method: the same config, model, context, goal and generator give the
same plan. Numbers are drawn on the processor, so the device does not change what is tried.
"""

import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saccade.data.episodes import POSITION, ROTATION
from saccade.errors import ConfigError
from saccade.evals.energy import ImaginedEnergy, Metric, evaluating
from saccade.types import Context, WorldModel

Energy = Callable[[Float[Tensor, "m k a"]], Float[Tensor, " m"]]


class Space(NamedTuple):
    """The actions that may be tried, laid out along the axes of one model."""

    limit: Float[Tensor, "k a"]
    spread: Float[Tensor, "k a"]  # standard deviation of the first samples
    free: Bool[Tensor, " a"]  # random numbers are drawn for these
    gripper: Bool[Tensor, " a"]
    fixed: Bool[Tensor, " a"]
    held: Bool[Tensor, "k a"]  # fixed, or a gripper that closes from a step on
    value: Float[Tensor, "k a"]  # of what is held

    def clip(self, action: Float[Tensor, "*m k a"]) -> Float[Tensor, "*m k a"]:
        """Bring actions into the box, and what is held to its value."""
        return torch.where(self.held, self.value, action.clamp(-self.limit, self.limit))

    def draw(self, samples: int, generator: torch.Generator) -> Float[Tensor, "m k a"]:
        """Draw standard normal numbers step by step, in the official order; 0 where not free."""
        noise = torch.zeros(samples, *self.limit.shape)
        free = self.free.cpu()
        for step in range(noise.shape[1]):
            noise[:, step, free] = torch.randn(samples, int(free.sum()), generator=generator)
        return noise.to(self.limit)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How far one action may go along each axis by itself, in the units of the model's actions.

    Args:
        position: along x, y and z each: a box, not a ball.
        rotation: about each axis; 0 never turns, as in the paper.
        gripper: as much as the gripper may open or close.
        gripper_spread: standard deviation of its first samples, before they are clipped.
        gripper_still: a planned gripper motion smaller than this becomes none.
        other: (axis, limit) of axes with another name, or where one axis differs.
        fixed: (axis, value) of axes that are not searched.
        close_from: from this step of a plan on, the gripper's action is ``closing``.
        closing: 1 closes the gripper of V-JEPA 2-AC; a model for which 1 is open needs -1.
    """

    position: float = 0.075
    rotation: float = 0.0
    gripper: float = 0.75
    gripper_spread: float = 1.0
    gripper_still: float = 0.25
    other: tuple[tuple[str, float], ...] = ()
    fixed: tuple[tuple[str, float], ...] = ()
    close_from: int | None = None
    closing: float = 1.0

    def space(self, names: tuple[str, ...], horizon: int) -> Space:
        """Lay the limits out along a model's axes.

        Raises:
            ConfigError: an axis without a limit, a limit for no axis, or a negative one.
        """
        if self.close_from is not None and self.close_from < 0:
            raise ConfigError(f"close_from is {self.close_from}; steps of a plan count from 0")
        other, fixed = dict(self.other), dict(self.fixed)
        for name in (*other, *fixed):
            if name not in names:
                raise ConfigError(f"limits name the axis {name!r}; the model's are {list(names)}")
        limit = torch.tensor([other.get(name, self._limit(name)) for name in names])
        gripper = torch.tensor(["gripper" in _axis(name) for name in names])
        if not bool((limit >= 0).all()):
            unknown = [name for name, value in zip(names, limit.tolist(), strict=True) if value < 0]
            raise ConfigError(f"limits of {unknown} are unknown or negative; give them in `other`")
        spread = torch.where(gripper & (limit > 0), torch.tensor(self.gripper_spread), limit)
        pinned = torch.tensor([name in fixed for name in names])
        held = pinned.repeat(horizon, 1)
        value = torch.tensor([fixed.get(name, 0.0) for name in names]).repeat(horizon, 1)
        if self.close_from is not None:
            held[self.close_from :, gripper] = True
            value[self.close_from :, gripper] = self.closing
        rows = [row.repeat(horizon, 1) for row in (limit, spread)]
        return Space(rows[0], rows[1], limit > 0, gripper, pinned, held, value)

    def _limit(self, name: str) -> float:
        axis = _axis(name)
        if axis in POSITION:
            return self.position
        if axis in ROTATION:
            return self.rotation
        return self.gripper if "gripper" in axis else -1.0


def _axis(name: str) -> str:
    return name.rpartition(".")[2]


@dataclass(frozen=True)
class Plan:
    """Actions and what was found on the way to them.

    ``history`` holds the lowest energy among the candidates of each iteration; ``energy`` is that
    of ``actions``, which (as an average, or clipped) need not be among them.
    """

    actions: Float[Tensor, "k a"]
    energy: float
    history: Float[Tensor, " i"]
    seconds: float
    evaluations: int  # candidates imagined


@dataclass(frozen=True, kw_only=True)
class Planner:
    """What all planners share.

    Args:
        horizon: actions of one plan.
        limits: the box of actions.
        metric: mean absolute (``l1``) or mean squared (``l2``) distance of features.
        memory: gigabytes that candidates imagined together may take, by the model's own bound.
    """

    horizon: int = 1
    limits: Limits = field(default_factory=Limits)
    metric: Metric = "l1"
    memory: float = 2.0

    @property
    @abstractmethod
    def evaluations(self) -> int:
        """Count the candidates that one plan imagines, the plan itself among them."""

    @abstractmethod
    def search(
        self,
        energy: Energy,
        space: Space,
        start: Float[Tensor, "k a"],
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, "k a"], Float[Tensor, " i"]]:
        """Return the actions found from ``start``, and the lowest energy of each iteration."""

    def plan(
        self,
        model: WorldModel,
        context: Context,
        goal: Float[Tensor, "n d"],
        generator: torch.Generator,
        previous: Plan | None = None,
    ) -> Plan:
        """Search from standing still, or from what ``previous`` meant to do after its first action.

        Raises:
            ConfigError: an option that cannot be, or limits that do not fit the model's actions.
            NumericError: the model imagines what is not finite.
        """
        if self.horizon < 1 or self.memory <= 0:
            raise ConfigError(
                f"the horizon of a plan is {self.horizon} and its memory {self.memory} GB; it "
                "needs at least 1 action and a positive bound"
            )
        began = time.perf_counter()
        device = context.features.device
        space = self.limits.space(model.action_names, self.horizon)
        space = Space(*(part.to(device) for part in space))
        energy = ImaginedEnergy(model, context, goal, self.metric, self.memory)
        start = torch.where(space.fixed, space.value, _shifted(previous, space))
        with evaluating(model):
            actions, history = self.search(energy, space, start, generator)
            small = space.gripper & (actions.abs() < self.limits.gripper_still)
            actions = torch.where(small, torch.zeros_like(actions), actions)
            found = float(energy(actions[None])[0])
        return Plan(actions, found, history, time.perf_counter() - began, energy.evaluations)


def _shifted(previous: Plan | None, space: Space) -> Float[Tensor, "k a"]:
    """Move a plan one step on; its new last action is to stand still."""
    start = torch.zeros_like(space.limit)
    if previous is not None:
        rest = previous.actions[1 : len(start) + 1].to(start)
        start[: len(rest)] = rest
    return start


@dataclass(frozen=True, kw_only=True)
class CemConfig(Planner):
    """The cross-entropy method; the defaults are the paper's, with the official momentum.

    The plan is the mean of the last Gaussian. The spread is the unbiased standard deviation of
    the elites and has no floor.

    Args:
        samples: candidates of one iteration.
        iterations: how often the Gaussian is refitted.
        elites: how many of the best it is fitted to.
        momentum_mean: share of the old mean that is kept; likewise the other three.
        include_mean: let the mean be the first candidate.
    """

    samples: int = 800
    iterations: int = 10
    elites: int = 10
    momentum_mean: float = 0.15
    momentum_spread: float = 0.15
    momentum_mean_gripper: float = 0.15
    momentum_spread_gripper: float = 0.15
    include_mean: bool = False

    @property
    def evaluations(self) -> int:
        """Count the candidates that one plan imagines, the plan itself among them."""
        return self.samples * self.iterations + 1

    def search(
        self,
        energy: Energy,
        space: Space,
        start: Float[Tensor, "k a"],
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, "k a"], Float[Tensor, " i"]]:
        """Refit mean and spread to the elites."""
        if not 2 <= self.elites <= self.samples or self.iterations < 1:
            raise ConfigError(
                f"CEM has {self.elites} elites of {self.samples} samples in {self.iterations} "
                "iterations; it needs at least 2 elites, as many samples and 1 iteration"
            )
        mean, spread, lowest = start, space.spread, []
        for _ in range(self.iterations):
            actions = space.clip(space.draw(self.samples, generator) * spread + mean)
            if self.include_mean:
                actions[0] = space.clip(mean)
            best = energy(actions).topk(self.elites, largest=False)
            elites = actions[best.indices]
            mean = _mix(elites.mean(0), mean, space, self.momentum_mean, self.momentum_mean_gripper)
            spread = _mix(
                elites.std(0), spread, space, self.momentum_spread, self.momentum_spread_gripper
            )
            lowest.append(best.values[0])
        return mean, torch.stack(lowest)


def _mix(
    new: Float[Tensor, "k a"], old: Float[Tensor, "k a"], space: Space, kept: float, gripper: float
) -> Float[Tensor, "k a"]:
    arm = new * (1 - kept) + old * kept
    return torch.where(space.gripper, new * (1 - gripper) + old * gripper, arm)


@dataclass(frozen=True, kw_only=True)
class MppiConfig(Planner):
    """Model predictive path integral control.

    Args:
        samples: candidates of one iteration.
        iterations: how often the mean is moved.
        temperature: of the weights, as a share of the spread of the candidates' energies, which
            makes it independent of the model's scale.
        narrowing: factor on the spread of the samples after each iteration.
    """

    samples: int = 800
    iterations: int = 10
    temperature: float = 0.1
    narrowing: float = 0.7

    @property
    def evaluations(self) -> int:
        """Count the candidates that one plan imagines, the plan itself among them."""
        return self.samples * self.iterations + 1

    def search(
        self,
        energy: Energy,
        space: Space,
        start: Float[Tensor, "k a"],
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, "k a"], Float[Tensor, " i"]]:
        """Move the mean to the weighted average of the samples."""
        if self.samples < 2 or self.iterations < 1 or min(self.temperature, self.narrowing) <= 0:
            raise ConfigError(
                f"MPPI has {self.samples} samples, {self.iterations} iterations, temperature "
                f"{self.temperature}, narrowing {self.narrowing}; it needs 2, 1 and positive ones"
            )
        mean, spread, lowest = start, space.spread, []
        for _ in range(self.iterations):
            actions = space.clip(space.draw(self.samples, generator) * spread + mean)
            values = energy(actions)
            scale = self.temperature * values.std().clamp_min(torch.finfo(values.dtype).tiny)
            weight = torch.softmax((values.min() - values) / scale, 0)
            mean = torch.einsum("m,mka->ka", weight, actions)
            spread = spread * self.narrowing
            lowest.append(values.min())
        return mean, torch.stack(lowest)


@dataclass(frozen=True, kw_only=True)
class GradientConfig(Planner):
    """Adam on the actions, projected on the box after each step; the best plan met is returned.

    Args:
        starts: plans that are improved side by side: the given one, and random ones.
        iterations: steps of Adam.
        rate: length of the first steps, as a share of the half-width of the box.
        together: plans whose graph is held at once.
    """

    starts: int = 8
    iterations: int = 50
    rate: float = 0.1
    together: int = 4

    @property
    def evaluations(self) -> int:
        """Count the candidates that one plan imagines, the plan itself among them."""
        return self.starts * (self.iterations + 1) + 1

    def search(
        self,
        energy: Energy,
        space: Space,
        start: Float[Tensor, "k a"],
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, "k a"], Float[Tensor, " i"]]:
        """Follow the gradient from several starts."""
        if min(self.starts, self.iterations, self.together) < 1 or self.rate <= 0:
            raise ConfigError(
                f"the gradient planner has {self.starts} starts, {self.iterations} iterations, "
                f"{self.together} together and rate {self.rate}; all must be positive"
            )
        shares = (space.draw(self.starts, generator) / 2).clamp(-1, 1)
        shares[0] = start / torch.where(space.limit > 0, space.limit, 1.0)
        shares = shares.requires_grad_()
        adam = torch.optim.Adam([shares], lr=self.rate)
        best, lowest, found = start, [], torch.inf
        for iteration in range(self.iterations + 1):
            actions = space.clip(shares.detach() * space.limit)
            values, slope = self._slopes(energy, actions)
            lowest.append(values.min())
            if float(values.min()) < found:
                best, found = actions[values.argmin()], float(values.min())
            if iteration < self.iterations:
                shares.grad = slope * space.limit * ~space.held
                adam.step()
                shares.data.clamp_(-1, 1)
        return best, torch.stack(lowest)

    def _slopes(
        self, energy: Energy, actions: Float[Tensor, "m k a"]
    ) -> tuple[Float[Tensor, " m"], Float[Tensor, "m k a"]]:
        """Return energies and their derivatives, without touching the model's own gradients."""
        values, slopes = [], []
        for part in actions.split(self.together):
            leaf = part.detach().requires_grad_()
            value = energy(leaf)
            if not value.requires_grad:
                raise ConfigError("the model passes no gradient to its actions; plan by CEM")
            slopes.append(torch.autograd.grad(value.sum(), leaf)[0])
            values.append(value.detach())
        return torch.cat(values), torch.cat(slopes)


def generator_of(seed: int, *place: int) -> torch.Generator:
    """Seed a generator by where a plan is made, such as (episode, step)."""
    state = np.random.SeedSequence((seed, *place)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
