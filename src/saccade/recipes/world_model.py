"""World models: an action-conditioned predictor over a frozen encoder of any kind.

Another encoder is a field, here as everywhere: --objective.model.encoder and its grid and width in
--objective.model.predictor.
"""

from saccade.data.synthetic import SyntheticConfig
from saccade.data.windows import ClipWindow
from saccade.experiments.source import SourceConfig
from saccade.experiments.world_model import WorldModelTraining
from saccade.models.vit import ViTConfig
from saccade.models.vjepa2.predictor import ActionPredictorConfig
from saccade.models.world_model import ActionWorldModelConfig
from saccade.objectives.action_conditioned import ActionConditionedConfig
from saccade.train.config import TrainConfig

AXES = ("x", "y", "z", "gripper")


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
