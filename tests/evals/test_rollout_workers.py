import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from saccade.deploy.runner import LocalActor
from saccade.errors import DataError
from saccade.evals.players import PolicyConfig, RandomConfig
from saccade.evals.rollout_workers import IN_A_ROW, Crash, Job, Limits, Stage, play_all
from saccade.evals.rollouts import PlayerConfig, plan, play
from tests.deploy.serving import served
from tests.evals.toy_policy import SeenSuite, save
from tests.evals.toy_scenes import PROTOCOL, SeekerConfig, ToySuite

LIMITS = Limits(open=60.0, reset=0.8, step=0.8)


def jobs(suite: ToySuite, states: Sequence[int], who: str = "policy") -> list[Job]:
    return [Job(who, key) for key in plan(suite.tasks[:1], 1, states)]


def stage(suite: ToySuite, player: PlayerConfig, **others: PlayerConfig) -> Stage:
    players = {"policy": player, **others}
    return Stage(suite=suite, players=players, protocol=PROTOCOL, limits=LIMITS)


def outcomes(made: Stage, asked: Sequence[Job], workers: int) -> dict[Job, Any]:
    def plain(answer: Any) -> Any:
        timed = ("seconds", "latency_ms")
        return (
            answer
            if isinstance(answer, Crash)
            else {name: value for name, value in answer.items() if name not in timed}
        )

    return {job: plain(answer) for job, answer in play_all(made, asked, workers)}


def test_workers_give_what_one_process_gives(tmp_path: Path) -> None:
    suite, folder = SeenSuite(broken={}), save(tmp_path / "policy")
    made = stage(suite, PolicyConfig(folder=folder), random=RandomConfig())
    keys = plan(suite.tasks, 3)
    asked = [Job(who, key) for who in made.players for key in keys]
    here: dict[Job, Any] = {}
    players = {who: config.build() for who, config in made.players.items()}
    for job in asked:
        (task,) = [task for task in suite.tasks if task.name == job.key.task]
        scene = suite.open(task)
        scene.reset(0, 0)
        players[job.who].check(scene)
        record = play(scene, players[job.who], job.key, PROTOCOL)
        here[job] = {k: v for k, v in record.items() if k not in ("seconds", "latency_ms")}
    with served(LocalActor(folder)) as url:
        both = stage(
            suite, PolicyConfig(folder=folder), random=RandomConfig(), remote=PolicyConfig(url=url)
        )
        remote = [Job("remote", key) for key in keys]
        found = outcomes(both, (asked + remote)[::-1], 2)
    assert found == here | {job: here[Job("policy", job.key)] for job in remote}
    assert sum(found[job]["success"] for job in remote) >= 5


def test_what_breaks_once_is_played_again_and_leaves_no_trace(tmp_path: Path) -> None:
    broken = {("step", 1): "kill", ("reset", 2): "fails"}
    suite = ToySuite(broken=broken, once=tmp_path)
    found = outcomes(stage(suite, SeekerConfig()), jobs(suite, range(4)), 2)
    whole = ToySuite(broken={})
    player, scene = SeekerConfig().build(), whole.open(whole.tasks[0])
    assert {mark.name for mark in tmp_path.iterdir()} == {"step-1", "reset-2"}
    assert len(found) == 4
    for job, record in found.items():
        assert record["actions"] == play(scene, player, job.key, PROTOCOL)["actions"]


def test_what_breaks_twice_is_said_and_the_rest_is_played() -> None:
    broken = {("step", 0): "kill", ("reset", 1): "hang", ("step", 3): "fails"}
    suite = ToySuite(broken=broken)
    began = time.monotonic()
    found = outcomes(stage(suite, SeekerConfig()), jobs(suite, range(5)), 1)
    assert time.monotonic() - began < 40
    states = {job.key.initial_state: answer for job, answer in found.items()}
    assert states[0] == Crash("the process ended with code -9 (killed)")
    assert states[1] == Crash("reset took longer than 0.8 s")
    assert states[3] == Crash("DataError: step fails")
    assert states[2]["success"]
    assert states[4]["success"]


def test_an_error_that_meets_all_ends_all() -> None:
    suite = ToySuite(broken={("open", 0): "fails"})
    with pytest.raises(DataError, match="a mesh is missing"):
        outcomes(stage(suite, SeekerConfig()), jobs(suite, range(3)), 1)


def test_a_simulator_that_never_works_is_not_asked_for_ever() -> None:
    suite = ToySuite(broken=dict.fromkeys([("reset", i) for i in range(9)], "fails"))
    told: list[Job] = []
    with pytest.raises(DataError, match=f"{IN_A_ROW} rollouts crashed one after the other"):
        told.extend(
            job for job, _ in play_all(stage(suite, SeekerConfig()), jobs(suite, range(9)), 2)
        )
