from dataclasses import replace

import numpy as np
import pytest
import torch

from saccade.config import from_dict, to_dict
from saccade.errors import ConfigError
from saccade.evals.planners import (
    CemConfig,
    GradientConfig,
    Limits,
    MppiConfig,
    Plan,
    Planner,
    generator_of,
)
from saccade.types import Context
from tests.evals.toy_arm import REST, SAWYER, ToyWorld

TRUE = torch.tensor([0.05, -0.03, 0.04, 0, 0, 0, 0.5])
PLANNERS = [CemConfig(), MppiConfig(), GradientConfig()]


def context(model: ToyWorld, rest: torch.Tensor = REST) -> Context:
    with torch.no_grad():
        return model.look(model.see(rest)[None], rest[None], torch.zeros(0, len(rest)))


def goal(model: ToyWorld, action: torch.Tensor = TRUE) -> torch.Tensor:
    with torch.no_grad():
        return model.see(REST + action)


def plan(planner: Planner, seed: int = 7, previous: Plan | None = None) -> Plan:
    model = ToyWorld()
    generator = torch.Generator().manual_seed(seed)
    return planner.plan(model, context(model), goal(model), generator, previous)


# What `cem` of github.com/facebookresearch/vjepa2 (notebooks/utils/mpc_utils.py, c2963a4) plans for
# ToyWorld from REST to REST + TRUE after torch.manual_seed(7): x, y, z, gripper of each step.
OFFICIAL = [
    (
        CemConfig(),
        [[0.04999912902712822, -0.029998980462551117, 0.03999979421496391, 0.5000021457672119]],
    ),
    (
        CemConfig(horizon=2, samples=400, limits=Limits(position=0.05)),
        [
            [0.016647793352603912, -0.00040626057307235897, 0.008474050089716911, 0.36854597926],
            [0.033395636826753616, -0.029893159866333008, 0.03132116422057152, 0.0],
        ],
    ),
    (
        CemConfig(horizon=2, samples=25, iterations=2, momentum_spread=0.75),
        [
            [0.005005266051739454, 0.028194354847073555, 0.012203441001474857, 0.0],
            [0.01853514276444912, -0.029193367809057236, 0.02612334117293358, 0.0],
        ],
    ),
    (
        CemConfig(
            samples=60,
            iterations=7,
            elites=6,
            momentum_mean=0.25,
            momentum_spread=0.95,
            momentum_mean_gripper=0.4,
            momentum_spread_gripper=0.6,
            limits=Limits(position=0.05, fixed=(("z", 0.01),)),
        ),
        [[0.04994875565171242, -0.028126921504735947, 0.009999999776482582, 0.6700246930122375]],
    ),
    (
        CemConfig(
            horizon=3,
            samples=60,
            iterations=2,
            elites=8,
            momentum_mean=0.25,
            momentum_spread=0.95,
            limits=Limits(position=0.05, close_from=1),
        ),
        [
            [0.010336136445403099, 0.008744616061449051, 0.015578115358948708, 0.0],
            [0.02775462716817856, 0.0032083364203572273, 0.002068387344479561, 0.9775000214576721],
            [0.015504421666264534, -0.03064342401921749, 0.02168232388794422, 0.9775000214576721],
        ],
    ),
]


@pytest.mark.parametrize(("config", "expected"), OFFICIAL)
def test_cem_gives_the_official_plan(config: CemConfig, expected: list[list[float]]) -> None:
    actions = plan(config).actions
    torch.testing.assert_close(
        actions[:, [0, 1, 2, 6]], torch.tensor(expected), atol=1e-5, rtol=0.0
    )
    assert not actions[:, 3:6].any()  # the arm never turns


@pytest.mark.parametrize("planner", PLANNERS)
def test_every_planner_finds_the_action(planner: Planner) -> None:
    found = plan(planner)
    assert (found.actions[0] - TRUE)[:3].abs().max() < 2e-3
    assert found.history[-1] < found.history[0] / 5
    model = ToyWorld()
    apart = model.imagine(context(model), found.actions[None])[0, -1] - goal(model)
    assert found.energy == pytest.approx(float(apart.detach().abs().mean()))


@pytest.mark.parametrize("planner", PLANNERS)
def test_a_plan_is_a_function_of_its_seed(planner: Planner) -> None:
    assert torch.equal(plan(planner).actions, plan(planner).actions)
    assert not torch.equal(plan(planner).actions, plan(planner, seed=8).actions)


def test_evaluations_are_counted() -> None:
    assert plan(CemConfig(samples=20, iterations=3)).evaluations == 61  # and the plan itself
    assert plan(MppiConfig(samples=20, iterations=3)).evaluations == 61
    assert plan(GradientConfig(starts=2, iterations=3)).evaluations == 9


@pytest.mark.parametrize("planner", PLANNERS)
def test_plans_stay_in_the_box(planner: Planner) -> None:
    limits = Limits(position=0.02, rotation=0.01, gripper=0.3, other=(("y", 0.005),))
    action = plan(replace(planner, limits=limits, horizon=2)).actions
    bound = torch.tensor([0.02, 0.005, 0.02, 0.01, 0.01, 0.01, 0.3])
    assert (action.abs() <= bound + 1e-7).all()
    assert action[:, 3:6].any()  # rotation is searched where it is allowed


@pytest.mark.parametrize("planner", PLANNERS)
def test_fixed_axes_and_a_closing_gripper(planner: Planner) -> None:
    limits = Limits(fixed=(("x", 0.03),), close_from=1, closing=-1.0)
    action = plan(replace(planner, limits=limits, horizon=2)).actions
    torch.testing.assert_close(action[:, 0], torch.tensor([0.03, 0.03]))
    assert float(action[1, 6]) == pytest.approx(-1, abs=1e-6)
    assert float(action[0, 6]) > -1


def test_a_small_gripper_motion_becomes_none() -> None:
    model = ToyWorld()
    wanted = goal(model, torch.tensor([0.05, -0.03, 0.04, 0, 0, 0, 0.2]))
    for still, expected in ((0.25, 0.0), (0.1, 0.2)):
        planner = CemConfig(limits=Limits(gripper_still=still))
        found = planner.plan(model, context(model), wanted, generator_of(0))
        assert float(found.actions[0, 6]) == pytest.approx(expected, abs=1e-3)


def test_memory_bounds_what_is_imagined_at_once_and_changes_nothing() -> None:
    few, many = ToyWorld(), ToyWorld()
    found = [
        CemConfig(samples=100, memory=memory).plan(m, context(m), goal(m), generator_of(3))
        for m, memory in ((few, 6 * 8 * 4 * 16 * 7.5e-9), (many, 1.0))
    ]
    assert (few.most, many.most) == (7, 100)
    torch.testing.assert_close(found[0].actions, found[1].actions)


def test_a_plan_goes_on_where_the_last_one_stopped() -> None:
    """A single plan that hardly moves shows where the search starts."""
    last = Plan(torch.rand(3, 7, generator=generator_of(0)) * 0.05, 0.0, torch.zeros(1), 0.0, 1)
    shifted = torch.cat([last.actions[1:], torch.zeros(1, 7)])
    shifted[:, 3:6] = 0
    planner = GradientConfig(horizon=3, starts=1, iterations=1, rate=1e-9)
    found = plan(planner, previous=last).actions
    shifted[:, 6] = 0  # all below `gripper_still`
    torch.testing.assert_close(found, shifted, atol=1e-6, rtol=0.0)


def test_the_mean_may_be_a_candidate() -> None:
    last = Plan(torch.stack([TRUE, TRUE]), 0.0, torch.zeros(1), 0.0, 1)
    settings = CemConfig(samples=3, elites=2, iterations=1)
    assert plan(settings, previous=last).history[0] > 0.01
    found = plan(replace(settings, include_mean=True), previous=last)
    assert float(found.history[0]) == pytest.approx(0, abs=1e-6)


def test_l2_measures_squares() -> None:
    model = ToyWorld()
    found = plan(CemConfig(metric="l2", samples=30))
    apart = model.imagine(context(model), found.actions[None])[0, -1] - goal(model)
    assert found.energy == pytest.approx(float(apart.detach().square().mean()))


def test_gradients_leave_the_model_alone() -> None:
    model = ToyWorld()
    GradientConfig(iterations=2).plan(model, context(model), goal(model), generator_of(0))
    assert model.weight.grad is None


def test_dropout_is_off_while_planning_and_on_again_after() -> None:
    class Blurred(ToyWorld):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = torch.nn.Dropout(0.5)

        def imagine(self, context: Context, action: torch.Tensor) -> torch.Tensor:
            return self.dropout(super().imagine(context, action))

    model = Blurred()
    found = CemConfig().plan(model, context(model), goal(model), generator_of(0))
    assert found.energy < 1e-4
    assert model.training
    assert model.dropout.training


def test_axes_of_several_arms_and_other_names() -> None:
    names = ("left.x", "left.y", "left.z", "left.rx", "left.gripper", "wheel")
    space = Limits(position=0.1, rotation=0.2, other=(("wheel", 3.0),)).space(names, 2)
    assert space.limit.shape == (2, 6)
    np.testing.assert_allclose(space.limit[1], [0.1, 0.1, 0.1, 0.2, 0.75, 3])
    np.testing.assert_allclose(space.spread[0], [0.1, 0.1, 0.1, 0.2, 1, 3])
    drawn = space.draw(5, generator_of(0))
    assert drawn.shape == (5, 2, 6)
    assert drawn.all()


def test_four_axes_are_enough() -> None:
    model = ToyWorld(names=SAWYER)
    rest = torch.tensor([0.1, 0.6, 0.2, 0.5])
    action = torch.tensor([-0.06, 0.02, 0.03, 0.4])
    wanted = model.see(rest + action).detach()
    found = CemConfig().plan(model, context(model, rest), wanted, generator_of(0))
    torch.testing.assert_close(found.actions[0], action, atol=1e-3, rtol=0.0)


@pytest.mark.parametrize(
    ("planner", "said"),
    [
        (CemConfig(horizon=0), "horizon of a plan is 0"),
        (CemConfig(elites=1), "at least 2 elites"),
        (CemConfig(samples=5), "10 elites of 5 samples"),
        (MppiConfig(temperature=0.0), "temperature"),
        (GradientConfig(rate=0.0), "must be positive"),
        (CemConfig(limits=Limits(other=(("w", 1.0),))), "the axis 'w'"),
        (CemConfig(limits=Limits(position=-1.0)), "negative"),
        (CemConfig(limits=Limits(close_from=-1)), "close_from is -1"),
        (CemConfig(memory=0.0), "memory"),
    ],
)
def test_options_that_cannot_be_are_refused(planner: Planner, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan(planner)


def test_an_unknown_axis_needs_a_limit() -> None:
    with pytest.raises(ConfigError, match="wheel"):
        Limits().space(("x", "wheel"), 1)


def test_a_model_without_gradient_is_refused() -> None:
    class Deaf(ToyWorld):
        def imagine(self, context: Context, action: torch.Tensor) -> torch.Tensor:
            return super().imagine(context, action).detach()

    model = Deaf()
    with pytest.raises(ConfigError, match="no gradient"):
        GradientConfig().plan(model, context(model), goal(model), generator_of(0))


@pytest.mark.parametrize("planner", PLANNERS)
def test_planners_survive_json(planner: Planner) -> None:
    assert from_dict(to_dict(planner)) == planner


@pytest.mark.parametrize("planner", [*PLANNERS, GradientConfig(starts=3, iterations=4)])
def test_evaluations_are_known_beforehand(planner: Planner) -> None:
    small = planner if isinstance(planner, GradientConfig) else replace(planner, samples=40)
    assert plan(small).evaluations == small.evaluations
