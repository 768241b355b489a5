"""Training to act: a state encoder (phase 1), and policies over it or over any frozen encoder.

What a policy must be shown and what it commands is its contract, made here from the data and
saved beside its weights. So are the statistics of the training part, and what each camera saw on
average, which tells a picture from the same picture upside down.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saccade import __version__
from saccade.checkpoint import write_atomic
from saccade.config import Config, to_dict
from saccade.data.episodes import Episodes
from saccade.data.loader import FixedBatches
from saccade.data.passes.statistics import Numbers
from saccade.data.windows import ChunkWindow, SpacedWindow, TransitionWindow
from saccade.deploy.appearance import thumbnail
from saccade.errors import ConfigError, DataError
from saccade.evals.phase1 import phase_1_verdict
from saccade.experiments.source import Parts, Report, recorded_size
from saccade.experiments.training import Training, count
from saccade.models.language import Language
from saccade.models.state_encoder import StateEncoder
from saccade.objectives.imitation import Imitation
from saccade.objectives.temporal_jepa import TemporalJepa, TemporalJepaConfig
from saccade.train.engine import Resume
from saccade.train.log import Progress
from saccade.train.sync import Sync
from saccade.types import Contract, Objective

SMALLEST_STD = 1e-6
LOOKED_AT = 256  # frames of the training part that thumbnails are the mean of


class Statistics(NamedTuple):
    """Mean and deviation of the actions and states of every frame; grippers of actions as are.

    A state that never varied in training has the deviation 1: it will vary at work, by a little
    that must stay little.
    """

    action_mean: Float[Tensor, " a"]
    action_std: Float[Tensor, " a"]
    state_mean: Float[Tensor, " s"]
    state_std: Float[Tensor, " s"]


def statistics(episodes: Episodes) -> Statistics:
    """Count the states and actions of all episodes, of any number, exactly; no pixel is read."""
    state, action = Numbers(len(episodes.state_names)), Numbers(len(episodes.action_names))
    for episode, length in enumerate(episodes.lengths):
        seen, done = episodes.numbers(episode, np.arange(length))
        state.update(seen)
        action.update(done)
    found = [
        torch.from_numpy(np.asarray(part.describe()[name], np.float32))
        for part in (action, state)
        for name in ("mean", "std")
    ]
    grippers = [i for i, name in enumerate(episodes.action_names) if _is_gripper(name)]
    found[0][grippers], found[1][grippers] = 0.0, 1.0
    action_mean, action_std, state_mean, state_std = found
    state_std[state_std < SMALLEST_STD] = 1.0
    return Statistics(action_mean, action_std.clamp_min(SMALLEST_STD), state_mean, state_std)


def thumbnails(parts: Parts) -> Float[Tensor, "v 3 16 16"]:
    """Return what each camera saw on average, in frames spread evenly over the training part."""
    whole = np.concatenate([np.arange(n) for n in parts.train.lengths])
    owner = np.repeat(np.arange(len(parts.train.lengths)), parts.train.lengths)
    places = np.unique(np.linspace(0, len(whole) - 1, LOOKED_AT).round().astype(int))
    frames = torch.cat(
        [
            parts.train.read(int(e), whole[places[owner[places] == e]], parts.cameras)["video"]
            for e in np.unique(owner[places])
        ]
    )
    return torch.stack([thumbnail(view) for view in frames.unbind(1)])


def check_same(phase_1: Contract, phase_2: Contract) -> None:
    """Refuse to show a state encoder other things than it was trained on.

    Raises:
        ConfigError: it names what differs.
    """
    for name in ("cameras", "frame_size", "image_size", "crop", "orientation", "state_names"):
        before, now = getattr(phase_1, name), getattr(phase_2, name)
        if before != now:
            raise ConfigError(
                f"the state encoder was trained on {name} {before}, these data give {now}; choose "
                "the same data, source.cameras and source.crop, or train phase 1 on these"
            )


def _is_gripper(name: str) -> bool:
    return name.lower().endswith("gripper")


@dataclass(frozen=True, kw_only=True)
class ActingTraining(Training):
    """What training an encoder of states and training a policy have in common."""

    window: SpacedWindow  # pyright: ignore[reportIncompatibleVariableOverride]

    def blank(self) -> Objective:
        """Construct the networks; parts that are loaded from folders are."""
        return self.objective.build()

    def check_actor(
        self, objective: Objective, parts: Parts, states: int, cameras: int, actions: int
    ) -> None:
        """Refuse data of other sizes, or that say what the language does not know.

        Raises:
            ConfigError: it names the option that mends it.
            DataError: an instruction is missing.
        """
        data = parts.whole
        if len(parts.cameras) != cameras:
            raise ConfigError(
                f"the networks take {cameras} cameras, the data give {len(parts.cameras)} "
                f"({', '.join(parts.cameras)}); set source.cameras to as many of the data set's, "
                "or the networks' cameras"
            )
        if len(data.state_names) != states:
            raise ConfigError(
                f"the networks take a state of {states} numbers, the data give "
                f"{len(data.state_names)} ({', '.join(data.state_names)}); set state_size, or "
                "choose another state of the data (--data-options state=...)"
            )
        if len(data.action_names) != actions:
            raise ConfigError(
                f"the networks take {actions} axes of actions, the data give "
                f"{len(data.action_names)} ({', '.join(data.action_names)}); set action_size, or "
                "a policy's action_names"
            )
        step = self.window.step_seconds
        if step and abs(step * data.fps - 1) > 0.01:
            raise ConfigError(
                f"step_seconds is {step:g}, and the data hold a command every {1 / data.fps:g} s; "
                "commands cannot be left out: set step_seconds to 0"
            )
        if self.augment.margin or self.augment.flip:
            raise ConfigError(
                f"augment.margin is {self.augment.margin} and augment.flip {self.augment.flip:g}: "
                "the simulator shows frames neither cropped nor mirrored; set both to 0"
            )
        tasks = sorted(set(data.tasks))
        for module in objective.modules():
            if isinstance(module, Language):
                try:
                    module(tasks)
                except DataError as error:
                    raise DataError(f"an instruction of the data: {error}") from error

    def contract(self, parts: Parts, image_size: int, **shape: int) -> Contract:
        """Return what data of this kind show and command."""
        data, reader = parts.whole, self.source.episodes
        unit = getattr(reader, "action", "")
        versions = {
            f"{name} {version}"
            for episode in range(len(data.lengths))
            for name, version in data.about(episode).get("versions", {}).items()
        }
        return Contract(
            cameras=parts.cameras,
            frame_size=recorded_size(data, parts.cameras),
            image_size=image_size,
            state_names=data.state_names,
            action_names=data.action_names,
            fps=data.fps,
            crop=self.source.crop,
            orientation=getattr(reader, "orientation", "upright"),
            action_unit="metric" if unit == "metric" else "normalised",
            origin=tuple(sorted(versions)),
            **shape,
        )

    def about(self, parts: Parts) -> str:
        """Tell what was learned from, and by which settings, for a model card."""
        episodes, frames = len(parts.train.lengths), sum(parts.train.lengths)
        settings = json.dumps(to_dict(self), indent=2)
        return (
            f"Trained by saccade {__version__} on {self.train.samples} samples of {episodes} "
            f"episodes ({frames} frames at {parts.whole.fps:g} Hz, cameras "
            f"{', '.join(parts.cameras)}). States: {', '.join(parts.whole.state_names)}. Actions: "
            f"{', '.join(parts.whole.action_names)}.\n\n## Settings\n\n```json\n{settings}\n```\n"
        )


@dataclass(frozen=True, kw_only=True)
class StateTraining(ActingTraining):
    """Phase 1: as ``Training``; ``objective.steps`` of 0 are the steps of this run."""

    objective: Config[TemporalJepa]  # pyright: ignore[reportIncompatibleVariableOverride]

    def build(self) -> Objective:
        """Construct the networks with the weights that this seed starts from."""
        torch.manual_seed(self.train.seed)
        return self.blank()

    def blank(self) -> Objective:
        """Construct the networks, with the momentum's steps those of the run."""
        config = self.objective
        if isinstance(config, TemporalJepaConfig) and not config.steps:
            config = replace(config, steps=self.train.steps)
        return config.build()

    def check(self, objective: Objective, parts: Parts) -> None:
        """Refuse data that do not fit the networks.

        Raises:
            ConfigError: it names the option that mends it.
            DataError: an instruction is missing.
        """
        assert isinstance(objective, TemporalJepa)
        shape, actions = objective.encoder.config, objective.config.action_size
        self.check_actor(objective, parts, shape.state_size, shape.cameras, actions)
        names = parts.whole.action_names
        grippers = [i for i, name in enumerate(names) if _is_gripper(name)]
        last = list(range(len(names) - objective.config.grippers, len(names)))
        if grippers != last:
            raise ConfigError(
                f"the objective takes the last {objective.config.grippers} axes of actions for "
                f"grippers, the data have {', '.join(names)}; set objective.grippers"
            )

    def prepare(self, objective: Objective, parts: Parts, report: Report) -> Parts:
        """Give the networks the statistics of the training part."""
        assert isinstance(objective, TemporalJepa)
        objective.set_statistics(*statistics(parts.train))
        objective.encoder.contract = self.contract(parts, objective.reads().image_size)
        sizes = self.sizes(objective)
        report(
            f"state encoder of {sizes['encoder_parameters']:,} parameters; "
            f"{sizes['trained_parameters']:,} are trained"
        )
        return parts

    def fixed(self, parts: Parts) -> FixedBatches:
        """Return the held-out samples; none is alone in its batch, where nothing varies."""
        batches, size = super().fixed(parts), self.held_out_batch
        if len(batches.rows) > 1 and len(batches.rows[-1]) == 1:
            return batches[:-1]
        if len(batches.rows[0]) == 1:
            raise ConfigError(
                f"eval_samples is {self.eval_samples}; phase 1 compares samples: use 2 to {size} "
                "or more, and longer episodes"
            )
        return batches

    def run(
        self,
        folder: Path,
        *,
        resume: Resume = False,
        allow_change: Sequence[str] = (),
        progress: Callable[[Progress], None] | None = None,
        report: Report = lambda _: None,
        sync: Sync | None = None,
    ) -> dict[str, Any]:
        """Train, or resume; ``result.json`` says under ``phase_1`` whether phase 2 may begin."""
        result = super().run(
            folder,
            resume=resume,
            allow_change=allow_change,
            progress=progress,
            report=report,
            sync=sync,
        )
        if result:
            lines = (folder / "metrics.jsonl").read_text().splitlines()
            result["phase_1"] = phase_1_verdict([json.loads(line) for line in lines])
            write_atomic(folder / "result.json", json.dumps(result, indent=2) + "\n")
            if sync is not None:
                sync.once()
            against = "; ".join(result["phase_1"]["reasons"])
            report(f"phase 1 is not ready: {against}" if against else "phase 1 is ready")
        return result

    def sizes(self, objective: Objective) -> dict[str, int]:
        """Count parameters of what phase 2 takes over, and of all that is trained."""
        assert isinstance(objective, TemporalJepa)
        return {
            "encoder_parameters": count(objective.encoder.parameters()),
            "trained_parameters": count(p for p in objective.parameters() if p.requires_grad),
        }

    def card(self, objective: Objective, parts: Parts) -> str:
        """Write the model card of the state encoder."""
        assert isinstance(objective, TemporalJepa)
        shape = objective.encoder.preprocessing
        return (
            "# State encoder (phase 1)\n\n"
            f"{len(parts.cameras)} frames of {shape.image_size} x {shape.image_size} pixels, the "
            "robot's state and an instruction in, a state z of width "
            f"{objective.encoder.dim} out.\n\n{self.about(parts)}"
        )


@dataclass(frozen=True, kw_only=True)
class PolicyTraining(ActingTraining):
    """Phase 2, or behaviour cloning over any encoder: as ``Training``, and a contract."""

    objective: Config[Imitation]  # pyright: ignore[reportIncompatibleVariableOverride]

    def check(self, objective: Objective, parts: Parts) -> None:
        """Refuse data, or a window, that do not fit the policy.

        Raises:
            ConfigError: it names the option that mends it.
            DataError: an instruction is missing.
        """
        assert isinstance(objective, Imitation)
        policy, window, names = objective.policy, self.window, parts.whole.action_names
        config, condition = policy.config, policy.condition
        self.check_actor(
            objective, parts, condition.state_size, condition.cameras, len(config.action_names)
        )
        if names != config.action_names:
            raise ConfigError(
                f"the policy commands {', '.join(config.action_names)}, the data have "
                f"{', '.join(names)}; set action_names"
            )
        chunk = len(window.action_steps(int(window.gaps()[0][0])))
        history = 1
        if isinstance(window, ChunkWindow):
            chunk, history = window.chunk, window.history
        if (chunk, history) != (config.chunk, config.history):
            raise ConfigError(
                f"the window has a history of {history} and a chunk of {chunk}, the policy of "
                f"{config.history} and {config.chunk}; make them the same"
            )
        if isinstance(window, TransitionWindow) != (getattr(condition, "goal", None) is not None):
            raise ConfigError(
                f"the window is a {type(window).__name__}; a policy with a goal learns from "
                "TransitionWindow, any other from ChunkWindow"
            )

    def prepare(self, objective: Objective, parts: Parts, report: Report) -> Parts:
        """Give the policy its contract, and the statistics of the training part."""
        assert isinstance(objective, Imitation)
        policy = objective.policy
        policy.set_statistics(*statistics(parts.train))
        policy.reference.copy_(thumbnails(parts))
        policy.contract = self.contract(
            parts,
            objective.reads().image_size,
            history=policy.config.history,
            stride=self.window.stride if isinstance(self.window, ChunkWindow) else 1,
            chunk=policy.config.chunk,
        )
        encoder = getattr(policy.condition, "encoder", None)
        if isinstance(encoder, StateEncoder) and encoder.contract is not None:
            check_same(encoder.contract, policy.contract)
        trained, whole = self.sizes(objective)["trained_parameters"], count(policy.parameters())
        frozen = "encoder frozen, " if "encoder" in policy.condition.frozen else ""
        report(f"{frozen}{trained:,} of {whole:,} parameters are trained")
        return parts

    def sizes(self, objective: Objective) -> dict[str, int]:
        """Count parameters of what a policy sees with, and of all that is trained."""
        assert isinstance(objective, Imitation)
        return {
            "encoder_parameters": count(objective.policy.condition.parameters()),
            "trained_parameters": count(p for p in objective.parameters() if p.requires_grad),
        }

    def card(self, objective: Objective, parts: Parts) -> str:
        """Write the model card of the policy, with its contract."""
        assert isinstance(objective, Imitation)
        contract = objective.policy.contract
        return (
            f"# Policy: {type(objective.policy.head).__name__} over "
            f"{type(objective.policy.condition).__name__}\n\n"
            f"Answers {contract.history} moments with {contract.chunk} commands at "
            f"{contract.fps:g} Hz. Contract `{contract.digest()}`, also in `config.json`:\n\n"
            f"```json\n{json.dumps(to_dict(contract), indent=2)}\n```\n\n"
            "```python\n"
            "from saccade.types import Policy\n"
            'policy = Policy.from_pretrained("PATH/TO/THIS/FOLDER")\n'
            f"```\n\n{self.about(parts)}"
        )
