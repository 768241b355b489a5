"""A small OpenVLA and what it is shown, for the tests of this folder."""

from pathlib import Path

import torch

from saccade.models.vit import ViTConfig
from saccade.types import Clip, Contract
from saccade.vla.loading import PublishedOpenVlaConfig, SmallOpenVlaConfig, write_published
from saccade.vla.openvla import OpenVla

TEXTS = ("open the drawer", "close the door", "push the red button")
SIDE = 28
OURS = ViTConfig(image_size=32, num_frames=2, tubelet=2, patch=8, dim=48, depth=1, heads=2)


def base(folder: Path, **options: object) -> Path:
    settings: dict = {"dim": 32, "depth": 1, "patch": 14, "image_size": SIDE, **options}
    torch.manual_seed(0)
    write_published(SmallOpenVlaConfig(texts=TEXTS, **settings).build(), folder)
    return folder


def policy(folder: Path, **options: object) -> OpenVla:
    found = PublishedOpenVlaConfig(folder=base(folder, **options), frame=SIDE).build()
    found.bounds.set([-1.0] * 7, [1.0] * 7, [True] * 6 + [False], [False] * 7)
    found.contract = CONTRACT
    return found.eval()


CONTRACT = Contract(
    cameras=("front",),
    frame_size=(SIDE, SIDE),
    image_size=SIDE,
    state_names=("x", "y"),
    action_names=("x", "y", "z", "rx", "ry", "rz", "gripper"),
    fps=20.0,
    chunk=1,
)


def clip(samples: int = 4, history: int = 1, seed: int = 0) -> Clip:
    g = torch.Generator().manual_seed(seed)
    video = torch.randint(0, 256, (samples, history, 1, 3, SIDE, SIDE), generator=g)
    action = torch.rand(samples, 1, 7, generator=g) * 2 - 1
    action[..., 6] = (action[..., 6] > 0).float()
    return Clip(
        video=video.to(torch.uint8),
        state=torch.rand(samples, history, 2, generator=g),
        action=action,
        is_pad=torch.zeros(samples, 1, dtype=torch.bool),
        gap=torch.zeros(samples, dtype=torch.int64),
        episode=torch.arange(samples),
        key=torch.arange(samples) + seed,
        text=[TEXTS[i % 3] for i in range(samples)],
    )
