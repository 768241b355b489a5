"""Probing: what a readout costs, how fast features are made, and how much disk they take.

    python benchmarks/probing.py ridge      closed-form ridge over all penalties / the SGD probe of
                                            the documents, on the same features: same or better
                                            score on held-out episodes, at least 50 times faster
    python benchmarks/probing.py features   our reader / a plain transformers loop (float32, eager
                                            attention, float frames): at least 1.6 times
    python benchmarks/probing.py store      megabytes of features per hour of video

The peer of ``ridge`` is written after the documents' protocol: one linear layer, Adam 1e-3, 20
epochs, batches of 256, the best epoch by held-out score (which is optimistic, in its favour).
Nothing is loaded: weights are random, features are drawn with a known linear part.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from timing import emit, measure, ratio
from torch import nn

from saccade.data.synthetic import SyntheticConfig
from saccade.evals import statistics
from saccade.evals.clips import enumerate_clips
from saccade.evals.features import EncoderReader, Request
from saccade.evals.ridge import PENALTIES, Ridge
from saccade.models.published.catalogue import named


def ridge(clips: int, dim: int, out: int, repeats: int) -> dict[str, Any]:
    """Fit both to features of which a few directions tell the target."""
    rng = np.random.default_rng(0)
    parts = {"train": clips, "select": clips // 3, "test": clips // 3}
    mix = rng.standard_normal((dim, dim)) * np.geomspace(1, 1e-2, dim)  # uneven, as features are
    weight = rng.standard_normal((dim, out)) / dim**0.5
    data = {}
    for name, count in parts.items():
        x = rng.standard_normal((count, dim)) @ mix
        y = x @ weight + 1.5 * rng.standard_normal((count, out))
        data[name] = torch.from_numpy(x).float(), y
    episode = np.repeat(np.arange(40), len(data["test"][1]) // 40 + 1)[: len(data["test"][1])]

    def score(guess: np.ndarray) -> float:
        sums = statistics.episode_sums(guess, data["test"][1], episode, None)
        return float(statistics.r2(sums.sum(0)))

    guesses: dict[str, np.ndarray] = {}

    def ours() -> int:
        fit = Ridge(data["train"][0]).fit(data["train"][1], *data["select"])
        guesses["ours"] = fit.predict(data["test"][0])
        return 1

    def theirs() -> int:
        guesses["peer"] = sgd(data, score)
        return 1

    rates = measure({"ours": ours, "peer": theirs}, repeats)
    return {
        "clips": clips,
        "dim": dim,
        "outputs": out,
        "penalties": len(PENALTIES),
        **{f"{name}_seconds": 1 / median(found) for name, found in rates.items()},
        **{f"{name}_r2": score(guess) for name, guess in guesses.items()},
        "ratio": ratio(rates["ours"], rates["peer"]),
    }


def sgd(data: dict[str, Any], score: Any) -> np.ndarray:
    """Train one linear layer on standardised features, and keep the epoch that tests best."""
    torch.manual_seed(0)
    x, y = data["train"][0], torch.from_numpy(data["train"][1]).float()
    mean, std = x.mean(0), x.std(0)
    x, test = (x - mean) / std, (data["test"][0] - mean) / std
    layer = nn.Linear(x.shape[1], y.shape[1])
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3)
    best, kept = -np.inf, np.zeros(0)
    for _ in range(20):
        for rows in torch.randperm(len(x)).split(256):
            optimizer.zero_grad()
            nn.functional.mse_loss(layer(x[rows]), y[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            guess = layer(test).double().numpy()
        if (found := score(guess)) > best:
            best, kept = found, guess
    return kept


def features(name: str, frames: int, batch: int, repeats: int) -> dict[str, Any]:
    """Encode the same frames with our reader, and with transformers as its examples do."""
    with tempfile.TemporaryDirectory() as folder:
        encoder: Any = named(name, random=True)
        size = encoder.edge or encoder.preprocessing.image_size
        episodes = SyntheticConfig(image_size=size, episodes=2, length=frames // 2).build()
        video = torch.cat([episodes.pixels(e, "front", np.arange(frames // 2)) for e in (0, 1)])

        def ours() -> int:
            with tempfile.TemporaryDirectory(dir=folder) as store:
                views = {"train": episodes}
                reader = EncoderReader(
                    encoder, "concatenation", views, "front", Path(store), batch=batch
                )
                every = enumerate_clips(episodes, (0,), 1)
                reader.prepare([Request("train", every, cells=True)])
            return frames

        network = type(encoder.network)(encoder.network.config)
        network.load_state_dict(encoder.network.state_dict())
        network.set_attn_implementation("eager")
        network.eval()

        @torch.no_grad()
        def theirs() -> int:
            for some in video.split(batch):
                squares = encoder.prepare(some[:, None])[:, 0].float() / 255
                pixels = (squares - encoder.mean) / encoder.std
                network(pixel_values=pixels)
            return frames

        rates = measure({"ours": ours, "peer": theirs}, repeats)
    return {
        "encoder": name,
        "images": frames,
        "batch": batch,
        "threads": torch.get_num_threads(),
        **{f"{who}_images_per_second": median(found) for who, found in rates.items()},
        "ratio": ratio(rates["ours"], rates["peer"]),
    }


def store(name: str) -> dict[str, Any]:
    """Weigh what is kept of a few frames, at the demo's 20 frames per second, every second one."""
    with tempfile.TemporaryDirectory() as folder:
        encoder = named(name, random=True)
        size = encoder.edge or encoder.preprocessing.image_size
        episodes = SyntheticConfig(image_size=size, episodes=1, length=32).build()
        found = {}
        for cells in (False, True):
            reader = EncoderReader(
                encoder, "concatenation", {"train": episodes}, "front", Path(folder) / str(cells)
            )
            every = enumerate_clips(episodes, (0,), 1)
            reader.prepare([Request("train", every, cells=cells)])
            found[cells] = reader.size_on_disk / len(every.start)
    hour = 3600 * 10 / 1e6
    return {
        "encoder": name,
        "kilobytes_per_frame": found[False] / 1e3,
        "kilobytes_per_frame_with_cells": found[True] / 1e3,
        "megabytes_per_hour_at_10_hz": found[False] * hour,
        "megabytes_per_hour_at_10_hz_with_cells": found[True] * hour,
    }


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("case", choices=("ridge", "features", "store"))
    parser.add_argument("--encoder", default="dinov2-small")
    parser.add_argument("--clips", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--outputs", type=int, default=18)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    cases = {
        "ridge": lambda: ridge(given.clips, given.dim, given.outputs, given.repeats),
        "features": lambda: features(given.encoder, given.frames, given.batch, given.repeats),
        "store": lambda: store(given.encoder),
    }
    emit({"benchmark": f"probing {given.case}", **cases[given.case]()})


if __name__ == "__main__":
    main()
