"""OpenVLA and pi0 with any eyes: fine-tuned by a published recipe, or small on two cores.

    saccade vla swap --base BASE --encoder RUN --mode replace --data DATA --out runs/swapped
    saccade train vla:finetune --policy runs/swapped --data DATA --demos 0.2 --out runs/tuned

Rank 32, alpha 16, no dropout, every linear map of the language model, a constant rate of 5e-4 and
batches of 16 are OpenVLA's (https://github.com/openvla/openvla, vla-scripts/finetune.py); what is
new learns beside it, alone for the first 1,000 steps.
"""

from pathlib import Path

from saccade.data.synthetic_reach import ReachConfig
from saccade.data.windows import ChunkWindow
from saccade.experiments.source import SourceConfig
from saccade.experiments.vla import VlaTraining
from saccade.recipes.statevla import LIBERO, source
from saccade.train.config import TrainConfig
from saccade.vla.imitation import PretrainedVlaConfig, VlaImitationConfig
from saccade.vla.loading import SmallOpenVlaConfig
from saccade.vla.published_pi0 import SmallPi0Config

ONE = ChunkWindow(chunk=1, every=1)


def finetune() -> VlaTraining:
    """OpenVLA's own fine-tuning, of the model that a swap has left; for a GPU."""
    return VlaTraining(
        objective=VlaImitationConfig(
            policy=PretrainedVlaConfig(folder=Path("runs/swapped")), warm_up=1000
        ),
        source=SourceConfig(episodes=LIBERO, camera="agentview", shares=(0.9, 0.1, 0.0)),
        window=ONE,
        train=TrainConfig(
            samples=320_000,
            batch_size=16,
            lr=5e-4,
            warmup=0.0,
            schedule="constant",
            weight_decay=0.0,
            precision="bfloat16",
            checkpoint_activations=True,
            eval_every=1000,
            save_every=1000,
        ),
    )


def whole_tiny() -> VlaTraining:
    """Train all of a small OpenVLA, in minutes on two cores: the base of comparisons there.

    Its fresh weights, and a tokenizer for the data, are `saccade vla swap --base small`'s.
    """
    return VlaTraining(
        objective=VlaImitationConfig(
            policy=PretrainedVlaConfig(folder=Path("runs/small")), learn="all", adapt=None
        ),
        source=SourceConfig(episodes=LIBERO, camera="agentview", shares=(0.9, 0.1, 0.0)),
        window=ONE,
        train=TrainConfig(
            samples=48_000, batch_size=32, lr=1e-3, eval_every=250, save_every=250, workers=0
        ),
    )


def finetune_tiny() -> VlaTraining:
    """Fine-tune what a swap of a small OpenVLA has left, in minutes on two cores."""
    return VlaTraining(
        objective=VlaImitationConfig(
            policy=PretrainedVlaConfig(folder=Path("runs/swapped")), warm_up=100
        ),
        source=SourceConfig(episodes=LIBERO, camera="agentview", shares=(0.9, 0.1, 0.0)),
        window=ONE,
        train=TrainConfig(
            samples=16_000, batch_size=32, lr=1e-3, eval_every=100, save_every=200, workers=0
        ),
    )


def debug() -> VlaTraining:
    """A small OpenVLA, all of it, in seconds on a laptop: no data, no accelerator, one layer."""
    policy = SmallOpenVlaConfig(
        texts=("go to the red square", "go to the blue square"),
        dim=32,
        depth=1,
        patch=8,
        image_size=32,
    )
    reach = source(ReachConfig())
    return VlaTraining(
        objective=VlaImitationConfig(policy=policy, learn="all", adapt=None),
        source=SourceConfig(episodes=reach.episodes, camera="agentview", shares=reach.shares),
        window=ONE,
        eval_samples=32,
        train=TrainConfig(samples=64, batch_size=8, workers=0, eval_every=4, save_every=4),
    )


def pi0_debug() -> VlaTraining:
    """A small pi0 with two cameras, all of it, in seconds on a laptop."""
    policy = SmallPi0Config(
        texts=("go to the red square", "go to the blue square"),
        dim=32,
        depth=1,
        patch=8,
        image_size=32,
        chunk=4,
        cameras=2,
    )
    return VlaTraining(
        objective=VlaImitationConfig(policy=policy, learn="all", adapt=None),
        source=source(ReachConfig()),
        window=ChunkWindow(chunk=4, every=1),
        eval_samples=32,
        train=TrainConfig(samples=64, batch_size=8, workers=0, eval_every=4, save_every=4),
    )
