"""Files of the Hugging Face hub: what transformers computes from them, we compute."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from saccade.checkpoint import CONFIG, WEIGHTS
from saccade.errors import CheckpointError
from saccade.models.vjepa2.encoder import normalise
from saccade.models.vjepa2.published import DEFAULTS, PublishedVJepa2Config
from saccade.types import Encoder
from tests.contracts import check_encoder

SIZES = {
    "crop_size": 32,
    "frames_per_clip": 4,
    "patch_size": 8,
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "mlp_ratio": 48 / 11,
    "pred_hidden_size": 24,
    "pred_num_attention_heads": 2,
    "pred_num_hidden_layers": 1,
}


def write(folder: Path, **changes: Any) -> transformers.VJEPA2Model:
    torch.manual_seed(0)
    model = transformers.VJEPA2Model(transformers.VJEPA2Config(**(SIZES | changes)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return model.eval()


def load(folder: Path) -> Encoder:
    return PublishedVJepa2Config(source=str(folder), dtype="float32").build()


@pytest.fixture
def video() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(256, (2, 4, 3, 32, 32), dtype=torch.uint8)


@pytest.mark.parametrize(
    "changes", [{}, {"num_attention_heads": 4}, {"patch_size": 16, "mlp_ratio": 4.0}]
)
def test_transformers_computes_the_same(
    tmp_path: Path, video: torch.Tensor, changes: dict[str, Any]
) -> None:
    model = write(tmp_path, **changes)
    encoder = load(tmp_path)
    with torch.no_grad():
        expected = model(normalise(video), skip_predictor=True).last_hidden_state
        torch.testing.assert_close(encoder(video).flatten(1, 2), expected, rtol=0, atol=1e-5)
    check_encoder(encoder, video)
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_one_frame_is_repeated_as_transformers_does(tmp_path: Path, video: torch.Tensor) -> None:
    model = write(tmp_path)
    encoder = PublishedVJepa2Config(source=str(tmp_path), frames="each", dtype="float32").build()
    with torch.no_grad():
        expected = model(normalise(video[:, :1]), skip_predictor=True).last_hidden_state
        torch.testing.assert_close(encoder(video)[:, 0], expected, rtol=0, atol=1e-5)


def test_options(tmp_path: Path) -> None:
    write(tmp_path)
    config = PublishedVJepa2Config(source=str(tmp_path), num_frames=8, trainable=True)
    encoder = config.build()
    assert encoder.config.num_frames == 8
    assert encoder.norm.weight.dtype == torch.bfloat16
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert load(tmp_path).preprocessing.num_frames == 4


def test_shards_and_classifiers(tmp_path: Path, video: torch.Tensor) -> None:
    model = write(tmp_path / "one")
    model.save_pretrained(tmp_path / "shards", max_shard_size="200KB")
    assert not (tmp_path / "shards" / WEIGHTS).exists()
    config = transformers.VJEPA2Config(**SIZES, num_pooler_layers=1)
    classifier = transformers.VJEPA2ForVideoClassification(config)
    classifier.vjepa2.load_state_dict(model.state_dict())
    classifier.save_pretrained(tmp_path / "classifier")
    expected = load(tmp_path / "one")(video)
    for folder in ("shards", "classifier"):
        assert torch.equal(load(tmp_path / folder)(video), expected)


def test_saved_as_one_of_ours(tmp_path: Path, video: torch.Tensor) -> None:
    write(tmp_path / "hub")
    encoder = PublishedVJepa2Config(source=str(tmp_path / "hub"), dtype="float32").build()
    encoder.save_pretrained(tmp_path / "ours", encoder.config)
    assert torch.equal(Encoder.from_pretrained(tmp_path / "ours")(video), encoder(video))


def test_defaults_are_those_of_transformers() -> None:
    theirs = transformers.VJEPA2Config().to_dict()
    assert {name: theirs[name] for name in DEFAULTS} == DEFAULTS


def reconfigure(change: dict[str, Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    return apply


def reweight(drop: str, add: str = "") -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        weights = {name: value.clone() for name, value in weights.items() if drop not in name}
        extra = {add: torch.zeros(2)} if add else {}
        save_file(weights | extra, folder / WEIGHTS)

    return apply


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (reconfigure({"model_type": "vit"}), "of model_type 'vit', not 'vjepa2'"),
        (reconfigure({"layer_norm_eps": 1e-5}), "layer_norm_eps 1e-05; the V-JEPA 2 encoder has"),
        (reconfigure({"hidden_act": "silu"}), "hidden_act 'silu'"),
        (reconfigure({"patch_size": [8, 8]}), "not a whole number"),
        (reconfigure({"hidden_size": 1408, "num_attention_heads": 16}), "1408 have 22"),
        (reconfigure({"num_hidden_layers": 2}), "12 left over"),
        (reweight("layer.1.attention.key.bias"), "lacks the key of blocks.1.attn.qkv.bias"),
        (reweight("encoder.layernorm.bias"), "1 missing: norm.bias"),
        (reweight("never", add="encoder.img_mod_embed"), "1 left over: encoder.img_mod_embed"),
        (lambda folder: (folder / CONFIG).unlink(), "config.json cannot be read"),
        (lambda folder: (folder / CONFIG).write_text("[]"), "config.json cannot be read"),
        (lambda folder: (folder / WEIGHTS).unlink(), "lacks model.safetensors"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"0" * 99), "is damaged"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], told: str
) -> None:
    write(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=told):
        load(tmp_path)


def test_a_name_that_the_hub_cannot_serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("facebook/vjepa2-vitl-fpc64-256", "no/such/name", "~"):
        with pytest.raises(CheckpointError, match=f"{name} is neither a folder nor to be had"):
            PublishedVJepa2Config(source=name).build()


def test_the_cache_of_the_hub_is_enough(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, video: torch.Tensor
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    cache, commit = tmp_path / "models--facebook--vjepa2-tiny", "0" * 40
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    write(cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    encoder = PublishedVJepa2Config(source="facebook/vjepa2-tiny", dtype="float32").build()
    assert torch.equal(encoder(video), load(cache / "snapshots" / commit)(video))
