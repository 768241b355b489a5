"""``saccade data language``: instructions become vectors, which a training then listens by."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from saccade.models.clip_text import ClipTextConfig
from saccade.models.language import TableLanguageConfig, read_table
from tests.conftest import Outcome
from tests.fixtures.clip import write_clip

Saccade = Callable[..., Outcome]
TEXTS = ["push it", "pull it"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny CLIP. Read only."""
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.mark.parametrize("tokens", [0, 12])
def test_the_table_is_what_clip_says(
    saccade: Saccade, lerobot: Path, clip: Path, tmp_path: Path, tokens: int
) -> None:
    out = tmp_path / "table.safetensors"
    command = ["data", "language", "--data", lerobot, "--clip", clip, "--out", out]
    done = saccade(*command, "--tokens", tokens, "--texts", "lift  it ", "pull it")
    assert done.code == 0, done.err
    shape = [12, 16] if tokens else [16]
    assert done.out == f"3 instructions of {shape}: {out}\n"
    texts = [*TEXTS, "lift it"]
    assert sorted(read_table(out)) == sorted(texts)
    expected = ClipTextConfig(folder=clip, tokens=tokens).build()(texts)
    assert torch.equal(TableLanguageConfig(file=out).build()(texts), expected)


def test_instructions_are_listed_and_nothing_is_written(
    saccade: Saccade, lerobot: Path, tmp_path: Path
) -> None:
    out = tmp_path / "table.safetensors"
    done = saccade("data", "language", "--data", lerobot, "--out", out, "--dry-run")
    assert done.code == 0
    assert done.out.splitlines() == [*TEXTS, f"would write 2 instructions to {out}"]
    assert not out.exists()


def test_vectors_may_be_given(saccade: Saccade, lerobot: Path, tmp_path: Path) -> None:
    given = {text: np.full(3, i, np.float64) for i, text in enumerate([*TEXTS, "lift it"])}
    np.savez(tmp_path / "given.npz", allow_pickle=False, **given)
    out = tmp_path / "table.safetensors"
    command = ["data", "language", "--vectors", tmp_path / "given.npz", "--out", out]
    for options, texts in (([], given), (["--data", lerobot], TEXTS)):
        assert saccade(*command, *options).code == 0
        table = read_table(out)
        assert {text: row.tolist() for text, row in table.items()} == {
            text: [given[text].tolist()] for text in texts
        }
    done = saccade(*command, "--texts", "drop it")
    assert done.code == 3
    assert "no vector for 1 instruction, such as 'drop it'" in done.err


def test_what_makes_no_table_is_refused(saccade: Saccade, clip: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "words.npz", allow_pickle=False, a=np.array(["b"]))
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("no arrays")
    cases = {
        (): (2, "there are no instructions"),
        ("--texts", "go"): (2, "nothing makes vectors"),
        ("--texts", "go", "--tokens", 3): (2, "tokens is 3; give 0 or more, and --clip"),
        ("--texts", "go", "--clip", clip, "--vectors", "x"): (2, "exclude one another"),
        ("--texts", " ", "--clip", clip): (3, "no instruction"),
        ("--texts", "abcdef", "--clip", clip, "--tokens", 4): (3, "8 tokens, there is room for 4"),
        ("--texts", "go", "--clip", tmp_path): (4, "hf download"),
        ("--vectors", tmp_path / "words.npz"): (3, "'a' is of <U1, expected numbers"),
        ("--vectors", tmp_path / "array.npy"): (3, "cannot be read as arrays by instruction"),
        ("--vectors", tmp_path / "text.npz"): (3, "cannot be read as arrays by instruction"),
    }
    for options, (code, told) in cases.items():
        done = saccade("data", "language", "--out", tmp_path / "table", *options)
        assert (done.code, told in done.err) == (code, True), done.err
    assert not (tmp_path / "table").exists()


def test_a_training_listens_by_the_table(saccade: Saccade, clip: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.safetensors"
    texts = ["go to the red square", "go to the blue square"]
    np.savez(tmp_path / "given.npz", allow_pickle=False, **dict.fromkeys(texts, np.ones(6)))
    assert not saccade(
        *("data", "language", "--vectors", tmp_path / "given.npz", "--out", table)
    ).code
    command = ["train", "statevla:phase1_debug", "--train.samples", 8, "--eval-samples", 2]
    done = saccade(*command, "--out", tmp_path / "run", "--language", table)
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "run" / "state_encoder" / "config.json").read_text())
    assert sorted(record["model"]["language"]["texts"]) == sorted(texts)
    done = saccade(*command, "--out", tmp_path / "clip", "--language", clip, "--dry-run")
    assert '"type": "saccade.models.clip_text:ClipTextConfig"' in done.out
