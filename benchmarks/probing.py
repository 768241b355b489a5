"""Probing: what a readout costs, how fast features are made, and how much disk they take.

    python benchmarks/probing.py ridge      closed-form ridge over all penalties / the SGD probe of
                                            the documents, on the same features
    python benchmarks/probing.py features   our reader and its store / a plain transformers loop
                                            (float32, eager attention)
    python benchmarks/probing.py pairs      pairs at three gaps: frames once / every pair
    python benchmarks/probing.py store      megabytes of features per hour of video

Nothing is loaded: weights are random, features are drawn with a known linear part. Each line says
what its two sides include.
"""

import argparse
import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from peers.sgd_probe import EPOCHS, SgdProbe
from timing import emit, measure, ratio

from saccade.data.synthetic import Synthetic, SyntheticConfig
from saccade.evals import statistics
from saccade.evals.clips import Clips, enumerate_clips
from saccade.evals.features import EncoderReader, Precision, Request
from saccade.evals.ridge import PENALTIES, Ridge, Scale
from saccade.models.published.catalogue import named

SELECT = 10  # of the training samples one in so many chooses the penalty, and is not fitted
WINDOWS = 56  # of an episode: 180,921 pairs of 3,243 recordings
CLOSE = {"float32": 1e-4, "bfloat16": 5e-2}  # features of ours and the peer, relative
SPARE = 4  # times as many frames as rounds need: a slice of time may take several goes
GAPS = (1, 5, 10)  # of the pairs
KEPT_HZ = 10  # every second frame of the demo's 20 per second


def ridge(samples: int, held_out: int, dim: int, out: int, repeats: int) -> dict[str, Any]:
    """Fit both to the same features, of which a few directions tell the target."""
    train, test, score = drawn(samples, held_out, dim, out)
    cut = samples - samples // SELECT
    found: dict[str, float] = {}

    def ours() -> int:
        x, y = train
        fit = Ridge(x[:cut]).fit(y[:cut].numpy(), x[cut:], y[cut:].numpy())
        found["ours"] = score(torch.from_numpy(fit.predict(test[0])))
        return EPOCHS  # is what it stands for

    scale = Scale.of(train[0])
    single = [(scale(x), y.float()) for x, y in (train, test)]
    probes = {
        "peer": SgdProbe(single[0], single[1], score, loader=True),
        "peer_without_loader": SgdProbe(single[0], single[1], score, loader=False),
    }
    for _ in range(EPOCHS):
        probes["peer"].epoch()
    found["peer"] = probes["peer"].best

    def epoch(probe: SgdProbe) -> int:
        probe.epoch()
        return 1

    works = {name: (lambda p=probe: epoch(p)) for name, probe in probes.items()}
    rates = measure({"ours": ours, **works}, repeats)
    if found["ours"] < found["peer"]:
        raise ValueError(f"the ridge scores less than the peer: {found}")
    return {
        "ours_is": f"standardise, fit, choose of {len(PENALTIES)} penalties on a tenth, predict",
        "peer_is": f"one run of {EPOCHS} epochs; best epoch by test score; standardised for it",
        "samples": samples,
        "held_out": held_out,
        "dim": dim,
        "outputs": out,
        "threads": torch.get_num_threads(),
        "epochs_timed": f"1 a round, times {EPOCHS}",
        **{f"{name}_seconds": EPOCHS / median(each) for name, each in rates.items()},
        **{f"{name}_r2": each for name, each in found.items()},
        "ratio": ratio(rates["ours"], rates["peer"]),
        "ratio_without_loader": ratio(rates["ours"], rates["peer_without_loader"]),
    }


def drawn(samples: int, held_out: int, dim: int, out: int) -> tuple[Any, Any, Any]:
    """Draw features of uneven size that share directions, targets, and how to score guesses."""
    rng = torch.Generator().manual_seed(0)
    mix = torch.randn(dim, dim, generator=rng) * torch.logspace(0, -2, dim)
    weight = torch.randn(dim, out, generator=rng) / dim**0.5
    x = torch.randn(samples + held_out, dim, generator=rng) @ mix
    y = x @ weight
    y = (y + 1.5 * torch.randn(y.shape, generator=rng)).double()
    train, test = (x[:samples], y[:samples]), (x[samples:], y[samples:])
    episode = np.arange(held_out) // WINDOWS

    def score(guess: torch.Tensor) -> float:
        sums = statistics.episode_sums(guess.double().numpy(), test[1].numpy(), episode, None)
        return float(statistics.r2(sums.sum(0)[None])[0])

    return train, test, score


class Noise(Synthetic):
    """Frames that lie in memory: neither side is timed with decoding them."""

    def __init__(self, size: int, frames: int) -> None:
        super().__init__(SyntheticConfig(image_size=size, episodes=1, length=frames))
        self.video = torch.randint(0, 256, (frames, 3, size, size), dtype=torch.uint8)

    def pixels(self, episode: int, camera: str, frames: np.ndarray) -> torch.Tensor:
        """Look them up."""
        return self.video[torch.from_numpy(frames)]


def features(
    name: str, frames: int, batch: int, precision: Precision, repeats: int, gaps: Sequence[int]
) -> dict[str, Any]:
    """Encode the same clips with our reader, and with transformers as its examples do.

    Clips begin at every frame of a stretch: single frames, or pairs at each of the gaps.
    """
    encoder: Any = named(name, random=True)
    plain = copy.deepcopy(encoder.network)
    plain.set_attn_implementation("eager")
    size = encoder.edge or encoder.preprocessing.image_size
    episodes = Noise(size, length := SPARE * (repeats + 1) * frames)
    offsets = [(0, gap) for gap in gaps] or [(0,)]
    images = sum((frames - max(each)) * len(each) for each in offsets)  # that the clips show
    begun = {"ours": 0, "peer": 0}
    kept: dict[str, torch.Tensor] = {}

    def following(who: str) -> list[Clips]:
        """Return clips of frames that this side has not encoded yet: the store would know them."""
        start = begun[who]
        begun[who] += frames
        if begun[who] > length:
            raise ValueError(f"{frames} frames take less than a slice of time; give --frames more")
        starts = [np.arange(start, start + frames - max(each)) for each in offsets]
        return [
            Clips(np.zeros_like(some), some, each)
            for some, each in zip(starts, offsets, strict=True)
        ]

    def encoded(at: np.ndarray) -> torch.Tensor:
        made = []
        for some in episodes.pixels(0, "front", at).split(batch):
            squares = encoder.prepare(some[:, None])[:, 0].float() / 255
            tokens = plain(pixel_values=(squares - encoder.mean) / encoder.std).last_hidden_state
            made.append(tokens[:, encoder.skipped :].mean(1))
        return torch.cat(made)

    @torch.no_grad()
    def theirs() -> int:
        made = [
            torch.cat([encoded(clips.start + each) for each in clips.offsets], 1)
            for clips in following("peer")
        ]
        kept.setdefault("peer", made[-1])
        return images

    with tempfile.TemporaryDirectory() as folder:
        reader = EncoderReader(
            encoder,
            "concatenation",
            {"train": episodes},
            "front",
            Path(folder),
            batch=batch,
            precision=precision,
        )

        def ours() -> int:
            asked = following("ours")
            reader.prepare([Request("train", clips, cells=True) for clips in asked])
            made = [reader.vectors("train", clips) for clips in asked]
            kept.setdefault("ours", made[-1])
            return images

        rates = measure({"ours": ours, "peer": theirs}, repeats)
    difference = float((kept["ours"] - kept["peer"]).norm() / kept["peer"].norm())
    if not difference < CLOSE[precision]:
        raise ValueError(f"ours and the peer give different features, {difference:.2g} apart")
    return {
        "encoder": name,
        "ours_is": f"prepare, {precision}, vectors and cells stored and read, weights digested",
        "peer_is": "prepare, float32, eager attention, vectors in memory",
        "frames": frames,
        "images_shown": images,
        "batch": batch,
        "threads": torch.get_num_threads(),
        "difference": difference,
        **{f"{who}_images_per_second": median(each) for who, each in rates.items()},
        "ratio": ratio(rates["ours"], rates["peer"]),
    }


def store(name: str, frames: int) -> dict[str, Any]:
    """Weigh what is kept of a few frames, in whole blocks of the disk."""
    with tempfile.TemporaryDirectory() as folder:
        encoder = named(name, random=True)
        size = encoder.edge or encoder.preprocessing.image_size
        episodes = SyntheticConfig(image_size=size, episodes=1, length=frames).build()
        found = {}
        for cells in (False, True):
            reader = EncoderReader(
                encoder, "concatenation", {"train": episodes}, "front", Path(folder) / str(cells)
            )
            every = enumerate_clips(episodes, (0,), 1)
            reader.prepare([Request("train", every, cells=cells)])
            found[cells] = reader.size_on_disk / len(every.start)
    hour = 3600 * KEPT_HZ / 1e6
    return {
        "encoder": name,
        "frames_per_second": KEPT_HZ,
        "kilobytes_per_frame": found[False] / 1e3,
        "kilobytes_per_frame_with_cells": found[True] / 1e3,
        "megabytes_per_hour": found[False] * hour,
        "megabytes_per_hour_with_cells": found[True] * hour,
    }


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("case", choices=("ridge", "features", "pairs", "store"))
    parser.add_argument("--encoder", default="dinov2-small")
    parser.add_argument("--samples", type=int, default=181_000, help="about those of EgoDex test")
    parser.add_argument("--held-out", type=int, default=40_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--outputs", type=int, default=18)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()

    def encoding(gaps: Sequence[int]) -> dict[str, Any]:
        return features(
            given.encoder, given.frames, given.batch, given.precision, given.repeats, gaps
        )

    cases = {
        "ridge": lambda: ridge(
            given.samples, given.held_out, given.dim, given.outputs, given.repeats
        ),
        "features": lambda: encoding(()),
        "pairs": lambda: encoding(GAPS),
        "store": lambda: store(given.encoder, given.frames),
    }
    emit({"benchmark": f"probing {given.case}", **cases[given.case]()})


if __name__ == "__main__":
    main()
