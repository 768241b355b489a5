"""Mean, standard deviation, range and quantiles of a data set, exactly.

Pixels are counted as they come: 256 numbers per colour say everything about any number of
frames, and two counts add up. States and actions fit in memory. The keys are those of LeRobot's
``stats.json``; a standard deviation is that of the values, not of the frames' means.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64, Int64, Shaped, UInt8

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}


class PixelCounts:
    """How often each grey level of each colour occurred in the frames seen so far."""

    def __init__(self, frames: int = 0, counts: Int64[np.ndarray, "3 256"] | None = None) -> None:
        self.frames = frames
        self.counts = np.zeros((3, 256), np.int64) if counts is None else counts

    def update(self, video: UInt8[np.ndarray, "t h w 3"]) -> None:
        """Count the pixels of some frames."""
        self.frames += len(video)
        for picture in video:  # one by one: bincount makes an int64 copy
            for colour in range(3):
                self.counts[colour] += np.bincount(picture[..., colour].ravel(), minlength=256)

    def __add__(self, other: "PixelCounts") -> "PixelCounts":
        return PixelCounts(self.frames + other.frames, self.counts + other.counts)

    def describe(self) -> dict[str, np.ndarray]:
        """Return the statistics of pixels in [0, 1], each ``[3, 1, 1]``; ``count`` is of frames."""
        level, total = np.arange(256) / 255, self.counts.sum(1)
        mean = self.counts @ level / total
        variance = (self.counts * (level - mean[:, None]) ** 2).sum(1) / total
        found = {
            "min": np.array([level[row > 0][0] for row in self.counts]),
            "max": np.array([level[row > 0][-1] for row in self.counts]),
            "mean": mean,
            "std": np.sqrt(variance),
        }
        found |= {name: self._quantile(share) for name, share in QUANTILES.items()}
        shaped = {name: value[:, None, None] for name, value in found.items()}
        return shaped | {"count": np.array([self.frames])}

    def _quantile(self, share: float) -> Float64[np.ndarray, " 3"]:
        """Interpolate between the two nearest ranks, as ``numpy.quantile`` does."""
        ranks = share * (self.counts.sum(1) - 1)
        cumulated = np.cumsum(self.counts, 1)
        low, high = (
            np.array([np.searchsorted(row, rank, "right") for row, rank in zip(*pair, strict=True)])
            for pair in ((cumulated, np.floor(ranks)), (cumulated, np.ceil(ranks)))
        )
        return (low + (high - low) * (ranks - np.floor(ranks))) / 255


def describe(rows: Shaped[np.ndarray, "t d"]) -> dict[str, np.ndarray]:
    """Return the statistics of each column; whole numbers keep whole ranges."""
    exact = rows.astype(np.float64)
    found = {
        "min": rows.min(0) if rows.dtype.kind == "i" else exact.min(0),
        "max": rows.max(0) if rows.dtype.kind == "i" else exact.max(0),
        "mean": exact.mean(0),
        "std": exact.std(0),
        "count": np.array([len(rows)]),
    }
    quantiles = np.quantile(exact, list(QUANTILES.values()), axis=0)
    return found | dict(zip(QUANTILES, quantiles, strict=True))


def to_lists(statistics: Mapping[str, np.ndarray]) -> dict[str, list]:
    """Convert statistics to JSON values."""
    return {name: value.tolist() for name, value in statistics.items()}
