import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from saccade.data.transforms import Framing
from saccade.errors import ConfigError
from saccade.evals.closed_loop import (
    Arm,
    Goal,
    ReachConfig,
    by_planning,
    goals_of,
    reach,
    run,
)
from saccade.evals.planners import CemConfig, Plan, generator_of
from saccade.sim.metaworld import MetaWorld
from saccade.types import Context
from tests.evals.toy_arm import SAWYER, ToyArm, ToyWorld, picture, state_in

CONFIG = ReachConfig(episodes=4, goal_steps=(6,), expert_steps=4, tolerance=0.02)
PLANNER = CemConfig(samples=80, iterations=5)


def arm(model: ToyWorld | None = None, closed_is_one: bool = False) -> Arm:
    return Arm(ToyArm(), model or ToyWorld(SAWYER), "front", closed_is_one=closed_is_one)


def test_pictures_hold_the_state() -> None:
    state = np.array([0.123, -0.456, 0.789, 1], np.float32)
    video = torch.from_numpy(picture(state)).permute(2, 0, 1)
    torch.testing.assert_close(state_in(video, 4), torch.from_numpy(state), atol=2e-6, rtol=0.0)


def test_an_action_is_a_displacement_in_metres() -> None:
    hand = arm()
    hand.reset((1,))
    before = hand.state()
    hand.act(torch.tensor([0.05, -0.02, 0.01, 0.3]))
    moved = hand.state() - before
    torch.testing.assert_close(moved, torch.tensor([0.05, -0.02, 0.01, 0.3]), atol=1e-6, rtol=0.0)
    hand.act(torch.tensor([0.0, 0, 0, 0.5]))
    assert float(hand.state()[3]) == 1  # no wider than open
    assert hand.steps == 10  # 0.25 s at 40 Hz


def test_a_gripper_of_the_other_sense() -> None:
    hand = arm(closed_is_one=True)
    hand.reset((1,))
    assert float(hand.state()[3]) == pytest.approx(0.5)
    hand.act(torch.tensor([0.0, 0, 0, 0.4]))  # closes
    assert float(hand.state()[3]) == pytest.approx(0.9)
    assert float(hand.environment.observe()[3]) == pytest.approx(0.1)


def test_what_is_out_of_reach_is_not_reached() -> None:
    hand = arm()
    hand.reset((1,))
    before = hand.state()
    hand.act(torch.tensor([0.5, 0, 0, 0.0]))  # ten steps of at most 0.01 m
    assert float((hand.state() - before)[0]) == pytest.approx(0.1, abs=1e-6)


def test_planning_reaches_the_goal_and_the_floors_do_not() -> None:
    results = reach(ToyWorld(SAWYER), PLANNER, arm(), CONFIG)
    planned = results["planned"]
    assert planned["reached"]["value"] == planned["success"]["value"] == 1
    assert (planned["reached"]["count"], planned["reached"]["episodes"]) == (4, 4)
    assert planned["reached"]["low"] == pytest.approx(0.5101, abs=1e-4)  # Wilson, 4 of 4
    assert planned["final"]["high"] < 0.02
    assert len(planned["distance"]) == 7
    assert planned["distance"][0] == pytest.approx(results["nothing"]["distance"][0])
    assert planned["seconds"] > 0
    assert results["expert"]["success"]["value"] == 1
    for floor in ("nothing", "random"):
        assert results[floor]["reached"]["value"] == 0
    np.testing.assert_allclose(results["nothing"]["distance"], planned["distance"][0], rtol=1e-5)
    assert len(planned["finals"]) == 4
    assert np.mean(planned["finals"]) == pytest.approx(planned["final"]["value"])
    assert results["better_by"]["nothing"]["low"] > 0.05
    assert results["better_by"]["random"]["low"] > 0
    assert set(results["better_by"]) == {"nothing", "random", "expert"}
    json.dumps(results, allow_nan=False)


def test_a_watcher_sees_each_place_and_changes_nothing() -> None:
    model, seen = ToyWorld(SAWYER), []
    config = replace(CONFIG, episodes=1, goal_steps=(2,))
    hand = Arm(ToyArm(), model, "front", noise=0.01)

    def watch(behaviour: str, episode: int, seen_arm: Arm) -> None:
        seen.append((behaviour, episode, seen_arm.picture().sum().item()))

    watched = reach(model, PLANNER, hand, config, watch)
    assert [row[:2] for row in seen[:4]] == [("planned", 0)] * 3 + [("nothing", 0)]
    assert len(seen) == 4 * 3
    assert seen[0][2] != seen[2][2]  # it moved
    alone = reach(model, PLANNER, Arm(ToyArm(), model, "front", noise=0.01), config)
    assert alone["planned"]["finals"] == watched["planned"]["finals"]


def test_pictures_are_framed_and_noisy_as_recorded_ones_were() -> None:
    class Wide(ToyArm):
        def render(self, camera: str) -> np.ndarray:
            rng = np.random.default_rng(0)
            return rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)

    framing = Framing.named("ac", 8)
    hand = Arm(Wide(), ToyWorld(SAWYER), "front", framing=framing)
    hand.reset((1,))
    image = torch.from_numpy(hand.environment.render("front")).permute(2, 0, 1)
    assert torch.equal(hand.see(), framing(image[None])[0])
    noisy = Arm(Wide(), ToyWorld(SAWYER), "front", noise=3.0)
    noisy.reset((1,))
    first, second = noisy.see(), noisy.see()
    assert torch.equal(noisy.picture(), image)
    inside = (image > 20) & (image < 235)
    deviation = (first.float() - image)[inside].std()
    assert float(deviation) == pytest.approx(3, rel=0.1)
    assert not torch.equal(first, second)
    noisy.reset((1,))
    assert torch.equal(noisy.see(), first)
    noisy.reset((1,), take=1)
    assert not torch.equal(noisy.see(), first)  # a goal has noise of its own


@pytest.mark.parametrize("warm", [False, True])
def test_a_warm_start_goes_on_with_the_last_plan(warm: bool) -> None:
    starts: list[Plan | None] = []

    class Watched(CemConfig):
        def plan(self, *args: Any) -> Plan:  # pyright: ignore[reportIncompatibleMethodOverride]
            starts.append(args[4])
            return super().plan(*args)

    model = ToyWorld(SAWYER)
    planner = Watched(samples=20, iterations=2, horizon=2)
    run(arm(model), by_planning(model, planner, warm_start=warm), CONFIG, 0)
    assert starts[0] is None
    assert all((start is not None) is warm for start in starts[1:])


def test_an_episode_is_a_function_of_seed_and_number() -> None:
    model = ToyWorld(SAWYER)
    behaviour = by_planning(model, PLANNER)
    first, again = (run(arm(model), behaviour, CONFIG, 2) for _ in range(2))
    np.testing.assert_array_equal(first.distance, again.distance)
    other = run(arm(model), behaviour, replace(CONFIG, seed=1), 2)
    assert not np.array_equal(first.distance, other.distance)


def test_sub_goals_lie_on_the_experts_way() -> None:
    config = replace(CONFIG, goal_steps=(1, 2, 1), expert_steps=4)
    hand = arm()
    goals = goals_of(hand, config, (0, 0))
    assert [goal.steps for goal in goals] == [1, 2, 1]
    hand.reset((0, 0))
    for goal, steps in zip(goals, (1, 2, 1), strict=True):
        for _ in range(steps):
            hand.follow_expert()
        np.testing.assert_array_equal(goal.hand, hand.environment.observe()[:3])
        assert torch.equal(goal.image, hand.see())


def test_each_goal_gets_its_steps() -> None:
    model, hand = ToyWorld(SAWYER), arm()
    hand.reset((0, 0))
    start = hand.environment.observe()
    there = start + np.array([0.06, 0, 0, 0], np.float32)
    goals = [
        Goal(torch.from_numpy(picture(state)).permute(2, 0, 1), state[:3].astype(float), steps)
        for state, steps in ((there, 2), (start, 3))
    ]
    places = []
    for _ in by_planning(model, PLANNER)(hand, goals, generator_of(0)):
        places.append(float(hand.state()[0] - start[0]))
    np.testing.assert_allclose(places, [0.06, 0.06, 0, 0, 0], atol=6e-3)


def test_the_model_looks_back_on_measured_motion() -> None:
    seen: list[tuple[int, torch.Tensor]] = []

    class Watching(ToyWorld):
        def look(
            self, features: torch.Tensor, state: torch.Tensor, action: torch.Tensor
        ) -> Context:
            torch.testing.assert_close(action, state.diff(dim=0))
            seen.append((len(features), action))
            return super().look(features, state, action)

    model = Watching(SAWYER)
    run(arm(model), by_planning(model, PLANNER, context=3), CONFIG, 0)
    assert [frames for frames, _ in seen] == [1, 2, 3, 3, 3, 3]
    assert seen[1][1].abs().max() > 0.01


def test_a_model_of_another_arm_is_refused() -> None:
    with pytest.raises(ConfigError, match="roll"):
        arm(ToyWorld())


def test_steps_shorter_than_the_simulators_are_refused() -> None:
    model = ToyWorld(SAWYER)
    model.step_seconds = 0.01
    with pytest.raises(ConfigError, match=r"0\.01 s is shorter"):
        arm(model)


@pytest.mark.parametrize("wrong", [{"episodes": 0}, {"goal_steps": ()}, {"goal_steps": (0,)}])
def test_counts_below_one_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match="below 1"):
        reach(ToyWorld(SAWYER), PLANNER, arm(), replace(CONFIG, **wrong))


@pytest.mark.parametrize("long", [{"expert_steps": 51}, {"goal_steps": (26, 25)}])
def test_episodes_longer_than_the_simulators_are_refused(long: dict) -> None:
    with pytest.raises(ConfigError, match=r"510 control steps.* after 500"):
        reach(ToyWorld(SAWYER), PLANNER, arm(), replace(CONFIG, **long))


def test_meta_worlds_hand_obeys_and_its_expert_arrives() -> None:
    with MetaWorld("reach", size=16) as environment:
        hand = Arm(environment, ToyWorld(SAWYER), "corner2")
        hand.reset((0,))
        before = hand.state()
        action = torch.tensor([0.03, 0.04, -0.03, 0.0])
        hand.act(action)
        assert (hand.state() - before - action)[:3].abs().max() < 3e-3
        (goal,) = goals_of(hand, ReachConfig(expert_steps=6), (0,))
        assert hand.success
        assert goal.image.shape == (3, 16, 16)
