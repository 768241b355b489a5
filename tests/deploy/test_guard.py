import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float32

from saccade.deploy.guard import Guard, Limits
from saccade.deploy.runner import Runner
from saccade.errors import ConfigError, DataError
from saccade.types import Contract, Observation
from tests.deploy.toy import CONTRACT, STATE

SIZE = len(CONTRACT.action_names)
HOLD = np.zeros(SIZE, np.float32)


class Policy:
    """Answers with ones, or does what it is told to at its n-th question."""

    def __init__(self, **faults: Callable[[], Any]) -> None:
        self.contract: Contract = CONTRACT
        self.faults, self.asked = faults, list[tuple[int, ...]]()

    def act(self, observation: Observation, seed: Sequence[int]) -> Float32[np.ndarray, "k a"]:
        self.asked.append(tuple(seed))
        value = self.faults.get(f"at_{len(self.asked)}", lambda: 1.0)()
        return np.full((CONTRACT.chunk, SIZE), value, np.float32)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def guards() -> Iterator[Callable[..., Guard]]:
    made = list[Guard]()

    def make(policy: Policy, hold: Any = HOLD, log: Path | None = None, **limits: Any) -> Guard:
        given: dict[str, Any] = {
            "lowest": (-2.0,) * SIZE,
            "highest": (2.0,) * SIZE,
            "deadline": 5.0,
            "frozen": 0.0,
            **limits,
        }
        guard = Guard(Runner(policy, execute=1), Limits(**given), hold, log, Clock())
        guard.begin("go", (3,))
        made.append(guard)
        return guard

    yield make
    for guard in made:
        guard.close()


def picture(camera: str) -> np.ndarray:
    return np.zeros((24, 32, 3), np.uint8)


def act(guard: Guard, after: float = 0.05) -> list[float]:
    clock: Any = guard._clock
    clock.now += after
    return guard.act(picture, STATE).tolist()


def dead() -> float:
    raise DataError("nobody answers")


def test_where_all_is_well_it_only_passes_on(guards: Callable[..., Guard]) -> None:
    guard = guards(policy := Policy())
    assert [act(guard) for _ in range(3)] == [[1.0] * SIZE] * 3
    assert guard.events == []
    assert policy.asked == [(3, 0), (3, 1), (3, 2)]


@pytest.mark.parametrize(
    ("fault", "told"),
    [(dead, "nobody answers"), (lambda: float("nan"), "not finite"), (lambda: np.inf, "not fin")],
)
def test_what_fails_is_held_over(
    guards: Callable[..., Guard], fault: Callable[[], float], told: str
) -> None:
    guard = guards(policy := Policy(at_2=fault))
    assert [act(guard)[0] for _ in range(4)] == [1, 0, 1, 1]
    (event,) = guard.events
    assert (event.step, event.kind) == (1, "failed")
    assert told in event.detail
    assert policy.asked[2:] == [(3, 1, 0), (3, 1, 1)], "it is asked anew, about now"


def test_a_dead_server_stops_the_robot_after_a_time(
    guards: Callable[..., Guard], tmp_path: Path
) -> None:
    policy = Policy(**{f"at_{i}": dead for i in range(2, 99)})
    guard = guards(policy, log=tmp_path / "events.jsonl", patience=1.0)
    assert act(guard)[0] == 1
    assert [act(guard, 0.3)[0] for _ in range(4)] == [0] * 4
    with pytest.raises(DataError, match=r"held for more than 1 s and stops \(nobody answers\)"):
        act(guard, 0.3)
    with pytest.raises(DataError, match="was stopped"):
        act(guard)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["kind"] for event in events] == ["failed"] * 5 + ["stopped"]
    assert guard.counts == {"failed": 5, "stopped": 1}
    assert events[-1]["seconds"] == pytest.approx(0.05 + 5 * 0.3)
    guard.begin("go")
    assert guard.events == []


def test_a_late_answer_is_never_executed(guards: Callable[..., Guard]) -> None:
    gate = threading.Event()

    def late() -> float:
        gate.wait(20)
        return 1.5

    guard = guards(Policy(at_2=late), deadline=0.1)
    assert act(guard)[0] == 1
    began = time.monotonic()
    assert [act(guard)[0] for _ in range(3)] == [0, 0, 0]
    assert time.monotonic() - began < 1, "only the first of them waits"
    gate.set()
    pending = guard._pending
    assert pending is not None
    pending.result()
    assert act(guard)[0] == 1, "what was said of an earlier moment is forgotten"
    assert [event.kind for event in guard.events] == ["late"] * 3


def test_commands_stay_within_limits(guards: Callable[..., Guard]) -> None:
    guard = guards(
        Policy(at_1=lambda: 7.0, at_2=lambda: -1.0), lowest=(-0.5,) + (-2.0,) * (SIZE - 1)
    )
    assert act(guard) == [2.0] * SIZE
    assert act(guard) == [-0.5] + [-1.0] * (SIZE - 1)
    assert guard.counts == {"clipped": 2}
    assert guard.events[1].detail == "x -1"


def test_a_camera_that_freezes_is_noticed(guards: Callable[..., Guard]) -> None:
    guard = guards(Policy(), frozen=0.2)
    assert [act(guard, 0.1)[0] for _ in range(5)] == [1, 1, 1, 0, 0]
    assert guard.events[0].kind == "frozen"
    assert "camera agentview has shown one picture for 0.3 s" in guard.events[0].detail


def test_what_holds_may_be_asked_each_time(guards: Callable[..., Guard]) -> None:
    guard = guards(Policy(at_1=dead), hold=lambda: HOLD + 0.25)
    assert act(guard) == [0.25] * SIZE


@pytest.mark.parametrize(
    ("limits", "hold", "told"),
    [
        ({"lowest": (0.0,)}, HOLD, f"lowest has 1 numbers, a command has {SIZE}: x, y"),
        ({}, HOLD[:2], "hold has 2 numbers"),
        ({"lowest": (3.0,) * SIZE}, HOLD, "lowest must not be above highest"),
        ({"deadline": 0.0}, HOLD, "deadline must be above 0"),
        ({}, HOLD + 9, "lies outside the limits"),
    ],
)
def test_limits_must_fit(
    guards: Callable[..., Guard], limits: dict[str, Any], hold: np.ndarray, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        guards(Policy(), hold, **limits)


def test_an_episode_must_begin() -> None:
    limits = Limits(lowest=(-1.0,) * SIZE, highest=(1.0,) * SIZE, deadline=1.0)
    guard = Guard(Runner(Policy()), limits, HOLD)
    with pytest.raises(ConfigError, match="no episode was begun"):
        guard.act(picture, STATE)
    guard.close()
