import pytest
import torch
from torch import Tensor

from saccade.errors import NumericError
from saccade.train.distributed import Ranks
from saccade.train.evaluate import evaluate, part
from saccade.types import Clip
from tests.train.toy import HELD_OUT, Shift, shift

ALONE = Ranks(0, 1, torch.device("cpu"))


def test_scores_are_means_over_samples_whatever_the_clips() -> None:
    objective = shift()
    whole, pooled = evaluate(objective, HELD_OUT, "float32", ALONE)
    singles = [part(clip, i, i + 1) for clip in HELD_OUT for i in range(len(clip["gap"]))]
    parts, _ = evaluate(objective, singles, "float32", ALONE)
    for name in whole:
        assert whole[name] == pytest.approx(parts[name], rel=1e-6), name
    assert whole["eval/ratio"] == pytest.approx(whole["eval/loss"] / whole["eval/copy"])
    assert pooled["encoder"].shape == (18, 16)
    assert objective.training


class Noisy(Shift):
    def predict(self, clip: Clip) -> Tensor:
        return super().predict(clip) + torch.randn(48)


def test_the_same_weights_get_the_same_scores() -> None:
    objective = Noisy()
    first, _ = evaluate(objective, HELD_OUT, "float32", ALONE)
    torch.rand(7)
    assert evaluate(objective, HELD_OUT, "float32", ALONE)[0] == first


def test_a_score_that_is_not_finite_stops_the_run() -> None:
    objective = shift()
    objective.head.bias.data[0] = float("nan")
    with pytest.raises(NumericError, match="eval/loss"):
        evaluate(objective, HELD_OUT, "float32", ALONE)
