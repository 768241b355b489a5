import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saccade.errors import DataError
from saccade.report.pictures import save_strip
from saccade.report.planning_page import write_planning_report

EVIL = '<script>alert("1")</script>'


def found(value: float | None, width: float = 0.002) -> dict[str, Any]:
    if value is None:
        return {"value": None, "low": None, "high": None, "moments": 0}
    return {"value": value, "low": value - width, "high": value + width, "moments": 8}


def common(mode: str) -> dict[str, Any]:
    return {
        "kind": "planning",
        "format": 1,
        "mode": mode,
        "title": "Planning with base",
        "created": "2026-01-01T00:00:00+00:00",
        "commands": ["saccade plan"],
        "versions": {"torch": "2"},
        "machine": {
            "cpu": "a cpu",
            "cores": 2,
            "memory_gb": 8.0,
            "accelerator": None,
            "platform": "Linux",
        },
        "commit": None,
        "model": {
            "folder": "models/base",
            "digest": "0123",
            "encoder": "ViT",
            "predictor_parameters": 1000,
            "step_seconds": 0.25,
            "crop": "ac",
            "gripper": "open_is_1",
            "states": ["x", "y", "z", "gripper"],
            "actions": ["x", "y", "z", "gripper"],
            "device": "cpu",
            "precision": "float32",
            "calibration": None,
        },
        "settings": {"type": "A", "seed": 0, "planners": [{"type": "B", "samples": 8}]},
        "seconds": {"all": 3.0},
        "alarms": [{"name": "still data", "where": "base", "detail": "0.20 cm"}],
        "verdict": {"sentence": "It beats standing still.", "success": True, "details": ["why"]},
    }


def offline() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    axes = ["x", "y", "z"]

    def scores(error: float | None) -> dict[str, Any]:
        names = [*axes, "xyz", "direction", "gripper_sign", "action_score"]
        return {name: found(error) for name in names}

    run = {
        "model": "the base model",
        "planner": "cem",
        "scores": scores(0.01),
        "better_by": {"zero": found(0.02), "last": found(None)},
        "closer_by": found(0.0),
        "episodes": 2,
        "moments": 8,
        "seconds_per_plan": 0.5,
        "evaluations_per_plan": 17.0,
        "motion": {k: rng.normal(0, 0.05, (8, 3)).tolist() for k in ("true", "planned")},
    }
    other = {**run, "model": "adapters/a", "closer_by": found(0.005)}
    goal = {
        "model": "the base model",
        "planner": "cem",
        "episodes": 2,
        "seconds_per_plan": 0.5,
        "scores": {k: [found(0.01), found(0.02)] for k in ("planned", "still", "random")},
        "better_by": {"still": found(0.01), "random": found(0.01)},
    }
    about = {"episodes": 2, "moments": 8, "horizon": 1, "step_seconds": 0.25, "camera": "front"}
    return common("offline") | {
        "axes": axes,
        "runs": [run, other],
        "floors": {"zero": scores(0.03), "last": scores(None)},
        "sub_goals": [goal],
        "data": about,
        "adapters": {},
    }


def reach(folder: Path) -> dict[str, Any]:
    for name in ("planned.png", "goals.png"):
        save_strip(torch.rand(3, 3, 8, 8), folder / name)
    share = {"value": 0.5, "low": 0.2, "high": 0.8, "count": 1, "episodes": 2}
    one = {
        "reached": share,
        "success": share,
        "final": found(0.04),
        "distance": [0.2, 0.1, 0.04],
        "finals": [0.03, 0.05],
        "seconds": 0.5,
    }
    behaviours = dict.fromkeys(("planned", "nothing", "random", "expert"), one)
    better = {"nothing": found(0.1), "random": found(0.1), "expert": found(-0.02)}
    about = {
        "task": "reach-v3",
        "camera": "corner2",
        "recorded": None,
        "picture": "64 px, noise 2, as ac",
        "image_size": 32,
        "actions": 2,
        "control_steps": 20,
    }
    return common("reach") | {
        "data": about,
        "reach": {**behaviours, "tolerance": 0.05, "episodes": 2, "better_by": better},
        "pictures": {"one planned episode": "planned.png", "its goals": "goals.png"},
    }


def calibrate() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    names = ("angle", "angle_low", "angle_high", "uncertainty", "before", "residual", "condition")
    moves = {k: rng.normal(0, 0.05, (6, 3)).tolist() for k in ("inferred", "calibrated", "true")}
    scores = ("before", "after", "zero", "better_by", "better_than_zero")
    return common("calibrate") | {
        "data": {"camera": "front", "episodes": 4},
        "calibration": dict.fromkeys(names, 1.0) | {"scale": 1.0, "moves": 3, "episodes": 2},
        "held_out": {"episodes": 2, "moves": 3} | dict.fromkeys(scores, found(0.02)),
        "moves": {"held_out": [True, False] * 3, **moves},
    }


def results(mode: str, folder: Path) -> dict[str, Any]:
    return {"offline": offline, "calibrate": calibrate}.get(mode, lambda: reach(folder))()


@pytest.fixture(params=["offline", "reach", "calibrate"], scope="module")
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def page(mode: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp(mode)
    return write_planning_report(results(mode, folder), folder).read_text()


def test_a_page_is_one_file_that_loads_nothing(page: str) -> None:
    assert "default-src 'none'" in page
    assert not re.search(r"<(script|link|iframe|object|embed|base)\b", page)
    for target in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert target.startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"url\((?!#)|@import", page)
    assert page.index("It beats standing still.") < page.index("<table") < page.index("<svg")
    assert 'class="verdict success"' in page
    assert "still data" in page
    assert "<dt>planners[0].samples</dt><dd><code>8</code></dd>" in page
    identifiers = re.findall(r'\bid="([^"]*)"', page)
    assert len(identifiers) == len(set(identifiers))


def test_the_numbers_are_in_the_table(page: str, mode: str) -> None:
    expected = {
        "offline": ["1.00 <small>[0.80, 1.20]</small>", "No mean-action floor", ">better</td>"],
        "reach": ["1 of 2 <small>[20, 80 %]</small>", "no floor: it knows the goal", "its goals"],
        "calibrate": ["2.00 <small>[1.80, 2.20]</small>", "nearer than standing still by"],
    }
    for said in expected[mode]:
        assert said in page, said


def test_equal_results_give_equal_bytes(tmp_path: Path) -> None:
    given = reach(tmp_path)
    one, again = (write_planning_report(given, tmp_path).read_bytes() for _ in range(2))
    assert one == again


def test_all_is_escaped_and_no_success_is_shown_that_the_table_does_not_bear_out(
    mode: str, tmp_path: Path
) -> None:
    given, lost = results(mode, tmp_path), found(-0.01)
    given["title"] = given["verdict"]["sentence"] = given["alarms"][0]["detail"] = EVIL
    given["commands"] = [EVIL]
    if mode == "offline":
        given["runs"][0]["model"] = EVIL
        given["runs"][0]["better_by"]["zero"] = lost
    elif mode == "reach":
        given["reach"]["better_by"]["random"] = lost
    else:
        given["held_out"]["better_than_zero"] = lost
    page = write_planning_report(given, tmp_path).read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert 'class="verdict caution"' in page
    assert "The table does not bear this out" in page


def test_malformed_results_are_refused(mode: str, tmp_path: Path) -> None:
    given = results(mode, tmp_path)
    for key, wrong in (("kind", "landscape"), ("mode", "dance"), ("format", 9)):
        with pytest.raises(DataError, match=f"has {key} "):
            write_planning_report({**given, key: wrong}, tmp_path)
    damaged = copy.deepcopy(given)
    damaged.pop({"offline": "runs", "reach": "reach", "calibrate": "moves"}[mode])
    with pytest.raises(DataError, match="is damaged"):
        write_planning_report(damaged, tmp_path)
