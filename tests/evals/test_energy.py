import pytest
import torch

from saccade.errors import ConfigError, NumericError
from saccade.evals.energy import ImaginedEnergy, Metric
from saccade.types import WORKING, Context
from tests.evals.toy_arm import REST, ToyWorld

ACTIONS = torch.linspace(-0.05, 0.05, 10 * 2 * 7).reshape(10, 2, 7)


def energy(model: ToyWorld, metric: Metric = "l1", memory: float = 2.0) -> ImaginedEnergy:
    with torch.no_grad():
        context = Context(features=model.see(REST)[None], state=REST[None])
        return ImaginedEnergy(model, context, model.see(REST + 0.03), metric, memory)


@pytest.mark.parametrize("metric", ["l1", "l2"])
def test_energy_is_a_mean_over_the_last_frame(metric: Metric) -> None:
    model = ToyWorld()
    found = energy(model, metric)(ACTIONS)
    end = REST + ACTIONS.sum(1)  # the gripper stays within its bounds
    apart = (model.see(end) - model.see(REST + 0.03)).detach().flatten(1)
    expected = apart.abs().mean(1) if metric == "l1" else apart.square().mean(1)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad


def test_memory_bounds_what_is_imagined_at_once_and_changes_nothing() -> None:
    few, many = ToyWorld(), ToyWorld()
    bound = 3.5 * 2 * 6 * 8 * 4 * WORKING / 1e9  # three candidates of 2 actions, 6 x 8 features
    small, large = energy(few, memory=bound), energy(many)
    torch.testing.assert_close(small(ACTIONS), large(ACTIONS))
    assert (few.most, many.most) == (3, 10)
    assert energy(few, memory=1e-12)(ACTIONS[:2]).shape == (2,)  # one at a time, at least


def test_evaluations_are_counted() -> None:
    found = energy(ToyWorld())
    found(ACTIONS)
    found(ACTIONS[:3])
    assert found.evaluations == 13


def test_the_slope_is_that_of_the_energy() -> None:
    model = ToyWorld().double()
    model.phase = model.phase.double()
    goal = model.see(REST.double() + 0.03).detach()
    context = Context(features=goal[None], state=REST.double()[None])
    found = ImaginedEnergy(model, context, goal, "l2")
    actions = ACTIONS[:2].double().requires_grad_()
    assert torch.autograd.gradcheck(found, actions)


def test_a_goal_of_another_size_is_refused() -> None:
    model = ToyWorld()
    context = Context(features=model.see(REST)[None], state=REST[None])
    with pytest.raises(ConfigError, match=r"\(5, 8\), the context \(6, 8\)"):
        ImaginedEnergy(model, context, torch.zeros(5, 8))


def test_energies_that_are_not_finite_are_refused() -> None:
    with pytest.raises(NumericError, match="not finite"):
        energy(ToyWorld())(ACTIONS * torch.nan)


def test_half_precision_is_compared_in_single() -> None:
    class Half(ToyWorld):
        def imagine(self, context: Context, action: torch.Tensor) -> torch.Tensor:
            return context.features[None].expand(len(action), 1, 6, 8).bfloat16() * 512

    model = Half()
    features = torch.ones(1, 6, 8, dtype=torch.bfloat16)
    found = ImaginedEnergy(model, Context(features=features, state=REST[None]), features[0])
    assert float(found(ACTIONS[:1])) == 511  # 512 in bfloat16
