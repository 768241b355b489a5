import pytest
import torch
from torch import nn

from saccade.errors import CheckpointError
from saccade.train.optim import adamw, decayed, learning_rate, load_moments, moments


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 4, 8))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.words = nn.Embedding(5, 8)
        self.conv = nn.Conv2d(3, 8, 2)
        self.norm = nn.LayerNorm([4, 8])
        self.attention = nn.MultiheadAttention(8, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def test_only_the_weights_of_layers_decay() -> None:
    layers = {"conv.weight", "attention.in_proj_weight", "attention.out_proj.weight"}
    assert decayed(Model()) == layers | {"frozen.weight"}


def test_the_optimizer_gets_every_learned_parameter_once_in_its_group() -> None:
    model = Model()
    decay, rest = adamw(model, 1e-3, 0.1, (0.9, 0.95)).param_groups
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert len(decay["params"]) == 3
    learned = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in (*decay["params"], *rest["params"])} == {id(p) for p in learned}


def test_the_learning_rate_rises_and_falls_as_worked_out_by_hand() -> None:
    rates = [learning_rate(n, 10, lr=1.0, warmup=0.2, min_lr=0.1) for n in range(1, 11)]
    assert rates[:2] == [0.5, 1.0]
    assert rates[5] == pytest.approx(0.55)  # half way down: (1 + 0.1) / 2
    assert rates[9] == pytest.approx(0.1)
    assert learning_rate(1, 1, lr=1.0, warmup=0.0, min_lr=0.1) == pytest.approx(0.1)
    assert learning_rate(1, 1, lr=1.0, warmup=1.0, min_lr=0.1) == 1.0


def stepped(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = adamw(model, 1e-2, 0.1, (0.9, 0.95))
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def test_moments_return_to_the_parameters_they_belong_to() -> None:
    torch.manual_seed(0)
    first, second = (nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)) for _ in range(2))
    saved = moments(first, stepped(first))
    optimizer = adamw(second, 1e-2, 0.1, (0.9, 0.95))
    load_moments(second, optimizer, saved, "here")
    restored = moments(second, optimizer)
    assert restored.keys() == saved.keys()
    assert len(saved) == 12
    for name in saved:
        assert torch.equal(restored[name], saved[name]), name


@pytest.mark.parametrize("damage", ["lost slot", "unknown parameter", "shape"])
def test_moments_that_do_not_fit_are_refused(damage: str) -> None:
    model = nn.Linear(2, 3)
    saved = moments(model, stepped(model))
    if damage == "lost slot":
        del saved["weight.exp_avg"]
    elif damage == "shape":
        saved["weight.exp_avg"] = saved["weight.exp_avg"].T
    else:
        saved["other.step"] = torch.zeros(())
    before = {name: value.clone() for name, value in saved.items()}
    with pytest.raises(CheckpointError, match=r"weight\.exp_avg|other\.step"):
        load_moments(model, adamw(model, 1e-2, 0.1, (0.9, 0.95)), saved, "here")
    assert before.keys() == saved.keys()
