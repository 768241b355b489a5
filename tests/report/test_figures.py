import re
from typing import Any

import pytest

from saccade.report import figures
from saccade.report.results import Evaluation, Point, ProbeRow, Results, check_results


@pytest.fixture
def checked(results: dict[str, Any]) -> Results:
    return check_results(results)


def headline(results: Results) -> list[ProbeRow]:
    wanted = {"gap": 5, "split": "test", "group": "position"}
    return [r for r in results["probes"] if all(r[k] == v for k, v in wanted.items())]


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


def test_a_figure_needs_nothing_from_outside_and_only_named_colours(checked: Results) -> None:
    look = figures.looks(checked["probes"], checked["models"])
    svg = figures.forest(headline(checked), look, "R²")
    assert "http" not in svg
    assert not re.search(r"#[0-9a-f]{6}", svg)
    assert "var(--method0)" in svg
    identifiers = re.findall(r' id="([^"]+)"', svg)
    assert len(identifiers) == len(set(identifiers))


def test_figures_speak(checked: Results) -> None:
    rows = headline(checked)[:1]
    rows[0].update(
        {"r2": -99.2, "r2_low": -140.0, "r2_high": -60.0}
    )  # drawn at the edge, not cut away
    look = figures.looks(checked["probes"], checked["models"])
    told = "two-stream strong \N{MINUS SIGN}99.20  [\N{MINUS SIGN}140.00, \N{MINUS SIGN}60.00]"
    assert f'aria-label="R², best first: {told}"' in figures.forest(rows, look, "R²")


def test_odd_names_are_text_not_markup_nor_mathematics(checked: Results) -> None:
    rows = headline(checked)[:1]
    rows[0]["representation"] = name = 'a<b> "$x_1$" 模型'
    look = figures.looks(rows, [])
    svg = figures.forest(rows, look, "R²")
    assert "<b>" not in svg
    assert "$x_1$" in svg
    assert "模型" in svg
    assert name in look


def test_figures_survive_scores_that_are_not_known(checked: Results) -> None:
    rows = headline(checked)
    for row in rows:
        row["r2"] = row["r2_low"] = row["r2_high"] = None
    look = figures.looks(checked["probes"], checked["models"])
    names = [figures.name_of(row) for row in rows]
    for svg in (
        figures.forest(rows, look, "R²"),
        figures.gap_lines(rows, look, "Seen tasks", 20.0),
        figures.group_bars(rows, names, look, "Position"),
    ):
        assert svg.startswith("<svg")
