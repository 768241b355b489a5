"""A world of one colour that the action changes, and a state encoder small enough to learn it."""

from dataclasses import replace
from typing import Any

import torch

from saccade.models.language import HashLanguageConfig
from saccade.models.state_encoder import StateEncoderConfig
from saccade.objectives.temporal_jepa import TemporalJepa, TemporalJepaConfig
from saccade.types import Clip

TINY = TemporalJepaConfig(
    encoder=StateEncoderConfig(
        language=HashLanguageConfig(dim=8),
        image_size=16,
        patch=8,
        cameras=1,
        state_size=3,
        dim=16,
        depth=1,
        d_state=4,
    ),
    steps=100,
    action_size=3,
    hidden=32,
)
SPREAD = replace(TINY, vicreg_on=("prediction", "state"))


def world(count: int, seed: int = 0) -> Clip:
    """A colour and a state that two motions and a gripper change: nothing else can be predicted."""
    draw = torch.Generator().manual_seed(seed)
    now, action = torch.rand(count, 3, generator=draw), torch.rand(count, 3, generator=draw)
    action[:, 2] = action[:, 2].round()
    later = now + (action - 0.5) / 2
    state = torch.stack([now, later], 1)
    colours = ((state + 1) / 3 * 255).round().to(torch.uint8)
    return Clip(
        video=colours[:, :, None, :, None, None].expand(-1, -1, 1, -1, 16, 16).contiguous(),
        state=state,
        action=action[:, None],
        is_pad=torch.zeros(count, 1, dtype=torch.bool),
        gap=torch.ones(count, dtype=torch.int64),
        episode=torch.arange(count),
        key=torch.arange(count),
        text=[f"task {i % 2}" for i in range(count)],
    )


def built(config: TemporalJepaConfig = TINY, **options: Any) -> TemporalJepa:
    torch.manual_seed(0)
    objective = replace(config, **options).build()
    objective.predictor.set_statistics(
        torch.zeros(objective.config.action_size), torch.ones(objective.config.action_size)
    )
    return objective


def fit(objective: TemporalJepa, steps: int, lr: float = 3e-3) -> TemporalJepa:
    learned = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=lr, weight_decay=0.0)
    for step in range(1, steps + 1):
        loss, _ = objective(world(32, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(step)
    return objective
