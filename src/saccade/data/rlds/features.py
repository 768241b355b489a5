"""What ``features.json`` of a TFDS data set says of the keys in its records.

Nested names are joined by ``/``, as in ``steps/observation/wrist_image_left``. What is under
``steps`` has one value, row or picture for each step, one after the other in a flat list.
https://www.tensorflow.org/datasets/api_docs/python/tfds/features and
https://github.com/google-research/rlds
"""

import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped

from saccade.data.files.folder import Folder
from saccade.errors import DataError

Kind = Literal["number", "text", "image", "packed", "other"]

STEPS = "steps"
LARGEST = 1 << 28  # values of one step; more is a damaged file
MOST_AXES = 16  # of a shape
DEEPEST = 32  # levels of names
PACKED = {"bool", "float16", "float32", "float64"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
NODES = {"featuresDict", "sequence", "tensor", "image", "text", "classLabel", "scalar"}


@dataclass(frozen=True)
class Feature:
    """One key: how it is stored, and the shape of one value (without steps).

    ``packed`` is a tensor stored as bytes, each compressed if ``encoding`` is ``zlib``; ``other``
    cannot be read, because of ``why``.
    """

    kind: Kind
    shape: tuple[int, ...] | None = ()  # None: unknown before reading
    dtype: str = ""
    encoding: str = "none"
    per_step: bool = False
    why: str = ""

    @property
    def size(self) -> int:
        """How many numbers one value has."""
        return math.prod(self.shape or ())


def load_features(folder: Folder, name: str) -> dict[str, Feature]:
    """Load ``features.json``.

    Raises:
        DataError: it is damaged, or has no episodes of steps.
    """
    where = folder.label(name)
    root = load_json(folder, name)
    features = dict(_walk(root, "", False, 0, where))
    if not any(feature.per_step for feature in features.values()):
        raise DataError(
            f"{where} describes no episodes (no sequence `{STEPS}`); give an RLDS data set"
        )
    return features


def load_json(folder: Folder, name: str) -> dict[str, Any]:
    """Load a JSON object.

    Raises:
        DataError: the file is missing, or holds something else.
    """
    data = folder.read(name)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{folder.label(name)} is no JSON ({error!s:.60}); download it again"
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"{folder.label(name)} holds no JSON object; download it again")
    return value


def unpack(values: Sequence[memoryview | bytes], feature: Feature) -> Shaped[np.ndarray, " n"]:
    """Return tensors that are stored as bytes, one after the other.

    Raises:
        DataError: one has another size than its shape and type make, however much it unpacks to.
    """
    dtype = np.dtype(np.uint8 if feature.dtype == "bool" else feature.dtype).newbyteorder("<")
    need, found = feature.size * dtype.itemsize, []
    for value in values:
        if feature.encoding == "zlib":
            try:
                value = zlib.decompressobj().decompress(value, need + 1)
            except zlib.error as error:
                raise DataError(f"it is not compressed as features.json says ({error})") from error
        if len(value) != need:
            raise DataError(f"a value has {len(value)} bytes, features.json says {need}")
        found.append(np.frombuffer(value, dtype))
    return np.concatenate(found) if found else np.empty(0, dtype)


def _walk(
    node: Any, name: str, per_step: bool, depth: int, where: str
) -> Iterator[tuple[str, Feature]]:
    """Yield every leaf below a node with its name.

    ``depth`` counts levels, so that a hostile file ends; lists of lists are stored in another way
    (``ragged``), which nobody uses for what we read.
    """
    if not isinstance(node, dict) or depth > DEEPEST:
        raise DataError(f"{where}: {name or 'the top'} is {node!r:.40}, expected a feature")
    kinds = NODES & node.keys()
    if len(kinds) != 1:
        found = [key for key in node if key not in ("pythonClassName", "description")]
        yield name, Feature("other", per_step=per_step, why=f"features like {found} are not read")
        return
    (kind,) = kinds
    about = _table(node[kind], name, where)
    if kind == "featuresDict":
        for child, below in _table(about.get("features", {}), name, where).items():
            path = f"{name}/{child}" if name else child
            yield from _walk(below, path, per_step, depth + 1, where)
    elif kind == "sequence" and name == STEPS:
        yield from _walk(about.get("feature"), name, True, depth + 1, where)
    elif kind == "sequence":
        for path, leaf in _walk(about.get("feature"), name, per_step, depth + 1, where):
            nested = Feature("other", per_step=per_step, why="lists inside of steps are not read")
            listed = Feature(leaf.kind, None, leaf.dtype, leaf.encoding)
            yield path, nested if per_step or leaf.shape is None else listed
    else:
        yield name, _leaf(kind, about, per_step, f"{where}: {name}")


def _leaf(kind: str, about: Mapping[str, Any], per_step: bool, where: str) -> Feature:
    if kind == "text":
        return Feature("text", per_step=per_step)
    if kind in ("classLabel", "scalar"):
        return Feature("number", (), "int64", per_step=per_step)
    shape = _shape(_table(about.get("shape", {}), where, where).get("dimensions", []), where)
    dtype = str(about.get("dtype", "uint8"))
    encoding = str(about.get("encoding", "none")).lower()
    if kind == "image":
        return Feature("image", shape, dtype, str(about.get("encodingFormat", "")), per_step)
    if dtype == "string":
        return Feature("text", shape, dtype, per_step=per_step)
    if shape is None and per_step:
        return Feature("other", per_step=True, why="tensors of changing size are not read")
    if encoding in ("bytes", "zlib"):
        if dtype not in PACKED:
            why = f"numbers of type {dtype:.20} are not read"
            return Feature("other", per_step=per_step, why=why)
        return Feature("packed", shape, dtype, encoding, per_step)
    return Feature("number", shape, dtype, per_step=per_step)


def _shape(dimensions: Any, where: str) -> tuple[int, ...] | None:
    """Return a shape; None if a dimension is unknown (-1 or absent)."""
    try:
        shape = tuple(-1 if n in (None, "", "None") else int(n) for n in dimensions)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where} has the shape {dimensions!r:.40}, expected numbers") from error
    if min(shape, default=0) < 0:
        return None
    if math.prod(shape) > LARGEST or len(shape) > MOST_AXES:
        raise DataError(f"{where} has the shape {list(shape)!s:.80}; download features.json again")
    return shape


def _table(value: Any, name: str, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: {name} has {value!r:.40}, expected an object; download it again")
    return value


def names_of(features: Mapping[str, Feature], keys: Sequence[str]) -> tuple[str, ...]:
    """Name each number of some keys, flat: ``key_0``, ``key_1``; a scalar has its key's name."""
    names: list[str] = []
    for key in keys:
        short = key.rsplit("/", 1)[-1]
        count = features[key].size
        names += [short] if features[key].shape == () else [f"{short}_{i}" for i in range(count)]
    return tuple(names)
