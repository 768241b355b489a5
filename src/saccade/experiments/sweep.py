"""One recipe over a list of settings: every combination is trained, one table compares them."""

import itertools
import json
import time
import types
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from saccade.checkpoint import write_atomic
from saccade.config import from_dict, to_dict
from saccade.errors import ConfigError
from saccade.experiments.parallel import default_jobs, train_all
from saccade.experiments.source import Report
from saccade.experiments.training import Training

SCHEMA = 1
ABOUT = (
    "Losses are means over the same held-out clips of `select` episodes. The order, and so any "
    "choice among the members, was made on them: report the chosen one on `test` episodes. No "
    "interval is known from one seed each; vary train.seed too to see how far seeds alone differ."
)


class Member(NamedTuple):
    """One combination of the settings."""

    name: str
    settings: dict[str, str]  # as they were given
    training: Training


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A recipe and what to vary in it.

    Args:
        recipe: its name.
        training: what it returns.
        vary: texts like ``train.lr=1e-5,1e-4``; several make a product.
    """

    recipe: str
    training: Training
    vary: tuple[str, ...]

    def members(self) -> list[Member]:
        """Return every combination, in the order of the settings.

        Raises:
            ConfigError: as ``grid``.
        """
        return grid(self.training, self.vary)

    def run(
        self,
        folder: Path,
        *,
        command: str,
        jobs: int = 0,
        resume: bool = False,
        report: Report = lambda _: None,
    ) -> dict[str, Any]:
        """Train what is not trained yet; write ``results.json`` and return it.

        ``jobs`` members train at once; 0 means one per core, or one where there is a GPU.

        Raises:
            ConfigError: a member's folder holds another training, or an unfinished one, without
                ``resume``.
        """
        began = time.perf_counter()
        members = self.members()
        waiting = self.unfinished(folder, resume)
        parts = members[0].training.open(report)  # decode frames before several runs ask for them
        train_all(waiting, jobs or default_jobs(), report)
        rows = sorted(
            (row(member, folder / member.name) for member in members),
            key=lambda found: found["loss"],
        )
        results = {
            "kind": "sweep",
            "schema": SCHEMA,
            "recipe": self.recipe,
            "command": command,
            "vary": list(self.vary),
            "training": to_dict(self.training),
            "data": {
                "fingerprint": parts.whole.fingerprint,
                "camera": parts.camera,
                "train_episodes": len(parts.train.lengths),
                "select_episodes": len(parts.select.lengths),
                "clips": self.training.eval_samples,
            },
            "about": ABOUT,
            "best": rows[0]["name"],
            "members": rows,
            "seconds": time.perf_counter() - began,
        }
        write_atomic(folder / "results.json", json.dumps(results, indent=2) + "\n")
        return results

    def unfinished(self, folder: Path, resume: bool) -> dict[str, tuple[Training, Path]]:
        """Return the members that are still to be trained, and where.

        Raises:
            ConfigError: a folder holds another training, or an unfinished one, without ``resume``.
        """
        left: dict[str, tuple[Training, Path]] = {}
        for member in self.members():
            place = folder / member.name
            record = place / "experiment.json"
            begun = record.exists()
            if begun and from_dict(json.loads(record.read_text())) != member.training:
                raise ConfigError(
                    f"{place} holds a run with other settings; choose another --out, or --overwrite"
                )
            if (place / "result.json").exists():
                continue
            if begun and not resume:
                raise ConfigError(f"{place} holds a run that is not finished; --resume goes on")
            left[member.name] = member.training, place
        return left


def row(member: Member, place: Path) -> dict[str, Any]:
    """Return what a finished member came to."""
    result = json.loads((place / "result.json").read_text())
    scores, baseline = result["scores"], result["baseline"]
    shuffled = scores.get("eval/shuffled_actions")
    return {
        "name": member.name,
        "folder": member.name,
        "settings": member.settings,
        "steps": result["steps"],
        "samples": result["samples"],
        "loss": scores["eval/loss"],
        "baseline": baseline,
        "baseline_loss": scores[f"eval/{baseline}"],
        "ratio": scores["eval/ratio"],
        "shuffled_ratio": shuffled / max(scores["eval/loss"], 1e-12) if shuffled else None,
        "best_step": result["best_step"],
        "trained_parameters": result["trained_parameters"],
        "samples_per_second": result["samples_per_second"],
        "peak_memory_mb": result["peak_memory_mb"],
        "seconds": seconds(place / "timing.jsonl"),
        "alarms": result["alarms"],
    }


def seconds(clock: Path) -> float:
    """Add up how long each process of a run, resumed or not, was at it."""
    times = [json.loads(line)["seconds"] for line in clock.read_text().splitlines()]
    ends = (now for now, then in itertools.pairwise([*times, 0.0]) if then < now)
    return sum(ends)


def grid(training: Training, vary: Sequence[str]) -> list[Member]:
    """Return a training for every combination of values, named after them.

    Raises:
        ConfigError: a text is not of the form FIELD=VALUE,VALUE, or a field or value cannot be.
    """
    axes: dict[str, list[str]] = {}
    for text in vary:
        path, equals, values = text.partition("=")
        path = path.replace("-", "_")
        listed = values.split(",")
        if not (path and equals) or "" in listed or len(set(listed)) < len(listed) or path in axes:
            raise ConfigError(
                f"{text!r} is not of the form FIELD=VALUE,VALUE with each field and value once, "
                "like train.lr=1e-5,1e-4"
            )
        axes[path] = listed
    if not axes:
        raise ConfigError("nothing is to vary; give --vary, like train.lr=1e-5,1e-4")
    short = [path.rpartition(".")[2] for path in axes]
    labels = short if len(set(short)) == len(short) else list(axes)
    members = []
    for values in itertools.product(*axes.values()):
        made = training
        for path, value in zip(axes, values, strict=True):
            made = changed(made, path, value)
        pairs = (f"{label}={value}" for label, value in zip(labels, values, strict=True))
        name = ",".join(pairs).replace("/", "_")
        members.append(Member(name, dict(zip(axes, values, strict=True)), made))
    return members


def changed(config: Any, path: str, text: str) -> Any:
    """Return a config with one field, perhaps of a config inside, set to a value.

    Raises:
        ConfigError: there is no such field, or the text is no value of its type.
    """
    name, _, rest = path.partition(".")
    if not is_dataclass(config) or isinstance(config, type):
        raise ConfigError(f"{config!r} has no field {name!r}; choose a recipe that has a config")
    known = [field.name for field in fields(config)]
    if name not in known:
        raise ConfigError(f"{type(config).__name__} has no field {name!r}; it has {known}")
    if rest:
        return replace(config, **{name: changed(getattr(config, name), rest, text)})
    return replace(config, **{name: parsed(text, get_type_hints(type(config))[name], name)})


def parsed(text: str, kind: Any, name: str) -> Any:
    """Read a text as a value of a field's type.

    Raises:
        ConfigError: it is none, or the type has no single value.
    """
    choices = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    expected = []
    for choice in choices:
        if get_origin(choice) is Literal:
            options = {str(option): option for option in get_args(choice)}
        elif choice is type(None):
            options = {"None": None}
        elif choice is bool:
            options = {"True": True, "False": False}
        elif choice in (int, float, str, Path):
            try:
                return choice(text)
            except ValueError:
                options = {choice.__name__: None}
                expected += options
                continue
        else:
            continue
        if text in options:
            return options[text]
        expected += options
    raise ConfigError(
        f"{name} cannot be {text!r}; it is one of {expected}"
        if expected
        else f"{name} is no single value, so it cannot vary; vary a field of it"
    )
