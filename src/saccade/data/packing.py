"""A batch in one piece, for its way from a process that reads to the one that trains.

torch hands each tensor over by a file handle of its own, asked for through a socket: half a
millisecond each, more where the cores are busy. A short step waits longer for that than for the
reading, which is done ahead.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch

from saccade.types import Clip

ALIGNED = 64  # bytes; each tensor begins at a cache line, and so at a multiple of its element


class _Place(NamedTuple):
    """Where a tensor lies."""

    name: str
    start: int  # bytes
    shape: tuple[int, ...]
    dtype: torch.dtype


class Packed(NamedTuple):
    """A clip or a batch of them, its tensors in one storage."""

    storage: torch.Tensor  # (bytes,) uint8
    places: list[_Place]
    others: Mapping[str, Any]  # what is no tensor

    def open(self) -> Clip:
        """Return the tensors as views of the storage, and what is none as it was."""
        return cast(Clip, self._views() | dict(self.others))

    def _views(self) -> dict[str, torch.Tensor]:
        return {
            each.name: self.storage[each.start : each.start + _bytes(each.shape, each.dtype)]
            .view(each.dtype)
            .view(each.shape)
            for each in self.places
        }


def packed(clip: Clip) -> Packed:
    """Copy the tensors of a clip into one storage."""
    values = dict(clip)
    tensors = {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
    places: list[_Place] = []
    end = 0
    for name, value in tensors.items():
        places.append(_Place(name, end, tuple(value.shape), value.dtype))
        end += -(-_bytes(value.shape, value.dtype) // ALIGNED) * ALIGNED
    others = {name: value for name, value in values.items() if name not in tensors}
    whole = Packed(torch.empty(end, dtype=torch.uint8), places, others)
    for name, view in whole._views().items():
        view.copy_(tensors[name])
    return whole


def _bytes(shape: Sequence[int], dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize
