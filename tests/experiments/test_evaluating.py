import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saccade.data.passes.shards import Shard
from saccade.data.video.codec import video_info
from saccade.errors import CheckpointError, ConfigError, DataError, Stopped
from saccade.evals.players import NothingConfig, RandomConfig
from saccade.evals.rollout_log import FILE, read_log
from saccade.evals.rollout_workers import Limits
from saccade.experiments.evaluating import SHARDS, Evaluation, Played
from saccade.experiments.success_rates import SETTINGS, load
from tests.evals.toy_scenes import PROTOCOL, SeekerConfig, ToySuite

pytestmark = pytest.mark.usefixtures("quick_workers")

BASE = Evaluation(
    suite=ToySuite(broken={}),
    name="seeker",
    player=SeekerConfig(blind=(1,)),
    protocol=PROTOCOL,
    floors={"nothing": NothingConfig(), "random": RandomConfig()},
    limits=Limits(open=60.0, reset=2.0, step=2.0),
)


def run(evaluation: Evaluation, folder: Path, **options: Any) -> dict[str, Any]:
    return evaluation.run(folder, command="saccade evaluate", **options)


@pytest.fixture(scope="module")
def whole(
    quick_workers: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """An evaluation with two videos, by two workers. Read only."""
    folder = tmp_path_factory.mktemp("evaluations") / "whole"
    return folder, run(replace(BASE, workers=2, videos=1), folder)


def outcomes(folder: Path) -> dict[Any, Any]:
    return {name: found["actions"] for name, found in read_log(folder / FILE).items()}


def test_the_results_say_what_the_rollouts_say(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, results = whole
    assert json.loads((folder / "results.json").read_text()) == results
    records = read_log(folder / FILE)
    assert len(records) == results["rollouts"] == results["asked"] == 2 * 4 * 3
    mine = [found for (who, _), found in records.items() if who == "seeker"]
    won = sum(found["success"] for found in mine)
    assert (results["overall"]["successes"], results["overall"]["trials"]) == (won, 8)
    assert won == 6  # blind where the initial state is 1
    assert [row["rate"]["successes"] for row in results["tasks"]] == [3, 3]
    assert results["floors"].keys() == {"nothing", "random"}
    assert results["floors"]["nothing"]["compared"]["keys"] == 8
    assert results["floors"]["nothing"]["compared"]["won"] == 6
    assert results["latency"]["median_ms"] == 1.0
    assert results["latency"]["steps"] == sum(found["steps"] for found in mine)
    assert results["seconds"]["all rollouts"] == sum(r["seconds"] for r in records.values())
    assert results["protocol"]["horizon"] == 30
    assert results["protocol"]["initial_states"] == "0 to 3"
    assert results["suite"]["remark"] == "points are no robots"
    assert results["versions"]["toy"] == "1"
    assert "points are no robots" in results["verdict"]["details"]
    assert results["alarms"] == []
    assert results["missing"] == 0
    page = (folder / "report.html").read_text()
    assert results["verdict"]["sentence"] in page


def test_the_first_success_and_failure_are_filmed(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, results = whole
    (good, bad) = results["videos"]
    assert (good["success"], good["initial_state"]) == (True, 0)
    assert (bad["success"], bad["initial_state"]) == (False, 1)
    assert video_info(folder / bad["path"]).frames == 30 // 2 + 1


def test_more_trials_and_less_work_give_the_same(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, results = whole
    few = replace(BASE, protocol=PROTOCOL.changed("toy", trials=2), floors={})
    first = run(few, tmp_path)
    assert (first["overall"]["trials"], first["verdict"]["success"]) == (4, False)
    with pytest.raises(ConfigError, match="give --resume"):
        run(BASE, tmp_path)
    lines = (tmp_path / FILE).read_bytes()
    told: list[Played] = []
    again = run(BASE, tmp_path, resume=True, report=told.append)
    assert (tmp_path / FILE).read_bytes().startswith(lines)
    assert outcomes(tmp_path) == outcomes(folder)
    assert again["overall"] == results["overall"]
    assert [one.done for one in told] == list(range(5, 25))
    assert told[-1].total == 24


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_stops_in_order(number: signal.Signals, code: int, tmp_path: Path) -> None:
    def interrupt(played: Played) -> None:
        if played.done == 2:
            signal.raise_signal(number)

    with pytest.raises(Stopped, match=r"2 of 8 rollouts are kept in .*give --resume") as stopped:
        run(replace(BASE, floors={}), tmp_path, report=interrupt)
    assert stopped.value.exit_code == code
    assert len(read_log(tmp_path / FILE)) == 2


def test_other_settings_are_refused_by_name(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = whole
    before = (folder / FILE).read_bytes()
    changed = {
        "protocol.horizon: saved 30, now 29": replace(
            BASE, protocol=PROTOCOL.changed("toy", horizon=29)
        ),
        "players.seeker.player": replace(BASE, player=RandomConfig()),
        "name: saved 'seeker', now 'other'": replace(BASE, name="other"),
    }
    for told, evaluation in changed.items():
        with pytest.raises(CheckpointError, match="another experiment") as refused:
            run(evaluation, folder, resume=True)
        assert told in str(refused.value)
    assert (folder / FILE).read_bytes() == before


def test_a_crash_is_told_and_tried_again(tmp_path: Path) -> None:
    bad = ToySuite(broken={("step", 2): "kill"})
    one = replace(BASE, tasks=(0,), floors={})
    results = run(replace(one, suite=bad), tmp_path)
    assert [found["initial_state"] for found in results["crashed"]] == [2]
    assert results["overall"]["trials"] == 3
    assert not results["verdict"]["success"]
    assert results["verdict"]["details"][0] == "1 rollout of 4 crashed or are missing."
    (alarm,) = results["alarms"]
    assert alarm["detail"] == "the process ended with code -9 (killed)"
    assert "Not every rollout has a result" in (tmp_path / "report.html").read_text()
    mended = run(one, tmp_path, resume=True)
    assert (mended["crashed"], mended["alarms"]) == ([], [])
    assert mended["overall"]["trials"] == 4


def test_two_evaluations_are_compared_on_equal_keys(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, _ = whole
    seeing = replace(
        BASE,
        name="seeing",
        player=SeekerConfig(),
        tasks=(1,),
        floors={},
        against=(folder,),
        protocol=PROTOCOL.changed("toy", settle=3),
    )
    results = run(seeing, tmp_path)
    (other,) = results["against"]
    assert other["name"] == "seeker"
    assert (other["compared"]["keys"], other["compared"]["won"]) == (4, 1)
    assert other["overall"]["successes"] == 3
    assert other["differences"] == ["settle 3 and 2"]
    assert [alarm["name"] for alarm in results["alarms"]] == ["not alike"]
    assert load(tmp_path).settings["name"] == "seeing"
    with pytest.raises(DataError, match="holds no evaluation"):
        load(tmp_path / "none")


def test_what_cannot_be_compared_is_said_before_anything_runs(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    elsewhere = replace(BASE, initial_states=(7,), against=(whole[0],))
    with pytest.raises(DataError, match="no rollout in common"):
        run(elsewhere, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_rollouts_of_unknown_settings_are_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / FILE).touch()
    for resume in (False, True):
        with pytest.raises(CheckpointError, match="nobody knows what was played"):
            run(BASE, tmp_path, resume=resume)
    (tmp_path / SETTINGS).write_text("{")
    with pytest.raises(DataError, match="holds no evaluation"):
        run(BASE, tmp_path, resume=True)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tasks": (2,)}, "has tasks 0 to 1"),
        ({"tasks": (0, 0)}, "at most once"),
        ({"initial_states": (20,)}, "has 20 initial states"),
        ({"workers": 0}, "workers is 0"),
        ({"name": "random"}, "random is a floor too"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_runs(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=told):
        run(replace(BASE, **changes), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_floors_may_play_less() -> None:
    jobs = replace(BASE, floor_trials=1, seeds=2).jobs()
    assert sum(job.who == "seeker" for job in jobs) == 2 * 4 * 2
    assert {job.key.initial_state for job in jobs if job.who == "random"} == {0}
    assert sum(job.who == "random" for job in jobs) == 2 * 1 * 2


def test_shards_play_each_rollout_once_and_the_whole_takes_them(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, results = whole
    for index in (1, 0):
        assert BASE.run_shard(tmp_path, Shard(index, 2)) == 0
    logs = [read_log(tmp_path / SHARDS / f"{i}-of-2" / FILE) for i in (0, 1)]
    assert not logs[0].keys() & logs[1].keys()
    assert {key for _, key in logs[0]}.isdisjoint({key for _, key in logs[1]})
    log = tmp_path / SHARDS / "0-of-2" / FILE
    before = log.read_bytes()
    assert BASE.run_shard(tmp_path, Shard(0, 2)) == 0  # again: nothing is left to play
    assert log.read_bytes() == before
    told: list[Played] = []
    found = run(BASE, tmp_path, report=told.append)
    assert told == []  # nothing was left
    assert outcomes(tmp_path) == outcomes(folder)
    for name in ("overall", "tasks", "floors", "seeds"):
        assert found[name] == results[name]


def test_what_a_shard_lacks_is_played_by_the_whole(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    BASE.run_shard(tmp_path, Shard(0, 2))
    log = tmp_path / SHARDS / "0-of-2" / FILE
    log.write_bytes(log.read_bytes()[:-20])  # a kill tore the last line
    run(BASE, tmp_path)
    assert outcomes(tmp_path) == outcomes(whole[0])


def test_a_shard_of_another_evaluation_is_refused(tmp_path: Path) -> None:
    BASE.run_shard(tmp_path, Shard(0, 4))
    other = replace(BASE, protocol=replace(PROTOCOL, settle=3))
    with pytest.raises(CheckpointError, match="settle"):
        run(other, tmp_path)
    with pytest.raises(CheckpointError, match="settle"):
        other.run_shard(tmp_path, Shard(0, 4))
