"""What a probe reads from: frozen features of frame pairs, and the floors they must beat.

A representation is a function from (episodes, pairs) to one vector per pair. Encoders are one
kind; the others are floors that need no learning, so that a probe's number says what training
added: raw pixels, raw pixel change, the robot's own state, the task's name.

Encoder features are computed once and kept as ``folder/<digest>.safetensors``; the digest covers
the weights, the data and the pairs, so a stale file is never read.
"""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional as F

from saccade.checkpoint import write_atomic
from saccade.data.episodes import Episodes
from saccade.errors import ConfigError, DataError, NumericError
from saccade.types import Encoder

CODE = "features-1"  # part of every digest: change it when the same weights give other features
THUMBNAIL = 16  # side of the raw-pixel floors' pictures


class Pairs(NamedTuple):
    """Frames ``start`` and ``start + gap`` of ``episode``, in the order of the episodes."""

    episode: Int[np.ndarray, " n"]
    start: Int[np.ndarray, " n"]
    gap: int

    def by_episode(self) -> Iterator[tuple[int, Int[np.ndarray, " m"]]]:
        """Yield every episode with its start frames."""
        for episode in np.unique(self.episode):
            yield int(episode), self.start[self.episode == episode]


Features = Callable[[Episodes, Pairs], Float[Tensor, "n f"]]


def enumerate_pairs(episodes: Episodes, gap: int, stride: int) -> Pairs:
    """List every ``stride``-th pair of frames that lie ``gap`` steps apart in one episode.

    Raises:
        ConfigError: the gap or the stride is below 1.
        DataError: no episode is longer than the gap.
    """
    if gap < 1 or stride < 1:
        raise ConfigError(f"gap {gap} and stride {stride} of a probe must be at least 1 step")
    starts = [np.arange(0, max(0, length - gap), stride) for length in episodes.lengths]
    counts = [len(start) for start in starts]
    if not sum(counts):
        longest = max(episodes.lengths, default=0)
        raise DataError(
            f"no episode of {episodes.fingerprint} is longer than the gap of {gap} steps (the "
            f"longest has {longest} frames); probe smaller gaps"
        )
    return Pairs(np.repeat(np.arange(len(starts)), counts), np.concatenate(starts), gap)


def read_video(
    episodes: Episodes, pairs: Pairs, camera: str, batch: int
) -> Iterator[UInt8[Tensor, "b 2 3 h w"]]:
    """Yield the pairs in order, about ``batch`` at a time; episodes are read piece by piece."""
    waiting: list[Tensor] = []
    for episode, starts in pairs.by_episode():
        for low in range(0, len(starts), batch):
            wanted = np.stack([starts[low : low + batch], starts[low : low + batch] + pairs.gap])
            frames, place = np.unique(wanted, return_inverse=True)
            video = episodes.read(episode, frames, (camera,))["video"][:, 0]
            waiting.append(video[torch.from_numpy(place.reshape(wanted.shape).T)])
            if sum(map(len, waiting)) >= batch:
                yield torch.cat(waiting)
                waiting = []
    if waiting:
        yield torch.cat(waiting)


class EncoderFeatures:
    """The features of one frozen encoder, computed once and kept on disk."""

    def __init__(self, encoder: Encoder, camera: str, folder: Path, batch: int = 64) -> None:
        if encoder.preprocessing.num_frames != 2:
            raise ConfigError(
                f"{type(encoder).__name__} takes {encoder.preprocessing.num_frames} frames; "
                "this probe feeds pairs, so give an encoder with num_frames=2"
            )
        self.encoder, self.camera, self.folder, self.batch = encoder.eval(), camera, folder, batch
        self.digest = digest_encoder(encoder)

    def __call__(self, episodes: Episodes, pairs: Pairs) -> Float[Tensor, "n f"]:
        """Return one pooled vector per pair."""
        return self._cached(episodes, pairs, "pooled")

    def tokens(self, episodes: Episodes, pairs: Pairs) -> Float[Tensor, "n l d"]:
        """Return every token of each pair, in half precision."""
        return self._cached(episodes, pairs, "tokens")

    def _cached(self, episodes: Episodes, pairs: Pairs, kind: str) -> Tensor:
        digest = hashlib.sha256()
        for part in (CODE, kind, self.digest, episodes.fingerprint, self.camera, str(pairs.gap)):
            digest.update(part.encode() + b"\0")
        digest.update(np.stack([pairs.episode, pairs.start]).astype("<i8").tobytes())
        path = self.folder / f"{digest.hexdigest()[:32]}.safetensors"
        if not path.exists():
            write_atomic(path, save({kind: self._encode(episodes, pairs, kind)}))
        try:
            return load_file(path)[kind]
        except (SafetensorError, KeyError) as error:
            raise DataError(f"{path} is damaged ({error}); delete it and rerun") from error

    @torch.no_grad()
    def _encode(self, episodes: Episodes, pairs: Pairs, kind: str) -> Tensor:
        device = next((p.device for p in self.encoder.parameters()), torch.device("cpu"))
        size, found = self.encoder.preprocessing.image_size, []
        for video in read_video(episodes, pairs, self.camera, self.batch):
            if video.shape[-2:] != (size, size):
                raise DataError(
                    f"camera {self.camera!r} gives frames of {tuple(video.shape[-2:])} pixels, the "
                    f"encoder expects {(size, size)}; cache the frames at size {size}"
                )
            tokens = self.encoder(video.to(device))
            if kind == "pooled":
                found.append(self.encoder.pool(tokens).float().cpu())
            else:
                found.append(rearrange(tokens, "b u n d -> b (u n) d").half().cpu())
        features = torch.cat(found)
        bad = int((~features.isfinite()).flatten(1).any(1).sum())
        if bad:
            raise NumericError(
                f"{type(self.encoder).__name__} gives {bad} of {len(features)} pairs features that "
                "are not finite; look at the run that trained it"
            )
        if digest_encoder(self.encoder) != self.digest:
            raise RuntimeError(f"{type(self.encoder).__name__} changed itself while it was frozen")
        return features.contiguous()


def digest_encoder(encoder: Encoder) -> str:
    """Digest all that the features depend on: class, pixel contract, pooling and every weight."""
    digest = hashlib.sha256()
    digest.update(f"{type(encoder)} {encoder.preprocessing} {encoder.pooling}".encode())
    for name, value in encoder.state_dict().items():
        raw = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode() + raw.tobytes())
    return digest.hexdigest()


def thumbnails(episodes: Episodes, pairs: Pairs, camera: str) -> Float[Tensor, "n 2 3 h w"]:
    """Average both frames of each pair down to 16 x 16 pixels, in [0, 1]."""
    return torch.cat(
        [
            F.adaptive_avg_pool2d(video.flatten(0, 1) / 255, THUMBNAIL).unflatten(0, (-1, 2))
            for video in read_video(episodes, pairs, camera, batch=256)
        ]
    )


def raw_pixels(episodes: Episodes, pairs: Pairs, camera: str) -> Float[Tensor, "n f"]:
    """Floor: both frames as they are, small."""
    return thumbnails(episodes, pairs, camera).flatten(1)


def raw_change(episodes: Episodes, pairs: Pairs, camera: str) -> Float[Tensor, "n f"]:
    """Floor: the signed difference of the two frames, small."""
    first, second = thumbnails(episodes, pairs, camera).unbind(1)
    return (second - first).flatten(1)


def position_only(episodes: Episodes, pairs: Pairs) -> Float[Tensor, "n f"]:
    """Floor without vision: the robot's state at the first frame."""
    return torch.cat(
        [episodes.read(episode, start, ())["state"] for episode, start in pairs.by_episode()]
    )


def task_only(episodes: Episodes, pairs: Pairs, known: tuple[str, ...]) -> Float[Tensor, "n f"]:
    """Floor without vision: which of the ``known`` tasks it is; all zeros for another task."""
    names = np.array([episodes.tasks[episode] for episode in pairs.episode])
    return torch.from_numpy((names[:, None] == np.array(known)[None]).astype(np.float32))


def floors(train: Episodes, camera: str) -> dict[str, Features]:
    """Name the floors that are features of pairs and need no encoder."""
    known = tuple(sorted(set(train.tasks)))
    return {
        "raw pixels": partial(raw_pixels, camera=camera),
        "raw pixel change": partial(raw_change, camera=camera),
        "position only": position_only,
        "task only": partial(task_only, known=known),
    }
