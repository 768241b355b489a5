"""Encoders by hand, one of each kind of reading, and one that is slow enough to be killed."""

import time
from pathlib import Path
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from saccade.data.synthetic import SyntheticConfig
from saccade.evals.clips import enumerate_clips
from saccade.evals.features import EncoderReader, Reading, Request, Views
from saccade.types import Encoder, Preprocessing

WORLD = SyntheticConfig(episodes=6, length=12, image_size=16).build()
VIEWS: Views = {"train": WORLD}


class Patches(Encoder):
    """Tokens are a linear map of the mean colour of each square, frame by frame."""

    embed_dim = 5

    def __init__(self, frames: int = 1, side: int = 4, tubelet: int = 1, seed: int = 0) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(num_frames=frames, image_size=16)
        self.side, self.tubelet = side, tubelet
        self.calls: list[int] = []
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            self.map = nn.Linear(3, self.embed_dim)

    def forward(self, video: Tensor) -> Tensor:
        assert video.shape[1] == self.preprocessing.num_frames
        self.calls.append(len(video))
        p = 16 // self.side
        squares = reduce(
            video.float() / 255, "b (u r) c (i p) (j q) -> b u (i j) c", "mean",
            r=self.tubelet, p=p, q=p,
        )  # fmt: skip
        return self.map(squares)


class Slow(Patches):
    """Takes its time."""

    def forward(self, video: Tensor) -> Tensor:
        time.sleep(0.1)
        return super().forward(video)


def reader(encoder: Encoder, reading: Reading, root: Path, **options: Any) -> EncoderReader:
    return EncoderReader(encoder, reading, VIEWS, "front", root, **options)


def request(gap: int = 4, cells: bool = True) -> Request:
    return Request("train", enumerate_clips(WORLD, (0, gap), 1), cells)


def encode_slowly(root: Path, batch: int = 2) -> int:
    """Fill a store, as another process does it; return how many clips were encoded here."""
    torch.set_num_threads(1)
    found = reader(Slow(), "concatenation", root, batch=batch)
    found.prepare([request()])
    return found.encoded


def marks(root: Path) -> list[Path]:
    """List what notes which rows of a store are written."""
    return sorted(root.rglob("done.u64"))


def by_hand(encoder: Patches, video: Tensor) -> Tensor:
    """Encode frames one by one, as cells."""
    with torch.no_grad():
        tokens = encoder(video[:, None])
    return rearrange(tokens, "b 1 (i j) d -> b i j d", i=encoder.side)
