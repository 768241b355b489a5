"""CLIP's text network reads as in transformers, and travels with the model that listens."""

from pathlib import Path

import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from saccade.checkpoint import load_model, save_model
from saccade.errors import CheckpointError, DataError
from saccade.models.clip_text import ClipTextConfig
from tests.fixtures.clip import END, LETTERS, START, WORDS, write_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny CLIP. Read only."""
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.mark.parametrize("tokens", [0, 12])
def test_the_same_as_transformers(folder: Path, tokens: int) -> None:
    language = ClipTextConfig(folder=folder, tokens=tokens).build()
    texts = ["open it", "pick up", "open it"]
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    network = CLIPTextModel(language.network.config).eval()
    network.load_state_dict(language.network.state_dict())
    found = language(texts)
    assert found.shape == (3, tokens or 1, language.dim)
    for row, text in zip(found, texts, strict=True):
        ids = tokenizer(text, return_tensors="pt").input_ids
        assert ids[0, [0, -1]].tolist() == [WORDS.index(START), WORDS.index(END)]
        with torch.no_grad():
            expected = network(ids)
        if tokens:
            count = ids.shape[1]
            torch.testing.assert_close(row[:count], expected.last_hidden_state[0])
            assert not row[count:].any()
        else:
            torch.testing.assert_close(row, expected.pooler_output)
    assert torch.equal(found[0], found[2])
    assert not torch.allclose(found[0], found[1])


def test_it_is_frozen(folder: Path) -> None:
    language = ClipTextConfig(folder=folder).build().train()
    assert not any(p.requires_grad for p in language.parameters())
    assert not language(["open"]).requires_grad
    assert not language.network.training


def test_it_travels_with_a_saved_model(folder: Path, tmp_path: Path) -> None:
    language = ClipTextConfig(folder=folder).build()
    save_model(tmp_path, language, language.config, {})
    loaded, _ = load_model(tmp_path)
    assert str(folder) not in (tmp_path / "config.json").read_text()
    assert torch.equal(loaded(["open it"]), language(["open it"]))


def test_other_weights_give_other_vectors(folder: Path) -> None:
    language = ClipTextConfig(folder=folder).build()
    before = language(["open it"])
    language.load_state_dict(
        {n: v / 2 if v.is_floating_point() else v for n, v in language.state_dict().items()}
    )
    assert not torch.allclose(language(["open it"]), before)


def test_a_text_that_is_too_long_or_none(folder: Path) -> None:
    with pytest.raises(DataError, match="28 tokens, there is room for 20"):
        ClipTextConfig(folder=folder).build()([LETTERS])
    with pytest.raises(DataError, match="9 tokens, there is room for 4"):
        ClipTextConfig(folder=folder, tokens=4).build()(["abcdefg"])
    with pytest.raises(DataError, match="no instruction"):
        ClipTextConfig(folder=folder).build()([""])


def test_another_model_or_a_missing_tokenizer(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(CheckpointError, match="no tokenizer"):
        ClipTextConfig(folder=tmp_path).build()
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="'bert', not clip"):
        ClipTextConfig(folder=tmp_path).build()
    with pytest.raises(CheckpointError, match="hf download"):
        ClipTextConfig(folder=tmp_path / "nowhere").build()


def test_vectors_are_the_same_under_autocast(folder: Path) -> None:
    """They are kept, so who asks first must not decide about their precision."""
    language = ClipTextConfig(folder=folder).build()
    with torch.autocast("cpu", torch.bfloat16):
        first = language(["open it"])
    assert torch.equal(first, ClipTextConfig(folder=folder).build()(["open it"]))
