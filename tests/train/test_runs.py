import json
from dataclasses import replace
from pathlib import Path

import pytest

from saccade.errors import BusyError, CheckpointError, ConfigError
from saccade.train import checkpoint, runs
from tests.train import toy
from tests.train.test_engine import wait_for_steps

SETTINGS = {"train": {"samples": 96, "batch_size": 8}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Leave a finished run, one that has just begun, and what is no run."""
    place = tmp_path_factory.mktemp("runs")
    for name in ("a/finished", "b"):
        (place / name).mkdir(parents=True)
        (place / name / "experiment.json").write_text(json.dumps(SETTINGS))
    toy.run(place / "a" / "finished", keep=1, keep_every=6)
    (place / "a" / "finished" / "result.json").write_text("{}")
    (place / "b" / ".lock").touch()
    (place / "c").mkdir()
    (place / "c" / "experiment.json").write_text("{}")
    return place


def test_runs_are_found_and_described(place: Path) -> None:
    finished, empty = (runs.describe(run) for run in runs.find(place))
    assert finished.folder == str(place / "a" / "finished")
    assert (finished.state, finished.step, finished.steps) == ("finished", 12, 12)
    assert finished.best_step == 12
    assert finished.best_loss is not None
    assert finished.bytes > 10_000
    assert finished.seconds is not None
    assert (empty.state, empty.step, empty.best_loss, empty.bytes) == ("empty", 0, None, 43)
    with pytest.raises(ConfigError, match="no run folder"):
        runs.describe(place / "a")


def test_what_is_kept_every_so_often_is_never_deleted(place: Path) -> None:
    run = place / "a" / "finished"
    assert checkpoint.steps(run) == [6, 12]
    with pytest.raises(CheckpointError, match="no checkpoint of step 3; it has 6, 12"):
        runs.keep(run, 3)
    runs.keep(run, 6)
    assert runs.prune(run) == []
    (checkpoint.folder_of(run, 6) / checkpoint.KEEP).unlink()
    assert runs.verify(run) == {6: "", 12: ""}
    state = checkpoint.folder_of(run, 6) / "state.json"
    state.write_bytes(state.read_bytes()[:-1] + b" ")
    assert "state.json is damaged" in runs.verify(run)[6]
    with pytest.raises(CheckpointError, match="is damaged"):
        runs.keep(run, 6)
    assert runs.prune(run) == [6]
    assert checkpoint.steps(run) == [12]


def test_looking_at_a_run_does_not_disturb_it(tmp_path: Path) -> None:
    (tmp_path / "experiment.json").write_text(json.dumps(SETTINGS))
    child = toy.CHILDREN.Process(target=toy.run_slowly, args=(tmp_path, 0.2))
    child.start()
    wait_for_steps(tmp_path, 1)
    info = runs.describe(tmp_path)
    assert (info.state, info.pid) == ("running", child.pid)
    with pytest.raises(BusyError):
        runs.prune(tmp_path)
    child.terminate()
    child.join(60)
    assert child.exitcode == 75
    stopped = runs.describe(tmp_path)
    assert stopped.state == "stopped"
    assert replace(stopped, state="running", pid=child.pid).folder == info.folder
