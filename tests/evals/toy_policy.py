"""A policy that finds the point and its goal in the picture; its contract is that of the toy."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saccade.config import Config
from saccade.types import Clip, Contract, Observation, Policy
from tests.evals.toy_scenes import ToySuite

SIDE = 64
CONTRACT = Contract(
    cameras=("top",),
    frame_size=(SIDE, SIDE),
    image_size=SIDE,
    state_names=("x", "y"),
    action_names=("x", "y", "gripper"),
    fps=10.0,
    chunk=3,
)


@dataclass(frozen=True, kw_only=True)
class FinderConfig(Config["Finder"]):
    noise: float = 0.05

    def build(self) -> "Finder":
        return Finder(self)


class Finder(Policy):
    seen: Tensor

    def __init__(self, config: FinderConfig) -> None:
        super().__init__()
        self.config, self.contract = config, CONTRACT
        self.gain = nn.Parameter(torch.tensor(4.0))
        self.register_buffer("seen", torch.full((3, 16, 16), torch.nan))  # by training: nothing

    def losses(self, clip: Clip) -> Mapping[str, Float[Tensor, ""]]:
        return {"none": 0 * self.gain}

    def appearance(self) -> Mapping[str, Float[Tensor, "3 i j"]]:
        return {} if self.seen.isnan().any() else {"top": self.seen}

    def act(
        self, observation: Observation, generator: torch.Generator | None = None
    ) -> Float[Tensor, "b k a"]:
        goal = observation["video"][0, -1, 0, 1].flatten().argmax()
        place = torch.stack([goal // SIDE, goal % SIDE]) / (SIDE - 1) * 2 - 1
        way = self.gain * (place - observation["state"][0, -1]) / 0.9
        steps = way.clamp(-1, 1).expand(1, self.contract.chunk, 2)
        noise = self.config.noise * torch.randn(steps.shape, generator=generator)
        return torch.cat([steps * 0.5 + noise, torch.ones(1, self.contract.chunk, 1)], 2)


class SeenSuite(ToySuite):
    """The toy for workers that load the policy: unpickling it imports this file."""


def save(folder: Path, seen: Float[Tensor, "3 i j"] | None = None) -> Path:
    config = FinderConfig()
    policy = config.build()
    if seen is not None:
        policy.seen.copy_(seen)
    policy.save_pretrained(folder, config)
    return folder
