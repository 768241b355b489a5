"""A world model over any frozen encoder: what will be seen after an action.

The encoder looks at each frame by itself, as often repeated as it needs frames; its features are
layer-normed without weights; a predictor maps them, the state and an action to the features of the
next frame; its output is normalised again, and fed back to look further ahead. This is V-JEPA 2-AC
(arXiv 2506.09985, https://github.com/facebookresearch/vjepa2) over ViT-g, and a small thing over a
small encoder.

A folder holds the predictor's weights, and the encoder's in ``encoder/`` unless they are kept
elsewhere. Both are held together by the features of one fixed image, to which a predictor of
another encoder's features does not fit.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, UInt8
from torch import Tensor

from saccade import poses
from saccade.checkpoint import load_model, read_record, save_model
from saccade.config import Config, from_dict, to_dict
from saccade.errors import CheckpointError, ConfigError
from saccade.models.one_frame import check_fingerprint, fingerprint, grid_of, repeats
from saccade.models.pretrained import PretrainedConfig
from saccade.models.vjepa2.encoder import VJepa2
from saccade.models.vjepa2.predictor import ActionPredictor, ActionPredictorConfig
from saccade.types import Context, Crop, Encoder, WorldModel

ENCODER = "encoder"
RATE = 0.1  # share by which the duration of a step may differ from that of training


@dataclass(frozen=True, kw_only=True)
class ActionWorldModelConfig(Config["ActionWorldModel"]):
    """What is predicted from what; the defaults are the contract of V-JEPA 2-AC.

    Args:
        encoder: any encoder; it is never trained here.
        predictor: its grid and feature width are those of the encoder's tokens; where they are 0
            they are taken from the encoder.
        step_seconds: time from a frame to the next, and so of one action.
        crop: how frames became squares, of ``data/transforms.py``: ``ac_crop``,
            ``shortest_edge_crop`` or ``fit``.
        gripper: what 1 means in the model's states; data are always 1 when open.
        state_names: axes of a state.
        action_names: axes of an action.
        tokens: predict every token of a frame, or one pooled feature.
        normalise: layer-norm features and predictions, without weights, epsilon 1e-5.
        states: ``composed`` moves the state by each action, whose axes must be among the state's;
            ``held`` keeps the last measured one, for commands in units of their own.
    """

    encoder: Config[Encoder]
    predictor: ActionPredictorConfig
    step_seconds: float
    crop: Crop = "ac"
    gripper: Literal["closed_is_1", "open_is_1"] = "closed_is_1"
    state_names: tuple[str, ...] = poses.NAMES
    action_names: tuple[str, ...] = poses.NAMES
    tokens: Literal["patches", "pooled"] = "patches"
    normalise: bool = True
    states: Literal["composed", "held"] = "composed"

    def build(self) -> "ActionWorldModel":
        """Build the encoder, and a predictor with fresh weights.

        Raises:
            ConfigError: fields contradict each other, or the tokens make no square to take.
        """
        encoder = self.encoder.build()
        config = self.fitted(encoder)
        return ActionWorldModel(config, encoder, config.predictor.build())

    def fitted(self, encoder: Encoder) -> "ActionWorldModelConfig":
        """Fill in a grid or feature width of 0.

        Raises:
            ConfigError: the encoder's tokens of a frame make no square.
        """
        shape = self.predictor
        if shape.feature_dim and all(shape.grid):
            return self
        grid, width = grid_of(encoder, self.tokens == "pooled")
        return replace(self, predictor=replace(shape, grid=grid, feature_dim=width))


@dataclass(frozen=True, kw_only=True)
class PretrainedWorldModelConfig(Config["ActionWorldModel"]):
    """A world model that ``ActionWorldModel.save_pretrained`` wrote, to train it further.

    Args:
        folder: where it is.
        encoder_precision: of the frozen encoder's weights in memory; ``file`` keeps theirs.
        checkpoint_activations: compute the predictor's activations again in the backward pass.
    """

    folder: Path
    encoder_precision: Literal["file", "float32", "bfloat16"] = "file"
    checkpoint_activations: bool = False

    def build(self) -> "ActionWorldModel":
        """Load the world model, its encoder frozen as ever.

        Raises:
            CheckpointError: the folder is missing, or as ``ActionWorldModel.from_pretrained``.
            ConfigError: the encoder cannot compute in that precision.
        """
        self.require_there()
        model = ActionWorldModel.from_pretrained(self.folder)
        if self.encoder_precision == "bfloat16" and not isinstance(model.encoder, VJepa2):
            raise ConfigError(
                f"a {type(model.encoder).__name__} takes no weights in bfloat16 (V-JEPA 2 does); "
                "set encoder_precision to float32"
            )
        if self.encoder_precision != "file":
            model.encoder.to(getattr(torch, self.encoder_precision))
        if self.checkpoint_activations:
            model.predictor.config = replace(model.predictor.config, checkpoint_activations=True)
        return model

    def plain(self) -> ActionWorldModelConfig:
        """Return the same model's config with fresh weights; no weight is read.

        Raises:
            CheckpointError: the folder is missing, or holds no world model.
        """
        self.require_there()
        record = read_record(self.folder)["preprocessing"]
        if "world_model" not in record:
            raise CheckpointError(f"{self.folder} holds no world model, as saccade train writes it")
        config: ActionWorldModelConfig = from_dict(record["world_model"])
        encoder = config.encoder
        if (self.folder / ENCODER).is_dir():
            encoder = from_dict(read_record(self.folder / ENCODER)["model"])
        shape = replace(config.predictor, checkpoint_activations=self.checkpoint_activations)
        return replace(config, encoder=encoder, predictor=shape)

    def require_there(self) -> None:
        """Raise CheckpointError where no folder is, and say how to get the published model."""
        if not self.folder.is_dir():
            raise CheckpointError(
                f"there is no world model at {self.folder}; for the published V-JEPA 2-AC fetch "
                "vjepa2-ac-vitg.pt (11.7 GB) from https://dl.fbaipublicfiles.com/vjepa2/ and run "
                f"saccade export convert vjepa2-ac-vitg.pt --out {self.folder} "
                "--step-seconds 0.25"
            )


class ActionWorldModel(WorldModel):
    """An action-conditioned predictor of a frozen encoder's features."""

    def __init__(
        self, config: ActionWorldModelConfig, encoder: Encoder, predictor: ActionPredictor
    ) -> None:
        super().__init__()
        _check(config)
        self.config = config
        self.state_names, self.action_names = config.state_names, config.action_names
        self.step_seconds = config.step_seconds
        self.encoder = encoder.requires_grad_(False).eval()
        self.predictor = predictor

    def train(self, mode: bool = True) -> "ActionWorldModel":
        """Switch the predictor; the encoder stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    @torch.no_grad()
    def encode(self, video: UInt8[Tensor, "b t 3 h w"]) -> Float[Tensor, "b t n d"]:
        """Return normalised features, ``n`` of each frame.

        Raises:
            ConfigError: the encoder's tokens are not those that the predictor was built for.
        """
        frames = repeat(video, "b t c h w -> (b t) r c h w", r=repeats(self.encoder))
        tokens = self.encoder(frames).float()
        pooled = self.config.tokens == "pooled"
        features = self.encoder.pool(tokens)[:, None] if pooled else tokens.mean(1)
        shape, (height, width) = self.config.predictor, self.config.predictor.grid
        if features.shape[1:] != (height * width, shape.feature_dim):
            raise ConfigError(
                f"the encoder gives {features.shape[1]} features of width {features.shape[2]} for "
                f"a frame; the predictor was built for a grid of {height} x {width} of width "
                f"{shape.feature_dim}"
            )
        return self.normalise(rearrange(features, "(b t) n d -> b t n d", t=video.shape[1]))

    def normalise(self, features: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Bring each feature to zero mean and unit variance, if the model was trained so."""
        return F.layer_norm(features, features.shape[-1:]) if self.config.normalise else features

    def predict(
        self,
        features: Float[Tensor, "b t n d"],
        action: Float[Tensor, "b _ a"],
        state: Float[Tensor, "b _ s"],
    ) -> Float[Tensor, "b t n d"]:
        """Return the normalised features of each next frame.

        Raises:
            ConfigError: there is not an action and a state for each frame, or they have other axes.
        """
        return self.normalise(self.predictor(features, action, state))

    def look(
        self,
        features: Float[Tensor, "t n d"],
        state: Float[Tensor, "_ s"],
        action: Float[Tensor, "k a"],
    ) -> Context:
        """Prepare for many candidates: keep the keys and values of all frames but the newest.

        Raises:
            ConfigError: there are not as many actions as frames, less one.
        """
        if not len(features) == len(state) == len(action) + 1:
            raise ConfigError(
                f"a world model that looked at {len(features)} frames needs as many states and "
                f"one action less, not {len(state)} states and {len(action)} actions"
            )
        shared = None
        if len(action):
            shared = self.predictor.remember(features[None, :-1], action[None], state[None, :-1])
        return Context(features=features, state=state, shared=shared)

    def imagine(self, context: Context, action: Float[Tensor, "b k a"]) -> Float[Tensor, "b k n d"]:
        """Return the features after each of ``k`` actions for ``b`` candidates, differentiable.

        They are computed a few at a time where that is faster; see ``ActionPredictor.together``.

        Raises:
            ConfigError: there is no action, or it has other axes than the model's.
        """
        if not action.shape[1]:
            raise ConfigError("candidates of no action lead nowhere; give at least one action each")
        parts = action.split(self.predictor.together(len(action)))
        return torch.cat([self._imagine(context, part) for part in parts])

    def _imagine(
        self, context: Context, action: Float[Tensor, "b k a"]
    ) -> Float[Tensor, "b k n d"]:
        seen, newest = context.shared, context.features[-1:]
        state = context.state[-1].expand(len(action), -1)
        steps, imagined = action.shape[1], []
        for step in range(steps):
            last = step == steps - 1
            predicted, seen = self.predictor.step(
                seen, newest, action[:, step], state, keep=not last
            )
            newest = self.normalise(predicted)
            state = state if last else self.moved(state, action[:, step])
            imagined.append(newest)
        return torch.stack(imagined, 1)

    def candidate_bytes(self, context: Context, horizon: int, gradient: bool = False) -> int:
        """Count what the predictor holds of one candidate, and copies of its features."""
        frames, rows = len(context.features), context.features.shape[1]
        held = self.predictor.step_bytes(frames, horizon, gradient)
        copies = 2 * horizon + 3  # each frame and their stack; the last one while it is compared
        return held + copies * rows * self.config.predictor.feature_dim * 4

    def moved(
        self, state: Float[Tensor, "*b s"], action: Float[Tensor, "*b a"]
    ) -> Float[Tensor, "*b s"]:
        """Return the state that an action leads to; grippers stay within [0, 1]."""
        if self.config.states == "held":
            return state
        return poses.moved(state, action @ self._places(action), self.state_names)

    def measured(
        self, before: Float[Tensor, "*b s"], after: Float[Tensor, "*b s"]
    ) -> Float[Tensor, "*b a"]:
        """Return the action between two states, the inverse of ``moved``.

        Raises:
            ConfigError: the axes of the action are not among those of the state.
        """
        return poses.difference(before, after, self.state_names) @ self._places(before).T

    def sense(
        self, values: Float[Tensor, "*b s"], kind: Literal["state", "action"]
    ) -> Float[Tensor, "*b s"]:
        """Go from the gripper of data, 1 when open, to the model's; the same leads back."""
        names = self.state_names if kind == "state" else self.action_names
        if self.config.gripper == "open_is_1":
            return values
        return poses.other_gripper(values, names, kind)

    def check_data(self, step_seconds: float, crop: str) -> None:
        """Refuse data that move at another rate, or look different, than those of training.

        Raises:
            ConfigError: which of the two, and what the model was trained on.
        """
        if abs(step_seconds / self.step_seconds - 1) > RATE:
            raise ConfigError(
                f"a step of the data lasts {step_seconds:g} s; the model was trained on steps of "
                f"{self.step_seconds:g} s: draw frames with that step_seconds"
            )
        if crop != self.config.crop:
            raise ConfigError(
                f"frames were cropped by {crop!r}; the model was trained on {self.config.crop!r}"
            )

    def _places(self, like: Tensor) -> Float[Tensor, "a s"]:
        """Return a matrix that puts each axis of an action on that of the state."""
        names = self.state_names
        missing = sorted(set(self.action_names) - set(names))
        if missing:
            raise ConfigError(
                f"the actions' axes {missing} are not among the states' {list(names)}, so a state "
                "cannot be moved by an action, nor an action be measured; hold the states"
            )
        places = [names.index(name) for name in self.action_names]
        return torch.eye(len(names), dtype=like.dtype, device=like.device)[places]

    def save_pretrained(
        self, folder: Path, card: str = "", with_encoder: bool | None = None
    ) -> None:
        """Write the predictor, what it was trained on, and the encoder's fingerprint.

        ``with_encoder`` is whether the encoder is written too; by default unless its config names
        a folder that holds it already.
        """
        config = self.config
        elsewhere = isinstance(config.encoder, PretrainedConfig)
        record = {"world_model": to_dict(config), "features": fingerprint(self.encoder)}
        save_model(folder, self.predictor, config.predictor, record, card)
        if with_encoder is None:
            with_encoder = not elsewhere
        if with_encoder and isinstance(config.encoder, PretrainedConfig):
            shutil.copytree(config.encoder.folder, folder / ENCODER)
        elif with_encoder:
            self.encoder.save_pretrained(folder / ENCODER, config.encoder)

    @staticmethod
    def from_pretrained(folder: Path, encoder: Encoder | None = None) -> "ActionWorldModel":
        """Load a world model in evaluation mode, over a given encoder, its own, or the named one.

        Raises:
            CheckpointError: the folder holds no world model, a weight does not fit, or the encoder
                is not the one that the predictor was trained on.
        """
        folder = Path(folder)
        predictor, record = load_model(folder)
        if not isinstance(predictor, ActionPredictor) or "world_model" not in record:
            raise CheckpointError(f"{folder} holds a {type(predictor).__name__}, not a world model")
        config = from_dict(record["world_model"])
        assert isinstance(config, ActionWorldModelConfig)
        if encoder is None and (folder / ENCODER).is_dir():
            encoder = Encoder.from_pretrained(folder / ENCODER)
        model = ActionWorldModel(config, encoder or config.encoder.build(), predictor)
        check_fingerprint(model.encoder, record["features"], str(folder))
        return model.eval()


def vjepa2_ac(encoder: Config[Encoder], step_seconds: float = 0.25) -> ActionWorldModelConfig:
    """Describe V-JEPA 2-AC over its encoder, ViT-g at 256 pixels with one tubelet for each frame.

    The paper says 4 frames per second; see ``spec/vjepa2ac.md`` 3.3 for why its data may have
    moved by a second from frame to frame.
    """
    return ActionWorldModelConfig(
        encoder=encoder, predictor=ActionPredictorConfig(), step_seconds=step_seconds
    )


def _check(config: ActionWorldModelConfig) -> None:
    """Raise ConfigError where fields contradict each other."""
    sizes = (len(config.state_names), len(config.action_names))
    built = (config.predictor.state_size, config.predictor.action_size)
    if sizes != built:
        raise ConfigError(
            f"states and actions have {sizes[0]} and {sizes[1]} names; the predictor was built for "
            f"{built[0]} and {built[1]} axes"
        )
    if config.step_seconds <= 0:
        raise ConfigError(f"step_seconds is {config.step_seconds}; a step takes time")
    if config.predictor.use_extrinsics:
        raise ConfigError("a world model has no camera extrinsics to give; set use_extrinsics off")
    missing = sorted(set(config.action_names) - set(config.state_names))
    if config.states == "composed" and missing:
        raise ConfigError(
            f"the actions' axes {missing} are not among the states' {list(config.state_names)}, "
            "so they cannot move a state; set states to 'held'"
        )
    if config.tokens == "pooled" and config.predictor.grid != (1, 1):
        raise ConfigError(f"one pooled feature is a grid of 1 x 1, not {config.predictor.grid}")
    if not isinstance(config.encoder, Config):
        raise ConfigError(f"the encoder is {config.encoder!r}, not the config of one")
