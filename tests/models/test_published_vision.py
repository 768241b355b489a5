"""Tiny random networks in the layout of the hub: the same features as transformers', strictly."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PreTrainedModel,
    SiglipConfig,
    SiglipModel,
)

from saccade.errors import CheckpointError
from saccade.models.published_vision import PublishedVisionConfig, read_pixels
from saccade.types import Encoder
from tests.contracts import check_encoder

SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 32}
PICTURES: dict[str, Any] = {**SIZES, "image_size": 28, "patch_size": 7}
MEAN, STD = [0.48, 0.45, 0.4], [0.26, 0.25, 0.27]
PIXELS: dict[str, Any] = {"do_normalize": True, "image_mean": MEAN, "image_std": STD}
CROPPED = PIXELS | {"size": {"shortest_edge": 32}, "do_center_crop": True}


def siglip() -> PreTrainedModel:
    text = {**SIZES, "vocab_size": 9, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return SiglipModel(SiglipConfig(text_config=text, vision_config=PICTURES))


def clip() -> PreTrainedModel:
    text = {**SIZES, "vocab_size": 9, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=PICTURES, projection_dim=8))


def clip_vision() -> PreTrainedModel:
    return CLIPVisionModel(CLIPVisionConfig(**PICTURES))


def dinov2() -> PreTrainedModel:
    return Dinov2Model(Dinov2Config(**SIZES, image_size=35, patch_size=7))


def registers() -> PreTrainedModel:
    return Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**PICTURES, num_register_tokens=3))


CASES: dict[str, tuple[Callable[[], PreTrainedModel], dict[str, Any], int]] = {
    "dinov2": (dinov2, CROPPED | {"crop_size": {"height": 28, "width": 28}}, 1),
    "registers": (registers, CROPPED | {"crop_size": 28}, 4),
    "siglip": (siglip, PIXELS | {"size": {"height": 28, "width": 28}, "do_rescale": True}, 0),
    "clip": (clip, CROPPED | {"size": 28, "crop_size": 28, "rescale_factor": 1 / 255}, 1),
    "clip vision": (clip_vision, PIXELS | {"size": 28}, 1),
}


def written(folder: Path, case: str) -> PreTrainedModel:
    make, pixels, _ = CASES[case]
    torch.manual_seed(0)
    model = make().eval()
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return model


def frames() -> Tensor:
    return torch.randint(256, (2, 1, 3, 28, 28), dtype=torch.uint8)


@pytest.mark.parametrize("case", list(CASES))
def test_the_same_as_transformers(case: str, tmp_path: Path) -> None:
    model, video = written(tmp_path, case), frames()
    encoder = PublishedVisionConfig(folder=tmp_path).build()
    check_encoder(encoder, video)
    pixels = (video[:, 0] / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(
        3, 1, 1
    )
    network = getattr(model, "vision_model", model)
    with torch.no_grad():
        tokens = network(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(encoder(video)[:, 0], tokens[:, CASES[case][2] :])
    assert encoder(video).shape == (2, 1, 16, 16)
    assert encoder.preprocessing.image_size == 28


def test_a_token_is_where_its_patch_is(tmp_path: Path) -> None:
    """CLS and registers are gone: patch (1, 2) of the embedding is token 1 * 4 + 2."""
    written(tmp_path, "registers")
    encoder = PublishedVisionConfig(folder=tmp_path).build()
    for layer in encoder.network.encoder.layer:  # without blocks a token is its patch
        layer.forward = lambda hidden, *_, **__: hidden
    black = torch.zeros(1, 1, 3, 28, 28, dtype=torch.uint8)
    spot = black.clone()
    spot[..., 7:14, 14:21] = 200
    different = (encoder(black) != encoder(spot)).any(-1)
    assert different[0, 0].nonzero().flatten().tolist() == [6]


def test_frozen_and_saved_with_all_it_needs(tmp_path: Path) -> None:
    written(tmp_path / "hub", "siglip")
    encoder, video = PublishedVisionConfig(folder=tmp_path / "hub").build().train(), frames()
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not encoder.network.training
    encoder.save_pretrained(tmp_path / "ours", encoder.config)
    (tmp_path / "hub" / "config.json").unlink()
    assert torch.equal(Encoder.from_pretrained(tmp_path / "ours")(video), encoder(video))


def test_every_weight_is_accounted_for(tmp_path: Path) -> None:
    written(tmp_path, "clip")
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    lost = "vision_model.post_layernorm.weight"
    save_file({n: v for n, v in weights.items() if n != lost}, file)
    with pytest.raises(CheckpointError, match=r"1 missing: .*post_layernorm\.weight"):
        PublishedVisionConfig(folder=tmp_path).build()
    save_file(weights | {lost: torch.ones(7)}, file)
    told = r"CLIPVisionModel: 1 of another shape: .*post_layernorm\.weight \(7,\) should be \(16,\)"
    with pytest.raises(CheckpointError, match=told):
        PublishedVisionConfig(folder=tmp_path).build()
    save_file(weights | {"vision_model.more": torch.ones(1)}, file)
    with pytest.raises(CheckpointError, match=r"1 left over: .*more"):
        PublishedVisionConfig(folder=tmp_path).build()
    constant = {"vision_model.embeddings.position_ids": torch.arange(17)}  # in old files
    save_file(weights | constant, file)
    PublishedVisionConfig(folder=tmp_path).build()


def test_another_kind_or_another_size(tmp_path: Path) -> None:
    written(tmp_path, "siglip")
    said = CASES["siglip"][1]
    pixels = tmp_path / "preprocessor_config.json"
    pixels.write_text(json.dumps(said | {"size": 35}))
    with pytest.raises(CheckpointError, match="prepares 35 pixels, but the network takes 28"):
        PublishedVisionConfig(folder=tmp_path).build()
    pixels.unlink()
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json cannot be read"):
        PublishedVisionConfig(folder=tmp_path).build()
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(CheckpointError, match="'vit', not dinov2 or"):
        PublishedVisionConfig(folder=tmp_path).build()


def test_pixels_by_hand() -> None:
    assert read_pixels(CROPPED | {"crop_size": 28}) == (28, tuple(MEAN), tuple(STD))
    plain = read_pixels({"size": 224, "do_normalize": False})
    assert plain == (224, (0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (PIXELS | {"size": 28, "rescale_factor": 1 / 127.5}, "only 1/255"),
        (PIXELS | {"size": 28, "do_rescale": False}, "only 1/255"),
        ({"size": 28, "image_mean": MEAN}, "image_std None"),
        ({"size": 28, "image_mean": 0.5, "image_std": STD}, "image_mean 0.5"),
        ({"size": 28, "image_mean": MEAN, "image_std": [1, 0, 1]}, "above 0"),
        (PIXELS | {"size": {"height": 28, "width": 30}}, "not the side of a square"),
        (PIXELS | {"size": {"shortest_edge": 28}}, "crops no square"),
        (CROPPED | {"crop_size": 40}, "resizes to 32 and crops 40"),
        (PIXELS | {"do_resize": False}, "resizes to 0 and crops 0"),
        (PIXELS, "size None"),
    ],
)
def test_pixels_that_nobody_can_know(said: dict[str, Any], told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        read_pixels(said)
