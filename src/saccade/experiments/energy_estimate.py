"""What a landscape study would compute, and what memory it takes at most, before it is run."""

import json

from saccade.checkpoint import CONFIG, read_weights
from saccade.config import from_dict
from saccade.errors import CheckpointError
from saccade.experiments.energy import EnergyStudy
from saccade.experiments.energy_grids import Grids
from saccade.experiments.moments import ADAPTERS, MomentsConfig
from saccade.models import lora
from saccade.models.vjepa2.encoder import VJepa2Config
from saccade.models.vjepa2.official import read_parts
from saccade.models.world_model import ENCODER, ActionWorldModelConfig, vjepa2_ac

FEATURE = 4  # bytes of one number of what is encoded
BYTES = {"float32": 4, "bfloat16": 2}


def estimate(study: EnergyStudy) -> list[str]:
    """Say it in lines; the data set is opened, not decoded, and no weight is moved.

    Raises:
        CheckpointError: there is no model, or a folder holds no adapters.
        ConfigError: grids that the model cannot be asked about.
        DataError: there is no such data set.
    """
    study.require_model()
    for path in study.adapters:
        if not any((path / name / lora.RECORD).is_file() for name in ADAPTERS):
            raise CheckpointError(f"{path} holds no {lora.RECORD} beside adapters; name another")
    config, numbers = _known(study)
    grids = study.asked(config.action_names).grids
    there = len(study.source.episodes.build().lengths)
    models = 1 + len(study.adapters)
    moments = _most(study.moments, there)
    each = grids.evaluations(2)
    known = ", ".join([*study.labels()]) or "none"
    lines = [
        f"models: {models} (the base, {numbers:,} parameters; adapters: {known})",
        f"data: {there} episodes in all, part {study.moments.part!r}, "
        f"{study.crop or config.crop!r} crop, one step each {config.step_seconds:g} s",
        *_grids(grids),
    ]
    if moments is None:
        lines.append(f"moments: all there are; {each:,} imagined actions at each, for each model")
        return [*lines, _memory(study, numbers)]
    total = models * moments * each
    shape = config.predictor
    frame = shape.grid[0] * shape.grid[1] * shape.feature_dim * FEATURE
    features = moments * (study.moments.context + 1) * frame
    return [
        *lines,
        f"moments: at most {moments:,}; {each:,} imagined actions at each, {total:,} in all, "
        f"each {study.moments.horizon} step{'s' * (study.moments.horizon > 1)} ahead",
        f"{_memory(study, numbers)} + {_gigabytes(features)} for encoded frames",
    ]


def _known(study: EnergyStudy) -> tuple[ActionWorldModelConfig, int]:
    """Return a model's config and count its weights, which are mapped and not read."""
    folder = study.model
    if folder.is_dir():
        record = json.loads((folder / CONFIG).read_text())["preprocessing"]
        if "world_model" not in record:
            raise CheckpointError(f"{folder} holds no world model; give the folder of one")
        config = from_dict(record["world_model"])
        parts = [folder, folder / ENCODER] if (folder / ENCODER).is_dir() else [folder]
        count = sum(value.numel() for part in parts for value in read_weights(part).values())
        return config, count
    weights = read_parts(folder, ("target_encoder", "predictor"))
    count = sum(value.numel() for part in weights.values() for value in part.values())
    assert study.step_seconds is not None
    return vjepa2_ac(VJepa2Config(frames="each"), study.step_seconds), count


def _most(config: MomentsConfig, there: int) -> int | None:
    """Bound the moments; None where an episode may have any number."""
    if not config.per_episode:
        return None
    return (min(config.episodes, there) if config.episodes else there) * config.per_episode


def _grids(grids: Grids) -> list[str]:
    """List the grids with their sizes."""
    named = {
        "main grid": [grids.main],
        "wider grids": [wide for _, wide in grids.widened],
        "slices": list(grids.slices),
        "sweeps": list(grids.sweeps),
    }
    return [
        f"{label}: "
        + "; ".join(
            f"{','.join(one.names)} ±{'/'.join(f'{w:g}' for w in one.half_width)} "
            f"({len(one.cells)} actions)"
            for one in some
        )
        for label, some in named.items()
        if some
    ]


def _memory(study: EnergyStudy, numbers: int) -> str:
    weights = numbers * BYTES[study.precision]
    return (
        f"memory: at most {study.memory:g} GB for actions imagined at once + "
        f"{_gigabytes(weights)} of weights"
    )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2g} GB"
