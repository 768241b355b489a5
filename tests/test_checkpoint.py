import errno
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from saccade import checkpoint
from saccade.checkpoint import (
    CARD,
    CONFIG,
    INDEX,
    WEIGHTS,
    load_model,
    load_weights,
    read_weights,
    save_model,
    write_atomic,
)
from saccade.config import Config
from saccade.errors import CheckpointError, SpaceError

PIXELS = {"image_size": 8}


@dataclass(frozen=True, kw_only=True)
class TinyConfig(Config[nn.Linear]):
    width: int = 2

    def build(self) -> nn.Linear:
        return nn.Linear(3, self.width)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_model(tmp_path / "model", TinyConfig().build(), TinyConfig(), PIXELS, card="# Tiny")
    return tmp_path / "model"


def test_a_folder_is_all_that_is_needed(folder: Path) -> None:
    torch.manual_seed(0)
    expected = TinyConfig().build()
    model, preprocessing = load_model(folder)
    assert preprocessing == PIXELS
    assert all(torch.equal(v, expected.state_dict()[k]) for k, v in model.state_dict().items())
    assert sorted(p.name for p in folder.iterdir()) == sorted([CARD, CONFIG, WEIGHTS])
    assert (folder / CARD).read_text() == "# Tiny"


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"has no {name}"):
        load_model(folder)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("kept", [0, 5, -1])
def test_a_cut_file_is_damage(folder: Path, name: str, kept: int) -> None:
    raw = (folder / name).read_bytes().rstrip()
    (folder / name).write_bytes(raw[:kept])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_model(folder)


def test_weights_of_another_size_are_refused(folder: Path) -> None:
    record = json.loads((folder / CONFIG).read_text())
    record["model"]["width"] = 4
    (folder / CONFIG).write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=r"weight \(2, 3\) should be \(4, 3\)"):
        load_model(folder)


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({"weight": torch.ones(2, 3)}, "1 missing: bias"),
        ({"weight": torch.ones(2, 3), "bias": torch.ones(2), "x": torch.ones(1)}, "1 left over: x"),
        ({"weight": torch.ones(3, 2), "bias": torch.ones(2)}, "1 of another shape: weight"),
    ],
)
def test_every_key_is_accounted_for(weights: dict[str, Tensor], told: str) -> None:
    model = nn.Linear(3, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=told):
        load_weights(model, weights, "somewhere")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Marked(nn.Linear):
    """A map that computes more than its weights say."""

    def __init__(self, factor: float) -> None:
        super().__init__(3, 2)
        self.factor = factor

    def fingerprint(self) -> list[float]:
        return [self.factor, float(self.weight.detach().sum())]


@dataclass(frozen=True, kw_only=True)
class MarkedConfig(Config[Marked]):
    on_meta: ClassVar[bool] = True

    factor: float = 1.0

    def build(self) -> Marked:
        return Marked(self.factor)


def test_built_without_memory_of_its_own(tmp_path: Path) -> None:
    """Weights are the mapped file's, in its dtype, and training them leaves the file alone."""
    model = MarkedConfig().build().to(torch.bfloat16)
    save_model(tmp_path, model, MarkedConfig(), PIXELS, origin={"file": "x.pt"})
    assert json.loads((tmp_path / CONFIG).read_text())["origin"] == {"file": "x.pt"}
    loaded, _ = load_model(tmp_path)
    assert loaded.get_parameter("weight").dtype == torch.bfloat16
    assert loaded.get_parameter("weight").requires_grad
    with torch.no_grad():
        loaded.get_parameter("weight").zero_()
    again, _ = load_model(tmp_path)
    assert torch.equal(again.get_parameter("weight"), model.weight)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda record: record["model"].update(factor=1.1), "0.07 apart"),
        (lambda record: record.update(fingerprint=[float("nan"), 0.0]), "nan apart"),
        (lambda record: record.pop("fingerprint"), "a fingerprint of 0 numbers, not 2"),
    ],
)
def test_another_function_of_the_same_weights_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    save_model(tmp_path, MarkedConfig().build(), MarkedConfig(), PIXELS)
    record = json.loads((tmp_path / CONFIG).read_text())
    change(record)
    (tmp_path / CONFIG).write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=told):
        load_model(tmp_path)


@pytest.fixture
def sharded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of 24 and bias of 8 bytes do not share a file of at most 25."""
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 25)
    torch.manual_seed(0)
    save_model(tmp_path / "model", TinyConfig().build(), TinyConfig(), PIXELS)
    return tmp_path / "model"


def test_large_weights_are_cut_into_shards(sharded: Path) -> None:
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert sorted(p.name for p in sharded.iterdir()) == sorted([CARD, CONFIG, INDEX, *shards])
    index = json.loads((sharded / INDEX).read_text())
    assert index["metadata"] == {"total_size": 32}
    assert index["weight_map"] == {"weight": shards[0], "bias": shards[1]}
    torch.manual_seed(0)
    expected = TinyConfig().build()
    model, _ = load_model(sharded)
    assert all(torch.equal(v, expected.state_dict()[k]) for k, v in model.state_dict().items())


def test_saving_again_leaves_no_old_weights(sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size, files in ((1000, {WEIGHTS}), (25, {INDEX})):
        monkeypatch.setattr(checkpoint, "SHARD_BYTES", size)
        save_model(sharded, TinyConfig().build(), TinyConfig(), PIXELS)
        assert {p.name for p in sharded.iterdir()} & {WEIGHTS, INDEX} == files
        load_model(sharded)


def rewrite_index(**change: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        index["weight_map"] |= change
        (folder / INDEX).write_text(json.dumps(index))

    return apply


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda f: (f / "model-00002-of-00002.safetensors").unlink(), "lacks model-00002"),
        (lambda f: (f / "model-00001-of-00002.safetensors").write_bytes(b"x"), "is damaged"),
        (lambda f: (f / INDEX).write_text("{}"), "is damaged"),
        (lambda f: (f / INDEX).write_text("[]"), "is damaged"),
        (lambda f: (f / WEIGHTS).write_bytes(b""), "holds both"),
        (rewrite_index(bias="../elsewhere.safetensors"), "which is not a file beside it"),
        (rewrite_index(other="model-00002-of-00002.safetensors"), "its shards lack other"),
        (rewrite_index(bias="model-00001-of-00002.safetensors"), "its shards lack bias"),
        (rewrite_index(bias=3), "is damaged"),
    ],
)
def test_damaged_shards(sharded: Path, damage: Callable[[Path], object], told: str) -> None:
    damage(sharded)
    with pytest.raises(CheckpointError, match=told) as caught:
        read_weights(sharded)
    assert str(sharded) in str(caught.value)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    write_atomic(tmp_path / "new" / "file", b"old")
    write_atomic(tmp_path / "new" / "file", "new, in UTF-8: \N{GREEK SMALL LETTER ALPHA}")
    assert (tmp_path / "new" / "file").read_text("utf-8").startswith("new")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("code", "error"),
    [(errno.ENOSPC, SpaceError), (errno.EDQUOT, SpaceError), (errno.EIO, OSError)],
)
@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: Any, code: int, error: type[OSError], stage: str
) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(*((os, "fsync") if stage == "fsync" else (Path, "replace")), fail)
    with pytest.raises(error) as caught:
        write_atomic(path, "new")
    assert isinstance(caught.value, SpaceError) == (error is SpaceError)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
