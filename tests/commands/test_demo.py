import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from saccade.data.lerobot.reader import LeRobotConfig
from saccade.evals.probes.base import ProbeConfig
from saccade.recipes import demo, single_stream, two_stream, video_mae
from saccade.sim import collect
from saccade.sim.metaworld import find_tasks, instruction
from tests.conftest import Outcome, train_here, write_lerobot
from tests.fixtures.rlds import write_droid

Saccade = Callable[..., Outcome]
SMALL = {"TRAIN": ("reach",), "HELD_OUT": ("push",), "EPISODES": 3, "SAMPLES": 32, "SEEDS": 1}


METHODS = {"two-stream", "two-stream original", "single-stream", "video-mae"}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demonstration with models of debug size, and two tasks."""
    for name, value in SMALL.items():
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr(demo, "ProbeConfig", partial(ProbeConfig, resamples=20))
    for method in (two_stream, single_stream, video_mae):
        monkeypatch.setattr(method, "strong_tiny", method.debug)
    monkeypatch.setattr(two_stream, "original_tiny", two_stream.debug_original)


@pytest.fixture
def collected(tmp_path: Path, small: None) -> Path:
    """A demonstration of two tasks, collected (in the toy world) and trained before."""
    config = demo.collection(tmp_path / "data")
    settings = collect._settings(collect.checked(config))
    write_lerobot(config.out, tuple(map(instruction, config.tasks)), episodes=3)
    record = {"settings": settings, "given_up": []}
    (config.out / "collection.json").write_text(json.dumps(record))
    data, cache = LeRobotConfig(root=config.out), tmp_path / "cache"
    train_here(demo.comparison(data, demo.HELD_OUT, cache), tmp_path)
    return tmp_path


def test_the_demonstration_goes_from_data_to_a_verdict(saccade: Saccade, collected: Path) -> None:
    done = saccade("demo", "--out", collected)
    assert done.code == 0
    assert f"6 episodes, 96 frames in {collected / 'data'}" in done.out
    assert "Seen tasks, gap 5, linear readout" in done.out
    assert "On unseen tasks: " in done.out
    assert "Verdict: " in done.out
    assert f"report: {collected / 'report.html'}" in done.out
    results = json.loads((collected / "results.json").read_text())
    assert results["data"]["held_out_tasks"] == [instruction("push")]
    assert {model["name"] for model in results["models"]} == METHODS
    assert results["seconds"].keys() == {"collect", "train", "probe"}
    assert (collected / "cache").is_dir()


def test_someone_s_data_folder_is_not_deleted(saccade: Saccade, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("years of work")
    assert saccade("demo", "--out", tmp_path, "--overwrite").code == 2
    assert (tmp_path / "data" / "mine.txt").exists()


def test_the_held_out_tasks_are_collected_and_never_trained_on(tmp_path: Path) -> None:
    tasks = find_tasks(demo.collection(tmp_path).tasks)
    assert len(set(tasks)) == len(tasks) == 10
    comparison = demo.comparison(LeRobotConfig(root=tmp_path), demo.HELD_OUT, tmp_path)
    (source,) = {method.training.source for method in comparison.methods}
    assert set(source.held_out_tasks) == {instruction(task) for task in demo.HELD_OUT}
    assert not set(demo.TRAIN) & set(demo.HELD_OUT)


def test_it_runs_on_other_data_by_changing_data_alone(
    saccade: Saccade, small: None, quick_workers: None, no_page: None, tmp_path: Path
) -> None:
    data, out = write_droid(tmp_path / "set"), tmp_path / "out"
    done = saccade("demo", "--data", data, "--out", out)
    assert done.code == 0, done.err
    results = json.loads((out / "results.json").read_text())
    assert {model["name"] for model in results["models"]} == METHODS
    assert results["data"]["held_out_tasks"] == []
    assert not (out / "data").exists()
