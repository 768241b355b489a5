"""A tiny random CLIP in the layout of the hub, with a tokenizer of a few letters."""

import json
from pathlib import Path

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTokenizer

from saccade.checkpoint import load_model, save_model
from saccade.errors import CheckpointError, DataError
from saccade.models.clip_text import ClipTextConfig

START, END = "<|startoftext|>", "<|endoftext|>"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), START, END]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    ends = {"bos_token_id": len(WORDS) - 2, "eos_token_id": len(WORDS) - 1}
    text = {**sizes, **ends, "vocab_size": len(WORDS), "max_position_embeddings": 20}
    vision = {**sizes, "image_size": 28, "patch_size": 14}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(
        folder
    )
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


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
