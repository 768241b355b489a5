from dataclasses import replace

import pytest
import torch

from saccade.models.streams import STREAMS, StreamsConfig, Variant
from saccade.objectives.future_pixels import FuturePixelsConfig, gap_weight, pair
from tests.contracts import check_objective
from tests.objectives.helpers import LEAKS, SHAPE, batch, moved_inputs, still

TINY = FuturePixelsConfig(encoder=StreamsConfig(**SHAPE), width=64)


def test_contract() -> None:
    torch.manual_seed(0)
    check_objective(TINY.build(), batch())


@pytest.mark.parametrize("variant", sorted(set(STREAMS) - {"two_stream"}))
def test_every_variant_trains(variant: Variant) -> None:
    film = "intermediate" if variant == "no_exchange" else "none"
    encoder = StreamsConfig(variant=variant, **SHAPE)
    objective = replace(TINY, encoder=encoder, cls_source=film).build()
    check_objective(objective, batch(), leaks=LEAKS.get(variant, ()))


@pytest.mark.parametrize(
    "change", [{"cls_source": "final"}, {"cls_source": "none"}, {"skip": False}]
)
def test_every_decoder_ablation_trains(change: dict[str, object]) -> None:
    check_objective(replace(TINY, **change).build(), batch())


def test_the_weight_belongs_to_the_sample() -> None:
    torch.manual_seed(0)
    objective, clip = TINY.build(), batch()
    guess = torch.rand(4, 3, 32, 32)
    error = [((guess[i] - pair(clip)[i, 1].float() / 255) ** 2).mean() for i in range(4)]
    weight = torch.exp(-0.5 * (clip["gap"] - 1.0))
    expected = sum(w * e for w, e in zip(weight, error, strict=True)) / 4
    torch.testing.assert_close(objective.weighted(guess, clip), expected)
    assert len(set(clip["gap"].tolist())) > 1  # or the test shows nothing


def test_weights_by_hand() -> None:
    torch.testing.assert_close(
        gap_weight(torch.tensor([1, 2, 3]), 0.5), torch.tensor([1.0, 0.60653, 0.36788])
    )


def test_copying_is_scored_like_a_prediction() -> None:
    objective, clip = TINY.build(), batch()
    now = pair(clip)[:, 0].float() / 255
    assert objective.baselines(clip)["copy"] == objective.weighted(now, clip)
    assert objective.baselines(still(clip))["copy"] == 0


def test_only_the_negative_control_sees_the_target() -> None:
    clip = batch()
    assert moved_inputs(TINY.build(), clip) == {"motion"} == TINY.build().sees_target
    control = replace(
        TINY, encoder=StreamsConfig(variant="six_channel", **SHAPE), cls_source="none"
    )
    assert moved_inputs(control.build(), clip) == {"later"}


def test_pictures_are_pictures() -> None:
    for name, picture in TINY.build().pictures(batch()).items():
        assert picture.shape[0] == 4, name
        assert picture.shape[1] in (1, 3), name
        assert 0 <= picture.min() <= picture.max() <= 1, name
