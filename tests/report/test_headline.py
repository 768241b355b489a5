from typing import Any, cast

import pytest

from saccade.report.headline import Focus, against_random, focus_of, lines, method_pairs, status
from saccade.report.results import ProbeRow, Results, check_results

Interval = tuple[float | None, float | None]


def row(name: str, interval: Interval, floor_of: str | None = None) -> ProbeRow:
    """A score in the middle of its interval."""
    low, high = interval
    r2 = None if low is None or high is None else (low + high) / 2
    fields: dict[str, Any] = {
        "representation": name,
        "kind": "floor" if floor_of else "method",
        "floor_of": floor_of,
        "r2": r2,
        "r2_low": low,
        "r2_high": high,
    }
    question = Focus("displacement", "camera", "linear", "test", "position", 5)
    return cast(ProbeRow, question._asdict() | fields)


@pytest.fixture
def checked(results: dict[str, Any]) -> Results:
    return check_results(results)


@pytest.mark.parametrize(
    ("method", "floor", "where"),
    [
        ((0.3, 0.4), (0.1, 0.2), "above"),
        ((0.2, 0.4), (0.1, 0.2), "not separated"),  # they share a point
        ((0.1, 0.5), (0.2, 0.3), "not separated"),
        ((0.0, 0.1), (0.2, 0.3), "below"),
        ((None, None), (0.2, 0.3), ""),
        ((0.2, 0.3), (None, None), ""),
    ],
)
def test_only_disjoint_intervals_separate(method: Interval, floor: Interval, where: str) -> None:
    rows = [row("ours", method), row("other", (0.0, 0.1), "theirs"), row("random", floor, "ours")]
    assert against_random(rows[0], rows) == where
    assert against_random(rows[2], rows) == ""


@pytest.mark.parametrize(
    ("success", "floor", "tone"),
    [(True, 0.1, "success"), (True, 0.5, "caution"), (False, 0.1, "caution")],
)
def test_a_success_must_be_claimed_and_shown(success: bool, floor: float, tone: str) -> None:
    rows = [row("ours", (0.3, 0.4)), row("random", (floor, floor + 0.1), "ours")]
    table = lines(rows, Focus("displacement", "camera", "linear", "test", "position", 5))
    assert status(success, table)[0] == tone


def test_nothing_probed_is_no_success() -> None:
    assert status(True, [])[0] == "unknown"


def test_the_headline_is_position_over_five_steps(checked: Results) -> None:
    focus = focus_of(checked)
    assert focus == Focus("displacement", "camera", "linear", "test", "position", 5)


def test_the_headline_takes_what_there_is(checked: Results) -> None:
    checked["probes"] = [r for r in checked["probes"] if r["group"] == "gripper" and r["gap"] > 5]
    assert focus_of(checked) == Focus("displacement", "camera", "linear", "test", "gripper", 10)
    checked["probes"] = []
    assert focus_of(checked) is None


def test_methods_come_before_floors_each_best_first(checked: Results) -> None:
    focus = focus_of(checked)
    assert focus is not None
    table = lines(checked["probes"], focus)
    assert [line.name for line in table[:4]] == [
        "two-stream strong",
        "single-stream",
        "video-mae",
        "raw pixel change",
    ]
    assert len(table) == 11
    assert all(line.unseen and line.unseen["split"] == "unseen" for line in table)
    assert [other["group"] for other in table[0].others if other] == ["gripper", "rotation"]


def test_an_unknown_score_comes_last() -> None:
    rows = [row("lost", (None, None)), row("bad", (-2.0, -1.0)), row("good", (0.1, 0.2))]
    focus = Focus("displacement", "camera", "linear", "test", "position", 5)
    assert [r["representation"] for r in focus.answers(rows)] == ["good", "bad", "lost"]


def test_pairs_are_of_methods_and_of_the_headline(checked: Results) -> None:
    focus = focus_of(checked)
    assert focus is not None
    checked["paired"][0].update({"b": "raw pixels", "gap": 5})
    pairs = method_pairs(checked, focus)
    assert [(pair["a"], pair["b"]) for pair in pairs] == [
        ("two-stream strong", "single-stream"),
        ("two-stream strong", "video-mae"),
        ("single-stream", "video-mae"),
    ]
