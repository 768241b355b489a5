"""Calibration from episodes without labels: which way does the model think the axes point?

Every second episode is fitted to; the others say what the fit is worth.
"""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from saccade.errors import ConfigError, DataError
from saccade.evals import planning_findings as findings
from saccade.evals.calibration import Calibration, fit, infer_motion
from saccade.evals.planners import CemConfig, Planner
from saccade.evals.planning import Moment, mean_over_episodes
from saccade.experiments.moments import MomentsConfig, adapted, recorded
from saccade.experiments.plans import (
    LoadConfig,
    about_model,
    fitted,
    header,
    name_of,
    settings,
    told,
    write,
)
from saccade.experiments.source import Report, SourceConfig
from saccade.types import Crop, WorldModel

FILE = "calibration.json"


@dataclass(frozen=True, kw_only=True)
class Calibrating:
    """How is a model's frame turned under this camera?

    Args:
        model: it must not be calibrated already.
        source: the data set; its ``crop`` is replaced.
        crop: how frames become squares; None takes what the model was trained on, anything else
            must be that.
        adapter: folder of adapters that are in use; none by default.
        moments: from which frame to which motion is inferred.
        planner: infers it.
        scale: fit one factor for all axes too.
        seed: of every random number.
        resamples: of the intervals.
    """

    model: LoadConfig
    source: SourceConfig
    crop: Crop | None = None
    adapter: Path | None = None
    moments: MomentsConfig = field(default_factory=MomentsConfig)
    planner: Planner = field(default_factory=CemConfig)
    scale: bool = False
    seed: int = 0
    resamples: int = 2000

    def run(self, folder: Path, *, command: str, report: Report = lambda _: None) -> dict[str, Any]:
        """Fit; write ``calibration.json``, ``results.json`` and ``report.html``.

        Raises:
            ConfigError: settings or data that do not fit the model.
            DataError: fewer than two episodes, or motion that leaves a turn open.
        """
        if self.model.calibration is not None:
            raise ConfigError("a calibrated model is not calibrated again; leave calibration out")
        if self.planner.horizon != self.moments.horizon:
            raise ConfigError(
                f"moments have horizon {self.moments.horizon}, the planner {self.planner.horizon}; "
                "give one"
            )
        began, model = time.perf_counter(), self.model.load()
        source = replace(self.source, crop=self.crop or model.config.crop)
        found = recorded(model, source, self.moments, report)
        with nullcontext() if self.adapter is None else adapted(model, self.adapter):
            known, rows = self.measure(model, fitted(self.planner, model), found.moments)
        known.save(folder / FILE)
        results = {
            **header("calibrate", f"Calibration of {self.model.folder.name}", command),
            "model": about_model(model, self.model),
            "adapter": None if self.adapter is None else str(self.adapter),
            "data": found.about | {"path": str(getattr(self.source.episodes, "root", ""))},
            "settings": settings(self),
            "planner": name_of(self.planner),
            **rows,
            "seconds": {"all": time.perf_counter() - began},
        }
        return write(results, folder)

    def measure(
        self, model: WorldModel, planner: Planner, places: Sequence[Moment]
    ) -> tuple[Calibration, dict[str, Any]]:
        """Fit to every second episode and judge by the rest, as JSON values."""
        episodes = sorted({place.episode for place in places})
        if len(episodes) < 2:
            raise DataError(
                f"there is {len(episodes)} episode to calibrate with; a second one is needed to "
                "tell what the fit is worth"
            )
        with told("inferring motion", places, "moves") as taken:
            inferred, true, episode = infer_motion(model, planner, taken, self.seed)
        mine = np.isin(episode, episodes[::2])
        known = fit(
            inferred[mine], true[mine], episode[mine], self.scale, self.resamples, self.seed
        )
        held_out = self._gain(known, inferred[~mine], true[~mine], episode[~mine])
        said = asdict(known)
        turned = known.scale * inferred @ known.matrix.T
        alarms = findings.calibration_alarms(said, held_out)
        return known, {
            "calibration": said,
            "held_out": held_out,
            "moves": {
                "held_out": (~mine).tolist(),
                "inferred": np.round(inferred, 5).tolist(),
                "calibrated": np.round(turned, 5).tolist(),
                "true": np.round(true, 5).tolist(),
            },
            "alarms": [alarm.json() for alarm in alarms],
            "verdict": findings.calibrating(said, held_out).json(),
        }

    def _gain(
        self,
        known: Calibration,
        inferred: Float64[np.ndarray, "n 3"],
        true: Float64[np.ndarray, "n 3"],
        episode: np.ndarray,
    ) -> dict[str, Any]:
        """Average the distance from the truth before and after, over episodes that were left."""
        before = np.linalg.norm(true - inferred, axis=1)
        after = np.linalg.norm(true - known.scale * inferred @ known.matrix.T, axis=1)
        still = np.linalg.norm(true, axis=1)
        parts = {
            "before": before,
            "after": after,
            "zero": still,
            "better_by": before - after,
            "better_than_zero": still - after,
        }
        scores = {
            name: mean_over_episodes(values, episode, self.resamples, self.seed)
            for name, values in parts.items()
        }
        return {"episodes": len(np.unique(episode)), "moves": len(true), **scores}
