"""Mean, standard deviation, range and quantiles of a data set of any size, in bounded memory.

Nothing depends on the order in which episodes come or on how they were dealt to processes or
machines: counts are whole numbers, sums are kept as fractions, and both add up exactly. Pixels
are counted by grey level, states and actions by value. The keys are those of LeRobot's
``stats.json``; a standard deviation is that of the values, not of the frames' means.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int, Int64, Shaped, UInt8, UInt32

from saccade.errors import DataError

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
DISTINCT = 2**18  # values of one dimension told apart: 3 MB
PENDING = 2**18  # rows that wait to be counted, per process
SIGN = np.uint32(2**31)


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
        colours = [describe_counts(np.arange(256) / 255, row) for row in self.counts]
        found = {name: np.stack([c[name] for c in colours])[:, :, None] for name in colours[0]}
        return found | {"count": np.array([self.frames])}


class Levels:
    """How often each value of one dimension occurred, at the finest resolution that fits.

    float32 numbers, read as whole numbers, sort as their values do. As long as there are at most
    ``DISTINCT`` different ones, every one is counted and quantiles are exact. With more, the last
    ``dropped`` bits are forgotten, which moves no quantile by more than its 2^(dropped - 24).
    How many are dropped depends on the values alone, not on the order in which they come.
    """

    def __init__(self, keys: Sequence[int] = (), counts: Sequence[int] = (), dropped: int = 0):
        self.keys, self.counts = np.array(keys, np.uint32), np.array(counts, np.int64)
        self.dropped = dropped

    def update(self, values: Float32[np.ndarray, " n"]) -> None:
        """Count some values."""
        bits = (values + np.float32(0)).view(np.uint32)  # + 0: there is one zero, not two
        keys = np.where(bits & SIGN, ~bits, bits | SIGN) >> np.uint32(self.dropped)
        self._merge(*np.unique(keys, return_counts=True))

    def __add__(self, other: "Levels") -> "Levels":
        dropped = max(self.dropped, other.dropped)
        found = Levels(dropped=dropped)
        for part in (self, other):
            found._merge(part.keys >> np.uint32(dropped - part.dropped), part.counts)
        return found

    def values(self) -> Float64[np.ndarray, " n"]:
        """Return the values that were counted, ascending."""
        keys = self.keys << np.uint32(self.dropped) | np.uint32(2**self.dropped // 2)
        return np.where(keys & SIGN, keys ^ SIGN, ~keys).view(np.float32).astype(np.float64)

    def _merge(self, keys: UInt32[np.ndarray, " n"], counts: Int[np.ndarray, " n"]) -> None:
        keys, counts = np.concatenate([self.keys, keys]), np.concatenate([self.counts, counts])
        order = np.argsort(keys, kind="stable")
        self.keys, self.counts = _grouped(keys[order], counts[order])
        while len(self.keys) > DISTINCT:
            self.dropped += 1
            self.keys, self.counts = _grouped(self.keys >> np.uint32(1), self.counts)


class Numbers:
    """Statistics of states or actions that need not fit in memory."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.lowest, self.highest = np.full(width, np.inf), np.full(width, -np.inf)
        self.sums, self.squares = [Fraction()] * width, [Fraction()] * width
        self.levels = [Levels() for _ in range(width)]
        self._pending: list[Float32[np.ndarray, "t d"]] = []

    def update(self, rows: Float32[np.ndarray, "t d"]) -> None:
        """Add the rows of one whole episode (sums are rounded once per episode)."""
        if not len(rows):
            return
        exact = rows.astype(np.float64)
        mean = exact.mean(0)
        spread = ((exact - mean) ** 2).sum(0)
        means = [Fraction(value) for value in mean.tolist()]
        self.count += len(rows)
        self.lowest = np.minimum(self.lowest, exact.min(0))
        self.highest = np.maximum(self.highest, exact.max(0))
        self.sums = [s + len(rows) * m for s, m in zip(self.sums, means, strict=True)]
        self.squares = [
            square + Fraction(value) + len(rows) * m**2
            for square, value, m in zip(self.squares, spread.tolist(), means, strict=True)
        ]
        self._pending.append(rows)
        if sum(map(len, self._pending)) >= PENDING:
            self._settle()

    def __add__(self, other: "Numbers") -> "Numbers":
        found = Numbers(len(self.sums))
        for part in (self, other):
            part._settle()
            found.count += part.count
            found.lowest = np.minimum(found.lowest, part.lowest)
            found.highest = np.maximum(found.highest, part.highest)
            found.sums = [a + b for a, b in zip(found.sums, part.sums, strict=True)]
            found.squares = [a + b for a, b in zip(found.squares, part.squares, strict=True)]
            found.levels = [a + b for a, b in zip(found.levels, part.levels, strict=True)]
        return found

    @property
    def quantile_error(self) -> float:
        """By what share of its value a quantile may be off; 0 where all of them are exact."""
        self._settle()
        dropped = max((level.dropped for level in self.levels), default=0)
        return 2.0 ** (dropped - 24) if dropped else 0.0

    def describe(self) -> dict[str, np.ndarray]:
        """Return the statistics of each dimension.

        Raises:
            DataError: there are no rows.
        """
        self._settle()
        if not self.count:
            raise DataError("there are no frames to describe; give a data set that has some")
        means = [total / self.count for total in self.sums]
        variances = [q / self.count - m**2 for q, m in zip(self.squares, means, strict=True)]
        found = {
            "min": self.lowest,
            "max": self.highest,
            "mean": np.array([float(mean) for mean in means]),
            "std": np.sqrt([float(variance) for variance in variances]),
            "count": np.array([self.count]),
        }
        each = [quantiles(level.values(), level.counts) for level in self.levels]
        return found | {name: np.array([one[name] for one in each]) for name in QUANTILES}

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values, without loss."""
        self._settle()
        levels = [[v.keys.tolist(), v.counts.tolist(), v.dropped] for v in self.levels]
        return {
            "count": self.count,
            "min": self.lowest.tolist() if self.count else [],
            "max": self.highest.tolist() if self.count else [],
            "sums": [str(value) for value in self.sums],
            "squares": [str(value) for value in self.squares],
            "levels": levels,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Numbers":
        """Invert ``to_json``."""
        found = Numbers(len(value["sums"]))
        found.count = value["count"]
        if found.count:
            found.lowest, found.highest = np.array(value["min"]), np.array(value["max"])
        found.sums = [Fraction(text) for text in value["sums"]]
        found.squares = [Fraction(text) for text in value["squares"]]
        found.levels = [Levels(*level) for level in value["levels"]]
        return found

    def _settle(self) -> None:
        if self._pending:
            rows, self._pending = np.concatenate(self._pending), []
            for level, column in zip(self.levels, rows.T, strict=True):
                level.update(np.ascontiguousarray(column))


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
    values = np.quantile(exact, list(QUANTILES.values()), axis=0)
    return found | dict(zip(QUANTILES, values, strict=True))


def describe_counts(
    values: Shaped[np.ndarray, " n"], counts: Int[np.ndarray, " n"]
) -> dict[str, np.ndarray]:
    """Return the statistics of values, ascending, that occurred so often; each ``[1]``."""
    seen = values[counts > 0]
    total, exact = int(counts.sum()), values.astype(np.float64)
    mean = float(counts @ exact / total)
    found = {
        "min": seen[:1],
        "max": seen[-1:],
        "mean": np.array([mean]),
        "std": np.sqrt([float(counts @ (exact - mean) ** 2 / total)]),
        "count": np.array([total]),
    }
    shares = quantiles(exact, counts)
    return found | {name: np.array([value]) for name, value in shares.items()}


def quantiles(values: Float64[np.ndarray, " n"], counts: Int[np.ndarray, " n"]) -> dict[str, float]:
    """Interpolate between the two nearest ranks, as ``numpy.quantile`` does."""
    cumulated, found = np.cumsum(counts), {}
    for name, share in QUANTILES.items():
        rank = share * (cumulated[-1] - 1)
        ranks = np.floor(rank), np.ceil(rank)
        low, high = (values[np.searchsorted(cumulated, r, "right")] for r in ranks)
        found[name] = float(low + (high - low) * (rank - np.floor(rank)))
    return found


def to_lists(statistics: Mapping[str, np.ndarray]) -> dict[str, list]:
    """Convert statistics to JSON values."""
    return {name: value.tolist() for name, value in statistics.items()}


def _grouped(
    keys: UInt32[np.ndarray, " n"], counts: Int64[np.ndarray, " n"]
) -> tuple[UInt32[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
    """Add up the counts of equal keys, which are sorted."""
    if not len(keys):
        return keys, counts
    new = np.concatenate([[True], keys[1:] != keys[:-1]])
    first = np.flatnonzero(new)
    return keys[first], np.add.reduceat(counts, first)
