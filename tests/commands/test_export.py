import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from saccade.models.lora import load_lora
from saccade.models.vjepa2.encoder import VJepa2
from saccade.models.world_model import ActionWorldModel
from saccade.types import Encoder
from tests.conftest import Outcome
from tests.experiments.test_adapters import STAGES, training
from tests.models.vjepa2.test_official_ac import built

Saccade = Callable[..., Outcome]
SIZES = ["--heads", 2, "--image-size", 32, "--precision", "float32"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with adapters on a base drawn from its seed. Read only."""
    folder = tmp_path_factory.mktemp("runs") / "lora"
    training().run(folder)
    return folder


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """What the official training writes, tiny."""
    model = built()
    eyes = {f"module.{name}": value for name, value in model.encoder.state_dict().items()}
    other = {name: value + 1 for name, value in eyes.items()}
    predictor = {f"module.{name}": value for name, value in model.predictor.state_dict().items()}
    parts = {"encoder": other, "target_encoder": eyes, "predictor": predictor}
    torch.save({**parts, "opt": None, "epoch": 315}, tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt"


def test_adapters_are_exported_and_told_with_their_floors(
    saccade: Saccade, run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = saccade("export", "lora", run, "--out", out, "--zip")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines[:5]] == STAGES
    scores = json.loads((run / "result.json").read_text())["scores"]
    told = f"step 4, 32 clips: held-out loss {scores['eval/loss']:.4g} (copy "
    assert told in lines[4]
    assert "at most 8 held-out clips of one seed, without intervals" in lines[5]
    assert lines[6].startswith("5 stages, ")
    with zipfile.ZipFile(tmp_path / "out.zip") as packed:
        packed.extractall(tmp_path / "elsewhere")
    base = training(lora=None).build().model  # drawn from the same seed
    assert load_lora(out / "final", base.predictor)["step"] == 4
    files = sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file())
    unpacked = tmp_path / "elsewhere" / "out"
    assert [p.relative_to(unpacked) for p in sorted(unpacked.rglob("*")) if p.is_file()] == files
    assert all((unpacked / p).read_bytes() == (out / p).read_bytes() for p in files)


def test_an_export_is_replaced_only_when_told(saccade: Saccade, run: Path, tmp_path: Path) -> None:
    command = ["export", "lora", run, "--out", tmp_path / "out", "--zip"]
    assert saccade(*command).code == 0
    before = (tmp_path / "out.zip").read_bytes()
    refused = saccade(*command)
    assert refused.code == 2
    assert "out.zip is there already" in refused.err
    refused = saccade(*command[:-1])
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "out holds files already; give a new folder" in refused.err
    assert saccade(*command, "--overwrite").code == 0
    assert (tmp_path / "out.zip").read_bytes() == before, "the same run, the same bytes"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    refused = saccade("export", "lora", run, "--out", tmp_path / "mine", "--overwrite")
    assert refused.code == 2
    assert "saccade did not write it" in refused.err
    assert (tmp_path / "mine" / "notes.txt").exists()


def test_what_is_no_run_of_adapters_is_refused_in_a_sentence(
    saccade: Saccade, debug_run: Path, tmp_path: Path
) -> None:
    for folder, told in (
        (debug_run, "was trained without adapters"),
        (tmp_path, "give the folder"),
    ):
        done = saccade("export", "lora", folder, "--out", tmp_path / "out")
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert told in done.err
        assert not (tmp_path / "out").exists()


def test_an_official_world_model_is_converted(
    saccade: Saccade, official: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    options = ["--step-seconds", 1.0, "--predictor-heads", 2, *SIZES]
    done = saccade("export", "convert", official, "--out", out, *options)
    assert done.code == 0
    count = sum(p.numel() for p in built().parameters())
    assert done.out == f"world model, steps of 1 s: {count:,} parameters in float32, in {out}\n"
    model = ActionWorldModel.from_pretrained(out)
    assert model.step_seconds == 1
    expected = built().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    again = saccade("export", "convert", official, "--out", out, *options)
    assert again.code == 2
    assert "holds files already" in again.err


@pytest.mark.parametrize(("part", "more"), [("target_encoder", 0), ("encoder", 1)])
def test_an_encoder_alone_is_the_part_that_was_chosen(
    saccade: Saccade, official: Path, tmp_path: Path, part: str, more: int
) -> None:
    command = ["export", "convert", official, "--out", tmp_path / "out", "--what", "encoder"]
    assert saccade(*command, "--part", part, "--frames", "each", *SIZES).code == 0
    encoder = Encoder.from_pretrained(tmp_path / "out")
    assert isinstance(encoder, VJepa2)
    assert encoder.config.frames == "each"
    expected = built().encoder.state_dict()["norm.bias"] + more
    assert torch.equal(encoder.state_dict()["norm.bias"], expected)


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["vjepa2-ac-vitg.pt"], 4, "does not exist; it has 11.7 GB: get it with `curl -L -o "),
        (["vitl.pt"], 2, "holds no world model; convert it by --what encoder"),
        (["vitl.pt", "--what", "encoder"], 2, "two encoders .* choose by --part target_encoder"),
        (["vitl.pt", "--what", "encoder", "--part", "encoder"], 4, "at least 2.4 GB: get it"),
        (["a.pt", "--frames", "each"], 2, "--frames is no option for world_model"),
        (
            ["a.pt", "--what", "encoder", "--part", "encoder", "--step-seconds", 1],
            2,
            "--step-seconds is no option for encoder",
        ),
    ],
)
def test_what_cannot_be_converted(
    saccade: Saccade, tmp_path: Path, options: list[object], code: int, told: str
) -> None:
    file, out = tmp_path / str(options[0]), tmp_path / "out"
    done = saccade("export", "convert", file, *options[1:], "--out", out)
    assert (done.code, done.err.count("\n")) == (code, 1)
    first, _, rest = told.partition(" .* ")
    assert first in done.err
    assert rest in done.err
    assert not out.exists()


def test_an_ac_file_with_a_hole_is_refused(
    saccade: Saccade, official: Path, tmp_path: Path
) -> None:
    content = torch.load(official, weights_only=True)
    del content["predictor"]["module.predictor_blocks.1.attn.qkv.weight"]
    torch.save(content, official)
    options = ["--predictor-heads", 2, *SIZES]
    done = saccade("export", "convert", official, "--out", tmp_path / "out", *options)
    assert (done.code, done.err.count("\n")) == (4, 1)
    assert "1 missing: predictor_blocks.1.attn.qkv.weight" in done.err
    del content["predictor"]
    torch.save(content, official)
    done = saccade("export", "convert", official, "--out", tmp_path / "out", *options)
    assert (done.code, done.err.count("\n")) == (4, 1)
    assert "has no part 'predictor'; it has encoder, target_encoder" in done.err
    assert not (tmp_path / "out").exists()


def test_help_teaches(saccade: Saccade) -> None:
    done = saccade("export", "--help")
    assert done.code == 0
    assert "convert" in done.out
    assert saccade("export").code == 2
    assert "Example: saccade export lora runs/" in saccade("export", "lora", "--help").out
    assert "moving average" in saccade("export", "convert", "--help").out
    done = saccade("export", "onnx")
    assert done.code == 2
    assert "there is no `saccade export onnx`; there are lora, convert" in done.err
