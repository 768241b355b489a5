"""Settings in a file: a whole record, like a run's ``experiment.json``, or a recipe and changes.

    recipe: two_stream:strong_tiny
    train:
      lr: 0.001
      samples: 20000
    window: {max_gap: 10}

JSON needs nothing, YAML the package pyyaml. Files are read strictly: every key is one that there
is, once, with a value of the kind that the recipe has there; all mistakes are told at once.
"""

import difflib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from saccade.config import from_dict, to_dict
from saccade.errors import ConfigError
from saccade.experiments.training import Training

SUFFIXES = (".json", ".yaml", ".yml")
KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a text"),
    list: ((list,), "a list"),
    dict: ((dict,), "a table"),
}


def read(path: Path, named: Callable[[str], Training]) -> Training:
    """Return the training of a file; ``named`` finds a recipe.

    Raises:
        ConfigError: the file cannot be read, or has keys or values that there are not.
    """
    content = _parsed(path)
    if "recipe" not in content:
        if "type" not in content:
            raise ConfigError(
                f"{path} names no recipe; begin it with recipe: NAME (`saccade train` lists them), "
                "or give a run's experiment.json"
            )
        made = from_dict(content)
    else:
        record = to_dict(named(str(content.pop("recipe"))))
        if wrong := list(_overlay(record, content, "")):
            raise ConfigError(f"{path} cannot be used:\n" + "\n".join(f"  {w}" for w in wrong))
        made = from_dict(record)
    if not isinstance(made, Training):
        raise ConfigError(f"{path} describes {type(made).__name__}, not a training")
    return made


def _overlay(record: dict[str, Any], changes: dict[str, Any], under: str) -> Iterator[str]:
    """Change a record in place; yield what is wrong with the changes."""
    for key, value in changes.items():
        name = f"{under}{key}"
        if key not in record:
            near = difflib.get_close_matches(key, record, n=1)
            hint = f"did you mean {under}{near[0]}?" if near else f"there are {', '.join(record)}"
            yield f"unknown key {name}; {hint}"
            continue
        old = record[key]
        if isinstance(value, dict) and isinstance(old, dict) and "type" not in value:
            yield from _overlay(old, value, f"{name}.")
            continue
        kinds, words = KINDS.get(type(old), ((object,), ""))
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds[0] in (int, float)):
            yield f"{name} is {value!r:.60}, expected {words}, like {old!s:.60}"
            continue
        number: Any = value
        record[key] = float(number) if isinstance(old, float) else value


def _parsed(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
        content = _yaml(text) if path.suffix != ".json" else json.loads(text, **STRICT)
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {path}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{path} is empty, or no table of settings")
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"{', '.join(twice)} is there twice")
    return dict(pairs)


STRICT: Any = {"object_pairs_hook": _once}


def _yaml(text: str) -> Any:
    try:
        import yaml  # asked for by who writes YAML
    except ImportError as error:
        raise ConfigError("YAML needs a package: pip install pyyaml, or write JSON") from error

    class Strict(yaml.SafeLoader):  # which builds no objects of Python's
        pass

    def table(loader: Any, node: Any) -> dict[str, Any]:
        loader.flatten_mapping(node)
        return _once(
            [
                (loader.construct_object(k), loader.construct_object(v, deep=True))
                for k, v in node.value
            ]
        )

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, table)
    try:
        return yaml.load(text, Strict)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
