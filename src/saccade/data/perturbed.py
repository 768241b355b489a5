"""Pictures as a worse camera would have shown them, for asking how far a readout holds.

    noise N             Gaussian sensor noise, N grey levels, drawn anew for every frame
    JPEG Q              compressed and decompressed at quality Q
    lighting G          brightness times G, then clipped
    camera shift S      the picture moved right and down by S of its side, edges repeated

Everything random is a function of the episode, the frame and the strength. States, actions and
labels stay as they are; where a picture moves, so does the centre of its camera matrix.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import simplejpeg
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor
from torch.nn import functional as F

from saccade.data.episodes import Episodes, Subset
from saccade.data.truth import SceneTruth
from saccade.errors import ConfigError

Kind = Literal["noise", "JPEG", "lighting", "camera shift"]
SUITE: tuple[tuple[Kind, float], ...] = (
    ("noise", 16.0), ("JPEG", 20.0), ("lighting", 0.6), ("lighting", 1.4), ("camera shift", 0.05),
)  # fmt: skip


class Perturbed(Subset):
    """All episodes of a reader, with perturbed pictures. A data set of its own."""

    def __init__(self, episodes: Episodes, kind: Kind, strength: float) -> None:
        limits = {"noise": (0, 255), "JPEG": (1, 100), "lighting": (0, 10), "camera shift": (0, 1)}
        if kind not in limits or not limits[kind][0] <= strength <= limits[kind][1]:
            raise ConfigError(f"{kind} {strength:g} is no perturbation; within {limits}, please")
        super().__init__(episodes, range(len(episodes.lengths)))
        self.kind, self.strength = kind, strength
        self.name = f"{kind} {strength:g}"
        self.fingerprint = f"{episodes.fingerprint}~{self.name}"

    def pixels(self, episode: int, camera: str, frames: np.ndarray) -> UInt8[Tensor, "t 3 h w"]:
        """Decode and perturb frames."""
        video = self.episodes.pixels(episode, camera, frames)
        if self.kind == "noise":
            return torch.stack(
                [
                    self._noisy(picture, (episode, int(frame), camera))
                    for picture, frame in zip(video, frames, strict=True)
                ]
            )
        if self.kind == "JPEG":
            return torch.stack([self._compressed(picture) for picture in video])
        if self.kind == "lighting":
            return (video.float() * self.strength).round().clamp(0, 255).byte()
        return self._shifted(video)

    def views(
        self, episode: int, cameras: Sequence[str], frames: np.ndarray
    ) -> UInt8[Tensor, "t v 3 h w"]:
        """Decode and perturb frames of several cameras."""
        return Episodes.views(self, episode, cameras, frames)

    def encoded(self, episode: int, camera: str, frames: np.ndarray) -> None:
        """Refuse stored frames, which are not perturbed."""

    def features(self, episode: int, frames: np.ndarray) -> None:
        """Refuse kept features, which are of the pictures as they were."""

    def intrinsics(self, episode: int, camera: str) -> Float64[np.ndarray, "3 3"] | None:
        """Return the camera's matrix; its centre moves with the picture."""
        matrix = self.episodes.intrinsics(episode, camera)
        if matrix is None or self.kind != "camera shift":
            return matrix
        video = self.episodes.pixels(episode, camera, np.zeros(1, np.int64))
        down, right = self._shift(*video.shape[-2:])
        return matrix + np.array([[0, 0, right], [0, 0, down], [0, 0, 0]])

    def truth(self, episode: int, camera: str) -> SceneTruth | None:
        """Return what a simulator knows, but where it lies elsewhere in the picture."""
        return None if self.kind == "camera shift" else self.episodes.truth(episode, camera)

    def _noisy(self, picture: UInt8[Tensor, "3 h w"], key: tuple[int, int, str]) -> Tensor:
        text = f"{self.name} {key}".encode()
        seed = int.from_bytes(hashlib.sha256(text).digest()[:8], "little")
        noise = np.random.default_rng(seed).standard_normal(picture.shape, np.float32)
        return (picture + self.strength * torch.from_numpy(noise)).round().clamp(0, 255).byte()

    def _compressed(self, picture: UInt8[Tensor, "3 h w"]) -> Tensor:
        rows = np.ascontiguousarray(picture.permute(1, 2, 0).numpy())
        data = simplejpeg.encode_jpeg(rows, quality=int(self.strength), colorspace="RGB")
        return torch.from_numpy(simplejpeg.decode_jpeg(data)).permute(2, 0, 1)

    def _shifted(self, video: UInt8[Tensor, "t 3 h w"]) -> Tensor:
        height, width = video.shape[-2:]
        down, right = self._shift(height, width)
        padded = F.pad(video.float(), (right, 0, down, 0), mode="replicate")
        return padded[..., :height, :width].byte()

    def _shift(self, height: int, width: int) -> tuple[int, int]:
        """Return by how many pixels pictures move down and right."""
        return round(self.strength * height), round(self.strength * width)
