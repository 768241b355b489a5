import json
from collections.abc import Callable
from pathlib import Path

import pytest

from saccade.commands import plan
from saccade.errors import ConfigError
from saccade.evals.calibration import Calibration
from saccade.experiments.planning import OfflinePlanning
from tests.conftest import Outcome
from tests.experiments.planning_helpers import save_model

Saccade = Callable[..., Outcome]
QUICK = ("--planner.samples", 4, "--planner.iterations", 1)
FEW = ("--planner.elites", 2, "--episodes", 2, "--per-episode", 1, "--device", "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "base")


def run(*args: object) -> int:
    return plan.main([str(arg) for arg in args])


def test_plans_are_shown_beside_their_floors(
    model: Path, lerobot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--model", model, "--data", lerobot, "--out", tmp_path, "--rotation", 0.1)
    assert run("offline", "cem", "mppi", *asked, *QUICK, *FEW) == 0
    out = capsys.readouterr().out
    for said in ("the base model, cem", "the base model, mppi", "floor: zero", "floor: mean"):
        assert said in out
    assert "Verdict: Planned by cem" in out
    assert out.rstrip().endswith(f"report: {tmp_path / 'report.html'}")
    results = json.loads((tmp_path / "results.json").read_text())
    first, second = results["settings"]["planners"]
    assert first["limits"]["rotation"] == second["limits"]["rotation"] == 0.1
    assert second["samples"] == 4
    assert results["commands"][0].startswith("saccade plan offline cem mppi --model")
    with pytest.raises(ConfigError, match=r"has a results\.json"):
        run("offline", *asked, *QUICK, *FEW)


def test_a_dry_run_says_what_it_would_cost(
    model: Path, lerobot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--model", model, "--data", lerobot, "--out", tmp_path / "out", "--dry-run")
    assert run("offline", "cem", "gradient", *asked, *QUICK, *FEW) == 0
    cem, gradient = capsys.readouterr().out.splitlines()
    assert cem.startswith("cem: at most 2 plans, 5 evaluations each; about ")
    assert "MB for each candidate" in cem
    assert gradient.startswith("gradient: at most 2 plans, 17 evaluations")
    assert not (tmp_path / "out").exists()


def test_calibration_leaves_a_file(
    model: Path, lerobot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--model", model, "--data", lerobot, "--part", "all", "--out", tmp_path)
    wide = ("--planner.limits.position", 1, "--episodes", 4, "--per-episode", 4)
    assert run("calibrate", *asked, *QUICK, *FEW, *wide) == 0
    out = capsys.readouterr().out
    assert f"calibration: {tmp_path / 'calibration.json'}" in out
    assert "floor: standing still" in out
    assert Calibration.load(tmp_path / "calibration.json").episodes == 2


def test_options_reach_the_experiment(model: Path, lerobot: Path, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    command = plan.Offline(
        model=model,
        data=str(lerobot),
        out=tmp_path,
        calibration=file,
        horizon=2,
        memory=0.5,
        rotation=0.2,
        sub_goals=(4, 10, 4),
        warm_start=True,
    )
    first = plan._limited(command)
    study = plan._experiment(command, (first,))
    assert isinstance(study, OfflinePlanning)
    study.check()
    assert (study.model.calibration, study.moments.horizon) == (file, 2)
    assert (study.planners[0].memory, study.planners[0].limits.rotation) == (0.5, 0.2)
    assert (study.sub_goals, study.warm_start) == ((4, 10, 4), True)


def test_wrong_words_are_one_sentence(saccade: Saccade, model: Path, tmp_path: Path) -> None:
    assert "usage: saccade plan offline" in saccade("plan").out
    for args, told in (
        (("dance",), "there is no mode 'dance'"),
        (("offline", "newton"), "there is no planner ['newton']"),
        (("reach", "cem", "mppi"), "takes one planner"),
    ):
        done = saccade("plan", *args)
        assert done.code == 2
        assert done.err.startswith("error[2]:")
        assert told in done.err
    out = ("--out", tmp_path / "out")
    done = saccade("plan", "offline", "--model", tmp_path, "--data", tmp_path, *out)
    assert done.code in (3, 4)
    assert not (tmp_path / "out").exists()


def test_one_seed(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --seed"):
        run("reach", "--model", model, "--out", tmp_path / "out", "--reach.seed", 3)


@pytest.mark.parametrize("mode", list(plan.MODES))
def test_help_teaches(saccade: Saccade, mode: str) -> None:
    done = saccade("plan", mode, "--help")
    assert done.code == 0
    assert "Example: saccade plan" in done.out
    assert "--planner.samples" in done.out
