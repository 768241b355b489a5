"""What heads share: random numbers of a sample, means that add up, and the gripper's classifier."""

import math

import pytest
import torch
import torch.nn.functional as F

from saccade.models.policies.head import counted, mlp, normal
from saccade.models.policies.mixture import RegressionHeadConfig
from tests.models.policies.helpers import head_inputs, sizes


def test_normal_numbers_belong_to_the_key() -> None:
    key = torch.arange(2000)
    drawn = normal(key, 20, stream=1)
    assert torch.equal(normal(key[7:9], 20, stream=1), drawn[7:9])
    assert not torch.equal(normal(key, 20, stream=2), drawn)
    assert drawn.mean().abs() < 0.02
    assert (drawn.std() - 1).abs() < 0.02
    below = (drawn < 1.0).float().mean()
    torch.testing.assert_close(below, torch.tensor(0.8413), atol=5e-3, rtol=0)


def test_means_count_padded_commands_as_nothing() -> None:
    errors = torch.tensor([[[2.0, 4.0], [1.0, 1.0]], [[6.0, 0.0], [9.0, 9.0]]])
    is_pad = torch.tensor([[False, False], [False, True]])
    assert counted(errors, is_pad) == (3 + 1 + 3 + 0) / 4


def test_a_perceptron_has_the_sizes_that_it_is_given() -> None:
    assert sum(p.numel() for p in mlp(256, 256, 10, hidden=2).parameters()) == 134_154


def test_the_classifier_learns_closed_as_one() -> None:
    head = RegressionHeadConfig().build(sizes())
    condition, action, is_pad, key = head_inputs()
    assert head.gripper is not None
    logits = head.gripper(condition.z)
    closed = (action[..., 6] > 0).float()
    expected = F.binary_cross_entropy_with_logits(logits, closed)
    torch.testing.assert_close(
        head.losses(condition, action, is_pad, key)["gripper_loss"], expected
    )
    drawn = head.sample(condition)[..., 6]
    assert torch.equal(drawn > 0, logits > 0)


def test_a_weight_scales_the_classifier() -> None:
    condition, action, is_pad, key = head_inputs()
    losses = []
    for weight in (1.0, 3.0):
        torch.manual_seed(0)
        head = RegressionHeadConfig(gripper_weight=weight).build(sizes())
        losses.append(head.losses(condition, action, is_pad, key)["gripper_loss"])
    torch.testing.assert_close(losses[1], 3 * losses[0])


def test_the_floor_of_the_classifier_is_the_entropy_of_closed() -> None:
    head = RegressionHeadConfig().build(sizes())
    _, action, is_pad, key = head_inputs(batch=4)
    action[..., 6] = -1.0
    action[0, :, 6] = 1.0  # 4 of 16 are closed
    motion = head.motion_floor(action[..., :6], is_pad, key)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    floor = head.floors(action, is_pad, key) - motion
    assert float(floor) == pytest.approx(entropy, rel=1e-4)


@pytest.mark.parametrize("grippers", [(), (2, 6)])
def test_hands_may_have_no_gripper_or_two(grippers: tuple[int, ...]) -> None:
    head = RegressionHeadConfig().build(sizes(grippers=grippers))
    condition, action, is_pad, key = head_inputs()
    terms = head.losses(condition, action, is_pad, key)
    assert set(terms) == ({"pos_rot_loss", "gripper_loss"} if grippers else {"action_loss"})
    drawn = head.sample(condition)
    assert drawn.shape == action.shape
    assert all(set(drawn[..., i].unique().tolist()) <= {-1.0, 1.0} for i in grippers)
