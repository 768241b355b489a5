import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saccade.errors import CheckpointError, ConfigError
from saccade.evals.planners import CemConfig, GradientConfig, MppiConfig
from saccade.evals.planning import plan_all
from saccade.experiments.planning import BASE, OfflinePlanning
from saccade.experiments.plans import LoadConfig
from tests.evals.toy_arm import ToyWorld
from tests.experiments.planning_helpers import FEW, SOURCE, right, save_adapters, save_model

CEM = CemConfig(samples=4, iterations=1, elites=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def study(model: Path) -> OfflinePlanning:
    load = LoadConfig(folder=model, device="cpu")
    return OfflinePlanning(model=load, source=SOURCE, moments=FEW, planners=(CEM,), resamples=50)


@pytest.fixture(scope="module")
def found(study: OfflinePlanning, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Results of two planners, base and adapters, with sub-goals."""
    adapters = save_adapters(model.parent / "adapters", model)
    several = (CEM, MppiConfig(samples=4, iterations=1))
    asked = replace(study, adapters=(adapters,), planners=several, sub_goals=(1, 1))
    folder = tmp_path_factory.mktemp("results")
    results = asked.run(folder, command="saccade plan offline")
    assert json.loads((folder / "results.json").read_text()) == results
    assert (folder / "report.html").is_file()
    return results


def test_models_and_planners_are_asked_about_the_same_moments(found: Any, model: Path) -> None:
    adapters = str(model.parent / "adapters")
    names = [(run["model"], run["planner"]) for run in found["runs"]]
    assert names == [(BASE, "cem"), (BASE, "mppi"), (adapters, "cem"), (adapters, "mppi")]
    assert found["adapters"] == {BASE: {}, adapters: {"step": 7, "samples": None}}
    assert (found["kind"], found["mode"], found["data"]["moments"]) == ("planning", "offline", 2)
    truths = [run["motion"]["true"] for run in found["runs"]]
    assert all(truth == truths[0] for truth in truths)
    plans = [run["motion"]["planned"] for run in found["runs"]]
    assert plans[0] != plans[2]  # the adapters do something
    assert {run["evaluations_per_plan"] for run in found["runs"]} == {5}
    assert set(found["floors"]) == {"zero", "mean", "random", "last"}
    assert found["data"]["crop"] == "square"


def test_a_random_model_is_no_success(found: Any) -> None:
    assert not found["verdict"]["success"]
    assert "does not beat standing still" in found["verdict"]["sentence"]
    assert "2 moments of 2 episodes" in found["verdict"]["sentence"]
    first, *others = (run["closer_by"]["value"] for run in found["runs"])
    assert first == 0
    assert any(others)


def test_sub_goals_are_pursued_by_the_first_planner_of_each_model(found: Any) -> None:
    goals = found["sub_goals"]
    assert [goal["planner"] for goal in goals] == ["cem", "cem"]
    assert len(goals[0]["scores"]["planned"]) == 2
    assert goals[0]["scores"]["still"] == goals[1]["scores"]["still"]
    assert sum("sub-goals 1, 1 steps apart" in said for said in found["verdict"]["details"]) == 2


def test_a_right_model_is_a_success(study: OfflinePlanning) -> None:
    world = ToyWorld()
    planner = CemConfig(samples=60, iterations=6)
    places = right(world)
    planned = plan_all(world, planner, places.moments, places.mean_action)
    judged = replace(study, planners=(planner,)).judge({(BASE, "cem"): planned}, [], places)
    assert judged["verdict"]["success"]
    assert judged["alarms"] == []
    assert judged["moments"][5] == [1, 1]
    np.testing.assert_allclose(judged["runs"][0]["motion"]["true"], planned.true, atol=1e-5)


def test_where_all_is_asked_there_is_no_mean(study: OfflinePlanning) -> None:
    world = ToyWorld()
    places = right(world, episodes=2)._replace(mean_action=None)
    planned = plan_all(world, CEM, places.moments, places.mean_action)
    judged = study.judge({(BASE, "cem"): planned}, [], places)
    assert set(judged["floors"]) == {"zero", "random", "last"}
    assert any("no mean-action floor" in said for said in judged["verdict"]["details"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"planners": ()}, "name one or more"),
        ({"planners": (CEM, CEM)}, "each once"),
        ({"planners": (CEM, GradientConfig(horizon=2))}, r"horizons \[1, 2\]"),
        ({"moments": replace(FEW, horizon=2)}, r"horizons \[1, 2\]"),
        ({"warm_start": True, "sub_goals": (2,)}, "horizon 1 has none"),
        ({"crop": "ac"}, "cropped by 'ac'"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    study: OfflinePlanning, change: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=told):
        replace(study, **change).run(tmp_path, command="")
    assert not list(tmp_path.iterdir())


def test_a_folder_without_adapters_is_refused(study: OfflinePlanning, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="adapters"):
        replace(study, adapters=(tmp_path,)).run(tmp_path / "out", command="")
