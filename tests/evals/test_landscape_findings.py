import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from saccade.evals.landscape import Grid, Landscape, grid
from saccade.evals.landscape_findings import alarms, stands, turned, verdict, worse_by
from saccade.evals.landscape_scores import compare, summarise
from tests.evals.toy_arm import FRANKA

XY = grid(("x", "y"), 0.1, 5)  # -0.1, -0.05, 0, 0.05, 0.1
TRUTHS = ((0.1, 0.05), (-0.05, 0.1), (-0.1, -0.05), (0.05, -0.1))


def bowl(
    episode: int,
    lowest: tuple[float, float],
    truth: tuple[float, float] | None = None,
    where: Grid = XY,
    scale: float = 1.0,
) -> Landscape:
    """Energy grows with the distance from a place; the truth is there unless given."""
    apart = np.linalg.norm(where.cells - lowest, axis=1).reshape(where.steps)
    truth = lowest if truth is None else truth
    at = 1 + scale * float(np.hypot(truth[0] - lowest[0], truth[1] - lowest[1]))
    return Landscape(
        episode=episode,
        start=0,
        grid=where,
        names=FRANKA,
        truth=np.array([*truth, 0, 0, 0, 0, 0]),
        horizon=1,
        metric="l1",
        energy=1 + scale * apart,
        at_truth=at,
        at_projection=at,
        at_zero=1.1,
        no_change=1.2,
    )


def entry(
    main: Sequence[Landscape],
    reverse: Sequence[Landscape] | None = None,
    foreign: Sequence[Landscape] | None = None,
    base: Sequence[Landscape] | None = None,
    name: str = "base",
) -> dict[str, Any]:
    controls: dict[str, Any] = {"reversed": None, "other_goals": None}
    if reverse is not None:
        controls["reversed"] = {"turned": turned(main, reverse, 50)}
    if foreign is not None:
        controls["other_goals"] = {"worse_by": worse_by(main, foreign, 50)}
    changed = base is not None and any(
        not np.array_equal(a.energy, b.energy) for a, b in zip(base, main, strict=True)
    )
    return {
        "name": name,
        "summary": summarise(main, 50),
        "controls": controls,
        "paired": None if base is None else compare(base, main, 50),
        "changed": None if base is None else changed,
    }


def rung(*entries: dict[str, Any], truths: Any = TRUTHS) -> set[tuple[str, str]]:
    found = alarms(entries, np.array(truths), (0, 1))
    json.dumps(found)
    return {(alarm["name"], alarm["model"]) for alarm in found}


RIGHT = [bowl(i, truth) for i, truth in enumerate(TRUTHS)]
BACK = [bowl(i, (-x, -y)) for i, (x, y) in enumerate(TRUTHS)]
FOREIGN = [bowl(i, TRUTHS[i - 1], truth) for i, truth in enumerate(TRUTHS)]
HABIT = [bowl(i, (0.1, 0.0), truth) for i, truth in enumerate(TRUTHS)]


def test_a_landscape_that_turns_round_is_nearer_to_the_undone_action() -> None:
    expected = np.mean([2 * np.hypot(*truth) for truth in TRUTHS])
    found = turned(RIGHT, BACK, 50)
    assert found["value"] == pytest.approx(expected)
    assert found["low"] > 0
    stuck = [replace(one, truth=-one.truth) for one in RIGHT]  # the minimum stays where it was
    assert turned(RIGHT, stuck, 50)["value"] == pytest.approx(-expected)


def test_a_foreign_goal_puts_the_minimum_elsewhere() -> None:
    apart = [np.hypot(*np.subtract(TRUTHS[i - 1], TRUTHS[i])) for i in range(4)]
    assert worse_by(RIGHT, FOREIGN, 50)["value"] == pytest.approx(np.mean(apart))
    assert worse_by(HABIT, HABIT, 50)["value"] == 0


def test_a_right_model_stands_and_is_a_success() -> None:
    right = entry(RIGHT, BACK, FOREIGN)
    assert stands(right)
    assert not {name for name, _ in rung(right)} - {"edge"}
    found = verdict([right])
    assert found["success"]
    assert found["sentence"].startswith("base knows what actions do: the minimum")
    assert "0.00 cm [0.00, 0.00] from the true action, against 11.18 cm" in found["sentence"]
    assert "4 moments of 4 episodes, 25 actions each" in found["details"][0]


@pytest.mark.parametrize(
    ("made", "alarm", "told"),
    [
        (entry(HABIT, BACK, FOREIGN), "floor", "not clearly nearer than standing still"),
        (entry(RIGHT, [replace(o, truth=-o.truth) for o in RIGHT]), "reversed", "reversed time"),
        (entry(RIGHT, BACK, RIGHT), "other goals", "goals of other episodes"),
    ],
)
def test_a_floor_or_a_control_forbids_a_success(
    made: dict[str, Any], alarm: str, told: str
) -> None:
    assert not stands(made)
    assert (alarm, "base") in rung(made)
    found = verdict([made])
    assert not found["success"]
    assert found["sentence"].startswith("No success")
    assert told in found["sentence"]


def test_one_episode_proves_nothing() -> None:
    alone = entry(RIGHT[:1])
    assert not stands(alone)
    assert ("one episode", "all") in rung(alone, truths=TRUTHS[:1])
    assert "no interval" in verdict([alone])["sentence"]


def test_alarms_of_data_and_grid() -> None:
    far = [bowl(i, (0.1, 0.1), (3 * x, 3 * y)) for i, (x, y) in enumerate(TRUTHS)]
    assert {("narrow grid", "all"), ("edge", "base")} <= rung(entry(far))
    small = [bowl(i, (x / 9, y / 9)) for i, (x, y) in enumerate(TRUTHS)]
    assert ("coarse grid", "all") in rung(entry(small))
    assert ("coarse grid", "all") not in rung(entry(RIGHT))
    assert ("constant truth", "all") in rung(entry(RIGHT), truths=[(0.1, 0.05)] * 4)


def test_adapters_that_flatten_or_do_nothing_are_told() -> None:
    flat = [bowl(i, t, scale=0.1 + i / 100) for i, t in enumerate(TRUTHS)]
    base, adapted = entry(RIGHT, BACK, FOREIGN), entry(flat, BACK, FOREIGN, RIGHT, "lora")
    assert ("flatter", "lora") in rung(base, adapted)
    same = entry(RIGHT, BACK, FOREIGN, RIGHT, "same")
    assert ("no effect", "same") in rung(base, same)
    assert ("flatter", "same") not in rung(base, same)


def test_the_verdict_says_what_adapters_changed() -> None:
    worse = entry(HABIT, BACK, FOREIGN, RIGHT, "worse")
    found = verdict([entry(RIGHT, BACK, FOREIGN), worse])
    assert found["success"]
    assert found["sentence"].endswith("Adapters: worse: further away.")
    better = entry(RIGHT, BACK, FOREIGN, HABIT, "better")
    found = verdict([entry(HABIT, BACK, FOREIGN), better])
    assert found["sentence"].startswith("better knows")
    assert found["sentence"].endswith("better: nearer to it than the base.")
    assert any("better minus the base, on the same moments: -" in d for d in found["details"])


def test_without_a_position_there_is_no_verdict() -> None:
    turns = grid(("roll", "yaw"), 0.1, 5)
    found = verdict([entry([bowl(i, t, where=turns) for i, t in enumerate(TRUTHS)])])
    assert not found["success"]
    assert found["sentence"].startswith("No verdict")
