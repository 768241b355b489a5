"""V-JEPA 2-AC: adapters in the published model, its whole predictor, or a predictor from scratch.

They read ``models/vjepa2-ac-vitg``, made once from the published file (11.7 GB):

    curl -L -O https://dl.fbaipublicfiles.com/vjepa2/vjepa2-ac-vitg.pt
    saccade export convert vjepa2-ac-vitg.pt --out models/vjepa2-ac-vitg --step-seconds 0.25

and DROID as RLDS from ``data/``; another place is ``--objective.model.folder`` or ``--data``.
Clips of 8 frames make 7 predictions each; ``--window.num-frames 16`` makes the paper's 15. Facts
of ``scratch`` from https://github.com/facebookresearch/vjepa2 (``droid-256px-8f.yaml``).
"""

from dataclasses import replace
from pathlib import Path

from saccade.data.droid.rlds import DroidConfig
from saccade.data.windows import ClipWindow
from saccade.experiments.source import SourceConfig
from saccade.experiments.world_model import WorldModelTraining
from saccade.models.lora import LoraConfig
from saccade.models.pretrained import PretrainedConfig
from saccade.models.vjepa2.encoder import VJepa2Config
from saccade.models.vjepa2.predictor import ActionPredictorConfig
from saccade.models.world_model import (
    ENCODER,
    ActionWorldModelConfig,
    PretrainedWorldModelConfig,
    vjepa2_ac,
)
from saccade.objectives.action_conditioned import ActionConditionedConfig
from saccade.recipes import world_model
from saccade.train.config import TrainConfig

BASE = Path("models/vjepa2-ac-vitg")
DROID, DROID_100 = "data/droid", "data/droid_100"
STEP_SECONDS = 0.25
BATCH, SLICES = 32, 16  # two clips at a time


def lora() -> WorldModelTraining:
    """The documents' settings: rank-16 adapters, 100,000 steps of 32 clips of droid_100."""
    return adapted(steps=100_000, data=DROID_100)


def lora_5k() -> WorldModelTraining:
    """Adapters after 5,000 steps on droid_100: the early model of a landscape analysis."""
    return adapted(steps=5_000, data=DROID_100)


def lora_20k() -> WorldModelTraining:
    """Adapters after 20,000 steps on droid_100: the middle one."""
    return adapted(steps=20_000, data=DROID_100)


def lora_100k() -> WorldModelTraining:
    """Adapters after 100,000 steps on all of DROID: the late one."""
    return adapted(steps=100_000, data=DROID)


def full() -> WorldModelTraining:
    """The whole predictor, trained further: 20,000 steps on all of DROID at a tenth of the rate."""
    training = adapted(steps=20_000, data=DROID)
    return replace(
        training,
        objective=ActionConditionedConfig(model=published()),
        train=replace(training.train, lr=1e-5),
    )


def scratch() -> WorldModelTraining:
    """A predictor from scratch, by the published schedule: 94,500 steps of 256 clips."""
    model = vjepa2_ac(PretrainedConfig(folder=BASE / ENCODER), STEP_SECONDS)
    predictor = replace(model.predictor, checkpoint_activations=True)
    steps, batch, ends = 94_500, 256, 4_500 / 94_500
    return replace(
        adapted(steps=steps, data=DROID),
        objective=ActionConditionedConfig(model=replace(model, predictor=predictor)),
        train=TrainConfig(
            samples=steps * batch,
            batch_size=batch,
            accumulate=32,
            lr=4.25e-4,
            start_lr=7.5e-5 / 4.25e-4,
            min_lr=0.0,
            warmup=ends,
            cooldown=ends,
            schedule="wsd",
            weight_decay=0.04,
            betas=(0.9, 0.999),
            grad_clip=1e6,  # the published training does not clip
            precision="bfloat16",
            save_every=1_000,
            eval_every=1_000,
            keep=5,
            seed=239,
        ),
    )


def debug() -> WorldModelTraining:
    """Seconds on a laptop: every code path of adapters, no data, no files, no accelerator."""
    small = world_model.debug()
    encoder = VJepa2Config(
        image_size=32, num_frames=1, patch=8, dim=48, depth=1, heads=2, mlp=96, frames="each"
    )
    predictor = ActionPredictorConfig(
        grid=(4, 4),
        feature_dim=encoder.dim,
        dim=64,
        depth=2,
        heads=2,
        mlp=128,
        state_size=len(world_model.AXES),
        action_size=len(world_model.AXES),
        checkpoint_activations=True,
    )
    model = ActionWorldModelConfig(
        encoder=encoder,
        predictor=predictor,
        step_seconds=0.1,
        crop="ac",
        gripper="closed_is_1",
        state_names=world_model.AXES,
        action_names=world_model.AXES,
    )
    return replace(
        small,
        objective=ActionConditionedConfig(model=model, lora=LoraConfig(rank=64)),  # 8 bits
        source=replace(small.source, crop="ac"),
        eval_samples=16,
        train=TrainConfig(
            samples=48,
            batch_size=8,
            accumulate=2,
            lr=1e-3,
            schedule="wsd",
            warmup=0.2,
            cooldown=0.2,
            optimizer="adamw8bit",
            precision="bfloat16",
            workers=0,
            eval_every=3,
            save_every=3,
            keep=5,
        ),
    )


def adapted(*, steps: int, data: str) -> WorldModelTraining:
    """Describe adapters in the published model, trained on one of DROID's data sets."""
    return WorldModelTraining(
        objective=ActionConditionedConfig(model=published(), lora=LoraConfig()),
        source=SourceConfig(episodes=DroidConfig(root=data), camera="exterior_1", crop="ac"),
        window=ClipWindow(num_frames=8, step_seconds=STEP_SECONDS),
        train=TrainConfig(
            samples=steps * BATCH,
            batch_size=BATCH,
            accumulate=SLICES,
            lr=1e-4,
            warmup=0.05,
            grad_clip=1.0,
            precision="bfloat16",
            optimizer="adamw8bit",
            eval_every=500,
            save_every=1_000,
            keep=5,
        ),
    )


def published() -> PretrainedWorldModelConfig:
    """Name the published model, its encoder in bfloat16 because it never learns."""
    return PretrainedWorldModelConfig(
        folder=BASE, encoder_precision="bfloat16", checkpoint_activations=True
    )
