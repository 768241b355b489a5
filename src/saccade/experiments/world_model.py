"""Training of a world model as a value: its predictor, or adapters in it, over a frozen encoder."""

import json
from dataclasses import dataclass

from saccade import __version__
from saccade.config import Config, to_dict
from saccade.data.windows import ClipWindow
from saccade.experiments.moments import require_fit
from saccade.experiments.source import Parts
from saccade.experiments.training import Training, count
from saccade.objectives.action_conditioned import ActionConditioned
from saccade.types import Objective


@dataclass(frozen=True, kw_only=True)
class WorldModelTraining(Training):
    """As ``Training``; the clips must move at the rate, and look, as the model expects.

    Beside the held-out loss stand those of the copied last frame and of shuffled actions.
    """

    objective: Config[ActionConditioned]  # pyright: ignore[reportIncompatibleVariableOverride]
    window: ClipWindow  # pyright: ignore[reportIncompatibleVariableOverride]

    def blank(self) -> ActionConditioned:
        """Construct the networks; an encoder from a file comes with its weights."""
        return self.objective.build()

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
