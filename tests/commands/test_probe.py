import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from saccade.data.synthetic import SyntheticConfig
from saccade.evals.features import EncoderReader
from saccade.report.results import check_results
from tests.conftest import Outcome, write_lerobot
from tests.fixtures.libero import write_libero
from tests.models.published.test_catalogue import tiny

Saccade = Callable[..., Outcome]
QUICK = ("--probe.gaps", 1, "--probe.stride", 8, "--probe.resamples", 20)


def table(done: Outcome) -> list[str]:
    """Return what the rows of the table begin with."""
    return [line.split("│")[1].strip() for line in done.out.splitlines() if line.startswith("│")]


def test_the_table_shows_the_encoder_beside_its_floors(
    saccade: Saccade, debug_run: Path, lerobot: Path, tmp_path: Path
) -> None:
    encoder = debug_run / "encoder"
    held_out = ("--held-out-tasks", "pull it", "--camera", "front")
    done = saccade("probe", encoder, "--data", lerobot, "--out", tmp_path, *held_out, *QUICK)
    assert done.code == 0, done.err
    assert "Seen tasks, gap 1, linear readout" in done.out
    floors = {"raw pixels", "raw pixel change", "position only", "copy", "flow histogram"}
    assert {str(encoder), f"{encoder}, random init", "gradients (HOG)"} | floors == {*table(done)}
    told = " ".join(done.out.split())
    assert "Verdict: No success" in told
    assert f"On unseen tasks: {encoder} (R2" in told
    assert done.out.rstrip().endswith(f"report: {tmp_path / 'report.html'}")
    results = check_results(json.loads((tmp_path / "results.json").read_text()))
    assert results["data"]["held_out_tasks"] == ["pull it"]
    asked = results["budget"]["probe"]
    assert (asked["probes"], asked["gaps"], asked["stride"]) == (["action"], [1], 8)
    assert (tmp_path / "tables" / "summary.csv").is_file()
    assert [model.get("weights") for model in results["models"]] == [str(encoder)]


def test_unseen_scenes_are_a_split_of_their_own(
    saccade: Saccade, debug_run: Path, tmp_path: Path
) -> None:
    data, out = write_libero(tmp_path / "data", size=32), tmp_path / "out"
    asked = ("probe", debug_run, "--data", data, "--out", out, *QUICK, "--held-out-scenes")
    done = saccade(*asked, "KITCHEN_SCENE9")
    assert done.code == 3
    assert "['KITCHEN_SCENE9'] are not in the data; of its 2 the nearest are ['KITCHEN" in done.err
    told = saccade(*asked, "KITCHEN_SCENE10", "--dry-run")
    assert "episodes: train 1, select 1, test 1, unseen scenes 3" in told.out.splitlines()
    done = saccade(*asked, "KITCHEN_SCENE10")
    assert done.code == 0, done.err
    assert "1 of 1 tasks of the unseen scenes were never trained on" in done.err
    assert f"On unseen scenes: {debug_run} (R2" in " ".join(done.out.split())
    results = check_results(json.loads((out / "results.json").read_text()))
    parts = results["data"]["parts"]
    assert {name: part["episodes"] for name, part in parts.items()} == {
        "train": 1, "select": 1, "test": 1, "unseen scenes": 3,
    }  # fmt: skip
    assert results["data"].get("held_out_scenes") == ["KITCHEN_SCENE10"]
    assert results["data"].get("new_tasks") == ["close the top drawer"]
    there = [row for row in results["probes"] if row["split"] == "unseen scenes"]
    assert {row["kind"] for row in there} == {"method", "floor"}
    assert all(row["episodes"] == 3 for row in there)
    assert {pair["split"] for pair in results["paired"]} == {"test", "unseen scenes"}
    page = (out / "report.html").read_text()
    assert "held-out scenes</option>" in page
    assert "There 1 task is new too (close the top drawer)" in page


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The name ``tiny`` stands for a small DINOv2, whose hub folder this is."""
    folder = tmp_path / "weights" / "tiny"
    tiny(monkeypatch, "dinov2", folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "nothing"))
    return folder


def test_encoders_of_every_origin_and_size_share_one_table(
    saccade: Saccade, debug_run: Path, lerobot: Path, tmp_path: Path, published: Path, no_page: None
) -> None:
    named = ("tiny=random", f"tiny={published}", published, debug_run)
    done = saccade("probe", *named, "--data", lerobot, "--out", tmp_path / "out", *QUICK)
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    methods = {r["representation"] for r in results["probes"] if r["kind"] == "method"}
    folders = f"tiny={published}", str(published)
    readings = {f"{name} ({how})" for name in folders for how in ("concatenation", "difference")}
    assert methods == readings | {str(debug_run)}
    floors = {r["representation"] for r in results["probes"] if r["kind"] == "floor"}
    assert "tiny=random (difference), random weights" in floors
    assert f"tiny={published} (difference), random init" in floors
    models = {model["name"]: model for model in results["models"]}
    assert models["tiny=random"]["weights"] == "random"
    assert models["tiny=random"]["image_size"] != models[str(debug_run)]["image_size"]
    r2 = {
        r["representation"]: r["value"]
        for r in results["probes"]
        if (r["group"], r["metric"], r["frame"], r["split"]) == ("position", "r2", "camera", "test")
    }
    assert r2[f"tiny={published} (difference)"] == r2[f"{published} (difference)"]


def test_weights_of_names_come_out_of_one_folder(
    saccade: Saccade, lerobot: Path, tmp_path: Path, published: Path
) -> None:
    asked = ("--data", lerobot, "--out", tmp_path / "out", *QUICK)
    done = saccade("probe", "tiny", *asked, "--weights", published.parent)
    assert done.code == 0, done.err
    assert "tiny (concatenation)" in table(done)
    before = (tmp_path / "out" / "results.json").read_bytes()
    done = saccade("probe", "tiny", *asked, "--weights", lerobot)
    assert (done.code, "has neither a folder tiny nor a file" in done.err) == (4, True), done.err
    done = saccade("probe", "tiny", *asked)
    assert (done.code, "tiny" in done.err) == (4, True), done.err
    done = saccade("probe", "tinny", *asked)
    assert (done.code, "no encoder is called 'tinny'; there are tiny" in done.err) == (2, True)
    done = saccade("probe", f"tiny={tmp_path / 'none'}", *asked)
    assert (done.code, "does not exist" in done.err) == (4, True)
    assert (tmp_path / "out" / "results.json").read_bytes() == before


def test_a_run_and_its_encoder_are_one(
    saccade: Saccade, debug_run: Path, lerobot: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = saccade("probe", debug_run, debug_run / "encoder", "--data", lerobot, "--out", out)
    assert (done.code, "each once" in done.err) == (2, True)
    assert not out.exists()


def calls(monkeypatch: pytest.MonkeyPatch, most: int = 0) -> list[int]:
    """Count the clips of every batch that is encoded; Ctrl-C comes after ``most`` batches."""
    seen: list[int] = []
    encode = EncoderReader.encode

    def counted(self: EncoderReader, video: torch.Tensor, cells: bool = False) -> Any:
        if most and len(seen) == most:
            raise KeyboardInterrupt
        seen.append(len(video))
        return encode(self, video, cells)

    monkeypatch.setattr(EncoderReader, "encode", counted)
    return seen


def test_what_is_encoded_is_kept_over_a_kill_and_for_other_questions(
    saccade: Saccade,
    debug_run: Path,
    lerobot: Path,
    tmp_path: Path,
    no_page: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "cache"))
    asked = (
        "probe",
        debug_run,
        "--data",
        lerobot,
        "--out",
        tmp_path / "out",
        "--probe.resamples",
        20,
    )
    told = saccade(*asked, "--probe.gaps", 1, 2, "--dry-run")
    assert told.code == 0
    foretold = int(re.findall(r": ([\d,]+) clips to encode, about", told.out)[0].replace(",", ""))
    assert foretold > 100
    assert re.search(r"in all about [\d.]+ minutes on one core and \d+ MB", told.out)
    assert not (tmp_path / "out").exists()
    with monkeypatch.context() as patch:
        first = calls(patch, most=3)
        killed = saccade(*asked, "--probe.gaps", 1, 2)
    assert killed.code == 130
    assert not (tmp_path / "out").exists()
    with monkeypatch.context() as patch:
        rest = calls(patch)
        done = saccade(*asked, "--probe.gaps", 1, 2)
    assert done.code == 0, done.err
    assert sum(first) + sum(rest) == 2 * foretold, "each clip once, of the encoder and its twin"
    with monkeypatch.context() as patch:
        again = calls(patch)
        fewer = saccade(*asked, "--probe.gaps", 2, "--probe.readouts", "linear", "mlp")
    assert fewer.code == 0, fewer.err
    assert not again
    told = saccade(*asked, "--dry-run", "--probe.gaps", 1)
    assert "0 clips to encode" in told.out


def test_progress_tells_the_rate_and_what_is_left(
    saccade: Saccade,
    debug_run: Path,
    lerobot: Path,
    tmp_path: Path,
    no_page: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path))
    monkeypatch.setattr("saccade.progress.PATIENCE", 0.0)
    monkeypatch.setattr("saccade.progress.RELOG", 0.0)
    asked = ("--data", lerobot, "--out", tmp_path / "out", *QUICK, "--probe.stride", 1)
    done = saccade("probe", debug_run, *asked)
    assert re.search(r"^encoding: \d+ of \d+ clips \(\d+ %\), .* clips/s, .* left$", done.err, re.M)
    assert re.search(r"^asking: \d+ of 9 questions \(100 %\)", done.err, re.M)


def test_another_data_set_is_reported_on_under_its_name(
    saccade: Saccade,
    debug_run: Path,
    lerobot: Path,
    tmp_path: Path,
    no_page: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.conftest.SyntheticConfig", partial(SyntheticConfig, seed=1))
    other = write_lerobot(tmp_path / "other", ("shove it",))
    asked = ("probe", debug_run, "--data", lerobot, "--out", tmp_path / "out", *QUICK)
    done = saccade(*asked, "--transfer", f"elsewhere={other}")
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {row["split"] for row in results["probes"]} == {"test", "elsewhere"}
    assert results["data"]["parts"]["elsewhere"] == {"episodes": 6, "frames": 96}
    assert "On the data set elsewhere: " in " ".join(done.out.split())
    done = saccade(*asked, "--transfer", f"test={other}")
    assert (done.code, "cannot be called 'test'" in done.err) == (2, True)
    done = saccade(*asked, "--transfer", lerobot)
    assert (done.code, "toy is the data set itself" in done.err) == (3, True)


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


def test_what_is_missing_is_told(
    saccade: Saccade, debug_run: Path, lerobot: Path, tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "out")
    done = saccade("probe", "--data", lerobot, *out)
    assert (done.code, "name one or more" in done.err) == (2, True)
    done = saccade("probe", debug_run, *out)
    assert (done.code, "--data is missing" in done.err) == (2, True)
    done = saccade("probe", tmp_path / "none", "--data", lerobot, *out)
    assert (done.code, "holds no config.json" in done.err) == (4, True)
    assert not (tmp_path / "out").exists()


def test_the_published_encoders_are_listed(saccade: Saccade) -> None:
    done = saccade("probe", "--list")
    assert done.code == 0
    for said in ("dinov2-base", "facebook/dinov2-base", "apache-2.0", "r3m-18"):
        assert said in done.out
