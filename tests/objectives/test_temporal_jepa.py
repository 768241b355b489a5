"""Worked out by hand, and trained on a world of one colour that the action changes."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from saccade.data.windows import PairWindow, TransitionWindow
from saccade.errors import ConfigError
from saccade.models.state_encoder import moment
from saccade.models.temporal_predictor import TemporalPredictorConfig
from saccade.models.vit import ViTConfig
from saccade.objectives.temporal_jepa import error, momentum
from saccade.objectives.vicreg import vicreg
from tests.contracts import check_objective
from tests.objectives.helpers import batch, moved_inputs
from tests.objectives.transitions import SPREAD, TINY, built, fit, world


@cache
def trained(actions: str) -> dict[str, float]:
    """Return held-out scores after a short training."""
    objective = fit(built(SPREAD, steps=60, actions=actions, momentum=0.9), 60).eval()
    with torch.no_grad():
        _, scalars = objective(world(64, 999))
    return {name: float(value) for name, value in scalars.items()}


def hashed(module: nn.Module) -> list[Tensor]:
    return [value.clone() for value in module.state_dict().values()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# Sizes and beginnings


def test_sizes_of_the_documents() -> None:
    predictor = TemporalPredictorConfig().build()
    assert sum(p.numel() for p in predictor.parameters()) == 1_056_512


def test_nothing_changes_before_training() -> None:
    objective, clip = built(), world(4)
    step = objective.step(clip)
    assert torch.equal(step.predicted, step.now)
    assert torch.equal(step.now, objective.encoder(moment(clip, 0)))
    _, scalars = objective.eval()(clip)
    assert scalars["ratio"].item() == pytest.approx(1)
    assert scalars["copy_mse"].item() == scalars["jepa_mse"].item() > 0


def test_the_target_begins_as_a_copy() -> None:
    for scope in ("encoder", "full"):
        objective, clip = built(target=scope), world(4)
        expected = objective.encoder(moment(clip, 1))
        torch.testing.assert_close(objective.step(clip).target, expected)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_momentum_by_hand(schedule: Any) -> None:
    config = replace(TINY, schedule=schedule)
    expected = [0.996, 0.998, 1.0, 1.0] if schedule == "cosine" else [0.996] * 4
    found = [momentum(step, config) for step in (0, 50, 100, 101)]
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("scope", ["encoder", "full"])
def test_the_average_follows_what_is_in_its_scope(scope: Any) -> None:
    objective = built(target=scope)
    old = {name: p.clone() for name, p in objective.target.named_parameters()}
    names = {"context"} if scope == "encoder" else {"context", "tokeniser", "state_proj"}
    assert set(objective.target) == names
    with torch.no_grad():
        for p in objective.encoder.parameters():
            p.add_(1)
    objective.after_step(50)
    for name, p in objective.target.named_parameters():
        torch.testing.assert_close(p, old[name] + 0.002)
    objective.after_step(100)
    before = hashed(objective.target)
    objective.after_step(100)
    assert same(before, hashed(objective.target)), "at the end the average stands still"


# The loss


def test_terms_by_hand() -> None:
    objective, clip = built(covariance_weight=0.5, variance_weight=2.0), world(8)
    with torch.no_grad():
        objective.predictor.out.bias.copy_(torch.linspace(-1, 1, 16))
    step = objective.step(clip)
    variance, covariance = vicreg(step.predicted)
    loss, scalars = objective(clip)
    assert scalars["jepa_mse"].item() == pytest.approx(error(step.predicted, step.target).item())
    assert scalars["jepa_variance"].item() == pytest.approx(2 * variance.item())
    assert scalars["jepa_covariance"].item() == pytest.approx(0.5 * covariance.item())
    assert scalars["variance"].item() == pytest.approx(variance.item())
    total = sum(scalars[f"jepa_{name}"].item() for name in ("mse", "variance", "covariance"))
    assert loss.item() == pytest.approx(total)
    assert error(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])).item() == 2.5
    # 8 samples of 16 dimensions: 16 / 7 - 1
    assert scalars["covariance_floor"].item() == pytest.approx(0.5 * (16 / 7 - 1))


def test_spread_of_state_and_target() -> None:
    clip = world(8)
    objective = built(vicreg_on=("prediction", "state", "target"))
    with torch.no_grad():
        objective.predictor.out.bias.copy_(torch.linspace(-1, 1, 16))
    step = objective.step(clip)
    expected = sum(vicreg(z)[0].item() for z in (step.predicted, step.now, step.target)) / 3
    assert objective.terms(clip)["jepa_variance"].item() == pytest.approx(expected)


def test_terms_of_weight_nothing_are_left_out() -> None:
    assert list(built(variance_weight=0.0, covariance_weight=0.0).terms(world(4))) == ["jepa_mse"]


@pytest.mark.parametrize("vicreg_on", [("prediction",), ("prediction", "state", "target")])
def test_where_gradients_go(vicreg_on: Any) -> None:
    """To tokenisers, encoder and predictor, never to the average, and never through the target."""
    objective, clip = built(vicreg_on=vicreg_on), world(8)
    nn.init.normal_(objective.predictor.out.weight, std=0.1)
    objective(clip)[0].backward()
    for name, p in objective.named_parameters():
        if name.startswith("target."):
            assert p.grad is None
        else:
            assert p.grad is not None, name
            assert p.grad.any(), name
    step = objective.step(clip)
    assert step.target.requires_grad == ("target" in vicreg_on)
    parts = objective.weigh(step)["jepa_mse"]
    if step.target.requires_grad:
        (slope,) = torch.autograd.grad(parts, step.target, allow_unused=True)
        assert slope is None


def test_actions_as_the_network_takes_them() -> None:
    objective, clip = built(), world(4)
    mean, std = torch.tensor([1.0, 2.0, 9.0]), torch.tensor([2.0, 4.0, 9.0])
    objective.set_statistics(mean, std)
    clip["action"][:, 0, 2] = torch.tensor([1.0, 0.0, 1.0, 0.0])  # open, closed
    found = objective.action(clip)
    torch.testing.assert_close(found[:, :2], (clip["action"][:, 0, :2] - mean[:2]) / std[:2])
    assert found[:, 2].tolist() == [-1, 1, -1, 1]
    others = built(actions="shuffled")
    assert torch.equal(others.action(clip)[1:], built().action(clip)[:-1])
    assert not built(actions="none").action(clip).any()


def test_statistics_are_never_made_up() -> None:
    with pytest.raises(ConfigError, match="call set_statistics"):
        TINY.build()(world(4))
    shape = replace(TINY.encoder, standardise_state=True)
    objective, zeros, ones = built(encoder=shape), torch.zeros(3), torch.ones(3)
    with pytest.raises(ConfigError, match="standardises states"):
        objective.set_statistics(zeros, ones)
    objective.set_statistics(zeros, ones, ones, 2 * ones)
    assert objective.encoder.state_std.tolist() == [2, 2, 2]


# What it learns


def test_it_learns_what_actions_do() -> None:
    scores = trained("recorded")
    assert scores["ratio"] < 0.5
    assert scores["shuffled_ratio"] > 2
    assert scores["z_std"] > 0.5
    assert scores["effective_rank"] > 2
    assert scores["rank_share"] == pytest.approx(scores["effective_rank"] / 16)
    assert -0.1 < scores["cosine"] < 0.9


def test_the_control_does_not() -> None:
    scores = trained("shuffled")
    assert scores["shuffled_ratio"] == pytest.approx(1, abs=0.05)
    assert scores["jepa_mse"] > 2 * trained("recorded")["jepa_mse"]


@pytest.mark.parametrize("options", [{"target": "full"}, {"vicreg_on": ("state", "target")}])
def test_contract(options: dict[str, Any]) -> None:
    check_objective(built(SPREAD, **options), world(8), steps=24)


def test_contract_on_data() -> None:
    shape = replace(TINY.encoder, state_size=4)
    check_objective(
        built(SPREAD, encoder=shape, action_size=4),
        batch(TransitionWindow(gap=1), size=8, image_size=16),
        steps=15,
    )


def test_no_target_is_an_input() -> None:
    objective, clip = built(), world(4)
    assert moved_inputs(objective, clip) == set()
    assert set(objective.inputs(clip)) == {"language", "state", "views", "action"}
    blind = objective.without_target(clip)
    assert (blind["state"][:, 1] != clip["state"][:, 1]).any()
    assert torch.equal(blind["state"][:, 0], clip["state"][:, 0])


def test_baselines() -> None:
    objective, clip = fit(built(), 3), world(8)
    found = objective.baselines(clip)
    assert list(found) == ["copy", "shuffled_actions"]
    step = objective.step(clip)
    copied = objective.weigh(step._replace(predicted=step.now))
    torch.testing.assert_close(found["copy"], sum(copied.values()))
    other = {**clip, "action": clip["action"].roll(1, 0)}
    torch.testing.assert_close(found["shuffled_actions"], objective(other)[0])


# Faults


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"momentum": 1.5}, "momentum is 1.5"),
        ({"target": "full", "vicreg_on": ("target",)}, "nothing is trained"),
        ({"vicreg_on": ()}, "vicreg_on is empty"),
        ({"grippers": 4}, "no more grippers than numbers"),
        ({"encoder": ViTConfig(dim=24, depth=1, heads=2)}, "is a ViT, not a StateEncoder"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        built(**options)


def test_clips_that_are_no_transition() -> None:
    with pytest.raises(
        ConfigError, match=r"2 moments and 5 actions of 4 numbers.*TransitionWindow"
    ):
        built()(batch(PairWindow(max_gap=5), image_size=16))
    with pytest.raises(ConfigError, match="batch of one sample"):
        built()(world(1))
