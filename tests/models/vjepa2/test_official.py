"""Official files: the two kinds of prefix, the choice of an encoder, and everything strict."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saccade.checkpoint import CARD, CONFIG, WEIGHTS
from saccade.errors import CheckpointError
from saccade.models.vjepa2.encoder import VJepa2, VJepa2Config
from saccade.models.vjepa2.official import (
    RELEASES,
    convert_encoder,
    infer_config,
    load_encoder,
    read_parts,
)
from saccade.types import Encoder

TINY = VJepa2Config(image_size=32, num_frames=4, patch=8, dim=28, depth=2, heads=2, mlp=52)
OPTIONS: dict[str, Any] = {"heads": 2, "image_size": 32, "num_frames": 4}


def state(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {name: torch.randn_like(value) for name, value in TINY.build().state_dict().items()}


def prefixed(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in weights.items()}


def write(file: Path, prefix: str, **extra: Any) -> Path:
    """Write what the official training writes, with two different encoders."""
    content = {
        "encoder": prefixed(state(0), prefix),
        "target_encoder": prefixed(state(1), prefix),
        "predictor": prefixed({"predictor_norm.weight": torch.ones(3)}, prefix),
        "opt": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3}]},
        "scaler": None,
        "epoch": 315,
        "loss": 0.5,
        "batch_size": 8,
        "world_size": 32,
        "lr": 4e-4,
    }
    torch.save(content | extra, file)
    return file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "tiny.pt", "module.")


@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone.", "module.module.backbone."])
@pytest.mark.parametrize(("part", "seed"), [("encoder", 0), ("target_encoder", 1)])
def test_each_encoder_behind_each_prefix(tmp_path: Path, prefix: str, part: Any, seed: int) -> None:
    file = write(tmp_path / "tiny.pt", prefix)
    encoder = load_encoder(file, part, **OPTIONS, dtype=torch.float32)
    assert encoder.config == TINY
    assert not encoder.training
    expected = state(seed)
    assert encoder.state_dict().keys() == expected.keys()
    assert all(torch.equal(v, expected[k]) for k, v in encoder.state_dict().items())


def test_weights_are_bfloat16_unless_asked_otherwise(file: Path) -> None:
    encoder = load_encoder(file, "encoder", **OPTIONS)
    assert {value.dtype for value in encoder.state_dict().values()} == {torch.bfloat16}
    rounded = state(0)["norm.weight"].to(torch.bfloat16)
    assert torch.equal(encoder.norm.weight, rounded)


def test_parts(file: Path) -> None:
    parts = read_parts(file, ("target_encoder", "predictor"))
    assert list(parts) == ["target_encoder", "predictor"]
    assert list(parts["predictor"]) == ["predictor_norm.weight"]
    with pytest.raises(CheckpointError, match=r"no part 'ema_encoder'; it has encoder, target_enc"):
        read_parts(file, ("ema_encoder",))


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    """The optimiser's part may be damaged, or larger than memory, without anybody noticing."""

    huge = torch.zeros(30_000_000)
    file = write(tmp_path / "tiny.pt", "module.", opt={"exp_avg": huge})
    resident = int(Path("/proc/self/statm").read_text().split()[1])
    parts = read_parts(file, ("encoder",))
    grown = (int(Path("/proc/self/statm").read_text().split()[1]) - resident) * 4096
    assert grown < huge.nbytes / 4
    assert parts


def test_the_position_table_of_pretraining_files_is_ignored(tmp_path: Path) -> None:
    extra = prefixed(state(0) | {"pos_embed": torch.zeros(1, 8, 28)}, "module.backbone.")
    file = write(tmp_path / "tiny.pt", "module.backbone.", encoder=extra)
    assert load_encoder(file, "encoder", **OPTIONS).config == TINY


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"norm.weight": None}, "1 missing: norm.weight"),
        ({"blocks.1.attn.qkv.bias": None}, "1 missing: blocks.1.attn.qkv.bias"),
        ({"cls_token": torch.zeros(3)}, "1 left over: cls_token"),
        ({"norm.weight": torch.zeros(3)}, r"norm.weight \(3,\) should be \(28,\)"),
        ({"blocks.5.norm1.bias": torch.zeros(28)}, "left over: blocks.5.norm1.bias"),
        ({"patch_embed.proj.weight": None}, "no V-JEPA 2 video encoder"),
        ({"patch_embed.proj.weight": torch.zeros(28, 3, 8, 8)}, "not a tensor of 5 axes"),
        ({"module.norm.bias": torch.zeros(28)}, "two tensors for norm.bias"),
    ],
)
def test_every_tensor_is_accounted_for(
    tmp_path: Path, change: dict[str, Tensor | None], told: str
) -> None:
    weights = {k: v for k, v in (state(0) | change).items() if v is not None}
    file = write(tmp_path / "tiny.pt", "", encoder=weights)
    with pytest.raises(CheckpointError, match=told):
        load_encoder(file, "encoder", **OPTIONS)


@pytest.mark.parametrize(
    ("dim", "heads", "expected"), [(1024, None, 16), (1280, None, 16), (1408, None, 22), (28, 2, 2)]
)
def test_heads_of_the_published_widths(dim: int, heads: int | None, expected: int) -> None:
    weights = {
        "patch_embed.proj.weight": torch.empty(dim, 3, 2, 16, 16, device="meta"),
        "blocks.0.mlp.fc1.weight": torch.empty(4 * dim, dim, device="meta"),
    }
    assert infer_config(weights, heads, "x") == VJepa2Config(
        dim=dim, heads=expected, depth=1, mlp=4 * dim
    )


@pytest.mark.parametrize(
    ("dim", "heads", "told"),
    [(1408, 16, "have 22 heads, and 16 would load but compute wrong"), (28, None, "give heads")],
)
def test_wrong_or_unknown_heads_are_refused(dim: int, heads: int | None, told: str) -> None:
    weights = {
        "patch_embed.proj.weight": torch.empty(dim, 3, 2, 16, 16, device="meta"),
        "blocks.0.mlp.fc1.weight": torch.empty(4 * dim, dim, device="meta"),
    }
    with pytest.raises(CheckpointError, match=told):
        infer_config(weights, heads, "x")


def test_the_size_of_frames_is_known_by_the_name_of_the_file(tmp_path: Path, file: Path) -> None:
    options: dict[str, Any] = {"heads": 2}
    with pytest.raises(CheckpointError, match="image_size is unknown: give it"):
        load_encoder(file, "encoder", **options)
    renamed = file.rename(tmp_path / "vitg-384.pt")
    assert load_encoder(renamed, "encoder", **options).config.image_size == 384


@pytest.mark.parametrize("name", RELEASES)
def test_an_absent_file_says_where_to_get_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(CheckpointError) as caught:
        load_encoder(path, "target_encoder")
    told = str(caught.value)
    assert f"curl -L -o {path} https://dl.fbaipublicfiles.com/vjepa2/{name}" in told
    assert RELEASES[name].size in told


def test_an_absent_file_of_an_unknown_name_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"vjepa2-ac-vitg.pt \(11.7 GB\)"):
        load_encoder(tmp_path / "my.pt", "encoder")


class Custom:
    """What an honest file does not hold."""


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "object", "tensor", "numbers", "folder"])
def test_other_files_are_refused_in_a_sentence(file: Path, kind: str) -> None:
    data = file.read_bytes()
    if kind == "folder":
        file.unlink()
        file.mkdir()
    elif kind in ("cut", "empty", "text"):
        file.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "text": b"<html>"}[kind])
    else:
        torch.save(
            {"object": Custom(), "tensor": torch.ones(2), "numbers": {"encoder": 1}}[kind], file
        )
    with pytest.raises(CheckpointError) as caught:
        load_encoder(file, "encoder", **OPTIONS)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_converted_once(tmp_path: Path, file: Path) -> None:
    folder = tmp_path / "encoder"
    options = OPTIONS | {"frames": "each", "num_frames": 3}
    made = convert_encoder(file, folder, "target_encoder", **options)
    loaded = Encoder.from_pretrained(folder)
    assert isinstance(loaded, VJepa2)
    assert loaded.config == made.config
    video = torch.randint(256, (1, 3, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(loaded(video), made(video))
    record = json.loads((folder / CONFIG).read_text())
    assert record["origin"] == {
        "file": "tiny.pt",
        "bytes": file.stat().st_size,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "part": "target_encoder",
    }
    assert "target_encoder" in (folder / CARD).read_text()
    assert (folder / WEIGHTS).stat().st_size < 1.3 * sum(v.nbytes for v in made.parameters())


def test_the_two_encoders_of_a_file_have_two_fingerprints(file: Path) -> None:
    online, average = (
        torch.tensor(load_encoder(file, part, **OPTIONS).fingerprint())
        for part in ("encoder", "target_encoder")
    )
    assert (online - average).square().mean().sqrt() > 0.5
