"""Faults on purpose: named points of the code at which a test can break the world.

    SACCADE_FAULTS="save.shard:kill9@step=7,rank=1; write.data:raise=ENOSPC@file=optimizer,call=2"

reads: at the point ``save.shard``, at step 7 of rank 1, die by SIGKILL; when the second piece of
a file with ``optimizer`` in its name is written, fail as a full disk does. ``call=N`` is the N-th
time that a process comes there (under the other conditions); without it, every time.

    kill9 term int usr1 stop     the signal, sent to this process
    hang=SECONDS                 sleep
    raise=ENOSPC                 an OSError; or one of ``ERRORS``
    nan inf spike=FACTOR         of a value that passes (``spoil``)

Where the variable is not set, which is always but in a fault campaign, a point costs one look at
the environment. The idea is torchft's ``EventInjector``; the points are those of Orbax's tests
and of our own (``docs/reliability.md``).
"""

import errno
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from saccade.errors import ConfigError, DataError

T = TypeVar("T")
VARIABLE = "SACCADE_FAULTS"
POINTS = (
    *("start", "open", "look", "wait", "forward", "loss", "gradient", "step", "log", "eval"),
    *("export", "pictures", "read"),
    *("sync.put", "save.begin", "save.shard", "save.manifest", "save.renamed", "save.synced"),
    *("keep.before", "keep.after", "write.data", "write.synced", "write.renamed"),
)
SIGNALS = {
    "kill9": signal.SIGKILL,
    "term": signal.SIGTERM,
    "int": signal.SIGINT,
    "usr1": signal.SIGUSR1,
    "stop": signal.SIGSTOP,
}
SPOILS = {"nan": float("nan"), "inf": float("inf"), "spike": 0.0}
ERRORS: dict[str, type[Exception]] = {"DataError": DataError, "MemoryError": MemoryError}
passed: Counter["Fault"] = Counter()  # how often this process came to a fault's place


@dataclass(frozen=True)
class Fault:
    """What happens where; ``where`` holds conditions by name."""

    point: str
    action: str
    value: str
    where: tuple[tuple[str, str], ...]

    def due(self, point: str, step: int, file: str) -> bool:
        """Say whether it happens now; counts how often a process came to its place."""
        if point != self.point:
            return False
        here = {"step": str(step), "rank": os.environ.get("RANK", "0")}
        for name, wanted in self.where:
            if name == "file" and wanted not in file:
                return False
            if name in here and here[name] != wanted:
                return False
        passed[self] += 1
        return all(int(wanted) == passed[self] for name, wanted in self.where if name == "call")


def at(point: str, *, step: int = -1, file: str = "") -> None:
    """Let happen what was asked for at this point."""
    for fault in _asked(os.environ.get(VARIABLE, "")):
        if fault.action not in SPOILS and fault.due(point, step, file):
            _happen(fault, file)


def spoil(point: str, value: T, *, step: int = -1) -> T:
    """Return the value, or what was asked to become of it at this point."""
    for fault in _asked(os.environ.get(VARIABLE, "")):
        if fault.action in SPOILS and fault.due(point, step, ""):
            factor = float(fault.value) if fault.action == "spike" else SPOILS[fault.action]
            number: Any = value
            value = number * factor
    return value


def _happen(fault: Fault, file: str) -> None:
    if fault.action in SIGNALS:
        os.kill(os.getpid(), SIGNALS[fault.action])
    elif fault.action == "hang":
        time.sleep(float(fault.value))
    elif fault.value in ERRORS:
        raise ERRORS[fault.value](f"a fault on purpose at {fault.point}")
    else:
        number = getattr(errno, fault.value)
        raise OSError(number, os.strerror(number), file or fault.point)


@cache
def _asked(text: str) -> tuple[Fault, ...]:
    return tuple(map(_parse, filter(str.strip, text.split(";"))))


def _parse(text: str) -> Fault:
    """Read one fault.

    Raises:
        ConfigError: an unknown point, action or condition.
    """
    what, _, conditions = text.strip().partition("@")
    point, _, act = what.partition(":")
    action, _, value = act.partition("=")
    where = tuple(
        (name, wanted)
        for name, _, wanted in (item.partition("=") for item in conditions.split(",") if item)
    )
    known = action in SIGNALS or action in SPOILS or action == "hang"
    known |= action == "raise" and (value in ERRORS or hasattr(errno, value))
    if point not in POINTS or not known or {n for n, _ in where} - {"step", "rank", "call", "file"}:
        raise ConfigError(
            f"{VARIABLE} has {text.strip()!r}, which is no POINT:ACTION@CONDITIONS; points are "
            f"{', '.join(POINTS)}; unset it where no fault is wanted"
        )
    return Fault(point, action, value, where)
