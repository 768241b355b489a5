import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from saccade import sabotage
from saccade.errors import NumericError, Stopped
from saccade.train import checkpoint
from saccade.types import Clip
from tests.train import toy
from tests.train.test_engine import Interrupt, metrics


def test_accumulation_equals_the_whole_batch(tmp_path: Path) -> None:
    for slices in (1, 3):
        toy.run(tmp_path / str(slices), toy.shift(dropout=0.0), accumulate=slices)
    one, three = ([json.loads(t) for t in metrics(tmp_path / n).splitlines()] for n in "13")
    for a, b in zip(one, three, strict=True):
        assert list(a.values()) == pytest.approx(list(b.values()), rel=1e-5)


def test_mixed_precision_keeps_weights_in_float32(tmp_path: Path) -> None:
    objective = toy.shift()
    summary = toy.run(tmp_path, objective, precision="bfloat16")
    assert {p.dtype for p in objective.parameters()} == {torch.float32}
    assert summary.scores["eval/ratio"] < 1


def test_float16_finds_its_scale_and_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    objective = toy.shift()
    summary = toy.run(tmp_path / "whole", objective, precision="float16", samples=24 * 8)
    assert {p.dtype for p in objective.parameters()} == {torch.float32}
    assert summary.scores["eval/ratio"] < 1
    lines = [json.loads(text) for text in metrics(tmp_path / "whole").splitlines()]
    trained = [line["step"] for line in lines if "train/loss" in line]
    assert trained[-1] == 24
    last = checkpoint.read(checkpoint.folder_of(tmp_path / "whole", 24)).state["scale"]
    assert last == {"value": 2.0 ** (16 - 24 + len(trained)), "finite": last["finite"]}
    with pytest.raises(Stopped):
        toy.run(tmp_path / "cut", precision="float16", samples=24 * 8, progress=Interrupt(13))
    toy.run(tmp_path / "cut", precision="float16", samples=24 * 8, resume=True)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")


def test_an_overflow_of_float16_is_no_trouble_until_it_never_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(sabotage.VARIABLE, "gradient:inf@step=5")
    toy.run(tmp_path / "once", precision="float16")
    assert not (tmp_path / "once" / "bad").exists()
    monkeypatch.setenv(sabotage.VARIABLE, "gradient:inf")
    with pytest.raises(NumericError, match="step 31 has"):
        toy.run(tmp_path / "always", precision="float16", samples=40 * 8, eval_every=99)


def test_a_nan_stops_before_the_update(tmp_path: Path) -> None:
    objective = toy.Breaks(step=8)
    with pytest.raises(NumericError) as caught:
        toy.run(tmp_path, objective)
    told = str(caught.value)
    assert "step 8 has loss nan" in told
    assert "output of head" in told
    assert "[56, 57, 58, 59, 60, 61, 62, 63]" in told
    assert "last checkpoint: step 6" in told
    assert checkpoint.steps(tmp_path) == [4, 6]
    other = toy.shift(dropout=0.0)
    with pytest.raises(Stopped):
        toy.run(tmp_path / "other", other, progress=Interrupt(7))
    for (name, a), b in zip(objective.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name  # those of step 7


class Overflows(toy.Shift):
    """Its loss is finite, one gradient is not: the square root's slope at 0."""

    def terms(self, clip: Clip) -> Mapping[str, Tensor]:
        return {"pixels": super().terms(clip)["pixels"] + self.head.bias.relu().mul(0).sqrt().sum()}


def test_a_gradient_that_is_not_finite_is_named(tmp_path: Path) -> None:
    objective = Overflows()
    before = objective.head.weight.detach().clone()
    with pytest.raises(NumericError, match=r"first not finite: gradient of head\.bias"):
        toy.run(tmp_path, objective)
    assert torch.equal(objective.head.weight, before)
