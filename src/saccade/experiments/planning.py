"""Offline planning: does a world model's plan find the action that the robot took?

Several planners and adapters are asked about the same moments of held-out episodes, beside floors
that need no model.
"""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from saccade.errors import ConfigError
from saccade.evals import planning_findings as findings
from saccade.evals import sub_goals as chasing
from saccade.evals.calibration import POSITION
from saccade.evals.planners import CemConfig, Planner
from saccade.evals.planning import Moment, Planned, mean_over_episodes, plan_all, summarise
from saccade.experiments.moments import MomentsConfig, Recorded, adapted, recorded
from saccade.experiments.plans import (
    LoadConfig,
    about_model,
    fitted,
    header,
    name_of,
    require_warm,
    settings,
    told,
    write,
)
from saccade.experiments.source import Report, SourceConfig
from saccade.models.world_model import ActionWorldModel
from saccade.progress import progress
from saccade.types import Crop, WorldModel

BASE = "the base model"
KEPT = 2000  # moments of which every plan is written down


@dataclass(frozen=True, kw_only=True)
class OfflinePlanning:
    """How far are plans from what was done?

    Args:
        model: the base.
        source: the data set; its ``crop`` is replaced.
        crop: how frames become squares; None takes what the model was trained on, anything else
            must be that.
        adapters: folders, each compared with the base on the same moments.
        moments: which; their horizon is that of the planners.
        planners: the first one is that of the verdict.
        sub_goals: steps between sub-goals of whole episodes, such as (4, 10, 4); none by default.
        warm_start: start each search for a sub-goal from the plan before.
        seed: of every random number.
        resamples: of the intervals.
    """

    model: LoadConfig
    source: SourceConfig
    crop: Crop | None = None
    adapters: tuple[Path, ...] = ()
    moments: MomentsConfig = field(default_factory=MomentsConfig)
    planners: tuple[Planner, ...] = (CemConfig(),)
    sub_goals: tuple[int, ...] = ()
    warm_start: bool = False
    seed: int = 0
    resamples: int = 2000

    def check(self) -> None:
        """Refuse what cannot be asked.

        Raises:
            ConfigError: no planner, one twice, other horizons, or a start that is never warm.
        """
        kinds = [name_of(planner) for planner in self.planners]
        if not kinds or len(set(kinds)) < len(kinds):
            raise ConfigError(f"planners are {kinds}; name one or more, each once")
        horizons = {planner.horizon for planner in self.planners} | {self.moments.horizon}
        if len(horizons) > 1:
            raise ConfigError(f"moments and planners have horizons {sorted(horizons)}; give one")
        require_warm(self.warm_start, self.planners[0])
        if self.warm_start and not self.sub_goals:
            raise ConfigError("moments are planned one by one; a warm start needs sub-goals")

    def run(self, folder: Path, *, command: str, report: Report = lambda _: None) -> dict[str, Any]:
        """Plan at every moment; write ``results.json`` and ``report.html``.

        Raises:
            ConfigError: settings, data or a calibration that do not fit the model.
            CheckpointError: there is no model, or an adapter is another's.
            DataError: no episode is long enough.
        """
        self.check()
        began, model = time.perf_counter(), self.model.load()
        source = replace(self.source, crop=self.crop or model.config.crop)
        found = recorded(model, source, self.moments, report)
        chased = self._whole_episodes(model, source, report)
        planned: dict[tuple[str, str], Planned] = {}
        goals: list[dict[str, Any]] = []
        subjects, asked = [None, *self.adapters], {}
        for adapter in subjects:
            name = BASE if adapter is None else str(adapter)
            with nullcontext({}) if adapter is None else adapted(model, adapter) as record:
                ready = self.model.calibrated(model, found.about["camera"], report)
                asked[name] = {key: record.get(key) for key in ("step", "samples") if record}
                for planner in (fitted(p, model) for p in self.planners):
                    key = (name, name_of(planner))
                    planned[key] = self._plan(ready, planner, found, " by ".join(key))
                if chased:
                    goals.append(self._chase(ready, fitted(self.planners[0], model), chased, name))
        results = {
            **header("offline", f"Planning with {self.model.folder.name}", command),
            "model": about_model(model, self.model),
            "adapters": asked,
            "data": found.about | {"path": str(getattr(self.source.episodes, "root", ""))},
            "settings": settings(self),
            **self.judge(planned, goals, found),
            "seconds": {"all": time.perf_counter() - began},
        }
        return write(results, folder)

    def _plan(self, model: WorldModel, planner: Planner, found: Recorded, what: str) -> Planned:
        with told(f"planning, {what}", found.moments, "plans") as places:
            return plan_all(model, planner, places, found.mean_action, self.seed)

    def _whole_episodes(
        self, model: ActionWorldModel, source: SourceConfig, report: Report
    ) -> list[Moment]:
        """Encode as many frames of each episode as the sub-goals take, and one more."""
        if not self.sub_goals:
            return []
        length = sum(self.sub_goals) + 1
        wanted = replace(self.moments, context=length, horizon=1, per_episode=1)
        return recorded(model, source, wanted, report).moments

    def _chase(
        self, model: WorldModel, planner: Planner, places: Sequence[Moment], name: str
    ) -> dict[str, Any]:
        with progress(f"sub-goals, {name}", len(places), "episodes") as tell:
            chased = chasing.chase(
                model, planner, places, self.sub_goals, self.seed, self.warm_start,
                self.moments.context, tell,
            )  # fmt: skip
        summary = chasing.summarise(chased, self.resamples, self.seed)
        return {"model": name, "planner": name_of(planner), **summary}

    def judge(
        self,
        planned: dict[tuple[str, str], Planned],
        goals: Sequence[dict[str, Any]],
        found: Recorded,
    ) -> dict[str, Any]:
        """Summarise plans beside floors, the first run against each other, as JSON values."""
        runs, floors, alarms = [], {}, []
        first = error_of(next(iter(planned.values())))
        planners = {name_of(planner): planner for planner in self.planners}
        for (model, planner), one in planned.items():
            summary = summarise(one, self.resamples, self.seed)
            scores = summary.pop("scores")
            floors = floors or {k: v for k, v in scores.items() if k != "planned"}
            closer = mean_over_episodes(
                first - error_of(one), one.episode, self.resamples, self.seed
            )
            run = {"model": model, "planner": planner, "scores": scores["planned"], **summary}
            runs.append({**run, "closer_by": closer, "motion": motion(one)})
            where = f"{model} by {planner}"
            alarms += findings.offline_alarms(where, one, planners[planner], scores["planned"])
        verdict = findings.offline(runs, floors)
        verdict.details.extend(findings.sub_goals(goal, self.sub_goals) for goal in goals)
        return {
            "axes": list(next(iter(planned.values())).names),
            "floors": floors,
            "runs": runs,
            "sub_goals": list(goals),
            "alarms": [alarm.json() for alarm in alarms],
            "verdict": verdict.json(),
            "moments": [[m.episode, m.start] for m in found.moments][:KEPT],
        }


def error_of(planned: Planned) -> np.ndarray:
    """Return how far each planned displacement is from the true one, in metres."""
    columns = [planned.names.index(name) for name in POSITION]
    return np.linalg.norm((planned.guesses["planned"] - planned.true)[:, columns], axis=1)


def motion(planned: Planned) -> dict[str, Any]:
    """Write down true and planned actions, summed over the horizon, rounded to 1e-5."""
    rows = {"true": planned.true, "planned": planned.guesses["planned"]}
    return {name: np.round(values[:KEPT], 5).tolist() for name, values in rows.items()}
