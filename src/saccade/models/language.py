"""Instructions as vectors, never trained: from a table, from a text network, or from a hash.

A language travels with the model that reads it: ``Language.config`` rebuilds it without the file
or folder that it came from, and the model's weights fill it. What must not change with them (the
instructions of a table, the words of a tokenizer) is held together by ``identity``, a digest that
loading compares. An instruction without a vector is an error; none is ever made up.
"""

import difflib
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from saccade.checkpoint import write_atomic
from saccade.config import Config
from saccade.errors import CheckpointError, DataError

NEAR = 3  # instructions to name beside one that is missing
BLOCK = 8  # numbers that one sha256 gives


class Language(nn.Module):
    """Texts in, ``tokens`` vectors of width ``dim`` for each out, without gradient."""

    dim: int
    tokens: int
    config: Config["Language"]  # rebuilds it, to be filled from a state dict
    identity: UInt8[Tensor, " bytes"]

    def forward(self, texts: Sequence[str]) -> Float[Tensor, "b m e"]:
        """Return the vectors of each text.

        Raises:
            DataError: a text is empty, or has no vector.
        """
        raise NotImplementedError

    def identify(self, what: bytes) -> None:
        """Keep a digest of what the weights are worth nothing without, compared on loading."""
        digest = torch.frombuffer(bytearray(hashlib.sha256(what).digest()), dtype=torch.uint8)
        self.register_buffer("identity", digest)
        self.register_load_state_dict_pre_hook(_require_identity)


def _require_identity(
    language: nn.Module, state: dict[str, Any], prefix: str, *others: Any
) -> None:
    del others
    saved = state.get(f"{prefix}identity")
    assert isinstance(language, Language)
    if saved is not None and not torch.equal(saved.cpu(), language.identity.cpu()):
        raise CheckpointError(
            f"the saved model understood other instructions than this {type(language).__name__}: "
            "give the table, or the text network, that it was trained with"
        )


def plain(text: str) -> str:
    """Return a text with single spaces.

    Raises:
        DataError: nothing is left.
    """
    words = " ".join(text.split())
    if not words:
        raise DataError(
            "an episode has no instruction, and a model that reads language needs one; give the "
            "data set's tasks a text"
        )
    return words


@dataclass(frozen=True, kw_only=True)
class HashLanguageConfig(Config["HashLanguage"]):
    """Vectors that tell instructions apart and know nothing of what they mean.

    Args:
        dim: their width.
    """

    dim: int = 512

    def build(self) -> "HashLanguage":
        """Construct the language; it has no weights."""
        return HashLanguage(self)


class HashLanguage(Language):
    """One vector for each text, of its sha256: the same on every machine, mean 0, variance 1."""

    tokens = 1

    def __init__(self, config: HashLanguageConfig) -> None:
        super().__init__()
        self.config, self.dim = config, config.dim
        self.register_buffer("place", torch.empty(0), persistent=False)  # knows the device
        self.place: Tensor

    def forward(self, texts: Sequence[str]) -> Float[Tensor, "b 1 e"]:
        """Return the vectors of each text."""
        rows = [hash_vector(plain(text), self.dim) for text in texts]
        return torch.tensor(rows, device=self.place.device)[:, None]


@lru_cache(maxsize=4096)
def hash_vector(text: str, dim: int) -> tuple[float, ...]:
    """Return ``dim`` numbers, uniform between -sqrt(3) and sqrt(3)."""
    blocks = (hashlib.sha256(f"{i}\n{text}".encode()).digest() for i in range(-(-dim // BLOCK)))
    raw = b"".join(blocks)
    whole = (int.from_bytes(raw[i : i + 4], "little") for i in range(0, 4 * dim, 4))
    return tuple(math.sqrt(3) * (2 * (number + 0.5) / 2**32 - 1) for number in whole)


@dataclass(frozen=True, kw_only=True)
class TableLanguageConfig(Config["TableLanguage"]):
    """Vectors that some text network gave beforehand.

    Args:
        file: safetensors, one tensor ``[dim]`` or ``[tokens, dim]`` for each instruction, which
            is its name (``write_table`` makes one).
    """

    file: Path

    def build(self) -> "TableLanguage":
        """Read the table.

        Raises:
            DataError: it is missing, damaged, empty, or its vectors are not of one size.
        """
        table = read_table(self.file)
        texts = tuple(sorted(table))
        vectors = torch.stack([table[text] for text in texts])
        language = KeptTableConfig(
            texts=texts, tokens=vectors.shape[1], dim=vectors.shape[2]
        ).build()
        language.vectors.copy_(vectors)
        return language


@dataclass(frozen=True, kw_only=True)
class KeptTableConfig(Config["TableLanguage"]):
    """A table whose vectors are among the weights of a saved model.

    Args:
        texts: the instructions, in the order of the vectors.
        tokens: vectors of one instruction.
        dim: their width.
    """

    texts: tuple[str, ...]
    tokens: int
    dim: int

    def build(self) -> "TableLanguage":
        """Construct the table, to be filled from a state dict: until then every vector is NaN."""
        return TableLanguage(self)


class TableLanguage(Language):
    """Instructions that were turned into vectors beforehand; others are errors."""

    def __init__(self, config: KeptTableConfig) -> None:
        super().__init__()
        self.config, self.tokens, self.dim = config, config.tokens, config.dim
        self.rows = {text: i for i, text in enumerate(config.texts)}
        shape = (len(config.texts), config.tokens, config.dim)
        self.register_buffer("vectors", torch.full(shape, torch.nan))
        self.vectors: Tensor
        self.identify(json.dumps(config.texts).encode())

    def forward(self, texts: Sequence[str]) -> Float[Tensor, "b m e"]:
        """Return the vectors of each text.

        Raises:
            DataError: a text is not in the table.
        """
        return self.vectors[[self.row(plain(text)) for text in texts]]

    def row(self, text: str) -> int:
        """Find the place of an instruction.

        Raises:
            DataError: it names those that are most like it.
        """
        if text not in self.rows:
            near = difflib.get_close_matches(text, self.rows, n=NEAR, cutoff=0.3)
            likes = f", most alike {' | '.join(near)}" if near else ""
            raise DataError(
                f"no vector for the instruction {text!r}: the table has {len(self.rows)}{likes}; "
                "add it with saccade.models.language.write_table, or correct the text"
            )
        return self.rows[text]


def write_table(file: Path, table: Mapping[str, Tensor]) -> None:
    """Write vectors ``[dim]`` or ``[tokens, dim]`` by instruction, for ``TableLanguageConfig``.

    Raises:
        DataError: there are none, or they are not of one size, or not finite.
    """
    rows = {plain(text): vector.detach().cpu().float() for text, vector in table.items()}
    _require_one_size(rows, str(file))
    write_atomic(file, save({text: row.contiguous().clone() for text, row in rows.items()}))


def read_table(file: Path) -> dict[str, Float[Tensor, "m e"]]:
    """Read what ``write_table`` wrote.

    Raises:
        DataError: it is missing or damaged, or as ``write_table``.
    """
    try:
        rows = {plain(text): vector.float() for text, vector in load_file(file).items()}
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{file} cannot be read as a table of instructions ({error}); write one with "
            "saccade.models.language.write_table"
        ) from error
    _require_one_size(rows, str(file))
    return {text: row[None] if row.ndim == 1 else row for text, row in rows.items()}


def _require_one_size(rows: Mapping[str, Tensor], source: str) -> None:
    shapes = sorted({tuple(row.shape) for row in rows.values()})
    if len(shapes) != 1 or len(shapes[0]) not in (1, 2) or 0 in shapes[0]:
        raise DataError(
            f"{source} has vectors of shape {shapes or 'none'}; a table holds one [dim] or "
            "[tokens, dim] for every instruction"
        )
    for text, row in rows.items():
        if not row.isfinite().all():
            raise DataError(f"{source} has a vector of {text!r} that is not finite; make it anew")
