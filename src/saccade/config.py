"""Configs are frozen dataclasses that know what they build, and survive a trip through JSON."""

import dataclasses
import difflib
import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from saccade.errors import ConfigError

T = TypeVar("T", covariant=True)


@dataclass(frozen=True, kw_only=True)
class Config(Generic[T]):
    """Base of every config; ``build`` returns the object that the config describes."""

    def build(self) -> T:
        """Construct the object, with fresh weights where it has any."""
        raise NotImplementedError


def to_dict(config: Any) -> Any:
    """Convert nested configs to JSON values; each config records its own class."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        kind = f"{type(config).__module__}:{type(config).__qualname__}"
        fields = {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"type": kind, **fields}
    if isinstance(config, (list, tuple)):
        return [to_dict(item) for item in config]
    return {"path": str(config)} if isinstance(config, Path) else config


def from_dict(value: Any) -> Any:
    """Invert ``to_dict``.

    Only dataclasses of this package, or of modules that the caller has already imported, are
    built: a file from outside can never make us import code.

    Raises:
        ConfigError: an unknown class, or fields that the class does not have.
    """
    if isinstance(value, dict) and set(value) == {"path"}:
        return Path(value["path"])
    if isinstance(value, dict):
        cls = _dataclass_named(value.get("type"))
        known = {f.name for f in dataclasses.fields(cls)}
        given = {key: from_dict(item) for key, item in value.items() if key != "type"}
        for key in given.keys() - known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it has {sorted(known)}"
            raise ConfigError(f"{value['type']} has no field {key!r}{hint}")
        needed = {f.name for f in dataclasses.fields(cls) if _is_required(f)}
        if needed - given.keys():
            raise ConfigError(f"{value['type']} lacks the fields {sorted(needed - given.keys())}")
        return cls(**given)
    return tuple(from_dict(item) for item in value) if isinstance(value, list) else value


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _dataclass_named(kind: object) -> Any:
    module, _, name = str(kind).partition(":")
    ours = module.partition(".")[0] == __package__
    cls = None
    if module in sys.modules or ours:
        try:
            cls = getattr(importlib.import_module(module), name, None)
        except ModuleNotFoundError as error:
            if error.name != module:  # an optional package that the module needs
                raise
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise ConfigError(
            f"{kind!r:.200} is not a config that may be built; import the module that defines it "
            "first"
        )
    return cls
