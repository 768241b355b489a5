"""A tiny world model on disk, adapters for it, and moments of a world that is right."""

from pathlib import Path

import torch

from saccade.data.synthetic import SyntheticConfig
from saccade.evals.planning import Moment, moments
from saccade.experiments.moments import MomentsConfig, Recorded, Scene
from saccade.experiments.source import SourceConfig
from saccade.models.lora import LoraConfig, add_lora, save_lora
from saccade.models.world_model import ActionWorldModel
from saccade.recipes.world_model import debug
from tests.evals.toy_arm import REST, ToyWorld

SOURCE = SourceConfig(episodes=SyntheticConfig())
FEW = MomentsConfig(episodes=2, per_episode=1)


def save_model(folder: Path) -> Path:
    """Write the debug recipe's model, with random weights."""
    torch.manual_seed(0)
    debug().objective.build().model.save_pretrained(folder)
    return folder


def save_adapters(folder: Path, model: Path) -> Path:
    """Write adapters of that model that change what it imagines."""
    network = ActionWorldModel.from_pretrained(model).predictor
    add_lora(network, LoraConfig(rank=2))
    with torch.no_grad():
        for name, value in network.named_parameters():
            if ".lora_B." in name:
                value.normal_(std=0.5)
    save_lora(folder, network, LoraConfig(rank=2), {"step": 7})
    return folder


def right(model: ToyWorld, episodes: int = 4, steps: int = 4) -> Recorded:
    """Moments of a robot that moves at random."""
    scenes = []
    blank = torch.zeros(3, 8, 8, dtype=torch.uint8)
    for episode in range(episodes):
        for place in walk(model, episode, steps):
            scenes.append(Scene(place, REST, blank, blank))
    return Recorded(scenes, torch.zeros(7), {"camera": "front"})


def walk(model: ToyWorld, episode: int, steps: int) -> list[Moment]:
    """One episode."""
    generator = torch.Generator().manual_seed(episode)
    action = torch.zeros(steps, 7)
    action[:, :3] = (torch.rand(steps, 3, generator=generator) * 2 - 1) * 0.05
    state = torch.cat([REST[None], REST + action.cumsum(0)])
    return list(moments(model.see(state).detach(), state, action, episode))
