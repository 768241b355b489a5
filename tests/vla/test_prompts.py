import pytest
import torch

from saccade.errors import CheckpointError, ConfigError
from saccade.vla.prompts import EXTRA, PromptsConfig, pack, small_tokenizer, unpack, words

TEXTS = ("open the drawer", "push the red button")
LLAMA = PromptsConfig(
    tokenizer=pack(small_tokenizer(TEXTS, "llama")), style="llama", rows=32064, padding=64
)


def test_llamas_prompt_ends_with_the_lonely_space() -> None:
    assert words("llama", "Open the Drawer") == (
        "In: What action should the robot take to open the drawer?\nOut:"
    )
    prompts = LLAMA.build()
    ids = prompts.ids("Open the Drawer")
    assert (ids[0], ids[-1], ids.count(29871)) == (1, 29871, 1)
    assert prompts.tokenizer.decode(ids).endswith("open▁the▁drawer?\nOut:▁")
    assert (prompts.vocabulary, prompts.stop) == (32000, [2])


def test_qwens_prompt_and_its_extra_tokens() -> None:
    text = small_tokenizer(TEXTS, "qwen2")
    prompts = PromptsConfig(tokenizer=pack(text), style="qwen2", rows=1024, extra=EXTRA).build()
    plain = PromptsConfig(tokenizer=pack(text), style="qwen2", rows=1024).build()
    assert prompts.vocabulary == plain.vocabulary + 256
    first = prompts.tokenizer.token_to_id("<|extra_0|>")
    assert first == prompts.vocabulary - 256
    ids = prompts.ids("open the drawer")
    assert ids[0] == prompts.tokenizer.token_to_id("<|im_start|>")
    assert prompts.stop == [2, 0]  # <|im_end|>, <|endoftext|>


def test_paligemmas_prompt_is_the_instruction_alone() -> None:
    text = small_tokenizer(TEXTS, "paligemma")
    prompts = PromptsConfig(tokenizer=pack(text), style="paligemma", rows=600).build()
    assert prompts.ids("open the drawer")[0] == prompts.tokenizer.token_to_id("<bos>")
    assert prompts.stop == []


def test_words_that_were_never_learned_are_told_in_bytes() -> None:
    prompts = LLAMA.build()
    ids = prompts.ids("grasp the žluťoučký kůň")
    assert 0 not in ids  # <unk>
    assert len(ids) > len(prompts.ids("open the drawer"))


@pytest.mark.parametrize("side", ["left", "right"])
def test_shorter_prompts_are_padded(side: str) -> None:
    prompts = LLAMA.build()
    texts = ["open the drawer", "push the red button again and again"]
    ids, real = prompts.batch(texts, side, torch.device("cpu"))  # type: ignore[arg-type]
    for row, keep, text in zip(ids, real, texts, strict=True):
        assert row[keep].tolist() == prompts.ids(text)
    assert bool(real[:, -1 if side == "left" else 0].all())
    assert not bool(real.all())


def test_an_empty_instruction_is_refused() -> None:
    with pytest.raises(ConfigError, match="instruction is empty"):
        LLAMA.build().batch(["open", " "], "left", torch.device("cpu"))


def test_tokenizers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(CheckpointError, match="no token '</s>'"):
        PromptsConfig(
            tokenizer=pack(small_tokenizer(TEXTS, "qwen2")), style="llama", rows=32064
        ).build()
    with pytest.raises(CheckpointError, match="embedding 100 rows"):
        PromptsConfig(
            tokenizer=pack(small_tokenizer(TEXTS, "qwen2")), style="qwen2", rows=100
        ).build()
    for damaged in ("no base64!", pack("{}"), pack("no json")):
        with pytest.raises(CheckpointError, match="cannot be read"):
            PromptsConfig(tokenizer=damaged, style="llama", rows=32064).build()


def test_a_tokenizer_is_packed_without_loss() -> None:
    assert unpack(pack("ž{}")) == "ž{}"
