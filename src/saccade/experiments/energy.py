"""Energy landscapes of a world model and of adapters in it, on the same moments of recordings.

Is the minimum of what a model imagines at the action that the robot took? One study computes the
base and each set of adapters, with floors and controls, into ``results.json`` and one page.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

from saccade.checkpoint import CONFIG, write_atomic
from saccade.config import to_dict
from saccade.errors import CheckpointError, ConfigError
from saccade.evals.energy import Metric
from saccade.experiments.energy_exploring import Asked, controls_of, entry, explore, judged, spread
from saccade.experiments.energy_grids import GridsConfig
from saccade.experiments.evidence import commit, machine, versions
from saccade.experiments.moments import (
    ADAPTERS,
    MomentsConfig,
    Scene,
    adapted,
    load_world_model,
    recorded,
)
from saccade.experiments.source import Report, SourceConfig
from saccade.models import lora
from saccade.models.vjepa2.official import RELEASES, URL
from saccade.models.vjepa2.official_ac import load_ac
from saccade.models.world_model import ActionWorldModel
from saccade.report.landscape_page import write_landscape_report
from saccade.report.landscape_results import FORMAT, KIND
from saccade.report.pictures import save_pictures
from saccade.report.results import RESULTS
from saccade.types import Crop

Precision = Literal["float32", "bfloat16"]
BASE, PICTURES = "base", "pictures"
OFFICIAL = "vjepa2-ac-vitg.pt"


@dataclass(frozen=True, kw_only=True)
class EnergyStudy:
    """Where is the minimum of the imagined energy, beside the true action?

    Args:
        model: folder of a world model, or the official ``vjepa2-ac-vitg.pt``.
        adapters: folders of adapters in its predictor, or of the runs that trained them.
        source: the data set; its ``crop`` is replaced.
        crop: how frames become squares; None takes what the model was trained on, anything else
            is refused.
        moments: which moments of it.
        grids: which actions.
        metric: mean absolute (``l1``) or squared (``l2``) distance of features.
        memory: gigabytes that actions imagined at once may take.
        drawn: moments whose landscapes are kept and drawn.
        resamples: of the bootstrap over episodes.
        seed: of the bootstrap, and of the goals of other episodes.
        device: ``auto`` takes the accelerator if there is one.
        precision: of the weights; bfloat16 halves their memory.
        step_seconds: how long a step of the official file lasts, which it does not say.
    """

    model: Path
    adapters: tuple[Path, ...] = ()
    source: SourceConfig
    crop: Crop | None = None
    moments: MomentsConfig
    grids: GridsConfig
    metric: Metric = "l1"
    memory: float = 2.0
    drawn: int = 3
    resamples: int = 2000
    seed: int = 0
    device: str = "auto"
    precision: Precision = "float32"
    step_seconds: float | None = None

    def run(self, folder: Path, *, command: str, report: Report = lambda _: None) -> dict[str, Any]:
        """Compute all landscapes; write ``results.json`` and ``report.html``.

        Raises:
            ConfigError: data, grids and model do not fit, or adapters are named twice.
            CheckpointError: there is no model, or adapters are of another one.
            DataError: no episode is as long as a moment.
        """
        began = time.perf_counter()
        labels = self.labels()
        model = self.load()
        asked = self.asked(model.action_names)
        for path in self.adapters:  # what cannot be loaded shall not be found out hours later
            with adapted(model, path):
                pass
        source = replace(self.source, crop=self.crop or model.config.crop)
        found = recorded(model, source, self.moments, report)
        aside = controls_of(found.scenes, model.action_names, self.seed)
        base = explore(model, found.scenes, aside, asked, BASE)
        entries = [entry(BASE, base, None, asked)]
        records = []
        for label, path in zip(labels, self.adapters, strict=True):
            with adapted(model, path) as record:
                explored = explore(model, found.scenes, aside, asked, label)
            records.append(about_adapters(label, path, record))
            step = record.get("step")
            step = step if isinstance(step, int) else None
            entries.append(entry(label, explored, base, asked, step))
        results = {
            "kind": KIND,
            "format": FORMAT,
            "title": f"Energy landscapes of {self.model.resolve().name}",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "commands": [command],
            "versions": versions(),
            "machine": machine(),
            "commit": commit(),
            "model": about_model(model, self.model),
            "adapters": records,
            "data": {"path": place_of(source), **found.about},
            "settings": to_dict(self),
            **judged(entries, found, asked),
            "skipped": aside.skipped,
            "pictures": keep_pictures(found.scenes, asked.drawn, folder),
            "seconds": {"all": time.perf_counter() - began},
        }
        write_atomic(folder / RESULTS, json.dumps(results, indent=1, allow_nan=False) + "\n")
        write_landscape_report(results, folder)
        return results

    def asked(self, names: Sequence[str]) -> Asked:
        """Resolve what is computed, for a model's axes of actions.

        Raises:
            ConfigError: see ``GridsConfig.resolve``; or a count cannot be.
        """
        if self.memory <= 0 or self.drawn < 1 or self.resamples < 1:
            raise ConfigError(
                f"memory {self.memory:g}, drawn {self.drawn} and resamples {self.resamples} must "
                "be above 0"
            )
        grids = self.grids.resolve(names)
        return Asked(grids, self.metric, self.memory, self.drawn, self.resamples, self.seed)

    def load(self) -> ActionWorldModel:
        """Load the world model from its folder, or from the official file.

        Raises:
            CheckpointError: neither is there, with what to get and how to convert it.
            ConfigError: the official file without the duration of a step; no such device.
        """
        self.require_model()
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"there is no device {device!r} here; give --device cpu")
        if self.model.is_dir():
            return load_world_model(self.model, device, self.precision)
        assert self.step_seconds is not None
        dtype = getattr(torch, self.precision)
        return load_ac(self.model, step_seconds=self.step_seconds, dtype=dtype).to(device)

    def require_model(self) -> None:
        """Refuse a model that is not there, before anything is loaded.

        Raises:
            CheckpointError: neither folder nor file, with what to get and how to convert it.
            ConfigError: the official file without the duration of a step, or with it a folder.
        """
        if (self.model / CONFIG).is_file():
            if self.step_seconds is not None:
                raise ConfigError(
                    f"{self.model} knows how long its steps last; step_seconds is for the official "
                    "file: leave it out"
                )
            return
        if self.model.suffix == ".pt" and self.model.is_file():
            if self.step_seconds is None:
                raise ConfigError(
                    f"{self.model} does not say how long a step lasts; give --step-seconds, 0.25 "
                    "by the paper"
                )
            return
        raise CheckpointError(
            f"{self.model} is no world model; give the folder world_model of a run, or the "
            f"official {OFFICIAL} ({RELEASES[OFFICIAL].size}): get it with `curl -L -O "
            f"{URL}{OFFICIAL}` and convert it once with `saccade export convert {OFFICIAL} --out "
            "FOLDER --step-seconds 0.25`"
        )

    def labels(self) -> list[str]:
        """Name the adapters: by the ends of their paths, or whole paths where ends are equal.

        Raises:
            ConfigError: adapters are named twice.
        """
        if len({path.resolve() for path in self.adapters}) < len(self.adapters):
            told = [str(path) for path in self.adapters]
            raise ConfigError(f"adapters are {told}; name each once")
        ends = [path.resolve().name for path in self.adapters]
        alone = len(set(ends)) == len(ends) and BASE not in ends
        return ends if alone else [str(path) for path in self.adapters]


def keep_pictures(scenes: Sequence[Scene], drawn: int, folder: Path) -> list[dict[str, str]]:
    """Write what was seen at each drawn moment, and its goal; return their paths."""
    kept = []
    for i in spread(len(scenes), drawn):
        scene = scenes[i]
        place = f"{scene.moment.episode:05d}_{scene.moment.start:05d}"
        seen = {"present": scene.present, "goal": scene.goal}
        pictures = {f"{place}_{name}": pixels[None] / 255 for name, pixels in seen.items()}
        paths = save_pictures(pictures, folder / PICTURES)
        kept.append(
            {name: f"{PICTURES}/{p.name}" for name, p in zip(seen, paths.values(), strict=True)}
        )
    return kept


def about_model(model: ActionWorldModel, path: Path) -> dict[str, Any]:
    """Describe the base, by what its numbers depend on."""
    config, weight = model.config, next(model.predictor.parameters())
    return {
        "path": str(path),
        "digest": lora.base_digest(model.predictor),
        "encoder": type(model.encoder).__name__,
        "encoder_parameters": sum(p.numel() for p in model.encoder.parameters()),
        "predictor_parameters": sum(p.numel() for p in model.predictor.parameters()),
        "step_seconds": config.step_seconds,
        "crop": config.crop,
        "gripper": config.gripper,
        "state_names": list(config.state_names),
        "action_names": list(config.action_names),
        "device": str(weight.device),
        "precision": str(weight.dtype).removeprefix("torch."),
    }


def about_adapters(label: str, path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Describe adapters: where they are, a digest of their weights, and what came with them."""
    files = (path / name / lora.WEIGHTS for name in ADAPTERS)
    (weights,) = [file for file in files if file.is_file()][:1]
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:16]
    return {"name": label, "path": str(path), "digest": digest, "record": record}


def place_of(source: SourceConfig) -> str:
    """Return the path of a data set, or the kind of one that has none."""
    return str(getattr(source.episodes, "root", type(source.episodes).__name__))
