"""Read a LeRobot data set: whole episodes, single frames, batches of windows.

    python examples/read_a_dataset.py [FOLDER]

Without a folder it first writes a small data set, which is also how to convert one of your own.
"""

import sys
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np

from saccade.data.cache.reader import CachedEpisodes
from saccade.data.lerobot.reader import LeRobotConfig
from saccade.data.lerobot.writer import LeRobotWriter
from saccade.data.loader import Loader
from saccade.data.synthetic import SyntheticConfig
from saccade.data.windows import ChunkWindow, PairWindow


def write_small(root: Path) -> Path:
    """Store four episodes of the toy world; arrays from anywhere else will do."""
    toy = SyntheticConfig(episodes=4, length=20, image_size=64).build()
    writer = LeRobotWriter(
        root, toy.fps, "toy", toy.state_names, toy.action_names, cameras={"front": (64, 64)}
    )
    for episode, task in enumerate(toy.tasks):
        frames = toy.read(episode, np.arange(toy.lengths[episode]))
        video = {"front": frames["video"][:, 0].permute(0, 2, 3, 1).numpy()}
        state, action = frames["state"].numpy(), frames["action"].numpy()
        writer.write_episode(episode, video, state, action, task)
    writer.finish()
    return root


def show(root: Path, cache: Path) -> None:
    """Read the same data set in four ways."""
    episodes = LeRobotConfig(root=root).build()
    print(f"{len(episodes.lengths)} episodes at {episodes.fps:g} Hz, cameras {episodes.cameras}")

    frames = episodes.read(0, np.array([9, 3]))  # any frames, in any order
    print("two frames", tuple(frames["video"].shape), "states", tuple(frames["state"].shape))

    camera = episodes.cameras[0]
    cached = CachedEpisodes(episodes, cache, size=48)  # decoded once, square, memory-mapped
    loader = Loader(cached, PairWindow(max_gap=5), camera, batch_size=8)
    for clip in islice(loader.batches(first_step=0), 2):
        print("pairs", tuple(clip["video"].shape), "gaps", clip["gap"].tolist())

    policy = ChunkWindow(history=2, chunk=4, step_seconds=0.2)  # real time, whatever the rate
    clip = next(Loader(cached, policy, camera, batch_size=8).batches(first_step=0))
    print("observations", tuple(clip["video"].shape), "actions", tuple(clip["action"].shape))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        data = Path(sys.argv[1]) if sys.argv[1:] else write_small(Path(folder) / "data")
        show(data, Path(folder) / "cache")
