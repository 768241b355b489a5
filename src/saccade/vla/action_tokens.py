"""Actions as words: OpenVLA's 256 bins in the tail of a vocabulary, and the range they cover.

An axis of a command is put into [-1, 1] by the 1 % and 99 % quantiles of the data it was trained
on (a gripper, 0 closed and 1 open, stays as it is) and becomes one of the last tokens of the
vocabulary: token ``V - i`` where the value is at or above the ``i``-th of 256 evenly spaced edges,
so that -1 is ``V - 1`` and 1 is ``V - 256``. Between 256 edges are 255 bins: the last edge is read
as the last bin.

OpenVLA: Kim et al., 2024, https://arxiv.org/abs/2406.09246, https://github.com/openvla/openvla
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from saccade.errors import ConfigError, DataError

BINS = 256
SMALLEST = 1e-8  # added to the divisor, as OpenVLA's data pipeline does


class ActionTokens(nn.Module):
    """Turns commands in [-1, 1] into tokens and back.

    Args:
        vocabulary: number of tokens, without those that only pad the embedding (Llama 2: 32000).
        bins: of each axis.
    """

    edges: Tensor

    def __init__(self, vocabulary: int, bins: int = BINS) -> None:
        super().__init__()
        if bins < 2 or vocabulary <= bins:
            raise ConfigError(
                f"a vocabulary of {vocabulary} has no tail of {bins} tokens for actions; give the "
                "tokenizer that the model was trained with"
            )
        self.vocabulary, self.bins = vocabulary, bins
        edges = torch.from_numpy(np.linspace(-1, 1, bins))  # torch's differ in the last digit
        self.register_buffer("edges", edges, persistent=False)

    @property
    def first(self) -> int:
        """Return the smallest id of an action."""
        return self.vocabulary - self.bins

    def encode(self, action: Float[Tensor, "*b"]) -> Int64[Tensor, "*b"]:
        """Return the token of each number; those outside [-1, 1] get that of the nearest end."""
        inside = action.double().clamp(-1, 1)
        return self.vocabulary - torch.bucketize(inside, self.edges, right=True)

    def decode(self, token: Int64[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Return the middle of each token's bin; a token that is no action becomes the nearest."""
        centres = (self.edges[:-1] + self.edges[1:]) / 2
        return centres[(self.vocabulary - token - 1).clamp(0, len(centres) - 1)].float()


class Bounds(nn.Module):
    """What is -1 and what is 1 of each axis of a command: quantiles of the training data.

    They are buffers, NaN until they are set, and travel with the weights.
    """

    low: Tensor
    high: Tensor
    scaled: Tensor  # 0 for an axis that is left as it is, a gripper
    constant: Tensor  # 1 for an axis that never varied

    def __init__(self, axes: int) -> None:
        super().__init__()
        for name in ("low", "high"):
            self.register_buffer(name, torch.full((axes,), torch.nan))
        for name in ("scaled", "constant"):
            self.register_buffer(name, torch.zeros(axes))

    def set(
        self,
        low: Sequence[float],
        high: Sequence[float],
        scaled: Sequence[bool],
        constant: Sequence[bool],
    ) -> None:
        """Keep the bounds.

        Raises:
            DataError: they are not one number for each axis.
        """
        given = {"q01": low, "q99": high, "mask": scaled, "constant": constant}
        for name, values in given.items():
            if len(values) != len(self.low):
                raise DataError(
                    f"{name} has {len(values)} numbers for {len(self.low)} axes of actions; use "
                    "statistics of the same robot"
                )
        for buffer, values in zip((self.low, self.high), (low, high), strict=True):
            buffer.copy_(torch.tensor(list(values)))
        for buffer, values in zip((self.scaled, self.constant), (scaled, constant), strict=True):
            buffer.copy_(torch.tensor([float(value) for value in values]))

    def normalise(self, action: Float[Tensor, "*b a"]) -> Float[Tensor, "*b a"]:
        """Put commands into [-1, 1].

        Raises:
            ConfigError: nobody has set the bounds.
        """
        self._require_known()
        span = self.high - self.low + SMALLEST
        inside = (2 * (action - self.low) / span - 1).clamp(-1, 1)
        inside = torch.where(self.scaled.bool(), inside, action)
        return torch.where(self.constant.bool(), torch.zeros_like(inside), inside)

    def restore(self, action: Float[Tensor, "*b a"]) -> Float[Tensor, "*b a"]:
        """Return commands in the units of the data.

        Raises:
            ConfigError: nobody has set the bounds.
        """
        self._require_known()
        spread = 0.5 * (action + 1) * (self.high - self.low) + self.low
        return torch.where(self.scaled.bool(), spread, action)

    def _require_known(self) -> None:
        if not bool(self.low.isfinite().all() & self.high.isfinite().all()):
            raise ConfigError(
                "the policy does not know the range of its actions; fine-tune it, or name the "
                "statistics of its own that it should use (--statistics KEY)"
            )


def published_bounds(statistics: Mapping[str, Any], key: str = "") -> dict[str, list[Any]]:
    """Return the bounds of one data set out of ``norm_stats`` or ``dataset_statistics.json``.

    An empty ``key`` takes the only one that there is.

    Raises:
        ConfigError: there is no such key, or several and none was named.
        DataError: the entry is not what OpenVLA writes.
    """
    names = sorted(statistics)
    if not key and len(names) == 1:
        (key,) = names
    if key not in statistics:
        told = f"has no statistics {key!r}" if key else "was trained on several data sets"
        known = ", ".join(names) or "there are none"
        raise ConfigError(f"the model {told}; choose one with --statistics: {known}")
    try:
        action = statistics[key]["action"]
        low, high = list(map(float, action["q01"])), list(map(float, action["q99"]))
        mask = list(map(bool, action.get("mask", [True] * len(low))))
        ends = action.get("min"), action.get("max")
        constant = [a == b for a, b in zip(*ends, strict=True)] if all(ends) else [False] * len(low)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"the statistics {key!r} lack q01 and q99 of the action ({error}); fetch "
            "dataset_statistics.json again"
        ) from error
    return {"low": low, "high": high, "scaled": mask, "constant": constant}
