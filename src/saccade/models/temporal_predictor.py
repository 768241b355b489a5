"""The state after an action, from the state before: StateVLA's temporal predictor."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saccade.checkpoint import load_model, save_model
from saccade.config import Config
from saccade.errors import CheckpointError, ConfigError

FOLDER = "temporal_predictor"


@dataclass(frozen=True, kw_only=True)
class TemporalPredictorConfig(Config["TemporalPredictor"]):
    """The defaults are those of the documents.

    Args:
        dim: width of the state.
        action_size: numbers of an action.
        grippers: how many of them, the last ones, are grippers.
        hidden: width of the hidden layers.
    """

    dim: int = 256
    action_size: int = 7
    grippers: int = 1
    hidden: int = 512

    def build(self) -> "TemporalPredictor":
        """Construct the predictor, which predicts that nothing changes.

        Raises:
            ConfigError: there are more grippers than numbers.
        """
        if not 0 <= self.grippers <= self.action_size or self.action_size < 1:
            raise ConfigError(
                f"an action has {self.action_size} numbers, {self.grippers} of them grippers; "
                "there must be at least one number, and no more grippers than numbers"
            )
        return TemporalPredictor(self)


class TemporalPredictor(nn.Module):
    """``z + delta(z, action)``, with delta 0 before training."""

    action_mean: Tensor
    action_std: Tensor

    def __init__(self, config: TemporalPredictorConfig) -> None:
        super().__init__()
        dim, hidden = config.dim, config.hidden
        self.config, self.motions = config, config.action_size - config.grippers
        self.state = nn.Linear(dim, hidden)
        self.action = nn.Linear(config.action_size, hidden)
        self.delta = nn.Sequential(
            nn.Linear(2 * hidden, hidden),
            nn.SiLU(),
            nn.LayerNorm(hidden),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.LayerNorm(hidden),
        )
        self.out = nn.Linear(hidden, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.register_buffer("action_mean", torch.full((self.motions,), torch.nan))
        self.register_buffer("action_std", torch.ones(self.motions))
        self._known = False

    def set_statistics(self, mean: Float[Tensor, " a"], std: Float[Tensor, " a"]) -> None:
        """Keep the mean and deviation of the training data's actions; grippers' are not used."""
        self.action_mean.copy_(mean[: self.motions])
        self.action_std.copy_(std[: self.motions].clamp_min(1e-6))

    def normalise(self, action: Float[Tensor, "b a"]) -> Float[Tensor, "b a"]:
        """Standardise motions; turn grippers, 1 open and 0 closed, to -1 open and 1 closed.

        Raises:
            ConfigError: there are no statistics yet.
        """
        if not self._known and not bool(self.action_mean.isfinite().all()):
            raise ConfigError(
                "the predictor does not know how actions are spread; call set_statistics with the "
                "training data's mean and deviation"
            )
        self._known = True
        motion, gripper = action[:, : self.motions], action[:, self.motions :]
        return torch.cat([(motion - self.action_mean) / self.action_std, 1 - 2 * gripper], 1)

    def forward(
        self, z: Float[Tensor, "b d"], action: Float[Tensor, "b a"]
    ) -> Float[Tensor, "b d"]:
        """Return the next state; ``action`` is normalised."""
        return z + self.out(self.delta(torch.cat([self.state(z), self.action(action)], 1)))

    def save_pretrained(self, folder: Path, card: str = "") -> None:
        """Write ``config.json``, ``model.safetensors`` and a model card."""
        save_model(folder, self, self.config, {"inputs": "z, action"}, card)


def load_temporal_predictor(folder: Path) -> TemporalPredictor:
    """Load the predictor that a phase-1 run exported, in evaluation mode.

    ``folder`` is the export, or the run that holds it.

    Raises:
        CheckpointError: it holds something else, or any weight does not fit.
    """
    if (folder / FOLDER).is_dir():
        folder = folder / FOLDER
    predictor, _ = load_model(folder)
    if not isinstance(predictor, TemporalPredictor):
        raise CheckpointError(
            f"{folder} holds a {type(predictor).__name__}, not the temporal predictor of a "
            f"phase-1 run; give RUN/{FOLDER}"
        )
    return predictor.eval()
