import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from saccade.config import from_dict
from saccade.data.lerobot.reader import LeRobotConfig
from saccade.models.streams import StreamsConfig
from saccade.train import sync
from saccade.train.sync import Sync
from tests.conftest import Outcome, held
from tests.data.remote.conftest import moto, proxy
from tests.fixtures.fault_proxy import FaultProxy

__all__ = ["moto", "proxy"]  # fixtures

Saccade = Callable[..., Outcome]


def settings(folder: Path) -> Any:
    return from_dict(json.loads((folder / "experiment.json").read_text()))


def test_a_run_tells_its_result_and_where_the_encoder_is(
    saccade: Saccade, tmp_path: Path, lerobot: Path
) -> None:
    out = tmp_path / "run"
    done = saccade("train", "video_mae:debug", "--out", out, "--data", lerobot)
    assert done.code == 0
    result = json.loads((out / "result.json").read_text())
    ratio = f"{result['scores']['eval/ratio']:.2f} x that of the {result['baseline']} baseline"
    assert done.out.startswith("32 samples; held-out loss ")
    assert ratio in done.out
    assert f"encoder: {out / 'encoder'}\n" in done.out
    assert "step 4/4" in done.err
    assert settings(out).source.episodes == LeRobotConfig(root=str(lerobot))


def test_every_field_is_an_option(saccade: Saccade, tmp_path: Path) -> None:
    options = [
        "--objective.encoder.variant",
        "m_only",
        "--train.samples",
        "8",
        "--window.max-gap",
        "3",
    ]
    done = saccade("train", "two_stream:debug", "--out", tmp_path, *options)
    assert done.code == 0
    training = settings(tmp_path)
    assert training.objective.encoder.variant == "m_only"
    assert (training.train.samples, training.window.max_gap) == (8, 3)
    exported = from_dict(json.loads((tmp_path / "encoder" / "config.json").read_text())["model"])
    assert isinstance(exported, StreamsConfig)
    assert exported.variant == "m_only"


@pytest.mark.parametrize(
    "options",
    [
        ["--train.sampels", "8"],
        ["--train.samples", "many"],
        ["--objective.encoder.variant", "both"],
        ["stray"],
    ],
)
def test_a_wrong_option_ends_before_anything_is_written(
    saccade: Saccade, tmp_path: Path, options: list[str]
) -> None:
    out = tmp_path / "run"
    done = saccade("train", "two_stream:debug", "--out", out, *options)
    assert done.code == 2
    assert options[-1] in done.err or options[0] in done.err
    assert not out.exists()


def test_a_dry_run_shows_sizes_and_writes_nothing(
    saccade: Saccade, tmp_path: Path, cache: Path
) -> None:
    before = sorted(cache.iterdir())
    out = tmp_path / "run"
    done = saccade("train", "two_stream:original_base", "--out", out, "--dry-run")
    assert done.code == 0
    assert "(186,362,880 in the encoder)" in done.out
    assert "for 83,334 steps of 24 samples" in done.out
    assert "weight decay 0.01 on 190,553,792 of them, in 120 matrices; none on 573,219" in done.out
    assert '"law": "exponential"' in done.out
    assert not out.exists()
    assert sorted(cache.iterdir()) == before


def test_a_dry_run_says_what_a_checkpoint_takes(
    saccade: Saccade, tmp_path: Path, debug_run: Path
) -> None:
    done = saccade("train", "two_stream:debug", "--out", tmp_path, "--dry-run")
    told = float(done.out.rpartition("a checkpoint takes ")[2].partition(" MB")[0])
    files = (debug_run / "checkpoints" / "step-00000004").glob("*.safetensors")
    assert told == pytest.approx(sum(path.stat().st_size for path in files) / 1e6, rel=0.05)


def test_a_run_is_resumed_or_replaced_only_when_told(saccade: Saccade, tmp_path: Path) -> None:
    command = ["train", "single_stream:debug", "--train.samples", 8, "--out", tmp_path / "run"]
    assert saccade(*command).code == 0
    result = tmp_path / "run" / "result.json"
    before = result.stat().st_mtime_ns
    refused = saccade(*command)
    assert refused.code == 2
    assert "holds a run; resume it or choose another folder" in refused.err
    assert result.stat().st_mtime_ns == before
    resumed = saccade(*command, "--resume")
    assert resumed.code == 0
    assert "resumed from step 1 of 1" in resumed.err
    with held(tmp_path / "run"):
        assert saccade(*command, "--overwrite").code == 8
    assert result.exists()
    (tmp_path / "run" / "stray").touch()
    assert saccade(*command, "--overwrite").code == 0
    assert not (tmp_path / "run" / "stray").exists()


def test_without_a_recipe_the_recipes_are_listed(saccade: Saccade, tmp_path: Path) -> None:
    for args, code in ([], 2), (["--out", tmp_path / "run"], 2), (["--help"], 0):
        done = saccade("train", *args)
        assert done.code == code
        assert "two_stream:strong_tiny" in done.out
        assert "Demonstration size" in done.out
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_a_world_model_estimates_its_memory(saccade: Saccade, tmp_path: Path) -> None:
    done = saccade("train", "vjepa2_ac:debug", "--out", tmp_path / "run", "--dry-run")
    assert done.code == 0
    assert "for 6 steps of 8 samples" in done.out
    assert "one GPU would hold about 1.0" in done.out
    assert "without checkpoint-activations" in done.out
    assert not (tmp_path / "run").exists()


def test_a_missing_base_is_told_before_anything_else(
    saccade: Saccade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for options in (["--dry-run"], []):
        done = saccade("train", "vjepa2_ac:lora", "--out", tmp_path / "run", *options)
        assert done.code == 4
        assert done.err.startswith("error[4]: there is no world model at models/vjepa2-ac-vitg")
        assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_run_is_copied_and_the_machine_turned_off_only_then(
    saccade: Saccade, tmp_path: Path, moto: Any, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setattr(sync, "PATIENCE", dict.fromkeys(sync.PATIENCE, 1.0))
    monkeypatch.setenv("SACCADE_REMOTE_TIMEOUT", "0.3")
    off = tmp_path / "off"
    told = ("--sync", "s3://robots/run", "--sync-every", "1s", "--shutdown-command", f"touch {off}")
    run = ("train", "two_stream:debug", "--train.samples", "16")
    assert saccade(*run, "--out", tmp_path / "a", *told[4:]).code == 2
    done = saccade(*run, "--out", tmp_path / "a", *told)
    assert done.code == 0, done.err
    assert "all of the run is in s3://robots/run; running: touch" in done.err
    assert off.exists()
    off.unlink()
    again = saccade("runs", "sync", tmp_path / "a", "s3://robots/run")
    assert again.out == f"s3://robots/run has all of {tmp_path / 'a'}; 0.0 MB were new\n"
    there = ("--sync", "s3://robots/lost", *told[2:])

    def cut(self: Sync, patience: float) -> str:
        proxy.down = True
        return finish(self, patience)

    finish = Sync._finish
    monkeypatch.setattr(Sync, "_finish", cut)
    lost = saccade(*run, "--out", tmp_path / "b", *there)
    assert lost.code == 3
    assert "the run is done and saved in" in lost.err
    assert "so this is not run: touch" in lost.err
    assert not off.exists()
    late = ("--sync", "s3://x/y", "--sync-every", "soon")
    assert saccade(*run, "--out", tmp_path / "c", *late).code == 2
