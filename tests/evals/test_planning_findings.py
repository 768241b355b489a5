from typing import Any

import numpy as np
import pytest

from saccade.evals import planning_findings as findings
from saccade.evals.planners import CemConfig, Limits
from saccade.evals.planning import Planned
from tests.evals.toy_arm import SAWYER


def found(value: float | None, low: float | None = None, high: float | None = None) -> dict:
    return {"value": value, "low": low, "high": high, "moments": 4}


def run(better: dict[str, Any], planner: str = "cem") -> dict[str, Any]:
    scores = {"xyz": found(0.012, 0.01, 0.014), "direction": found(0.9, 0.8, 1)}
    return {
        "model": "the base model",
        "planner": planner,
        "scores": scores,
        "better_by": better,
        "closer_by": found(-0.004, -0.006, -0.002),
        "episodes": 5,
        "moments": 20,
    }


FLOORS = {"zero": {"xyz": found(0.03, 0.02, 0.04)}, "last": {"xyz": found(None)}}
WON, LOST = found(0.018, 0.01, 0.02), found(0.01, -0.001, 0.02)


def test_every_floor_must_be_beaten() -> None:
    good = findings.offline([run({"zero": WON, "last": found(None)})], FLOORS)
    assert good.success
    assert "1.20 cm [1.00, 1.40] (20 moments of 5 episodes): it beats standing still." in (
        good.sentence
    )
    assert "there is no mean-action floor: no part of the data is for training" in good.details
    bad = findings.offline([run({"zero": WON, "random": LOST})], FLOORS)
    assert not bad.success
    assert "it beats standing still but does not beat random actions" in bad.sentence


def test_one_episode_is_no_success() -> None:
    alone = findings.offline([run({"zero": found(0.02)})], FLOORS)
    assert not alone.success
    assert "cannot be told" in alone.sentence
    assert findings.against({})[1] is False


def test_other_runs_are_compared_with_the_first() -> None:
    told = findings.offline([run({"zero": WON}), run({"zero": WON}, "mppi")], FLOORS).details[-1]
    assert "by mppi misses it by 1.20 cm" in told
    assert "-0.40 cm [-0.60, -0.20] less than the first (worse)" in told


@pytest.mark.parametrize(
    ("true", "guess", "name"),
    [
        ([0.1, 0, 0, 0], [0.03, 0, 0, 0], "narrow box"),
        ([0.03, 0, 0, 0], [0.05, 0, 0, 0], "plans at the edge"),
        ([0.002, 0, 0, 0], [0.002, 0, 0, 0], "still data"),
    ],
)
def test_alarms(true: list[float], guess: list[float], name: str) -> None:
    rows, guesses = np.tile(true, (4, 1)), np.tile(guess, (4, 1))
    planned = Planned(SAWYER, np.arange(4), rows, {"planned": guesses}, 1.0, 1)
    planner = CemConfig(limits=Limits(position=0.05))
    alarms = findings.offline_alarms("here", planned, planner, {"direction": found(1, 0.9, 1)})
    assert [alarm.name for alarm in alarms] == [name]
    (turned,) = findings.offline_alarms(
        "here", planned, CemConfig(limits=Limits(position=1.0)), {"direction": found(0, -1, 1)}
    )[-1:]
    assert turned.name == "no direction"


def test_a_closed_loop_is_judged_by_floors_and_not_by_the_expert() -> None:
    share = {"value": 0.5, "low": 0.2, "high": 0.8, "count": 5, "episodes": 10}
    one = {"reached": share, "success": share, "final": found(0.04, 0.03, 0.05)}
    results = dict.fromkeys(("planned", "nothing", "random", "expert"), one) | {
        "tolerance": 0.05,
        "better_by": {"nothing": WON, "random": WON, "expert": found(-0.1, -0.2, -0.05)},
    }
    verdict = findings.closed_loop(results, "reach")
    assert verdict.success
    assert "within 5 cm in 5 of 10 episodes [20, 80 %]" in verdict.sentence
    assert findings.closed_loop_alarms(results) == []
    sure = share | {"value": 1.0, "count": 10}
    easy = results | {"nothing": one | {"reached": sure}}
    assert [alarm.name for alarm in findings.closed_loop_alarms(easy)] == ["too easy"]


def test_calibration_must_gain_on_other_episodes_and_beat_standing_still() -> None:
    turned: dict[str, Any] = dict.fromkeys(
        ("angle", "angle_low", "angle_high", "uncertainty", "before", "residual"), 0.5
    )
    turned |= {"condition": 1.1, "moves": 20, "episodes": 5}
    held: dict[str, Any] = {
        "episodes": 4,
        "before": found(0.03, 0.02, 0.04),
        "after": found(0.01, 0.005, 0.015),
        "zero": found(0.05, 0.04, 0.06),
        "better_by": WON,
        "better_than_zero": WON,
    }
    assert findings.calibrating(turned, held).success
    assert findings.calibration_alarms(turned, held) == []
    assert not findings.calibrating(turned, held | {"better_by": LOST}).success
    blind = held | {"better_than_zero": LOST}
    assert not findings.calibrating(turned, blind).success
    names = [a.name for a in findings.calibration_alarms(turned | {"condition": 9.0}, blind)]
    assert names == ["no rotation", "no motion seen"]
