"""A policy and a scene so small that every number can be worked out by hand."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from saccade.config import Config
from saccade.data.libero.reader import JOINTS, POSE
from saccade.scenes import Scene, Task
from saccade.types import Clip, Contract, Observation, Policy

CONTRACT = Contract(
    cameras=("agentview", "wrist"),
    frame_size=(24, 32),
    image_size=16,
    state_names=("x", "y", "gripper"),
    action_names=(*POSE, "gripper"),
    fps=20.0,
    chunk=4,
)


@dataclass(frozen=True, kw_only=True)
class ToyConfig(Config["Toy"]):
    noise: float = 0.0

    def build(self) -> "Toy":
        return Toy(self)


class Toy(Policy):
    """Command ``i`` is (brightness of each view, the state, letters, i), plus noise.

    Of several moments, the n-th counts n-fold.
    """

    def __init__(self, config: ToyConfig, contract: Contract = CONTRACT) -> None:
        super().__init__()
        self.config, self.contract = config, contract
        self.scale = nn.Parameter(torch.ones(()))

    def losses(self, clip: Clip) -> Mapping[str, Float[Tensor, ""]]:
        return {"none": self.scale * 0}

    def act(
        self, observation: Observation, generator: torch.Generator | None = None
    ) -> Float[Tensor, "b k a"]:
        assert not self.training
        if observation["text"] == ["raise"]:
            raise RuntimeError("out of luck")
        if observation["text"] == ["nan"]:
            return torch.full((1, self.contract.chunk, len(self.contract.action_names)), torch.nan)
        count = torch.arange(1.0, observation["state"].shape[1] + 1).double()
        light = torch.einsum("btv,t->bv", observation["video"].double().mean((3, 4, 5)), count)
        state = torch.einsum("bts,t->bs", observation["state"].double(), count)
        letters = torch.tensor([[float(len(text))] for text in observation["text"]])
        row = torch.cat([light, state, letters], 1).float()[:, None] * self.scale
        steps = torch.arange(self.contract.chunk).float()[None, :, None]
        size = len(self.contract.action_names) - row.shape[2]
        rest = steps.expand(len(row), -1, size)
        chunk = torch.cat([row.expand(-1, self.contract.chunk, -1), rest], 2)
        return chunk + self.config.noise * torch.randn(chunk.shape, generator=generator)


class ToyScene(Scene):
    """A still picture for each camera, and an arm that says where it is."""

    def __init__(self, cameras: tuple[str, ...] = ("agentview", "wrist")) -> None:
        self.task = Task(suite="toy", name="rest", instruction="rest")
        self.fps, self.cameras, self.success = 20.0, cameras, False
        self.action_names = CONTRACT.action_names
        self.values = {name: 0.1 * i for i, name in enumerate((*POSE, *JOINTS))}
        self.values |= {"gripper": 0.75, "gripper_left": 0.03, "gripper_right": -0.03}

    def reset(self, initial_state: int, seed: int) -> None: ...

    def state(self) -> Mapping[str, float]:
        return self.values

    def render(self, camera: str, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
        return picture(self.cameras.index(camera), height, width)

    def step(self, action: Float32[np.ndarray, " a"]) -> None: ...

    def close(self) -> None: ...


def picture(seed: int, height: int = 24, width: int = 32) -> UInt8[np.ndarray, "h w 3"]:
    """Draw noise with red above and a dark left edge."""
    drawn = np.random.default_rng(seed).integers(60, 200, (height, width, 3), np.uint8)
    drawn[: height // 4] = [250, 10, 30]
    drawn[:, : width // 8] = 20
    return drawn


def frames(camera: str) -> UInt8[np.ndarray, "h w 3"]:
    """Return the picture of a camera of the toy scene."""
    return picture(CONTRACT.cameras.index(camera))


STATE = {"x": 0.5, "y": -0.25, "gripper": 1.0}
