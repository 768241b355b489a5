"""What a head is told: from an observation to a vector, and tokens where it may look closer.

``StateCondition`` is the state ``z`` of a phase-1 encoder. ``visual.py`` has the other kind.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from saccade.config import Config
from saccade.errors import ConfigError
from saccade.models.frozen import digest_of
from saccade.models.policies.head import Condition, mlp
from saccade.models.state_encoder import StateEncoder
from saccade.types import Encoder, Observation, Preprocessing


class Conditioner(nn.Module):
    """From observations to conditions. Frozen parts stay in evaluation mode, without gradient."""

    config: Config["Conditioner"]  # rebuilds it, to be filled from weights alone
    dim: int  # width of ``Condition.z``
    token_dim: int = 0  # width of ``Condition.tokens``, 0: there are none
    cameras: int
    state_size: int
    preprocessing: Preprocessing  # of its frames; ``num_frames`` is of the encoder, not the history
    frozen: tuple[str, ...] = ()  # children that are not trained
    kept_elsewhere: bool = False  # the frozen encoder came from a folder that still has it
    standardises: bool = False  # whether states need ``set_statistics``

    def forward(self, observation: Observation) -> Condition:
        """Condition on the last moment, and on the history before it."""
        raise NotImplementedError

    def every(self, observation: Observation) -> Float[Tensor, "b t d"]:
        """Return ``z`` of each moment, blind to those after it.

        Raises:
            ConfigError: this kind only looks at the last one.
        """
        del observation
        raise ConfigError(
            f"{type(self).__name__} looks at the last moment only; set supervise to last"
        )

    def goal_loss(self, condition: Condition, later: Observation) -> Float[Tensor, ""]:
        """Return the error of the predicted goal, where one is predicted."""
        raise NotImplementedError

    def goal_floor(self, condition: Condition, later: Observation) -> Float[Tensor, ""]:
        """Return the error of predicting that nothing changes."""
        raise NotImplementedError

    def set_statistics(self, mean: Float[Tensor, " s"], std: Float[Tensor, " s"]) -> None:
        """Keep mean and deviation of the training data's states. Default: they are not used."""
        del mean, std

    def freeze(self, *children: str) -> None:
        """Leave these children as they are."""
        self.frozen = children
        for name in children:
            self.get_submodule(name).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Conditioner":
        """Switch what is trained; what is frozen stays in evaluation mode."""
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def frozen_digest(self) -> str:
        """Return the sha256 of every frozen weight and buffer, with their names."""
        return digest_of(self, self.frozen)


@dataclass(frozen=True, kw_only=True)
class StateConditionConfig(Config["StateCondition"]):
    """Condition on the state of a phase-1 encoder.

    Args:
        encoder: a phase-1 run's (``PretrainedStateEncoderConfig``), or a fresh one.
        frozen: keep it as it is; a fresh one is then the control of random features.
        use: ``z`` alone; ``tokens`` adds all of the encoder's tokens, to attend to; ``z_and_goal``
            adds a prediction of the ``z`` of a later frame, which training must be shown: the last
            of the clip (``TransitionWindow``).
    """

    encoder: Config[StateEncoder]
    frozen: bool = True
    use: Literal["z", "tokens", "z_and_goal"] = "z"

    def build(self) -> "StateCondition":
        """Build or load the encoder.

        Raises:
            ConfigError: a goal among states that change under training.
        """
        if self.use == "z_and_goal" and not self.frozen:
            raise ConfigError(
                "a goal is predicted among states that stay what they are; set frozen, or use z"
            )
        return StateCondition(self)


class StateCondition(Conditioner):
    """The state ``z`` of the last moment."""

    def __init__(self, config: StateConditionConfig) -> None:
        super().__init__()
        self.encoder = config.encoder.build()
        shape = self.encoder.config
        self.config = replace(config, encoder=shape)
        self.use = config.use
        self.kept_elsewhere = config.frozen and from_folder(config.encoder)
        self.standardises = shape.standardise_state and not self.kept_elsewhere
        self.cameras, self.state_size = shape.cameras, shape.state_size
        self.preprocessing = self.encoder.preprocessing
        width = self.encoder.dim
        self.dim = 2 * width if config.use == "z_and_goal" else width
        self.token_dim = width if config.use == "tokens" else 0
        self.goal = mlp(width, 2 * width, width) if config.use == "z_and_goal" else None
        self.encoder.requires_grad_(True)  # a loaded one comes frozen
        if config.frozen:
            self.freeze("encoder")

    def forward(self, observation: Observation) -> Condition:
        """Encode the last moment."""
        tokens = self.tokens(observation)
        z = self.encoder.project(tokens)
        if self.frozen:
            z = z.detach()
        if self.goal is None:
            return Condition(z, tokens if self.token_dim else None)
        goal = z + self.goal(z)
        return Condition(torch.cat([z, goal.detach()], -1), goal=goal)

    def tokens(self, observation: Observation) -> Float[Tensor, "b l d"]:
        """Return the encoder's tokens, with gradient only where it is trained."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.encoder.tokens(observation)

    def goal_loss(self, condition: Condition, later: Observation) -> Float[Tensor, ""]:
        """Return the mean squared error of the predicted ``z``."""
        assert condition.goal is not None
        target = self.encoder.project(self.tokens(later)).detach()
        return F.mse_loss(condition.goal.float(), target.float())

    def goal_floor(self, condition: Condition, later: Observation) -> Float[Tensor, ""]:
        """Return the error of the present ``z`` as the goal."""
        target = self.encoder.project(self.tokens(later))
        return F.mse_loss(condition.z[:, : self.encoder.dim].float(), target.float())

    def set_statistics(self, mean: Float[Tensor, " s"], std: Float[Tensor, " s"]) -> None:
        """Give them to a fresh encoder; a loaded one keeps those that it was trained with."""
        if self.standardises:
            self.encoder.set_statistics(mean, std)


def from_folder(config: object) -> bool:
    """Tell whether a config loads what another run, or somebody else, has left in a folder."""
    return isinstance(getattr(config, "folder", None), Path)


def without_folder(encoder: Encoder, config: Config[Encoder]) -> Config[Encoder]:
    """Return what rebuilds a loaded encoder from its weights, wherever they came from.

    Raises:
        ConfigError: the encoder does not say.
    """
    if not from_folder(config):
        return config
    own = getattr(encoder, "config", None)
    if not isinstance(own, Config) or from_folder(own):
        raise ConfigError(
            f"a {type(encoder).__name__} does not say what rebuilds it (as config), so a policy "
            "with it could not be saved whole"
        )
    return own
