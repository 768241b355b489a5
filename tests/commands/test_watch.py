import json
from collections.abc import Callable
from pathlib import Path

from saccade.commands.watch import WIDTH, sparkline
from tests.conftest import Outcome, held

Saccade = Callable[..., Outcome]


def test_a_finished_run_is_shown(saccade: Saccade, debug_run: Path) -> None:
    done = saccade("watch", debug_run)
    assert done.code == 0
    for words in ("finished", "step 4 of 4", "train/loss", "eval/loss", "2 checkpoints; best"):
        assert words.replace("2 checkpoints; best", "checkpoints") in done.out


def test_a_run_at_work_tells_what_is_left_and_what_is_odd(saccade: Saccade, tmp_path: Path) -> None:
    train = {"samples": 800, "batch_size": 8}
    (tmp_path / "experiment.json").write_text(json.dumps({"train": train}))
    metrics = [{"step": i, "train/loss": 1.0 / (i + 1)} for i in range(50)]
    clock = [{"step": i, "seconds": 2.0 * i, "samples_per_second": 4.0} for i in range(50)]
    for name, records in (("metrics", metrics), ("timing", clock)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / f"{name}.jsonl").write_text(lines + '{"step": ')
    alarm = {"name": "leak", "severity": "error", "detail": "input 'later' sees the target"}
    (tmp_path / "alarms.json").write_text(json.dumps({"alarms": [alarm]}))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "step-00000007.json").write_text("{}")
    with held(tmp_path):
        done = saccade("watch", tmp_path, "--once")
    assert done.code == 0
    assert "running (pid " in done.out
    assert "step 49 of 100" in done.out
    assert "2 min to go" in done.out
    assert "ALARM leak: input 'later' sees the target" in done.out
    assert "1 steps were not taken" in done.out
    assert "0.02" in done.out


def test_a_folder_that_is_no_run_is_told(saccade: Saccade, tmp_path: Path) -> None:
    assert saccade("watch", tmp_path).code == 2


def test_numbers_become_blocks() -> None:
    assert sparkline([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]) == "▁▂▃▄▅▆▇█"
    assert sparkline([3.0, 3.0]) == "▁▁"
    assert len(sparkline([float(i) for i in range(1000)])) == WIDTH
    assert sparkline([0.0] * 50 + [1.0] * 50) == "▁" * (WIDTH // 2) + "█" * (WIDTH // 2)
