"""What is made of records, without a rollout: what is counted, compared and said."""

from pathlib import Path
from typing import Any

from saccade.evals import success
from saccade.evals.players import NothingConfig
from saccade.evals.protocols import named
from saccade.evals.rollout_workers import Job
from saccade.evals.rollouts import key_of
from saccade.experiments.evaluating import Evaluation
from saccade.experiments.success_rates import Other, differences, judge
from tests.evals.toy_scenes import PROTOCOL, SeekerConfig, ToySuite

ASKED = Evaluation(
    suite=ToySuite(broken={}),
    name="seeker",
    player=SeekerConfig(),
    protocol=PROTOCOL,
    floors={"nothing": NothingConfig()},
)


def record(job: Job, success: bool | None) -> dict[str, Any]:
    """What the log holds of a rollout; None: it crashed."""
    name = {"who": job.who, **job.key._asdict()}
    if success is None:
        return {**name, "crashed": "hung"}
    outcome = {"success": success, "steps": 9, "seconds": 2.0, "chunks": 3, "latency_ms": 5.0}
    return {**name, **outcome, "crashed": None}


def judged(evaluation: Evaluation, outcomes: dict[str, bool | None], *others: Other) -> Any:
    """Judge rollouts of which each player's all go alike."""
    jobs = evaluation.jobs()
    records = [record(job, outcomes[job.who]) for job in jobs]
    kept = {(found["who"], key_of(found)): found for found in records}
    return judge(evaluation.settings(), evaluation.chosen(), jobs, kept, others, "", [], [])


def test_every_rollout_counts_in_its_task_and_its_time() -> None:
    found = judged(ASKED, {"seeker": True, "nothing": False})
    assert (found["overall"]["successes"], found["overall"]["trials"]) == (8, 8)
    assert [row["rate"]["trials"] for row in found["tasks"]] == [4, 4]
    assert [row["floors"]["nothing"]["successes"] for row in found["tasks"]] == [0, 0]
    assert found["seconds"]["all rollouts"] == 16 * 2.0  # floors take time too
    assert found["latency"] == {"median_ms": 5.0, "slow_ms": 5.0, "chunks": 24, "steps": 72}
    assert found["verdict"]["success"]
    assert found["alarms"] == []


def test_a_floor_or_a_player_that_only_crashed_is_no_reason_to_say_nothing() -> None:
    for outcomes in ({"seeker": None, "nothing": False}, {"seeker": True, "nothing": None}):
        found = judged(ASKED, outcomes)
        assert (found["floors"], found["verdict"]["success"]) == ({}, False)
        assert "not shown to beat nothing" in found["verdict"]["sentence"]
        assert [alarm["name"] for alarm in found["alarms"]] == ["crashed"] * 8


def test_what_is_solved_by_itself_is_said() -> None:
    (alarm,) = judged(ASKED, {"seeker": True, "nothing": True})["alarms"]
    assert alarm["detail"] == "8 rollouts of 8 succeed without an action"


def test_what_two_evaluations_did_not_do_alike_is_named() -> None:
    one = ASKED.settings() | {"protocol": named("lerobot").card("libero_object")}
    other = one | {
        "protocol": named("openpi").card("libero_object"),
        "versions": {"toy": "2"},
    }
    assert differences(one, one) == []
    assert differences(one, other) == [
        "env seed 1000 and 7",
        "env seed per trial True and False",
        "toy 1 and 2",
    ]
    rollouts = dict.fromkeys(ASKED.keys()[:3], False)
    found = judged(ASKED, {"seeker": True, "nothing": False}, Other(Path(), other, rollouts))
    (against,) = found["against"]
    assert against["overall"] == success.rate([False] * 3)._asdict()
    assert (against["compared"]["keys"], against["compared"]["won"]) == (3, 3)
