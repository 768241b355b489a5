"""Offline errors of a policy: values worked out by hand, floors, and what counts nowhere."""

import json
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from saccade.data.loader import fixed_batches
from saccade.data.synthetic_reach import ReachConfig
from saccade.errors import ConfigError
from saccade.evals.offline_policy import Answers, ask, offline_scores, scores, window
from saccade.types import Clip, Contract, Observation, Policy

NAMES = ("x", "y", "gripper")
MEAN, STD = (0.0, 1.0, 0.5), (2.0, 4.0, 0.5)
CONTRACT = Contract(
    cameras=("agentview", "wrist"),
    frame_size=(32, 32),
    image_size=32,
    state_names=("x", "y", "z", "gripper"),
    action_names=("x", "y", "z", "rx", "ry", "rz", "gripper"),
    fps=20.0,
    chunk=3,
)


def answers() -> Answers:
    """Two episodes of one window each: three commands of one, two of the other."""
    true = np.array(
        [
            [[0.0, 1.0, 1.0], [2.0, 1.0, 0.0], [0.0, 1.0, 0.0]],
            [[4.0, 5.0, 1.0], [4.0, 5.0, 1.0], [9.0, 9.0, 0.0]],
        ]
    )
    predicted = true.copy()
    predicted[0, :, 0] += [1.0, 3.0, 0.0]
    predicted[1, 0, 1] -= 4.0
    predicted[1, 2] = 77.0  # at a padded command
    predicted[0, 1, 2] = 1.0  # open, a step too long
    predicted[1, 1, 2] = 0.0  # closed for nothing
    return Answers(
        predicted=predicted,
        true=true,
        seen=np.array([[True, True, True], [True, True, False]]),
        before=np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]),
        begun=np.array([True, False]),
        episode=np.array([7, 3]),
    )


def test_errors_equal_a_hand_calculation() -> None:
    found = scores(answers(), NAMES, MEAN, STD, resamples=50)
    policy = found["policy"]
    assert (found["episodes"], found["windows"], found["commands"]) == (2, 2, 5)
    assert policy["mse"]["x"]["value"] == 10 / 5
    assert policy["mse"]["y"]["value"] == 16 / 5
    assert policy["rmse"]["x"]["value"] == math.sqrt(2)
    assert policy["normalised_mse"]["x"]["value"] == 10 / 4 / 5
    assert policy["normalised_mse"]["y"]["value"] == pytest.approx(1 / 5)
    assert policy["normalised_mse"]["motion"]["value"] == pytest.approx((0.5 + 0.2) / 2)
    horizon = [step["value"] for step in policy["horizon"]]
    assert horizon == pytest.approx([(1 / 4 + 1) / 2 / 2, 9 / 4 / 2 / 2, 0])


def test_grippers_equal_a_hand_calculation() -> None:
    gripper = scores(answers(), NAMES, MEAN, STD, resamples=50)["policy"]["gripper"]["gripper"]
    assert gripper["accuracy"]["value"] == 3 / 5
    assert gripper["f1_closed"]["value"] == 2 * 1 / (2 * 1 + 1 + 1)
    # it closes once, and the policy is late; before the other episode there was no command
    assert gripper["transitions"] == 1
    assert gripper["accuracy_at_transitions"]["value"] == 0
    assert [step["value"] for step in gripper["horizon"]] == [1.0, 0.0, 1.0]


def test_floors_see_nothing() -> None:
    floors = scores(answers(), NAMES, MEAN, STD, resamples=50)["floors"]
    mean, last = floors["mean_action"], floors["last_action"]
    assert mean["mse"]["x"]["value"] == (0 + 4 + 0 + 16 + 16) / 5
    assert mean["mse"]["y"]["value"] == (16 + 16) / 5
    # repeated [1, 1, open] in the one episode; the other has just begun, and gets the mean
    assert last["mse"]["x"]["value"] == (1 + 1 + 1 + 16 + 16) / 5
    assert last["gripper"]["gripper"]["accuracy"]["value"] == 3 / 5


def test_jerk_is_the_second_difference() -> None:
    found = scores(answers(), NAMES, MEAN, STD, resamples=50)["jerk"]
    # only one window has three commands: x goes 0, 2, 0 and y rests; in deviations of 2, -2 and 0
    assert found["demonstrations"]["value"] == math.sqrt((2.0**2 + 0) / 2)
    assert found["policy"]["value"] == math.sqrt((4.5**2 + 0) / 2)  # of 1, 5, 0


def test_intervals_come_from_episodes() -> None:
    one = answers()
    lone = Answers(*(part[:1] for part in one))
    policy = scores(lone, NAMES, MEAN, STD, resamples=50)["policy"]
    assert policy["mse"]["x"] == {"value": 10 / 3, "low": None, "high": None}
    both = scores(one, NAMES, MEAN, STD, resamples=500)["policy"]["mse"]["x"]
    assert (both["low"], both["high"]) == (0, 10 / 3)


class Recalled(Policy):
    """Commands a constant, and remembers what it was shown."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.contract, self.noise = CONTRACT, noise
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.shown: list[Observation] = []

    def act(self, observation: Observation, generator: torch.Generator | None = None) -> Tensor:
        self.shown.append(observation)
        assert not self.training
        action = torch.zeros(len(observation["text"]), self.contract.chunk, 7)
        return action + self.noise * torch.randn(action.shape, generator=generator)


@cache
def clips(contract: Contract = CONTRACT) -> list[Clip]:
    episodes = ReachConfig(length=8, episodes=4).build()
    return list(fixed_batches(episodes, window(contract), contract.cameras, 8, 4, seed=0))


def test_a_policy_is_shown_what_it_was_trained_to_see() -> None:
    policy, held = Recalled().train(), clips()
    found = ask(policy, held)
    assert policy.training, "it is left as it was"
    for seen, clip in zip(policy.shown, held, strict=True):
        assert clip["video"].shape[1] == 2
        assert torch.equal(seen["video"], clip["video"][:, 1:])
        assert torch.equal(seen["state"], clip["state"][:, 1:])
    action = torch.cat([clip["action"] for clip in held]).numpy()
    assert np.array_equal(found.true, action[:, 1:])
    assert np.array_equal(found.before, action[:, 0])
    first = torch.cat([clip["is_pad"][:, 0] for clip in held]).numpy()
    assert np.array_equal(found.begun, ~first)


def test_a_longer_history_is_shown_whole() -> None:
    policy = Recalled()
    policy.contract = replace(CONTRACT, history=3, stride=2)
    held = clips(policy.contract)
    found = ask(policy, held)
    assert torch.equal(policy.shown[0]["video"], held[0]["video"])
    assert held[0]["action"].shape[1] == 4 + 3
    assert np.array_equal(found.before[:4], held[0]["action"][:, 3].numpy())


def test_scores_are_a_function_of_the_seed_and_can_be_written() -> None:
    mean, std = [0.0] * 7, [1.0] * 7
    policy, held = Recalled(noise=1.0), clips()
    first = offline_scores(policy, held, mean, std, resamples=20)
    assert json.loads(json.dumps(first, allow_nan=False)) == first
    assert offline_scores(policy, held, mean, std, resamples=20) == first
    other = offline_scores(policy, held, mean, std, seed=50, resamples=20)
    assert other["policy"]["mse"]["x"] != first["policy"]["mse"]["x"]
    assert other["floors"] == first["floors"]
    assert first["jerk"]["policy"]["value"] > first["jerk"]["demonstrations"]["value"]


def test_faults() -> None:
    policy, held = Recalled(), clips()
    with pytest.raises(ConfigError, match="no clips"):
        ask(policy, [])
    policy.contract = replace(CONTRACT, chunk=4)
    with pytest.raises(ConfigError, match="a chunk of 4"):
        ask(policy, held)
    with pytest.raises(ConfigError, match="2 names"):
        scores(answers(), NAMES[:2], MEAN, STD)


def test_an_axis_that_never_moved_has_no_unit_of_its_own() -> None:
    found = scores(answers(), NAMES, MEAN, (2.0, 0.0, 0.5), resamples=50)["policy"]
    assert set(found["normalised_mse"]) == {"x", "motion"}
    assert found["normalised_mse"]["motion"] == found["normalised_mse"]["x"]
    assert found["mse"]["y"]["value"] == 16 / 5
