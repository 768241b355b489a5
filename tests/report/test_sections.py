from typing import Any

import pytest

from saccade.report import figures
from saccade.report.headline import Focus
from saccade.report.results import Results, check_results
from saccade.report.sections import label, related, sections

QUESTION = Focus("action", "displacement", "position", "r2", "camera", "linear", 5, "test")
KEPT = ("video-mae", "random video-mae", "raw pixels")


@pytest.fixture
def checked(results: dict[str, Any]) -> Results:
    results["probes"] = [r for r in results["probes"] if r["representation"] in KEPT]
    return check_results(results)


def test_every_probe_is_drawn_with_what_was_asked(checked: Results) -> None:
    wanted = [r for r in checked["probes"] if r["probe"] in ("action", "order")]
    checked["probes"] = [r for r in wanted if r["group"] in ("", "position")]
    look = figures.looks(checked["probes"], checked["models"])
    action, order = sections(checked, look)
    assert [panels.title for panels in action.panels] == [
        "Near and far in time", "Seen and unseen", "Readouts", "Few labels", "What remains",
        "Robustness",
    ]  # fmt: skip
    drawn = {panels.title: panels.figures for panels in action.panels}
    assert len(drawn["Near and far in time"]) == 2  # seen and held-out tasks
    (remains,) = drawn["What remains"]
    assert "video-mae, beyond position 0.3" in remains
    assert "noise" not in remains
    noise = drawn["Robustness"][0]
    assert [f"at {place} " in noise for place in ("clean", "16", "32", "0.6")] == [
        True, True, True, False,
    ]  # fmt: skip
    assert "at 5 % " in drawn["Few labels"][0]
    assert len(order.forests) == 2  # two orders and six
    assert [panels.title for panels in order.panels] == [
        "Seen and unseen", "Readouts", "What remains",
    ]  # fmt: skip


def test_levels_stand_from_mild_to_severe(checked: Results) -> None:
    rows = [r for r in checked["probes"] if r["representation"] == "video-mae"]
    (spoilt,) = (r for r in rows if r["probe"] == "action" and r["condition"] == "JPEG 20")
    rows = [r for r in rows if r["probe"] == "action" and r["condition"] == ""]
    checked["probes"] = [*rows, spoilt, {**spoilt, "condition": "JPEG 50"}]
    look = figures.looks(checked["probes"], checked["models"])
    (section,) = sections(checked, look)
    (figure,) = section.panels[-1].figures
    places = [figure.index(f">{place}</text>") for place in ("clean", "50", "20")]
    assert places == sorted(places)  # a lower quality is the worse one


def test_what_was_asked_elsewhere_is_taken_from_the_nearest_gap(checked: Results) -> None:
    rows = [r for r in checked["probes"] if r["probe"] == "action"]
    for row in rows:
        if row["condition"] or row["labels"] != 1.0:
            row.update({"gap": 10, "readout": "MLP"})
    found = related(rows, QUESTION, lambda row: row["condition"] == "noise 16")
    assert {(r["gap"], r["readout"]) for r in found} == {(10, "MLP")}
    assert related(rows, QUESTION, lambda row: row["condition"] == "fog") == []


def test_a_question_in_words() -> None:
    assert label(QUESTION) == "R²: displacement, position, gap 5, linear, seen tasks"
    purity = Focus("clusters", "task", "", "purity", "", "", 5, "bridge")
    assert label(purity, gaps=1) == "purity: task, bridge"
