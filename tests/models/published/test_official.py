"""Official files: every spelling gives the function that a small ViT in timm's layout computes."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PreTrainedModel,
    ViTMAEConfig,
    ViTMAEModel,
)

from saccade.errors import CheckpointError, ConfigError
from saccade.models.published.official import hub_state

Weights = dict[str, Tensor]
DIM, HEADS, PATCH, SIDE = 24, 3, 7, 3
TINY: dict[str, Any] = {"hidden_size": DIM, "num_hidden_layers": 2, "num_attention_heads": HEADS}
TINY |= {"image_size": PATCH * SIDE, "patch_size": PATCH}


def shapes(
    dim: int,
    depth: int,
    patch: int,
    places: int,
    *,
    hidden: int = 0,
    swiglu: int = 0,
    registers: int = 0,
    dino: bool = True,
) -> dict[str, tuple[int, ...]]:
    """What a file in the layout of timm holds."""
    hidden = hidden or 4 * dim
    found: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, dim), "pos_embed": (1, places, dim)}
    found |= {"patch_embed.proj.weight": (dim, 3, patch, patch), "patch_embed.proj.bias": (dim,)}
    found |= {"register_tokens": (1, registers, dim)} if registers else {}
    found |= {"mask_token": (1, dim)} if dino else {}
    linear = {"attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim)}
    linear |= (
        {"mlp.w12": (2 * swiglu, dim), "mlp.w3": (dim, swiglu)}
        if swiglu
        else {"mlp.fc1": (hidden, dim), "mlp.fc2": (dim, hidden)}
    )
    block = {f"{name}.weight": shape for name, shape in linear.items()}
    block |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    block |= {f"{n}.{leaf}": (dim,) for n in ("norm1", "norm2") for leaf in ("weight", "bias")}
    block |= {f"{name}.gamma": (dim,) for name in ("ls1", "ls2")} if dino else {}
    found |= {f"blocks.{i}.{name}": shape for i in range(depth) for name, shape in block.items()}
    return found | {"norm.weight": (dim,), "norm.bias": (dim,)}


def drawn(layout: dict[str, tuple[int, ...]]) -> Weights:
    torch.manual_seed(0)
    return {name: torch.randn(shape) * 0.3 for name, shape in layout.items()}


def reference(weights: Weights, pixels: Tensor) -> Tensor:
    """Run a vision transformer in timm's layout, queries, keys and values of one matrix."""

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (DIM,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)

    kernel, bias = weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"]
    x = F.conv2d(pixels, kernel, bias, stride=PATCH).flatten(2).transpose(1, 2)
    x = torch.cat([weights["cls_token"].expand(len(x), -1, -1), x], 1) + weights["pos_embed"]
    if "register_tokens" in weights:
        registers = weights["register_tokens"].expand(len(x), -1, -1)
        x = torch.cat([x[:, :1], registers, x[:, 1:]], 1)
    for i in range(2):
        at, batch, count = f"blocks.{i}", *x.shape[:2]
        qkv = linear(f"{at}.attn.qkv", norm(f"{at}.norm1", x))
        q, k, v = qkv.reshape(batch, count, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-1, -2) / (DIM // HEADS) ** 0.5).softmax(-1) @ v
        mixed = linear(f"{at}.attn.proj", mixed.transpose(1, 2).flatten(2))
        x = x + mixed * weights.get(f"{at}.ls1.gamma", torch.ones(DIM))
        hidden = norm(f"{at}.norm2", x)
        if f"{at}.mlp.w12.weight" in weights:
            gate, up = linear(f"{at}.mlp.w12", hidden).chunk(2, -1)
            hidden = linear(f"{at}.mlp.w3", F.silu(gate) * up)
        else:
            hidden = linear(f"{at}.mlp.fc2", F.gelu(linear(f"{at}.mlp.fc1", hidden)))
        x = x + hidden * weights.get(f"{at}.ls2.gamma", torch.ones(DIM))
    return norm("norm", x)


def dinov2(swiglu: bool) -> PreTrainedModel:
    return Dinov2Model(Dinov2Config(**TINY, use_swiglu_ffn=swiglu))


def registers(swiglu: bool) -> PreTrainedModel:
    config = Dinov2WithRegistersConfig(**TINY, use_swiglu_ffn=swiglu, num_register_tokens=3)
    return Dinov2WithRegistersModel(config)


def mae(swiglu: bool) -> PreTrainedModel:
    assert not swiglu
    options: dict[str, Any] = {"mask_ratio": 0.0, "layer_norm_eps": 1e-6}
    return ViTMAEModel(ViTMAEConfig(**TINY, **options, intermediate_size=4 * DIM))


NETWORKS: dict[str, Callable[[bool], PreTrainedModel]] = {
    "dinov2": dinov2,
    "dinov2_with_registers": registers,
    "vit_mae": mae,
}


def official(kind: str, swiglu: bool = False) -> Weights:
    count = 3 * (kind == "dinov2_with_registers")
    wide = 64 if swiglu else 0  # two thirds of 4 * 24
    places = SIDE * SIDE + 1
    options: dict[str, Any] = {"swiglu": wide, "registers": count, "dino": kind != "vit_mae"}
    return drawn(shapes(DIM, 2, PATCH, places, **options))


def older_hub_names(weights: Weights, mae: bool) -> Weights:
    """Rename as in the files of the hub: attention split, and under two more modules."""
    found: Weights = {}
    fixed = {"attn.proj": "attention.output.dense", "mlp.w12": "mlp.weights_in"}
    fixed |= {"mlp.w3": "mlp.weights_out", "ls1.gamma": "layer_scale1.lambda1"}
    fixed |= {"ls2.gamma": "layer_scale2.lambda1", "blocks.": "encoder.layer."}
    fixed |= {"patch_embed.proj": "embeddings.patch_embeddings.projection"}
    fixed |= {"pos_embed": "embeddings.position_embeddings", "cls_token": "embeddings.cls_token"}
    fixed |= {"mask_token": "embeddings.mask_token"}
    fixed |= {"register_tokens": "embeddings.register_tokens"}
    if mae:
        fixed |= {"norm1": "layernorm_before", "norm2": "layernorm_after"}
        fixed |= {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
    for name, value in weights.items():
        new = re.sub(r"^norm\.", "layernorm.", name)
        for old, other in fixed.items():
            new = new.replace(old, other)
        if "attn.qkv" in new:
            for part, rows in zip(("query", "key", "value"), value.split(DIM), strict=True):
                found[new.replace("attn.qkv", f"attention.attention.{part}")] = rows.clone()
        else:
            found[new] = value
    return found


def chunked(weights: Weights) -> Weights:
    """Name blocks as FSDP training does: the chunk, then the block."""
    return {re.sub(r"^blocks\.(\d)", r"blocks.\1.\1", k): v for k, v in weights.items()}


def as_trained(weights: Weights) -> dict[str, Any]:
    heads = {"dino_head.mlp.0.weight": torch.ones(3), "ibot_head.last_layer.bias": torch.ones(2)}
    return {"teacher": {f"backbone.{k}": v for k, v in chunked(weights).items()} | heads}


def with_decoder(weights: Weights) -> dict[str, Any]:
    """Lay weights out as MAE's training does, with its options and the state of its optimiser."""
    decoder = {"mask_token": (1, 1, 8), "decoder_pos_embed": (1, 10, 8)}
    decoder |= {"decoder_embed.weight": (8, DIM), "decoder_norm.bias": (8,)}
    decoder |= {"decoder_blocks.0.attn.qkv.weight": (24, 8), "decoder_pred.weight": (147, 8)}
    run = {"epoch": 800, "args": argparse.Namespace(lr=1e-3), "optimizer": {"state": {}}}
    return {"model": weights | {name: torch.ones(shape) for name, shape in decoder.items()}, **run}


def check(file: Path, kind: str, weights: Weights, swiglu: bool = False) -> None:
    """The file loads strictly, and gives the same features as the reference."""
    network = NETWORKS[kind](swiglu).eval()
    network.load_state_dict(hub_state(file, kind), strict=True)
    torch.manual_seed(1)
    pixels = torch.randn(2, 3, PATCH * SIDE, PATCH * SIDE)
    given = {"noise": torch.arange(9.0).expand(2, -1)} if kind == "vit_mae" else {}
    with torch.no_grad():
        tokens = network(pixel_values=pixels, **given).last_hidden_state
        expected = reference(weights, pixels)
    assert tokens.shape == expected.shape
    assert (tokens - expected).abs().max() < 1e-5


@pytest.mark.parametrize("swiglu", [False, True], ids=["mlp", "swiglu"])
@pytest.mark.parametrize("kind", ["dinov2", "dinov2_with_registers"])
@pytest.mark.parametrize("spelling", ["official", "chunked", "as trained", "old hub"])
def test_every_spelling_of_dinov2(kind: str, swiglu: bool, spelling: str, tmp_path: Path) -> None:
    weights = official(kind, swiglu)
    content = {
        "official": weights,
        "chunked": chunked(weights),
        "as trained": as_trained(weights),
        "old hub": older_hub_names(weights, mae=False),
    }[spelling]
    torch.save(content, tmp_path / "weights.pth")
    check(tmp_path / "weights.pth", kind, weights, swiglu)


@pytest.mark.parametrize("spelling", ["pretrained", "with decoder", "VC-1", "classifier", "hub"])
def test_every_spelling_of_mae(spelling: str, tmp_path: Path) -> None:
    weights = official("vit_mae")
    hub = {f"vit.{k}": v for k, v in older_hub_names(weights, mae=True).items()}
    content: Any = {
        "pretrained": {"model": weights},
        "with decoder": with_decoder(weights),
        "VC-1": {"model": weights | {"mask_token": torch.ones(1, 1, 8)}},
        "classifier": {
            "model": weights | {n: torch.ones(DIM) for n in ("head.bias", "fc_norm.bias")}
        },
        "hub": hub | {"decoder.mask_token": torch.ones(1, 1, 8)},
    }[spelling]
    torch.save(content, tmp_path / "weights.pth")
    check(tmp_path / "weights.pth", "vit_mae", weights)


@pytest.mark.parametrize("kind", list(NETWORKS))
def test_names_of_today_and_every_container(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(2)
    expected = NETWORKS[kind](False).state_dict()
    save_file(expected, tmp_path / "model.safetensors")
    torch.save(expected, tmp_path / "pytorch_model.bin")
    torch.save(expected, tmp_path / "old.pt", _use_new_zipfile_serialization=False)  # no mmap
    for name in ("model.safetensors", "pytorch_model.bin", "old.pt"):
        found = hub_state(tmp_path / name, kind)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize(
    ("kind", "sizes", "options", "parameters"),
    [
        ("vit_mae", (768, 12, 16, 197), {"dino": False}, 85_798_656),  # MAE and VC-1 base
        ("vit_mae", (1024, 24, 16, 197), {"dino": False}, 303_301_632),  # MAE and VC-1 large
        ("dinov2", (768, 12, 14, 1370), {}, 86_580_480),
        ("dinov2_with_registers", (768, 12, 14, 1370), {"registers": 4}, 86_583_552),
        ("dinov2", (1536, 40, 14, 1370), {"swiglu": 4096}, 1_136_480_768),
    ],
)
def test_sizes_of_the_published_files(
    kind: str, sizes: Any, options: Any, parameters: int, tmp_path: Path
) -> None:
    """A file whose tensors are one number each, of the published shapes, takes no room."""
    layout = shapes(*sizes, **options)
    torch.save({k: torch.zeros(1).expand(v) for k, v in layout.items()}, tmp_path / "full.pth")
    found = hub_state(tmp_path / "full.pth", kind)
    assert sum(value.numel() for value in found.values()) == parameters


def test_what_is_not_asked_for_is_not_read(tmp_path: Path) -> None:
    weights, huge = official("vit_mae"), torch.zeros(30_000_000)
    torch.save({"model": weights, "optimizer": {"exp_avg": huge}}, tmp_path / "run.pth")
    hub_state(tmp_path / "run.pth", "vit_mae")  # transformers is in memory from here on
    before = int(Path("/proc/self/statm").read_text().split()[1])
    hub_state(tmp_path / "run.pth", "vit_mae")
    assert (int(Path("/proc/self/statm").read_text().split()[1]) - before) * 4096 < huge.nbytes / 4


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"norm.bias": None}, "1 missing: layernorm.bias"),
        ({"blocks.1.attn.qkv.weight": None}, r"3 missing: encoder.layer.1.attention.k_proj.weight"),
        ({"blocks.0.mlp.fc1.weight": None}, "1 missing: encoder.layer.0.mlp.fc1.weight"),
        ({"head.weight": torch.ones(2)}, "1 left over: head.weight"),
        ({"blocks.3.norm1.bias": torch.ones(DIM)}, "left over: encoder.layer.3.norm1.bias"),
        ({"blocks.0.attn.q_norm.bias": torch.ones(2)}, "left over: .*attn.q_norm.bias"),
        ({"norm.weight": torch.ones(5)}, r"layernorm.weight \(5,\) should be \(24,\)"),
        ({"blocks.0.attn.qkv.bias": torch.ones(71)}, r"v_proj.bias \(23,\) should be \(24,\)"),
        ({"blocks.0.attn.qkv.bias": torch.tensor(1.0)}, "2 missing.*k_proj.bias.*v_proj.bias"),
        ({"pos_embed": torch.ones(1, 12, DIM)}, r"\(1, 12, 24\) should be \(1, 10, 24\)"),
        ({"module.norm.bias": torch.ones(DIM)}, "two tensors for layernorm.bias"),
        ({"blocks.7.1.norm1.bias": torch.ones(DIM)}, "two tensors for encoder.layer.1.norm1.bias"),
        ({"patch_embed.proj.weight": None}, "no dinov2: its patch embedding is absent"),
        ({"register_tokens": torch.ones(1, 3, DIM)}, "left over: embeddings.register_tokens"),
        ({"decoder_pred.weight": torch.ones(3)}, "left over: decoder_pred.weight"),
    ],
)
def test_every_weight_is_accounted_for(
    change: dict[str, Tensor | None], told: str, tmp_path: Path
) -> None:
    weights = official("dinov2")
    changed = {**weights, **change}
    torch.save({k: v for k, v in changed.items() if v is not None}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=told):
        hub_state(tmp_path / "weights.pth", "dinov2")


def test_registers_are_neither_made_up_nor_lost(tmp_path: Path) -> None:
    torch.save(official("dinov2"), tmp_path / "plain.pth")
    with pytest.raises(CheckpointError, match=r"1 missing: embeddings\.register_tokens"):
        hub_state(tmp_path / "plain.pth", "dinov2_with_registers")
    torch.save(official("dinov2_with_registers"), tmp_path / "registers.pth")
    with pytest.raises(CheckpointError, match=r"1 left over: embeddings\.register_tokens"):
        hub_state(tmp_path / "registers.pth", "dinov2")


def test_a_classifier_without_its_norm(tmp_path: Path) -> None:
    weights = official("vit_mae")
    weights["fc_norm.weight"], weights["fc_norm.bias"] = (
        weights.pop("norm.weight"),
        weights.pop("norm.bias"),
    )
    torch.save({"model": weights}, tmp_path / "finetuned.pth")
    with pytest.raises(CheckpointError, match=r"fc_norm.*give the file of the pretraining"):
        hub_state(tmp_path / "finetuned.pth", "vit_mae")


class Unknown:
    """Something that only its own code can read."""


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.pth", None, "does not exist; give a .pth, .pt, .bin or .safetensors file"),
        ("a.npz", b"1234", "ends in '.npz'"),
        ("a.pth", b"<html>404", r"a.pth \(9 bytes\) is damaged, or no file of weights"),
        ("a.safetensors", b"<html>404 not found", "is damaged"),
        ("a.pt", {"model": {}, "cfg": Unknown()}, "holds a tests.*Unknown beside its tensors"),
        ("a.pt", [torch.ones(2)], "holds a list"),
        ("a.pt", {}, "is not named weights"),
        (
            "a.pt",
            {"student": {"norm.weight": torch.ones(2)}},
            r"'model' or 'teacher'.*\['student'\]",
        ),
        ("a.pt", {"model": {"a": torch.ones(2)}, "teacher": {}}, "both 'model' and 'teacher'"),
        ("a.pt", {"model": {"a": "b"}}, "is not named weights"),
        ("a.pt", {"model": {3: torch.ones(2)}}, "is not named weights"),
    ],
)
def test_files_that_are_something_else(name: str, content: Any, told: str, tmp_path: Path) -> None:
    file = tmp_path / name
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(CheckpointError, match=told):
        hub_state(file, "dinov2")


def test_half_a_download_and_an_unknown_kind(tmp_path: Path) -> None:
    file = tmp_path / "half.pth"
    torch.save(official("dinov2"), file)
    file.write_bytes(file.read_bytes()[:20_000])
    with pytest.raises(CheckpointError, match=r"is damaged, .*download it again"):
        hub_state(file, "dinov2")
    with pytest.raises(ConfigError, match="no published file is a 'clip'; known are dinov2,"):
        hub_state(file, "clip")
    with pytest.raises(CheckpointError, match="is no file"):
        hub_state(tmp_path, "dinov2")
