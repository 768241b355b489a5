"""Offline errors from the command line, of a run that has just been trained."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from saccade.commands.common import load_recipe
from tests.conftest import Outcome

Saccade = Callable[..., Outcome]


@pytest.fixture(scope="module")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of ``statevla:bc_debug``. Read only but for ``offline.json``."""
    folder = tmp_path_factory.mktemp("runs") / "bc"
    load_recipe("statevla:bc_debug").run(folder)
    return folder


def test_held_out_demonstrations_are_asked_about(
    saccade: Saccade, cloned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = saccade("evaluate", "offline", cloned)
    assert done.code == 0, done.err
    found = json.loads((cloned / "offline.json").read_text())
    assert (found["part"], found["axes"][-1]) == ("select", "gripper")
    assert set(found["policy"]["mse"]) == set(found["axes"])
    # this toy only moves in a plane
    assert set(found["policy"]["normalised_mse"]) == {"x", "y", "motion"}
    assert set(found["floors"]) == {"mean_action", "last_action"}
    whole = load_recipe("statevla:bc_debug").source.episodes.build()
    assert 0 < found["episodes"] < len(whole.lengths) / 2, "only held-out episodes"
    assert "gripper: accuracy at transitions" in done.out
    assert str(cloned / "offline.json") in done.out


def test_fewer_moments_and_the_best_weights(saccade: Saccade, cloned: Path) -> None:
    assert saccade("evaluate", "offline", cloned, "--samples", 5, "--best").code == 0
    found = json.loads((cloned / "offline.json").read_text())
    assert found["windows"] == 5
    assert found["policy_folder"] == str(cloned / "best" / "policy")


def test_what_cannot_be_asked_about_is_refused(
    saccade: Saccade, cloned: Path, debug_run: Path, lerobot: Path, tmp_path: Path
) -> None:
    nothing = saccade("evaluate", "offline", cloned, "--part", "test")
    assert nothing.code == 2
    assert "there is no part 'test'" in nothing.err
    other = saccade("evaluate", "offline", debug_run)
    assert other.code == 4
    assert "trained no policy" in other.err
    missing = saccade("evaluate", "offline", tmp_path)
    assert missing.code == 4
    assert "give the folder of a policy's training" in missing.err
    elsewhere = saccade("evaluate", "offline", cloned, "--data", lerobot)
    assert elsewhere.code == 2
    assert "agentview" in elsewhere.err
    broken = shutil.copytree(cloned, tmp_path / "broken")
    (broken / "policy" / "config.json").write_text("{}")
    assert saccade("evaluate", "offline", broken).code == 4
