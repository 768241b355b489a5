from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saccade.config import Config
from saccade.evals.players import PolicyConfig
from saccade.evals.protocols import named
from saccade.evals.rollout_log import FILE, read_log
from saccade.experiments.evaluating import Evaluation
from saccade.experiments.suites import ExpertConfig
from saccade.sim.libero.suite import LiberoSuite
from saccade.types import Clip, Contract, Observation, Policy

CONTRACT = Contract(
    cameras=("agentview", "wrist"),
    frame_size=(64, 64),
    image_size=64,
    orientation="rot180",
    state_names=("x", "y", "z", "gripper"),
    action_names=("x", "y", "z", "rx", "ry", "rz", "gripper"),
    fps=20.0,
    chunk=50,
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


class SeenSuite(LiberoSuite):
    """Unpickling it in a worker imports this file, and with it the policy."""


def test_an_expert_and_a_policy_are_evaluated_in_libero(
    libero_assets: Path, tmp_path: Path
) -> None:
    config = LookerConfig()
    config.build().save_pretrained(tmp_path / "policy", config)
    evaluation = Evaluation(
        suite=SeenSuite("libero_object", libero_assets),
        name="expert",
        player=ExpertConfig(),
        protocol=named("lerobot").changed("libero_object", horizon=150),
        tasks=(0,),
        initial_states=(10,),
        floors={"looker": PolicyConfig(folder=tmp_path / "policy")},
    )
    results = evaluation.run(tmp_path / "run", command="saccade evaluate expert")
    assert results["crashed"] == []
    assert results["overall"]["successes"] == 1
    assert results["floors"]["looker"]["overall"]["successes"] == 0
    assert not results["verdict"]["success"]  # one rollout shows nothing
    records = {who: found for (who, _), found in read_log(tmp_path / "run" / FILE).items()}
    assert 100 < records["expert"]["steps"] < 150
    assert (records["looker"]["steps"], records["looker"]["chunks"]) == (150, 3)
    assert records["looker"]["latency_ms"] > 0
    assert "not authentic" in results["suite"]["remark"]
    assert results["versions"]["mujoco"]
    assert results["protocol"]["title"] == "lerobot, horizon 150 instead of 280"
