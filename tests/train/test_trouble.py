import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from saccade import sabotage
from saccade.errors import NumericError, Stopped
from saccade.train import checkpoint
from tests.train import toy
from tests.train.test_engine import Interrupt, final_state, metrics


def weights(run_dir: Path, step: int) -> Mapping[str, torch.Tensor]:
    return checkpoint.read(checkpoint.folder_of(run_dir, step)).objective


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a.keys() | b.keys())


@pytest.mark.parametrize("fault", ["loss:nan", "gradient:inf", "loss:inf"])
def test_a_batch_is_skipped_without_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setenv(sabotage.VARIABLE, f"{fault}@step=8")
    watcher = Interrupt(-1)
    toy.run(tmp_path, on_nan="skip", save_every=1, keep=99, progress=watcher)
    assert same(weights(tmp_path, 7), weights(tmp_path, 8))  # what a forward pass moves too
    assert not same(weights(tmp_path, 8), weights(tmp_path, 9))
    lines = [json.loads(line) for line in metrics(tmp_path).splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == [*range(1, 8), *range(9, 13)]
    (note,) = (note for note in watcher.notes if "step 8 has loss" in note)
    assert "going on without it (1 of at most 10)" in note
    told = json.loads((tmp_path / "bad" / "step-00000008.json").read_text())
    assert told["step"] == 8
    assert told["samples"]["key"] == list(range(56, 64))


def test_a_run_that_skips_resumes_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(sabotage.VARIABLE, "loss:nan@step=8")
    toy.run(tmp_path / "whole", on_nan="skip")
    for step in (7, 10):
        run_dir = tmp_path / str(step)
        with pytest.raises(Stopped):
            toy.run(run_dir, on_nan="skip", progress=Interrupt(step))
        toy.run(run_dir, on_nan="skip", resume=True)
        assert metrics(run_dir) == metrics(tmp_path / "whole")
        assert final_state(run_dir) == final_state(tmp_path / "whole")


def test_a_run_goes_on_behind_with_the_weights_of_the_newest_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(sabotage.VARIABLE, "loss:nan@step=8")
    toy.run(tmp_path, on_nan="rewind", keep=99)
    assert checkpoint.steps(tmp_path)[-4:] == [6, 8, 9, 12]
    assert same(weights(tmp_path, 6), weights(tmp_path, 8))


def test_there_is_a_most_that_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sabotage.VARIABLE, "loss:nan")
    with pytest.raises(NumericError, match=r"step 3 has loss nan.*not made after 2 others"):
        toy.run(tmp_path / "skip", on_nan="skip", most_skipped=2)
    with pytest.raises(NumericError, match=r"step 1 has loss nan.*last checkpoint: none yet"):
        toy.run(tmp_path / "rewind", on_nan="rewind")


@pytest.mark.parametrize(("factor", "ends"), [(20.0, 60), (0.0, 0), (200.0, 0)])
def test_a_leap_of_the_loss_is_trouble_where_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, ends: int
) -> None:
    monkeypatch.setenv(sabotage.VARIABLE, "loss:spike=100@step=5;loss:spike=100@step=60")
    settings = {"samples": 64 * 8, "eval_every": 100, "save_every": 100, "spike": factor}
    if not ends:
        toy.run(tmp_path, **settings)
        return
    with pytest.raises(NumericError, match=f"step {ends} has loss .*; above 20 times its mean"):
        toy.run(tmp_path, **settings)
