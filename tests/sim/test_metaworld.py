import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from saccade.errors import ConfigError, DataError
from saccade.sim.metaworld import TASKS, MetaWorld, _shrink, find_tasks, instruction


@pytest.fixture(scope="module")
def reach() -> Iterator[MetaWorld]:
    with MetaWorld("reach", size=64) as simulator:
        yield simulator


def play(simulator: MetaWorld, seed: tuple[int, ...], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the states and the executed actions of the expert."""
    simulator.reset(seed)
    states, actions = [], []
    for _ in range(steps):
        states.append(simulator.observe())
        actions.append(simulator.step(simulator.expert()))
    return np.stack(states), np.stack(actions)


def test_task_names_are_completed_and_typing_errors_get_a_hint() -> None:
    assert find_tasks(["drawer-open", "reach-v3", "reach"]) == ("drawer-open-v3", "reach-v3")
    assert find_tasks(["all"]) == TASKS
    assert len(TASKS) == 50
    with pytest.raises(ConfigError, match=r"'drawr-open-v3'.*drawer-open-v3"):
        find_tasks(["drawr-open"])
    assert instruction("drawer-open-v3") == "drawer open"


def test_an_episode_depends_on_its_seed_and_not_on_what_came_before() -> None:
    with MetaWorld("push") as used, MetaWorld("push") as fresh:
        play(used, (0, 1), 30)
        states, actions = play(used, (0, 2), 20)
        again, same_actions = play(fresh, (0, 2), 20)
        other, _ = play(fresh, (0, 3), 20)
    np.testing.assert_array_equal(states, again)
    np.testing.assert_array_equal(actions, same_actions)
    assert not np.array_equal(states, other)


def test_executed_actions_replay_to_the_same_states(reach: MetaWorld) -> None:
    states, actions = play(reach, (4,), 15)
    reach.reset((4,))
    for state, action in zip(states, actions, strict=True):
        np.testing.assert_array_equal(reach.observe(), state)
        np.testing.assert_array_equal(reach.step(action), action)


def test_a_unit_of_action_is_a_centimetre_of_the_hand(reach: MetaWorld) -> None:
    reach.reset((0,))
    before = reach.observe()
    for action in [(1, 0, 0, 1)] * 10 + [(0, 0, 0, 1)] * 20:
        reach.step(np.array(action, np.float32))
    np.testing.assert_allclose((reach.observe() - before)[:3], (0.1, 0, 0), atol=0.01)


def test_actions_are_clipped_and_the_gripper_is_1_when_open(reach: MetaWorld) -> None:
    reach.reset((0,))
    executed = reach.step(np.array([5, -5, 0.5, 3], np.float32))
    np.testing.assert_array_equal(executed, np.array([1, -1, 0.5, 1], np.float32))
    for gripper, low, high in [(1.0, 0.9, 1.0), (0.0, 0.0, 0.6)]:
        for _ in range(30):
            reach.step(np.array([0, 0, 0, gripper], np.float32))
        assert low <= reach.observe()[3] <= high


def test_the_expert_succeeds(reach: MetaWorld) -> None:
    reach.reset((1,))
    assert not reach.success
    for _ in range(100):
        reach.step(reach.expert())
    assert reach.success
    assert reach.fps == pytest.approx(80)


@pytest.mark.parametrize("camera", ["corner", "corner2", "corner3", "topview"])
def test_what_the_rotation_says_is_where_the_picture_shows_it(
    reach: MetaWorld, camera: str
) -> None:
    reach.reset((0,))
    goal = reach._model.site("goal")
    rgba = goal.rgba.copy()
    with_goal = reach.render(camera).astype(int)
    goal.rgba[3] = 0
    without = reach.render(camera).astype(int)
    goal.rgba[:] = rgba
    rows, columns = np.nonzero(np.abs(with_goal - without).sum(-1))

    offset = reach._data.site("goal").xpos - reach._data.camera(camera).xpos
    right, down, forward = reach.world_to_camera(camera) @ offset
    focal = 32 / np.tan(np.radians(reach._model.camera(camera).fovy[0]) / 2)  # pixels
    assert columns.mean() == pytest.approx(31.5 + focal * right / forward, abs=1.5)
    assert rows.mean() == pytest.approx(31.5 + focal * down / forward, abs=1.5)
    assert np.linalg.det(reach.world_to_camera(camera)) == pytest.approx(1)


def test_pictures_are_upright(reach: MetaWorld) -> None:
    for camera in ("corner", "corner2", "corner3", "behindGripper"):
        assert reach.world_to_camera(camera)[1, 2] < -0.4  # down in the picture is down


def test_smoothing_averages_squares_and_rounds() -> None:
    image = np.zeros((2, 4, 3), np.uint8)
    image[:, :2, 0] = [[0, 1], [2, 4]]  # 7 / 4
    image[:, 2:, 1] = 255
    assert _shrink(image, 2).tolist() == [[[2, 0, 0], [0, 255, 0]]]


def test_a_blank_picture_is_an_error(reach: MetaWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    reach.render("corner2")
    assert reach._renderer is not None
    monkeypatch.setattr(reach._renderer, "render", lambda: np.zeros((128, 128, 3), np.uint8))
    with pytest.raises(DataError, match=r"corner2 of reach-v3 gave a blank picture.*doctor"):
        reach.render("corner2")


def test_an_unknown_camera_is_an_error(reach: MetaWorld) -> None:
    with pytest.raises(ConfigError, match=r"'front'; it has .*corner2"):
        reach.render("front")


def test_graphics_that_do_not_load_are_one_sentence_with_the_packages() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import saccade.sim.metaworld"],
        env={**os.environ, "MUJOCO_GL": "nonsense"},
        capture_output=True,
        text=True,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("saccade.errors.ConfigError: MUJOCO_GL=nonsense does not load")
    assert "libosmesa6" in last
