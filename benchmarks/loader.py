"""Frames per second of training batches against a plain PyAV loop that seeks.

Both make the same uint8 tensors of the same frame pairs of one LeRobot v3 data set. Ours copies
them from the frame cache, whose building is reported beside, and adds states and actions. The
peer keeps the video open, seeks to a pair's first frame and decodes on to its second.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import av
import numpy as np
import torch
import tyro
from av.container import InputContainer
from jaxtyping import Int64, UInt8
from timing import Work, emit, measure, ratio
from torch import Tensor

from saccade.data.cache.reader import CachedEpisodes
from saccade.data.lerobot.reader import LeRobotConfig
from saccade.data.lerobot.writer import LeRobotWriter
from saccade.data.loader import Loader
from saccade.data.windows import PairWindow

FPS, CAMERA = 20, "front"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time the loading of frame pairs.

    Args:
        episodes: of the data set that is written for the occasion.
        length: frames of an episode.
        size: height and width of a frame, in pixels.
        batch: pairs of a batch.
        repeats: rounds; each loader gets one slice of each.
    """

    episodes: int = 6
    length: int = 120
    size: int = 128
    batch: int = 32
    repeats: int = 7


def write_data(root: Path, options: Options) -> None:
    """Write a data set of a moving texture with sensor noise."""
    writer = LeRobotWriter(
        root, FPS, "none", ("x", "y"), ("x", "y"), {CAMERA: (options.size, options.size)}
    )
    for episode in range(options.episodes):
        rng = np.random.default_rng(episode)
        texture = np.kron(
            rng.uniform(30, 220, (options.size // 8, options.size // 8, 3)), np.ones((8, 8, 1))
        )
        moved = np.stack([np.roll(texture, (2 * t, 3 * t), (0, 1)) for t in range(options.length)])
        video = (moved + rng.normal(0, 2, moved.shape)).clip(0, 255).astype(np.uint8)
        numbers = rng.normal(size=(options.length, 2)).astype(np.float32)
        writer.write_episode(episode, {CAMERA: video}, numbers, numbers, "watch")
    writer.finish()


def seek_and_decode(
    container: InputContainer, rows: Int64[np.ndarray, "b 4"], length: int
) -> UInt8[Tensor, "b 2 3 h w"]:
    """Decode pairs from a video that holds one episode of ``length`` frames after another."""
    stream = container.streams.video[0]
    assert stream.time_base is not None
    pairs = []
    for episode, start, gap, _ in rows.tolist():
        first = episode * length + start
        container.seek(round(first / FPS / stream.time_base), stream=stream)
        found = []
        for frame in container.decode(stream):
            number = round(frame.time * FPS)
            if number in (first, first + gap):
                found.append(torch.from_numpy(frame.to_ndarray(format="rgb24")))
            if number >= first + gap:
                break
        pairs.append(torch.stack(found))
    return torch.stack(pairs).permute(0, 1, 4, 2, 3).contiguous()


def compare(cached: CachedEpisodes, video: Path, options: Options) -> dict[str, list[float]]:
    """Return the frames per second of both in every round, after checking that they agree."""
    loader = Loader(cached, PairWindow(), CAMERA, options.batch)
    batches, rows = loader.batches(first_step=0), loader.rows(first_step=0)
    with av.open(str(video)) as container:

        def peer() -> Tensor:
            return seek_and_decode(container, next(rows), options.length)

        if not torch.equal(next(batches)["video"][:, :, 0], peer()):
            raise AssertionError("the loader and the PyAV loop do not read the same pixels")
        variants: dict[str, Work] = {
            "ours": lambda: 2 * len(next(batches)["video"]),
            "peer": lambda: 2 * len(peer()),
        }
        return measure(variants, options.repeats)


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_data(root, options)
        episodes = LeRobotConfig(root=root).build()
        start = time.perf_counter()
        cached = CachedEpisodes(episodes, root / "cache", options.size)
        building = sum(cached.lengths) / (time.perf_counter() - start)
        (video,) = root.glob("videos/**/*.mp4")
        rates = compare(cached, video, options)
    emit(
        {
            "benchmark": "loader",
            "unit": "frames/s",
            "ours": median(rates["ours"]),
            "peer": "PyAV seek loop",
            "peer_frames_per_second": median(rates["peer"]),
            "ratio": ratio(rates["ours"], rates["peer"]),
            "cache_build_frames_per_second": building,
            "batch": options.batch,
            "sizes": {
                "image_size": options.size,
                "episodes": options.episodes,
                "frames": options.episodes * options.length,
            },
        }
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
