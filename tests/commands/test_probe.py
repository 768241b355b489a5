import json
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Outcome

Saccade = Callable[..., Outcome]
QUICK = ("--probe.gaps", 1, "--probe.stride", 8, "--probe.resamples", 20)


def test_the_table_shows_the_encoder_beside_its_floors(
    saccade: Saccade, debug_run: Path, lerobot: Path, tmp_path: Path
) -> None:
    encoder = debug_run / "encoder"
    held_out = ("--held-out-tasks", "pull it", "--camera", "front")
    done = saccade("probe", encoder, "--data", lerobot, "--out", tmp_path, *held_out, *QUICK)
    assert done.code == 0
    assert "over 1 steps" in done.out
    for name in ("R2, held-out tasks", "random init", "raw pixels", "position only", "copy"):
        assert name in done.out, name
    assert "Verdict: No success" in done.out
    assert done.out.rstrip().endswith(f"report: {tmp_path / 'report.html'}")
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["data"]["held_out_tasks"] == ["pull it"]
    assert results["budget"]["probe"] == {"gaps": [1], "readouts": ["linear"], "stride": 8}


def test_a_damaged_encoder_is_named(
    saccade: Saccade, debug_run: Path, lerobot: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "encoder"
    broken.mkdir()
    for path in (debug_run / "encoder").iterdir():
        (broken / path.name).write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (broken / "config.json").write_bytes((debug_run / "encoder" / "config.json").read_bytes())
    done = saccade("probe", broken, "--data", lerobot, "--out", tmp_path / "out", *QUICK)
    assert done.code == 4
    assert done.err.startswith(f"error[4]: {broken} is damaged")
    assert not (tmp_path / "out").exists()


def test_a_probe_needs_an_encoder(saccade: Saccade, lerobot: Path, tmp_path: Path) -> None:
    done = saccade("probe", "--data", lerobot, "--out", tmp_path / "out")
    assert done.code == 2
    assert not (tmp_path / "out").exists()
