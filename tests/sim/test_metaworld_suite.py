import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from saccade.errors import ConfigError, DataError
from saccade.evals.players import NothingConfig
from saccade.evals.protocols import named
from saccade.evals.rollout_log import FILE, read_log
from saccade.evals.rollouts import play
from saccade.experiments.evaluating import Evaluation
from saccade.experiments.suites import player_named, suite_named
from saccade.sim.metaworld import MAX_STEPS, MetaWorld
from saccade.sim.metaworld_suite import MetaWorldScene, MetaWorldSuite


@pytest.fixture(scope="module")
def suite() -> MetaWorldSuite:
    return MetaWorldSuite(["reach", "push"])


@pytest.fixture(scope="module")
def reach(suite: MetaWorldSuite) -> Iterator[MetaWorldScene]:
    with pickle.loads(pickle.dumps(suite)).open(suite.tasks[0]) as scene:
        assert isinstance(scene, MetaWorldScene)
        yield scene


def test_tasks_are_named_and_unknown_ones_refused(suite: MetaWorldSuite) -> None:
    assert [task.name for task in suite.tasks] == ["reach-v3", "push-v3"]
    assert [task.instruction for task in suite.tasks] == ["reach", "push"]
    assert suite.tasks[0].initial_states == 0
    assert len(MetaWorldSuite().tasks) == 50
    assert suite.versions().keys() == {"mujoco", "metaworld", "gl"}
    with pytest.raises(ConfigError, match="'window-open-v3' is no task of this suite"):
        suite.open(replace(suite.tasks[0], name="window-open-v3"))


def test_an_episode_depends_on_initial_state_seed_and_actions_only(reach: MetaWorldScene) -> None:
    def play(initial_state: int, seed: int) -> tuple[list[dict[str, float]], np.ndarray]:
        reach.reset(initial_state, seed)
        rng, states = np.random.default_rng(5), []
        for _ in range(10):
            reach.step(rng.uniform(-1, 1, 4).astype(np.float32))
            states.append(dict(reach.state()))
        return states, reach.render("corner2", 48, 48)

    states, picture = play(3, 1)
    goals = [play(*key)[1] for key in ((3, 2), (1, 3))]
    again, same = play(3, 1)
    assert states == again
    np.testing.assert_array_equal(picture, same)
    assert all((picture != other).any() for other in goals)


def test_it_is_the_simulator_that_collects(reach: MetaWorldScene) -> None:
    """An initial state ``k`` is what a collection of this seed would begin its episode ``k`` in."""
    reach.reset(4, 9)
    action = np.array([2, -0.5, 0.3, 0], np.float32)
    for _ in range(5):
        reach.step(action)
    with MetaWorld("reach", size=64) as simulator:
        simulator.reset((9, 4))
        for _ in range(5):
            simulator.step(action)
        np.testing.assert_array_equal(list(reach.state().values()), simulator.observe())
        np.testing.assert_array_equal(reach.render("corner2", 64, 64), simulator.render("corner2"))
    assert list(reach.state()) == ["x", "y", "z", "gripper"]
    assert reach.fps == pytest.approx(80)


def test_any_square_is_drawn(reach: MetaWorldScene) -> None:
    assert reach.render("corner", 40, 40).shape == (40, 40, 3)
    assert reach.render("corner", 96, 96).shape == (96, 96, 3)
    with pytest.raises(ConfigError, match="squares, not 40 x 60"):
        reach.render("corner", 40, 60)
    with pytest.raises(ConfigError, match="no camera 'wrist'"):
        reach.render("wrist", 40, 40)


def test_the_expert_succeeds_at_a_moment_that_the_scene_tells(reach: MetaWorldScene) -> None:
    reach.reset(0, 0)
    assert not reach.success
    for _ in range(150):
        reach.step(reach.simulator.expert())
        if reach.success:
            break
    assert reach.success
    reach.reset(0, 0)
    assert not reach.success


def test_wrong_actions_and_keys_are_refused(reach: MetaWorldScene) -> None:
    for wrong in ([0, 0, 0, np.nan], [0, 0, 0]):
        with pytest.raises(DataError, match="expected 4 finite numbers: x, y, z, gripper"):
            reach.step(np.array(wrong, np.float32))
    with pytest.raises(ConfigError, match="the seed is -1"):
        reach.reset(0, -1)
    reach.reset(0, 0)
    for _ in range(MAX_STEPS):
        reach.step(np.zeros(4, np.float32))
    with pytest.raises(DataError, match="more than 500 steps"):
        reach.step(np.zeros(4, np.float32))


def test_the_evaluator_plays_the_expert_beside_a_floor(
    reach: MetaWorldScene, tmp_path: Path
) -> None:
    """In a process of its own, which gives what this one does."""
    protocol = named("metaworld").changed("metaworld", trials=2, horizon=120)
    name, expert = player_named("expert", protocol)
    evaluation = Evaluation(
        suite=suite_named("metaworld:reach"),
        name=name,
        player=expert,
        protocol=protocol,
        floors={"nothing": NothingConfig()},
    )
    results = evaluation.run(tmp_path / "run", command="saccade evaluate expert")
    assert results["crashed"] == []
    assert results["overall"]["successes"] == 2
    assert results["floors"]["nothing"]["overall"]["successes"] == 0
    records = read_log(tmp_path / "run" / FILE)
    assert len(records) == 4
    key = evaluation.keys()[1]
    here = play(reach, expert.build(), key, protocol)
    assert here["actions"] == records["expert", key]["actions"]
    assert here["steps"] == records["expert", key]["steps"]
