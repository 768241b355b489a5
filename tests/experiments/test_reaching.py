import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from saccade.data.transforms import Framing
from saccade.errors import ConfigError, DataError
from saccade.evals.closed_loop import Arm, ReachConfig
from saccade.evals.planners import CemConfig
from saccade.experiments.plans import LoadConfig
from saccade.experiments.reaching import ClosedLoop, ViewConfig, arm_of, view_of
from saccade.models.world_model import ActionWorldModel
from tests.evals.toy_arm import SAWYER, ToyArm, ToyWorld
from tests.experiments.planning_helpers import save_model

SMALL = CemConfig(samples=6, iterations=1, elites=2)


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> ClosedLoop:
    folder = save_model(tmp_path_factory.mktemp("models") / "base")
    return ClosedLoop(
        model=LoadConfig(folder=folder, device="cpu"),
        view=ViewConfig(size=64, supersample=1),
        reach=ReachConfig(episodes=2, goal_steps=(1, 1), expert_steps=2),
        planner=SMALL,
    )


def test_a_right_model_arrives_and_its_episode_is_filmed(loop: ClosedLoop) -> None:
    world = ToyWorld(SAWYER)
    config = ReachConfig(episodes=4, goal_steps=(6,), expert_steps=4, tolerance=0.02)
    planner = CemConfig(samples=80, iterations=5)
    arm = Arm(ToyArm(), world, "front")
    rows, film, goals = replace(loop, reach=config).act(world, planner, arm)
    assert rows["verdict"]["success"]
    assert rows["alarms"] == []
    assert rows["reach"]["planned"]["reached"]["count"] == 4
    assert (len(film), len(goals)) == (7, 1)
    assert not torch.equal(film[0], film[-1])


def test_meta_world_is_acted_in(loop: ClosedLoop, tmp_path: Path) -> None:
    results = loop.run(tmp_path, command="saccade plan reach")
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert (results["mode"], results["data"]["task"]) == ("reach", "reach-v3")
    assert (results["data"]["control_steps"], results["data"]["actions"]) == (8, 2)
    assert results["data"]["picture"] == "64 px, noise 2, as square"
    assert results["reach"]["planned"]["reached"]["episodes"] == 2
    for name in ("planned.png", "goals.png", "report.html"):
        assert (tmp_path / name).is_file()
    assert "2 episodes" in results["verdict"]["sentence"]


def test_the_model_sees_what_its_data_showed(loop: ClosedLoop) -> None:
    class Square(ToyArm):
        def render(self, camera: str) -> np.ndarray:
            return np.random.default_rng(0).integers(0, 256, (48, 48, 3)).astype(np.uint8)

    model = ActionWorldModel.from_pretrained(loop.model.folder)
    world = Square()
    arm = arm_of(world, model, ViewConfig(camera="front", sensor_noise=0.0), 0.01)
    arm.reset((0,))
    recorded = torch.from_numpy(world.render("front")).permute(2, 0, 1)[None]
    assert torch.equal(arm.see(), Framing.named("square", 32)(recorded)[0])
    assert arm.closed_is_one is False
    assert (arm.noise, arm_of(world, model, ViewConfig(camera="front"), 0.01).noise) == (0, 2)


def test_pictures_of_a_collection_are_imitated(tmp_path: Path) -> None:
    settings = {"size": 96, "supersample": 1, "sensor_noise": 4.0, "cameras": ["corner"]}
    (tmp_path / "collection.json").write_text(json.dumps({"settings": settings, "given_up": []}))
    found = view_of(tmp_path, "corner")
    assert found == ViewConfig(camera="corner", size=96, supersample=1, sensor_noise=4.0)
    with pytest.raises(ConfigError, match="not seen by 'corner2'"):
        view_of(tmp_path, "corner2")
    with pytest.raises(DataError, match=r"no collection\.json"):
        view_of(tmp_path / "elsewhere", "corner")


def test_a_warm_start_from_nothing_is_refused(loop: ClosedLoop, tmp_path: Path) -> None:
    warm = replace(loop, reach=replace(loop.reach, warm_start=True))
    with pytest.raises(ConfigError, match="horizon 1 has none"):
        warm.run(tmp_path, command="")
