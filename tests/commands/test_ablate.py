import json
import os
import re
import shlex
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tyro

from saccade.commands import ablate
from saccade.data.passes.shards import Shard
from saccade.errors import BusyError
from saccade.experiments.cells import Axis
from saccade.experiments.training import Training
from saccade.recipes.ablations import AXES
from saccade.train.checkpoint import lock, steps
from saccade.train.log import Progress
from tests import children
from tests.children import Child
from tests.conftest import Outcome

Saccade = Callable[..., Outcome]
PROBE = "--probe.gaps 1 --probe.stride 8 --probe.resamples 20"
MAE = ["ablate", *shlex.split(f"video_mae --preset strong --size debug --seeds 1 {PROBE}")]


def finished(folder: Path) -> dict[str, int]:
    results = folder.glob("train/*/*/result.json")
    return {path.parents[1].name: path.stat().st_mtime_ns for path in results}


def wait_until(done: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def free(run: Path) -> bool:
    try:
        with lock(run):
            return True
    except BusyError:
        return False


def train_here(*args: str, progress: Callable[[Progress], None] | None = None) -> None:
    """Train in this process what a command would train in others."""
    command = tyro.cli(ablate.Command, args=args[1:])
    ablation = ablate.planned(command)
    plan = ablation.comparison()
    if command.shard:
        plan = ablation.shard(Shard.parse(command.shard))
    for training, place in ablation.unfinished(plan, command.out).values():
        training.run(place, resume=(place / "experiment.json").exists(), progress=progress)


def test_a_killed_grid_goes_on_where_it_was(tmp_path: Path) -> None:
    command = [*MAE, "--axes", "mask_ratio=0.9", "--budget", "160", "--out", str(tmp_path)]
    child = Child(tmp_path, children.command, *command, "--jobs", "1")
    run = tmp_path / "train/video-mae_strong/seed-0"
    wait_until(lambda: any(step > 0 for step in steps(run)))  # records come before they are whole
    os.killpg(child.pid, signal.SIGKILL)
    assert child.wait().returncode == -signal.SIGKILL
    wait_until(lambda: free(run))  # the training is another process, which dies when it may
    assert not finished(tmp_path)
    notes: list[str] = []
    train_here(*command, progress=lambda progress: notes.append(progress.note))
    assert len(re.findall(r"resumed from step [1-9]\d* of 20", " ".join(notes))) == 1
    assert finished(tmp_path).keys() == {"video-mae_strong", "video-mae_strong_mask_ratio=0.9"}


def test_a_shard_trains_its_share_and_draws_no_table(saccade: Saccade, tmp_path: Path) -> None:
    command = [*MAE, "--axes", "mask_ratio=0.5,0.9", "--budget", "8", "--out", str(tmp_path)]
    for shard in ("0/3", "2/3"):
        train_here(*command, "--shard", shard)
    cells = {"video-mae_strong", "video-mae_strong_mask_ratio=0.9"}
    assert finished(tmp_path).keys() == cells
    done = saccade(*command, "--shard", "2/3")
    assert done.code == 0, done.err
    assert "training" not in done.err
    assert f"shard 2/3: 1 of 1 runs are in {tmp_path}" in done.out
    assert not (tmp_path / "results.json").exists()
    for shard, says in (("2", "expected i/n"), ("3/4", "shard 3/4 is empty")):
        refused = saccade(*command, "--shard", shard)
        assert refused.code == 2
        assert says in refused.err


def faster(training: Training, value: str) -> Training:
    return replace(training, train=replace(training.train, lr=float(value)))


def test_what_diverged_is_listed_at_the_end_with_its_code(
    saccade: Saccade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = Axis(
        name="rate",
        about="Rate.",
        values=("1e30",),
        sets=("train.lr",),
        applies=lambda _: True,
        change=faster,
    )
    monkeypatch.setattr(ablate, "AXES", (*AXES, rate))
    command = [*MAE, "--axes", "rate", "mask_ratio=0.9", "--budget", "16"]
    command += ["--out", str(tmp_path)]
    train_here(*command)
    before = finished(tmp_path)
    done = saccade(*command)
    assert done.code == 6
    assert finished(tmp_path) == before
    assert "training" not in done.err
    assert re.search(r"mask_ratio +│ 0\.9 +│ [+-]", done.out)  # the others have their table
    assert "p, corrected by Holm" in " ".join(done.out.split())
    assert f"report: {tmp_path / 'report.html'}" in done.out
    assert (tmp_path / "report.html").is_file()
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["commands"] == [f"saccade {' '.join(command)}"]
    assert {row["cell"] for row in results["ablation"]} == {"video-mae strong mask_ratio=0.9"}
    assert "diverged: video-mae strong lr=1e+30, seed 0" in done.out
    assert re.search(
        r"error\[6\]: 1 runs diverged: video-mae strong lr=1e\+30, seed 0: step", done.err
    )
    dry = saccade(*command, "--dry-run")
    assert dry.code == 0
    assert "0 of 1, 1 diverged" in dry.out
    assert "would train 0 runs" in dry.out


def test_a_dry_run_shows_cells_sizes_and_time_and_writes_nothing(
    saccade: Saccade, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    axes = ["m_only", "skip", "decoder=B", "cls_source=none"]
    shown: dict[str, Any] = {"--axes": axes, "--size": ["debug"], "--budget": [80], "--out": [out]}
    words = [word for option, values in shown.items() for word in (option, *values)]
    done = saccade("ablate", "two_stream", *words, "--seeds", 2, "--dry-run")
    assert done.code == 0, done.err
    lines = [line for line in done.out.splitlines() if "two-stream " in line]
    cells = [line.split("│")[1].strip() for line in lines]
    assert cells == [
        "two-stream strong",
        "two-stream original",
        "two-stream strong variant=m_only",
        "two-stream original variant=m_only cls_source=none",
        "two-stream original cls_source=none",
        "two-stream original skip=False",
    ]
    assert all("80" in line and "2 of 2" in line for line in lines)
    assert re.search(r"would train 12 runs in .*: about \d+\.\d minutes", done.out)
    assert not out.exists()


def test_the_axes_are_listed_with_values_and_bases(saccade: Saccade) -> None:
    done = saccade("ablate", "two_stream", "--list")
    assert done.code == 0
    for axis in AXES:
        assert f" {axis.name} " in done.out
    assert "0.25 0.5 0.75 0.9" in done.out
    assert "video-mae" not in done.out
    mae = saccade("ablate", "video_mae", "--list").out
    assert "skip" not in mae
    assert saccade("ablate", "--list").out.count("video-mae strong") == 2
    assert saccade("ablate").code == 2
    wrong = saccade("ablate", "jepa", "--list")
    assert (wrong.code, "one of two_stream, single_stream, video_mae" in wrong.err) == (2, True)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ("two_stream --axes depth", "there is no axis 'depth'; the axes are m_only, p_only"),
        (
            "two_stream --preset strong --axes skip",
            "skip does not exist for two-stream strong; two-stream original and single-stream",
        ),
        ("video_mae --axes skip", "does not exist for video-mae strong or video-mae original"),
        ("two_stream --preset strong --axes gap_law=triangular", "have all of"),
        ("two_stream --size base --axes m_only", "different numbers of samples"),
        ("video_mae --size debug --axes gap_law", "no recipe 'debug_original'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    saccade: Saccade, tmp_path: Path, args: str, told: str
) -> None:
    done = saccade("ablate", *args.split(), "--out", tmp_path / "out")
    assert done.code == 2
    assert told in done.err
    assert not (tmp_path / "out").exists()


def test_data_and_held_out_tasks_reach_every_cell(lerobot: Path, tmp_path: Path) -> None:
    given = ["--data", str(lerobot), "--held-out-tasks", "pull it", "--out", str(tmp_path)]
    command = tyro.cli(ablate.Command, args=["two_stream", "--axes", "m_only", *given])
    plan = ablate.planned(command).comparison()
    assert len(plan.methods) == 4
    for method in plan.methods:
        source = method.training.source
        assert source.episodes.root == str(lerobot)  # pyright: ignore
        assert (source.held_out_tasks, source.held_out_scenes) == (("pull it",), ())


def test_held_out_scenes_reach_every_cell(tmp_path: Path) -> None:
    given = ["--held-out-scenes", "hall", "attic", "--out", str(tmp_path)]
    command = tyro.cli(ablate.Command, args=["two_stream", "--axes", "m_only", *given])
    plan = ablate.planned(command).comparison()
    sources = [method.training.source for method in plan.methods]
    assert [source.held_out_scenes for source in sources] == [("hall", "attic")] * 4
