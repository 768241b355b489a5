"""Depth and bodies are MuJoCo's own, and the flow that follows is what the pictures show."""

import os
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from saccade.data.truth import SceneTruth, flow
from saccade.errors import ConfigError, DataError
from saccade.sim.metaworld import MetaWorld
from saccade.sim.truth import Surveyor, mujoco

SIZE = 64
ROOM = """
<mujoco>
  <statistic extent="2" center="0 0 0"/>
  <visual><map znear="0.05" zfar="20"/><global offwidth="200" offheight="100"/></visual>
  <worldbody>
    <light pos="0 0 3"/>
    <geom type="plane" size="5 5 .1"/>
    <geom type="sphere" size=".3" pos="0 0 .5" rgba="1 0 0 0"/>
    <camera name="above" pos="0 0 2" fovy="60"/>
    <body name="box" mocap="true" pos="0.3 0.2 0.1"><geom type="box" size=".2 .1 .1"/></body>
    <site name="mark" type="box" size=".1 .1 .01" pos="-0.5 -0.4 0.01"/>
    <camera name="up" pos="0 0 1" fovy="60" euler="180 0 0"/>
  </worldbody>
</mujoco>
"""


def reading(model, data, camera: str) -> tuple[np.ndarray, np.ndarray]:
    """Return depths, and bodies with sites after them, as MuJoCo's own renderer gives them."""
    with mujoco.Renderer(model, SIZE, SIZE) as renderer:
        renderer.enable_depth_rendering()
        renderer.update_scene(data, camera)
        depth = renderer.render()
        renderer.enable_segmentation_rendering()
        number, kind = np.moveaxis(renderer.render(), -1, 0)
    bodies = np.where(kind == mujoco.mjtObj.mjOBJ_GEOM, model.geom_bodyid[number], 0)
    return depth, np.where(kind == mujoco.mjtObj.mjOBJ_SITE, model.nbody + number, bodies)


def test_a_room_is_measured_as_it_was_built() -> None:
    model = mujoco.MjModel.from_xml_string(ROOM)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    surveyor = Surveyor(model, SIZE)
    before = surveyor(data, "above")
    assert (model.vis.global_.offwidth, model.vis.quality.offsamples) == (200, 4)  # as they were
    focal = 32 / np.tan(np.pi / 6)

    def pixel(x: float, y: float, depth: float) -> tuple[int, int]:
        return round(31.5 - focal * y / depth), round(31.5 + focal * x / depth)

    box, mark, floor = pixel(0.3, 0.2, 1.8), pixel(-0.5, -0.4, 1.98), pixel(-0.5, 0.4, 2.0)
    assert [int(before.body[0][place]) for place in (box, mark, floor)] == [1, model.nbody, 0]
    found = [before.depth[0][place] for place in (box, mark, floor)]
    np.testing.assert_allclose(found, (1.8, 1.98, 2.0), rtol=1e-5)
    assert before.body[0][pixel(0, 0, 1.5)] == 0  # what is invisible hides nothing
    np.testing.assert_allclose(before.camera[0], pose_above(), atol=1e-12)

    data.mocap_pos[0] += [-0.09, 0.06, 0]  # and 0.05 m higher
    data.mocap_pos[0, 2] += 0.05
    mujoco.mj_forward(model, data)
    data.site("mark").xpos = data.site("mark").xpos + np.array(
        [0.1, 0, 0]
    )  # as Meta-World moves goals
    truth = SceneTruth.joined([before, surveyor(data, "above")])
    found, visible = flow(truth, 0, 1)
    rows, columns = np.nonzero((before.body[0] == 1) & (np.abs(before.depth[0] - 1.8) < 1e-3))
    x, y = (columns - 31.5) * 1.8 / focal - 0.09, (rows - 31.5) * 1.8 / focal - 0.06
    expected = np.stack([31.5 + focal * x / 1.75 - columns, 31.5 + focal * y / 1.75 - rows])
    np.testing.assert_allclose(found[:, rows, columns], expected, atol=1e-3)
    assert visible[rows, columns].mean() > 0.95  # but for the box's rim
    assert not found[:, (before.body[0] == 0)].any()
    mark_moved = found[:, before.body[0] == model.nbody]
    np.testing.assert_allclose(mark_moved[0], focal * 0.1 / 1.98, rtol=0.01)
    surveyor.close()


def pose_above() -> np.ndarray:
    """The camera looks down: right is x, down in the picture is -y, forward is -z."""
    pose = np.diag([1.0, -1, -1, 1])
    pose[2, 3] = 2
    return pose


def test_a_view_of_nothing_is_an_error() -> None:
    model = mujoco.MjModel.from_xml_string(ROOM)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    surveyor = Surveyor(model, 16)
    with pytest.raises(DataError, match=r"camera up sees no body of the scene.*doctor"):
        surveyor(data, "up")
    surveyor.close()


@pytest.fixture(scope="module")
def push() -> Iterator[MetaWorld]:
    with MetaWorld("push", size=SIZE, supersample=1) as simulator:
        yield simulator


@pytest.mark.parametrize("camera", ["topview", "corner2", "behindGripper", "gripperPOV"])
def test_pixels_are_those_of_mujocos_own_renderer(push: MetaWorld, camera: str) -> None:
    push.reset((1,))
    truth = push.truth(camera, SIZE)
    depth, bodies = reading(push._model, push._data, camera)
    if push._upside_down(camera):
        depth, bodies = depth[::-1, ::-1], bodies[::-1, ::-1]
    np.testing.assert_allclose(truth.depth[0], depth, rtol=1e-4)
    assert np.array_equal(truth.body[0], bodies)
    assert len(np.unique(bodies)) > 4
    np.testing.assert_allclose(truth.camera[0, :3, :3].T, push.world_to_camera(camera))


def moments(
    simulator: MetaWorld, camera: str, steps: int, gap: int
) -> tuple[list[np.ndarray], SceneTruth]:
    """Return pictures (without noise) and the truth of every ``gap``-th step of the expert."""
    simulator.reset((2,))
    pictures, scenes = [], []
    for step in range(steps):
        if step % gap == 0:
            pictures.append(simulator.render(camera))
            scenes.append(simulator.truth(camera, simulator.size))
        simulator.step(simulator.expert())
    return pictures, SceneTruth.joined(scenes)


def error(later: np.ndarray, earlier: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Return by how many grey levels the later picture, moved back, misses the earlier one."""
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    moved = cv2.remap(later, columns + field[0], rows + field[1], cv2.INTER_LINEAR)
    return np.abs(moved.astype(float) - earlier).mean(-1)


@pytest.mark.parametrize("camera", ["corner2", "topview", "behindGripper"])
def test_moving_a_later_picture_back_by_the_flow_gives_the_earlier_one(
    push: MetaWorld, camera: str
) -> None:
    """Corner cameras hang upside down, and the camera behind the gripper moves along."""
    pictures, truth = moments(push, camera, 48, 8)
    warped, unwarped = [], []
    for i in range(len(pictures) - 1):
        field, visible = flow(truth, i, i + 1)
        assert visible.mean() > 0.6
        moving = visible & (np.abs(field).max(0) > 1)
        pair = pictures[i + 1], pictures[i]
        warped.append(error(*pair, field)[moving])
        unwarped.append(error(*pair, np.zeros_like(field))[moving])
    warped, unwarped = np.concatenate(warped), np.concatenate(unwarped)
    assert len(warped) > 500
    assert warped.mean() < 0.4 * unwarped.mean()


def test_estimated_flow_agrees_roughly_with_the_truth() -> None:
    with MetaWorld("drawer-open", size=128, supersample=1) as simulator:
        pictures, truth = moments(simulator, "corner2", 32, 4)
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    errors, lengths = [], []
    for i in range(len(pictures) - 1):
        before, after = (cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in pictures[i : i + 2])
        estimate = estimator.calc(before, after, np.zeros((128, 128, 2), np.float32))
        field, visible = flow(truth, i, i + 1)
        moving = visible & (np.linalg.norm(field, axis=0) > 1)
        errors.append(np.linalg.norm(np.moveaxis(estimate, -1, 0) - field, axis=0)[moving])
        lengths.append(np.linalg.norm(field, axis=0)[moving])
    errors, lengths = np.concatenate(errors), np.concatenate(lengths)
    assert len(errors) > 3000
    assert lengths.mean() > 2  # pixels, which predicting no motion misses by
    assert errors.mean() < 0.4 * lengths.mean()


def test_the_flow_is_zero_while_the_scene_rests(push: MetaWorld) -> None:
    push.reset((0,))
    twice = SceneTruth.joined([push.truth("corner2", 32), push.truth("corner2", 32)])
    field, visible = flow(twice, 0, 1)
    assert not field.any()
    assert visible.all()
    push.step(np.array([0, 0, 1, 1], np.float32))
    push.step(np.array([0, 0, 1, 1], np.float32))
    later = SceneTruth.joined([twice, push.truth("corner2", 32)])
    field, _ = flow(later, 0, 2)
    assert not field[:, later.body[0] == 0].any()  # table and walls
    assert (field[1] < -0.1).any()  # the arm goes up in the picture


def test_the_truth_changes_no_picture(push: MetaWorld) -> None:
    push.reset((0,))
    before = push.render("corner2")
    push.truth("corner", 48)
    push.truth("corner2", 32)
    assert np.array_equal(push.render("corner2"), before)


def test_wrong_cameras_and_graphics_are_named(
    push: MetaWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"'front'; it has .*corner2"):
        push.truth("front", 32)

    def refuse(*_: object) -> None:
        raise mujoco.FatalError("no context")

    monkeypatch.setattr(mujoco, "GLContext", refuse)
    with pytest.raises(ConfigError, match=rf"{os.environ['MUJOCO_GL']} cannot draw \(no context\)"):
        push.truth("corner2", 24)
