import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tyro

from saccade.commands.compare import Command, names, planned
from tests import children
from tests.children import Child
from tests.conftest import COMPARE, Outcome, wait_for_lines

Saccade = Callable[..., Outcome]


@pytest.fixture
def copied(compared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(compared, tmp_path / "all"))


def finished(folder: Path) -> dict[str, int]:
    results = folder.glob("train/*/*/result.json")
    return {path.parents[1].name: path.stat().st_mtime_ns for path in results}


def test_the_same_command_again_probes_again_and_trains_nothing(
    saccade: Saccade, copied: Path, no_page: None
) -> None:
    before = finished(copied)
    assert before.keys() == {"two-stream", "single-stream", "video-mae"}
    done = saccade(*COMPARE, "--out", copied)
    assert done.code == 0
    assert finished(copied) == before
    results = json.loads((copied / "results.json").read_text())
    assert results["commands"] == [f"saccade {' '.join(COMPARE)} --out {copied}"]
    assert f"Verdict: {results['verdict']['sentence']}" in " ".join(done.out.split())
    assert done.out.rstrip().endswith(f"report: {copied / 'report.html'}")
    for name in ("two-stream, random init", "raw pixel change", "copy"):
        assert name in done.out


def test_an_interrupted_comparison_saves_and_goes_on(tmp_path: Path) -> None:
    command = shlex.split(
        "compare single_stream:debug --seeds 1 --budget 160 --jobs 2 "
        f"--probe.gaps 1 --probe.stride 8 --probe.resamples 20 --out {tmp_path}"
    )
    shell = [sys.executable, "-m", "saccade.cli", *command]
    with subprocess.Popen(
        shell, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        wait_for_lines(tmp_path / "train/single-stream/seed-0/metrics.jsonl", 3)
        os.killpg(child.pid, signal.SIGINT)  # as Ctrl-C does: to every process of the terminal
        _, told = child.communicate(timeout=120)
    assert child.returncode == 130, told
    saved = re.search(r"^single-stream, seed 0: .* came; (\d+) of 20 steps", told, re.MULTILINE)
    assert saved is not None, told
    assert not finished(tmp_path)
    done = Child(tmp_path, children.command, *command).wait()
    assert done.returncode == 0, done.stderr
    assert f"resumed from step {saved[1]} of 20" in done.stderr
    assert finished(tmp_path).keys() == {"single-stream"}
    assert (tmp_path / "report.html").is_file()


def test_other_settings_in_the_same_folder_are_refused(saccade: Saccade, copied: Path) -> None:
    before = finished(copied)
    done = saccade(*COMPARE, "--out", copied, "--budget", 64)
    assert done.code == 2
    assert "holds a run with other settings" in done.err
    assert finished(copied) == before


def test_a_dry_run_shows_every_method_and_writes_nothing(saccade: Saccade, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = saccade(*COMPARE, "--out", out, "--budget", 80, "--dry-run")
    assert done.code == 0
    assert done.out.count("for 10 steps of 8 samples") == 3
    assert "single-stream:\n" in done.out
    assert not out.exists()


def test_data_tasks_and_scenes_reach_every_method(lerobot: Path, tmp_path: Path) -> None:
    recipes = ["video_mae:debug", "single_stream:debug"]
    given = ["--data", str(lerobot), "--held-out-tasks", "pull it", "--out", str(tmp_path)]
    for scenes in ((), ("hall", "attic")):
        asked = [*recipes, *given, *(["--held-out-scenes", *scenes] if scenes else [])]
        plan = planned(tyro.cli(Command, args=asked))
        plan.check()
        for method in plan.methods:
            source = method.training.source
            assert source.episodes.root == str(lerobot)  # pyright: ignore
            assert (source.held_out_tasks, source.held_out_scenes) == (("pull it",), scenes)


def test_unequal_budgets_are_refused_with_the_way_out(saccade: Saccade, tmp_path: Path) -> None:
    command = [
        "compare",
        "two_stream:strong_tiny",
        "two_stream:strong_small",
        "--out",
        tmp_path / "x",
    ]
    done = saccade(*command)
    assert done.code == 2
    assert "different" in done.err
    assert not (tmp_path / "x").exists()


def test_a_data_set_called_train_is_not_overwritten(saccade: Saccade, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "mine.txt").write_text("years of work")
    done = saccade(*COMPARE, "--out", tmp_path, "--overwrite")
    assert done.code == 2
    assert "saccade did not write it" in done.err
    assert (tmp_path / "train" / "mine.txt").exists()


def test_without_a_recipe_the_recipes_are_listed(saccade: Saccade) -> None:
    done = saccade("compare")
    assert done.code == 2
    assert "video_mae:strong_tiny" in done.out


@pytest.mark.parametrize(
    ("recipes", "expected"),
    [
        (("two_stream:debug", "video_mae:debug"), ["two-stream", "video-mae"]),
        (("my.ideas:new", "two_stream:debug"), ["ideas", "two-stream"]),
        (("a:x", "a:y"), ["a x", "a y"]),
    ],
)
def test_methods_are_named_as_shortly_as_they_can_be(
    recipes: tuple[str, ...], expected: list[str]
) -> None:
    assert names(recipes) == expected
