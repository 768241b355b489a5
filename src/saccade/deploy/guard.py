"""Between a policy and a robot: every step ends in time, with a command that may be executed.

A policy can be late, gone, or answer with nonsense, and a camera can freeze. Then the robot holds;
when it has held for too long it stops, and a person must look. What happened is counted and
written down. This is no safety system: it knows the numbers of commands, not what they may hit.
"""

import json
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32

from saccade.deploy.runner import Runner
from saccade.errors import ConfigError, DataError, SaccadeError

Kind = Literal["late", "failed", "frozen", "clipped", "stopped"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a robot may be told, and how long a policy may be trusted to recover.

    Args:
        lowest: of each number of a command.
        highest: of each number of a command.
        deadline: seconds until a step must have its command.
        patience: seconds of holding after which the robot stops.
        frozen: seconds for which a camera may show the very same picture; 0 does not look.
    """

    lowest: tuple[float, ...]
    highest: tuple[float, ...]
    deadline: float
    patience: float = 2.0
    frozen: float = 1.0


@dataclass(frozen=True)
class Event:
    """What was not as it should be; ``seconds`` since the episode began."""

    step: int
    seconds: float
    kind: Kind
    detail: str


class Guard:
    """Feeds a runner within limits.

    Args:
        runner: what answers.
        limits: of commands and of time.
        hold: the command that leaves the robot where it is: of displacements all zeros, but for
            the gripper. A function is asked each time.
        log: file to which events are added, one JSON object a line.
        clock: monotonic, in seconds.

    Raises:
        ConfigError: limits or the holding command do not fit the policy's commands.
    """

    def __init__(
        self,
        runner: Runner,
        limits: Limits,
        hold: np.ndarray | Callable[[], np.ndarray],
        log: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        names = runner.actor.contract.action_names
        still = hold() if callable(hold) else hold
        for name, count in (
            ("lowest", len(limits.lowest)),
            ("highest", len(limits.highest)),
            ("hold", len(still)),
        ):
            if count != len(names):
                raise ConfigError(
                    f"{name} has {count} numbers, a command has {len(names)}: {', '.join(names)}"
                )
        self._lowest, self._highest = np.array(limits.lowest), np.array(limits.highest)
        if (self._lowest > self._highest).any() or limits.deadline <= 0:
            raise ConfigError("lowest must not be above highest, and deadline must be above 0")
        if ((still < self._lowest) | (still > self._highest)).any():
            raise ConfigError(f"the holding command {still.tolist()} lies outside the limits")
        self.runner, self.limits, self.hold, self.log = runner, limits, hold, log
        self.events: list[Event] = []
        self.counts: Counter[Kind] = Counter()
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="policy")
        self._pending: Future[np.ndarray] | None = None
        self._instruction: str | None = None

    def begin(self, instruction: str, seed: tuple[int, ...] = ()) -> None:
        """Start an episode."""
        self._settle()
        self.runner.begin(instruction, seed)
        self._instruction, self._seed, self._restarts = instruction, seed, 0
        self._step, self._began = 0, self._clock()
        self._held_since: float | None = None
        self._shown: dict[str, tuple[int, float]] = {}  # of each camera: checksum, since when
        self._stopped = False
        self.events, self.counts = [], Counter()

    def act(
        self,
        frames: Callable[[str], np.ndarray],
        state: Mapping[str, float] | Callable[[], Mapping[str, float]],
    ) -> Float32[np.ndarray, " a"]:
        """Return the command of this step, or the holding one; ``deadline`` seconds at most.

        ``frames`` and ``state`` may be called in another thread, also after this has returned.

        Raises:
            ConfigError: no episode was begun.
            DataError: the robot has held for longer than ``patience``; until ``begin`` it stays so.
        """
        if self._instruction is None:
            raise ConfigError("no episode was begun; call begin(instruction, seed) first")
        if self._stopped:
            raise DataError("the robot was stopped; look at it, then begin an episode")
        command = self._asked(frames, state)
        self._step += 1
        if command is not None:
            self._held_since = None
            return self._clipped(command)
        now = self._clock()
        self._held_since = now if self._held_since is None else self._held_since
        if now - self._held_since > self.limits.patience:
            self._stopped = True
            last = self.events[-1].detail
            self._note("stopped", f"held for more than {self.limits.patience:g} s: {last}")
            raise DataError(
                f"the robot has held for more than {self.limits.patience:g} s and stops ({last})"
            )
        return np.asarray(self.hold() if callable(self.hold) else self.hold, np.float32)

    def close(self) -> None:
        """Wait for a late answer, and end the thread."""
        self._settle()
        self._thread.shutdown()

    def _asked(
        self,
        frames: Callable[[str], np.ndarray],
        state: Mapping[str, float] | Callable[[], Mapping[str, float]],
    ) -> np.ndarray | None:
        """Return what the policy says, or None where it does not in time or cannot."""
        if self._pending is not None:
            if not self._pending.done():
                self._note("late", "the answer to an earlier step has not come yet")
                return None
            self._pending = None  # about a moment that is gone
            self._again()

        def seen(camera: str) -> np.ndarray:
            picture = frames(camera)
            self._look(camera, picture)
            return picture

        asked = self._thread.submit(self.runner.act, seen, state)
        try:
            return asked.result(self.limits.deadline)
        except TimeoutError:
            self._pending = asked
            self._note("late", f"no command within {self.limits.deadline:g} s")
        except _FrozenError as error:
            self._note("frozen", str(error))
            self._again()
        except SaccadeError as error:
            self._note("failed", str(error))
            self._again()
        return None

    def _again(self) -> None:
        """Forget moments and commands of before the trouble: the next answer is about now."""
        assert self._instruction is not None
        self._restarts += 1
        self.runner.begin(self._instruction, (*self._seed, self._restarts))

    def _look(self, camera: str, picture: np.ndarray) -> None:
        now, found = self._clock(), zlib.crc32(np.ascontiguousarray(picture).data)
        before, since = self._shown.get(camera, (None, now))
        self._shown[camera] = found, since if found == before else now
        if self.limits.frozen and found == before and now - since > self.limits.frozen:
            raise _FrozenError(f"camera {camera} has shown one picture for {now - since:.1f} s")

    def _clipped(self, command: np.ndarray) -> Float32[np.ndarray, " a"]:
        within = command.clip(self._lowest, self._highest).astype(np.float32)
        names = self.runner.actor.contract.action_names
        if wrong := [
            f"{name} {was:g}"
            for name, was, is_ in zip(names, command, within, strict=True)
            if was != is_
        ]:
            self._note("clipped", ", ".join(wrong))
        return within

    def _note(self, kind: Kind, detail: str) -> None:
        event = Event(self._step, round(self._clock() - self._began, 4), kind, detail)
        self.events.append(event)
        self.counts[kind] += 1
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(json.dumps(asdict(event)) + "\n")

    def _settle(self) -> None:
        """Wait for a late answer; whatever it is, nobody wants it any more."""
        if self._pending is not None:
            self._pending.exception()
            self._pending = None


class _FrozenError(DataError):
    pass
