"""The vocabulary that every other module shares.

Axis letters, the same in every annotation of the package:

    b  batch                    t  frames               v  camera views
    h  w  pixels                u  time steps after tubelet embedding
    n  tokens of one step       l  tokens of all steps (u n)
    d  embedding                s  robot state          a  action
    k  actions of one chunk     p  pixels of one tubelet, flattened
    c  channels that are not the three colours
    g  cells along a side of the picture, in a probe's grid

Units are SI: metres, radians, seconds, hertz. A gripper is 1 open, 0 closed.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from saccade.checkpoint import load_model, save_model
from saccade.config import Config, from_dict, to_dict
from saccade.errors import CheckpointError, ConfigError

WORKING = 16  # arrays of the size of a candidate's features that a network holds at its peak
Crop = Literal["ac", "centre", "pad", "square", "stretch"]  # to squares: ``data/transforms.py``
Orientation = Literal["upright", "raw", "rot180"]  # of frames: ``data/libero/reader.py``


class Clip(TypedDict):
    """What a window of an episode yields and an objective consumes.

    ``state[t]`` is measured when frame ``t`` is exposed. ``action[0]`` is the command that is
    executed from the first frame on; ``is_pad`` marks commands past the end of the episode.
    Batches add a leading axis ``b`` and make ``text`` a list. A clip with ``features`` of a frozen
    encoder may show no view (``v`` is 0).
    """

    video: UInt8[Tensor, "*b t v 3 h w"]
    state: Float[Tensor, "*b t s"]
    action: Float[Tensor, "*b k a"]
    is_pad: Bool[Tensor, "*b k"]
    gap: Int64[Tensor, "*b"]  # steps from the first frame to the last
    episode: Int64[Tensor, "*b"]
    key: Int64[Tensor, "*b"]  # seeds this sample's masks and augmentation, on any rank or device
    text: str | list[str]
    features: NotRequired[Float[Tensor, "*b t n d"]]  # kept ones, of the first camera's frames


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What an encoder expects of the pixels it is given; saved beside the weights."""

    num_frames: int
    image_size: int
    pixels: str = "uint8 RGB, upright, channels first"


class Encoder(nn.Module):
    """Raw pixels in, tokens out. Pixel normalisation is the encoder's own business."""

    embed_dim: int
    preprocessing: Preprocessing
    pooling: Literal["mean", "cls"] = "mean"  # "cls" only where a loss trains the CLS token
    edge: int = 0  # side of the central squares that ``prepare`` is best given; 0: image_size

    def prepare(self, video: UInt8[Tensor, "b t 3 h w"]) -> UInt8[Tensor, "b t 3 s s"]:
        """Cut frames as the encoder was trained on them. Default: they must be so already.

        Raises:
            ConfigError: they are of another size, and it is not known how to change that.
        """
        size, found = self.preprocessing.image_size, tuple(video.shape[-2:])
        if found != (size, size):
            raise ConfigError(
                f"{type(self).__name__} takes frames of {size} x {size} pixels, not {found[0]} x "
                f"{found[1]}; cut them so, for example with `fit` of saccade.data.transforms"
            )
        return video

    def forward(self, video: UInt8[Tensor, "b t 3 h w"]) -> Float[Tensor, "b u n d"]:
        """Encode clips as ``n`` tokens per time step."""
        raise NotImplementedError

    def pool(self, tokens: Float[Tensor, "b u n d"]) -> Float[Tensor, "b f"]:
        """Reduce tokens to one vector per clip: the mean (or the CLS) of each time step."""
        pooled = tokens.mean(2) if self.pooling == "mean" else tokens[:, :, 0]
        return rearrange(pooled, "b u d -> b (u d)")

    def save_pretrained(self, folder: Path, config: Config["Encoder"], card: str = "") -> None:
        """Write ``config.json``, ``model.safetensors`` and a model card."""
        save_model(folder, self, config, asdict(self.preprocessing), card)

    @staticmethod
    def from_pretrained(folder: Path) -> "Encoder":
        """Load an encoder that a run exported, in evaluation mode.

        Raises:
            CheckpointError: the folder does not hold an encoder, any weight does not fit, or
                the saved pixel contract is not the one that this code would apply.
        """
        encoder, preprocessing = load_model(Path(folder))
        if not isinstance(encoder, Encoder):
            raise CheckpointError(f"{folder} holds a {type(encoder).__name__}, not an encoder")
        if preprocessing != asdict(encoder.preprocessing):
            raise CheckpointError(
                f"{folder} was trained on {preprocessing}, this code would feed "
                f"{asdict(encoder.preprocessing)}; use the version of saccade that wrote it"
            )
        return encoder.eval()


class Observation(TypedDict):
    """What a policy sees: ``t`` recent moments, the last one now. A batch of clips holds one."""

    video: UInt8[Tensor, "b t v 3 h w"]
    state: Float[Tensor, "b t s"]
    text: list[str]


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What a policy was trained to see and to command; whoever runs it must do the same.

    Made from the data by training, saved beside the weights, checked before a policy acts.

    Args:
        cameras: in the order of the policy's views.
        frame_size: height and width of frames as recorded, before squares are cut out of them.
        image_size: side of the squares that the policy is given.
        crop: how squares are cut.
        orientation: of the frames that the policy is given; a simulator's are upright.
        state_names: what the state consists of, in SI units; grippers 1 open, 0 closed.
        action_names: of the commands, one per step; grippers 1 open, 0 closed.
        action_unit: ``normalised`` commands of the robot's controller, or ``metric`` ones.
        fps: commands (and frames) per second.
        history: moments that the policy is shown, now included.
        stride: steps between them.
        chunk: commands that it answers with.
        origin: what else must agree and cannot be seen, such as the version of a simulator.
    """

    cameras: tuple[str, ...]
    frame_size: tuple[int, int]
    image_size: int
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    fps: float
    crop: Crop = "square"
    orientation: Orientation = "upright"
    action_unit: Literal["normalised", "metric"] = "normalised"
    history: int = 1
    stride: int = 1
    chunk: int = 10
    origin: tuple[str, ...] = ()

    def digest(self) -> str:
        """Return a short name of everything above: two contracts agree when it is the same."""
        text = json.dumps(to_dict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class Policy(nn.Module):
    """Observations in, commands out, in the units of its contract.

    ``contract`` is set by training, from the data, or by ``from_pretrained``.
    """

    contract: Contract

    def losses(self, clip: Clip) -> Mapping[str, Float[Tensor, ""]]:
        """Return the named parts of the loss of a batch, already weighted."""
        raise NotImplementedError

    def act(
        self, observation: Observation, generator: torch.Generator | None = None
    ) -> Float[Tensor, "b k a"]:
        """Return the next commands; a policy that draws them at random uses the generator."""
        raise NotImplementedError

    def appearance(self) -> Mapping[str, Float[Tensor, "3 i j"]]:
        """Return what each camera saw in training, on average and in small. Default: not known."""
        return {}

    def save_pretrained(self, folder: Path, config: Config["Policy"], card: str = "") -> None:
        """Write ``config.json`` with the contract, ``model.safetensors`` and a model card."""
        record = {"contract": to_dict(self.contract), "digest": self.contract.digest()}
        save_model(folder, self, config, record, card)

    @staticmethod
    def from_pretrained(folder: Path) -> "Policy":
        """Load a policy that a run exported, in evaluation mode.

        Raises:
            CheckpointError: the folder does not hold a policy, any weight does not fit, or the
                contract is not the one that was saved.
        """
        policy, record = load_model(Path(folder))
        if not isinstance(policy, Policy):
            raise CheckpointError(f"{folder} holds a {type(policy).__name__}, not a policy")
        try:
            policy.contract = from_dict(record["contract"])
            intact = policy.contract.digest() == record["digest"]
        except (ConfigError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{folder} has a damaged contract ({error})") from error
        if not intact:
            raise CheckpointError(f"{folder}: the contract in config.json was changed by hand")
        return policy.eval()


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a world model has seen, with the work done that every candidate action shares."""

    features: Float[Tensor, "t n d"]
    state: Float[Tensor, "t s"]
    shared: Any = None  # of the model that made it, such as keys and values of earlier frames


class WorldModel(nn.Module):
    """Predicts what it will see if it acts: features of the next frames, given actions.

    One step is one action and lasts ``step_seconds``; state and action have the axes named here,
    in SI units, grippers as the model was trained.
    """

    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    step_seconds: float

    def candidate_bytes(self, context: Context, horizon: int, gradient: bool = False) -> int:
        """Bound the memory that one candidate of ``imagine`` takes at its peak.

        Default: a guess from the size of its features. ``gradient`` is whether what the backward
        pass needs is kept.
        """
        del gradient
        features = context.features[-1]
        return horizon * features.numel() * max(features.element_size(), 4) * WORKING

    def encode(self, video: UInt8[Tensor, "b t 3 h w"]) -> Float[Tensor, "b t n d"]:
        """Return the features that are predicted and compared, ``n`` tokens for each frame."""
        raise NotImplementedError

    def look(
        self,
        features: Float[Tensor, "t n d"],
        state: Float[Tensor, "t s"],
        action: Float[Tensor, "k a"],
    ) -> Context:
        """Prepare for many candidates after ``t`` frames; ``k = t - 1`` actions were between."""
        raise NotImplementedError

    def imagine(self, context: Context, action: Float[Tensor, "b k a"]) -> Float[Tensor, "b k n d"]:
        """Return the features after each of ``k`` actions for ``b`` candidates, differentiable."""
        raise NotImplementedError

    def moved(
        self, state: Float[Tensor, "*b s"], action: Float[Tensor, "*b a"]
    ) -> Float[Tensor, "*b s"]:
        """Return the state that an action leads to, as the model's own unrolling assumes it."""
        raise NotImplementedError

    def measured(
        self, before: Float[Tensor, "*b s"], after: Float[Tensor, "*b s"]
    ) -> Float[Tensor, "*b a"]:
        """Return the action that led from one state to another, the inverse of ``moved``."""
        raise NotImplementedError


class Objective(nn.Module):
    """A training objective: a module that owns its networks and maps a batch to a loss.

    The last four methods are what the alarms of ``train/alarms.py`` look at, so that no
    objective can leak its target or collapse unseen.
    """

    sees_target: frozenset[str] = frozenset()  # the inputs that may depend on what is predicted
    whole_batch: bool = False  # the loss is no mean over samples, but of statistics of the batch
    left_out: tuple[str, ...] = ()  # submodules that never change and that no checkpoint holds

    def terms(self, clip: Clip) -> Mapping[str, Float[Tensor, ""]]:
        """Return the named parts of the loss, already weighted; the loss is their sum."""
        raise NotImplementedError

    def forward(self, clip: Clip) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Return the loss to minimise and the scalars worth logging."""
        terms = self.terms(clip)
        loss = sum(terms.values(), start=next(iter(terms.values())).new_zeros(()))
        return loss, {name: value.detach() for name, value in terms.items()}

    def after_step(self, step: int) -> None:
        """Update whatever the optimizer does not, such as an EMA target. Default: nothing.

        What follows weights is a parameter that does not learn, not a buffer: then it is sharded
        as they are.
        """

    def exports(self) -> dict[str, tuple[Encoder, Config[Encoder]]]:
        """Name the encoders that outlive training, with what rebuilds them. Default: none."""
        return {}

    def reads(self) -> Preprocessing:
        """Return what frames training reads: those of the one encoder that is exported.

        Raises:
            ConfigError: there is none, or there are several.
        """
        exports = self.exports()
        if len(exports) != 1:
            raise ConfigError(f"{type(self).__name__} exports {sorted(exports)}, not one encoder")
        ((encoder, _),) = exports.values()
        return encoder.preprocessing

    def save_exports(self, folder: Path, card: str = "", step: int = 0) -> dict[str, Path]:
        """Write what outlives training after ``step`` updates, each part into a folder of its name.

        Default: the encoders.
        """
        exports = self.exports()
        for name, (encoder, config) in exports.items():
            encoder.save_pretrained(folder / name, config, card)
        return {name: folder / name for name in exports}

    def inputs(self, clip: Clip) -> Mapping[str, Tensor]:
        """Return what each input path of the networks receives."""
        raise NotImplementedError

    def without_target(self, clip: Clip) -> Clip:
        """Return the clip with every target pixel replaced by something else."""
        raise NotImplementedError

    def baselines(self, clip: Clip) -> Mapping[str, Float[Tensor, ""]]:
        """Return the loss of trivial predictions, such as copying the first frame."""
        raise NotImplementedError

    def pictures(self, clip: Clip) -> Mapping[str, Float[Tensor, "b _ h w"]]:
        """Return images in [0, 1] worth looking at (1, 3 or more channels). Default: none."""
        return {}
