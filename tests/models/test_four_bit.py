"""Rounding to NormalFloat4: worked out by hand, exact where it must be, and undone by saving."""

from typing import Any

import pytest
import torch
from torch import nn

from saccade.errors import ConfigError
from saccade.models.four_bit import BLOCK, FourBitLinear, keep_in_four_bits
from saccade.models.lora import LoraConfig, add_lora, merged_state
from saccade.train.layout import blank_twin
from saccade.types import Objective

# The 16 values: QLoRA (arXiv 2305.14314), appendix E.
NORMAL = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def drawn(shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(shape[1], shape[0], dtype=dtype)


@pytest.mark.parametrize("shape", [(8, 64), (48, 24), (5, 7)])
def test_a_weight_becomes_the_nearest_of_sixteen_times_its_blocks_largest(
    shape: tuple[int, int],
) -> None:
    linear = drawn(shape)
    flat = linear.weight.detach().flatten()
    values = torch.tensor(NORMAL)
    wanted = []
    for start in range(0, len(flat), BLOCK):
        block = flat[start : start + BLOCK]
        top = block.abs().max()
        wanted.append(values[(block[:, None] / top - values).abs().argmin(1)] * top)
    expected = torch.cat(wanted).view(shape)
    assert torch.allclose(FourBitLinear(linear).plain(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_computes_with_its_plain_weights_and_gives_gradients(dtype: torch.dtype) -> None:
    linear = drawn((48, 32), dtype)
    rounded = FourBitLinear(linear)
    assert rounded.plain().dtype == dtype
    x = torch.randn(3, 5, 32, dtype=dtype, requires_grad=True)
    other = x.detach().clone().requires_grad_(True)
    plain = nn.functional.linear(other, rounded.plain(), linear.bias)
    found = rounded(x)
    assert found.dtype == dtype
    off = 1e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found, plain, rtol=off, atol=off)
    weights = torch.randn_like(plain)
    (found * weights).sum().backward()
    (plain * weights).sum().backward()
    torch.testing.assert_close(x.grad, other.grad, rtol=off, atol=off)
    held = sum(p.numel() * p.element_size() for p in (rounded.weight, rounded.scales))
    assert held == 48 * 32 // 2 + 4 * (48 * 32 // BLOCK)
    with torch.autocast("cpu", torch.bfloat16):
        assert rounded(x).dtype == torch.bfloat16


class Network(Objective):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.ModuleList([nn.Linear(32, 32), nn.Linear(32, 32, bias=False)])
        self.lm_head = nn.Linear(32, 4)

    def forward(self, clip: Any) -> Any:
        for layer in self.layers:
            clip = layer(clip).tanh()
        return self.lm_head(clip)


def test_a_network_with_adapters_is_saved_as_what_it_computes() -> None:
    network, x = Network(), torch.randn(2, 32)
    keep_in_four_bits(network)
    assert [type(m) for m in network.layers] == [FourBitLinear] * 2
    assert type(network.lm_head) is nn.Linear
    add_lora(network, LoraConfig(rank=2, targets=("all-linear",)))
    for name, value in network.named_parameters():
        assert value.requires_grad == (".lora_" in name)
        if ".lora_B." in name:
            nn.init.normal_(value, std=0.1)
    network.eval()
    expected = network(x)
    state, plain = merged_state(network), Network()
    plain.load_state_dict(state, strict=True)
    torch.testing.assert_close(plain(x), expected, rtol=1e-5, atol=1e-5)
    # what a checkpoint is written from, while training goes on
    twin = blank_twin(network)
    layers: Any = twin.layers
    assert layers[0].get_base_layer().kind == torch.float32
    assert all(value.is_meta for value in twin.parameters())


def test_a_network_without_linear_maps_is_refused() -> None:
    with pytest.raises(ConfigError, match="no linear map"):
        keep_in_four_bits(nn.Sequential(nn.ReLU()))
