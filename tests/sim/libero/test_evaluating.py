from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saccade.config import Config
from saccade.evals.players import PolicyConfig
from saccade.evals.protocols import named
from saccade.evals.rollouts import Key, play
from saccade.sim.libero.scene import LiberoScene
from saccade.types import Clip, Contract, Observation, Policy

CONTRACT = Contract(
    cameras=("agentview", "wrist"),
    frame_size=(64, 64),
    image_size=64,
    orientation="rot180",
    state_names=("x", "y", "z", "gripper"),
    action_names=("x", "y", "z", "rx", "ry", "rz", "gripper"),
    fps=20.0,
    chunk=5,
)


@dataclass(frozen=True, kw_only=True)
class LookerConfig(Config["Looker"]):
    def build(self) -> "Looker":
        return Looker()


class Looker(Policy):
    """Looks, and stays where it is, but for what the brightness of the picture tells it."""

    contract = CONTRACT

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1e-4))

    def losses(self, clip: Clip) -> Mapping[str, Float[Tensor, ""]]:
        return {"none": 0 * self.gain}

    def act(
        self, observation: Observation, generator: torch.Generator | None = None
    ) -> Float[Tensor, "b k a"]:
        light = observation["video"].float().mean() * self.gain
        return light.expand(1, self.contract.chunk, 7)


def test_a_policy_is_asked_for_chunks_and_does_the_same_again(
    soup: LiberoScene, tmp_path: Path
) -> None:
    """Rollouts in LIBERO; the evaluator's processes are tested in Meta-World and with toys."""
    config = LookerConfig()
    config.build().save_pretrained(tmp_path / "policy", config)
    player = PolicyConfig(folder=tmp_path / "policy").build()
    protocol = named("lerobot").changed("libero_object", horizon=12, settle=1)
    key = Key("libero_object", soup.task.name, initial_state=10, seed=0)
    player.check(soup)
    record = play(soup, player, key, protocol)
    assert (record["success"], record["steps"], record["chunks"]) == (False, 12, 3)
    assert record["latency_ms"] > 0
    assert play(soup, player, key, protocol)["actions"] == record["actions"]
