"""Rotary positions along time, height and width, as V-JEPA 2 applies them to queries and keys.

The channels of a head are cut into ``time | height | width | rest``; each axis has
``2 * ((channels // 3) // 2)`` of them and the rest is not rotated. Channels are turned in pairs of
neighbours ``(2i, 2i + 1)`` by an angle ``position * omega``, with the frequencies
``omega_k = 10000 ** (-k / half)`` for ``half`` pairs. Two styles differ in which angle a channel
gets:

    interleaved   pair i gets omega_i: a rotation, whose scores depend on distances only (2.1)
    tiled         channel j gets omega_(j mod half): the two of a pair differ, so it is not a
                  rotation, and absolute positions matter; the 2.0 and AC weights know only this

Facts from https://github.com/facebookresearch/vjepa2 and arXiv 2506.09985.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Num
from torch import Tensor

from saccade.errors import ConfigError

Style = Literal["tiled", "interleaved"]
AXES = 3


class Table(NamedTuple):
    """Cosines and signed sines of every token and channel; 1 and 0 where nothing is turned."""

    cos: Float[Tensor, "l *h c"]
    sin: Float[Tensor, "l *h c"]

    def over_heads(self) -> "Table":
        """Serve tokens whose heads lie side by side: ``[*b l h c]``."""
        return Table(self.cos[:, None], self.sin[:, None])


def axis_width(channels: int) -> int:
    """Return how many channels of a head each axis turns.

    Raises:
        ConfigError: the head has too few channels for three axes, or an odd number.
    """
    width = 2 * (channels // AXES // 2)
    if not width or channels % 2:
        raise ConfigError(
            f"a head of {channels} channels cannot hold three positions; rotary positions need an "
            "even number of channels, at least 6: change dim or heads"
        )
    return width


def table(
    positions: Sequence[Num[Tensor, " l"]],
    channels: int,
    dtype: torch.dtype,
    style: Style = "tiled",
) -> Table:
    """Return what turns heads of ``channels`` at these positions: time, then height, then width.

    Fewer than three positions turn the first axes only. Frequencies are rounded to ``dtype``, the
    queries' own in the official code, and so are angles of integer positions; the angles of
    float32 positions stay in float32. ``dtype=torch.float32`` gives exact angles to bf16 queries.

    Raises:
        ConfigError: heads too narrow, or more than three positions.
    """
    width = axis_width(channels)
    if not 1 <= len(positions) <= AXES:
        raise ConfigError(f"{len(positions)} positions were given; a token has 1 to {AXES}")
    half = width // 2
    device = positions[0].device
    exponent = torch.arange(half, dtype=dtype, device=device) / half
    omega = 1.0 / 10000**exponent
    angles = []
    for position in positions:
        angle = position[:, None] * omega
        angles.append(angle.repeat(1, 2) if style == "tiled" else angle.repeat_interleave(2, 1))
    angle = torch.cat(angles, 1)
    rest = channels - angle.shape[1]
    sign = torch.tensor((-1.0, 1.0), dtype=angle.dtype, device=device).repeat(angle.shape[1] // 2)
    cos = torch.nn.functional.pad(angle.cos(), (0, rest), value=1.0)
    return Table(cos, torch.nn.functional.pad(angle.sin() * sign, (0, rest)))


def apply(x: Float[Tensor, "*b c"], turn: Table) -> Float[Tensor, "*b c"]:
    """Turn queries or keys ``[*b l c]``, or ``[*b l h c]`` with a table for all heads.

    Computed in the wider of the two dtypes, returned in their own.
    """
    wide = x.to(torch.promote_types(x.dtype, turn.cos.dtype))
    first, second = wide.unflatten(-1, (-1, 2)).unbind(-1)
    neighbour = torch.stack((second, first), -1).flatten(-2)  # twice as fast as flip on a CPU
    return neighbour.mul_(turn.sin).add_(wide * turn.cos).to(x.dtype)  # rounds as officially


def working_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which a linear map of ``x`` answers, so that of queries and keys."""
    kind = x.device.type
    autocast = kind != "meta" and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if autocast else x.dtype


def rotate(
    x: Float[Tensor, "*b l c"], positions: Sequence[Num[Tensor, " l"]], style: Style = "tiled"
) -> Float[Tensor, "*b l c"]:
    """Turn queries or keys once; ``table`` and ``apply`` share the work between calls."""
    return apply(x, table(positions, x.shape[-1], x.dtype, style))
