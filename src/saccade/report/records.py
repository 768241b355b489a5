"""Prove that JSON of any origin is what a typed dictionary says: its annotations are the schema."""

import math
from collections.abc import Callable
from functools import cache
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

from saccade.errors import DataError


def check_record(value: object, kind: type, file: str) -> None:
    """Prove a value of this file to be a typed dictionary of this kind.

    Raises:
        DataError: a field is missing or of another kind.
    """
    try:
        _check(value, kind, "")
    except _FieldError as wrong:
        raise DataError(f"{file}: {wrong}") from None


class _FieldError(ValueError):
    """A field is missing or of another kind."""


def _check(value: Any, kind: Any, where: str) -> None:
    origin, args = get_origin(kind), get_args(kind)
    if origin is UnionType:  # X | None
        if value is not None:
            _check(value, args[0], where)
    elif is_typeddict(kind):
        _check_record(value, kind, where)
    elif origin is list:
        _expect(isinstance(value, list), value, "a list", where)
        for index, item in enumerate(value):
            _check(item, args[0], f"{where}[{index}]")
    elif origin is dict:
        _expect(isinstance(value, dict), value, "an object", where)
        for name, item in value.items():
            _check(item, args[1], f"{where}.{name}")
    elif origin is Literal:
        _expect(value in args, value, " or ".join(map(repr, args)), where)
    else:
        accepts, expected = SCALARS[kind]
        _expect(accepts(value), value, expected, where)


def _check_record(value: Any, kind: Any, where: str) -> None:
    """Check a record in one go: results have thousands, of which most fields are plain values."""
    _expect(isinstance(value, dict), value, "an object", where)
    for name, inner, accepts, required in _fields(kind):
        if name not in value:
            if required:
                place = f"{where}.{name}".lstrip(".")
                raise _FieldError(f"{place} is missing; compare again to write it anew")
        elif accepts is None or not accepts(value[name]):
            _check(value[name], inner, f"{where}.{name}".lstrip("."))


@cache
def _fields(kind: Any) -> list[tuple[str, Any, Callable[[object], bool] | None, bool]]:
    """List the fields of a record with what accepts a plain value, and whether they must be."""
    return [
        (name, inner, _plain(inner), name in kind.__required_keys__)
        for name, inner in get_type_hints(kind).items()
    ]


def _plain(kind: Any) -> Callable[[object], bool] | None:
    """Return what accepts a scalar, a literal, or one of them or null; None for other kinds."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return args.__contains__
    if origin is UnionType:
        inner = _plain(args[0])
        return None if inner is None else lambda value: value is None or inner(value)
    return SCALARS[kind][0] if kind in SCALARS else None


SCALARS: dict[type, tuple[Callable[[object], bool], str]] = {
    str: (lambda value: isinstance(value, str), "text"),
    bool: (lambda value: isinstance(value, bool), "true or false"),
    int: (lambda value: isinstance(value, int) and type(value) is not bool, "a whole number"),
    float: (
        lambda v: isinstance(v, int | float) and type(v) is not bool and math.isfinite(v),
        "a finite number, or null where it is not known",
    ),
}


def _expect(right: bool, value: object, expected: str, where: str) -> None:
    if not right:
        shown = repr(value)
        shown = shown if len(shown) <= 40 else f"{shown[:40]}…"
        raise _FieldError(f"{where} is {shown}, expected {expected}; correct the file")
