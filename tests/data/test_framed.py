"""Squares that are decoded at each read are those of the cache."""

from pathlib import Path

import numpy as np
import pytest
import torch

from saccade.data.cache.reader import CachedEpisodes
from saccade.data.framed import FramedEpisodes
from saccade.data.lerobot.reader import LeRobotConfig
from saccade.data.synthetic import SyntheticConfig
from saccade.data.transforms import Framing
from saccade.errors import DataError
from tests.contracts import check_reader


def test_frames_are_those_of_the_cache(shared_data: Path, tmp_path: Path) -> None:
    episodes = LeRobotConfig(root=shared_data / "lerobot_v3_tiny").build()
    for framing in (Framing(size=48), Framing(size=48, edge=56)):
        framed = FramedEpisodes(episodes, framing)
        cached = CachedEpisodes(episodes, tmp_path, framing)
        frames = np.array([17, 0, 5])
        assert torch.equal(framed.read(1, frames)["video"], cached.read(1, frames)["video"])
    check_reader(FramedEpisodes(episodes, Framing(size=32), ("wrist",)))


def test_a_camera_that_is_not_there_is_refused(tmp_path: Path) -> None:
    episodes = SyntheticConfig(episodes=2, length=3).build()
    with pytest.raises(DataError, match=r"there are no cameras \['rear'\]; there are \["):
        FramedEpisodes(episodes, Framing(size=32), (*episodes.cameras, "rear"))
    with pytest.raises(DataError, match=r"there are no cameras \['rear'\]"):
        CachedEpisodes(episodes, tmp_path, 32, ("rear",))
    assert not any(tmp_path.iterdir())


def test_both_are_known_by_the_same_fingerprint(tmp_path: Path) -> None:
    episodes = SyntheticConfig(episodes=2, length=3).build()
    for framing in (Framing(size=32), Framing(size=32, edge=40)):
        cached = CachedEpisodes(episodes, tmp_path, framing)
        assert FramedEpisodes(episodes, framing).fingerprint == cached.fingerprint
