"""Adapters change nothing until trained, are saved alone, and fit only the network they knew."""

import json
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from saccade.errors import CheckpointError, ConfigError
from saccade.models.lora import (
    LoraConfig,
    adapters,
    add_lora,
    base_digest,
    load_lora,
    lora_state,
    merge_lora,
    remove_lora,
    save_lora,
)
from saccade.nn.transformer import Block

CONFIG = LoraConfig(rank=4, targets=("qkv", "proj"))
X = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1))


class Network(nn.Module):
    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([Block(dim, heads=2), Block(dim, heads=2)])
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.out_proj(x)


def trained() -> Network:
    network = Network()
    add_lora(network, CONFIG)
    for name, value in network.named_parameters():
        if "lora_" in name:
            nn.init.normal_(value, std=0.1)
    return network.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_lora(tmp_path, trained(), CONFIG, {"step": 7})
    return tmp_path


def test_a_network_with_fresh_adapters_computes_what_it_did_before() -> None:
    network = Network()
    before = network(X)
    names = add_lora(network, CONFIG)
    assert names == [f"layers.{i}.attn.{name}" for i in (0, 1) for name in ("proj", "qkv")]
    assert torch.equal(network.eval()(X), before)
    learned = {name for name, p in network.named_parameters() if p.requires_grad}
    assert learned == {n for n, _ in network.named_parameters() if ".lora_" in n}
    count = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert count == 2 * 4 * ((24 + 72) + (24 + 24))


@pytest.mark.parametrize(("rslora", "scale"), [(True, 16.0), (False, 8.0)])
def test_the_update_is_the_scaled_product(rslora: bool, scale: float) -> None:
    network = nn.Sequential(nn.Linear(3, 2))
    before = network.state_dict()["0.weight"].clone()
    add_lora(network, LoraConfig(rank=4, rslora=rslora, targets=("0",)))
    learned = {name: value for name, value in network.named_parameters() if value.requires_grad}
    for value in learned.values():
        nn.init.normal_(value)
    a, b = (learned[f"0.lora_{side}.default.weight"].detach() for side in "AB")
    merge_lora(network)
    torch.testing.assert_close(network.state_dict()["0.weight"], before + scale * b @ a)


def test_saved_adapters_are_loaded_whole(folder: Path) -> None:
    network = Network()
    assert load_lora(folder, network)["step"] == 7
    assert torch.equal(network.eval()(X), trained()(X))


def test_the_folder_is_peft_s_own(folder: Path) -> None:
    network = peft.PeftModel.from_pretrained(Network(), str(folder))
    assert torch.equal(network(X), trained()(X))
    assert set(load_file(folder / "adapter_model.safetensors")) == set(
        peft.get_peft_model_state_dict(network)
    )


def test_merged_adapters_compute_the_same_and_removed_ones_nothing() -> None:
    network = trained()
    after = network(X)
    merge_lora(network)
    torch.testing.assert_close(network(X), after)
    assert network.state_dict().keys() == Network().state_dict().keys()
    network = trained()
    remove_lora(network)
    assert torch.equal(network(X), Network()(X))
    assert not adapters(network)
    add_lora(network, CONFIG)  # as if there had been none


@pytest.mark.parametrize("targets", [("q_proj",), ("qkv", "absent"), ("attn",), ()])
def test_targets_that_name_nothing_are_refused(targets: tuple[str, ...]) -> None:
    network = Network()
    with pytest.raises(ConfigError, match=r"no linear map is named .*; those there are: .*qkv"):
        add_lora(network, LoraConfig(targets=targets))
    assert not adapters(network)


def test_a_second_set_of_adapters_is_refused() -> None:
    with pytest.raises(ConfigError, match="has adapters already"):
        add_lora(trained(), CONFIG)


def test_adapters_of_another_base_are_refused(folder: Path) -> None:
    network = Network()
    nn.init.normal_(network.out_proj.weight)
    with pytest.raises(CheckpointError, match=r"on the network \w{16}, this one is \w{16};"):
        load_lora(folder, network)
    assert not adapters(network)


def test_the_base_is_known_at_any_precision_with_and_without_adapters() -> None:
    expected = base_digest(Network())
    assert base_digest(Network().bfloat16()) == base_digest(trained()) == expected
    other = trained()
    merge_lora(other)
    assert base_digest(other) != expected


def lose(weights: dict[str, Tensor]) -> None:
    weights.pop(next(iter(weights)))


def rename(weights: dict[str, Tensor]) -> None:
    weights["base_model.model.other.lora_A.weight"] = weights.pop(next(iter(weights)))


def reshape(weights: dict[str, Tensor]) -> None:
    name = next(iter(weights))
    weights[name] = weights[name][:, :-1].contiguous()


@pytest.mark.parametrize(("spoil", "count"), [(lose, 1), (rename, 2), (reshape, 1)])
def test_every_tensor_must_match(
    folder: Path, spoil: Callable[[dict[str, Tensor]], None], count: int
) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    spoil(weights)
    save_file(weights, folder / "adapter_model.safetensors")
    network = Network()
    with pytest.raises(CheckpointError, match=rf"the network takes 8; .* are {count}: base_"):
        load_lora(folder, network)
    assert not adapters(network)  # left as it was
    assert torch.equal(network(X), Network()(X))


@pytest.mark.parametrize("spoil", ["", "{", '{"base": "the base"}', '{"lora": {"size": 1}}'])
def test_a_folder_that_holds_no_adapters_says_what_is_expected(folder: Path, spoil: str) -> None:
    (folder / "saccade.json").write_text(spoil)
    with pytest.raises(CheckpointError, match="holds no adapters of ours"):
        load_lora(folder, Network())


def test_only_the_adapters_are_saved(folder: Path) -> None:
    saved = load_file(folder / "adapter_model.safetensors")
    assert saved.keys() == lora_state(trained()).keys()
    assert json.loads((folder / "saccade.json").read_text())["tensors"] == len(saved) == 8
