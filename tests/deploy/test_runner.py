"""Moments as training shows them, commands as asked for, and the same for the same seed."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float32

from saccade.data.synthetic import SyntheticConfig
from saccade.data.windows import ChunkWindow
from saccade.deploy.runner import LocalActor, Runner, generator_of
from saccade.errors import ConfigError, DataError, NumericError
from saccade.types import Contract, Observation
from tests.deploy.toy import CONTRACT, STATE, Toy, ToyConfig, frames, picture


class Recorder:
    """Answers with (chunk number, row) and keeps what it was asked."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.asked: list[tuple[Observation, tuple[int, ...]]] = []

    def act(self, observation: Observation, seed: Sequence[int]) -> Float32[np.ndarray, "k a"]:
        number = len(self.asked)
        self.asked.append((observation, tuple(seed)))
        chunk = np.zeros((self.contract.chunk, 7), np.float32)
        chunk[:, 0], chunk[:, 1] = number, np.arange(self.contract.chunk)
        return chunk


def play(runner: Runner, steps: int) -> tuple[np.ndarray, list[int]]:
    """Return the commands, and the steps at which frames were drawn; ``x`` is the step."""
    runner.begin("go", (3, 5))
    commands, drawn = [], []
    for step in range(steps):

        def draw(camera: str, step: int = step) -> np.ndarray:
            drawn.append(step)
            return frames(camera)

        commands.append(runner.act(draw, STATE | {"x": float(step)}))
    assert drawn[::2] == drawn[1::2]  # both cameras, once
    return np.stack(commands), drawn[::2]


@pytest.mark.parametrize(("execute", "length"), [(0, 4), (4, 4), (3, 3), (1, 1)])
def test_so_many_commands_of_each_chunk_are_executed(execute: int, length: int) -> None:
    actor = Recorder(CONTRACT)
    runner = Runner(actor, execute)
    commands, drawn = play(runner, 9)
    steps = np.arange(9)
    assert commands[:, 0].tolist() == (steps // length).tolist()
    assert commands[:, 1].tolist() == (steps % length).tolist()
    assert drawn == steps[::length].tolist()  # nothing is drawn in vain
    assert [seed for _, seed in actor.asked] == [(3, 5, i) for i in range(len(drawn))]
    assert len(runner.latencies) == len(drawn)
    assert min(runner.latencies) > 0


@pytest.mark.parametrize(
    ("history", "stride", "execute"), [(1, 1, 2), (3, 1, 1), (3, 2, 3), (2, 3, 4), (4, 2, 4)]
)
def test_the_history_is_that_of_training(history: int, stride: int, execute: int) -> None:
    contract = replace(CONTRACT, history=history, stride=stride)
    actor = Recorder(contract)
    _, drawn = play(Runner(actor, execute), 14)
    window = ChunkWindow(history=history, stride=stride)
    episodes = SyntheticConfig(episodes=1, length=14).build()
    needed = set()
    for number, (observation, _) in enumerate(actor.asked):
        step = number * execute
        expected, _ = window.resolve(episodes, 0, step, window.frame_steps(0))
        assert observation["state"][0, :, 0].tolist() == expected.tolist()
        needed |= set(expected.tolist())
    assert needed <= set(drawn)
    later = {14 - 1 - j for j in range((history - 1) * stride)}  # for a step that never came
    assert set(drawn) - needed <= later


def test_an_episode_forgets_the_one_before() -> None:
    actor = Recorder(replace(CONTRACT, history=2))
    runner = Runner(actor, 3)
    first, _ = play(runner, 5)
    count = len(actor.asked)
    again, _ = play(runner, 5)
    assert (again[:, 0] - count).tolist() == first[:, 0].tolist()
    assert actor.asked[count][0]["state"][0, :, 0].tolist() == [0, 0]
    assert actor.asked[count][1] == (3, 5, 0)
    assert len(runner.latencies) == 2


def test_ensembling_weighs_what_every_chunk_says_of_a_step() -> None:
    rate = 0.5
    commands, _ = play(Runner(Recorder(CONTRACT), 1, rate), 6)
    for step, command in enumerate(commands):
        chunks = list(range(max(0, step - 3), step + 1))  # oldest first
        weights = [math.exp(-rate * i) for i in range(len(chunks))]
        for axis, told in ((0, chunks), (1, [step - chunk for chunk in chunks])):
            mean = sum(w * x for w, x in zip(weights, told, strict=True)) / sum(weights)
            assert command[axis] == pytest.approx(mean, rel=1e-6)
    # of chunks of 4 that begin at every second step, two speak of step 2: row 2 and row 0
    commands, _ = play(Runner(Recorder(CONTRACT), 2, rate), 4)
    assert commands[1, :2].tolist() == [0, 1]
    share = 1 / (1 + math.exp(-rate))
    assert commands[2, :2].tolist() == pytest.approx([1 - share, 2 * share])
    assert commands.dtype == np.float32


def test_a_policy_here_answers_by_its_seed_alone() -> None:
    actor = LocalActor(Toy(ToyConfig(noise=1.0)))
    runner = Runner(actor, 2)
    state = torch.random.get_rng_state()
    first, _ = play(runner, 6)
    assert not torch.equal(torch.from_numpy(first[0]), torch.from_numpy(first[2]))
    torch.manual_seed(7)
    again, _ = play(Runner(actor, 2), 6)
    np.testing.assert_array_equal(first, again)
    torch.random.set_rng_state(state)
    runner.begin("go", (3, 6))
    other = runner.act(frames, STATE | {"x": 0.0})
    assert not np.array_equal(other, first[0])


def test_what_a_policy_here_is_shown() -> None:
    contract = replace(CONTRACT, frame_size=(16, 16))
    actor = LocalActor(Toy(ToyConfig(), contract))
    runner = Runner(actor)
    runner.begin("open it")
    views = {"agentview": picture(0, 16, 16), "wrist": picture(1, 16, 16)}
    command = runner.act(views.__getitem__, lambda: STATE)
    light = [view.mean() for view in views.values()]
    np.testing.assert_allclose(command, [*light, 0.5, -0.25, 1.0, len("open it"), 0], rtol=1e-6)


def test_a_policy_is_loaded_from_its_folder(tmp_path: Path) -> None:
    config = ToyConfig(noise=0.5)
    policy = config.build()
    policy.save_pretrained(tmp_path / "policy", config)
    loaded = LocalActor(tmp_path / "policy")
    assert loaded.contract == CONTRACT
    ours, theirs = (play(Runner(actor), 3)[0] for actor in (LocalActor(policy), loaded))
    np.testing.assert_array_equal(ours, theirs)


def test_every_part_of_a_seed_counts() -> None:
    seeds = [(), (0,), (0, 0), (1,), (1, 0), (0, 1), (10,), (1, 0, 0)]
    drawn = {seed: torch.rand(1, generator=generator_of(seed)).item() for seed in seeds}
    assert len(set(drawn.values())) == len(seeds)
    assert drawn[(1,)] == torch.rand(1, generator=generator_of([1])).item()


def test_what_cannot_be_executed_is_refused() -> None:
    actor = Recorder(CONTRACT)
    for execute in (-1, 5):
        with pytest.raises(ConfigError, match="the policy answers with 4 commands; give 1 to 4"):
            Runner(actor, execute)
    with pytest.raises(ConfigError, match=r"chunks of 4 do not overlap when 4 .* lower execute"):
        Runner(actor, 0, 0.1)
    with pytest.raises(ConfigError, match="ensemble is -1"):
        Runner(actor, 1, -1.0)
    with pytest.raises(ConfigError, match="no episode was begun"):
        Runner(actor).act(frames, STATE)
    with pytest.raises(DataError, match="say what the robot is to do"):
        Runner(actor).begin(" ")


def test_an_answer_that_is_not_a_chunk_is_refused() -> None:
    runner = Runner(LocalActor(Toy(ToyConfig())))
    runner.begin("nan")
    with pytest.raises(NumericError, match="answered with numbers that are not finite"):
        runner.act(frames, STATE)
    short = Recorder(CONTRACT)
    runner = Runner(short)
    short.contract = replace(CONTRACT, chunk=3)
    runner.begin("go")
    with pytest.raises(ConfigError, match=r"answered with \[3, 7\] numbers, expected at least 4"):
        runner.act(frames, STATE)
