import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from saccade.errors import DataError
from saccade.report.results import check_results
from saccade.report.tables import (
    Scored,
    Table,
    latex,
    readings,
    to_csv,
    to_json,
    to_latex,
    to_markdown,
    write_tables,
)
from saccade.report.text import DASH, MINUS
from tests.report.results_fixture import realistic

ODD = Table(
    "odd",
    "50 % of {all}",
    ["name", "score", "n"],
    [['say "a, b"\n_c_', Scored(0.5, None, None), 3], ["x", Scored(-1.25, -2, 0.125), None]],
)


def test_csv_is_what_rfc_4180_asks_for() -> None:
    text = to_csv(ODD)
    assert text == (
        'name,score,score low,score high,n\r\n"say ""a, b""\n_c_",0.5,,,3\r\nx,-1.25,-2,0.125,\r\n'
    )
    assert list(csv.reader(text.splitlines(keepends=True)))[1][0] == 'say "a, b"\n_c_'


def test_json_repeats_the_records() -> None:
    found = json.loads(to_json(ODD))
    assert found["columns"] == ["name", "score", "score low", "score high", "n"]
    assert found["rows"][1] == {
        "name": "x", "score": -1.25, "score low": -2, "score high": 0.125, "n": None,
    }  # fmt: skip


def test_latex_escapes_and_shows_intervals() -> None:
    text = to_latex(ODD)
    assert "\\caption{50 \\% of \\{all\\}}" in text
    assert 'say "a, b" \\_c\\_ & 0.500 & 3 \\\\' in text
    assert "x & $-$1.250 {\\scriptsize [$-$2, 0.125]} & -- \\\\" in text
    assert "\\begin{tabular}{lrr}\n\\toprule" in text


def test_markdown_is_what_github_draws() -> None:
    assert to_markdown(ODD) == (
        "50 % of {all}.\n\n"
        "| name | score | n |\n"
        "| --- | ---: | ---: |\n"
        '| say "a, b" _c_ | 0.500 | 3 |\n'
        f"| x | {MINUS}1.250 [{MINUS}2, 0.125] | {DASH} |\n"
    )


@pytest.mark.parametrize(
    ("plain", "escaped"),
    [
        ("R² & ↑", "R\\textsuperscript{2} \\& $\\uparrow$"),
        ("a\\b{~^}", "a\\textbackslash{}b\\{\\textasciitilde{}\\textasciicircum{}\\}"),
        ("<0.1$#_%", "\\textless{}0.1\\$\\#\\_\\%"),
    ],
)
def test_no_sign_becomes_a_command(plain: str, escaped: str) -> None:
    assert latex(plain) == escaped


def test_every_table_is_written_for_every_reader(results: dict[str, Any], tmp_path: Path) -> None:
    written = write_tables(results, tmp_path)
    names = ["summary", "probes", "paired", "criteria", "cost", "diagnostics", "ablation"]
    assert [path.relative_to(tmp_path).as_posix() for path in written] == [
        f"tables/{name}.{kind}" for name in names for kind in ("csv", "json", "tex", "md")
    ]
    with (tmp_path / "tables" / "probes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(results["probes"])
    for row, found in zip(results["probes"], rows, strict=True):
        assert math.isclose(row["value"], float(found["value"]))
        assert (row["condition"], str(row["labels"])) == (found["condition"], found["labels"])
    first = json.loads((tmp_path / "tables" / "summary.json").read_text())["rows"][0]
    assert first["representation"] == "two-stream strong"
    assert first["against random init"] == "above"
    cost = json.loads((tmp_path / "tables" / "cost.json").read_text())["rows"][0]
    assert (cost["encoder parameters"], cost["reading"]) == (7_412_288, "pair")


def test_tables_without_rows_are_not_written(tmp_path: Path) -> None:
    results = realistic(tmp_path, lean=True)
    results["probes"] = results["criteria"] = []
    assert {path.stem for path in write_tables(results, tmp_path)} == {"cost"}
    del results["title"]
    with pytest.raises(DataError, match="title is missing"):
        write_tables(results, tmp_path)


def test_a_model_is_found_in_its_readings(results: dict[str, Any]) -> None:
    names = ["dino (difference)", "dino (both), random init", "dino, random weights", "dinov"]
    kinds = ["difference", "both", "still", "other"]
    for row, name, reading in zip(results["probes"], names, kinds, strict=False):
        row.update({"representation": name, "reading": reading})
    assert readings(check_results(results), "dino") == "difference, both, still"
