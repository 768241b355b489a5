"""Action-conditioned prediction of features: the losses of V-JEPA 2-AC (arXiv 2506.09985).

With ``h_t`` the frozen encoder's features of frame ``t``, normalised, ``a_t`` the action and
``s_t`` the state, ``T + 1`` frames give ``T`` steps, and the loss has two parts:

    teacher forcing   z_{t+1} = predict(h_1..h_t, a_1..a_t, s_1..s_t)    against h_{t+1}, t = 1..T
    rollout           the same from h_1, z_2, z_3 .. with z fed back     against h_2 .. h_{n+1}

each as the mean of ``|z - h|^p / p``. ``z_2`` is that of teacher forcing, and gradient flows
through it. Prediction ``t`` is compared with frame ``t + 1``: compared with its own input, it
learns to copy and to ignore the action. Facts from https://github.com/facebookresearch/vjepa2
(``app/vjepa_droid/train.py``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor, nn

from saccade.config import Config
from saccade.errors import ConfigError
from saccade.models.lora import LoraConfig, add_lora, save_lora
from saccade.models.world_model import ActionWorldModel
from saccade.objectives.future_pixels import invert_last
from saccade.types import Clip, Objective, Preprocessing


@dataclass(frozen=True, kw_only=True)
class ActionConditionedConfig(Config["ActionConditioned"]):
    """The defaults are those of V-JEPA 2-AC.

    Args:
        model: the world model, fresh or trained before; its encoder is not trained.
        actions: ``measured`` differences of poses; ``recorded`` commands, which must be
            increments: those between two frames are summed; or ``shuffled``, measured ones of
            other samples: a control, which cannot learn what actions do.
        auto_steps: predictions of the rollout; the first is that of teacher forcing.
        rollout_states: ``measured`` ones, or the first one ``composed`` with the actions.
        truncate: stop the gradient where a prediction is fed back.
        exponent: of the distance.
        teacher_weight: of teacher forcing.
        rollout_weight: of the rollout; 0 leaves it out.
        lora: adapters to train instead of the whole predictor.
    """

    model: Config[ActionWorldModel]
    actions: Literal["measured", "recorded", "shuffled"] = "measured"
    auto_steps: int = 2
    rollout_states: Literal["measured", "composed"] = "measured"
    truncate: bool = False
    exponent: float = 1.0
    teacher_weight: float = 1.0
    rollout_weight: float = 1.0
    lora: LoraConfig | None = None

    def build(self) -> "ActionConditioned":
        """Construct the world model.

        Raises:
            ConfigError: an option that cannot be.
        """
        if self.auto_steps < 1 or self.exponent <= 0:
            raise ConfigError(
                f"auto_steps is {self.auto_steps} and exponent {self.exponent}; both are positive"
            )
        return ActionConditioned(self)


class Sample(NamedTuple):
    """What the losses need of a clip, in the model's own sense of the gripper."""

    features: Float[Tensor, "b t n d"]
    action: Float[Tensor, "b k a"]  # k = t - 1
    state: Float[Tensor, "b t s"]


class ActionConditioned(Objective):
    """Training of a world model's predictor."""

    left_out = ("model.encoder",)  # of checkpoints

    def __init__(self, config: ActionConditionedConfig) -> None:
        super().__init__()
        self.config = config
        self.model = config.model.build()
        if config.actions != "recorded" or config.rollout_states == "composed":
            missing = sorted(set(self.model.action_names) - set(self.model.state_names))
            if missing:
                raise ConfigError(
                    f"the actions' axes {missing} are not among the states' "
                    f"{list(self.model.state_names)}; use recorded actions and measured states"
                )
        if config.lora is not None:
            add_lora(self.model.predictor, config.lora)
        self.register_state_dict_post_hook(_without_encoder)
        self.register_load_state_dict_pre_hook(_with_encoder)

    def reads(self) -> Preprocessing:
        """Return what frames the frozen encoder reads."""
        return self.model.encoder.preprocessing

    def save_exports(self, folder: Path, card: str = "", step: int = 0) -> dict[str, Path]:
        """Write the world model, or only its adapters, with the weights that they belong to."""
        if self.config.lora is not None:
            place = folder / "adapters"
            save_lora(place, self.model.predictor, self.config.lora, {"step": step})
            return {"adapters": place}
        self.model.save_pretrained(folder / "world_model", card)
        return {"world_model": folder / "world_model"}

    def sample(self, clip: Clip) -> Sample:
        """Encode the frames of the first camera, unless the clip has their features, and find the
        actions between them.

        Raises:
            ConfigError: the clip has not the axes, the frames or the commands that are needed.
        """
        state = self.state(clip)
        return Sample(self.features(clip), self.action(clip, state), state)

    def features(self, clip: Clip) -> Float[Tensor, "b t n d"]:
        """Return the clip's features in float32, or encode the frames of the first camera.

        Raises:
            ConfigError: kept features are not those that the predictor was built for.
        """
        if "features" not in clip:
            return self.model.encode(clip["video"][:, :, 0])
        kept, shape = clip["features"], self.model.config.predictor
        height, width = shape.grid
        if kept.shape[2:] != (height * width, shape.feature_dim):
            raise ConfigError(
                f"the clip has {kept.shape[2]} features of width {kept.shape[3]} for a frame; the "
                f"predictor was built for a grid of {height} x {width} of width "
                f"{shape.feature_dim}: keep features of this model's encoder"
            )
        return kept.float()

    def state(self, clip: Clip) -> Float[Tensor, "b t s"]:
        """Return the states as the model means them."""
        return self.model.sense(clip["state"], "state")

    def action(self, clip: Clip, state: Float[Tensor, "b t s"]) -> Float[Tensor, "b k a"]:
        """Return one action for each frame but the last.

        Raises:
            ConfigError: recorded commands are not all there, or there is no other sample.
        """
        if self.config.actions == "recorded":
            return self.model.sense(between_frames(clip), "action")
        action = self.model.measured(state[:, :-1], state[:, 1:])
        if self.config.actions == "measured":
            return action
        if len(action) == 1:
            raise ConfigError(
                "shuffled actions are those of other samples, and this batch has one; raise "
                "batch_size or lower accumulate"
            )
        return action.roll(1, 0)

    def terms(self, clip: Clip) -> Mapping[str, Float[Tensor, ""]]:
        """Return teacher forcing and rollout."""
        return self.terms_from_features(*self.sample(clip))

    def terms_from_features(
        self,
        features: Float[Tensor, "b t n d"],
        action: Float[Tensor, "b k a"],
        state: Float[Tensor, "b _ s"],
    ) -> Mapping[str, Float[Tensor, ""]]:
        """Return the same from features that ``ActionWorldModel.encode`` made before."""
        config = self.config
        predicted = self.model.predict(features[:, :-1], action, state[:, :-1])
        terms = {
            "teacher_forcing": config.teacher_weight
            * distance(predicted, features[:, 1:], config.exponent)
        }
        if config.rollout_weight:
            unrolled = rollout(
                self.model,
                Sample(features, action, state),
                predicted[:, 0],
                config.auto_steps,
                config.rollout_states == "composed",
                config.truncate,
            )
            target = features[:, 1 : config.auto_steps + 1]
            terms["rollout"] = config.rollout_weight * distance(unrolled, target, config.exponent)
        return terms

    def baselines(self, clip: Clip) -> Mapping[str, Float[Tensor, ""]]:
        """Return the loss of predicting that nothing changes, and of acting on others' actions."""
        features, config = self.sample(clip).features, self.config
        still = features[:, :1].expand(-1, config.auto_steps, -1, -1)
        follow = distance(features[:, :-1], features[:, 1:], config.exponent)
        unroll = distance(still, features[:, 1 : config.auto_steps + 1], config.exponent)
        found = {"copy": config.teacher_weight * follow + config.rollout_weight * unroll}
        if clip["state"].shape[:2] > (1, 2):
            found["shuffled_actions"] = self.shuffled(clip)
        return found

    def shuffled(self, clip: Clip) -> Float[Tensor, ""]:
        """Return the loss with the actions of other samples: higher, if the actions matter.

        Raises:
            ConfigError: one sample of one step has no other action.
        """
        features, action, state = self.sample(clip)
        if action.shape[:2] == (1, 1):
            raise ConfigError("one action cannot be shuffled; take more samples or longer clips")
        other = action.roll(1, 0) if len(action) > 1 else action.roll(1, 1)
        terms = self.terms_from_features(features, other, state)
        return torch.stack(list(terms.values())).sum()

    def inputs(self, clip: Clip) -> Mapping[str, Tensor]:
        """Return what the predictor is given; each frame but the first is a target too."""
        features, action, state = self.sample(clip)
        return {"features": features[:, :-1], "action": action, "state": state[:, :-1]}

    def without_target(self, clip: Clip) -> Clip:
        """Invert the last frame, the only one that is a target and no input, and its features."""
        blind = invert_last(clip)
        if "features" in clip:
            kept = clip["features"].clone()
            kept[:, -1] *= -1
            blind["features"] = kept
        return blind


def distance(
    predicted: Float[Tensor, "*b d"], target: Float[Tensor, "*b d"], exponent: float
) -> Float[Tensor, ""]:
    """Return the mean of ``|predicted - target|^p / p``.

    Raises:
        ConfigError: there are more predictions than frames to compare them with.
    """
    if predicted.shape != target.shape:
        raise ConfigError(
            f"{predicted.shape[1]} steps were predicted, but the clip shows {target.shape[1]} "
            "frames to compare them with; lower auto_steps or lengthen the clip"
        )
    return (predicted.float() - target.float()).abs().pow(exponent).mean() / exponent


def rollout(
    model: ActionWorldModel,
    sample: Sample,
    first: Float[Tensor, "b n d"],
    steps: int,
    composed: bool = False,
    truncate: bool = False,
) -> Float[Tensor, "b steps n d"]:
    """Feed predictions back, from frame 1 and the prediction ``first`` of frame 2 on.

    Raises:
        ConfigError: there are fewer actions than steps.
    """
    features, action, state = sample
    if action.shape[1] < steps:
        raise ConfigError(
            f"a rollout of {steps} steps needs as many actions, the clip has {action.shape[1]}; "
            "lower auto_steps or lengthen the clip"
        )
    predicted, pose = [first], state[:, 0]
    seen = None
    if steps > 1:
        seen = model.predictor.remember(features[:, :1], action[:, :1], state[:, :1])
    for step in range(1, steps):
        newest = predicted[-1].detach() if truncate else predicted[-1]
        pose = model.moved(pose, action[:, step - 1]) if composed else state[:, step]
        following, seen = model.predictor.step(
            seen, newest, action[:, step], pose, keep=step < steps - 1
        )
        predicted.append(model.normalise(following))
    return torch.stack(predicted, 1)


def _without_encoder(
    objective: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any
) -> None:
    """Keep the frozen encoder, gigabytes that never change, out of checkpoints."""
    del objective, metadata
    for name in [name for name in state if name.startswith(f"{prefix}model.encoder.")]:
        del state[name]


def _with_encoder(
    objective: nn.Module, state: dict[str, Tensor], prefix: str, *others: Any
) -> None:
    """Take the encoder's weights from where they were loaded."""
    del others
    assert isinstance(objective, ActionConditioned)
    objective.model.encoder.state_dict(destination=state, prefix=f"{prefix}model.encoder.")


def between_frames(clip: Clip) -> Float[Tensor, "b k a"]:
    """Sum the recorded commands from each frame to the next.

    Raises:
        ConfigError: the clip lacks commands, as one whose frames are several steps apart does
            that holds one command for each frame.
    """
    action, steps = clip["action"], clip["video"].shape[1] - 1
    spans = clip["gap"].unique().tolist()
    if len(spans) == 1 and spans[0] > 0 and steps and not spans[0] % steps:
        span = int(spans[0])
        if span <= action.shape[1] <= span + 1:  # or one for the last frame too
            return reduce(action[:, :span], "b (k m) a -> b k a", "sum", k=steps)
    raise ConfigError(
        f"a clip of {steps + 1} frames over {spans} steps holds {action.shape[1]} commands; to sum "
        "them from frame to frame it takes all of them, and frames evenly spaced: use "
        "TransitionWindow, or ClipWindow with stride 1, or measured actions"
    )
