from typing import Any

import pytest

from saccade.report import text
from saccade.report.results import check_results


def test_numbers() -> None:
    assert text.number(-0.125, 3) == "\N{MINUS SIGN}0.125"
    assert text.number(None) == text.count(None) == text.duration(None) == text.DASH
    assert text.count(186_362_880) == "186,362,880"


@pytest.mark.parametrize(("value", "told"), [(96.4, "96 s"), (241, "4.0 min"), (9000, "2.5 h")])
def test_durations(value: float | int, told: str) -> None:
    assert text.duration(value) == told


@pytest.mark.parametrize(
    ("metric", "scored", "between"),
    [
        ("r2", "0.50", "[\N{MINUS SIGN}0.25, 0.75]"),
        ("epe", "0.50", "[\N{MINUS SIGN}0.25, 0.75]"),
        ("accuracy", "50 %", "[\N{MINUS SIGN}25, 75]"),
        ("within", "50 %", "[\N{MINUS SIGN}25, 75]"),
    ],
)
def test_scores_come_with_their_intervals(
    results: dict[str, Any], metric: str, scored: str, between: str
) -> None:
    row = check_results(results)["probes"][0]
    row.update({"metric": metric, "value": 0.5, "low": -0.25, "high": 0.75})
    assert (text.score(row), text.interval(row)) == (scored, between)
    row["value"] = row["low"] = None
    assert (text.score(row), text.interval(row)) == (text.DASH, "")
    assert (text.score(None), text.interval(None)) == (text.DASH, "")


def test_small_p_values_are_bounds() -> None:
    assert [text.chance_of(p) for p in (0.0, 0.0009, 0.001, 0.5, None)] == [
        "<0.001", "<0.001", "0.001", "0.500", text.DASH,
    ]  # fmt: skip


def test_capitals_of_names_stay() -> None:
    assert [text.upper(name) for name in ("DIS", "two orders", "")] == ["DIS", "Two orders", ""]


@pytest.mark.parametrize(
    ("group", "value", "told"),
    [("position", 0.01, "1 cm"), ("rotation", 0.0872665, "5°"), ("gripper", 0.1, "0.1")],
)
def test_tolerances_have_a_unit(
    results: dict[str, Any], group: str, value: float, told: str
) -> None:
    row = check_results(results)["probes"][0]
    row.update({"group": group, "tolerance": value})
    assert text.tolerance(row) == told


def test_long_names_keep_both_ends() -> None:
    assert text.short("runs/a/encoder", 30) == "runs/a/encoder"
    assert text.short("0123456789", 7) == "012…789"
