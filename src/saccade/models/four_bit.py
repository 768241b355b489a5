"""Frozen linear maps kept in 4 bits while adapters beside them learn: a large model on one card.

Weights are rounded, in blocks of 64, to the 16 values of NormalFloat4 times the largest of the
block: QLoRA, Dettmers et al., 2023, https://arxiv.org/abs/2305.14314, without its second rounding
of the scales. Rounding and products are bitsandbytes' (``saccade[finetune]``). What is saved is
whole again: the rounded weights, in the type that they had, so that it computes what was trained.
"""

from collections.abc import Collection
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saccade.errors import ConfigError
from saccade.models.lora import linear_maps

BLOCK = 64  # weights that share a scale
KIND = "nf4"


class FourBitLinear(nn.Linear):
    """A linear map that does not learn.

    ``weight`` holds two weights in a byte, ``scales`` the largest of each block.
    """

    code: Tensor  # the 16 values

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.kind = linear.weight.dtype
        packed, state = _library().functional.quantize_4bit(
            linear.weight.detach(), blocksize=BLOCK, quant_type=KIND
        )
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.scales = nn.Parameter(state.absmax, requires_grad=False)
        self.register_buffer("code", state.code, persistent=False)
        self.bias = linear.bias

    def forward(self, input: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """Multiply with the rounded weights, in the type of the input or of autocast."""
        device = input.device.type
        auto = torch.is_autocast_enabled(device)
        x = input.to(torch.get_autocast_dtype(device)) if auto else input
        bias = None if self.bias is None else self.bias.to(x.dtype)
        state = self._state()
        return _library().matmul_4bit(x, self.weight.t(), quant_state=state, bias=bias)

    def plain(self) -> Float[Tensor, "o i"]:
        """Return the weights, rounded, in the type that they had."""
        return _library().functional.dequantize_4bit(self.weight, self._state())

    def _state(self) -> Any:
        return _library().functional.QuantState(
            absmax=self.scales,
            shape=torch.Size((self.out_features, self.in_features)),
            code=self.code,
            blocksize=BLOCK,
            quant_type=KIND,
            dtype=self.kind,
        )


def keep_in_four_bits(network: nn.Module, skipped: Collection[str] = ()) -> None:
    """Round the linear maps inside a network, all but a language model's last.

    Raises:
        ConfigError: bitsandbytes is missing.
    """
    for name in linear_maps(network, skipped):
        parent, _, own = name.rpartition(".")
        linear: Any = network.get_submodule(name)
        setattr(network.get_submodule(parent), own, FourBitLinear(linear))


def _library() -> Any:
    try:
        import bitsandbytes  # an extra: it takes seconds to import
    except ImportError as error:
        raise ConfigError("4 bits need bitsandbytes: pip install 'saccade[finetune]'") from error
    return bitsandbytes
