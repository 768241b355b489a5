from dataclasses import replace

import pytest
import torch

from saccade.models.streams import STREAMS, StreamsConfig, Variant
from saccade.objectives.future_patches import FuturePatchesConfig
from tests.contracts import check_objective
from tests.objectives.helpers import LEAKS, SHAPE_64, batch, moved_inputs, still

TINY = FuturePatchesConfig(
    encoder=StreamsConfig(**SHAPE_64),
    decoder_dim=24,
    decoder_depth=1,
    decoder_heads=2,
)
CLIP = batch(image_size=64)


def test_contract() -> None:
    torch.manual_seed(0)
    check_objective(TINY.build(), CLIP)


@pytest.mark.parametrize("variant", sorted(set(STREAMS) - {"two_stream"}))
def test_every_variant_trains(variant: Variant) -> None:
    encoder = StreamsConfig(**SHAPE_64, variant=variant)
    check_objective(replace(TINY, encoder=encoder).build(), CLIP, leaks=LEAKS.get(variant, ()))


def test_each_stream_learns_from_its_own_loss() -> None:
    """Without exchange, a stream's loss reaches the other stream only through the fused CLS."""
    torch.manual_seed(0)
    objective = TINY.build()
    terms = objective.terms(CLIP)
    for name, other in (("m", "p"), ("p", "m")):
        objective.zero_grad()
        terms[name].backward(retain_graph=True)
        assert objective.decoders[name].get_parameter("head.weight").grad is not None
        assert objective.decoders[other].get_parameter("head.weight").grad is None
        assert objective.encoder.stream(name).to_token.weight.grad is not None


def test_the_change_embedding_is_trained() -> None:
    objective = TINY.build()
    objective(CLIP)[0].backward()
    for name in ("m", "p"):
        grad = objective.encoder.stream(name).cls.grad
        assert grad is not None
        assert grad.abs().max() > 0


def test_visible_patches_do_not_count() -> None:
    objective = TINY.build()
    masks = objective.masks(CLIP)
    guess = {name: objective.target(CLIP, frame=1) for name in masks}
    for name, mask in masks.items():
        guess[name].scatter_(1, mask.keep[..., None].expand(-1, -1, 768), 100.0)
    assert all(error == 0 for error in objective.errors(guess, masks, CLIP).values())


def test_streams_hide_their_own_share() -> None:
    masks = TINY.build().masks(CLIP)
    assert masks["m"].hide.shape[1] == 8
    assert masks["p"].hide.shape[1] == 12


def test_only_motion_sees_the_target() -> None:
    assert moved_inputs(TINY.build(), CLIP) == {"motion"}


def test_baselines_are_losses_of_guesses() -> None:
    objective = TINY.build()
    assert objective.baselines(still(CLIP))["copy"] == 0
    assert objective.baselines(CLIP)["flat"] > 0


def test_pictures_are_pictures() -> None:
    shown = TINY.build().pictures(CLIP)
    assert {"prediction m", "prediction p", "motion", "form"} <= shown.keys()
    assert all(x.shape[0] == 4 and x.shape[2:] == (64, 64) for x in shown.values())
