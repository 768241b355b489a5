"""From frames to what a language model reads as tokens: towers, a projector, maybe a branch.

    towers  [b n d1] [b n d2]  --side by side-->  fc1 -> GELU -> fc2 (-> GELU -> fc3)  [b n m]
                                       branch of another tower --(from zero)--^

OpenVLA's projector is three layers deep over two towers, two over one; pi0's is one.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from saccade.config import Config
from saccade.errors import ConfigError
from saccade.vla.towers import Tower


@dataclass(frozen=True, kw_only=True)
class ProjectorConfig(Config["Projector"]):
    """Linear maps from features to a language model's width, with GELU between them.

    Args:
        source: width of the features.
        target: width of the language model.
        depth: 1 (pi0), 2 (OpenVLA with one tower) or 3 (with two).
        normalise: give features zero mean and unit deviation first; encoders' differ in size. The
            published ones do not.
    """

    source: int
    target: int
    depth: Literal[1, 2, 3] = 2
    normalise: bool = False

    def build(self) -> "Projector":
        """Construct it, with fresh weights."""
        return Projector(self)


class Projector(nn.Module):
    """The maps are ``fc1`` to ``fc3``, as OpenVLA calls them."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        source, target = config.source, config.target
        widths = {
            1: (source, target),
            2: (source, target, target),
            3: (source, 4 * source, target, target),
        }[config.depth]
        self.config, self.first = config, widths[1]
        for i in range(config.depth):
            setattr(self, f"fc{i + 1}", nn.Linear(widths[i], widths[i + 1]))

    def forward(
        self,
        features: Float[Tensor, "b n d"],
        more: Float[Tensor, "b n e"] | None = None,
    ) -> Float[Tensor, "b n m"]:
        """Map features; ``more`` is added to what the first map gives."""
        if self.config.normalise:
            features = F.layer_norm(features.float(), features.shape[-1:])
        x = self.fc1(features.to(self.fc1.weight.dtype))
        if more is not None:
            x = x + more.to(x.dtype)
        for i in range(1, self.config.depth):
            x = getattr(self, f"fc{i + 1}")(F.gelu(x))
        return x

    fc1: nn.Linear


class Branch(nn.Module):
    """Another tower's say in the projector's first layer; nothing at first: its map is zero."""

    def __init__(self, tower: Tower, width: int) -> None:
        super().__init__()
        self.tower = tower
        self.map = nn.Linear(tower.dim, width, bias=False)
        nn.init.zeros_(self.map.weight)

    def forward(self, video: UInt8[Tensor, "b t 3 h w"]) -> Float[Tensor, "b n e"]:
        """Return what is added."""
        tokens = self.tower(video)
        return self.map(F.layer_norm(tokens.float(), tokens.shape[-1:]).to(self.map.weight.dtype))


@dataclass(frozen=True, kw_only=True)
class EyesConfig(Config["Eyes"]):
    """``towers`` side by side, a projector, and maybe one more tower that it starts without."""

    towers: tuple[Config[Tower], ...]
    projector: ProjectorConfig
    branch: Config[Tower] | None = None

    def build(self) -> "Eyes":
        """Build the parts.

        Raises:
            ConfigError: grids or widths do not fit each other.
        """
        return Eyes(self)


class Eyes(nn.Module):
    """Frames in, tokens for the language model out."""

    def __init__(self, config: EyesConfig) -> None:
        super().__init__()
        towers = [tower.build() for tower in config.towers]
        self.towers = nn.ModuleList(towers)
        self.projector = config.projector.build()
        branch = None if config.branch is None else config.branch.build()
        self.branch = None if branch is None else Branch(branch, self.projector.first)
        every = [*towers, *([branch] if branch is not None else [])]
        grids = [tower.grid for tower in every]
        if len(set(grids)) != 1:
            raise ConfigError(
                f"towers give {' and '.join(str(g * g) for g in grids)} tokens; their features "
                "are put side by side, so set the grid of ours to that of the others"
            )
        width = sum(tower.dim for tower in towers)
        if width != config.projector.source:
            raise ConfigError(
                f"the projector takes features of {config.projector.source} numbers, the towers "
                f"give {width}; use the projector that was trained with them, or a new one"
            )
        self.config = replace(
            config,
            towers=tuple(tower.config for tower in towers),
            branch=None if branch is None else branch.config,
        )
        self.grid, self.dim = grids[0], config.projector.target
        self.frames = max(tower.frames for tower in every)

    def forward(self, video: UInt8[Tensor, "b t 3 h w"]) -> Float[Tensor, "b n m"]:
        """Return ``grid`` x ``grid`` tokens."""
        features = torch.cat([tower(video) for tower in self.towers], -1)
        more = None if self.branch is None else self.branch(video)
        return self.projector(features, more)
