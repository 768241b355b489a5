"""Encoders by name: sizes to the last parameter, and every way in which weights come or fail."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from transformers.models.videomae import modeling_videomae

from saccade.config import from_dict, to_dict
from saccade.errors import CheckpointError, ConfigError
from saccade.models.published.catalogue import ENTRIES, Entry, NamedConfig, named
from saccade.models.published.r3m import ResNet
from saccade.models.published.vision import KeptVisionConfig, PublishedVision
from saccade.types import Encoder
from tests.contracts import check_encoder
from tests.models.published.test_vision import CASES, frames, written

ASKED = """dinov2-small dinov2-base dinov2-large dinov2-giant dinov2-small-registers
dinov2-base-registers dinov2-large-registers dinov2-giant-registers dinov3-vits16 dinov3-vitb16
dinov3-vitl16 clip-vit-b32 clip-vit-b16 clip-vit-l14 siglip-base siglip-so400m siglip2-base mae-base
mae-large videomae-base ijepa-vith14 vjepa2-vitl vjepa2-vith vjepa2-vitg vc1-base vc1-large r3m-18
r3m-34 r3m-50"""


def by_hand(entry: Entry) -> int:
    """Count the parameters of a vision transformer from its sizes alone."""
    said: dict[str, Any] = dict(entry.settings)
    width, depth, patch = (
        said["hidden_size"],
        said["num_hidden_layers"],
        said["patch_size"],
    )
    hidden = said.get("intermediate_size") or round(said.get("mlp_ratio", 4) * width)
    registers = said.get("num_register_tokens", 0)
    places = (said.get("image_size", 0) // patch) ** 2
    biases = {"dinov3_vit": 3, "videomae": 3}.get(entry.kind, 4)  # keys have none
    block = 4 * width * width + biases * width + 4 * width  # attention, and two norms
    block += 2 * width * hidden + hidden + width
    if entry.kind.startswith("dinov"):
        block += 2 * width  # layer scale
    if said.get("use_swiglu_ffn"):
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
        block += 3 * width * hidden + 2 * hidden - 2 * width * 4 * width - 4 * width
    tubelet = said.get("tubelet_size", 1)
    total = depth * block + 3 * tubelet * patch * patch * width + width + 2 * width  # last norm
    return (
        total
        + {
            "dinov2": (places + 3) * width,  # positions with CLS, CLS, mask
            "dinov2_with_registers": (places + 3 + registers) * width,
            "dinov3_vit": (2 + registers) * width,  # rotary
            "clip_vision_model": (places + 2) * width + width,  # first norm; patches have no bias
            "siglip_vision_model": places * width + 0,
            "vit_mae": (places + 2) * width,
            "ijepa": places * width,
            "videomae": 0,  # sines
            "vjepa2": 0,
        }[entry.kind]
    )


def head_of_siglip(entry: Entry) -> int:
    """Count the attention that pools, which the network has besides."""
    width, hidden = entry.settings["hidden_size"], entry.settings["intermediate_size"]
    attention = 4 * width * width + 4 * width
    return width + attention + 2 * width + 2 * width * hidden + hidden + width


def test_all_that_were_asked_for_are_there() -> None:
    assert set(ASKED.split()) <= set(ENTRIES)


@pytest.mark.parametrize("name", list(ENTRIES))
def test_sizes_to_the_last_parameter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device, which needs no memory; and for transformers by a formula, too."""
    entry = ENTRIES[name]
    empty = lambda count, width: torch.zeros(1, count, width)  # noqa: E731  slow, no parameter
    monkeypatch.setattr(modeling_videomae, "get_sinusoid_encoding_table", empty)
    with torch.device("meta"):
        if entry.kind == "r3m":
            network: Any = ResNet(entry.settings["depth"])
        else:
            encoder = kept(entry).build()
            network = encoder.network
            assert encoder.embed_dim == entry.settings["hidden_size"]
    assert sum(value.numel() for value in network.parameters()) == entry.parameters
    if entry.kind != "r3m":
        head = head_of_siglip(entry) if entry.kind.startswith("siglip") else 0
        assert by_hand(entry) + head == entry.parameters


def kept(entry: Entry) -> KeptVisionConfig:
    settings, pixels = json.dumps(dict(entry.settings)), json.dumps(dict(entry.pixels))
    return KeptVisionConfig(kind=entry.kind, settings=settings, pixels=pixels)


def test_random_weights_are_always_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiny(monkeypatch, "dinov3", tmp_path)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = named("tiny", random=True), NamedConfig(name="tiny", random=True).build()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first(frames(first)[:1] * 0), second(frames(second)[:1] * 0))
    assert not any(value.requires_grad for value in first.parameters())


def test_a_whole_one(tmp_path: Path) -> None:
    """From a raw picture to tokens; saved, and opened without the hub."""
    encoder = named("dinov3-vits16", random=True)
    video = encoder.prepare(torch.randint(256, (1, 1, 3, 100, 150), dtype=torch.uint8))
    tokens = encoder(video)
    assert tokens.shape == (1, 1, 196, 384)
    assert tokens.std() > 0
    assert encoder.edge == encoder.preprocessing.image_size == 224
    assert isinstance(encoder, PublishedVision)
    encoder.save_pretrained(tmp_path, encoder.config)
    assert torch.equal(Encoder.from_pretrained(tmp_path)(video), tokens)


def test_a_config_that_survives_json() -> None:
    config = NamedConfig(name="vc1-base", weights=Path("file.pth"))
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("dinov2-basic", "dinov2-base"),
        ("DINOv2-Large", "dinov2-large"),
        ("vjepa-vitl", "vjepa2-vitl"),
        ("r3m", "r3m-18"),
    ],
)
def test_names_that_nobody_has(name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=f"no encoder is called '{name}'; there are .*{told}"):
        named(name)


def test_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("dinov3-vitb16", "r3m-50"):
        repository = ENTRIES[name].repository
        told = f"{repository} .*hf download {repository} --local-dir FOLDER` and give --weights"
        with pytest.raises(CheckpointError, match=told) as caught:
            named(name)
        assert "\n" not in str(caught.value)


def tiny(monkeypatch: pytest.MonkeyPatch, case: str, folder: Path) -> Entry:
    """Name a tiny network, and write its folder."""
    written(folder, case)
    said = json.loads((folder / "config.json").read_text())
    said = said.get("vision_config", said)
    entry = Entry(f"tiny/{case}", said["model_type"], said, CASES[case].pixels, 0, "none")
    monkeypatch.setitem(ENTRIES, "tiny", entry)
    return entry


def test_out_of_the_cache_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--tiny--registers"
    tiny(monkeypatch, "registers", place / "snapshots" / "abc")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")
    encoder = named("tiny")
    check_encoder(encoder, frames(encoder))
    again = named("tiny", weights=place / "snapshots" / "abc")
    assert torch.equal(again(frames(again)[:1] * 0), encoder(frames(encoder)[:1] * 0))


@pytest.mark.parametrize("case", ["clip", "vjepa2", "videomae"])
def test_out_of_a_folder(case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tiny(monkeypatch, case, tmp_path)
    encoder = named("tiny", weights=tmp_path)
    assert isinstance(encoder, PublishedVision)
    assert encoder.preprocessing.num_frames == {"vjepa2": 16, "videomae": 4}.get(case, 1)
    check_encoder(encoder, frames(encoder))


def test_a_folder_of_another_encoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = tiny(monkeypatch, "dinov2", tmp_path)
    other = dict(entry.settings) | {"hidden_size": 24, "num_hidden_layers": 3}
    monkeypatch.setitem(ENTRIES, "tiny", entry._replace(settings=other))
    told = "is not tiny: .* hidden_size 16, not 24; num_hidden_layers 2, not 3; .* of tiny/dinov2"
    with pytest.raises(CheckpointError, match=told):
        named("tiny", weights=tmp_path)
    with pytest.raises(CheckpointError, match="model_type 'dinov2', not 'clip_vision_model'"):
        named("clip-vit-b32", weights=tmp_path)


@pytest.mark.parametrize("case", ["dinov2", "registers", "mae"])
def test_a_file_of_the_authors(case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Here in the hub's names; ``test_official.py`` reads theirs."""
    entry = tiny(monkeypatch, case, tmp_path)
    expected = named("tiny", weights=tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    torch.save({"model": state} if case == "mae" else state, tmp_path / "weights.pth")
    found = named("tiny", weights=tmp_path / "weights.pth")
    assert torch.equal(found(frames(found)[:1] * 0), expected(frames(found)[:1] * 0))
    (tmp_path / "model.safetensors").unlink()
    monkeypatch.setitem(ENTRIES, "tiny", entry._replace(official=True))
    found = named("tiny", weights=tmp_path)  # the only file there
    assert torch.equal(found(frames(found)[:1] * 0), expected(frames(found)[:1] * 0))
    torch.save({}, tmp_path / "more.pt")
    with pytest.raises(CheckpointError, match=r"holds 2 files of weights \(more.pt, weights.pth\)"):
        named("tiny", weights=tmp_path)
    wider = dict(entry.settings) | {"hidden_size": 32}
    monkeypatch.setitem(ENTRIES, "tiny", entry._replace(settings=wider))
    with pytest.raises(CheckpointError, match=r"weights.pth, taken for tiny, does not fit"):
        named("tiny", weights=tmp_path / "weights.pth")


def test_r3m_out_of_a_file(tmp_path: Path) -> None:
    expected = named("r3m-18", random=True)
    state = {
        f"module.convnet.{k}": v for k, v in expected.get_submodule("network").state_dict().items()
    }
    torch.save({"r3m": state}, tmp_path / "pytorch_model.bin")
    found = named("r3m-18", weights=tmp_path)
    assert found.edge == 256
    video = found.prepare(torch.randint(256, (1, 1, 3, 240, 320), dtype=torch.uint8))
    assert torch.equal(found(video), expected(video))


def test_weights_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere, the weights of mae-base, does not exist"):
        named("mae-base", weights=tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="or random ones, not both"):
        named("mae-base", weights=tmp_path, random=True)
    file = tmp_path / "vitl.pt"
    torch.save({}, file)
    with pytest.raises(CheckpointError, match="vjepa2-vitl is read from a folder"):
        named("vjepa2-vitl", weights=file)
