"""The expert solves a task, and what it did solves it again; its parts do what they say."""

from itertools import islice

import numpy as np
import pytest

from saccade.errors import ConfigError
from saccade.evals.protocols import named
from saccade.evals.rollouts import Key, play
from saccade.experiments.suites import ExpertPlayer
from saccade.scenes import Scene
from saccade.sim.collect_libero import IDLE, SETTLE
from saccade.sim.libero import package
from saccade.sim.libero.experts.expert import Expert, has_skill
from saccade.sim.libero.experts.grasping import (
    LEAN,
    Grasp,
    at_rim,
    clearance,
    narrowest,
    plan,
    to_crown,
    way_clearance,
)
from saccade.sim.libero.experts.motion import Hand, about_z, vector
from saccade.sim.libero.experts.world import Boxes, World
from saccade.sim.libero.scene import LiberoScene


@pytest.fixture
def scene(soup: LiberoScene) -> LiberoScene:
    begin(soup)
    return soup


def begin(scene: LiberoScene, initial_state: int = 3) -> None:
    scene.reset(initial_state, 0)
    for _ in range(SETTLE):
        scene.step(IDLE)


class Remembered(ExpertPlayer):
    """The expert as the evaluator has it; ``seen`` is what it did, and in which states."""

    def __init__(self) -> None:
        self.seen: list[tuple[np.ndarray, np.ndarray]] = []

    def act(self, scene: Scene) -> np.ndarray:
        assert isinstance(scene, LiberoScene)
        self.seen.append((scene.sim_state(), super().act(scene)))
        return self.seen[-1][1]


def test_replaying_what_the_expert_did_solves_the_task(soup: LiberoScene) -> None:
    player, key = Remembered(), Key("libero_object", soup.task.name, initial_state=3, seed=0)
    record = play(soup, player, key, named("openvla"))  # whose seed of the scene is 0
    assert record["success"]
    assert 90 < record["steps"] < 150
    actions = np.stack([action for _, action in player.seen])
    assert np.abs(actions).max() <= 1
    assert set(actions[:, 6]) == {0.0, 1.0}
    begin(soup)
    for state, action in player.seen:
        assert not soup.success
        np.testing.assert_array_equal(soup.sim_state(), state)
        soup.step(action)
    assert soup.success


def test_noise_is_the_generators_and_spares_turn_and_grip(soup: LiberoScene) -> None:
    def first(seed: int, noise: float) -> np.ndarray:
        soup.reset(3, 0)
        found = []
        for action in islice(Expert(soup.env, np.random.default_rng(seed), noise), 3):
            found.append(action)
            soup.step(action)
        return np.stack(found)

    noisy = first(0, 0.2)
    np.testing.assert_array_equal(first(0, 0.2), noisy)
    assert np.abs(first(1, 0.2) - noisy)[:, :3].max() > 0.05
    soup.reset(3, 0)
    calm = next(iter(Expert(soup.env, np.random.default_rng(0))))
    np.testing.assert_array_equal(calm[3:], noisy[0, 3:])
    assert not np.array_equal(calm[:3], noisy[0, :3])


def test_the_world_is_what_the_simulator_says(scene: LiberoScene) -> None:
    world = World(scene.env)
    (goal,) = world.goals()
    assert goal == ("in", "alphabet_soup_1", "basket_1_contain_region")
    assert package.goals(scene.bddl) == [goal]
    assert not world.holds(goal)
    hand, axes = world.hand()
    seen = scene.state()
    np.testing.assert_allclose(hand, [seen[axis] for axis in "xyz"], atol=0.005)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    assert axes[2, 2] < -0.99  # the hand points down
    can = world.solid(goal[1])
    middle = (can.corners().max(0) + can.corners().min(0)) / 2
    np.testing.assert_allclose(middle[:2], world.origin(goal[1])[:2], atol=0.01)
    assert not world.held(goal[1])
    everything, others = world.obstacles(), world.obstacles((goal[1],))
    assert len(everything) == len(others) + len(can)
    assert world.ceiling(middle, middle, (), 0.0) == pytest.approx(can.tops().max(), abs=0.01)
    assert world.ceiling(middle, middle, (goal[1],), 0.0) < can.tops().max() - 0.03
    assert world.joint("basket_1_contain_region") is None
    grasp = plan(world, goal[1])
    np.testing.assert_allclose(grasp.position[:2], middle[:2], atol=0.01)
    assert not grasp.rim


def test_a_goal_without_a_skill_is_named(scene: LiberoScene) -> None:
    expert = Expert(scene.env, np.random.default_rng(0))
    for goal in (("open", "basket_1"), ("turnoff", "flat_stove_1")):
        with pytest.raises(ConfigError, match=f"{goal[1]}.*leave this task out"):
            next(expert.pursue(goal))


def test_of_the_four_suites_one_task_asks_for_what_no_skill_does() -> None:
    lacking = {
        (suite, goal)
        for suite in package.SUITES[:4]
        for task in package.task_names(suite)
        for goal in package.goals(package.bddl_path(suite, task))
        if not has_skill(goal)
    }
    assert lacking == {("libero_10", ("close", "microwave_1"))}


def box(centre: tuple[float, ...], half: tuple[float, ...], angle: float = 0.0) -> Boxes:
    return Boxes(np.array([centre]), about_z(angle)[None], np.array([half]))


def test_boxes_are_measured_as_worked_out_by_hand() -> None:
    turned = box((1.0, 2.0, 3.0), (0.5, 0.1, 0.2), np.pi / 2)
    np.testing.assert_allclose(turned.corners().min(0), [0.9, 1.5, 2.8])
    np.testing.assert_allclose(turned.corners().max(0), [1.1, 2.5, 3.2])
    assert turned.tops().tolist() == [3.2]
    points = np.array([[1.0, 2.4, 3.0], [1.0, 2.8, 3.6], [1.4, 2.0, 3.0]])
    np.testing.assert_allclose(turned.distance(points), [0, 0.5, 0.3])


def test_the_narrowest_way_across_a_turned_box_is_found() -> None:
    width, angle, middle = narrowest(box((0.3, -0.2, 0), (0.05, 0.02, 0.1), np.pi / 6).corners())
    assert width == pytest.approx(0.04)
    assert angle == pytest.approx(np.pi / 6 + np.pi / 2)
    np.testing.assert_allclose(middle, [0.3, -0.2], atol=1e-9)


def test_a_rim_is_taken_inside_the_outline_and_above_the_ground() -> None:
    points = box((0.1, 0.2, 0.03), (0.06, 0.06, 0.03)).corners()
    grasp = at_rim(points, 0.0)
    radius = np.hypot(0.06, 0.06) - 0.004
    np.testing.assert_allclose(grasp.position, [0.1 + radius, 0.2, 0.06 - 0.022])
    assert grasp.rim
    flat = at_rim(box((0, 0, 0.01), (0.1, 0.1, 0.01)).corners(), 1.0)
    assert flat.position[2] == pytest.approx(0.006)  # not below the ground


def test_the_room_of_a_hand_is_less_near_a_wall() -> None:
    wall = box((0.5, 0.0, 0.2), (0.1, 1.0, 0.2))
    rooms = [clearance(Grasp(np.array([x, 0.0, 0.1]), 0.0), wall) for x in (0.0, 0.2, 0.35)]
    np.testing.assert_allclose(rooms, [0.3, 0.1, 0.0], atol=1e-9)
    across = clearance(Grasp(np.array([0.0, 0.0, 0.1]), np.pi / 2), wall)
    assert across == pytest.approx(0.345)


def test_a_hand_that_leans_withdraws_outwards_over_the_rim_and_stays_off_the_ground() -> None:
    points = box((0.0, 0.0, 0.025), (0.05, 0.05, 0.025)).corners()
    grasp = at_rim(points, 0.0, LEAN)
    np.testing.assert_allclose(grasp.axes[:, 2], [np.sin(LEAN), 0, np.cos(LEAN)], atol=1e-9)
    np.testing.assert_allclose(np.cross(grasp.axes[:, 0], grasp.axes[:, 1]), grasp.axes[:, 2])
    assert clearance(grasp, box((0.0, 0.0, -0.5), (1.0, 1.0, 0.5))) > 0.002
    np.testing.assert_array_equal(at_rim(points, 0.0).axes, np.eye(3))


def test_of_a_tilted_rim_only_the_high_side_is_near_the_crown() -> None:
    high = box((0.05, 0.0, 0.06), (0.01, 0.01, 0.01)).corners()
    low = box((-0.05, 0.0, 0.03), (0.01, 0.01, 0.01)).corners()
    points = np.concatenate([high, low])
    assert to_crown(at_rim(points, 0.0), points) < 0.02
    assert to_crown(at_rim(points, np.pi), points) > 0.08


def test_a_hand_turns_the_nearer_way_but_not_close_to_the_limit_of_its_wrist() -> None:
    class Wrist(World):
        def __init__(self) -> None:  # no scene: it knows of the hand only
            self.turned = 0.0

        def hand(self) -> tuple[np.ndarray, np.ndarray]:
            return np.zeros(3), np.diag([1.0, -1.0, -1.0])

        def wrist(self) -> tuple[float, float]:
            return self.turned, 2.9

    world = Wrist()
    hand = Hand(world, np.random.default_rng(0))
    close = np.array([np.cos(0.5), np.sin(0.5), 0.0])  # a turn of -0.5 about the hand's axis
    for world.turned, sign in ((0.0, 1), (2.8, 1), (-2.8, -1)):
        axes = hand.pointing(np.array([0.0, 0.0, -1.0]), close)
        np.testing.assert_allclose(axes[:, 0], sign * close, atol=1e-9)


def test_what_hangs_over_an_object_blocks_a_hand_from_above_but_not_one_that_leans() -> None:
    points = box((0.0, 0.0, 0.025), (0.04, 0.04, 0.025)).corners()
    drawer = box((-0.15, 0.0, 0.19), (0.12, 0.2, 0.03))  # its front is at x = -0.03
    upright, leaning = at_rim(points, 0.0), at_rim(points, 0.0, LEAN)
    assert clearance(upright, drawer) > 0
    assert min(way_clearance(upright, drawer)) == 0
    assert min(way_clearance(leaning, drawer)) > 0.002


def test_rotation_vectors_of_small_right_and_half_turns() -> None:
    for angle in (0.0, 0.3, np.pi / 2, -2.5):
        np.testing.assert_allclose(vector(about_z(angle)), [0, 0, angle], atol=1e-9)
    np.testing.assert_allclose(np.abs(vector(about_z(np.pi))), [0, 0, np.pi], atol=1e-9)
