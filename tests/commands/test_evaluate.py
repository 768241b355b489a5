import json
import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest

from saccade.commands import evaluate
from saccade.errors import CheckpointError, ConfigError
from saccade.evals.players import PolicyConfig, RandomConfig
from saccade.evals.protocols import named
from saccade.evals.rollout_log import FILE, read_log
from saccade.experiments.suites import ExpertConfig, player_named, suite_named
from tests.conftest import Outcome, wait_for_lines
from tests.evals.toy_policy import save
from tests.evals.toy_scenes import SeekerConfig, ToySuite

Saccade = Callable[..., Outcome]
HOW = shlex.split("--suite toy --protocol bc --horizon 30 --settle 1 --trials 3")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, int], str]:
    """Put the toy in place of a simulator; return what breaks in it."""
    broken: dict[tuple[str, int], str] = {}
    monkeypatch.setattr(evaluate, "suite_named", lambda name, assets: ToySuite(broken=broken))
    monkeypatch.setattr(evaluate, "player_named", lambda *_: ("seeker", SeekerConfig()))
    return broken


def test_an_evaluation_ends_with_a_table_a_verdict_and_a_page(
    saccade: Saccade, toy: dict[tuple[str, int], str], tmp_path: Path
) -> None:
    command = ("evaluate", "seeker", *HOW, "--floors", "random", "--out", tmp_path / "run")
    dry = saccade(*command, "--dry-run")
    assert dry.code == 0
    assert "would play 12 rollouts in toy, 6 of them by seeker, at most 30 steps" in dry.out
    assert "bc, horizon 30 instead of none, trials 3 instead of 20, settle 1 instead of" in dry.out
    assert not (tmp_path / "run").exists()
    done = saccade(*command)
    assert done.code == 0, done.err
    assert "go to the near goal" in done.out
    assert "Verdict: seeker succeeds in 6 of 6 (100 %" in done.out
    assert "points are no robots" in done.out
    assert f"report: {tmp_path / 'run' / 'report.html'}" in done.out
    assert "12 of 12 rollouts" in done.err
    assert "random succeeded in" in done.err
    (line,) = json.loads((tmp_path / "run" / "results.json").read_text())["commands"]
    assert line.startswith("saccade evaluate seeker --suite toy")
    again = saccade(*command)
    assert again.code == 2
    assert "give --resume" in again.err
    same = saccade("evaluate", "compare", tmp_path / "run", tmp_path / "run")
    assert same.code == 0
    assert "+0 points [" in same.out
    assert "No difference is shown" in same.out


def test_machines_share_an_evaluation(
    saccade: Saccade, toy: dict[tuple[str, int], str], tmp_path: Path
) -> None:
    command = ("evaluate", "seeker", *HOW, "--floors", "random", "--out", tmp_path)
    part = saccade(*command, "--shard", "0/2")
    assert part.code == 0, part.err
    assert "shard 0-of-2 is done, 0 rollouts crashed; when all are" in part.out
    assert not (tmp_path / "results.json").exists()
    done = saccade(*command)
    assert done.code == 0, done.err
    assert "12 of 12 rollouts" in done.err  # the other half was played now
    assert "seeker succeeds in 6 of 6" in done.out


def test_less_done_than_asked_is_no_success(
    saccade: Saccade, toy: dict[tuple[str, int], str], tmp_path: Path
) -> None:
    toy["step", 1] = "broke [/off]"
    done = saccade("evaluate", "seeker", *HOW, "--tasks", "0", "--floors", "--out", tmp_path)
    assert done.code == 3
    assert "error[3]: 1 rollout of 3 crashed or are missing" in done.err
    told = "Alarm, crashed (seeker: near, initial state 1, seed 0): DataError: step broke [/off]"
    assert told in done.out


def test_a_signal_loses_nothing(
    saccade: Saccade,
    toy: dict[tuple[str, int], str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    options = (*HOW, "--trials", "4", "--floors", "--tasks", "0", "--out", str(tmp_path))
    monkeypatch.setattr(evaluate, "player_named", lambda *_: ("seeker", SeekerConfig(pause=0.02)))

    def terminate() -> None:
        wait_for_lines(tmp_path / FILE, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = Thread(target=terminate)
    thread.start()
    stopped = saccade("evaluate", "x", *options)
    thread.join()
    assert stopped.code == 75, stopped.err
    before = (tmp_path / FILE).read_bytes()
    kept = read_log(tmp_path / FILE)
    assert 1 <= len(kept) < 4
    assert f"error[75]: stopped by a signal; {len(kept)} of 4 rollouts" in stopped.err
    assert saccade("evaluate", "x", *options, "--resume").code == 0
    assert (tmp_path / FILE).read_bytes().startswith(before)
    assert len(read_log(tmp_path / FILE)) == 4


def test_power_answers_both_ways(saccade: Saccade) -> None:
    asked = saccade("evaluate", "power", "--rate", "0.7", "--difference", "0.1")
    assert asked.code == 0
    assert "70.0% from 80.0%: 316 trials of each policy" in asked.out
    assert "70.0% from 60.0%: " in asked.out
    seen = saccade("evaluate", "power", "--rate", "0.7", "--trials", "316")
    assert "316 trials tell 70.0% from 80.0% and above" in seen.out
    assert "and below" in seen.out
    assert "from no other rate" in saccade("evaluate", "power", "--rate", ".5", "--trials", 2).out
    edge = saccade("evaluate", "power", "--rate", "0.95", "--difference", "0.1")
    assert edge.out.count("trials of each") == 1
    assert saccade("evaluate", "power", "--rate", "0.7").code == 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--initial-states 3:1", "neither a number nor a range"),
        ("--initial-states ²", "neither a number nor a range"),
        ("--initial-states 0:4 --trials 3", "do not agree"),
        ("--floors replay-mean", "give --demonstrations DATA"),
        ("--resume --overwrite", "give one of them"),
        ("--shard 0/2 --overwrite", "other shards have played"),
        ("--shard 2/2", "expected i/n"),
        ("--protocol vla", "there is no protocol 'vla'"),
        ("--protocol bc", "no horizon for toy"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    saccade: Saccade, toy: dict[tuple[str, int], str], tmp_path: Path, options: str, told: str
) -> None:
    usual = [] if "--protocol" in options else ["--protocol", "bc", "--horizon", "9"]
    words = ["--suite", "toy", *usual, *shlex.split(options)]
    done = saccade("evaluate", "seeker", *words, "--out", tmp_path / "new")
    assert done.code == 2
    assert told in done.err
    assert not (tmp_path / "new").exists()


def test_players_and_suites_have_names(tmp_path: Path) -> None:
    protocol = named("openvla").changed("libero_goal", execute=2)
    assert player_named("random", protocol) == ("random", RandomConfig())
    assert player_named("expert", protocol) == ("expert", ExpertConfig())
    run = tmp_path / "bc"
    inside = PolicyConfig(folder=save(run / "policy"), execute=2)
    assert player_named(str(run), protocol) == ("bc", inside)
    assert player_named(str(run / "policy"), protocol) == ("bc", inside)
    name, server = player_named("ws://localhost:8000", protocol)
    assert server == PolicyConfig(url=name, execute=2, pictures=protocol.pictures)
    with pytest.raises(CheckpointError, match="is no folder"):
        player_named("nobody", protocol)
    with pytest.raises(ConfigError, match="there is no suite 'robocasa'"):
        suite_named("robocasa")
    with pytest.raises(ConfigError, match="needs tasks"):
        suite_named("metaworld")
