"""What several verbs need: recipes by name, data by path, folders that may be replaced."""

import importlib
import inspect
import os
import pkgutil
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import saccade.recipes
from saccade.commands import recipe_file
from saccade.config import Config
from saccade.data.episodes import Episodes
from saccade.data.formats import configure
from saccade.errors import ConfigError
from saccade.experiments.asking import LEFT_OUT
from saccade.experiments.training import Training
from saccade.report.terminal import summary_tables
from saccade.train.checkpoint import lock
from saccade.train.distributed import rank_and_world


def say(text: str) -> None:
    """Tell how it goes, on the error stream of the first rank; results go to standard output."""
    if rank_and_world()[0] == 0:
        sys.stderr.write(f"{text}\n")  # in one call: several threads report


def load_recipe(name: str) -> Training:
    """Call ``MODULE:FUNCTION``, one of ours or of any module on the path; or read a file.

    Raises:
        ConfigError: there is no such recipe; it lists those there are. Or the file is wrong.
    """
    if name.endswith(recipe_file.SUFFIXES):
        return recipe_file.read(Path(name), load_recipe)
    module, _, function = name.partition(":")
    ours = {info.name for info in pkgutil.iter_modules(saccade.recipes.__path__)}
    path = f"saccade.recipes.{module}" if module in ours else module
    found = None
    try:
        if all(part.isidentifier() for part in path.split(".")):
            found = getattr(importlib.import_module(path), function, None)
    except ModuleNotFoundError as error:
        if not f"{path}.".startswith(f"{error.name}."):  # something that the recipe needs
            raise
    if not callable(found):
        raise ConfigError(f"there is no recipe {name!r}; ours are {', '.join(recipes())}")
    training = found()
    if not isinstance(training, Training):
        raise ConfigError(f"{name} returns {type(training).__name__}, not a Training")
    return training


def recipes() -> dict[str, str]:
    """Return every recipe of ours with the first line of its docstring."""
    found = {}
    for info in pkgutil.iter_modules(saccade.recipes.__path__):
        module = importlib.import_module(f"saccade.recipes.{info.name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            own = function.__module__ == module.__name__
            signature = inspect.signature(function)
            made = signature.return_annotation
            training = isinstance(made, type) and issubclass(made, Training)
            if own and training and not signature.parameters:
                found[f"{info.name}:{name}"] = (function.__doc__ or "").splitlines()[0]
    return found


def list_recipes() -> None:
    """Print the recipes as a table."""
    table = Table("recipe", "what it trains", box=None, header_style="bold")
    for name, about in recipes().items():
        table.add_row(name, about)
    Console().print(table)


def with_data(
    training: Training,
    root: str | None,
    options: Sequence[str] = (),
    held_out_tasks: tuple[str, ...] = (),
    held_out_scenes: tuple[str, ...] = (),
) -> Training:
    """Return the training on another data set of any format, with tasks and scenes held out."""
    source = training.source
    if root is not None:
        found = data_set(root, options)
        if type(found) is type(source.episodes):  # what is not asked for stays the recipe's
            given = {option.partition("=")[0] for option in options} | {"root"}
            found = replace(source.episodes, **{name: getattr(found, name) for name in given})
        source = replace(source, episodes=found)
    if held_out_tasks:
        source = replace(source, held_out_tasks=held_out_tasks)
    if held_out_scenes:
        source = replace(source, held_out_scenes=held_out_scenes)
    return replace(training, source=source)


def data_set(root: str, options: Sequence[str] = ()) -> Config[Episodes]:
    """Find the reader for a data set; ``options`` are texts like ``state=joint``.

    Raises:
        ConfigError: an option is not of that form, or the reader does not have it.
        DataError: no data set that we know is there.
    """
    pairs = [option.partition("=") for option in options]
    if odd := [name for name, equals, _ in pairs if not (name and equals)]:
        raise ConfigError(f"data options {odd} are not of the form name=value")
    return configure(root, **{name: value for name, _, value in pairs})


def replace_folder(folder: Path, mark: str) -> None:
    """Delete a folder that one of our verbs has written, and nothing else.

    Raises:
        ConfigError: it has files in it, but none that matches ``mark``, as our folders have.
        BusyError: a process trains in it.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not any(folder.glob(mark)):
        raise ConfigError(
            f"{folder} has no {mark}, so saccade did not write it; --overwrite will not delete it"
        )
    for held in folder.rglob(".lock"):
        with lock(held.parent):
            pass
    shutil.rmtree(folder)


def command_line(verb: str, args: list[str]) -> str:
    """Return the command as a user could type it."""
    return shlex.join(["saccade", verb, *args])


def show_results(results: dict[str, Any], folder: Path) -> None:
    """Print the summary, the verdict, what was left out, and where the report is."""
    columns = os.environ.get("COLUMNS")
    console = Console(width=int(columns) if columns else None if sys.stdout.isatty() else 110)
    console.print()
    for table in summary_tables(results, console.width):
        console.print(table)
    console.print(f"\nVerdict: {results['verdict']['sentence']}", highlight=False)
    details = results["verdict"]["details"]
    elsewhere = (LEFT_OUT, "On ", "No held-out task")  # other splits, and what was not asked
    told = [*details[:3], *(line for line in details[3:] if line.startswith(elsewhere))]
    console.print("\n".join(told) + "\n", highlight=False)
    print(f"report: {(folder / 'report.html').resolve()}")
