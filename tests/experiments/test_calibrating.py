import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from saccade.errors import ConfigError, DataError
from saccade.evals.calibration import Calibration
from saccade.evals.planners import CemConfig, Limits
from saccade.experiments.calibrating import Calibrating
from saccade.experiments.plans import LoadConfig
from tests.evals.toy_arm import ToyWorld
from tests.experiments.planning_helpers import FEW, SOURCE, right, save_model

TURN = Rotation.from_euler("z", 30, degrees=True).as_matrix()
PLANNER = CemConfig(samples=60, iterations=5)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Calibrating:
    folder = save_model(tmp_path_factory.mktemp("models") / "base")
    model = LoadConfig(folder=folder, device="cpu")
    wide = CemConfig(samples=6, iterations=1, elites=2, limits=Limits(position=1.0))
    few = replace(FEW, part="all", episodes=4, per_episode=4)
    return Calibrating(model=model, source=SOURCE, moments=few, planner=wide, resamples=50)


def test_a_turn_is_found_and_judged_on_other_episodes(study: Calibrating) -> None:
    world = ToyWorld(turn=torch.from_numpy(TURN.astype(np.float32)))
    places = right(world, episodes=6, steps=3).moments
    known, rows = study.measure(world, PLANNER, places)
    assert known.angle == pytest.approx(30, abs=2)
    assert (known.episodes, rows["held_out"]["episodes"]) == (3, 3)
    assert rows["held_out"]["after"]["value"] < 0.3 * rows["held_out"]["before"]["value"]
    assert rows["verdict"]["success"]
    assert rows["alarms"] == []
    held = np.array(rows["moves"]["held_out"])
    assert held.sum() == 9
    after = np.array(rows["moves"]["calibrated"]) - np.array(rows["moves"]["true"])
    expected = np.linalg.norm(after[held], axis=1).mean()
    assert rows["held_out"]["after"]["value"] == pytest.approx(expected, abs=1e-4)


def test_a_right_model_needs_none_and_none_is_claimed(study: Calibrating) -> None:
    _, rows = study.measure(ToyWorld(), PLANNER, right(ToyWorld(), episodes=6, steps=3).moments)
    assert not rows["verdict"]["success"] or rows["held_out"]["better_by"]["value"] < 1e-3


def test_a_random_model_is_calibrated_without_a_success(study: Calibrating, tmp_path: Path) -> None:
    results = study.run(tmp_path, command="saccade plan calibrate")
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(results))
    assert not results["verdict"]["success"]
    assert "no motion seen" in {alarm["name"] for alarm in results["alarms"]}
    known = Calibration.load(tmp_path / "calibration.json")
    assert known.angle == pytest.approx(results["calibration"]["angle"])
    assert (tmp_path / "report.html").is_file()


def test_what_cannot_be_calibrated_is_refused(study: Calibrating, tmp_path: Path) -> None:
    world = ToyWorld()
    with pytest.raises(DataError, match="a second one is needed"):
        study.measure(world, PLANNER, right(world, episodes=1).moments)
    again = replace(study, model=replace(study.model, calibration=tmp_path / "calibration.json"))
    with pytest.raises(ConfigError, match="not calibrated again"):
        again.run(tmp_path, command="")
    with pytest.raises(ConfigError, match="moments have horizon 2, the planner 1"):
        replace(study, moments=replace(FEW, horizon=2)).run(tmp_path, command="")
