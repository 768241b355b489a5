"""The mixture of LIBERO's behaviour cloning, and the plain regression."""

import math
from typing import Literal

import pytest
import torch
from torch import distributions

from saccade.errors import ConfigError
from saccade.models.policies.head import Condition
from saccade.models.policies.mixture import MixtureHeadConfig, RegressionHeadConfig
from tests.models.policies.helpers import CHUNK, check_head, head_inputs, sizes

SMALL = MixtureHeadConfig(width=32)


@pytest.mark.parametrize("gripper", ["classifier", "unified"])
def test_both_are_heads(gripper: Literal["classifier", "unified"]) -> None:
    check_head(MixtureHeadConfig(width=32, gripper=gripper))
    check_head(RegressionHeadConfig(width=32, gripper=gripper))


def test_the_likelihood_is_that_of_torch() -> None:
    torch.manual_seed(0)
    head = SMALL.build(sizes())
    condition, action, is_pad, key = head_inputs()
    logits, mean, std = head.parts(condition)
    assert mean.abs().max() <= 1
    assert std.min() > 1e-4
    mixture = distributions.MixtureSameFamily(
        distributions.Categorical(logits=logits),
        distributions.Independent(distributions.Normal(mean, std), 2),
    )
    least = 7 * (math.log(1e-4) + 0.5 * math.log(2 * math.pi))
    expected = -mixture.log_prob(action).mean() / CHUNK - least
    loss = head.losses(condition, action, is_pad, key)["action_loss"]
    torch.testing.assert_close(loss, expected)


def test_the_loss_is_nothing_at_a_hit_as_narrow_as_can_be() -> None:
    head = MixtureHeadConfig(width=8, modes=1).build(sizes())
    condition, action, is_pad, key = head_inputs()
    with torch.no_grad():
        head.std.weight.zero_()
        head.std.bias.fill_(-100.0)
        head.mean.weight.zero_()
        head.mean.bias.zero_()
    loss = head.losses(condition, torch.zeros_like(action), is_pad, key)["action_loss"]
    torch.testing.assert_close(loss, torch.tensor(0.0), atol=1e-4, rtol=0)


def test_answers_are_drawn_or_the_likeliest() -> None:
    torch.manual_seed(0)
    head = SMALL.build(sizes())
    with torch.no_grad():
        head.logits.bias.copy_(torch.tensor([0.0, 0.0, 50.0, 0.0, 0.0]))
        head.std.bias.fill_(-100.0)
        head.std.weight.zero_()
    condition = head_inputs()[0]
    mean = head.parts(condition)[1][:, 2, :, :6]
    drawn = head.sample(condition, torch.Generator().manual_seed(0))[..., :6]
    torch.testing.assert_close(drawn, mean, atol=1e-3, rtol=0)
    assert not torch.equal(drawn, mean)
    head.answer = "mode"
    assert torch.equal(head.sample(condition)[..., :6], mean)


def test_modes_are_drawn_as_often_as_they_should() -> None:
    head = MixtureHeadConfig(width=8, modes=2).build(sizes())
    with torch.no_grad():
        head.logits.weight.zero_()
        head.logits.bias.copy_(torch.tensor([0.75, 0.25]).log())
        head.mean.weight.zero_()
        head.mean.bias.copy_(torch.tensor([-1.0, 1.0]).repeat_interleave(7 * CHUNK))
        head.std.weight.zero_()
        head.std.bias.fill_(-100.0)
    drawn = head.sample(Condition(torch.zeros(4000, 6)), torch.Generator().manual_seed(0))
    assert float((drawn[:, 0, 0] < 0).float().mean()) == pytest.approx(0.75, abs=0.03)
    assert torch.equal(drawn[:, 0, 0] < 0, drawn[:, -1, 0] < 0), "a mode is a whole chunk"


def test_the_floor_of_regression_is_the_variance() -> None:
    head = RegressionHeadConfig(width=8).build(sizes(grippers=()))
    _, action, is_pad, key = head_inputs(batch=50)
    variance = action.flatten(0, 1).var(0, correction=0).mean()
    torch.testing.assert_close(head.floors(action, is_pad, key), variance)


def test_faults() -> None:
    with pytest.raises(ConfigError, match="modes is 0"):
        MixtureHeadConfig(modes=0).build(sizes())
    for config in (SMALL, RegressionHeadConfig()):
        with pytest.raises(ConfigError, match="attends to no tokens"):
            config.build(sizes(tokens=4))
