import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from saccade.config import Config, from_dict
from saccade.data.cache.reader import CachedEpisodes
from saccade.data.episodes import Subset
from saccade.errors import BusyError, CheckpointError, ConfigError, DataError, Stopped
from saccade.experiments.training import encoder_of, most_moving, with_budget
from saccade.recipes import two_stream
from saccade.train import checkpoint
from saccade.train.log import Progress
from saccade.types import Encoder, Objective
from tests.conftest import held
from tests.train.toy import Shift, clip_of

DEBUG = two_stream.debug()


def stop_at(step: int) -> Callable[[Progress], None]:
    """Send SIGTERM to this process when a step is shown."""

    def watch(progress: Progress) -> None:
        if not progress.note and progress.step == step:
            signal.raise_signal(signal.SIGTERM)

    return watch


def files(folder: Path) -> dict[str, bytes]:
    names = ("experiment.json", "metrics.jsonl", "result.json", "encoder/model.safetensors")
    return {name: (folder / name).read_bytes() for name in names}


def test_a_run_leaves_what_it_promises(debug_run: Path) -> None:
    found = {path.name for path in debug_run.iterdir() if path.name[0] != "."}
    assert found == {
        *("experiment.json", "metrics.jsonl", "timing.jsonl", "result.json", "alarms.json"),
        *("checkpoints", "encoder", "best", "pictures"),
    }
    result = json.loads((debug_run / "result.json").read_text())
    assert (result["steps"], result["samples"], result["baseline"]) == (4, 32, "copy")
    assert (result["encoder_parameters"], result["trained_parameters"]) == (113_520, 167_952)
    assert result["samples_per_second"] > 0
    assert result["peak_memory_mb"] > 0
    last = json.loads((debug_run / "metrics.jsonl").read_text().splitlines()[-1])
    assert {name: last[name] for name in result["scores"]} == result["scores"]
    assert {"eval/loss", "eval/copy", "eval/ratio"} < result["scores"].keys()
    for alarm in result["alarms"]:
        assert alarm.keys() == {"name", "detail", "severity"}
    for name, path in result["pictures"].items():
        assert (debug_run / path).read_bytes().startswith(b"\x89PNG"), name


def test_the_exported_encoder_is_the_trained_one(debug_run: Path) -> None:
    saved = checkpoint.read(checkpoint.folder_of(debug_run, 4)).objective
    exported = Encoder.from_pretrained(debug_run / "encoder").state_dict()
    start = encoder_of(DEBUG.build()).state_dict()
    for name, value in exported.items():
        assert torch.equal(value, saved[f"encoder.{name}"]), name
    assert any(not torch.equal(value, start[name]) for name, value in exported.items())


def test_the_model_card_says_what_was_and_what_was_not_seen(
    debug_run: Path, tmp_path: Path
) -> None:
    card = (debug_run / "encoder" / "README.md").read_text()
    assert "`FuturePatches`" in card
    assert "on 32 samples from 8 episodes (128 frames at 10 Hz, camera front)" in card
    assert "Held-out tasks: none." in card
    assert '"law": "exponential"' in card
    assert '"sample_decay": 0.8' in card
    source = replace(DEBUG.source, held_out_tasks=("follow command 1",))
    with_budget(replace(DEBUG, source=source), samples=8, seed=0).run(tmp_path)
    card = (tmp_path / "encoder" / "README.md").read_text()
    assert "on 8 samples from 4 episodes" in card
    assert "Held-out tasks: follow command 1." in card


def test_the_settings_in_the_folder_repeat_the_run(debug_run: Path, tmp_path: Path) -> None:
    training = from_dict(json.loads((debug_run / "experiment.json").read_text()))
    assert training == DEBUG
    training.run(tmp_path)
    again, first = files(tmp_path), files(debug_run)
    for name in ("experiment.json", "metrics.jsonl", "encoder/model.safetensors"):
        assert again[name] == first[name], name


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 1), (1, 0)])
def test_a_run_that_was_stopped_and_resumed_equals_the_whole(
    quick_workers: None, debug_run: Path, tmp_path: Path, before: int, after: int
) -> None:
    """With other numbers of workers, too."""
    first, second = (
        replace(DEBUG, train=replace(DEBUG.train, workers=count)) for count in (before, after)
    )
    with pytest.raises(Stopped, match="3 of 4 steps") as caught:
        first.run(tmp_path, progress=stop_at(3))
    assert caught.value.exit_code == 75
    assert not (tmp_path / "result.json").exists()
    second.run(tmp_path, resume=True)
    for name in ("metrics.jsonl", "encoder/model.safetensors"):
        assert files(tmp_path)[name] == files(debug_run)[name], name


def test_the_seed_decides_the_weights() -> None:
    seeds = [with_budget(DEBUG, samples=8, seed=seed) for seed in (0, 1, 1)]
    weights = [encoder_of(training.build()).state_dict() for training in seeds]
    for name in ("streams.m.to_token.weight", "streams.p.to_token.weight"):
        assert not torch.equal(weights[0][name], weights[1][name])
        assert torch.equal(weights[1][name], weights[2][name])


def test_a_refused_run_changes_nothing(debug_run: Path) -> None:
    before = files(debug_run)
    other = replace(DEBUG, train=replace(DEBUG.train, lr=0.5))
    with pytest.raises(ConfigError, match="holds a run"):
        other.run(debug_run)
    with pytest.raises(CheckpointError, match=r"train\.lr: saved 0\.0003, now 0\.5"):
        other.run(debug_run, resume=True)
    with held(debug_run), pytest.raises(BusyError):
        DEBUG.run(debug_run, resume=True)
    assert files(debug_run) == before


def test_a_busy_folder_keeps_the_settings_of_its_owner(tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(BusyError, match="in use by"):
        DEBUG.run(tmp_path)
    assert not (tmp_path / "experiment.json").exists()


def test_settings_that_cannot_work_do_not_block_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lr must be above 0"):
        replace(DEBUG, train=replace(DEBUG.train, lr=0.0)).run(tmp_path)
    with pytest.raises(ConfigError, match="eval_samples is 0"):
        replace(DEBUG, eval_samples=0).run(tmp_path)
    small = with_budget(DEBUG, samples=8, seed=0)
    small.run(tmp_path)
    assert from_dict(json.loads((tmp_path / "experiment.json").read_text())) == small


def test_a_budget_changes_the_budget_only() -> None:
    changed = with_budget(DEBUG, samples=100, seed=7)
    assert (changed.train.samples, changed.train.steps, changed.train.seed) == (100, 13, 7)
    assert with_budget(changed, samples=0, seed=0).train.samples == 100
    assert with_budget(changed, samples=32, seed=0) == DEBUG


def test_pictures_show_where_most_moves() -> None:
    clip = clip_of(list(range(6)))
    clip["video"][:, 1] = clip["video"][:, 0]
    for sample, change in {4: 90, 1: 60}.items():
        clip["video"][sample, 0], clip["video"][sample, 1] = 0, change
    clip["text"] = [f"sample {i}" for i in range(6)]
    shown = most_moving([clip, clip_of([7])], 2)
    assert shown["key"].tolist() == [4, 1]
    assert shown["text"] == ["sample 4", "sample 1"]
    assert torch.equal(shown["video"], clip["video"][[4, 1]])


class Twice(Shift):
    def exports(self) -> dict[str, tuple[Encoder, Config[Encoder]]]:
        (export,) = super().exports().values()
        return {"a": export, "b": export}


@pytest.mark.parametrize(("objective", "told"), [(Objective(), r"\[\]"), (Twice(), "'a', 'b'")])
def test_one_encoder_is_exported(objective: Objective, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        encoder_of(objective)


def test_bad_samples_are_listed_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a resume finds the same ones, and lists none twice."""
    read, said = CachedEpisodes.pixels, list[str]()
    train = DEBUG.open().train
    assert isinstance(train, Subset)
    bad = train.keep[0]

    def broken(self: CachedEpisodes, episode: int, camera: str, frames: np.ndarray) -> torch.Tensor:
        if episode == bad and 5 in frames:
            raise DataError("frame 5 is damaged; fetch it again")
        return read(self, episode, camera, frames)

    monkeypatch.setattr(CachedEpisodes, "pixels", broken)
    loop = replace(DEBUG.train, samples=160, save_every=4, workers=0, eval_every=100)
    patient = replace(DEBUG, train=replace(loop, bad_samples="skip", most_bad=1.0))
    with pytest.raises(DataError, match="frame 5 is damaged"):
        replace(DEBUG, train=loop).run(tmp_path / "strict")
    with pytest.raises(Stopped):
        patient.run(tmp_path / "run", progress=stop_at(9))
    patient.run(tmp_path / "run", resume=True, report=said.append)
    patient.run(tmp_path / "whole")
    listed = (tmp_path / "run" / "bad" / "samples-rank-0.jsonl").read_text()
    assert listed == (tmp_path / "whole" / "bad" / "samples-rank-0.jsonl").read_text()
    records = [json.loads(line) for line in listed.splitlines()]
    assert records
    assert {record["episode"] for record in records} == {0}
    assert any("samples could not be read and were replaced, see" in line for line in said)
    assert files(tmp_path / "run")["metrics.jsonl"] == files(tmp_path / "whole")["metrics.jsonl"]


def test_pictures_on_the_way_change_no_number(tmp_path: Path, debug_run: Path) -> None:
    replace(DEBUG, train=replace(DEBUG.train, pictures_every=2)).run(tmp_path)
    last = {path.name for path in (debug_run / "pictures").glob("*.png")}
    for step in (2, 4):
        found = tmp_path / "pictures" / f"step-{step:08d}"
        assert {path.name for path in found.glob("*.png")} == last
    assert files(tmp_path)["metrics.jsonl"] == files(debug_run)["metrics.jsonl"]
    assert not (debug_run / "pictures" / "step-00000002").exists()


def test_a_run_begins_with_the_weights_of_another(debug_run: Path, tmp_path: Path) -> None:
    still = replace(DEBUG, init=debug_run, train=replace(DEBUG.train, samples=8, lr=1e-12, seed=5))
    result = still.run(tmp_path / "run")
    there, here = (
        Encoder.from_pretrained(run / "encoder") for run in (debug_run, tmp_path / "run")
    )
    for name, value in there.state_dict().items():
        torch.testing.assert_close(here.state_dict()[name], value, msg=name)
    assert not result["alarms"] or {a["name"] for a in result["alarms"]} <= {"trivial"}
    again = from_dict(json.loads((tmp_path / "run" / "experiment.json").read_text()))
    assert again == still


def test_weights_of_another_size_or_none_begin_nothing(debug_run: Path, tmp_path: Path) -> None:
    wide = replace(two_stream.strong_tiny(), init=debug_run, source=DEBUG.source)
    with pytest.raises(CheckpointError, match="of another shape"):
        wide.run(tmp_path / "wide")
    with pytest.raises(CheckpointError, match="nowhere"):
        replace(DEBUG, init=tmp_path / "nowhere").run(tmp_path / "none")
    assert not list((tmp_path).glob("*/metrics.jsonl"))
