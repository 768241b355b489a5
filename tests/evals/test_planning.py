import json

import numpy as np
import pytest
import torch

from saccade.errors import ConfigError, DataError
from saccade.evals.planners import CemConfig, Limits, MppiConfig, Plan, Planner, generator_of
from saccade.evals.planning import (
    Moment,
    Planned,
    SubGoal,
    mean_over_episodes,
    moments,
    plan_all,
    plan_through,
    summarise,
)
from saccade.types import Context
from tests.evals.toy_arm import REST, SAWYER, ToyWorld

SMALL = CemConfig(samples=60, iterations=6, limits=Limits(gripper_still=0.05))
NAN = np.nan


def walk(episode: int, steps: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """States of an episode that moves at random, and the actions between them."""
    generator = torch.Generator().manual_seed(episode)
    action = (torch.rand(steps, 7, generator=generator) * 2 - 1) * 0.06
    action[:, 3:6] = 0
    state = torch.cat([REST[None], REST + action.cumsum(0)])
    return state, action


def places(model: ToyWorld, episodes: int = 3, **options: int) -> list[Moment]:
    found: list[Moment] = []
    for episode in range(episodes):
        state, action = walk(episode)
        found += moments(model.see(state).detach(), state, action, episode, **options)
    return found


def test_moments_of_an_episode_by_hand() -> None:
    state, action = torch.arange(6.0)[:, None], 10 + torch.arange(5.0)[:, None]
    features = (100 + state)[..., None]
    (first, second) = moments(features, state, action, 4, context=2, horizon=2, stride=2)
    assert (first.episode, first.start, second.start) == (4, 1, 3)
    assert first.features.flatten().tolist() == [100, 101]
    assert second.state.flatten().tolist() == [2, 3]
    assert second.earlier.tolist() == [[12]]
    assert second.last is not None
    assert second.last.tolist() == [12]
    assert second.action.flatten().tolist() == [13, 14]
    assert second.goal.flatten().tolist() == [105]


def test_an_episode_starts_with_no_last_action() -> None:
    first, second, *_ = moments(torch.zeros(4, 1, 1), torch.zeros(4, 2), torch.ones(3, 2), 0)
    assert first.last is None
    assert first.earlier.shape == (0, 2)
    assert second.last is not None


def test_an_episode_that_is_too_short_has_no_moment() -> None:
    short = (torch.zeros(3, 1, 1), torch.zeros(3, 2), torch.ones(2, 2), 0)
    assert list(moments(*short, horizon=3)) == []
    assert len(list(moments(*short, horizon=2))) == 1


@pytest.mark.parametrize("frames", [1, 3])
def test_sub_goals_are_brought_about_in_imagination(frames: int) -> None:
    lengths: list[int] = []

    class Watching(ToyWorld):
        def look(
            self, features: torch.Tensor, state: torch.Tensor, action: torch.Tensor
        ) -> Context:
            torch.testing.assert_close(action, state.diff(dim=0), atol=1e-6, rtol=0.0)
            torch.testing.assert_close(features, self.see(state), atol=1e-5, rtol=0.0)
            lengths.append(len(state))
            return super().look(features, state, action)

    model = Watching()
    model.requires_grad_(False)
    there, back = (REST + torch.tensor([x, 0.05, 0, 0, 0, 0, 0]) for x in (0.12, 0.0))
    goals = [SubGoal(model.see(there), 3), SubGoal(model.see(back), 2)]
    start = Context(features=model.see(REST)[None], state=REST[None])
    planner = CemConfig(samples=200)
    plans = plan_through(model, planner, start, goals, generator_of(0), frames)
    path = torch.stack([plan.actions[0] for plan in plans]).cumsum(0)
    torch.testing.assert_close(path[2, :2], torch.tensor([0.12, 0.05]), atol=5e-3, rtol=0.0)
    torch.testing.assert_close(path[4, :2], torch.tensor([0.0, 0.05]), atol=5e-3, rtol=0.0)
    assert lengths == [min(i + 1, frames) for i in range(5)]


def test_counts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="episode 5 has 3 frames, 3 states and 3 actions"):
        list(moments(torch.zeros(3, 1, 1), torch.zeros(3, 2), torch.ones(3, 2), 5))
    with pytest.raises(ConfigError, match="stride 0"):
        list(moments(torch.zeros(3, 1, 1), torch.zeros(3, 2), torch.ones(2, 2), 5, stride=0))


def test_a_right_model_plans_what_was_done_and_beats_every_floor() -> None:
    model = ToyWorld()
    planned = plan_all(model, SMALL, places(model, stride=2), torch.zeros(7))
    results = summarise(planned, resamples=200)
    assert (results["episodes"], results["moments"]) == (3, 9)
    scores = results["scores"]
    assert scores["planned"]["xyz"]["high"] < 0.01
    assert scores["planned"]["direction"]["low"] > 0.98
    assert scores["zero"]["xyz"]["low"] > 0.03
    assert scores["last"]["xyz"]["moments"] == 6  # three episodes start with none
    assert all(results["better_by"][floor]["low"] > 0 for floor in results["better_by"])
    assert results["evaluations_per_plan"] == 361
    json.dumps(results, allow_nan=False)


def test_plans_depend_on_seed_episode_and_start_only() -> None:
    model = ToyWorld()
    some = places(model, episodes=2, stride=3)
    together = plan_all(model, SMALL, some, torch.zeros(7), seed=4)
    alone = plan_all(model, SMALL, some[2:3], torch.zeros(7), seed=4)
    for name, guess in alone.guesses.items():
        np.testing.assert_array_equal(guess[0], together.guesses[name][2])
    other = plan_all(model, SMALL, some[2:3], torch.zeros(7), seed=5)
    assert not np.array_equal(other.guesses["planned"], alone.guesses["planned"])


def test_floors_are_the_same_for_every_planner_and_a_mean_may_be_absent() -> None:
    model = ToyWorld()
    some = places(model, episodes=1, stride=3)
    one = plan_all(model, SMALL, some, None)
    other = plan_all(model, MppiConfig(samples=20, iterations=2), some, None)
    assert set(one.guesses) == {"planned", "zero", "random", "last"}
    np.testing.assert_array_equal(one.guesses["random"], other.guesses["random"])
    results = summarise(one, resamples=20)
    assert set(results["better_by"]) == {"zero", "random", "last"}


class Fixed(Planner):
    """Plans the same whatever it sees."""

    def plan(self, *_: object) -> Plan:  # pyright: ignore[reportIncompatibleMethodOverride]
        actions = torch.tensor([[0.01, 0, 0, 0, 0, 0, 0.1]] * self.horizon)
        return Plan(actions, 0.0, torch.zeros(1), 2.0, 3)


def test_plans_and_floors_are_summed_over_the_horizon() -> None:
    model, planner = ToyWorld(), Fixed(horizon=2)
    some = places(model, episodes=1, horizon=2)
    mean = torch.tensor([0.002, 0, 0, 0, 0, 0, 0])
    planned = plan_all(model, planner, some, mean)
    _, action = walk(0)
    np.testing.assert_allclose(planned.true[1], action[1:3].sum(0), rtol=1e-6)
    np.testing.assert_allclose(planned.guesses["planned"][0, [0, 6]], [0.02, 0.2], rtol=1e-6)
    np.testing.assert_allclose(planned.guesses["mean"][0, 0], 0.004, rtol=1e-6)
    np.testing.assert_allclose(planned.guesses["last"][1], 2 * action[0], rtol=1e-6)
    assert np.isnan(planned.guesses["last"][0]).all()
    assert not planned.guesses["zero"].any()
    box = planned.guesses["random"]
    assert (np.abs(box[:, :3]) <= 0.15).all()
    assert box[:, 6].std() > 0.1
    assert not box[:, 3:6].any()
    assert (planned.seconds, planned.evaluations) == (10.0, 15)


def by_hand() -> Planned:
    """Two episodes of two moments; errors: x 0.03, 0.01, 0, 0.04, y 0.04 at the first only."""
    true = np.array([[0.1, 0, 0, 0.5], [0, 0.1, 0, -0.5], [0, 0, 0.1, 0], [0.004, 0, 0, 0.5]])
    guess = true + np.array(
        [[0.03, 0.04, 0, 0], [0.01, 0, 0, 0.7], [0, 0, 0, 0.3], [-0.04, 0, 0, -0.1]]
    )
    nothing = np.full_like(true, NAN)
    guesses = {
        "planned": guess,
        "zero": 0 * true,
        "mean": true,
        "random": -true,
        "last": nothing,
    }
    return Planned(SAWYER, np.array([3, 3, 9, 9]), true, guesses, 2.0, 8)


def test_scores_by_hand() -> None:
    results = summarise(by_hand(), resamples=50)
    planned, zero = results["scores"]["planned"], results["scores"]["zero"]
    assert planned["x"]["value"] == pytest.approx(0.02)
    assert planned["y"]["value"] == pytest.approx(0.01)
    assert planned["gripper"]["value"] == pytest.approx((0.7 + 0.3 + 0.1) / 4)
    assert planned["xyz"]["value"] == pytest.approx((0.05 + 0.01 + 0 + 0.04) / 4)
    assert planned["action_score"]["value"] == pytest.approx(800 * (0.1 - 0.12 / 4))
    cosines = [0.13 / np.hypot(0.13, 0.04), 0.1 / np.hypot(0.01, 0.1), 1]
    assert planned["direction"]["value"] == pytest.approx(np.mean(cosines))
    assert planned["direction"]["moments"] == 3  # the fourth hardly moves
    assert planned["gripper_sign"]["value"] == pytest.approx(2 / 3)
    assert planned["gripper_sign"]["moments"] == 3
    assert zero["direction"]["value"] == 0
    assert zero["gripper_sign"]["value"] == 0
    assert results["scores"]["random"]["direction"]["value"] == pytest.approx(-1)
    assert results["scores"]["mean"]["action_score"]["value"] == pytest.approx(80)
    assert results["scores"]["random"]["action_score"]["value"] == pytest.approx(0)
    assert (results["seconds_per_plan"], results["evaluations_per_plan"]) == (0.5, 2)


def test_what_beats_what_by_hand() -> None:
    better = summarise(by_hand(), resamples=50)["better_by"]
    assert better["mean"]["value"] == pytest.approx(-0.025)
    assert better["zero"]["value"] == pytest.approx((0.1 + 0.1 + 0.1 + 0.004) / 4 - 0.025)
    assert better["last"] == {"value": None, "low": None, "high": None, "moments": 0}


def test_intervals_are_over_episodes() -> None:
    values, episode = np.array([1.0, 1, 1, 3]), np.array([0, 0, 0, 1])
    found = mean_over_episodes(values, episode)
    assert (found["value"], found["low"], found["high"]) == (1.5, 1, 3)
    alone = mean_over_episodes(values[:3], episode[:3])
    assert (alone["value"], alone["low"], alone["high"]) == (1, None, None)
    assert mean_over_episodes(np.array([NAN, 2.0]), np.array([0, 1]))["moments"] == 1


def test_a_horizon_that_is_not_the_planners_is_refused() -> None:
    model = ToyWorld()
    with pytest.raises(DataError, match="2 actions to the goal, the planner plans 1"):
        plan_all(model, SMALL, places(model, horizon=2), torch.zeros(7))


def test_no_moment_is_refused() -> None:
    with pytest.raises(DataError, match="no moment"):
        plan_all(ToyWorld(), SMALL, [], torch.zeros(7))


def test_actions_without_a_displacement_are_refused() -> None:
    still = by_hand()._replace(names=("a", "b", "c", "gripper"))
    with pytest.raises(ConfigError, match="x, y and z"):
        summarise(still)
