import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from saccade.data.libero.reader import LiberoConfig, State
from saccade.errors import ConfigError, DataError
from saccade.sim.libero import package
from saccade.sim.libero.scene import ATTEMPTS, LiberoScene
from saccade.sim.libero.suite import LiberoSuite

DRAWER = "KITCHEN_SCENE4_put_the_black_bowl_in_the_bottom_drawer_of_the_cabinet_and_close_it"


@pytest.fixture(scope="module")
def drawer(libero_assets: Path) -> Iterator[LiberoScene]:
    """A cabinet that the seed places, whose drawer begins open."""
    suite = LiberoSuite("libero_10", libero_assets)
    (task,) = (task for task in suite.tasks if task.name == DRAWER)
    with suite.open(task) as scene:
        assert isinstance(scene, LiberoScene)
        yield scene


def act(scene: LiberoScene, *action: float, steps: int = 1) -> np.ndarray:
    """Repeat an action; return the simulator's states."""
    states = []
    for _ in range(steps):
        scene.step(np.array(action, np.float32))
        states.append(scene.sim_state())
    return np.stack(states)


@pytest.mark.parametrize("name", ["soup", "drawer"])
def test_an_episode_is_that_of_a_fresh_environment_whatever_was_before(
    name: str, libero_assets: Path, request: pytest.FixtureRequest
) -> None:
    """Bit for bit what LIBERO's own environment gives: states, observations and pictures.

    That one is opened, drawn and closed in between, which changes nothing of ours.
    """
    scene: LiberoScene = request.getfixturevalue(name)
    scene.reset(5, 9)
    act(scene, 0.3, 0.1, -1, 0, 0.2, 0, 0, steps=15)
    scene.render("wrist", 64, 64)
    wrapper = package._import("libero.libero.envs.env_wrapper")
    with package._silent():
        official: Any = wrapper.OffScreenRenderEnv(
            bddl_file_name=str(scene.bddl), camera_heights=64, camera_widths=64
        )
        official.seed(4)
        official.reset()
    seen = official.set_init_state(scene._states[3])
    scene.reset(3, 4)
    np.testing.assert_array_equal(official.get_sim_state(), scene.sim_state())
    np.testing.assert_array_equal(official.sim.model.body_pos, scene.env.sim.model.body_pos)
    for command in np.random.default_rng(0).uniform(-1, 1, (3, 7)).astype(np.float32):
        seen, _, done, _ = official.step(command.astype(np.float64))
        act(scene, *command[:6], (1 - command[6]) / 2)
        assert scene.success == done
    np.testing.assert_array_equal(official.get_sim_state(), scene.sim_state())
    state = scene.state()
    position = np.array([state[axis] for axis in "xyz"], np.float32)
    np.testing.assert_array_equal(position, seen["robot0_eef_pos"].astype(np.float32))
    for camera, key in (("agentview", "agentview"), ("wrist", "robot0_eye_in_hand")):
        np.testing.assert_array_equal(scene.render(camera, 64, 64), seen[f"{key}_image"][::-1])
    before = scene.render("agentview", 64, 64)
    other = LiberoScene.__new__(LiberoScene)
    other.env = official
    other.close()
    other.close()  # twice does no harm
    np.testing.assert_array_equal(scene.render("agentview", 64, 64), before)


def test_the_seed_places_what_is_fixed_and_the_initial_state_the_rest(drawer: LiberoScene) -> None:
    def places(initial_state: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        drawer.reset(initial_state, seed)
        return drawer.sim_state(), drawer.env.sim.model.body_pos.copy()

    state, fixed = places(0, 0)
    same_state, other_fixed = places(0, 1)
    other_state, same_fixed = places(1, 0)
    np.testing.assert_array_equal(state, same_state)
    np.testing.assert_array_equal(fixed, same_fixed)
    assert not np.array_equal(fixed, other_fixed)
    assert not np.array_equal(state, other_state)


def test_a_reset_leaves_numpy_s_own_random_numbers_alone(soup: LiberoScene) -> None:
    before = np.random.get_state(legacy=False)  # noqa: NPY002
    soup.reset(0, 1)
    act(soup, 0, 0, 0, 0, 0, 0, 1)
    after = np.random.get_state(legacy=False)  # noqa: NPY002
    assert str(before) == str(after)
    np.testing.assert_array_equal(before["state"]["key"], after["state"]["key"])


def test_scenes_of_one_process_do_not_draw_into_each_other(
    soup: LiberoScene, drawer: LiberoScene
) -> None:
    soup.reset(0, 0)
    drawer.reset(0, 0)
    alone = soup.render("agentview", 64, 64)
    other = drawer.render("agentview", 64, 64)
    assert (alone != other).mean() > 0.5
    np.testing.assert_array_equal(soup.render("agentview", 64, 64), alone)
    np.testing.assert_array_equal(drawer.render("agentview", 64, 64), other)


def test_pictures_are_upright_and_of_any_size(soup: LiberoScene) -> None:
    soup.reset(0, 0)
    picture = soup.render("agentview", 96, 128)
    assert (picture.shape, picture.dtype) == ((96, 128, 3), np.uint8)
    raw = soup.env.sim.render(camera_name="agentview", height=96, width=128)
    np.testing.assert_array_equal(picture, raw[::-1])  # MuJoCo's first row is the lowest
    assert soup.render("wrist", 700, 900).shape == (700, 900, 3)  # beyond robosuite's buffer
    np.testing.assert_array_equal(soup.render("agentview", 96, 128), picture)
    with pytest.raises(ConfigError, match="no camera 'frontview'; it has agentview, wrist"):
        soup.render("frontview", 64, 64)


def test_actions_are_clipped_and_move_what_they_name(soup: LiberoScene) -> None:
    soup.reset(0, 0)
    start = soup.state()
    act(soup, 1, 0, 0, 0, 0, 0, 1, steps=5)
    moved = soup.state()
    assert moved["x"] - start["x"] > 0.04
    assert abs(moved["y"] - start["y"]) < 0.02
    act(soup, 0, 0, 0, 0, 0, 0, 1, steps=10)
    assert soup.state()["gripper"] > 0.95
    act(soup, 0, 0, 0, 0, 0, 0, 0, steps=20)
    assert soup.state()["gripper"] < 0.05
    soup.reset(0, 0)
    beyond = act(soup, 7, 0, -3, 0, 0, 0, 2, steps=2)
    soup.reset(0, 0)
    np.testing.assert_array_equal(act(soup, 1, 0, -1, 0, 0, 0, 1, steps=2), beyond)
    for wrong in ([0] * 6, [0, 0, 0, 0, 0, np.inf, 0]):
        with pytest.raises(DataError, match="expected 7 finite numbers: x, y, z, rx, ry, rz, grip"):
            act(soup, *wrong)


def test_success_is_that_of_this_moment(soup: LiberoScene) -> None:
    soup.reset(0, 0)
    assert not soup.success
    data = soup.env.sim.data
    basket = data.get_body_xpos("basket_1_main")
    data.set_joint_qpos("alphabet_soup_1_joint0", [*basket[:2], basket[2] + 0.05, 1, 0, 0, 0])
    act(soup, 0, 0, 0, 0, 0, 0, 1)
    assert soup.success
    soup.reset(0, 0)
    assert not soup.success


@pytest.mark.parametrize("kind", ["eef", "eef_joint", "openvla"])
def test_states_are_what_the_reader_reads_of_the_same_moments(
    soup: LiberoScene, kind: State, tmp_path: Path
) -> None:
    """Observations are written as LIBERO's script does; the rotation is scipy's, too."""
    soup.reset(2, 0)
    rows: dict[str, list[np.ndarray]] = {"ee": [], "joint": [], "gripper": []}
    states = []
    for _ in range(3):
        act(soup, 0.2, 0, 0, 0.5, 0, 0.3, 0)
        seen = soup._observation
        turn = package.rotation_vector(seen["robot0_eef_quat"])
        rows["ee"].append(np.append(seen["robot0_eef_pos"], turn))
        rows["joint"].append(seen["robot0_joint_pos"])
        rows["gripper"].append(seen["robot0_gripper_qpos"])
        states.append(soup.state())
        same = Rotation.from_rotvec(turn).inv() * Rotation.from_quat(seen["robot0_eef_quat"])
        assert same.magnitude() < 1e-6
    with h5py.File(tmp_path / f"{soup.task.name}_demo.hdf5", "w") as file:
        info = {"language_instruction": soup.env.language_instruction}
        file.create_group("data").attrs["problem_info"] = json.dumps(info)
        for key, values in rows.items():
            file[f"data/demo_0/obs/{key}_states"] = np.stack(values)
        file["data/demo_0/actions"] = np.zeros((3, 7))
        for key in ("agentview_rgb", "eye_in_hand_rgb"):
            file[f"data/demo_0/obs/{key}"] = np.zeros((3, 8, 8, 3), np.uint8)
    episodes = LiberoConfig(root=tmp_path, state=kind, alignment="before").build()
    assert episodes.tasks == [soup.task.instruction]
    read, _ = episodes.numbers(0, np.arange(3))
    ours = np.array([[state[name] for name in episodes.state_names] for state in states])
    np.testing.assert_array_equal(read, ours.astype(np.float32))


def test_the_model_of_an_episode_compiles_with_everything_in_its_place(drawer: LiberoScene) -> None:
    drawer.reset(0, 3)
    model = package._import("mujoco").MjModel.from_xml_string(drawer.model_xml())
    ours = drawer.env.sim.model
    np.testing.assert_allclose(model.body_pos, ours.body_pos, atol=1e-12)
    np.testing.assert_allclose(model.body_quat, ours.body_quat, atol=1e-12)
    assert 1 + model.nq + model.nv == len(drawer.sim_state())


def test_a_simulator_that_does_not_come_back_is_an_error(soup: LiberoScene, monkeypatch) -> None:
    """LIBERO's own reset would try for ever."""
    tries = []

    def full() -> None:
        tries.append(None)
        raise package.placement_error()("Cannot place all objects")

    with monkeypatch.context() as patch:
        patch.setattr(soup.env.env, "_reset_internal", full)
        with pytest.raises(DataError, match="cannot be reset: Cannot place all objects"):
            soup.reset(0, 0)
    assert len(tries) == ATTEMPTS
    soup.reset(0, 0)
    with pytest.raises(ConfigError, match="no initial state 50; it has 0 to 49"):
        soup.reset(50, 0)
    with pytest.raises(ConfigError, match="seed is -1, expected 0 to 4294967295"):
        soup.reset(0, -1)


def test_missing_meshes_are_named(soup: LiberoScene, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"cannot be loaded with the assets {tmp_path}.*xml"):
        LiberoScene(soup.task, tmp_path)
