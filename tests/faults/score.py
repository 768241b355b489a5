"""What a campaign counts: kills, flips, hangs, losses.

Tests say it, ``python -m tests.faults`` adds it up; in the ordinary suite nobody listens, and tests
try a few times only.
"""

import json
import os
from collections import Counter
from pathlib import Path

FILE = "SACCADE_SCORE"  # where counts go; set in a full campaign only


def scaled(short: int, full: int) -> int:
    """Return how often to try."""
    return full if FILE in os.environ else short


def add(**counts: int) -> None:
    """Count something, from any process."""
    if FILE in os.environ:
        with Path(os.environ[FILE]).open("a") as file:
            file.write(json.dumps(counts) + "\n")


def total(path: Path) -> Counter[str]:
    """Add up what was counted."""
    found = Counter[str]()
    for line in path.read_text().splitlines() if path.exists() else ():
        found.update(json.loads(line))
    return found
