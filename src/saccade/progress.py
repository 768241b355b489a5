"""One line that says how far a long operation is, how fast, and how long it will take.

Nothing is said of what takes less than two seconds. On a terminal the line is redrawn; in a file
a new one is written every ten seconds. Everything goes to the error stream, so results can be
piped; only the first rank and only the main process speak.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE, REDRAW, RELOG = 2.0, 0.2, 10.0  # seconds


@contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how much of ``total`` is done by now.

    ``what`` says what happens ("indexing droid"), ``unit`` what is counted ("episodes"). The
    first call sets the starting point of the rate: work found done already counts for no speed.
    """
    terminal = sys.stderr.isatty()
    silent = multiprocessing.parent_process() is not None or os.environ.get("RANK", "0") != "0"
    begun, last, first, drawn = time.monotonic(), 0.0, None, 0

    def told(done: int) -> None:
        nonlocal last, first, drawn
        now = time.monotonic()
        if first is None:
            first = done
        pause = REDRAW if terminal else RELOG
        if silent or now - begun < PATIENCE or (now - last < pause and done < total):
            return
        last = now
        text = line(what, done, total, unit, (done - first) / (now - begun))
        sys.stderr.write(f"\r{text:<{drawn}}" if terminal else f"{text}\n")
        sys.stderr.flush()
        drawn = len(text)

    try:
        yield told
    finally:
        if drawn and terminal:
            sys.stderr.write("\n")


def line(what: str, done: int, total: int, unit: str, rate: float) -> str:
    """Compose the line; ``rate`` is in units per second."""
    left = f", {duration((total - done) / rate)} left" if rate > 0 and done < total else ""
    share = f" ({100 * done / total:.0f} %)" if total else ""
    return f"{what}: {done:,} of {total:,} {unit}{share}, {rate:,.3g} {unit}/s{left}"


def duration(seconds: float) -> str:
    """Write a time as people say it: 8 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
