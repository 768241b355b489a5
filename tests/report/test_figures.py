from typing import Any

import pytest

from saccade.report import figures
from saccade.report.results import Evaluation, Point, Results, check_results


@pytest.fixture
def checked(results: dict[str, Any]) -> Results:
    return check_results(results)


def test_a_floor_of_a_method_says_whose_it_is(checked: Results) -> None:
    row = checked["probes"][0]
    assert figures.name_of(row) == "two-stream strong"
    row.update({"representation": "random-init", "floor_of": "video-mae"})
    assert figures.name_of(row) == "random-init (video-mae)"
    row.update({"representation": "random video-mae"})
    assert figures.name_of(row) == "random video-mae"


def test_floors_are_hollow_and_take_the_colour_of_their_method(checked: Results) -> None:
    look = figures.looks(checked["probes"], checked["models"])
    assert look["video-mae"].filled
    assert look["random video-mae"] == look["video-mae"]._replace(filled=False)
    assert look["raw pixels"].token == "floor"
    assert len({look[model["name"]].token for model in checked["models"]}) == 3


def test_ratios_are_losses_over_baselines(checked: Results) -> None:
    model = checked["models"][0]
    losses = [(0, 0.2, 0.1), (64, 0.05, 0.1), (128, None, 0.1), (192, 0.05, None), (256, 0.1, 0.0)]
    run = model["runs"][0]
    run["history"] = [
        Point(step=1, samples=n, train={}, eval=Evaluation(loss=loss, baseline=baseline))
        for n, loss, baseline in losses
    ]
    run["history"].append(Point(step=1, samples=320, train={}, eval=None))
    model["runs"] = [run]
    assert figures.ratios(model) == {0: [(0, 2.0), (64, 0.5)]}


def test_readings_of_a_model_share_its_look_with_it(checked: Results) -> None:
    rows = [row for row in checked["probes"] if row["representation"] == "video-mae"][:2]
    for row, reading in zip(rows, ("difference", "both"), strict=True):
        row.update({"representation": f"video-mae ({reading})", "reading": reading})
    look = figures.looks(rows, checked["models"])
    assert look["video-mae"] == look["video-mae (difference)"]
    assert look["video-mae (difference)"] != look["video-mae (both)"]
    assert look["two-stream strong"].token == "method2"
