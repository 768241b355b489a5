"""What a robot sees, feels and is told, as one vector: the state encoder of StateVLA.

    language (m) | robot (1) | camera 1 (n) | camera 2 (n) | .. | CLS (1)

pass through Mamba blocks in this order. Mamba is causal: pictures are read with the instruction
in mind, and only the last token, CLS, has seen everything; so it is what becomes the state ``z``.
Sizes and initial values are those of the public description of Choi-In-hyuk/StateVLA
(``spec/statevla.md`` sections 2, 3 and 8).
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from saccade.checkpoint import load_model, save_model
from saccade.config import Config, from_dict, to_dict
from saccade.errors import CheckpointError, ConfigError, DataError
from saccade.models.language import Language
from saccade.models.one_frame import grid_of, repeats
from saccade.nn.mamba import MambaStack
from saccade.types import Clip, Contract, Encoder, Observation, Preprocessing

FOLDER = "state_encoder"


@dataclass(frozen=True, kw_only=True)
class StateEncoderConfig(Config["StateEncoder"]):
    """The defaults are those of the documents.

    Args:
        language: what turns instructions into vectors; it is not trained.
        image_size: side of the pictures that are cut into patches.
        frame_size: side of the frames that are given, which are resized to ``image_size``,
            antialiased, where they differ; 0 is ``image_size``.
        patch: side of a patch.
        cameras: views, each with a tokeniser of its own.
        state_size: numbers of the robot's state.
        dim: width of tokens and of the state.
        depth: Mamba blocks.
        d_state: of the state space in each.
        d_conv: length of its convolution.
        expand: its width, in ``dim``.
        vision: a frozen encoder whose tokens take the place of the patches (then pictures have
            the size that it was made for, and ``image_size`` and ``patch`` say nothing).
        standardise_state: subtract the mean and divide by the deviation of the training data,
            which ``set_statistics`` gives.
        modality_std: spread of the initial modality embeddings; positions start with 0.02.
    """

    language: Config[Language]
    image_size: int = 224
    frame_size: int = 0
    patch: int = 16
    cameras: int = 2
    state_size: int = 9
    dim: int = 256
    depth: int = 12
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    vision: Config[Encoder] | None = None
    standardise_state: bool = False
    modality_std: float = 1.0

    def build(self) -> "StateEncoder":
        """Construct the encoder with fresh weights, and load the frozen parts.

        Raises:
            ConfigError: the sizes do not fit.
        """
        if self.vision is None and (self.patch < 1 or self.image_size % self.patch):
            raise ConfigError(
                f"image_size {self.image_size} does not divide into patches of {self.patch}"
            )
        if min(self.cameras, self.state_size, self.dim, self.depth) < 1:
            raise ConfigError(
                f"cameras {self.cameras}, state_size {self.state_size}, dim {self.dim} and depth "
                f"{self.depth} must all be at least 1"
            )
        return StateEncoder(self)


class Senses(NamedTuple):
    """One moment, as far as nothing is trained."""

    text: Float[Tensor, "b m e"]
    state: Float[Tensor, "b s"]
    views: Float[Tensor, "b v 3 h w"] | Float[Tensor, "b v n d"]  # pixels in [0, 1], or features


class StateEncoder(nn.Module):
    """An observation's last moment in, the state ``z`` out.

    ``contract`` is what training showed it, where a run made it.
    """

    preprocessing: Preprocessing
    contract: Contract | None
    state_mean: Tensor
    state_std: Tensor

    def __init__(self, config: StateEncoderConfig) -> None:
        super().__init__()
        self.dim, self.contract = config.dim, None
        self.language = config.language.build().requires_grad_(False).eval()
        self.vision = None
        if config.vision is not None:
            self.vision = config.vision.build().requires_grad_(False).eval()
        self.config = replace(  # rebuilds it from its weights alone, without any other folder
            config,
            language=self.language.config,
            vision=getattr(self.vision, "config", config.vision),
        )
        expected = self.vision.preprocessing.image_size if self.vision else config.image_size
        self.picture = expected  # side of what is cut into patches
        self.preprocessing = Preprocessing(num_frames=1, image_size=config.frame_size or expected)
        self.tokeniser = Tokeniser(config, self.language, self.vision)
        self.context = ContextEncoder(config)
        self.state_proj = nn.Sequential(nn.Linear(config.dim, config.dim), nn.LayerNorm(config.dim))
        if config.standardise_state:
            unknown = torch.full((config.state_size,), torch.nan)  # never silently as they are
            self.register_buffer("state_mean", unknown)
            self.register_buffer("state_std", torch.ones(config.state_size))

    def train(self, mode: bool = True) -> "StateEncoder":
        """Leave the frozen parts in evaluation mode."""
        super().train(mode)
        self.language.eval()
        if self.vision is not None:
            self.vision.eval()
        return self

    def requires_grad_(self, requires_grad: bool = True) -> "StateEncoder":
        """Train, or do not, what is not frozen for good."""
        super().requires_grad_(requires_grad)
        self.language.requires_grad_(False)
        if self.vision is not None:
            self.vision.requires_grad_(False)
        return self

    def set_statistics(self, mean: Float[Tensor, " s"], std: Float[Tensor, " s"]) -> None:
        """Keep the mean and deviation of the training data's states.

        Raises:
            ConfigError: the encoder does not standardise states.
        """
        if not self.config.standardise_state:
            raise ConfigError("this encoder takes states as they are; set standardise_state")
        self.state_mean.copy_(mean)
        self.state_std.copy_(std.clamp_min(1e-6))

    def forward(self, observation: Observation) -> Float[Tensor, "b d"]:
        """Return the state at the last moment."""
        return self.project(self.tokens(observation))

    def tokens(self, observation: Observation) -> Float[Tensor, "b l d"]:
        """Return every token after the Mamba blocks, CLS last."""
        return self.context(self.embed(observation))

    def embed(self, observation: Observation) -> Float[Tensor, "b l d"]:
        """Return every token before the Mamba blocks."""
        return self.tokeniser(self.sense(observation))

    def project(self, tokens: Float[Tensor, "b l d"]) -> Float[Tensor, "b d"]:
        """Return the state that the last token stands for."""
        return self.state_proj(tokens[:, -1])

    @torch.no_grad()
    def sense(self, observation: Observation) -> Senses:
        """Do all the work that nothing is trained in.

        Raises:
            DataError: views, frames or states are not those that the encoder was built for.
        """
        video, state = observation["video"][:, -1], observation["state"][:, -1]
        side = self.preprocessing.image_size
        expected = (self.config.cameras, 3, side, side)
        if video.shape[1:] != expected or state.shape[1] != self.config.state_size:
            raise DataError(
                f"a moment has views {tuple(video.shape[1:])} and a state of {state.shape[1]} "
                f"numbers; this encoder takes {expected} and {self.config.state_size}: choose its "
                "cameras, frame_size and state_size to fit the data"
            )
        if self.config.standardise_state:
            state = (state - self.state_mean) / self.state_std
        pixels = self.resize(video)
        views = pixels if self.vision is None else self.see(self.vision, pixels)
        return Senses(self.language(observation["text"]), state, views)

    def resize(self, video: UInt8[Tensor, "b v 3 h w"]) -> Float[Tensor, "b v 3 _ _"]:
        """Return pixels in [0, 1], of the size that is looked at."""
        pixels = video.float() / 255
        if video.shape[-1] == self.picture:
            return pixels
        flat = pixels.flatten(0, 1)
        size = (self.picture, self.picture)
        flat = F.interpolate(flat, size, mode="bilinear", antialias=True)
        return flat.unflatten(0, video.shape[:2])

    def see(self, vision: Encoder, pixels: Float[Tensor, "b v 3 h w"]) -> Float[Tensor, "b v n d"]:
        """Return the frozen encoder's tokens of each view, as often repeated as it needs frames."""
        whole = (255 * pixels).round().clamp(0, 255).to(torch.uint8)
        frames = repeat(whole, "b v c h w -> (b v) t c h w", t=repeats(vision))
        tokens = vision(frames).float().mean(1)
        return rearrange(tokens, "(b v) n d -> b v n d", v=pixels.shape[1])

    def save_pretrained(self, folder: Path, card: str = "") -> None:
        """Write ``config.json``, ``model.safetensors`` and a model card."""
        record = asdict(self.preprocessing)
        if self.contract is not None:
            record["contract"] = to_dict(self.contract)
        save_model(folder, self, self.config, record, card)


def load_state_encoder(folder: Path) -> StateEncoder:
    """Load the state encoder that a phase-1 run exported, in evaluation mode.

    ``folder`` is the export, or the run that holds it.

    Raises:
        CheckpointError: it holds something else, any weight does not fit, or the saved pixel
            contract is not the one that this code would apply.
    """
    if (folder / FOLDER).is_dir():
        folder = folder / FOLDER
    encoder, preprocessing = load_model(folder)
    contract = preprocessing.pop("contract", None)
    if not isinstance(encoder, StateEncoder):
        raise CheckpointError(
            f"{folder} holds a {type(encoder).__name__}, not the state encoder of a phase-1 run; "
            f"give RUN/{FOLDER}"
        )
    if preprocessing != asdict(encoder.preprocessing):
        raise CheckpointError(
            f"{folder} was trained on {preprocessing}, this code would feed "
            f"{asdict(encoder.preprocessing)}; use the version of saccade that wrote it"
        )
    try:
        encoder.contract = from_dict(contract) if contract else None
    except ConfigError as error:
        raise CheckpointError(f"{folder} has a damaged contract ({error})") from error
    return encoder.eval()


@dataclass(frozen=True, kw_only=True)
class PretrainedStateEncoderConfig(Config[StateEncoder]):
    """``folder`` is what a phase-1 run exported, or the run: ``runs/phase1/state_encoder``."""

    folder: Path

    def build(self) -> StateEncoder:
        """Load the state encoder, frozen."""
        return load_state_encoder(self.folder).requires_grad_(False)


class Tokeniser(nn.Module):
    """What is sensed, as a sequence: language, robot, cameras in order, CLS."""

    def __init__(
        self, config: StateEncoderConfig, language: Language, vision: Encoder | None
    ) -> None:
        super().__init__()
        dim, self.cameras = config.dim, config.cameras
        self.views = nn.ModuleList(
            PatchTokens(config) if vision is None else FeatureTokens(vision, dim)
            for _ in range(config.cameras)
        )
        self.text = nn.Linear(language.dim, dim)
        self.text_position = nn.Parameter(torch.empty(language.tokens, dim))
        self.robot = nn.Sequential(
            nn.Linear(config.state_size, dim), nn.GELU(), nn.Linear(dim, dim)
        )
        self.robot_position = nn.Parameter(torch.empty(1, dim))
        self.modality = nn.Parameter(torch.empty(config.cameras + 2, dim))  # then text, robot
        self.cls = nn.Parameter(torch.empty(1, dim))
        nn.init.xavier_uniform_(self.text.weight)
        nn.init.zeros_(self.text.bias)
        nn.init.normal_(self.modality, std=config.modality_std)
        for token in (self.text_position, self.robot_position, self.cls):
            nn.init.trunc_normal_(token, std=0.02)

    def forward(self, senses: Senses) -> Float[Tensor, "b l d"]:
        """Return all tokens of a moment."""
        *kinds, text, robot = self.modality[:, None].unbind()
        tokens = [
            self.text(senses.text) + self.text_position + text,
            self.robot(senses.state)[:, None] + self.robot_position + robot,
        ]
        views = zip(self.views, senses.views.unbind(1), kinds, strict=True)
        tokens += [tokeniser(view) + kind for tokeniser, view, kind in views]
        return torch.cat([*tokens, self.cls.expand(len(senses.text), 1, -1)], 1)


class PatchTokens(nn.Module):
    """Patches of one camera's pictures, by a convolution."""

    def __init__(self, config: StateEncoderConfig) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, config.dim, config.patch, config.patch)
        count = (config.image_size // config.patch) ** 2
        self.position = nn.Parameter(torch.empty(count, config.dim))
        nn.init.xavier_uniform_(self.project.weight.view(config.dim, -1))
        assert self.project.bias is not None
        nn.init.zeros_(self.project.bias)
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Return a token for each patch, row by row."""
        return self.project(pixels).flatten(2).mT + self.position


class FeatureTokens(nn.Module):
    """A frozen encoder's tokens of one camera's pictures, brought to another width."""

    def __init__(self, vision: Encoder, dim: int) -> None:
        super().__init__()
        (rows, columns), width = grid_of(vision, pooled=False)
        self.project = nn.Linear(width, dim)
        self.position = nn.Parameter(torch.empty(rows * columns, dim))
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, features: Float[Tensor, "b n c"]) -> Float[Tensor, "b n d"]:
        """Return a token for each feature."""
        return self.project(features) + self.position


class ContextEncoder(nn.Module):
    """Mamba blocks with their final RMSNorm, then a LayerNorm."""

    def __init__(self, config: StateEncoderConfig) -> None:
        super().__init__()
        self.mamba = MambaStack(
            config.dim, config.depth, config.d_state, config.d_conv, config.expand
        )
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, tokens: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        """Mix tokens; the last one has seen all."""
        return self.norm(self.mamba(tokens))


def moment(clip: Clip, t: int) -> Observation:
    """Return one moment of a batch of clips as a policy would see it."""
    text = clip["text"]
    assert not isinstance(text, str), "a batch has a list of texts"
    return Observation(video=clip["video"][:, [t]], state=clip["state"][:, [t]], text=text)
