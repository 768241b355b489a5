"""The toy world obeys the contract of readers: actions move the square that pictures show."""

import pickle

import numpy as np
import pytest
import torch

from saccade.config import from_dict, to_dict
from saccade.data.synthetic import SyntheticConfig
from saccade.errors import DataError

CONFIG = SyntheticConfig(episodes=5, length=12, tasks=2)


def test_frames_have_the_declared_shapes() -> None:
    data = CONFIG.build()
    found = data.read(3, np.arange(12))
    assert found["video"].shape == (12, 1, 3, 32, 32)
    assert found["video"].dtype == torch.uint8
    assert found["state"].shape == found["action"].shape == (12, 4)
    assert data.lengths == [12] * 5
    assert data.tasks == [f"follow command {i}" for i in (0, 1, 0, 1, 0)]
    assert data.read(3, np.arange(2), ())["video"].shape[:2] == (2, 0)
    np.testing.assert_allclose(data.timestamps(0), np.arange(12) / 10)


def test_an_action_is_executed_from_its_frame_on() -> None:
    data = CONFIG.build()
    for episode in range(5):
        found = data.read(episode, np.arange(12))
        moved = found["state"][1:, :3] - found["state"][:-1, :3]
        torch.testing.assert_close(found["action"][:-1, :3], moved, atol=1e-6, rtol=0)
        assert torch.equal(found["action"][:-1, 3], found["state"][1:, 3])


def test_the_square_is_where_the_state_says() -> None:
    data = SyntheticConfig(episodes=3, length=6, image_size=64, noise=0.0).build()
    for episode in range(3):
        found = data.read(episode, np.arange(6))
        bright = (found["video"][:, 0, 0] > 100).float()
        grid = (torch.arange(64) + 0.5) / 64
        total = bright.sum((1, 2))
        centre = torch.stack(
            [(bright * grid).sum((1, 2)) / total, (bright * grid[:, None]).sum((1, 2)) / total], 1
        )
        torch.testing.assert_close(centre, found["state"][:, :2], atol=0.02, rtol=0)


def test_reading_depends_on_config_and_frame_alone() -> None:
    data = CONFIG.build()
    whole = data.read(1, np.arange(12))["video"]
    order = np.array([7, 7, 2])
    again = pickle.loads(pickle.dumps(from_dict(to_dict(CONFIG)).build())).read(1, order)["video"]
    assert torch.equal(again, whole[order])
    other = SyntheticConfig(episodes=5, length=12, tasks=2, seed=1).build()
    assert other.fingerprint != data.fingerprint
    assert not torch.equal(other.read(1, order)["video"], again)


def test_the_background_is_noisy() -> None:
    """Else every changed pixel would be motion."""
    video = CONFIG.build().read(0, np.arange(2))["video"].int()
    assert ((video[1] - video[0]) != 0).float().mean() > 0.5


@pytest.mark.parametrize("frames", [[-1], [12]])
def test_frames_outside_an_episode_are_refused(frames: list[int]) -> None:
    with pytest.raises(DataError, match="outside episode 0"):
        CONFIG.build().read(0, np.array(frames))
