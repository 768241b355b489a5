"""Parts of a recipe for acting that the command line exchanges: the encoder, the language."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from saccade.checkpoint import CONFIG
from saccade.config import Config
from saccade.errors import ConfigError
from saccade.experiments.acting import PolicyTraining
from saccade.experiments.training import Training
from saccade.models.clip_text import ClipTextConfig
from saccade.models.language import Language, TableLanguageConfig
from saccade.models.policies.conditions import StateConditionConfig
from saccade.models.policies.policy import ImitationPolicyConfig
from saccade.models.policies.visual import VisualConditionConfig
from saccade.models.pretrained import PretrainedConfig
from saccade.models.published.vision import PublishedVisionConfig
from saccade.models.state_encoder import PretrainedStateEncoderConfig, StateEncoderConfig
from saccade.objectives.imitation import ImitationConfig
from saccade.objectives.temporal_jepa import TemporalJepaConfig
from saccade.types import Encoder

ENCODER = "encoder"  # what most runs export
PREPROCESSOR = "preprocessor_config.json"  # which every published folder has


def with_encoder(training: Training, folder: Path) -> Training:
    """Return the same training with other eyes: ``--encoder FOLDER``.

    A policy over a state encoder takes what phase 1 exported; behaviour cloning, and phase 1 in
    place of its patches, any encoder that a run exported, or a DINOv2, SigLIP or CLIP.

    Raises:
        ConfigError: the recipe has no encoder to replace, or one that it would train and cannot.
    """
    objective: Any = training.objective
    if isinstance(objective, TemporalJepaConfig):
        if not isinstance(objective.encoder, StateEncoderConfig):
            raise ConfigError(f"{type(objective.encoder).__name__} has its own encoder; leave it")
        encoder = replace(objective.encoder, vision=vision(folder))
        return replace(training, objective=replace(objective, encoder=encoder))
    policy = objective.policy if isinstance(objective, ImitationConfig) else None
    if not (isinstance(training, PolicyTraining) and isinstance(policy, ImitationPolicyConfig)):
        raise ConfigError(
            "the recipe trains no policy, and so has no encoder to replace; use one that does, "
            "such as statevla:phase2"
        )
    condition = policy.condition
    if isinstance(condition, StateConditionConfig):
        condition = replace(condition, encoder=PretrainedStateEncoderConfig(folder=folder))
    elif isinstance(condition, VisualConditionConfig):
        condition = replace(condition, encoder=vision(folder, trained=not condition.frozen))
    else:
        raise ConfigError(f"{type(condition).__name__} has no encoder that could be replaced")
    return replace(training, objective=ImitationConfig(policy=replace(policy, condition=condition)))


def vision(folder: Path, trained: bool = False) -> Config[Encoder]:
    """Find an encoder of pixels: of a run, or published.

    Raises:
        ConfigError: a published one is to be trained, too.
    """
    if (folder / PREPROCESSOR).is_file():
        if trained:
            raise ConfigError(
                f"{folder} is a published network, which stays frozen; set "
                "--objective.policy.condition.frozen True"
            )
        return PublishedVisionConfig(folder=folder)
    inside = folder / ENCODER
    return PretrainedConfig(
        folder=inside if (inside / CONFIG).is_file() else folder, trainable=trained
    )


def with_language(training: Training, place: Path) -> Training:
    """Return the same training with other vectors of instructions: ``--language PLACE``.

    Args:
        place: a table (``saccade data language``), or the folder of a CLIP.

    Raises:
        ConfigError: the recipe has no language of its own.
    """
    if place.is_dir():
        language: Config[Language] = ClipTextConfig(folder=place)
    else:
        language = TableLanguageConfig(file=place)
    objective: Any = training.objective
    if isinstance(objective, TemporalJepaConfig):
        return replace(
            training, objective=replace(objective, encoder=_spoken(objective.encoder, language))
        )
    policy = objective.policy if isinstance(objective, ImitationConfig) else None
    if not isinstance(policy, ImitationPolicyConfig):
        raise ConfigError(
            "the recipe reads no language; use one that does, such as statevla:phase1"
        )
    condition: Any = policy.condition
    if isinstance(condition, StateConditionConfig):
        condition = replace(condition, encoder=_spoken(condition.encoder, language))
    else:
        condition = _spoken(condition, language)
    return replace(training, objective=ImitationConfig(policy=replace(policy, condition=condition)))


def _spoken(config: Any, language: Config[Language]) -> Any:
    """Return a config with another language.

    Raises:
        ConfigError: it has none, as an encoder that a run has trained, which keeps its own.
    """
    if not isinstance(config, (StateEncoderConfig, VisualConditionConfig)):
        raise ConfigError(
            f"{type(config).__name__} understands what it was trained with; give --language where "
            "the encoder is trained, such as statevla:phase1"
        )
    return replace(config, language=language)
