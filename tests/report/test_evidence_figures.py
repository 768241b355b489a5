import re
from typing import Any

import pytest

from saccade.report import evidence_figures, figures
from saccade.report.evidence_figures import Place
from saccade.report.results import Cell, Confusion, ProbeRow, Projection, Results, check_results
from saccade.report.text import MINUS


@pytest.fixture
def checked(results: dict[str, Any]) -> Results:
    return check_results(results)


def headline(results: Results) -> list[ProbeRow]:
    wanted = {"gap": 5, "split": "test", "group": "position", "metric": "r2", "readout": "linear"}
    wanted |= {"condition": "", "labels": 1.0}
    return [r for r in results["probes"] if all(r[k] == v for k, v in wanted.items())]


def place(row: ProbeRow) -> Place:
    return Place(row["gap"], str(row["gap"]))


def test_a_figure_needs_nothing_from_outside_and_only_named_colours(checked: Results) -> None:
    look = figures.looks(checked["probes"], checked["models"])
    svg = evidence_figures.forest(headline(checked), look, "R²")
    assert "http" not in svg
    assert not re.search(r"#[0-9a-f]{6}", svg)
    assert "var(--method0)" in svg
    identifiers = re.findall(r' id="([^"]+)"', svg)
    assert len(identifiers) == len(set(identifiers))
    assert not re.search(r' [xyd]="[^"]*\.\d{3}', svg)


def test_figures_speak(checked: Results) -> None:
    rows = headline(checked)[:1]
    # drawn at the edge, not cut away
    rows[0].update({"value": -99.2, "low": -140.0, "high": -60.0})
    look = figures.looks(checked["probes"], checked["models"])
    told = f"two-stream strong {MINUS}99.20  [{MINUS}140.00, {MINUS}60.00]"
    assert f'aria-label="R², best first: {told}"' in evidence_figures.forest(rows, look, "R²")


def test_odd_names_are_text_not_markup_nor_mathematics(checked: Results) -> None:
    rows = headline(checked)[:1]
    rows[0]["representation"] = name = 'a<b> "$x_1$" 模型'
    look = figures.looks(rows, [])
    svg = evidence_figures.forest(rows, look, "R²")
    assert "<b>" not in svg
    assert "$x_1$" in svg
    assert "模型" in svg
    assert name in look


def test_figures_survive_scores_that_are_not_known(checked: Results) -> None:
    rows = headline(checked)
    for row in rows:
        row["value"] = row["low"] = row["high"] = None
    look = figures.looks(checked["probes"], checked["models"])
    series = {"test": "seen tasks"}
    for svg in (
        evidence_figures.forest(rows, look, "R²"),
        evidence_figures.lines(rows, look, "Seen tasks", place, "gap"),
        evidence_figures.bars(rows, look, "Position", series, lambda row: row["split"]),
    ):
        assert svg.startswith("<svg")


@pytest.mark.parametrize(
    ("metric", "better", "values", "chance", "limits"),
    [
        ("r2", "higher", [-9.0, 0.5], 0.0, (-0.54, 0.54)),  # cut at -0.5
        ("accuracy", "higher", [0.6, 1.0], 0.5, (0.48, 1.02)),  # chance is in sight
        ("epe", "lower", [2.0, 4.0], None, (1.92, 4.08)),
    ],
)
def test_axes_show_all_scores_and_what_knowing_nothing_scores(
    checked: Results,
    metric: str,
    better: Any,
    values: list[float],
    chance: float | None,
    limits: tuple[float, float],
) -> None:
    rows = headline(checked)[:2]
    for row, value in zip(rows, values, strict=True):
        row.update({"metric": metric, "better": better, "chance": chance})
        row.update({"value": value, "low": value, "high": value})
    assert evidence_figures._limits(rows) == pytest.approx(limits)
    assert evidence_figures._chance(rows) == chance


def test_a_confusion_shows_the_share_of_each_true_class() -> None:
    table = Confusion(
        representation="ours", probe="order", target="two orders", split="test", gap=5,
        labels=["forth", "back"], counts=[[3, 1], [0, 8]],
    )  # fmt: skip
    svg = evidence_figures.confusion(table)
    assert re.findall(r">(\d+)</text>", svg) == ["75", "25", "0", "100"]
    assert "92 % right" in svg
    table["counts"] = [[0, 0], [None, 2]]
    assert "100 % right" in evidence_figures.confusion(table)


def test_a_plane_shows_every_label_apart_and_not_too_many_points() -> None:
    count = 1300
    shown = Projection(
        representation="ours", method="PCA", labels=["a", "b"],
        label=[i % 2 for i in range(count)], x=[None, *map(float, range(count - 1))],
        y=[0.0] * count,
    )  # fmt: skip
    svg = evidence_figures.plane(shown)
    assert "433 of 1300 samples" in svg
    assert svg.count("<use") == 433
    assert {"var(--method0)", "var(--method1)"} <= set(re.findall(r"var\(--method\d\)", svg))


def test_markers_and_colours_are_never_both_alike() -> None:
    assert len({figures.hue(index) for index in range(36)}) == 36


def test_an_ablation_fills_what_stays_after_correction() -> None:
    def cell(value: str, p: float | None) -> Cell:
        return Cell(
            axis="skip", value=value, cell=f"base skip={value}", probe="action", group="position",
            gap=5, split="test", metric="r2", difference=-0.1, low=-0.2, high=-0.05, p_holm=p,
        )  # fmt: skip

    svg = evidence_figures.ablation([cell("on", 0.01), cell("off", 0.2)], "Difference")
    assert f"skip = on {MINUS}0.100 [{MINUS}0.200, {MINUS}0.050], p 0.010" in svg
    assert svg.count("fill: var(--method0)") == 1
    same = evidence_figures.ablation([cell("on", None), cell("on", None)], "Difference")
    assert "base skip=on" in same
