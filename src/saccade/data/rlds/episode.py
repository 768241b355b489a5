"""One record of an RLDS data set: an episode, whose values are read by key when asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped

from saccade.data.rlds import tfrecord
from saccade.data.rlds.features import Feature, unpack
from saccade.data.rlds.tfrecord import Values
from saccade.errors import DataError

METADATA = "episode_metadata/"
SMALL = 64  # numbers of an episode that count as metadata
CHEAP = ("number", "text", "packed", "image")  # to count, in this order


@dataclass(frozen=True)
class Layout:
    """Where everything is in a record; ``spans`` fills as lists of bytes are walked."""

    values: Mapping[str, Values]
    spans: dict[str, Int64[np.ndarray, "n 2"]] = field(default_factory=dict)


class Episode:
    """The values of one record.

    Args:
        data: the payload.
        features: what ``features.json`` says of its keys.
        layout: as parsed before, or None.
        steps: how many there are, or None: they are counted, in whatever is cheapest to count.

    Every method raises ``DataError`` where the record does not hold what its features say.
    """

    def __init__(
        self,
        data: tfrecord.Bytes,
        features: Mapping[str, Feature],
        layout: Layout | None = None,
        steps: int | None = None,
    ) -> None:
        self.data, self.features = data, features
        self.layout = Layout(tfrecord.parse(data)) if layout is None else layout
        self.steps: int | None = None
        self.steps = self._count() if steps is None else steps

    def __contains__(self, key: str) -> bool:
        """Whether the record has anything under the key."""
        return self._values(key).kind != tfrecord.UNSET

    def numbers(self, key: str) -> Shaped[np.ndarray, "..."]:
        """Return the numbers of each step [t, *shape], or those of the episode [*shape].

        As stored: floats of any width as float32, integers and truth values as int64. Tensors
        that are stored as bytes keep their type.
        """
        feature, values = self.features[key], self._values(key)
        if feature.kind == "packed":
            flat = unpack([self.data[a:b] for a, b in self.spans(key).tolist()], feature)
        elif values.kind == tfrecord.FLOATS or "float" in feature.dtype:
            flat = tfrecord.floats(self.data, values)
        else:
            flat = tfrecord.integers(self.data, values)
        return flat.reshape(self._shape(len(flat), feature, feature.size))

    def texts(self, key: str) -> list[str]:
        """Return the text of each step, or those of the episode."""
        found: list[str] = []
        for start, end in self.spans(key).tolist():
            try:
                found.append(bytes(self.data[start:end]).decode())
            except UnicodeDecodeError as error:
                raise DataError(f"text {len(found)} is no UTF-8 ({error.reason})") from error
        return found

    def spans(self, key: str) -> Int64[np.ndarray, "t 2"]:
        """Return start and end of each picture, text or packed tensor."""
        if key not in self.layout.spans:
            feature = self.features[key]
            spans = tfrecord.spans(self.data, self._values(key))
            self._shape(len(spans), feature, feature.size if feature.kind == "text" else 1)
            self.layout.spans[key] = spans
        return self.layout.spans[key]

    def metadata(self) -> dict[str, Any]:
        """Return the texts and small numbers that belong to the whole episode, as JSON values.

        Keys are without ``episode_metadata/``.
        """
        found: dict[str, Any] = {}
        for key, feature in self.features.items():
            if feature.per_step or key not in self:
                continue
            name = key.removeprefix(METADATA)
            if feature.kind == "text":
                texts = self.texts(key)
                found[name] = texts[0] if feature.shape == () else texts
            elif feature.kind == "number" and feature.size <= SMALL:
                numbers = self.numbers(key)
                found[name] = (numbers != 0 if feature.dtype == "bool" else numbers).tolist()
        return found

    def _count(self) -> int:
        """Count ``is_first``, or else the smallest thing that is there; 0 if nothing is."""
        steps = {k: f for k, f in self.features.items() if f.per_step and f.size}
        known = {k: f for k, f in steps.items() if f.kind in CHEAP}
        keys = sorted(known, key=lambda key: (CHEAP.index(known[key].kind), known[key].size))
        for key in sorted(keys, key=lambda key: not key.endswith("/is_first")):
            if key in self:
                found = self.numbers(key) if known[key].kind == "number" else self.spans(key)
                return len(found) // (known[key].size if known[key].kind == "text" else 1)
        return 0

    def _values(self, key: str) -> Values:
        return self.layout.values.get(key, Values(tfrecord.UNSET, ()))

    def _shape(self, found: int, feature: Feature, each: int) -> tuple[int, ...]:
        """Return the shape of a list, after checking that it has so many values."""
        shape, expected = feature.shape or (), each
        if feature.per_step:
            steps = found // each if self.steps is None and each else self.steps or 0
            shape, expected = (steps, *shape), steps * each
        elif feature.shape is None:
            shape, expected = (found,), found
        if found != expected:
            times = f" ({self.steps} steps of {each})" if feature.per_step else ""
            raise DataError(f"it has {found} values, expected {expected}{times}")
        return shape
