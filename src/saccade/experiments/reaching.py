"""Closed loop in Meta-World: does a trained world model bring the hand to where a picture shows it?

The model sees what its training data showed: pictures of the same size, with the same sensor
noise, made squares by the same crop. (What a video codec changes is not imitated.)
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from saccade.data.transforms import Framing
from saccade.errors import ConfigError, DataError
from saccade.evals import planning_findings as findings
from saccade.evals.closed_loop import Arm, Environment, ReachConfig, goals_of, reach
from saccade.evals.planners import CemConfig, Planner
from saccade.experiments.moments import adapted
from saccade.experiments.plans import (
    LoadConfig,
    about_model,
    fitted,
    header,
    name_of,
    require_warm,
    settings,
    write,
)
from saccade.experiments.source import Report
from saccade.models.world_model import ActionWorldModel
from saccade.progress import progress
from saccade.report.pictures import save_strip
from saccade.types import WorldModel

BEHAVIOURS = 4  # the planner and three others
COLLECTION = "collection.json"  # of ``saccade collect``


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """How the simulator's pictures come about; the defaults are those of ``saccade collect``.

    Args:
        camera: the one that the model was trained on.
        size: height and width of the recorded pictures, before they are framed.
        supersample: how many times larger, per side, pictures are drawn before averaging.
        sensor_noise: standard deviation added to every pixel, in grey levels.
    """

    camera: str = "corner2"
    size: int = 128
    supersample: int = 2
    sensor_noise: float = 2.0


@dataclass(frozen=True, kw_only=True)
class ClosedLoop:
    """Plan, act, look again; beside doing nothing, random actions and the scripted expert.

    Args:
        model: its states and actions are x, y, z and gripper.
        task: of Meta-World, with or without -v3.
        adapter: folder of adapters that are in use; none by default.
        view: how pictures come about.
        recorded: data set of ``saccade collect`` that the model was trained on, whose pictures
            replace those of ``view``; the camera must be one of its own.
        reach: starts, goals and counts.
        planner: its horizon is free; the first action of each plan is taken.
        unit: metres that an action of 1 moves the simulator's hand by.
    """

    model: LoadConfig
    task: str = "reach"
    adapter: Path | None = None
    view: ViewConfig = field(default_factory=ViewConfig)
    recorded: Path | None = None
    reach: ReachConfig = field(default_factory=ReachConfig)
    planner: Planner = field(default_factory=CemConfig)
    unit: float = 0.01

    def run(self, folder: Path, *, command: str, report: Report = lambda _: None) -> dict[str, Any]:
        """Act; write ``results.json``, two strips of pictures and ``report.html``.

        Raises:
            ConfigError: settings that do not fit the model or the simulator.
            CheckpointError: there is no model, or the adapter is another's.
        """
        from saccade.sim.metaworld import MetaWorld  # an extra: it takes seconds to import

        require_warm(self.reach.warm_start, self.planner)
        began, model = time.perf_counter(), self.model.load()
        view = self.view if self.recorded is None else view_of(self.recorded, self.view.camera)
        ready = self.model.calibrated(model, view.camera, report)
        with (
            nullcontext() if self.adapter is None else adapted(model, self.adapter),
            MetaWorld(self.task, view.size, view.supersample) as world,
        ):
            arm = arm_of(world, model, view, self.unit)
            rows, film, goals = self.act(ready, fitted(self.planner, model), arm)
        save_strip(_values(film), folder / "planned.png")
        save_strip(_values(goals), folder / "goals.png")
        results = {
            **header("reach", f"Closed loop with {self.model.folder.name}", command),
            "model": about_model(model, self.model),
            "adapter": None if self.adapter is None else str(self.adapter),
            "data": {
                "task": world.task,
                "camera": view.camera,
                "recorded": None if self.recorded is None else str(self.recorded),
                "picture": f"{view.size} px, noise {view.sensor_noise:g}, as {model.config.crop}",
                "image_size": model.encoder.preprocessing.image_size,
                "actions": sum(self.reach.goal_steps),
                "control_steps": arm.steps,
            },
            "settings": settings(replace(self, view=view)),
            "planner": name_of(self.planner),
            **rows,
            "pictures": {"one planned episode": "planned.png", "its goals": "goals.png"},
            "seconds": {"all": time.perf_counter() - began},
        }
        return write(results, folder)

    def act(
        self, model: WorldModel, planner: Planner, arm: Arm
    ) -> tuple[dict[str, Any], list[UInt8[Tensor, "3 h w"]], list[UInt8[Tensor, "3 h w"]]]:
        """Run all behaviours; return JSON values, and pictures of one episode and of its goals."""
        film: list[UInt8[Tensor, "3 h w"]] = []
        with _counted(self.reach) as step:

            def watch(behaviour: str, episode: int, seen: Arm) -> None:
                step()
                if (behaviour, episode) == ("planned", 0):
                    film.append(seen.picture())

            found = reach(model, planner, arm, self.reach, watch)
        goals = [goal.image for goal in goals_of(arm, self.reach, (self.reach.seed, 0))]
        alarms = findings.closed_loop_alarms(found)
        verdict = findings.closed_loop(found, self.task)
        rows = {
            "reach": found,
            "alarms": [alarm.json() for alarm in alarms],
            "verdict": verdict.json(),
        }
        return rows, film, goals


def arm_of(world: Environment, model: ActionWorldModel, view: ViewConfig, unit: float) -> Arm:
    """Show a simulator to a model as its training data showed the world."""
    return Arm(
        world,
        model,
        view.camera,
        framing=Framing.named(model.config.crop, model.encoder.preprocessing.image_size),
        noise=view.sensor_noise,
        unit=unit,
        closed_is_one=model.config.gripper == "closed_is_1",
    )


def view_of(folder: Path, camera: str) -> ViewConfig:
    """Read how a collection's pictures came about.

    Raises:
        DataError: the folder holds no collection of ours.
        ConfigError: it was not seen by this camera.
    """
    try:
        made = json.loads((folder / COLLECTION).read_text())["settings"]
        view = ViewConfig(
            camera=camera,
            size=int(made["size"]),
            supersample=int(made["supersample"]),
            sensor_noise=float(made["sensor_noise"]),
        )
        cameras = list(made["cameras"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{folder} has no {COLLECTION} of saccade collect ({error}); give the picture's size "
            "and noise by --view instead"
        ) from error
    if camera not in cameras:
        raise ConfigError(f"{folder} was not seen by {camera!r} but by {cameras}; give one of them")
    return view


def _values(images: list[UInt8[Tensor, "3 h w"]]) -> Tensor:
    return torch.stack(images).float() / 255


@contextmanager
def _counted(config: ReachConfig) -> Iterator[Callable[[], None]]:
    """Yield a function that is called before and after each action, and tells progress."""
    total = BEHAVIOURS * config.episodes * (sum(config.goal_steps) + 1)
    done = 0
    with progress("acting", total, "looks") as tell:

        def step() -> None:
            nonlocal done
            done += 1
            tell(done)

        yield step
