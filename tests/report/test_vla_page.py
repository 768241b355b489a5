from pathlib import Path
from typing import Any

import pytest

from saccade.errors import DataError
from saccade.report import vla_page
from saccade.report.text import DASH, MINUS
from saccade.report.vla_page import cells, columns, markdown, write_vla_report


def rate(successes: int, trials: int = 60) -> dict[str, Any]:
    value = successes / trials
    return {"successes": successes, "trials": trials, "value": value, "low": 0.0, "high": 0.5}


def score(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def row(name: str, acts: bool = True, **more: Any) -> dict[str, Any]:
    beside = {"keys": 60, "value": -0.1, "low": -0.25, "high": 0.05, "p": 0.2, "p_holm": 0.4}
    beside |= {"won": 3, "lost": 9}
    return {
        "name": name,
        "mode": "replace",
        "fit": None,
        "trained_parameters": 94336,
        "samples_to": [6400, 12800, None],
        "curve": [[0, 9.0], [6400, 1.6]],
        "scores": {"loss": score(1.5), "token_accuracy": score(0.56), "action_error": score(0.1)},
        "success": rate(9) if acts else None,
        "success_beside": {"control": beside} if acts and name != "re-projected" else {},
        "alarms": [],
        **more,
    }


def results(acts: bool = True) -> dict[str, Any]:
    rows = [row(name, acts) for name in ("original", "re-projected", "ours")]
    model = {
        "name": "small",
        "base": rate(19) if acts else None,
        "fixed_losses": [{"share": s, "loss": 1.75 - s / 4} for s in (0.25, 0.5, 1.0)],
        "floors": {"mean_action": score(2.5)},
        "rows": rows,
    }
    return {
        "kind": "vla",
        "format": 1,
        "title": "small with other eyes",
        "created": "2026-11-22T12:00:00+00:00",
        "commands": ["saccade vla compare --base small"],
        "versions": {"python": "3.11"},
        "machine": {"cpu": "x", "cores": 2, "memory_gb": 8.0, "accelerator": None, "platform": "y"},
        "commit": "abc",
        "data": {
            "path": "data/a", "demos": 0.2, "learned": 54, "held_out": 30, "moments": 480,
            "tasks": 6,
        },
        "budget": {"samples": 24000, "seeds": 1},
        "suite": "metaworld" if acts else None,
        "remark": "",
        "protocol": {"title": "metaworld, trials 10"} if acts else None,
        "floors": {"random": rate(1)} if acts else {},
        "published": {"OpenVLA 7B": 84.7},
        "published_source": "its README",
        "models": [model],
        "alarms": [{"name": "no headroom", "where": "small", "detail": "9 of 60"}],
        "verdict": {"sentence": "No difference is shown.", "success": False, "details": ["a, b"]},
    }  # fmt: skip


def test_a_row_is_a_line_of_texts() -> None:
    found = results()
    (model,) = found["models"]
    assert columns(found, model) == [
        *("eyes", "trained", "samples to 1.688", "samples to 1.625", "samples to 1.5"),
        *("held-out loss", "token accuracy", "action error", "success of 60"),
        *("minus control", "p"),
    ]
    assert cells(model["rows"][2], found) == [
        *("ours", "94,336", "6,400", "12,800", DASH, "1.500 [1.490, 1.510]"),
        *("56.0 % [55.0, 57.0]", "0.100 [0.090, 0.110]", "15 % [0, 50]"),
        *(f"{MINUS}10 [{MINUS}25, +5]", "0.4"),
    ]
    assert cells(model["rows"][1], found)[-2:] == [DASH, DASH]


def test_the_page_stands_alone_and_is_the_same_each_time(tmp_path: Path) -> None:
    first = write_vla_report(results(), tmp_path).read_bytes()
    page = first.decode()
    assert page.count("<svg") == 3
    assert "No success is claimed" in page
    assert "take easier tasks" in page  # what the alarm means
    assert "OpenVLA 7B 84.7 %" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert write_vla_report(results(), tmp_path).read_bytes() == first
    table = (tmp_path / vla_page.TABLE).read_text()
    assert table.splitlines() == markdown(results())
    assert "Floors: random 2 % [0, 50]; small not fine-tuned 32 % [0, 50]." in table


def test_without_rollouts_there_is_no_success(tmp_path: Path) -> None:
    found = results(acts=False)
    page = write_vla_report(found, tmp_path).read_text()
    assert "No rollouts were asked for" in page
    assert page.count("<svg") == 2
    assert "success" not in " ".join(columns(found, found["models"][0]))


@pytest.mark.parametrize("change", [{"kind": "success"}, {"format": 9}, {"models": [{}]}])
def test_damaged_results_are_told(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"run saccade vla\s+compare again"):
        write_vla_report(results() | change, tmp_path)
    assert not list(tmp_path.iterdir())
