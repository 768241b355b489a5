"""Tiny random networks in the layout of the hub: the same features as transformers', strictly."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image
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
    DINOv3ViTConfig,
    DINOv3ViTModel,
    IJepaConfig,
    IJepaModel,
    PreTrainedModel,
    SiglipConfig,
    SiglipModel,
    VideoMAEConfig,
    VideoMAEForPreTraining,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    VJEPA2Config,
    VJEPA2Model,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from saccade.errors import CheckpointError, ConfigError
from saccade.models.hub_folder import quiet
from saccade.models.published.vision import PublishedVisionConfig
from saccade.types import Encoder
from tests.contracts import check_encoder

SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
HIDDEN: dict[str, Any] = {"intermediate_size": 32}
PICTURES: dict[str, Any] = {**SIZES, **HIDDEN, "image_size": 28, "patch_size": 7}
CLIPS: dict[str, Any] = {"tubelet_size": 2, "num_frames": 4}
MAE: dict[str, Any] = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1}
MAE |= {"decoder_num_attention_heads": 2, "decoder_intermediate_size": 16}
MEAN, STD = [0.48, 0.45, 0.4], [0.26, 0.25, 0.27]
PIXELS: dict[str, Any] = {"do_normalize": True, "image_mean": MEAN, "image_std": STD}
CROPPED = PIXELS | {"size": {"shortest_edge": 32}, "do_center_crop": True}
STRETCHED = PIXELS | {"size": {"height": 28, "width": 28}, "resample": 3}
TEXT: dict[str, Any] = {**SIZES, **HIDDEN, "vocab_size": 9}
TEXT |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
VJEPA: dict[str, Any] = {**SIZES, "crop_size": 32, "patch_size": 8, "frames_per_clip": 4}
VJEPA |= {"pred_hidden_size": 12, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 1}


class Case(NamedTuple):
    """How a hub folder of a family comes about, and who prepares its pixels in transformers."""

    make: Callable[[], PreTrainedModel]
    pixels: dict[str, Any]
    skipped: int
    processor: Any
    file: str = "preprocessor_config.json"


CASES = {
    "dinov2": Case(
        lambda: Dinov2Model(Dinov2Config(**SIZES, image_size=35, patch_size=7)),
        CROPPED | {"crop_size": {"height": 28, "width": 28}},
        1,
        BitImageProcessorPil,
    ),
    "giant": Case(
        lambda: Dinov2Model(
            Dinov2Config(**SIZES, image_size=28, patch_size=7, use_swiglu_ffn=True)
        ),
        CROPPED | {"crop_size": 28},
        1,
        BitImageProcessorPil,
    ),
    "registers": Case(
        lambda: Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(**SIZES, image_size=28, patch_size=7, num_register_tokens=3)
        ),
        CROPPED | {"crop_size": 28},
        4,
        BitImageProcessorPil,
    ),
    "dinov3": Case(
        lambda: DINOv3ViTModel(DINOv3ViTConfig(**PICTURES, num_register_tokens=2)),
        STRETCHED | {"resample": 2, "do_center_crop": None, "crop_size": None},
        3,
        ViTImageProcessorPil,  # its own needs torchvision; see test_pixels.py
    ),
    "siglip": Case(
        lambda: SiglipModel(SiglipConfig(text_config=TEXT, vision_config=PICTURES)),
        STRETCHED | {"do_rescale": True},
        0,
        SiglipImageProcessorPil,
    ),
    "clip": Case(
        lambda: CLIPModel(CLIPConfig(text_config=TEXT, vision_config=PICTURES, projection_dim=8)),
        CROPPED | {"size": 28, "crop_size": 28, "rescale_factor": 1 / 255},
        1,
        CLIPImageProcessorPil,
    ),
    "clip vision": Case(
        lambda: CLIPVisionModel(CLIPVisionConfig(**PICTURES)),
        PIXELS | {"size": 28, "do_center_crop": True, "crop_size": 28},
        1,
        CLIPImageProcessorPil,
    ),
    "mae": Case(
        lambda: ViTMAEForPreTraining(ViTMAEConfig(**PICTURES, **MAE)),
        PIXELS | {"size": 28, "resample": 3},
        1,
        ViTImageProcessorPil,
    ),
    "ijepa": Case(lambda: IJepaModel(IJepaConfig(**PICTURES)), STRETCHED, 0, ViTImageProcessorPil),
    "videomae": Case(
        lambda: VideoMAEForPreTraining(
            VideoMAEConfig(**PICTURES, **CLIPS, **MAE, use_mean_pooling=False)
        ),
        CROPPED | {"crop_size": 28},
        0,
        VideoMAEImageProcessorPil,
    ),
    "vjepa2": Case(
        lambda: VJEPA2Model(VJEPA2Config(**VJEPA)),
        CROPPED | {"size": {"shortest_edge": 36}, "crop_size": 32, "resample": 2},
        0,
        BitImageProcessorPil,  # its own needs torchvision
        "video_preprocessor_config.json",
    ),
}


def written(folder: Path, name: str) -> PreTrainedModel:
    """Write a tiny random network as the hub has it."""
    torch.manual_seed(0)
    model = CASES[name].make().eval()
    for value in model.parameters():  # some start at 0, which hides what is done with them
        value.data.add_(torch.randn_like(value), alpha=0.02)
    with quiet():
        model.save_pretrained(folder)
    (folder / CASES[name].file).write_text(json.dumps(CASES[name].pixels))
    return model


def frames(encoder: Encoder) -> Tensor:
    expected = encoder.preprocessing
    size = expected.image_size
    return torch.randint(256, (2, expected.num_frames, 3, size, size), dtype=torch.uint8)


def features_of(model: PreTrainedModel, pixels: Tensor, skipped: int) -> Tensor:
    """What transformers gives of normalised pixels, patches only."""
    if isinstance(model, VJEPA2Model):
        tokens = model(pixel_values_videos=pixels, skip_predictor=True).last_hidden_state
        return tokens.unflatten(1, (pixels.shape[1] // 2, -1))
    if isinstance(model, VideoMAEForPreTraining):
        tokens = model.videomae(pixel_values=pixels).last_hidden_state
        return tokens.unflatten(1, (pixels.shape[1] // 2, -1))
    if isinstance(model, ViTMAEForPreTraining):
        model.config.mask_ratio = 0.0
        found = model.vit(pixel_values=pixels[:, 0])  # shuffled, and put back here by its own word
        order = found.ids_restore[..., None].expand(-1, -1, 16)
        return found.last_hidden_state[:, 1:].gather(1, order)[:, None]
    network = getattr(model, "vision_model", model)
    return network(pixel_values=pixels[:, 0]).last_hidden_state[:, None, skipped:]


@pytest.mark.parametrize("name", list(CASES))
@torch.no_grad()
def test_the_same_as_transformers(name: str, tmp_path: Path) -> None:
    """Of pixels in the right size: no number differs by more than 1e-5."""
    model = written(tmp_path, name)
    encoder = PublishedVisionConfig(folder=tmp_path).build()
    video = frames(encoder)
    check_encoder(encoder, video)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    expected = features_of(model, (video / 255 - mean) / std, CASES[name].skipped)
    assert encoder(video).shape == (2, len(video[0]) // 2 or 1, 16, 16)
    torch.testing.assert_close(encoder(video), expected, atol=1e-5, rtol=1e-5)
    assert encoder.preprocessing.image_size == (32 if name == "vjepa2" else 28)
    assert encoder.edge == {"vjepa2": 36, "dinov2": 32}.get(name, encoder.edge)


@pytest.mark.parametrize("name", list(CASES))
@torch.no_grad()
def test_raw_pictures_give_the_features_of_transformers_own_processor(
    name: str, tmp_path: Path
) -> None:
    """Of tokens with deviation 1, the greatest and the mean difference, for noise of 90 x 130.

        dinov2      .0083  .0010        clip     .0110  .0007        ijepa     .0100  .0003
        giant       .0093  .0008        clip v.  .0172  .0024        videomae  .0032  .0002
        registers   .0118  .0010        siglip   .0065  .0012        vjepa2    0      0
        dinov3      .0070  .0004        mae      .0110  .0009

    This is what one grey level in 255 makes of a random network (a wrong filter: 0.5). Of
    Pillow's own squares no number differs by more than 1e-5.
    """
    model, case = written(tmp_path, name), CASES[name]
    encoder = PublishedVisionConfig(folder=tmp_path).build()
    count = encoder.preprocessing.num_frames
    raw = torch.randint(256, (1, count, 3, 90, 130), dtype=torch.uint8)
    pictures = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in raw[0]]
    scaled = case.processor(**case.pixels)(pictures, return_tensors="pt")["pixel_values"]
    scaled = (scaled if scaled.ndim == 5 else scaled[None]).float()
    expected = features_of(model, scaled, case.skipped)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    squares = ((scaled * std + mean) * 255).round().to(torch.uint8)
    torch.testing.assert_close(encoder(squares), expected, atol=1e-5, rtol=1e-5)
    apart = (encoder(encoder.prepare(raw)) - expected).abs() / expected.std()
    assert apart.max() < 0.03
    assert apart.mean() < 0.003


@pytest.mark.parametrize("name", list(CASES))
def test_low_precision_inference_mode_and_fast_attention(name: str, tmp_path: Path) -> None:
    written(tmp_path, name)
    encoder = PublishedVisionConfig(folder=tmp_path).build()
    video = frames(encoder)
    assert all(value.dtype == torch.float32 for value in encoder.parameters())
    if name != "vjepa2":
        assert encoder.network.config._attn_implementation == "sdpa"
    exact = encoder(video)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        rough = encoder(video)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().mean() < 0.03 * exact.std()


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


@pytest.mark.parametrize("name", ["siglip", "mae", "videomae", "vjepa2"])
def test_frozen_and_saved_with_all_it_needs(name: str, tmp_path: Path) -> None:
    written(tmp_path / "hub", name)
    encoder = PublishedVisionConfig(folder=tmp_path / "hub").build().train()
    video = frames(encoder)
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not encoder.network.training
    encoder.save_pretrained(tmp_path / "ours", encoder.config)
    (tmp_path / "hub" / "config.json").unlink()
    again = Encoder.from_pretrained(tmp_path / "ours")
    assert torch.equal(again(video), encoder(video))
    assert again.edge == encoder.edge


@pytest.mark.parametrize("name", list(CASES))
def test_every_weight_is_accounted_for(name: str, tmp_path: Path) -> None:
    """Each family: one weight lost, one of another shape, one too many."""
    written(tmp_path, name)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    lost = [key for key in weights if "norm" in key and not key.startswith(("text", "pred", "dec"))]
    last = lost[-1]
    part = "norm" if name == "vjepa2" else last.rpartition(".")[0].rpartition(".")[2]
    save_file({n: v for n, v in weights.items() if n != last}, file)
    with pytest.raises(CheckpointError, match=rf"1 missing: .*{part}\."):
        PublishedVisionConfig(folder=tmp_path).build()
    save_file(weights | {last: torch.ones(7)}, file)
    with pytest.raises(CheckpointError, match=rf"1 of another shape: .*{part}\.\w+ \(7,\) should"):
        PublishedVisionConfig(folder=tmp_path).build()
    prefix = last.partition(".")[0] + "." if last.startswith(("vi", "encoder.")) else ""
    save_file(weights | {f"{prefix}more": torch.ones(1)}, file)
    with pytest.raises(CheckpointError, match=r"1 left over: .*more"):
        PublishedVisionConfig(folder=tmp_path).build()


@pytest.mark.parametrize("name", ["dinov2", "registers", "mae", "ijepa", "dinov3"])
def test_names_of_weights_old_and_new(name: str, tmp_path: Path) -> None:
    """Files of the hub have the old names; those of transformers 5 in memory are read as well."""
    written(tmp_path, name)
    old = PublishedVisionConfig(folder=tmp_path).build()
    file = tmp_path / "model.safetensors"
    before = set(load_file(file))
    split = {"dinov3": "layer.1.attention.q_proj.weight"}
    assert any(split.get(name, "layer.1.attention.attention.query.weight") in key for key in before)
    save_file({k: v.clone() for k, v in old.network.state_dict().items()}, file)
    assert before != set(load_file(file))
    new = PublishedVisionConfig(folder=tmp_path).build()
    video = frames(new)
    assert torch.equal(new(video), old(video))


def test_files_from_before_safetensors(tmp_path: Path) -> None:
    written(tmp_path, "clip")
    first = PublishedVisionConfig(folder=tmp_path).build()
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    video = frames(first)
    assert torch.equal(PublishedVisionConfig(folder=tmp_path).build()(video), first(video))
    torch.save({"weights": Path("what only a pickle can hold")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be read as a CLIPVisionModel"):
        PublishedVisionConfig(folder=tmp_path).build()


def test_constants_in_old_files(tmp_path: Path) -> None:
    written(tmp_path, "clip")
    file = tmp_path / "model.safetensors"
    constant = {"vision_model.embeddings.position_ids": torch.arange(17)}
    save_file(load_file(file) | constant, file)
    PublishedVisionConfig(folder=tmp_path).build()


def test_as_many_frames_as_the_network_takes(tmp_path: Path) -> None:
    for name, count in (("ijepa", 2), ("videomae", 2)):
        written(tmp_path / name, name)
        encoder = PublishedVisionConfig(folder=tmp_path / name).build()
        with pytest.raises(ConfigError, match="frames at a time, not 2"):
            encoder(torch.zeros(1, count, 3, 28, 28, dtype=torch.uint8))
    written(tmp_path / "vjepa2", "vjepa2")
    encoder = PublishedVisionConfig(folder=tmp_path / "vjepa2", num_frames=8).build()
    assert encoder.preprocessing.num_frames == 8
    assert encoder(frames(encoder)[:, :6]).shape == (2, 3, 16, 16)


def test_another_kind_or_another_size(tmp_path: Path) -> None:
    written(tmp_path, "siglip")
    said = CASES["siglip"].pixels
    pixels = tmp_path / "preprocessor_config.json"
    pixels.write_text(json.dumps(said | {"size": 35}))
    with pytest.raises(CheckpointError, match="prepares 35 pixels, but the network takes 28"):
        PublishedVisionConfig(folder=tmp_path).build()
    pixels.unlink()
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json cannot be read"):
        PublishedVisionConfig(folder=tmp_path).build()
    (tmp_path / "config.json").write_text('{"model_type": "siglip2"}')
    with pytest.raises(CheckpointError, match="NaFlex"):
        PublishedVisionConfig(folder=tmp_path).build()
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(CheckpointError, match="'vit', not dinov2 or"):
        PublishedVisionConfig(folder=tmp_path).build()
