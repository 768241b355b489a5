"""Frames of any reader as squares, decoded whenever they are read.

For data sets whose decoded frames fit on no disk: DROID's would take five terabytes at 256
pixels. Where they fit, ``CachedEpisodes`` gives the same pixels a hundred times faster.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int, Int64, UInt8
from torch import Tensor

from saccade.data.episodes import Episodes
from saccade.data.transforms import Framing
from saccade.data.truth import SceneTruth
from saccade.errors import DataError


class SquareEpisodes(Episodes):
    """The episodes of a reader with frames cut and resized by a ``Framing``; the base of others.

    Raises:
        DataError: the reader has no such camera.
    """

    def __init__(
        self, episodes: Episodes, framing: Framing, cameras: Sequence[str] | None = None
    ) -> None:
        self.fps = episodes.fps
        self.cameras = episodes.cameras if cameras is None else tuple(cameras)
        absent = sorted(set(self.cameras) - set(episodes.cameras))
        if absent:
            raise DataError(f"there are no cameras {absent}; there are {sorted(episodes.cameras)}")
        self.lengths, self.tasks = episodes.lengths, episodes.tasks
        self.state_names, self.action_names = episodes.state_names, episodes.action_names
        known = episodes.world_to_camera
        self.world_to_camera = {name: known[name] for name in self.cameras if name in known}
        self.conventions = episodes.conventions
        self.fingerprint = f"{episodes.fingerprint}@{framing.tag}"
        self.episodes, self.framing = episodes, framing

    def numbers(
        self, episode: int, frames: Int64[np.ndarray, " t"]
    ) -> tuple[Float32[np.ndarray, "t s"], Float32[np.ndarray, "t a"]]:
        """Return what the reader says."""
        return self.episodes.numbers(episode, frames)

    def timestamps(self, episode: int) -> Float64[np.ndarray, " t"]:
        """Return what the reader says."""
        return self.episodes.timestamps(episode)

    def cameras_of(self, episode: int) -> tuple[str, ...]:
        """Return those of our cameras that the episode has."""
        return tuple(c for c in self.cameras if c in self.episodes.cameras_of(episode))

    def about(self, episode: int) -> dict[str, Any]:
        """Return what the reader says."""
        return self.episodes.about(episode)

    def camera_poses(self, episode: int, camera: str) -> Float64[np.ndarray, "t 4 4"] | None:
        """Return what the reader says."""
        return self.episodes.camera_poses(episode, camera)

    def camera_rotations(
        self, episode: int, camera: str, frames: Int[np.ndarray, " t"]
    ) -> Float64[np.ndarray, "t 3 3"] | None:
        """Return what the reader says."""
        return self.episodes.camera_rotations(episode, camera, frames)

    def confidences(
        self, episode: int, body: str, frames: Int[np.ndarray, " t"]
    ) -> Float64[np.ndarray, " t"] | None:
        """Return what the reader says."""
        return self.episodes.confidences(episode, body, frames)

    def intrinsics(self, episode: int, camera: str) -> Float64[np.ndarray, "3 3"] | None:
        """Return the matrix for the squares. Decodes a frame of the reader."""
        matrix = self.episodes.intrinsics(episode, camera)
        if matrix is None or not self.lengths[episode]:
            return None
        return self.framing.matrix(*self._frame_size(episode, camera)) @ matrix

    def truth(self, episode: int, camera: str) -> SceneTruth | None:
        """Return the truth of the squares. Decodes a frame of the reader.

        Raises:
            DataError: the truth cannot be cut where the squares are.
        """
        truth = self.episodes.truth(episode, camera)
        if truth is None:
            return None
        frame = self._frame_size(episode, camera)
        return truth.framed(self.framing.matrix(*frame), self.framing.size, frame)

    def _frame_size(self, episode: int, camera: str) -> tuple[int, int]:
        frame = self.episodes.pixels(episode, camera, np.zeros(1, np.int64))
        return frame.shape[2], frame.shape[3]


class FramedEpisodes(SquareEpisodes):
    """Squares that are made anew whenever they are read."""

    def pixels(
        self, episode: int, camera: str, frames: Int64[np.ndarray, " t"]
    ) -> UInt8[Tensor, "t 3 {self.framing.size} {self.framing.size}"]:
        """Decode frames and make squares of them."""
        return self.framing(self.episodes.pixels(episode, camera, frames))
