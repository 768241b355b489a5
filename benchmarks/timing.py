"""What the benchmarks share: fair timing, and results as one line of JSON.

The speed of a shared core changes twofold within seconds. So variants run in short slices, in
random order, round by round, and a ratio is the median of the ratios within rounds.
"""

import json
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

Work = Callable[[], int]  # does a little and returns how much that was: samples, frames
SLICE = 0.2  # seconds: many ticks of the clock, and less than the neighbours' phases


def measure(variants: Mapping[str, Work], repeats: int) -> dict[str, list[float]]:
    """Return the rate of every variant in every round; a first call warms up and is not timed."""
    for work in variants.values():
        work()
    order, shuffler = list(variants), random.Random(0)
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        shuffler.shuffle(order)
        for name in order:
            rates[name].append(rate(variants[name]))
    return rates


def rate(work: Work) -> float:
    """Return how much is done per second, from one slice."""
    start, done, seconds = time.perf_counter(), 0, 0.0
    while seconds < SLICE:
        done += work()
        seconds = time.perf_counter() - start
    return done / seconds


def ratio(ours: list[float], peer: list[float]) -> float:
    """Return how many times faster we are than the peer in the median round."""
    return statistics.median(a / b for a, b in zip(ours, peer, strict=True))


def emit(result: Mapping[str, Any]) -> None:
    """Print a result with four significant digits."""
    print(json.dumps(rounded(result)), flush=True)


def rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: rounded(each) for name, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
