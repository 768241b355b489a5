import json

import numpy as np
import pytest
import torch

from saccade.errors import ConfigError, DataError
from saccade.evals.planners import CemConfig
from saccade.evals.planning import Moment, moments
from saccade.evals.sub_goals import chase, summarise
from tests.evals.toy_arm import REST, ToyWorld

PLANNER = CemConfig(samples=60, iterations=5)
STEPS = (2, 1)


def episodes(model: ToyWorld, count: int = 3) -> list[Moment]:
    """Episodes that go 6 cm along x, then 4 cm along y; each looks back on all its frames."""
    found: list[Moment] = []
    for episode in range(count):
        action = torch.zeros(4, 7)
        action[:2, 0], action[2, 1] = 0.03, 0.04 + 0.002 * episode
        state = torch.cat([REST[None], REST + action.cumsum(0)])
        found += moments(model.see(state).detach(), state, action, episode, context=4)
    return found


def test_a_right_model_goes_where_the_hand_went_and_the_floors_do_not() -> None:
    model = ToyWorld()
    told: list[int] = []
    chased = chase(model, PLANNER, episodes(model), STEPS, tell=told.append)
    assert chased.planned.shape == (3, 2)
    assert chased.planned.max() < 0.01
    np.testing.assert_allclose(chased.still[0], [0.06, np.hypot(0.06, 0.04)], rtol=1e-5)
    assert chased.plans == 9
    assert told == [0, 1, 2, 3]
    found = summarise(chased, resamples=50)
    assert found["episodes"] == 3
    assert found["scores"]["planned"][1]["high"] < 0.01
    assert found["better_by"]["still"]["low"] > 0.05
    assert found["better_by"]["random"]["value"] > 0
    json.dumps(found, allow_nan=False)


def test_a_chase_is_a_function_of_the_seed() -> None:
    model = ToyWorld()
    one, again, other = (chase(model, PLANNER, episodes(model, 1), STEPS, s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.planned, again.planned)
    np.testing.assert_array_equal(one.random, again.random)
    assert not np.array_equal(one.random, other.random)


def test_what_cannot_be_pursued_is_refused() -> None:
    model = ToyWorld()
    with pytest.raises(ConfigError, match="at least 1"):
        chase(model, PLANNER, episodes(model, 1), (2, 0))
    with pytest.raises(DataError, match="the 3 steps"):
        chase(model, PLANNER, [], STEPS)


def test_a_model_that_holds_its_state_is_refused() -> None:
    class Held(ToyWorld):
        def moved(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
            return state

    with pytest.raises(ConfigError, match="holds its states"):
        chase(Held(), PLANNER, episodes(ToyWorld(), 1), STEPS)
