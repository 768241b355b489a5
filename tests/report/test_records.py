from typing import Any

import pytest

from saccade.errors import DataError
from saccade.report.records import check_record
from saccade.report.results import Results

Spoiled = tuple[list[str | int], Any, str]

SPOILED: list[Spoiled] = [
    (["title"], 3, "title is 3, expected text"),
    (["data"], [], r"data is \[\], expected an object"),
    (["data", "fps"], None, "data.fps is None, expected a finite number"),
    (["data", "label_frame"], "robot", "data.label_frame is 'robot', expected 'camera' or 'world'"),
    (["data", "parts", "train", "episodes"], 1.5, r"data.parts.train.episodes is 1.5, expected a"),
    (["budget", "seeds"], "0", "budget.seeds is '0', expected a list"),
    (["budget", "seeds", 1], True, r"budget.seeds\[1\] is True, expected a whole number"),
    (["verdict", "success"], 1, "verdict.success is 1, expected true or false"),
    (
        ["probes", 3, "value"],
        float("nan"),
        r"probes\[3\].value is nan, expected a finite number, or null",
    ),
    (["probes", 3, "kind"], "best", r"probes\[3\].kind is 'best'"),
    (["models", 0, "runs", 1, "history", 2, "eval", "loss"], "low", r"history\[2\].eval.loss is"),
    (["models", 0, "runs", 0, "pictures", "frame t"], None, "pictures.frame t is None"),
]


@pytest.mark.parametrize(("place", "value", "message"), SPOILED)
def test_a_wrong_field_is_named(
    results: dict[str, Any], place: list[str | int], value: object, message: str
) -> None:
    holder: Any = results
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    with pytest.raises(DataError, match=message):
        check_record(results, Results, "results.json")


def test_a_missing_field_is_named(results: dict[str, Any]) -> None:
    del results["probes"][0]["low"]
    with pytest.raises(DataError, match=r"probes\[0\].low is missing"):
        check_record(results, Results, "results.json")


def test_numbers_that_were_not_measured_are_null(results: dict[str, Any]) -> None:
    results["probes"][0]["value"] = results["models"][0]["peak_memory_mb"] = None
    results["models"][0]["runs"][0]["features"] = results["commit"] = None
    del results["models"][0]["runs"][0]["pictures"]
    check_record(results, Results, "results.json")
