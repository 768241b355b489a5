"""Adapters of a run, alone and by stage, to share: ``saccade export lora``.

    OUT/baseline/        before the first step: B is zero, so it computes what the base does
        step_005000/     each checkpoint that the run has kept
        best/            at the best held-out loss
        final/           at the end
        README.md        what each scored, and how to load it
        experiment.json  the settings of the training
        manifest.json    size and sha256 of every other file

A stage is a folder as ``models/lora.py`` writes it, peft's own too. The base, gigabytes that never
changed, stays where it is; its digest is what ties the adapters to it.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from saccade import __version__
from saccade.checkpoint import read_weights, write_atomic
from saccade.errors import CheckpointError, ConfigError
from saccade.experiments.bundle import MANIFEST, manifest, whole
from saccade.models import lora
from saccade.models.lora import LoraConfig
from saccade.train import checkpoint

SETTINGS, RESULT, METRICS = "experiment.json", "result.json", "metrics.jsonl"
CARD = "README.md"
ABSENT = "base"  # where the card expects a base that is not on this machine
MARK = "baseline/saccade.json"  # what every export has, and hardly another folder
PREDICTOR = "model.predictor."  # before the names of its weights in a checkpoint
KNOWN = ("base", "lora", "tensors")  # of a record, which is written anew


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """What the folder of a finished training of adapters says of itself."""

    folder: Path
    settings: dict[str, Any]
    lora: LoraConfig
    base: str  # digest of the network that they belong to
    steps: int
    best_step: int
    scores: Mapping[int, Mapping[str, float]]  # held-out ones, by step

    @property
    def batch_size(self) -> int:
        """Clips of one step."""
        return self.settings["train"]["batch_size"]


class Weights(NamedTuple):
    """Adapters by their names in a file, and what else is known of them."""

    adapters: dict[str, Tensor]
    base: str
    data: str | None  # fingerprint of the training data, which checkpoints know
    record: Mapping[str, Any]


class Stage(NamedTuple):
    """One exported folder."""

    name: str
    step: int
    samples: int
    held_out: Mapping[str, float] | None  # None: nothing was scored at this step


def read_run(folder: Path) -> FinishedRun:
    """Read what a run says of itself.

    Raises:
        ConfigError: it is no run, or one that trained no adapters.
        CheckpointError: it has not ended, or a file is damaged.
    """
    folder = Path(folder)
    if not (folder / SETTINGS).is_file():
        raise ConfigError(f"{folder} has no {SETTINGS}; give the folder of a run of saccade train")
    settings = _json(folder / SETTINGS)
    if not settings.get("objective", {}).get("lora"):
        raise ConfigError(
            f"{folder} was trained without adapters; what it trained is exported in the folder "
            "already (adapters come of --objective.lora)"
        )
    if not (folder / RESULT).is_file():
        raise CheckpointError(
            f"{folder} has no {RESULT}, so its training has not ended; run saccade train again "
            "with --resume, then export"
        )
    result = _json(folder / RESULT)
    _, config, record = lora.read_lora(folder / "adapters")
    scores = {**_scores(folder / METRICS), result["steps"]: _evaluated(result["scores"])}
    return FinishedRun(
        folder=folder,
        settings=settings,
        lora=config,
        base=record["base"],
        steps=result["steps"],
        best_step=result["best_step"],
        scores=scores,
    )


def export_lora(run: FinishedRun, out: Path) -> list[Stage]:
    """Write every stage, the card and the manifest; complete, or nothing.

    Raises:
        ConfigError: there are files in the folder.
        CheckpointError: a checkpoint is damaged, of another base, or has other adapters; or the
            folder of the base holds another one by now.
    """
    base = _base(run, out)
    final = from_adapters(run.folder / "adapters")
    data, stages = None, list[Stage]()
    with whole(out) as place:
        for name, (step, source) in _sources(run).items():
            weights = from_checkpoint(source) if name.startswith("step_") else from_adapters(source)
            _require_same(weights, final, source)
            data = weights.data or data
            if not stages:
                stages.append(_write(run, place, "baseline", 0, untrained(weights), data))
            stages.append(_write(run, place, name, step, weights, data))
        write_atomic(place / SETTINGS, json.dumps(run.settings, indent=2) + "\n")
        write_atomic(place / CARD, card(run, stages, base, data, len(final.adapters)))
        write_atomic(place / MANIFEST, json.dumps(manifest(place), indent=2) + "\n")
    return stages


def from_adapters(folder: Path) -> Weights:
    """Read the adapters that a training has exported itself.

    Raises:
        CheckpointError: there are none, or they are damaged.
    """
    adapters, _, record = lora.read_lora(folder)
    more = {name: value for name, value in record.items() if name not in KNOWN}
    return Weights(adapters, record["base"], None, more)


def from_checkpoint(folder: Path) -> Weights:
    """Read the adapters in a checkpoint, and digest the rest of the predictor, one weight at once.

    Raises:
        CheckpointError: it is damaged, or has no adapters.
    """
    saved = checkpoint.read(folder)
    held = saved.objective
    names = sorted(n.removeprefix(PREDICTOR) for n in held if n.startswith(PREDICTOR))
    base = lora.digest_of((name, held[PREDICTOR + name]) for name in names)
    adapters = {
        lora.file_name(name): held[PREDICTOR + name] for name in names if lora.is_adapter(name)
    }
    if not adapters:
        raise CheckpointError(f"{folder} holds no adapters; give a run that trained some")
    return Weights(adapters, base, saved.state["identity"].get("data"), {})


def untrained(weights: Weights) -> Weights:
    """Return adapters that change nothing, B being zero; A is that of the weights given."""
    adapters = {
        name: torch.zeros_like(value) if ".lora_B." in name else value
        for name, value in weights.adapters.items()
    }
    return weights._replace(adapters=adapters, record={})


def card(
    run: FinishedRun, stages: list[Stage], base: str | None, data: str | None, tensors: int
) -> str:
    """Write what was trained, what each stage scored against its floors, and how to load it."""
    settings, config = run.settings, run.lora
    scale = f"{config.alpha:g} / {f'sqrt({config.rank})' if config.rslora else config.rank}"
    return (
        f"# LoRA adapters of a world model\n\n"
        f"Rank {config.rank}, scale {scale}, on {', '.join(config.targets)} of every block of the "
        f"predictor: {tensors} tensors. Trained by saccade {__version__} on "
        f"{settings['train']['samples']:,} clips (data {data or 'of unknown fingerprint'}; seed "
        f"{settings['train']['seed']}). They belong to the base with the digest `{run.base}` and "
        "to no other; the base is not in this folder.\n\n"
        "| folder | step | clips seen | held-out loss | copied frame | shuffled actions |\n"
        "|---|---|---|---|---|---|\n" + "".join(map(_row, stages)) + "\n"
        f"Losses are means over one fixed list of held-out clips (at most "
        f"{settings['eval_samples']}, from episodes that were not trained on), of one seed, "
        "without intervals: `saccade energy` measures with them. `baseline` is the base itself. "
        "Floors: *copied frame* is the loss of predicting that nothing changes, *shuffled actions* "
        "that of acting on other clips' actions; where it is no higher than the loss, actions are "
        "not used. `best` was chosen by these very clips, so its loss is a little too good.\n\n"
        "## Load\n\nIn this folder, with `pip install 'saccade[finetune]'`:\n\n"
        f"```python\n{_opening(base, run.base)}{LOADING}```\n\n"
        "With peft alone, which does not check that the base is the right one:\n\n"
        f"```python\n{PEFT}```\n\n"
        "`saccade.json` in each folder has step, scores, data and settings; `manifest.json` the "
        "sha256 of every file.\n"
    )


LOADING = """
record = load_lora(Path("final"), model.predictor)  # every tensor and the base are checked
print(record["step"], record["held_out"])

remove_lora(model.predictor)  # bit for bit the base again, so another stage can follow
load_lora(Path("baseline"), model.predictor)  # computes what the base does
remove_lora(model.predictor)
"""

PEFT = """from peft import PeftModel
from safetensors.torch import load_file

weights = load_file("final/adapter_model.safetensors")  # W becomes W + scale * B @ A
predictor = PeftModel.from_pretrained(model.predictor, "final")
print(len(weights), "tensors,", sum(value.numel() for value in weights.values()), "numbers")
"""


def _opening(base: str | None, digest: str) -> str:
    """Return the lines that open the base: from its folder, or drawn as the training drew it."""
    common = "from saccade.models.lora import load_lora, remove_lora\n"
    if base is not None:
        where = "put or link the base here" if base == ABSENT else "where the base lies"
        return (
            f"from pathlib import Path\n\n{common}"
            "from saccade.models.world_model import ActionWorldModel\n\n"
            f"base = Path({base!r})  # {where}, seen from this folder: {digest}\n"
            "model = ActionWorldModel.from_pretrained(base)\n"
        )
    return (
        "import json\nfrom pathlib import Path\n\nimport torch\n\n"
        f"from saccade.config import from_dict\n{common}\n"
        f'training = from_dict(json.loads(Path("{SETTINGS}").read_text()))\n'
        "torch.manual_seed(training.train.seed)  # the base was fresh, and drawn from this seed\n"
        "model = training.objective.model.build().eval()\n"
    )


def _row(stage: Stage) -> str:
    found = stage.held_out or {}
    values = [
        f"{found[name]:.4g}" if name in found else "not scored"
        for name in ("loss", "copy", "shuffled_actions")
    ]
    return f"| `{stage.name}` | {stage.step:,} | {stage.samples:,} | {' | '.join(values)} |\n"


def _sources(run: FinishedRun) -> dict[str, tuple[int, Path]]:
    """List the stages by name, with the step of each and where its weights are."""
    found = {
        f"step_{step:06d}": (step, checkpoint.folder_of(run.folder, step))
        for step in checkpoint.steps(run.folder)
    }
    if (run.folder / "best" / "adapters").is_dir():
        found["best"] = run.best_step, run.folder / "best" / "adapters"
    return found | {"final": (run.steps, run.folder / "adapters")}


def _write(
    run: FinishedRun, out: Path, name: str, step: int, weights: Weights, data: str | None
) -> Stage:
    """Write one stage."""
    stage = Stage(name, step, step * run.batch_size, run.scores.get(step))
    record = {
        **weights.record,
        "stage": name,
        "step": step,
        "samples": stage.samples,
        "held_out": stage.held_out,
        "held_out_clips": run.settings["eval_samples"],
        "before": run.scores.get(0),
        "data": data,
        "saccade": __version__,
        "settings": run.settings,
    }
    lora.write_lora(out / name, weights.adapters, run.lora, run.base, record)
    return stage


def _require_same(weights: Weights, final: Weights, source: Path) -> None:
    """Refuse adapters that are not those of the run at another step."""
    if weights.base != final.base:
        raise CheckpointError(
            f"{source} was trained on the network {weights.base}, the run's adapters on "
            f"{final.base}; they are of two trainings: export each from its own run folder"
        )
    shapes, expected = (
        {n: tuple(v.shape) for n, v in w.adapters.items()} for w in (weights, final)
    )
    if shapes != expected:
        other = sorted(n for n in shapes.keys() | expected if shapes.get(n) != expected.get(n))
        raise CheckpointError(
            f"{source} has {len(shapes)} tensors, the run's adapters {len(expected)}; {len(other)} "
            f"differ: {', '.join(other[:4])}; it is of another training"
        )


def _base(run: FinishedRun, out: Path) -> str | None:
    """Return where the base lies, seen from the export; None where no folder holds it.

    Raises:
        CheckpointError: another network lies there by now.
    """
    named = run.settings["objective"]["model"].get("folder")
    if named is None:
        return None
    folder = Path(named["path"] if isinstance(named, dict) else named)
    if not folder.is_dir():  # the run came from another machine
        return ABSENT
    found = lora.digest_of(sorted(read_weights(folder).items()))
    if found != run.base:
        raise CheckpointError(
            f"{folder}, the base of {run.folder}, holds the network {found}, but the adapters were "
            f"trained on {run.base}; put the old one back"
        )
    return Path(os.path.relpath(folder.resolve(), out.resolve())).as_posix()


def _scores(file: Path) -> dict[int, dict[str, float]]:
    """Read what was scored on held-out clips, by step."""
    try:
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        found = {line["step"]: _evaluated(line) for line in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); copy the whole run") from error
    return {step: scores for step, scores in found.items() if scores}


def _evaluated(record: Mapping[str, int | float]) -> dict[str, float]:
    return {n.removeprefix("eval/"): v for n, v in record.items() if n.startswith("eval/")}


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); copy the whole run") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} holds no settings; copy the whole run")
    return content
