import copy
import re
from pathlib import Path
from typing import Any

import pytest

from saccade.errors import DataError
from saccade.evals import success
from saccade.evals.protocols import named
from saccade.evals.rollouts import Key
from saccade.report.success_page import MEANING, write_success_report

EVIL = '<script>alert("1")</script>'


def outcomes(values: list[int]) -> dict[Key, bool]:
    return {Key("libero_object", "a", i, 0): bool(value) for i, value in enumerate(values)}


def results() -> dict[str, Any]:
    good, poor = outcomes([1] * 18 + [0] * 2), outcomes([0] * 20)
    rate, floor = (success.rate(found.values())._asdict() for found in (good, poor))
    compared = success.compare(good, poor)
    row = {
        "task": "a",
        "instruction": "pick up the soup",
        "rate": rate,
        "floors": {"random": floor},
        "steps": 121.0,
        "crashed": 0,
    }
    none = success.rate([])._asdict()
    return {
        "kind": "success",
        "format": 1,
        "title": "bc in libero_object",
        "created": "2026-01-01T00:00:00+00:00",
        "commands": ["saccade evaluate runs/bc"],
        "versions": {"mujoco": "3.3.0"},
        "machine": {
            "cpu": "a cpu",
            "cores": 2,
            "memory_gb": 8.0,
            "accelerator": None,
            "platform": "Linux",
        },
        "commit": None,
        "name": "bc",
        "suite": {"name": "libero_object", "remark": "pictures are not authentic LIBERO"},
        "protocol": named("openvla").changed("libero_object", horizon=200).card("libero_object")
        | {"trials": 20, "initial_states": "0 to 19", "seeds": 1},
        "players": {"bc": {"player": "policy", "weights": "0123"}, "random": {"player": "random"}},
        "asked": 40,
        "rollouts": 40,
        "crashed": [],
        "missing": 0,
        "overall": rate,
        "seeds": {"rates": {"0": 0.9, "1": 0.8}, "value": 0.85, "low": 0.2, "high": 1.0},
        "tasks": [row, {**row, "instruction": "not played", "rate": none, "steps": None}],
        "floors": {"random": {"overall": floor, "compared": compared._asdict()}},
        "against": [
            {
                "name": "flow",
                "folder": "runs/flow",
                "overall": rate,
                "compared": success.compare(good, good)._asdict(),
                "differences": [],
            }
        ],
        "latency": {"median_ms": 12.34, "slow_ms": 20.0, "chunks": 100, "steps": 900},
        "videos": [
            {
                "path": "videos/success-0.mp4",
                "success": True,
                "suite": "libero_object",
                "task": "a",
                "initial_state": 3,
                "seed": 0,
            }
        ],
        "alarms": [],
        "verdict": success.verdict("bc", success.rate(good.values()), {"random": compared}, 20),
        "seconds": {"all rollouts": 300.0},
    }


def page(found: dict[str, Any], folder: Path) -> str:
    return write_success_report(found, folder).read_text()


def test_the_page_says_everything_offline(tmp_path: Path) -> None:
    found = results()
    text = page(found, tmp_path)
    assert found["verdict"]["sentence"] in text
    assert "Every floor is beaten" in text
    assert "90 % <small>[70, 97] 18 of 20</small>" in text
    beaten = found["floors"]["random"]["compared"]
    low, high = (f"{100 * beaten[end]:+.0f}" for end in ("low", "high"))
    assert f'class="num above">+90 <small>[{low}, {high}]</small>' in text
    assert "openvla, horizon 200 instead of 280" in text
    assert "not authentic" in text
    assert 'href="videos/success-0.mp4"' in text
    assert "<b>12.3</b> ms a chunk" in text
    assert "Over 2 seeds" in text
    assert "flow (runs/flow)" in text
    for name in MEANING:
        assert name in text
    assert not re.search(r"https?://(?!www\.w3\.org)", text.replace("https://www.w3", ""))
    assert "default-src 'none'" in text
    assert page(found, tmp_path) == text


def test_what_is_lacking_is_said_first(tmp_path: Path) -> None:
    found = results()
    found["crashed"] = [{"task": "a", "crashed": "hung"}]
    found["alarms"] = [{"name": "crashed", "where": "a", "detail": "hung"}]
    text = page(found, tmp_path)
    assert "Not every rollout has a result" in text
    assert MEANING["crashed"] in text
    assert 'class="verdict success"' not in text


def test_a_claim_that_the_table_does_not_bear_out_is_marked(tmp_path: Path) -> None:
    found = results()
    found["floors"]["random"]["compared"]["low"] = -0.1
    assert "The table does not bear this out" in page(found, tmp_path)
    found["floors"] = {}
    found["tasks"][0]["floors"] = found["tasks"][1]["floors"] = {}
    found["verdict"]["success"] = False
    assert "No floor was run" in page(found, tmp_path)


def test_text_from_outside_stays_text(tmp_path: Path) -> None:
    found = results()
    found["title"] = found["verdict"]["sentence"] = found["suite"]["remark"] = EVIL
    found["tasks"][0]["instruction"] = found["videos"][0]["task"] = EVIL
    text = page(found, tmp_path)
    assert EVIL not in text
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize("key", ["overall", "tasks", "protocol", "verdict", "floors", "videos"])
def test_damaged_results_are_an_error(key: str, tmp_path: Path) -> None:
    found = copy.deepcopy(results())
    del found[key]
    with pytest.raises(DataError, match="damaged"):
        write_success_report(found, tmp_path)


def test_other_kinds_and_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="kind 'planning'"):
        write_success_report(results() | {"kind": "planning"}, tmp_path)
    found = results()
    found["videos"][0]["path"] = "../a.mp4"
    with pytest.raises(DataError, match="lies outside"):
        write_success_report(found, tmp_path)
    assert not (tmp_path / "report.html").exists()
