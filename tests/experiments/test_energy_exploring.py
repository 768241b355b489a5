"""The oracle: a world model that is right by construction passes, and wrong ones do not."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from saccade.evals.landscape_findings import verdict
from saccade.evals.planning import moments
from saccade.experiments.energy_exploring import (
    Asked,
    Controls,
    brief,
    controls_of,
    entry,
    explore,
    judged,
    spread,
)
from saccade.experiments.energy_grids import GridsConfig
from saccade.experiments.moments import Recorded, Scene
from tests.evals.toy_arm import FRANKA, REST, ToyWorld

GRIDS = GridsConfig(widen=(1.0, 2.0), slices=(("yaw", "gripper"),), slice_steps=3, sweep_steps=3)
ASKED = Asked(GRIDS.resolve(FRANKA), "l1", 2.0, 2, 50, 0)
BLANK = torch.zeros(3, 8, 8, dtype=torch.uint8)


def scenes(count: int = 8) -> list[Scene]:
    """Recordings of a robot that moves as ``ToyWorld`` believes."""
    model, rng, made = ToyWorld(), np.random.default_rng(1), []
    for episode in range(count):
        action = np.append(rng.uniform(-0.07, 0.07, 3), [0, 0, 0, rng.uniform(-0.3, 0.3)])
        step = torch.from_numpy(action).float()[None]
        states = torch.cat([REST[None], model.moved(REST, step)])
        (moment,) = moments(model.see(states).detach(), states, step, episode)
        made.append(Scene(moment, states[-1], BLANK, BLANK))
    return made


def found(models: dict[str, ToyWorld], seen: list[Scene]) -> dict[str, Any]:
    """Explore several models, the first being the base."""
    aside = controls_of(seen, FRANKA, 0)
    explored = {n: explore(m, seen, aside, ASKED, n) for n, m in models.items()}
    base = next(iter(explored.values()))
    entries = [entry(n, e, None if e is base else base, ASKED) for n, e in explored.items()]
    return judged(entries, Recorded(seen, None, {}), ASKED)


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return found({"right": ToyWorld(), "wrong": ToyWorld(turn=-torch.eye(3))}, scenes())


def test_a_right_model_is_a_success_and_a_wrong_one_is_worse(results: dict[str, Any]) -> None:
    assert results["verdict"]["success"]
    assert results["verdict"]["sentence"].startswith("right knows what actions do")
    assert "wrong: further away" in results["verdict"]["sentence"]
    rung = {(alarm["name"], alarm["model"]) for alarm in results["alarms"]}
    assert not {alarm for alarm in rung if alarm[1] in ("right", "all")}
    assert {("floor", "wrong"), ("reversed", "wrong")} <= rung
    json.dumps(results, allow_nan=False)


def test_a_wrong_model_alone_is_none(results: dict[str, Any]) -> None:
    alone = verdict([{**results["models"][1], "paired": None}])
    assert not alone["success"]
    assert alone["sentence"].startswith("No success: the nearest minimum, that of wrong")


def test_models_are_compared_on_the_same_moments(results: dict[str, Any]) -> None:
    right, wrong = results["models"]
    places = [[(m["episode"], m["start"]) for m in one["moments"]] for one in (right, wrong)]
    assert places[0] == places[1]
    assert len(places[0]) == 8
    assert (right["paired"], right["changed"]) == (None, None)
    assert wrong["changed"] is True
    change = wrong["paired"]["scores"]["distance"]
    assert change["base"] == pytest.approx(right["summary"]["all"]["scores"]["distance"]["value"])
    assert change["low"] > 0
    assert change["wins"] == 0


def test_every_grid_is_summarised_and_some_moments_are_kept(results: dict[str, Any]) -> None:
    right = results["models"][0]
    assert [wide["factor"] for wide in right["widened"]] == [2]
    assert right["widened"][0]["summary"]["grid"]["half_width"] == [0.15] * 3
    assert [part["grid"]["names"] for part in right["slices"]] == [["yaw", "gripper"]]
    assert [part["grid"]["names"] for part in right["sweeps"]] == [[name] for name in FRANKA]
    assert right["controls"]["reversed"]["turned"]["low"] > 0
    assert right["controls"]["other_goals"]["worse_by"]["low"] > 0
    assert [kept["main"]["episode"] for kept in right["drawn"]] == [2, 6]
    assert len(right["drawn"][0]["main"]["energy"]) == 125
    assert len(right["drawn"][0]["sweeps"]) == 7


def test_what_a_control_cannot_do_is_said() -> None:
    seen = scenes(1)
    alone = controls_of(seen, FRANKA, 0)
    assert alone.computed == 1
    assert alone.skipped == ["Goals of other episodes were left out: there is only one episode."]
    part = ("x", "y", "z", "yaw", "pitch", "left", "gripper")
    turnless = controls_of(seen, part, 0)
    assert turnless.computed == 0
    assert turnless.skipped[0].startswith("Reversed time was left out: ")
    explored = explore(ToyWorld(), seen, Controls(None, None, []), ASKED, "right")
    assert (explored.reversed, explored.other_goals) == (None, None)


def test_small_helpers(results: dict[str, Any]) -> None:
    assert spread(10, 2) == [2, 7]
    assert spread(2, 5) == [0, 1]
    summary = results["models"][0]["summary"]
    assert brief(summary)["in_range"] == {"episodes": 8, "moments": 8}
    assert brief(summary)["all"] == summary["all"]
