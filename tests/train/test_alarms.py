from collections.abc import Mapping

import torch
from torch import Tensor, nn

from saccade.train import alarms
from saccade.types import Clip, Objective
from tests.train.toy import HELD_OUT, Shift, shift

CLIP = HELD_OUT[0]


def raised(objective: Objective) -> list[str]:
    dead, _ = alarms.dead_gradients(objective, CLIP, "error")
    found = alarms.leak(objective, CLIP) + dead
    for name, samples in alarms.features(objective, CLIP).items():
        found += alarms.collapse(name, samples)
    return [alarm.name for alarm in found]


def test_a_good_objective_is_left_in_peace_and_unchanged() -> None:
    objective = shift()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    assert raised(objective) == []
    assert objective.training
    assert all(p.grad is None for p in objective.parameters())
    for name, value in objective.state_dict().items():
        assert torch.equal(value, before[name])


class Leaks(Shift):
    def inputs(self, clip: Clip) -> Mapping[str, Tensor]:
        video = clip["video"].float().mean(1, keepdim=True)[:, :, 0]
        return {"first": video.to(torch.uint8)}


def test_an_input_that_mixes_in_the_target_is_a_leak() -> None:
    (found,) = alarms.leak(Leaks(), CLIP)
    assert (found.name, found.severity) == ("leak", "error")
    assert "'first'" in found.detail


def test_an_input_that_may_see_the_target_is_no_leak() -> None:
    objective = Leaks()
    objective.sees_target = frozenset({"first"})
    assert alarms.leak(objective, CLIP) == []


class Unperturbed(Shift):
    def without_target(self, clip: Clip) -> Clip:
        return clip


def test_a_leak_test_that_tests_nothing_rings() -> None:
    assert "no pixel" in alarms.leak(Unperturbed(), CLIP)[0].detail


class Dead(Shift):
    def __init__(self) -> None:
        super().__init__()
        self.forgotten = nn.Linear(2, 2)
        self.teacher = nn.Linear(2, 2).requires_grad_(False)

    def terms(self, clip: Clip) -> Mapping[str, Tensor]:
        zero = 0.0 * self.forgotten.weight.sum()
        return {"pixels": super().terms(clip)["pixels"], "nothing": zero}


def test_a_module_without_gradient_is_named_and_a_frozen_one_is_not() -> None:
    (found,), numbers = alarms.dead_gradients(Dead(), CLIP, "warning")
    assert (found.name, found.severity) == ("dead gradients", "warning")
    assert "forgotten" in found.detail
    assert numbers["gradient/encoder/pixels"] > 0
    assert numbers["gradient/forgotten/nothing"] == 0


def test_a_gradient_that_is_not_finite_is_always_an_error() -> None:
    objective = shift()
    objective.head.weight.data[0] = float("nan")
    found, _ = alarms.dead_gradients(objective, CLIP, "warning")
    assert {alarm.severity for alarm in found} == {"error"}


def test_constant_and_one_dimensional_features_are_collapsed() -> None:
    torch.manual_seed(0)
    noise = torch.randn(20, 16)
    line = torch.randn(20, 1) * torch.ones(16)
    assert alarms.collapse("x", 1 + noise) == []
    assert "constant" in alarms.collapse("x", 1 + 1e-5 * noise)[0].detail
    assert "one direction" in alarms.collapse("x", line + 1e-3 * noise)[0].detail
    assert alarms.collapse("x", line[:4]) == []  # four samples cannot show a rank


def test_a_collapsed_encoder_rings() -> None:
    objective = shift()
    objective.encoder.project.weight.data.zero_()
    assert "collapse" in raised(objective)


def test_the_copy_baseline_is_a_bar_on_both_sides() -> None:
    names = [[a.name for a in alarms.trivial({"eval/ratio": r})] for r in (1.2, 0.98, 0.5, 0.01)]
    assert names == [["trivial"], ["trivial"], [], ["too good"]]
    assert alarms.trivial({}) == []


def test_the_first_module_that_breaks_is_named() -> None:
    objective = shift()
    assert alarms.first_non_finite(objective, CLIP) == ""
    objective.head.bias.data[3] = float("inf")
    assert alarms.first_non_finite(objective, CLIP) == "output of head"
