"""``saccade data language``."""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor

from saccade.commands.common import data_set, say
from saccade.commands.data.source import check_place
from saccade.data.passes.words import counted
from saccade.errors import ConfigError, DataError
from saccade.models.clip_text import ClipTextConfig
from saccade.models.language import plain, write_table

SHOWN_EVERY = 100  # instructions
BROKEN = (OSError, EOFError, ValueError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, kw_only=True)
class Command:
    """Turn the instructions of a data set into a table of vectors, which policies then read.

    The vectors are those of CLIP's text network, or come from a file of NumPy arrays. Training
    takes the table by `saccade train statevla:phase1 --language table.safetensors`, and keeps it
    in what it exports.

    Example: saccade data language --data data/libero_object --clip models/clip-vit-base-patch16
    --out table.safetensors

    Args:
        out: file to write.
        data: data set of any format, whose instructions are wanted.
        data_options: options of its reader, like state=joint.
        texts: instructions, besides those of the data.
        clip: folder of a CLIP: `hf download openai/clip-vit-base-patch16 --local-dir FOLDER`.
        tokens: vectors for each instruction: those of its first words; 0 gives one, the pooled.
        vectors: a .npz in place of CLIP: an array [dim] or [tokens, dim] by each instruction;
            without --data and --texts, all of it is taken.
        dry_run: list the instructions; write nothing.
    """

    out: Path = Path("table.safetensors")
    data: str | None = None
    data_options: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    clip: Path | None = None
    tokens: int = 0
    vectors: Path | None = None
    dry_run: bool = False


def main(args: list[str]) -> int:
    """Write the table."""
    command = tyro.cli(Command, args=args, prog="saccade data language")
    if command.clip is not None and command.vectors is not None:
        raise ConfigError("--clip and --vectors exclude one another; give one of them")
    if command.tokens < 0 or (command.tokens and command.clip is None):
        raise ConfigError(f"tokens is {command.tokens}; give 0 or more, and --clip")
    given = {} if command.vectors is None else read_vectors(command.vectors)
    texts = instructions(command) or list(given)
    if not texts:
        raise ConfigError("there are no instructions; give --data, --texts or --vectors")
    if command.dry_run:
        print("\n".join(texts))
        print(f"would write {counted(len(texts), 'instruction')} to {command.out}")
        return 0
    check_place(command.out)
    if command.clip is not None:
        table = encoded(texts, ClipTextConfig(folder=command.clip, tokens=command.tokens))
    elif command.vectors is not None:
        table = chosen(texts, given, command.vectors)
    else:
        raise ConfigError("nothing makes vectors; give --clip FOLDER, or --vectors FILE.npz")
    write_table(command.out, table)
    shape = list(next(iter(table.values())).shape)
    print(f"{counted(len(table), 'instruction')} of {shape}: {command.out}")
    return 0


def instructions(command: Command) -> list[str]:
    """Return each instruction that is asked for, once.

    Raises:
        DataError: one is empty, or the data set is not readable.
    """
    texts = command.texts
    if command.data is not None:
        texts = (*data_set(command.data, command.data_options).build().tasks, *texts)
    return list(dict.fromkeys(map(plain, dict.fromkeys(texts))))


def encoded(texts: Sequence[str], config: ClipTextConfig) -> dict[str, Tensor]:
    """Let the network read each instruction."""
    language, table = config.build(), dict[str, Tensor]()
    for text in texts:
        vectors = language([text])[0]
        table[text] = vectors if config.tokens else vectors[0]
        if len(table) % SHOWN_EVERY == 0:
            say(f"read {len(table)} of {len(texts)} instructions")
    return table


def read_vectors(file: Path) -> dict[str, Tensor]:
    """Read the arrays of a .npz, by instruction.

    Raises:
        DataError: it is missing or damaged, or holds anything but numbers.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = {plain(name): arrays[name] for name in arrays.files}
    except BROKEN as error:
        raise DataError(
            f"{file} cannot be read as arrays by instruction ({error!s:.120}); write it by "
            "numpy.savez"
        ) from error
    for name, array in found.items():
        if array.dtype.kind not in "fiu":
            raise DataError(f"{file}: {name!r} is of {array.dtype}, expected numbers")
    with np.errstate(over="ignore"):  # what is too large is refused as not finite
        return {name: torch.from_numpy(array.astype(np.float32)) for name, array in found.items()}


def chosen(texts: Sequence[str], given: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Take the vectors of the instructions that are asked for.

    Raises:
        DataError: one has none.
    """
    if absent := [text for text in texts if text not in given]:
        raise DataError(
            f"{file} has no vector for {counted(len(absent), 'instruction')}, such as "
            f"{absent[0]!r}; add them"
        )
    return {text: given[text] for text in texts}
