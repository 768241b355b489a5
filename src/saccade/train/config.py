"""What the training loop needs to be told, and which of it a resume may change."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from saccade.errors import ConfigError

FREE_TO_CHANGE = (
    *("workers", "prefetch", "data_timeout", "rank_timeout", "bad_samples", "most_bad"),
    *("on_nan", "most_skipped", "spike", "layout", "replicas", "checkpoint_activations"),
    *("save_every", "save_async", "keep", "keep_every", "device", "boards", "pictures_every"),
)
COUNTS = (
    *("samples", "batch_size", "accumulate", "prefetch", "replicas"),
    *("log_every", "eval_every", "save_every", "keep"),
)
NOT_NEGATIVE = ("seed", "data_timeout", "most_skipped", "spike", "keep_every", "pictures_every")
POSITIVE = ("lr", "grad_clip", "rank_timeout")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What the loop needs; what an objective needs is in the objective's own config.

    Args:
        samples: training samples to see; the steps follow from the batch size
        batch_size: samples of one step, over all devices
        accumulate: slices in which a device computes its share; saves memory, same result
        lr: peak learning rate
        min_lr: learning rate of the last step, as a share of the peak
        start_lr: learning rate from which it rises, as a share of the peak
        warmup: share of the steps in which the rate rises
        schedule: how the rate falls: by half a ``cosine`` from the end of the warm-up on; or
            ``wsd`` (warm-up, stable, decay), flat and then linearly; or not: ``constant``
        cooldown: share of the steps in which the rate falls, in ``wsd``
        optimizer: ``adamw8bit`` keeps the moments of large parameters in 8 bits, by bitsandbytes;
            ``adamw8bit_torchao`` by torchao, which compiles a kernel for each shape first
        weight_decay: of the weights of layers; biases, norms and tokens are never decayed
        betas: of AdamW
        grad_clip: largest norm of the gradient
        precision: bfloat16 is mixed precision, weights that learn stay float32; so is float16, with
            a factor on the loss that is halved when gradients overflow
        layout: how the networks lie over several processes: ``ddp``, all on each; ``fsdp``, shared
            out; ``hsdp``, shared out within groups
        replicas: groups of ``hsdp``, one for each machine, say
        checkpoint_activations: compute each block again in the backward pass; saves memory
        compile: compile each block; other kernels, so other rounding
        on_nan: what to do with a step whose loss or gradient is not finite, or leaps: ``stop``;
            ``skip`` the batch; ``rewind`` to the newest checkpoint's weights and go on behind it
        most_skipped: steps that may be left out so before the run stops
        spike: a loss of more than this many times its running mean is a leap; 0 for never
        workers: processes that read data
        prefetch: batches that each of them reads ahead
        bad_samples: what to do with a sample that cannot be read: ``stop``; or ``skip``: another of
            its batch stands in for it, and ``bad/samples-rank-N.jsonl`` lists it
        most_bad: share of an epoch's samples that may be replaced so before the run stops
        data_timeout: seconds to wait for a batch before the workers are taken for hung; 0 waits
        rank_timeout: seconds to wait for another process before it is taken for lost
        log_every: steps between records of the training loss
        eval_every: steps between scores on the held-out clips
        pictures_every: steps between pictures of what is predicted; 0 makes them at the end only
        save_every: steps between checkpoints; one is also written at every best score
        save_async: write checkpoints beside training, from a copy in the processor's memory
        keep: newest checkpoints to keep, beside the best
        keep_every: steps between checkpoints that are kept for ever; 0 keeps none so
        seed: of weights, data order and noise
        device: auto takes a GPU if there is one
        boards: where else the metrics are shown
    """

    samples: int = 100_000
    batch_size: int = 64
    accumulate: int = 1
    lr: float = 3e-4
    min_lr: float = 0.01
    start_lr: float = 0.0
    warmup: float = 0.05
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    cooldown: float = 0.05
    optimizer: Literal["adamw", "adamw8bit", "adamw8bit_torchao"] = "adamw"
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    grad_clip: float = 1.0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    layout: Literal["ddp", "fsdp", "hsdp"] = "ddp"
    replicas: int = 1
    checkpoint_activations: bool = False
    compile: bool = False
    on_nan: Literal["stop", "skip", "rewind"] = "stop"
    most_skipped: int = 10
    spike: float = 0.0
    workers: int = 2
    prefetch: int = 2
    bad_samples: Literal["stop", "skip"] = "stop"
    most_bad: float = 0.001
    data_timeout: float = 120.0
    rank_timeout: float = 600.0
    log_every: int = 10
    eval_every: int = 200
    pictures_every: int = 0
    save_every: int = 500
    save_async: bool = True
    keep: int = 2
    keep_every: int = 0
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    boards: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()

    @property
    def steps(self) -> int:
        """Return the number of optimizer steps."""
        return math.ceil(self.samples / self.batch_size)

    def fixed(self) -> dict[str, Any]:
        """Return the fields that a resume must not change."""
        return {name: value for name, value in asdict(self).items() if name not in FREE_TO_CHANGE}

    def require_workable(self, world: int) -> None:
        """Look for settings that cannot work, with so many processes.

        Raises:
            ConfigError: it lists all of them.
        """
        value, share = asdict(self), self.batch_size // world
        wrong = [f"{name} must be at least 1" for name in COUNTS if value[name] < 1]
        wrong += [f"{name} must be above 0" for name in POSITIVE if value[name] <= 0]
        wrong += [
            f"{name} must lie in [0, 1]"
            for name in ("warmup", "min_lr", "start_lr", "cooldown", "most_bad")
            if not 0 <= value[name] <= 1
        ]
        if self.schedule == "wsd" and self.warmup + self.cooldown > 1:
            wrong.append("warmup and cooldown together must be at most 1")
        wrong += [f"{name} must not be negative" for name in NOT_NEGATIVE if value[name] < 0]
        if self.batch_size % world:
            wrong.append(f"batch_size {self.batch_size} must divide by the {world} processes")
        if self.accumulate > max(share, 1):
            wrong.append(f"accumulate must be at most {share}, the samples of one process")
        if self.layout != "ddp" and self.optimizer != "adamw":
            wrong.append(f"optimizer {self.optimizer} does not shard; layout must be ddp")
        if wrong:
            raise ConfigError(f"the training config cannot work: {'; '.join(wrong)}")
