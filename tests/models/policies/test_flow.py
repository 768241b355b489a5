"""Flow matching: the path, the samplers, the sizes of the documents, and every backbone."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from saccade.errors import ConfigError
from saccade.models.policies.flow import FlowHead, FlowHeadConfig, Sampler, integrate
from saccade.models.policies.head import Condition, Sizes
from tests.models.policies.helpers import FLOW, check_head, head_inputs, sizes

LIBERO = Sizes(condition=256, tokens=0, actions=7, grippers=(6,), chunk=10)


def built(config: FlowHeadConfig = FLOW, tokens: int = 0) -> FlowHead:
    torch.manual_seed(0)
    return config.build(sizes(tokens))


def count(module: nn.Module | None) -> int:
    assert module is not None
    return sum(p.numel() for p in module.parameters())


def test_sizes_are_those_of_the_documents() -> None:
    head = FlowHeadConfig().build(LIBERO)
    assert count(head.velocity) == 2_395_654
    assert count(head.gripper) == 134_154
    assert count(FlowHeadConfig(hidden=0).build(LIBERO).velocity) == 1_805_062
    assert count(head) == 2_529_809


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 50])
@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_the_true_velocity_leads_back_exactly(steps: int, sampler: Sampler) -> None:
    x0, noise = torch.randn(2, 3, 10, 6, dtype=torch.float64).unbind()
    found = integrate(lambda x, level: noise - x0, noise, steps, sampler)
    torch.testing.assert_close(found, x0)


def test_samplers_equal_a_hand_calculation() -> None:
    seen: list[float] = []

    def velocity(x: Tensor, level: float) -> Tensor:
        seen.append(level)
        return x + level

    one = torch.ones(1)
    # x - (x + level) / 4 at levels 1, .75, .5, .25: 0.5, 0.1875, 0.015625, -0.05078125
    assert integrate(velocity, one, 4).item() == -0.05078125
    assert seen == [1.0, 0.75, 0.5, 0.25]
    seen.clear()
    # v = 2 at 1, then 0 + 0.5 at 0.5: mean 1.25, x = 0.375; v = .875, then -.0625 + 0: mean .40625
    assert integrate(velocity, one, 2, "heun").item() == 0.375 - 0.40625 / 2
    assert seen == [1.0, 0.5, 0.5, 0.0]


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_more_steps_are_no_worse_on_a_gaussian(sampler: Sampler) -> None:
    """Where commands are N(m, s), the mean velocity is known, and so is where noise should end."""
    mean, std = 1.5, 0.5

    def velocity(x: Tensor, level: float) -> Tensor:
        variance = (1 - level) ** 2 * std**2 + level**2
        surprise = (x - (1 - level) * mean) / variance
        noise, x0 = level * surprise, mean + (1 - level) * std**2 * surprise
        return noise - x0

    noise = torch.linspace(-3, 3, 101, dtype=torch.float64)
    target = mean + std * noise
    errors = [
        float((integrate(velocity, noise, steps, sampler) - target).square().mean())
        for steps in (2, 4, 8, 16, 64)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3


def test_a_trained_field_draws_what_it_has_seen() -> None:
    """One axis that follows the condition, and a gripper with it: 100 updates are enough."""
    torch.manual_seed(0)
    config = FlowHeadConfig(backbone="transformer", dim=16, depth=1, heads=2, steps=8)
    head = config.build(Sizes(condition=1, tokens=0, actions=2, grippers=(1,), chunk=2))
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    pad = torch.zeros(64, 2, dtype=torch.bool)
    for step in range(100):
        side = torch.where(torch.rand(64, 1) < 0.5, -1.0, 1.0)
        action = torch.stack([side.expand(-1, 2) * 1.5, -side.expand(-1, 2)], -1)
        key = torch.arange(64) + 64 * step
        loss = torch.stack([*head.losses(Condition(side), action, pad, key).values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    side = torch.tensor([[-1.0], [1.0]]).repeat(50, 1)
    with torch.no_grad():
        drawn = head.sample(Condition(side), torch.Generator().manual_seed(0))
    assert (drawn[..., 0] - 1.5 * side).abs().mean() < 0.3
    assert torch.equal(drawn[..., 1], -side.expand(-1, 2))


@pytest.mark.parametrize("backbone", ["mamba", "transformer", "unet1d"])
@pytest.mark.parametrize("gripper", ["classifier", "unified"])
def test_every_backbone_is_a_head(
    backbone: Literal["mamba", "transformer", "unet1d"],
    gripper: Literal["classifier", "unified"],
) -> None:
    config = replace(FLOW, backbone=backbone, gripper=gripper)
    check_head(config, reads_padding=backbone != "mamba")


@pytest.mark.parametrize("backbone", ["mamba", "transformer", "unet1d"])
def test_padded_commands_are_no_targets(
    backbone: Literal["mamba", "transformer", "unet1d"],
) -> None:
    head = built(replace(FLOW, backbone=backbone))
    condition, action, is_pad, key = head_inputs()
    is_pad[1, 2:], is_pad[4, 1:] = True, True
    seen: list[Tensor] = []

    def watch(module: nn.Module, inputs: object, output: Tensor) -> None:
        seen.append(output)

    head.velocity.register_forward_hook(watch)
    loss = head.losses(condition, action, is_pad, key)["pos_rot_loss"]
    (gradient,) = torch.autograd.grad(loss, seen)
    assert torch.equal(gradient.abs().sum(-1) == 0, is_pad)


@pytest.mark.parametrize("backbone", ["mamba", "transformer"])
def test_commands_attend_to_tokens(backbone: Literal["mamba", "transformer"]) -> None:
    check_head(replace(FLOW, backbone=backbone), 12, reads_padding=backbone != "mamba")
    head = built(replace(FLOW, backbone=backbone), tokens=12)
    condition, action, is_pad, key = head_inputs(tokens=12)
    assert condition.tokens is not None
    loss = head.losses(condition, action, is_pad, key)["pos_rot_loss"]
    moved = condition._replace(tokens=condition.tokens.roll(1, 0))
    assert head.losses(moved, action, is_pad, key)["pos_rot_loss"] != loss


def test_a_unet_that_cannot_attend_says_so() -> None:
    with pytest.raises(ConfigError, match="attends to no tokens"):
        built(replace(FLOW, backbone="unet1d"), tokens=12)


@pytest.mark.parametrize("chunk", [1, 3, 10])
def test_a_unet_takes_any_chunk(chunk: int) -> None:
    head = replace(FLOW, backbone="unet1d", depth=3).build(sizes()._replace(chunk=chunk))
    assert head.sample(Condition(torch.randn(2, 6))).shape == (2, chunk, 7)


def test_the_velocity_depends_on_the_condition() -> None:
    """The original gave its flow a vector of zeros: motion that saw nothing."""
    head = built()
    condition, action, is_pad, key = head_inputs()
    z = condition.z.requires_grad_()
    (gradient,) = torch.autograd.grad(
        head.losses(Condition(z), action, is_pad, key)["pos_rot_loss"], z
    )
    assert (gradient.abs().sum(1) > 0).all()


def test_the_loss_is_that_of_the_velocity() -> None:
    head = built()
    condition, action, is_pad, key = head_inputs()
    x, level, velocity = head.path(action[..., :6], key)
    noise = velocity + action[..., :6]
    torch.testing.assert_close(
        x, (1 - level[:, None, None]) * action[..., :6] + level[:, None, None] * noise
    )
    expected = (head.velocity(x, level, condition) - velocity).square().mean()
    loss = head.losses(condition, action, is_pad, key)["pos_rot_loss"]
    torch.testing.assert_close(loss, expected)


def test_the_floor_is_the_least_that_a_blind_field_can_reach() -> None:
    """On N(0, 1) commands the error is the mean of 1 / ((1 - s)^2 + s^2) = pi / 2 over levels."""
    head = FLOW.build(Sizes(condition=1, tokens=0, actions=6, grippers=(), chunk=4))
    action = torch.randn(4000, 4, 6, generator=torch.Generator().manual_seed(0))
    pad = torch.zeros(4000, 4, dtype=torch.bool)
    floor = head.floors(action, pad, torch.arange(4000))
    torch.testing.assert_close(floor, torch.tensor(torch.pi / 2), atol=0.02, rtol=0)


def test_levels_may_prefer_the_middle() -> None:
    key, motion = torch.arange(4000), torch.zeros(4000, 1, 6)
    even = built().path(motion, key)[1]
    level = built(replace(FLOW, levels="logit_normal")).path(motion, key)[1]
    assert float(even.std()) == pytest.approx(12**-0.5, abs=0.01)
    assert float(level.logit().mean()) == pytest.approx(0, abs=0.05)
    assert float(level.logit().std()) == pytest.approx(1, abs=0.05)


def test_more_steps_can_be_asked_for_after_training() -> None:
    head = built()
    condition = head_inputs()[0]
    draws = []
    for head.steps in (1, 4, 4):
        draws.append(head.sample(condition, torch.Generator().manual_seed(0)))
    assert torch.equal(draws[1], draws[2])
    assert not torch.equal(draws[0], draws[1])


def test_sizes_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="at least 1 step"):
        built(replace(FLOW, steps=0))
    for backbone, dim in (("mamba", 33), ("transformer", 33), ("unet1d", 36)):
        with pytest.raises(ConfigError, match=f"dim is {dim} .* multiple of"):
            built(replace(FLOW, backbone=backbone, dim=dim))
    with pytest.raises(ConfigError, match="multiple of 6"):
        built(replace(FLOW, heads=3), tokens=12)
