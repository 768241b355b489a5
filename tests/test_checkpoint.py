import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from saccade.checkpoint import (
    CARD,
    CONFIG,
    WEIGHTS,
    load_model,
    load_weights,
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
