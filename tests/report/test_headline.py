from typing import Any, cast

import pytest

from saccade.report import headline
from saccade.report.headline import Focus, against_random, clear, earned, focus_of, status, tone
from saccade.report.results import ProbeRow, Results, check_results

Interval = tuple[float | None, float | None]
QUESTION = Focus("action", "displacement", "position", "r2", "camera", "linear", 5, "test")


def row(
    name: str, interval: Interval, floor_of: str | None = None, kind: str = "", **given: object
) -> ProbeRow:
    """A score in the middle of its interval."""
    low, high = interval
    fields: dict[str, Any] = {
        "representation": name,
        "kind": kind or ("floor" if floor_of else "method"),
        "floor_of": floor_of,
        "better": "higher",
        "condition": "",
        "labels": 1.0,
        "value": None if low is None or high is None else (low + high) / 2,
        "low": low,
        "high": high,
        **given,
    }
    return cast(ProbeRow, QUESTION._asdict() | fields)


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


def test_less_is_better_where_the_metric_says_so() -> None:
    error = {"better": "lower", "metric": "epe"}
    small, large = row("ours", (1.0, 2.0), **error), row("random", (3.0, 4.0), "ours", **error)
    assert clear(small, large)
    assert not clear(large, small)
    assert against_random(small, [small, large]) == "above"
    asked = QUESTION._replace(metric="epe")
    assert [r["representation"] for r in asked.answers([large, small])] == ["ours", "random"]


def test_what_overlaps_is_not_ranked() -> None:
    first, second = row("a", (0.5, 0.6)), row("b", (0.55, 0.65))
    floor, low = row("raw", (0.1, 0.2), kind="floor"), row("c", (-0.2, 0.0))
    rows = [first, second, floor, low]
    assert [tone(each, rows) for each in rows] == ["above", "above", "", "below"]
    assert tone(first, [first, floor, low]) == "best"
    assert tone(floor, [floor, low]) == "best"  # a floor may win, and is then said to
    unknown = row("d", (None, None), value=0.1)
    assert tone(first, [first, unknown]) == ""  # nobody is clear of what has no interval


@pytest.mark.parametrize(
    ("success", "floor", "told"),
    [(True, 0.1, "success"), (True, 0.5, "caution"), (False, 0.1, "caution")],
)
def test_a_success_must_be_claimed_and_shown(success: bool, floor: float, told: str) -> None:
    rows = [row("ours", (0.3, 0.4)), row("random", (floor, floor + 0.1), "ours")]
    assert status(success, [rows])[0] == told


def test_who_has_no_untrained_network_must_beat_every_floor() -> None:
    floors = [row("raw", (0.1, 0.2), kind="floor"), row("copy", (0.3, 0.5), kind="floor")]
    method = row("published", (0.4, 0.6))
    assert not earned(method, [method, *floors])
    assert earned(method, [method, floors[0]])
    assert not earned(method, [method])


@pytest.mark.parametrize("answers", [[], [[]]])
def test_nothing_probed_is_no_success(answers: list[list[ProbeRow]]) -> None:
    assert status(True, answers)[0] == "unknown"


def test_the_headline_is_position_over_five_steps(checked: Results) -> None:
    assert focus_of(checked) == QUESTION


def test_the_headline_takes_the_nearest_that_was_asked(checked: Results) -> None:
    rows = checked["probes"]
    checked["probes"] = [r for r in rows if r["group"] == "gripper" and r["gap"] != 5]
    assert focus_of(checked) == QUESTION._replace(group="gripper", gap=1)
    checked["probes"] = [r for r in rows if r["probe"] == "flow" and r["gap"] > 5]
    assert focus_of(checked) == Focus("flow", "simulator", "", "epe", "", "linear", 10, "test")
    assert focus_of(checked, probe="action") is None
    checked["probes"] = []
    assert focus_of(checked) is None


def test_spoilt_and_controlled_rows_answer_other_questions(checked: Results) -> None:
    plain = QUESTION.answers(checked["probes"])
    assert len(plain) == 11
    every = QUESTION.answers(checked["probes"], every=True)
    conditions = {(r["condition"], r["labels"]) for r in every}
    assert {("noise 16", 1.0), ("beyond position", 1.0), ("", 0.1), ("", 1.0)} <= conditions


def test_an_unknown_score_comes_last() -> None:
    rows = [row("lost", (None, None)), row("bad", (-2.0, -1.0)), row("good", (0.1, 0.2))]
    assert [r["representation"] for r in QUESTION.answers(rows)] == ["good", "bad", "lost"]


def test_pairs_are_of_methods_and_of_the_headline(checked: Results) -> None:
    checked["paired"][0].update({"b": "raw pixels", "gap": 5})
    pairs = headline.method_pairs(checked, QUESTION)
    assert [(pair["a"], pair["b"]) for pair in pairs] == [
        ("two-stream strong", "single-stream"),
        ("two-stream strong", "video-mae"),
        ("single-stream", "video-mae"),
    ]
