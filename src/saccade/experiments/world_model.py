"""Training of a world model as a value: its predictor, or adapters in it, over a frozen encoder."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from saccade import __version__
from saccade.checkpoint import read_record
from saccade.config import Config, from_dict, to_dict
from saccade.data.files.index import cache_folder
from saccade.data.transforms import Augment
from saccade.data.windows import ClipWindow
from saccade.errors import ConfigError
from saccade.experiments.feature_cache import with_features
from saccade.experiments.moments import require_fit
from saccade.experiments.source import Parts, Report
from saccade.experiments.training import Training, count
from saccade.models.pretrained import PretrainedConfig
from saccade.models.world_model import (
    ActionWorldModel,
    ActionWorldModelConfig,
    PretrainedWorldModelConfig,
)
from saccade.objectives.action_conditioned import ActionConditioned, ActionConditionedConfig
from saccade.types import Clip, Objective


@dataclass(frozen=True, kw_only=True)
class WorldModelTraining(Training):
    """As ``Training``; the clips must move at the rate, and look, as the model expects.

    Beside the held-out loss stand those of the copied last frame and of shuffled actions.

    Args:
        features: ``encode`` the frames of each batch again; or keep what the encoder makes of every
            frame in the cache, and train on that: in ``float32``, with the same loss, or rounded,
            in half the space: ``float16``, or ``bfloat16`` for what float16 cannot hold.
    """

    held_out_batch: ClassVar[int] = 8  # clips of many frames: scoring takes no more than a step

    objective: Config[ActionConditioned]  # pyright: ignore[reportIncompatibleVariableOverride]
    window: ClipWindow  # pyright: ignore[reportIncompatibleVariableOverride]
    features: Literal["encode", "float32", "float16", "bfloat16"] = "encode"

    def blank(self) -> ActionConditioned:
        """Construct the networks without weights, from configs; of a file only its config is read.

        Raises:
            CheckpointError: the model that training starts from is missing.
        """
        config = self.objective
        assert isinstance(config, ActionConditionedConfig)
        model = on_paper(config.model)
        from_file = not isinstance(model, ActionWorldModelConfig) or hasattr(
            model.encoder, "folder"
        )
        with nullcontext() if from_file else torch.device("meta"):
            return replace(config, model=model).build()

    def build(self) -> Objective:
        """Construct the networks with the weights that this seed starts from.

        Raises:
            ConfigError: features are kept, and pixels are to vary.
        """
        if self.features != "encode" and self.augment != Augment():
            raise ConfigError(
                f"features kept in {self.features} are those of the frames as they are, and "
                f"augment asks for others ({self.augment}); leave augment out, or set features "
                "to encode"
            )
        return super().build()

    def prepare(self, objective: Objective, parts: Parts, report: Report) -> Parts:
        """Return the data with features in place of pixels, if that was asked for."""
        if self.features == "encode":
            return parts
        assert isinstance(objective, ActionConditioned)
        folder = cache_folder(self.source.cache)
        return with_features(objective.model, parts, self.features, self.train, folder, report)

    def held_out(self, parts: Parts) -> Sequence[Clip]:
        """Read the fixed list of held-out samples; features, of many gigabytes, when needed."""
        return super().held_out(parts) if self.features == "encode" else self.fixed(parts)

    def check(self, objective: Objective, parts: Parts) -> None:
        """Refuse data that break the contract of the model.

        Raises:
            ConfigError: another rate, crop, or axes of states than the model's.
        """
        assert isinstance(objective, ActionConditioned)
        model, data = objective.model, parts.whole
        step = (self.window.step_seconds or 1 / data.fps) * self.window.stride
        model.check_data(step, self.source.crop)
        require_fit(model, data, self.source.crop)

    def sizes(self, objective: Objective) -> dict[str, int]:
        """Count parameters of the frozen encoder, and those that are trained."""
        assert isinstance(objective, ActionConditioned)
        return {
            "encoder_parameters": count(objective.model.encoder.parameters()),
            "trained_parameters": count(p for p in objective.parameters() if p.requires_grad),
        }

    def card(self, objective: Objective, parts: Parts) -> str:
        """Write the model card: what was trained on what, and at which rate."""
        assert isinstance(objective, ActionConditioned)
        model, sizes = objective.model, self.sizes(objective)
        part = "Adapters of its predictor were" if objective.config.lora else "Its predictor was"
        episodes, frames = len(parts.train.lengths), sum(parts.train.lengths)
        return (
            f"# World model over {type(model.encoder).__name__}\n\n"
            f"{part} trained ({sizes['trained_parameters']:,} parameters) by saccade "
            f"{__version__} on {self.train.samples} clips of {self.window.num_frames} frames from "
            f"{episodes} episodes ({frames} frames, camera {parts.camera}). One step lasts "
            f"{model.step_seconds:g} s; frames are cropped by {model.config.crop!r}; a gripper "
            f"of 1 means {model.config.gripper.removesuffix('_is_1')}.\n\n"
            f"States: {', '.join(model.state_names)}. Actions: {', '.join(model.action_names)} "
            f"({objective.config.actions}).\n\n"
            f"## Settings\n\n```json\n{json.dumps(to_dict(self), indent=2)}\n```\n"
        )


def on_paper(config: Config[ActionWorldModel]) -> Config[ActionWorldModel]:
    """Replace what is read from our folders by the configs in them.

    Raises:
        CheckpointError: a folder is missing, or holds no model.
    """
    if isinstance(config, PretrainedWorldModelConfig):
        config = config.plain()
    if isinstance(config, ActionWorldModelConfig) and isinstance(config.encoder, PretrainedConfig):
        encoder = from_dict(read_record(config.encoder.folder)["model"])
        config = replace(config, encoder=encoder)
    return config
