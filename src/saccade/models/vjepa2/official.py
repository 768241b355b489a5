"""Read the ``.pt`` files that Meta published for V-JEPA 2 and V-JEPA 2-AC.

A file holds parts, each a state dict: ``encoder`` (trained), ``target_encoder`` (its moving
average, what V-JEPA 2-AC was built on; in the AC file the two are the same), ``predictor``, and the
optimiser. Which of the two encoders somebody used changes the features, so it is always chosen,
and recorded. Files are mapped into memory: what is not asked for is not read.

    https://github.com/facebookresearch/vjepa2 (``src/hub/backbones.py``), arXiv 2506.09985
"""

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from saccade.checkpoint import load_weights, save_model
from saccade.errors import CheckpointError
from saccade.models.vjepa2.encoder import VJepa2, VJepa2Config

URL = "https://dl.fbaipublicfiles.com/vjepa2/"
HEADS = {1024: 16, 1280: 16, 1408: 22}  # of the published widths; tensors do not tell
WRAPPERS = frozenset({"module", "backbone"})
UNUSED = frozenset({"pos_embed"})  # a table that pretraining files carry and rotary models ignore
EncoderPart = Literal["encoder", "target_encoder"]


class Release(NamedTuple):
    """What is known of a published file."""

    size: str
    image_size: int


RELEASES = {
    "vjepa2-ac-vitg.pt": Release("11.7 GB", 256),
    "vitg.pt": Release("at least 8.1 GB", 256),
    "vitg-384.pt": Release("at least 8.1 GB", 384),
    "vith.pt": Release("at least 5.1 GB", 256),
    "vitl.pt": Release("at least 2.4 GB", 256),
}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where converted weights come from."""

    file: str
    bytes: int
    sha256: str
    part: str


def read_parts(file: Path, parts: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """Return these parts of an official file, mapped into memory, without the wrappers' prefixes.

    Nothing is unpickled but tensors, numbers and plain containers.

    Raises:
        CheckpointError: the file is absent (with its size and address), damaged, of another kind,
            or lacks a part.
    """
    content = _read(Path(file))
    found: dict[str, dict[str, Tensor]] = {}
    for part in parts:
        if part not in content:
            raise CheckpointError(
                f"{file} has no part {part!r}; it has {', '.join(map(str, content)) or 'none'}"
            )
        found[part] = _unwrap(content[part], f"{file} [{part}]")
    return found


def load_encoder(
    file: Path,
    part: EncoderPart,
    *,
    heads: int | None = None,
    image_size: int | None = None,
    num_frames: int = 64,
    frames: Literal["clip", "each"] = "clip",
    dtype: torch.dtype = torch.bfloat16,
) -> VJepa2:
    """Load an encoder, in evaluation mode; its sizes are read off the tensors.

    Args:
        file: an official file.
        part: which of its two encoders.
        heads: needed for widths that were never published.
        image_size: needed where the name of the file does not tell.
        num_frames: recorded as the length of a clip; any other works.
        frames: see ``VJepa2Config``; "each" for V-JEPA 2-AC.
        dtype: of the weights in memory.

    Raises:
        CheckpointError: as ``read_parts``; or a tensor is missing, left over or of another shape;
            or heads or image size are unknown, or known to be others.
    """
    file = Path(file)
    source = f"{file} [{part}]"
    weights = {k: v for k, v in read_parts(file, (part,))[part].items() if k not in UNUSED}
    if image_size is None:
        if file.name not in RELEASES:
            raise CheckpointError(
                f"{file.name} is none of {sorted(RELEASES)}, so its image_size is unknown: give it"
            )
        image_size = RELEASES[file.name].image_size
    config = infer_config(weights, heads, source)
    config = replace(config, image_size=image_size, num_frames=num_frames, frames=frames)
    return fill(config, weights, dtype, source)


def convert_encoder(file: Path, folder: Path, part: EncoderPart, **options: Any) -> VJepa2:
    """Write an official encoder as a model folder, once; return it. ``options`` as above.

    ``Encoder.from_pretrained(folder)`` then opens it, and checks that it computes what it did.

    Raises:
        CheckpointError: as ``load_encoder``.
    """
    encoder = load_encoder(file, part, **options)
    origin = describe(file, part)
    card = (
        f"# V-JEPA 2 encoder\n\nConverted from `{origin.file}` ({origin.bytes:,} bytes, sha256 "
        f"`{origin.sha256}`), part `{origin.part}`, published at {URL}{origin.file}.\n"
    )
    preprocessing = asdict(encoder.preprocessing)
    save_model(folder, encoder, encoder.config, preprocessing, card, asdict(origin))
    return encoder


def describe(file: Path, part: str) -> Origin:
    """Return what is recorded of a file beside the weights that were converted from it."""
    with Path(file).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Origin(file=Path(file).name, bytes=Path(file).stat().st_size, sha256=digest, part=part)


def infer_config(weights: Mapping[str, Tensor], heads: int | None, source: str) -> VJepa2Config:
    """Read an encoder's sizes off its tensors; heads off the table of published widths.

    Raises:
        CheckpointError: these are not tensors of such an encoder, or heads are unknown or wrong.
    """
    kernel, fc1 = "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"
    for name, axes in ((kernel, 5), (fc1, 2)):
        if name not in weights or weights[name].ndim != axes:
            shape = tuple(weights[name].shape) if name in weights else "absent"
            raise CheckpointError(
                f"{source} is no V-JEPA 2 video encoder: {name} is {shape}, not a tensor of {axes} "
                "axes"
            )
    dim, _, tubelet, patch, _ = weights[kernel].shape
    numbers = {name.split(".")[1] for name in weights if name.startswith("blocks.")}
    known = HEADS.get(dim)
    if heads is None and known is None:
        raise CheckpointError(
            f"{source} is {dim} wide, which no published encoder is (those are {sorted(HEADS)}); "
            "its number of heads cannot be read off the tensors: give heads"
        )
    if heads is not None and known is not None and heads != known:
        raise CheckpointError(
            f"{source} is {dim} wide; published encoders of that width have {known} heads, and "
            f"{heads} would load but compute wrong features: leave heads out"
        )
    return VJepa2Config(
        tubelet=tubelet,
        patch=patch,
        dim=dim,
        depth=len(numbers),
        heads=heads or known or 0,
        mlp=weights[fc1].shape[0],
    )


def fill(
    config: VJepa2Config, weights: Mapping[str, Tensor], dtype: torch.dtype, source: str
) -> VJepa2:
    """Build an encoder around weights, every key accounted for; in evaluation mode."""
    with torch.device("meta"):
        encoder = config.build()
    load_weights(encoder, {k: v.to(dtype) for k, v in weights.items()}, source, assign=True)
    return encoder.eval()


def _read(file: Path) -> Mapping[str, Any]:
    """Map a file into memory; tensors that nobody looks at are never read."""
    if not file.is_file():
        raise CheckpointError(_absent(file))
    try:
        content = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        first = (str(error).splitlines() or ["no more is known"])[0]
        raise CheckpointError(
            f"{file} ({file.stat().st_size:,} bytes) is not an official file that can be read "
            f"({first}); download it again{_where(file)}"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{file} holds a {type(content).__name__}, not parts such as 'target_encoder'; it is "
            "not an official file of V-JEPA 2"
        )
    return content


def _unwrap(part: object, source: str) -> dict[str, Tensor]:
    """Strip what parallel training put in front of the names."""
    if not isinstance(part, dict) or not all(isinstance(v, Tensor) for v in part.values()):
        raise CheckpointError(f"{source} is not a dictionary of tensors")
    weights: dict[str, Tensor] = {}
    for key, value in part.items():
        path = str(key).split(".")
        while path[0] in WRAPPERS and len(path) > 1:
            path.pop(0)
        name = ".".join(path)
        if name in weights:
            raise CheckpointError(f"{source} has two tensors for {name}, with and without a prefix")
        weights[name] = value
    return weights


def _absent(file: Path) -> str:
    if file.name not in RELEASES:
        known = ", ".join(f"{name} ({release.size})" for name, release in RELEASES.items())
        return f"{file} does not exist; the published files are {known}, under {URL}"
    return f"{file} does not exist; it has {RELEASES[file.name].size}{_where(file)}"


def _where(file: Path) -> str:
    if file.name not in RELEASES:
        return f" from {URL}"
    return f": get it with `curl -L -o {file} {URL}{file.name}`"
