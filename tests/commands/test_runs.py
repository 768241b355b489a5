import json
from collections.abc import Callable
from pathlib import Path

import pytest

from saccade.train import checkpoint
from tests.conftest import Outcome
from tests.train import toy

Saccade = Callable[..., Outcome]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "toy"
    toy.run(folder)
    settings = {"train": {"samples": 96, "batch_size": 8}}
    (folder / "experiment.json").write_text(json.dumps(settings))
    return folder


def test_runs_are_listed(saccade: Saccade, run: Path) -> None:
    heads, line = saccade("runs", run.parent).out.splitlines()
    assert heads.split("  ")[0] == "run"
    assert line.startswith(f"{run}  stopped  12/12  0.1")
    assert "at step 12" in line
    (listed,) = json.loads(saccade("runs", run.parent, "--json").out)
    assert (listed["step"], listed["checkpoints"], listed["pid"]) == (12, 2, None)
    assert saccade("runs", run / "checkpoints").out == f"no runs below {run / 'checkpoints'}\n"
    assert saccade("runs", run / "nothing").code == 2


def test_a_damaged_checkpoint_is_an_error(saccade: Saccade, run: Path) -> None:
    assert saccade("runs", "verify", run).out.splitlines()[1:] == [
        "  step 9: intact",
        "  step 12: intact",
    ]
    (checkpoint.folder_of(run, 9) / "state.json").unlink()
    done = saccade("runs", "verify", run, "--json")
    assert done.code == 4
    assert done.err.startswith("error[4]: 1 checkpoints are damaged")
    assert json.loads(done.out)[str(run)]["12"] == ""
    assert "state.json is missing" in json.loads(done.out)[str(run)]["9"]
    assert saccade("runs", "verify", run.parent).code == 2


def test_a_checkpoint_can_be_kept_and_the_rest_deleted(saccade: Saccade, run: Path) -> None:
    assert saccade("runs", "keep", run, 9).code == 0
    assert saccade("runs", "prune", run).out == f"{run}: deleted nothing\n"
    (checkpoint.folder_of(run, 9) / checkpoint.KEEP).unlink()
    assert saccade("runs", "prune", run).out == f"{run}: deleted step 9\n"
    assert saccade("runs", "keep", run, 9).code == 4
