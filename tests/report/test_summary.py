from typing import Any

import pytest

from saccade.report.results import check_results
from saccade.report.summary import Summary, summarise


def summed(results: dict[str, Any]) -> Summary:
    summary = summarise(check_results(results))
    assert summary is not None
    return summary


def test_columns_are_the_headlines_of_every_probe(results: dict[str, Any]) -> None:
    summary = summed(results)
    assert [column.title for column in summary.columns] == [
        "Position ↑", "Rotation ↑", "Gripper ↑", "Simulator ↓", "DIS ↓",
        "Two orders ↑", "Six orders ↑", "Task ↑", "Behaviour ↑",
    ]  # fmt: skip
    assert summary.question == ("test", 5, "linear")
    assert len(summary.views) == 2 * 3 * 2
    assert summary.view.notes[3] == "flow, EPE, % of side"


def test_methods_come_before_floors_each_best_first(results: dict[str, Any]) -> None:
    names = [entry.name for entry in summed(results).entries]
    assert names[:4] == ["two-stream strong", "single-stream", "video-mae", "raw pixel change"]
    assert len(names) == 11


def test_a_cell_is_the_row_that_was_asked_for(results: dict[str, Any]) -> None:
    summary = summed(results)
    answer = summary.views["1.2.1"].rows[0][0].row
    assert answer is not None
    kept = (answer["split"], answer["gap"], answer["readout"], answer["group"], answer["metric"])
    assert kept == ("unseen", 10, "MLP", "position", "r2")


def test_what_was_asked_at_another_gap_says_so(results: dict[str, Any]) -> None:
    view = summed(results).views["0.0.1"]  # gap 1, MLP; clips were only asked at 5
    assert view.notes[0] == "displacement, R²"
    assert view.notes[5] == "order, accuracy, gap 5"
    clusters = view.rows[0][7].row
    assert clusters is not None
    assert clusters["readout"] == ""


def test_what_was_not_asked_stays_empty(results: dict[str, Any]) -> None:
    view = summed(results).views["1.1.0"]  # no clusters on held-out tasks
    assert all(line[7].row is None for line in view.rows)
    results["probes"] = [
        r for r in results["probes"] if (r["probe"], r["readout"]) != ("order", "MLP")
    ]
    view = summed(results).views["0.1.1"]
    assert all(line[5].row is None for line in view.rows)  # linear does not stand in for MLP


def test_the_own_floor_belongs_to_the_first_column_of_each_view(results: dict[str, Any]) -> None:
    wanted = {"representation": "random video-mae", "group": "position", "metric": "r2"}
    wanted |= {"split": "unseen", "gap": 5, "readout": "linear", "condition": "", "labels": 1.0}
    for row in results["probes"]:
        if all(row[key] == value for key, value in wanted.items()):
            row["high"] = 0.9
    summary = summed(results)
    assert summary.view.random[:4] == ["above", "above", "above", ""]
    assert summary.views["1.1.0"].random[:4] == ["above", "above", "not separated", ""]


def test_the_payload_says_what_the_table_says(results: dict[str, Any]) -> None:
    summary = summed(results)
    value, text, between, tone = summary.payload()[summary.chosen]["rows"][0][0]
    assert (round(value, 2), text, between, tone) == (0.61, "0.61", "[0.58, 0.65]", "best")


def test_fingers_stay_out_where_there_is_the_hand(results: dict[str, Any]) -> None:
    names = {"position": "hand", "rotation": "thumb", "gripper": "wrist"}
    for row in results["probes"]:
        row["group"] = names.get(row["group"], row["group"])
    assert [c.title for c in summed(results).columns][:2] == ["Hand ↑", "Simulator ↓"]


def test_a_probe_of_somebody_else_has_a_column(results: dict[str, Any]) -> None:
    row = results["probes"][0]
    more = {"probe": "grasp", "target": "success", "group": "", "metric": "auc", "gap": 0}
    results["probes"].append({**row, **more})
    column = summed(results).columns[-1]
    assert (column.probe, column.metric, column.title) == ("grasp", "auc", "Success ↑")


@pytest.mark.parametrize("condition", ["noise 16", None])
def test_nothing_plain_is_nothing_to_show(results: dict[str, Any], condition: str | None) -> None:
    results["probes"] = [r for r in results["probes"] if r["condition"] == condition]
    assert summarise(check_results(results)) is None
