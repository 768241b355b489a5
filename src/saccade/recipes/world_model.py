"""World models: an action-conditioned predictor over a frozen encoder of any kind.

Another encoder is a field, here as everywhere: --objective.model.encoder.folder, whose grid and
width the predictor takes.
"""

from dataclasses import replace
from pathlib import Path

from saccade.config import Config
from saccade.data.episodes import Episodes
from saccade.data.lerobot.reader import LeRobotConfig
from saccade.data.libero.reader import LiberoConfig
from saccade.data.synthetic import SyntheticConfig
from saccade.data.windows import ClipWindow
from saccade.experiments.source import SourceConfig
from saccade.experiments.world_model import WorldModelTraining
from saccade.models.lora import LoraConfig
from saccade.models.pretrained import PretrainedConfig
from saccade.models.vit import ViTConfig
from saccade.models.vjepa2.predictor import ActionPredictorConfig
from saccade.models.world_model import ActionWorldModelConfig, PretrainedWorldModelConfig
from saccade.objectives.action_conditioned import ActionConditionedConfig
from saccade.train.config import TrainConfig

AXES = ("x", "y", "z", "gripper")
LIBERO_AXES = ("x", "y", "z", "rx", "ry", "rz", "gripper")


def debug() -> WorldModelTraining:
    """Seconds on a laptop: every code path, no data, no accelerator."""
    encoder = ViTConfig(image_size=32, patch=8, dim=48, depth=1, heads=2)
    predictor = ActionPredictorConfig(
        grid=(4, 4),
        feature_dim=encoder.dim,
        dim=48,
        depth=2,
        heads=2,
        mlp=96,
        state_size=len(AXES),
        action_size=len(AXES),
    )
    model = ActionWorldModelConfig(
        encoder=encoder,
        predictor=predictor,
        step_seconds=0.1,
        crop="square",
        gripper="open_is_1",
        state_names=AXES,
        action_names=AXES,
    )
    return WorldModelTraining(
        objective=ActionConditionedConfig(model=model),
        source=SourceConfig(episodes=SyntheticConfig()),
        window=ClipWindow(num_frames=4),
        eval_samples=32,
        train=TrainConfig(samples=160, batch_size=8, workers=0, eval_every=10, save_every=10),
    )


def tiny() -> WorldModelTraining:
    """Minutes on a CPU: Meta-World, over any frozen encoder that a run has exported."""
    return small(AXES, LeRobotConfig(root=Path("data/wander")))


def libero_tiny() -> WorldModelTraining:
    """The same on LIBERO, whose hand turns too."""
    return small(LIBERO_AXES, LiberoConfig(root=Path("data/libero")))


def small(axes: tuple[str, ...], episodes: Config[Episodes]) -> WorldModelTraining:
    """Describe a small world model; squared errors learn faster than absolute ones (2512.24497)."""
    return WorldModelTraining(
        objective=ActionConditionedConfig(
            model=ActionWorldModelConfig(
                encoder=PretrainedConfig(folder=Path("runs/encoder/encoder")),
                predictor=ActionPredictorConfig(
                    grid=(0, 0),  # and width: the encoder's
                    feature_dim=0,
                    dim=128,
                    depth=4,
                    heads=4,
                    mlp=256,
                    state_size=len(axes),
                    action_size=len(axes),
                ),
                step_seconds=0.15,
                crop="square",
                gripper="open_is_1",
                state_names=axes,
                action_names=axes,
            ),
            exponent=2.0,
        ),
        source=SourceConfig(episodes=episodes),
        window=ClipWindow(num_frames=3, step_seconds=0.15),
        features="float32",
        train=TrainConfig(
            samples=48_000,
            batch_size=32,
            lr=2e-3,
            warmup=0.1,
            workers=0,
            eval_every=500,
            save_every=500,
        ),
    )


def tiny_lora() -> WorldModelTraining:
    """Adapters in what ``tiny`` trained, for data that look or move otherwise."""
    training = tiny()
    return replace(
        training,
        objective=ActionConditionedConfig(
            model=PretrainedWorldModelConfig(folder=Path("runs/world/world_model")),
            exponent=2.0,
            lora=LoraConfig(),
        ),
        train=replace(training.train, samples=24_000, lr=1e-3, eval_every=100, save_every=100),
    )
