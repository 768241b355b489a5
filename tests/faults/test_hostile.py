"""Files from outside that want to run code, leave their folder or fill the memory."""

import json
import os
import pickle
import resource
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from saccade.checkpoint import load_model, load_weights
from saccade.errors import CheckpointError, SaccadeError
from saccade.models.published.official import read_file
from saccade.models.vjepa2 import official
from saccade.train import checkpoint
from saccade.types import Encoder
from tests.train import toy


class Runs:
    """Whoever unpickles it makes a file."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def payloads(canary: Path) -> dict[str, Any]:
    system = Runs(os.system, f"touch {canary}")
    return {
        "system": system,
        "eval": Runs(eval, f"open({str(canary)!r}, 'w')"),
        "open": Runs(open, str(canary), "w"),
        "beside tensors": {
            "model": {"w": torch.ones(2)},
            "cfg": Runs(os.system, f"touch {canary}"),
        },
    }


DOORS: dict[str, Callable[[Path], Any]] = {
    "published": read_file,
    "vjepa2": official._read,
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("old", [False, True])
def test_no_file_of_weights_runs_a_command(tmp_path: Path, door: str, old: bool) -> None:
    canary, path = tmp_path / "canary", tmp_path / "weights.pt"
    for name, payload in payloads(canary).items():
        torch.save(payload, path, _use_new_zipfile_serialization=not old)
        with pytest.raises(CheckpointError):
            DOORS[door](path)
        assert not canary.exists(), name
    torch.load(path, weights_only=False)
    assert canary.exists(), "torch itself must run it, or nothing was proven"


def test_no_folder_makes_a_resume_unpickle(tmp_path: Path) -> None:
    """A torch DCP folder, whose ``.metadata`` is a pickle, in place of a checkpoint."""
    toy.run(tmp_path / "run")
    canary, folder = tmp_path / "canary", checkpoint.folder_of(tmp_path / "run", 12)
    payload = pickle.dumps(payloads(canary)["system"])
    for name in (".metadata", "MANIFEST.json", "state.json", "optimizer.pt"):
        (folder / name).write_bytes(payload)
        if name in ("MANIFEST.json", "state.json"):
            with pytest.raises(CheckpointError):
                toy.run(tmp_path / "run", resume=True)
    toy.run(tmp_path / "run", resume="auto")
    assert not canary.exists()


def encoder(tmp_path: Path) -> Path:
    toy.run(tmp_path / "run", samples=16)
    return tmp_path / "run" / "encoder"


def test_an_encoder_folder_names_files_of_its_own_only(tmp_path: Path) -> None:
    folder = encoder(tmp_path)
    weights = folder / "model.safetensors"
    weights.rename(tmp_path / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"project.weight": "../../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="which is not a file beside it"):
        load_model(folder)


def bombs(folder: Path) -> dict[str, Callable[[], None]]:
    def huge_header() -> None:
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + b"{}")

    def lying_header() -> None:
        entry = {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}
        header = json.dumps({"project.weight": entry}).encode()
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)

    def deep_config() -> None:
        (folder / "config.json").write_text("[" * 1_000_000)

    def wide_config() -> None:
        text = json.dumps({"model": {"type": "x" * 1_000_000}, "preprocessing": {}})
        (folder / "config.json").write_text(text)

    return {work.__name__: work for work in (huge_header, lying_header, deep_config, wide_config)}


@pytest.mark.parametrize("bomb", ["huge_header", "lying_header", "deep_config", "wide_config"])
def test_bombs_are_refused_soon_and_in_little_memory(tmp_path: Path, bomb: str) -> None:
    folder = encoder(tmp_path)
    bombs(folder)[bomb]()
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(SaccadeError) as caught:
        Encoder.from_pretrained(folder)
    assert time.monotonic() - began < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 * 1024
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("file", ["MANIFEST.json", "state.json"])
def test_a_checkpoint_may_not_be_a_bomb_either(tmp_path: Path, file: str) -> None:
    toy.run(tmp_path, samples=16)
    folder = checkpoint.folder_of(tmp_path, 2)
    (folder / file).write_text("[" * 1_000_000)
    with pytest.raises(CheckpointError, match=file):
        checkpoint.read(folder)


def test_a_zip_bomb_is_no_file_of_weights(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\0" * 300_000_000)
    began = time.monotonic()
    with pytest.raises(CheckpointError):
        read_file(path)
    assert time.monotonic() - began < 5


def changed(weights: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Return what else a file of weights may hold than is wanted."""
    first = next(iter(weights))
    return {
        "missing": {k: v for k, v in weights.items() if k != first},
        "left over": weights | {"head.9.weight": torch.ones(2)},
        "prefixed": {f"module.{k}": v for k, v in weights.items()},
        "transposed": {k: v.T if v.ndim == 2 else v for k, v in weights.items()},
        "longer": {k: torch.cat([v, v]) for k, v in weights.items()},
        "nothing": {},
        "another's": {"w": torch.ones(1)},
    }


@pytest.mark.parametrize(
    "case", ["missing", "left over", "prefixed", "transposed", "longer", "nothing", "another's"]
)
def test_weights_fit_or_nothing_is_loaded(case: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wrong = changed({k: v + 1 for k, v in before.items()})[case]
    with pytest.raises(CheckpointError, match=r"does not fit Sequential: \d"):
        load_weights(model, wrong, "file")
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_checkpoint_of_other_networks_is_refused_whole(tmp_path: Path) -> None:
    toy.run(tmp_path, samples=16)
    folder = checkpoint.folder_of(tmp_path, 2)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(CheckpointError, match="does not fit Deep"):
        toy.run(tmp_path, toy.Deep(), resume=True, samples=16)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    save_file({"a": torch.ones(1)}, tmp_path / "encoder" / "model.safetensors")
    with pytest.raises(CheckpointError, match="does not fit ToyEncoder"):
        Encoder.from_pretrained(tmp_path / "encoder")
