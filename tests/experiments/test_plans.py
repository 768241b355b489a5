import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saccade.errors import ConfigError, DataError
from saccade.evals.calibration import Calibrated, Calibration
from saccade.evals.planners import CemConfig, GradientConfig, Limits, MppiConfig
from saccade.experiments.plans import LoadConfig, about_model, ahead, beside, fitted, name_of
from saccade.models.world_model import ActionWorldModel
from saccade.recipes.world_model import debug
from tests.experiments.planning_helpers import save_model

LIMITS = Limits(position=0.05, rotation=0.1)
KNOWN = Calibration(
    rotation=((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)),
    scale=1.0,
    angle=90.0,
    angle_low=89.0,
    angle_high=91.0,
    uncertainty=1.0,
    before=0.05,
    residual=0.01,
    condition=1.1,
    moves=20,
    episodes=4,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def model(folder: Path) -> ActionWorldModel:
    return LoadConfig(folder=folder, device="cpu").load()


def test_planners_are_compared_at_equal_cost() -> None:
    first = CemConfig(samples=120, iterations=8, limits=LIMITS, metric="l2", horizon=2)
    other = beside(first, "mppi")
    assert isinstance(other, MppiConfig)
    assert (other.samples, other.iterations, other.evaluations) == (120, 8, first.evaluations)
    slopes = beside(first, "gradient")
    assert isinstance(slopes, GradientConfig)
    assert abs(3 * slopes.evaluations / first.evaluations - 1) < 0.05
    for planner in (other, slopes):
        assert (planner.limits, planner.metric, planner.horizon) == (LIMITS, "l2", 2)
    back = beside(slopes, "cem")
    assert isinstance(back, CemConfig)
    assert abs(back.evaluations / first.evaluations - 1) < 0.1
    assert [name_of(planner) for planner in (first, other, slopes)] == ["cem", "mppi", "gradient"]
    assert beside(replace(first, samples=4, elites=2), "cem").evaluations == 33


def test_a_forced_closing_has_the_sign_of_the_models_gripper(model: ActionWorldModel) -> None:
    assert model.config.gripper == "open_is_1"
    planner = fitted(CemConfig(limits=Limits(close_from=0)), model)
    assert planner.limits.closing == -1
    torch.manual_seed(0)
    base = debug().objective.build().model.config
    closed = replace(base, gripper="closed_is_1").build()
    assert fitted(planner, closed).limits.closing == 1


@pytest.mark.parametrize("planner", [CemConfig(samples=20), GradientConfig(iterations=2)])
def test_the_cost_of_a_plan_is_told_beforehand(
    model: ActionWorldModel, planner: CemConfig | GradientConfig
) -> None:
    cost = ahead(model, planner)
    assert cost.evaluations == planner.evaluations
    assert cost.seconds > 0
    assert (cost.timed, ahead(model, replace(planner, memory=1e-9)).timed) == (16, 1)
    assert 0.01 < cost.megabytes < 1


def test_a_calibration_belongs_to_a_model_and_a_camera(
    folder: Path, model: ActionWorldModel, tmp_path: Path
) -> None:
    file, said = tmp_path / "calibration.json", []
    KNOWN.save(file)
    load = LoadConfig(folder=folder, calibration=file, device="cpu")
    ready = load.calibrated(model, "front", said.append)
    assert isinstance(ready, Calibrated)
    action = torch.tensor([[[0.1, 0, 0, 0]]])
    assert ready.calibration.to_model(action, model.action_names)[0, 0, 1] == pytest.approx(-0.1)
    assert "cannot be checked" in said[0]
    made = {"model": about_model(model, load), "data": {"camera": "front"}}
    beside_it = tmp_path / "results.json"
    beside_it.write_text(json.dumps(made))
    said.clear()
    assert isinstance(load.calibrated(model, "front", said.append), Calibrated)
    assert not said
    with pytest.raises(ConfigError, match="for the camera front, this is side"):
        load.calibrated(model, "side")
    made["model"]["digest"] = "another"
    beside_it.write_text(json.dumps(made))
    with pytest.raises(ConfigError, match="for the model another"):
        load.calibrated(model, "front")
    file.write_text("{}")
    with pytest.raises(DataError, match="not a calibration"):
        load.calibrated(model, "front")
