"""What a language model is told: an instruction in the words that it was trained with, as tokens.

The tokenizer is the model's own ``tokenizer.json``, read by the ``tokenizers`` package. It is kept
inside the config, compressed, so that a saved policy needs no other folder.
"""

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from saccade.config import Config
from saccade.errors import CheckpointError, ConfigError

TOKENIZER = "tokenizer.json"
SPACE = "▁"  # Llama's; alone it comes before the first action
EXTRA = 256  # tokens that the Qwen sibling adds for actions
SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
Style = Literal["llama", "qwen2", "paligemma"]


def words(style: Style, instruction: str) -> str:
    """Return the whole prompt of an instruction."""
    question = f"What action should the robot take to {instruction.lower()}?"
    if style == "llama":
        return f"In: {question}\nOut:"
    if style == "qwen2":
        return (
            f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
    return f"{instruction.strip()}\n"


def packed(folder: Path) -> str:
    """Return a folder's tokenizer as ``PromptsConfig`` keeps it.

    Raises:
        CheckpointError: there is none.
    """
    try:
        text = (folder / TOKENIZER).read_text()
        json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{folder} has no {TOKENIZER} that can be read ({error}); fetch the whole folder, or "
            "name the folder of the tokenizer with --tokenizer, for example Qwen/Qwen2.5-0.5B"
        ) from error
    return pack(text)


def pack(text: str) -> str:
    """Compress the text of a ``tokenizer.json``."""
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def unpack(packed: str) -> str:
    """Return the text of a ``tokenizer.json`` that was compressed."""
    return zlib.decompress(base64.b64decode(packed)).decode()


@dataclass(frozen=True, kw_only=True)
class PromptsConfig(Config["Prompts"]):
    """A tokenizer and the words around an instruction.

    Args:
        tokenizer: ``pack`` of its file.
        style: whose words.
        padding: rows of the model's embedding that are no tokens, -1: those of the tokenizer.
        rows: of the model's embedding.
        extra: tokens that are added for actions.
    """

    tokenizer: str
    style: Style
    rows: int
    padding: int = -1
    extra: int = 0

    def build(self) -> "Prompts":
        """Unpack the tokenizer.

        Raises:
            CheckpointError: it is damaged, or lacks what the style needs.
        """
        return Prompts(self)


class Prompts:
    """Turns instructions into tokens. ``vocabulary`` is the number of them, ``stop`` ends one."""

    def __init__(self, config: PromptsConfig) -> None:
        self.config = config
        try:
            from tokenizers import Tokenizer  # comes with transformers

            self.tokenizer: Any = Tokenizer.from_str(unpack(config.tokenizer))
        except ImportError as error:
            raise CheckpointError(
                "prompts need the tokenizers package: pip install 'saccade[encoders]'"
            ) from error
        except Exception as error:  # tokenizers raises this very class, and zlib its own
            raise CheckpointError(
                f"the tokenizer cannot be read ({error}); fetch it again"
            ) from error
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        if config.extra:
            self.tokenizer.add_tokens([f"<|extra_{i}|>" for i in range(config.extra)])
        self.vocabulary = config.rows - config.padding
        if config.padding < 0:
            self.vocabulary = self.tokenizer.get_vocab_size(with_added_tokens=True)
        if self.vocabulary > config.rows:
            raise CheckpointError(
                f"the tokenizer has {self.vocabulary} tokens, the model's embedding "
                f"{config.rows} rows; give the tokenizer that the model was trained with"
            )
        ends = {"llama": ("</s>",), "qwen2": ("<|im_end|>", "<|endoftext|>"), "paligemma": ()}
        self.stop = [self._id(token) for token in ends[config.style]]

    def ids(self, instruction: str) -> list[int]:
        """Return the tokens of the whole prompt, up to where the answer begins."""
        style = self.config.style
        text = words(style, instruction)
        if style == "qwen2":
            return self.tokenizer.encode(text, add_special_tokens=False).ids
        if style == "paligemma":
            return [self._id("<bos>"), *self.tokenizer.encode(text, add_special_tokens=False).ids]
        found = self.tokenizer.encode(text, add_special_tokens=False).ids
        empty = self._id(SPACE)
        return [self._id("<s>"), *found, *([empty] if found[-1:] != [empty] else [])]

    def batch(
        self, texts: Sequence[str], side: Literal["left", "right"], device: torch.device
    ) -> tuple[Int64[Tensor, "b n"], Bool[Tensor, "b n"]]:
        """Return tokens of several instructions, padded to one length, and which are real.

        Raises:
            ConfigError: one is empty, which no episode of the training data was.
        """
        if not all(text.strip() for text in texts):
            raise ConfigError("an instruction is empty; give every episode one")
        rows = [self.ids(text) for text in texts]
        width = max(map(len, rows))
        ids = torch.zeros(len(rows), width, dtype=torch.int64)
        real = torch.zeros(len(rows), width, dtype=torch.bool)
        for i, row in enumerate(rows):
            place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
            ids[i, place], real[i, place] = torch.tensor(row), True
        return ids.to(device), real.to(device)

    def _id(self, token: str) -> int:
        found = self.tokenizer.token_to_id(token)
        if found is None:
            raise CheckpointError(
                f"the tokenizer has no token {token!r}, which {self.config.style} prompts need; "
                "give the tokenizer that the model was trained with"
            )
        return found


def small_tokenizer(texts: Sequence[str], style: Style, size: int = 512) -> str:
    """Learn a small tokenizer from some instructions, with the special tokens of a large one.

    Llama's keep their ids (the lonely space is 29871), so that the tail of the vocabulary is the
    true one. Any other text can be told in bytes. Returns the text of a ``tokenizer.json``.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    specials = {
        "llama": ["<unk>", "<s>", "</s>"],
        "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "paligemma": ["<pad>", "<eos>", "<bos>", "<unk>"],
    }[style]
    level = [f"<0x{value:02X}>" for value in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True))
    replace = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), replace])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(SPACE, "merged_with_next")
    learned = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[*specials, *level], show_progress=False
    )
    tokenizer.train_from_iterator([words(style, text) for text in texts], learned)
    tokenizer.decoder = decoders.ByteFallback()
    record = json.loads(tokenizer.to_str())
    if style == "llama":
        record["model"]["vocab"][SPACE] = 29871
    record["added_tokens"] = [t for t in record["added_tokens"] if t["content"] in specials]
    return json.dumps(record, ensure_ascii=False)
