import copy
import importlib.util
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from saccade.errors import CheckpointError, ConfigError
from saccade.train.optim import (
    adamw,
    decayed,
    learning_rate,
    load_moments,
    moment_bytes,
    moments,
    set_rate,
)


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


def test_a_rate_that_is_stable_rises_stays_and_falls_as_worked_out_by_hand() -> None:
    shape = {"lr": 2.0, "warmup": 0.2, "min_lr": 0.5, "start_lr": 0.25}
    rates = [learning_rate(n, 10, **shape, schedule="wsd", cooldown=0.4) for n in range(1, 11)]
    assert rates == [1.25, 2.0, 2.0, 2.0, 2.0, 2.0, 1.75, 1.5, 1.25, 1.0]
    never = [learning_rate(n, 4, 1.0, 0.0, 0.0, schedule="wsd") for n in range(1, 5)]
    assert never == [1.0] * 4
    assert learning_rate(4, 4, 1.0, 1.0, 0.0, schedule="wsd", cooldown=0.5) == 1.0


def test_a_constant_rate_only_rises() -> None:
    shape = {"lr": 2.0, "warmup": 0.5, "min_lr": 0.1, "cooldown": 0.5}
    assert [learning_rate(n, 4, **shape, schedule="constant") for n in range(1, 5)] == [1, 2, 2, 2]


def stepped(model: nn.Module, kind: str = "adamw") -> torch.optim.Optimizer:
    optimizer = adamw(model, 1e-2, 0.1, (0.9, 0.95), kind)
    width = next(model.parameters()).shape[1]
    model(torch.linspace(-1, 1, width)[None]).square().sum().backward()
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


def weights(model: nn.Module) -> torch.Tensor:
    return model.get_parameter("0.weight").detach().clone()


def large() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(100, 70), nn.Linear(70, 3))  # 7000 numbers, and 210


HAS_TORCHAO = importlib.util.find_spec("torchao") is not None
torchao = pytest.mark.skipif(not HAS_TORCHAO, reason="torchao is not installed, as in CI")
KINDS = ("adamw8bit", pytest.param("adamw8bit_torchao", marks=torchao))


@pytest.fixture(autouse=True)
def no_compiler() -> Iterator[None]:
    """torchao compiles for half a minute what is as right without."""
    with torch.compiler.set_stance("force_eager"):
        yield


@torchao
def test_torchao_s_moments_are_codes_too() -> None:
    torch.manual_seed(0)
    model, exact = (nn.Sequential(nn.Linear(128, 64), nn.Linear(64, 3)) for _ in range(2))
    exact.load_state_dict(model.state_dict())
    start = weights(model)
    state = moments(model, stepped(model, "adamw8bit_torchao"))
    stepped(exact)
    assert state["0.weight.codes1"].dtype == torch.uint8
    assert state["0.weight.scale2"].shape == (32,)
    assert state["1.weight.exp_avg"].dtype == torch.float32
    kept = sum(v.nbytes for k, v in state.items() if k.startswith("0.weight") and "step" not in k)
    assert kept == moment_bytes(128 * 64, "adamw8bit_torchao") < 0.3 * moment_bytes(128 * 64)
    one, other = ((weights(m) - start).norm() for m in (model, exact))
    assert one == pytest.approx(float(other), rel=0.02)


def test_eight_bits_take_a_quarter_of_the_memory_and_steps_of_nearly_the_same_size() -> None:
    model, exact = large(), large()
    start = weights(model)
    state = moments(model, stepped(model, "adamw8bit"))
    stepped(exact)
    assert state["0.weight.state1"].dtype == torch.uint8
    assert state["1.weight.state1"].dtype == torch.float32  # small ones keep theirs
    assert state["0.weight.absmax1"].shape == (28,)  # blocks of 256
    sizes = {name: 0 for name, _ in model.named_parameters()}
    for key, value in state.items():
        sizes[key.rpartition(".")[0]] += 0 if key.endswith(".step") else value.nbytes
    assert sizes == {n: moment_bytes(p.numel(), "adamw8bit") for n, p in model.named_parameters()}
    assert sizes["0.weight"] < 0.3 * moment_bytes(7000)
    one, other = ((weights(m) - start).norm() for m in (model, exact))
    assert one == pytest.approx(float(other), rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_training_in_eight_bits_goes_on_as_if_it_had_never_stopped(kind: str) -> None:
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Linear(100, 64), nn.Linear(64, 3))
    half = copy.deepcopy(whole)
    optimizer = adamw(whole, 1e-2, 0.1, (0.9, 0.95), kind)
    stepping = adamw(half, 1e-2, 0.1, (0.9, 0.95), kind)
    for step in range(6):
        if step == 3:
            saved = {name: value.clone() for name, value in moments(half, stepping).items()}
            stepping = adamw(half, 1e-2, 0.1, (0.9, 0.95), kind)
            load_moments(half, stepping, saved, "here")
        for model, its in ((whole, optimizer), (half, stepping)):
            torch.manual_seed(step)
            set_rate(its, 1e-2 / (step + 1))
            its.zero_grad()
            model(torch.randn(4, 100)).square().sum().backward()
            its.step()
    ours, theirs = moments(half, stepping), moments(whole, optimizer)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    pairs = zip(half.parameters(), whole.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_moments_of_the_other_kind_are_refused() -> None:
    model = large()
    saved = moments(model, stepped(model))
    with pytest.raises(CheckpointError, match="does not fit the optimizer"):
        load_moments(model, adamw(model, 1e-2, 0.1, (0.9, 0.95), "adamw8bit"), saved, "here")


@pytest.mark.parametrize(
    ("kind", "module", "extra"),
    [("adamw8bit", "bitsandbytes", "finetune"), ("adamw8bit_torchao", "torchao.optim", "torchao")],
)
def test_without_the_library_eight_bits_are_refused(
    monkeypatch: pytest.MonkeyPatch, kind: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"saccade\[{extra}\]"):
        adamw(nn.Linear(2, 2), 1e-2, 0.1, (0.9, 0.95), kind)
