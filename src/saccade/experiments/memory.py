"""How much memory training a world model takes on one GPU, worked out before it starts.

Weights, gradients and moments are counted. Activations are added up from what autograd keeps for
one token in one block, read off the code and held against measured bytes by the tests (on a CPU;
what CUDA keeps otherwise is told by ``Case.device``). What CUDA itself takes is assumed, and no
GPU has confirmed the sum yet.
Gigabytes are 1e9 bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from saccade.errors import ConfigError
from saccade.experiments.source import Report
from saccade.experiments.world_model import WorldModelTraining
from saccade.models.lora import LoraConfig
from saccade.models.pretrained import PretrainedConfig
from saccade.models.vjepa2.predictor import ActionPredictorConfig
from saccade.models.world_model import ENCODER, ActionWorldModelConfig, PretrainedWorldModelConfig
from saccade.train.distributed import rank_and_world
from saccade.train.optim import moment_bytes

RESERVE = 1_000_000_000  # assumed: CUDA's context and workspaces, and gaps between arrays
BATCHES = (1, 2, 4, 8)
CONDITIONS = 2  # tokens of a frame that are no patches: action and state


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that one device holds.

    Args:
        weights: of encoder, predictor and adapters.
        gradients: of what is trained.
        optimizer: its moments.
        saved: what the backward pass of one slice needs.
        working: what is needed for a moment beside that.
        scoring: what a held-out batch needs in place of these two.
        reserve: of the device itself.
    """

    weights: int
    gradients: int
    optimizer: int
    saved: int
    working: int
    scoring: int
    reserve: int

    @property
    def total(self) -> int:
        """Return the most that is held at any time."""
        held = self.weights + self.gradients + self.optimizer + self.reserve
        return held + max(self.saved + self.working, self.scoring)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What decides how much memory a step takes.

    Args:
        shape: of the predictor.
        adapters: what is trained, if not the whole predictor.
        frames: of a clip.
        batch: clips that a device computes at once: its share of a step over ``accumulate``.
        auto_steps: predictions of the rollout; 1 adds none to teacher forcing.
        optimizer: as in ``TrainConfig``.
        precision: as in ``TrainConfig``.
        encoder_bytes: of its weights.
        encoder_size: bytes of one of its numbers.
        encoder_mlp: width of its MLP; its tokens are as wide as the features.
        kept_features: nothing is encoded.
        scored: clips of a held-out batch.
        device: CUDA computes layer norms in float32 and keeps one byte of each dropped-out number.
    """

    shape: ActionPredictorConfig
    adapters: LoraConfig | None
    frames: int
    batch: int
    auto_steps: int
    optimizer: str
    precision: str
    encoder_bytes: int
    encoder_size: int
    encoder_mlp: int
    kept_features: bool
    scored: int = WorldModelTraining.held_out_batch
    device: Literal["cuda", "cpu"] = "cuda"

    @property
    def compute(self) -> int:
        """Return the bytes of a number in a layer."""
        return 4 if self.precision == "float32" else 2

    @property
    def norm(self) -> int:
        """Return the bytes of a number that a layer norm keeps."""
        return 4 if self.device == "cuda" else self.compute

    @property
    def patches(self) -> int:
        """Return the patches of a frame."""
        return self.shape.grid[0] * self.shape.grid[1]

    @property
    def frame(self) -> int:
        """Return the tokens of a frame of every clip in the batch."""
        return self.batch * (self.patches + CONDITIONS)

    @property
    def passes(self) -> int:
        """Return how often the blocks are run: teacher forcing, frame 1, and each step fed back."""
        return 1 + (self.auto_steps if self.auto_steps > 1 else 0)


def describe(training: WorldModelTraining) -> Case:
    """Return what decides the memory of a training; no weight is read.

    Raises:
        CheckpointError: the model that it starts from is missing.
    """
    objective, train = training.blank(), training.train
    model, config = objective.model, objective.config
    world = rank_and_world()[1]
    encoder = sum(p.numel() for p in model.encoder.parameters())
    held = _encoder_bytes(training, encoder)
    return Case(
        shape=model.predictor.config,
        adapters=config.lora,
        frames=training.window.num_frames,
        batch=max(1, train.batch_size // world // train.accumulate),
        auto_steps=config.auto_steps if config.rollout_weight else 1,
        optimizer=train.optimizer,
        precision=train.precision,
        encoder_bytes=held,
        encoder_size=2 if held < 3 * encoder else 4,
        encoder_mlp=getattr(model.config.encoder, "mlp", 4 * model.predictor.config.feature_dim),
        kept_features=training.features != "encode",
    )


def _encoder_bytes(training: WorldModelTraining, count: int) -> int:
    """Return the bytes of the encoder's weights as they will be in memory."""
    model = getattr(training.objective, "model", None)
    folder: Path | None = None
    if isinstance(model, PretrainedWorldModelConfig):
        if model.encoder_precision != "file":
            return count * (2 if model.encoder_precision == "bfloat16" else 4)
        folder = model.folder / ENCODER
    elif isinstance(model, ActionWorldModelConfig) and isinstance(model.encoder, PretrainedConfig):
        folder = model.encoder.folder
    files = list(folder.glob("model*.safetensors")) if folder else []
    return sum(file.stat().st_size for file in files) or 4 * count


def estimate(case: Case) -> Memory:
    """Add up what a training step holds at its busiest."""
    trained = trained_counts(case)
    predictor = sum(p.numel() for p in _blank(case.shape).parameters())
    added = sum(trained) if case.adapters else 0
    return Memory(
        weights=case.encoder_bytes + 4 * (predictor + added),
        gradients=4 * sum(trained),
        optimizer=sum(moment_bytes(count, case.optimizer) for count in trained),
        saved=saved_bytes(case),
        working=working_bytes(case),
        scoring=_looking_bytes(case, case.scored),
        reserve=RESERVE if case.device == "cuda" else 0,
    )


@lru_cache
def _blank(shape: ActionPredictorConfig) -> nn.Module:
    with torch.device("meta"):
        return shape.build()


def trained_counts(case: Case) -> list[int]:
    """Return the size of every parameter that is trained."""
    network, adapters = _blank(case.shape), case.adapters
    if adapters is None:
        return [p.numel() for p in network.parameters() if p.requires_grad]
    maps = (
        part
        for name, part in network.named_modules()
        if isinstance(part, nn.Linear) and name.rpartition(".")[2] in adapters.targets
    )
    return [adapters.rank * side for m in maps for side in (m.in_features, m.out_features)]


def saved_bytes(case: Case) -> int:
    """Return what autograd keeps from the forward to the backward pass."""
    return _followed(case) + _fed_back(case)


def _followed(case: Case) -> int:
    """Count what teacher forcing keeps."""
    steps, shape = case.frames - 1, case.shape
    patches = case.batch * case.patches * steps
    kept = (_outside(case) + 8 * shape.feature_dim) * patches + _copies(case, 1)
    if shape.checkpoint_activations:
        tokens = (case.patches + CONDITIONS) * steps
        shared = tokens**2 + 8 * tokens * shape.dim // shape.heads  # the mask, and the rotations
        return kept + shared + shape.depth * case.compute * shape.dim * case.frame * steps
    return kept + shape.depth * (_block(case) * case.frame * steps + _mask(case))


def _fed_back(case: Case) -> int:
    """Count what the rollout keeps beyond teacher forcing."""
    steps, shape = case.auto_steps - 1, case.shape
    if not steps:
        return 0
    patches, size = case.batch * case.patches, case.compute * shape.dim
    kept = patches * (_outside(case) * steps + 8 * shape.feature_dim * case.auto_steps)
    kept += _copies(case, case.passes) - _copies(case, 1)
    if shape.checkpoint_activations:
        seen = 5 * steps  # keys; values in the array that holds the queries too
        start = 7 * size * steps  # the first block's projection is made outside of it
        return kept + case.frame * (shape.depth * size * (case.auto_steps + seen) + start)
    first = (shape.depth - 1) * _block(case) + 7 * size  # nothing follows its last values
    pasts = sum(range(2, case.auto_steps + 1))  # frames that the steps look at
    after = shape.depth * (steps * (_block(case) - 3 * size) + 2 * size * pasts)
    return kept + case.frame * (first + after)


def _block(case: Case) -> int:
    """Count what one block keeps of one token."""
    shape, c = case.shape, case.compute
    kept = 2 * case.norm * shape.dim + 16 + 4 * shape.heads  # inputs of norms; statistics
    kept += c * (6 * shape.dim + shape.mlp)  # q, k, v with the array it is a view of, mixed; GELU
    inputs = {"qkv": shape.dim, "proj": shape.dim, "fc1": shape.dim, "fc2": shape.mlp}
    if case.adapters is None:
        return kept + c * (inputs["qkv"] + inputs["fc1"] + inputs["fc2"])
    dropped = (1 if case.device == "cuda" else 4) if case.adapters.dropout else 0
    return kept + sum(
        (c + dropped) * width + c * case.adapters.rank
        for name, width in inputs.items()
        if name in case.adapters.targets
    )


def _outside(case: Case) -> int:
    """Count what the layers after the blocks, and the first one, keep of one patch."""
    shape, c = case.shape, case.compute
    kept = case.norm * (shape.dim + shape.feature_dim) + 16
    return kept if case.adapters else kept + c * (shape.feature_dim + shape.dim)


def _mask(case: Case) -> int:
    """Count the causal mask, which attention turns into numbers for every block."""
    tokens = (case.frames - 1) * (case.patches + CONDITIONS)
    return case.compute * tokens**2 if case.frames > 2 else 0


def _copies(case: Case, passes: int) -> int:
    """Count the copies of weights in bfloat16: one of what is trained, one each time of others."""
    if case.precision == "float32":
        return 0
    shape = case.shape
    ends = shape.feature_dim * shape.dim
    inside = 0 if shape.checkpoint_activations else shape.depth * _maps(shape)
    if case.adapters is None:
        return 2 * (inside + 2 * ends)
    return 2 * (passes * inside + (2 * passes - 1) * ends)


def _maps(shape: ActionPredictorConfig) -> int:
    return 4 * shape.dim**2 + 2 * shape.dim * shape.mlp


def working_bytes(case: Case) -> int:
    """Return what is held for a moment beside the saved.

    That is the gradient of the loss; or, when the backward pass of the rollout is done and its
    gradients wait to be added up, that of a block of teacher forcing.
    """
    shape, c, fed_back = case.shape, case.compute, _fed_back(case)
    tokens, patches = case.frame * (case.frames - 1), case.batch * case.patches
    dropped = 8 * max(shape.mlp, 3 * shape.dim) if case.adapters else 0  # in float32
    block = tokens * (2 * c * shape.dim + dropped)
    waiting = c * sum(trained_counts(case)) if fed_back else 0
    if shape.checkpoint_activations:
        block += tokens * _block(case) + _mask(case)
        block += 2 * _maps(shape) if case.precision == "bfloat16" else 0
    loss = 8 * shape.feature_dim * patches * (case.frames - 1)
    features = 4 * patches * case.frames * shape.feature_dim
    encoding = _encoding(case, case.batch) - fed_back - _followed(case)
    return max(loss, block + waiting - fed_back, encoding) + features


def _encoding(case: Case, clips: int) -> int:
    if case.kept_features:
        return 0
    tokens = clips * case.frames * case.patches
    return tokens * _busy(case.shape.feature_dim, case.encoder_mlp, case.encoder_size)


def _busy(dim: int, mlp: int, size: int) -> int:
    """Count what a block without gradient holds of one token; rotations are in float32."""
    return size * (14 * dim + 2 * mlp) + 24 * dim


def _looking_bytes(case: Case, clips: int) -> int:
    """Return what scoring takes: features, their predictions, and one block at work."""
    shape, steps = case.shape, case.frames - 1
    features = 5 * 4 * clips * case.frames * case.patches * shape.feature_dim
    tokens = clips * steps * (case.patches + CONDITIONS)
    predicting = tokens * _busy(shape.dim, shape.mlp, case.compute) + _mask(case)
    return features + max(predicting, _encoding(case, clips))


def alternatives(case: Case) -> dict[str, Case]:
    """Return the same step with one option changed, by the option that would be given."""
    shape, adapters = case.shape, case.adapters
    again = shape.checkpoint_activations
    other = "adamw" if case.optimizer == "adamw8bit" else "adamw8bit"
    frames = 8 if case.frames == 16 else 16
    return {
        f"{'without' if again else 'with'} checkpoint-activations": replace(
            case, shape=replace(shape, checkpoint_activations=not again)
        ),
        f"train.optimizer {other}": replace(case, optimizer=other),
        "the whole predictor" if adapters else "adapters of rank 16": replace(
            case, adapters=None if adapters else LoraConfig()
        ),
        f"window.num-frames {frames}": replace(case, frames=frames),
        "features encode" if case.kept_features else "features float32": replace(
            case, kept_features=not case.kept_features
        ),
    }


def table(case: Case, batches: Sequence[int] = BATCHES) -> str:
    """Write the estimate, its parts, and the same with other options and batches, in GB."""
    now = estimate(case)
    columns = sorted({*batches, case.batch})
    lines = [
        f"one GPU would hold about {gigabytes(now.total)} GB at its peak: "
        f"weights {gigabytes(now.weights)}, gradients {gigabytes(now.gradients)}, "
        f"optimizer {gigabytes(now.optimizer)}, activations {gigabytes(now.saved)} and "
        f"{gigabytes(now.working)} for a moment (or {gigabytes(now.scoring)} to score "
        f"{case.scored} held-out clips), and {gigabytes(now.reserve)} assumed for CUDA itself",
        "GB by clips at once (batch-size over processes and accumulate):",
        f"{'':<32}" + "".join(f"{batch:>8}" for batch in columns),
    ]
    for name, changed in {"as set": case, **alternatives(case)}.items():
        totals = (estimate(replace(changed, batch=batch)).total for batch in columns)
        lines.append(f"{name:<32}" + "".join(f"{gigabytes(total):>8}" for total in totals))
    return "\n".join(lines)


def require_room(case: Case, free: int, place: str) -> None:
    """Refuse a step that a device has no room for.

    Raises:
        ConfigError: it says what would save how much.
    """
    needed = estimate(case).total
    if needed <= free:
        return
    choices = alternatives(case)
    choices.pop("the whole predictor", None)  # that would be another training
    if case.batch > 1:
        choices["half as many clips at once (raise train.accumulate)"] = replace(
            case, batch=case.batch // 2
        )
    saves = {name: needed - estimate(changed).total for name, changed in choices.items()}
    best = sorted(((n, s) for n, s in saves.items() if s > 5e7), key=lambda item: -item[1])
    advice = "; ".join(f"{name} saves {gigabytes(saved)} GB" for name, saved in best)
    raise ConfigError(
        f"a step needs about {gigabytes(needed)} GB and {gigabytes(free)} GB are free on {place}: "
        f"{advice or 'take a smaller model or a larger card'}"
    )


def gigabytes(count: int) -> str:
    """Write bytes as gigabytes."""
    return f"{count / 1e9:.2f}" if count < 1e10 else f"{count / 1e9:.1f}"


def check(training: WorldModelTraining, report: Report) -> None:
    """Tell what training on a GPU will take, and refuse it where it cannot fit; a CPU may swap.

    Raises:
        ConfigError: as ``require_room``.
    """
    if training.train.device == "cpu" or not torch.cuda.is_available():
        return
    case = describe(training)
    report(table(case, ()).partition("\n")[0])
    device = torch.cuda.current_device()
    free, _ = torch.cuda.mem_get_info(device)
    require_room(case, free, torch.cuda.get_device_name(device))
