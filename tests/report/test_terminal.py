from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from saccade.report.terminal import summary_tables


def printed(tables: list[Table], width: int) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        for table in tables:
            console.print(table)
    return capture.get()


@pytest.mark.parametrize("width", [80, 110, 400])
def test_nothing_is_cut_at_any_width(results: dict[str, Any], width: int) -> None:
    tables = summary_tables(results, width)
    text = printed(tables, width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert len(tables) == {80: 7, 110: 3, 400: 1}[width]
    assert "0.61 [0.58, 0.65] *" in text
    assert "87 % [84, 90] +" in text
    assert sum(column.header != "" for table in tables for column in table.columns) == 9 + 2 * len(
        tables
    )
    assert "Seen tasks, gap 5, linear readout" in text


def test_odd_names_are_text(results: dict[str, Any]) -> None:
    for row in results["probes"]:
        row["representation"] = row["representation"].replace("raw", "[bold]raw")
    assert "[bold]raw pixels" in printed(summary_tables(results, 200), 200)


def test_nothing_probed_is_no_table(results: dict[str, Any]) -> None:
    results["probes"] = []
    assert summary_tables(results) == []
