import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from saccade.config import to_dict
from saccade.evals.probe import ProbeConfig
from saccade.recipes import demo, single_stream, two_stream, video_mae
from saccade.sim.metaworld import find_tasks, instruction
from tests.conftest import Outcome, train_here, write_lerobot

Saccade = Callable[..., Outcome]
SMALL = {"TRAIN": ("reach",), "HELD_OUT": ("push",), "EPISODES": 3, "SAMPLES": 32, "SEEDS": 1}


@pytest.fixture
def collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A demonstration of two tasks, collected (in the toy world) and trained before."""
    for name, value in SMALL.items():
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr(demo, "ProbeConfig", partial(ProbeConfig, resamples=20))
    for method in (two_stream, single_stream, video_mae):
        monkeypatch.setattr(method, "strong_tiny", method.debug)
    monkeypatch.setattr(two_stream, "original_tiny", two_stream.debug_original)
    config = demo.collection(tmp_path / "data")
    settings = {k: v for k, v in to_dict(config).items() if k not in ("type", "out", "workers")}
    settings["tasks"] = [f"{task}-v3" for task in config.tasks]
    write_lerobot(config.out, tuple(map(instruction, config.tasks)), episodes=3)
    record = {"settings": settings, "given_up": []}
    (config.out / "collection.json").write_text(json.dumps(record))
    train_here(demo.comparison(config.out, tmp_path / "cache"), tmp_path)
    return tmp_path


def test_the_demonstration_goes_from_data_to_a_verdict(saccade: Saccade, collected: Path) -> None:
    done = saccade("demo", "--out", collected)
    assert done.code == 0
    assert f"6 episodes, 96 frames in {collected / 'data'}" in done.out
    assert "R2, held-out tasks" in done.out
    assert "Verdict: " in done.out
    assert f"report: {collected / 'report.html'}" in done.out
    results = json.loads((collected / "results.json").read_text())
    assert results["data"]["held_out_tasks"] == [instruction("push")]
    assert {model["name"] for model in results["models"]} == {
        *("two-stream", "two-stream original", "single-stream", "video-mae")
    }
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
    (source,) = {m.training.source for m in demo.comparison(tmp_path, tmp_path).methods}
    assert set(source.held_out_tasks) == {instruction(task) for task in demo.HELD_OUT}
    assert not set(demo.TRAIN) & set(demo.HELD_OUT)
