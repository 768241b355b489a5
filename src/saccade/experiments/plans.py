"""What every way of asking a planner needs: a model, planners by name, and ``results.json``."""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from saccade.checkpoint import write_atomic
from saccade.config import to_dict
from saccade.errors import ConfigError
from saccade.evals.calibration import Calibrated, Calibration
from saccade.evals.planners import CemConfig, GradientConfig, MppiConfig, Planner
from saccade.evals.planning import Moment
from saccade.experiments.evidence import commit, machine, versions
from saccade.experiments.moments import load_world_model
from saccade.experiments.source import Report
from saccade.models.lora import base_digest
from saccade.models.world_model import ActionWorldModel
from saccade.progress import progress
from saccade.report.planning_page import write_planning_report
from saccade.report.results import RESULTS
from saccade.types import WorldModel

KIND, FORMAT = "planning", 1
PLANNERS: dict[str, type[Planner]] = {
    "cem": CemConfig,
    "mppi": MppiConfig,
    "gradient": GradientConfig,
}
SLOPE = 3  # a gradient takes as long as so many evaluations: once forward, twice backward


@dataclass(frozen=True, kw_only=True)
class LoadConfig:
    """Which world model, and how it is run.

    Args:
        folder: what training or conversion wrote.
        calibration: file of ``saccade plan calibrate``; plans are then in the robot's frame.
        device: ``auto`` takes a GPU where there is one.
        precision: of the weights; bfloat16 halves their memory.
    """

    folder: Path
    calibration: Path | None = None
    device: str = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"

    def load(self) -> ActionWorldModel:
        """Load the model, not yet calibrated.

        Raises:
            CheckpointError: the folder holds no world model.
        """
        return load_world_model(self.folder, self.device, self.precision)

    def calibrated(
        self, model: ActionWorldModel, camera: str, report: Report = lambda _: None
    ) -> WorldModel:
        """Return the model with the calibration applied, if there is one.

        Raises:
            DataError: the file is no calibration.
            ConfigError: it was made for another model or camera.
        """
        if self.calibration is None:
            return model
        found = Calibration.load(self.calibration)
        beside = self.calibration.parent / RESULTS
        if not beside.is_file():
            report(
                f"{self.calibration} has no {RESULTS} beside it: whether it belongs to this model "
                "and camera cannot be checked"
            )
            return Calibrated(model, found)
        made = json.loads(beside.read_text())
        pairs = ((made["model"]["digest"], base_digest(model.predictor), "model"),)
        pairs += ((made["data"]["camera"], camera, "camera"),)
        for known, here, what in pairs:
            if known != here:
                raise ConfigError(
                    f"{self.calibration} was made for the {what} {known}, this is {here}; "
                    "calibrate again"
                )
        return Calibrated(model, found)


class Ahead(NamedTuple):
    """What a plan will cost, from imagining a few candidates."""

    evaluations: int
    seconds: float
    megabytes: float  # that one candidate may take
    timed: int  # candidates


def beside(first: Planner, kind: str) -> Planner:
    """Return another planner with the same horizon, box and cost, to be compared with ``first``.

    A gradient costs as much as three evaluations.
    """
    shared = {name: getattr(first, name) for name in ("horizon", "limits", "metric", "memory")}
    cost = first.evaluations * (SLOPE if isinstance(first, GradientConfig) else 1)
    if kind == "gradient":
        plain = GradientConfig(**shared)
        steps = max(1, round(cost / (SLOPE * plain.starts)) - 1)
        return replace(plain, iterations=steps)
    samples, iterations = max(2, cost // 10), 10
    if isinstance(first, CemConfig | MppiConfig):
        samples, iterations = first.samples, first.iterations
    if kind == "mppi":
        return MppiConfig(samples=samples, iterations=iterations, **shared)
    return CemConfig(
        samples=samples, iterations=iterations, elites=min(CemConfig().elites, samples), **shared
    )


def name_of(planner: Planner) -> str:
    """Return the name that the command line has for a planner, or its class's."""
    names = {kind: name for name, kind in PLANNERS.items()}
    return names.get(type(planner), type(planner).__name__)


def fitted(planner: Planner, model: ActionWorldModel) -> Planner:
    """Return a planner whose forced closing has the sign of the model's own gripper."""
    sign = 1.0 if model.config.gripper == "closed_is_1" else -1.0
    closing = sign * abs(planner.limits.closing)
    return replace(planner, limits=replace(planner.limits, closing=closing))


@torch.no_grad()
def ahead(model: ActionWorldModel, planner: Planner, candidates: int = 16) -> Ahead:
    """Time a few candidates over features of noise, and say what one plan will cost.

    Raises:
        ConfigError: limits that do not fit the model's actions.
    """
    shape, device = model.config.predictor, next(model.predictor.parameters()).device
    features = torch.randn(1, shape.grid[0] * shape.grid[1], shape.feature_dim, device=device)
    state = torch.zeros(1, len(model.state_names), device=device)
    context = model.look(features, state, state.new_zeros(0, len(model.action_names)))
    slopes = isinstance(planner, GradientConfig)
    needed = model.candidate_bytes(context, planner.horizon, slopes)
    space = planner.limits.space(model.action_names, planner.horizon)
    count = max(1, min(candidates, int(planner.memory * 1e9 / needed)))
    actions = space.draw(count, torch.Generator().manual_seed(0)).to(device)
    began = 0.0
    for _ in range(2):  # the first call is slower
        began = time.perf_counter()
        float(model.imagine(context, actions).sum())  # waits for the device
    each = (time.perf_counter() - began) / count * (SLOPE if slopes else 1)
    return Ahead(planner.evaluations, each * planner.evaluations, needed / 1e6, count)


def require_warm(warm_start: bool, planner: Planner) -> None:
    """Refuse a warm start that starts from nothing.

    Raises:
        ConfigError: the plan before has no later action.
    """
    if warm_start and planner.horizon < 2:
        raise ConfigError(
            "a warm start goes on with the later actions of the plan before, and a plan of horizon "
            "1 has none; give a horizon of 2 or more"
        )


@contextmanager
def told(what: str, places: Sequence[Moment], unit: str) -> Iterator[Iterable[Moment]]:
    """Yield the moments, and say how many are done while they are taken."""
    with progress(what, len(places), unit) as tell:

        def each() -> Iterator[Moment]:
            for done, place in enumerate(places):
                tell(done)
                yield place
            tell(len(places))

        yield each()


def header(mode: str, title: str, command: str) -> dict[str, Any]:
    """Return what every ``results.json`` of planning begins with."""
    return {
        "kind": KIND,
        "format": FORMAT,
        "mode": mode,
        "title": title,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commands": [command],
        "versions": versions(),
        "machine": machine(),
        "commit": commit(),
    }


def about_model(model: ActionWorldModel, loaded: LoadConfig) -> dict[str, Any]:
    """Describe the model, and which file was calibrated with, as JSON values."""
    config = model.config
    return {
        "folder": str(loaded.folder),
        "digest": base_digest(model.predictor),
        "encoder": type(model.encoder).__name__,
        "predictor_parameters": sum(p.numel() for p in model.predictor.parameters()),
        "step_seconds": model.step_seconds,
        "crop": config.crop,
        "gripper": config.gripper,
        "states": list(model.state_names),
        "actions": list(model.action_names),
        "device": str(next(model.predictor.parameters()).device),
        "precision": loaded.precision,
        "calibration": None if loaded.calibration is None else str(loaded.calibration),
    }


def settings(value: Any) -> Any:
    """Return the fields of an experiment as JSON values, paths as texts."""
    return _as_text(to_dict(value))


def _as_text(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"path"}:
            return value["path"]
        return {key: _as_text(item) for key, item in value.items()}
    return [_as_text(item) for item in value] if isinstance(value, list) else value


def write(results: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write ``results.json`` and its page."""
    write_atomic(folder / RESULTS, json.dumps(results, indent=1, allow_nan=False) + "\n")
    write_planning_report(results, folder)
    return results
