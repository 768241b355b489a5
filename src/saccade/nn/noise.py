"""Random numbers that belong to a sample, not to a process.

A mask must be the same whether a batch is computed whole, in micro-batches, or on four ranks,
on a CPU or on a GPU. So the numbers are a hash of ``(key, stream, index)``: the SplitMix64 mixer
(Steele, Lea and Flood, 2014, https://doi.org/10.1145/2660193.2660195) in wrapping 64-bit integers.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed number
MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(x: Int64[Tensor, "*n"], bits: int) -> Int64[Tensor, "*n"]:
    """Shift right without copying the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def hash64(x: Int64[Tensor, "*n"]) -> Int64[Tensor, "*n"]:
    """Mix every bit of every number into every other."""
    x = x * GOLDEN + GOLDEN  # SplitMix64 adds the constant once per draw; x counts the draws
    x = (x ^ _shift(x, 30)) * MIX_1
    x = (x ^ _shift(x, 27)) * MIX_2
    return x ^ _shift(x, 31)


def uniform(key: Int64[Tensor, " b"], count: int, stream: int) -> Float[Tensor, "b n"]:
    """Draw ``count`` numbers in [0, 1) for each key; other streams are independent."""
    index = torch.arange(count, device=key.device)
    own = hash64(key + hash64(torch.tensor(stream, device=key.device)))
    return _shift(hash64(own[:, None] + index), 40) / 2.0**24
