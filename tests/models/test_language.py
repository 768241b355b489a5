import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from saccade.checkpoint import load_model, save_model
from saccade.errors import CheckpointError, DataError
from saccade.models.language import (
    HashLanguageConfig,
    TableLanguageConfig,
    hash_vector,
    plain,
    write_table,
)

TEXTS = {
    "pick up the butter": [1.0, 2.0],
    "pick up the soup": [3.0, 4.0],
    "open the drawer": [5.0, 6],
}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "table.safetensors"
    write_table(file, {text: torch.tensor(vector) for text, vector in TEXTS.items()})
    return file


def test_hash_is_the_same_everywhere_and_tells_texts_apart() -> None:
    """The first number by hand: sha256("0\\n" + text), first four bytes, little end first."""
    language = HashLanguageConfig(dim=512).build()
    texts = [f"task {i}" for i in range(50)]
    vectors = language(texts)
    assert vectors.shape == (50, language.tokens, language.dim) == (50, 1, 512)
    assert torch.equal(HashLanguageConfig().build()(texts), vectors)
    assert vectors.mean().item() == pytest.approx(0, abs=0.02)
    assert vectors.std().item() == pytest.approx(1, abs=0.02)
    alike = torch.corrcoef(vectors[:, 0]) - torch.eye(50)
    assert alike.abs().max() < 0.2
    first = 0xAA8AA94F  # of 4fa98aaa...
    assert hash_vector("pick", 3)[0] == pytest.approx(3**0.5 * (2 * (first + 0.5) / 2**32 - 1))
    assert hash_vector("pick", 3) == hash_vector("pick", 20)[:3]
    assert not language.state_dict()


@pytest.mark.parametrize("text", ["", "  \n"])
def test_no_instruction_is_an_error(text: str, table: Path) -> None:
    for config in (HashLanguageConfig(dim=4), TableLanguageConfig(file=table)):
        with pytest.raises(DataError, match="no instruction"):
            config.build()(["open the drawer", text])


def test_a_table_gives_its_rows(table: Path) -> None:
    language = TableLanguageConfig(file=table).build()
    assert (language.tokens, language.dim) == (1, 2)
    found = language(["open  the drawer ", "pick up the butter", "open the drawer"])
    assert found[:, 0].tolist() == [[5, 6], [1, 2], [5, 6]]
    assert not found.requires_grad
    assert plain(" a\n b ") == "a b"


def test_several_tokens_for_an_instruction(tmp_path: Path) -> None:
    write_table(tmp_path / "t", {"a": torch.ones(3, 2), "b": torch.zeros(3, 2)})
    language = TableLanguageConfig(file=tmp_path / "t").build()
    assert language.tokens == 3
    assert torch.equal(language(["b", "a"]), torch.stack([torch.zeros(3, 2), torch.ones(3, 2)]))


def test_an_unknown_instruction_names_its_likes(table: Path) -> None:
    language = TableLanguageConfig(file=table).build()
    with pytest.raises(DataError, match=r"'pick up the buter'.*most alike pick up the butter.*add"):
        language(["pick up the buter"])


def test_a_table_travels_with_a_saved_model(table: Path, tmp_path: Path) -> None:
    language = TableLanguageConfig(file=table).build()
    save_model(tmp_path / "model", language, language.config, {})
    table.unlink()
    loaded, _ = load_model(tmp_path / "model")
    assert torch.equal(loaded(list(TEXTS)), language(list(TEXTS)))


def test_vectors_of_other_instructions_are_refused(table: Path, tmp_path: Path) -> None:
    """Of the same number and size: only the digest of the texts can tell."""
    language = TableLanguageConfig(file=table).build()
    other = tmp_path / "other.safetensors"
    write_table(other, {text.upper(): torch.tensor(v) for text, v in TEXTS.items()})
    with pytest.raises(CheckpointError, match="other instructions"):
        TableLanguageConfig(file=other).build().load_state_dict(language.state_dict())
    save_model(tmp_path / "model", language, language.config, {})
    record = json.loads((tmp_path / "model" / "config.json").read_text())
    record["model"]["texts"].reverse()
    (tmp_path / "model" / "config.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="other instructions"):
        load_model(tmp_path / "model")


def test_a_table_without_its_weights_is_never_silent(table: Path) -> None:
    kept = TableLanguageConfig(file=table).build().config
    assert kept.build()(["open the drawer"]).isnan().all()


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"a": torch.ones(2), "b": torch.ones(3)}, r"\(2,\), \(3,\)"),
        ({"a": torch.ones(2, 2, 2)}, r"\(2, 2, 2\)"),
        ({}, "none"),
        ({"a": torch.tensor([1.0, torch.nan])}, "'a' that is not finite"),
    ],
)
def test_a_table_that_is_none(tensors: dict[str, torch.Tensor], told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told):
        write_table(tmp_path / "made", tensors)
    save_file(tensors, tmp_path / "found")
    with pytest.raises(DataError, match=told):
        TableLanguageConfig(file=tmp_path / "found").build()


def test_a_missing_or_damaged_table(tmp_path: Path) -> None:
    (tmp_path / "pickle").write_bytes(b"\x80\x04K\x01.")
    for name in ("nowhere", "pickle"):
        with pytest.raises(DataError, match="write_table"):
            TableLanguageConfig(file=tmp_path / name).build()
