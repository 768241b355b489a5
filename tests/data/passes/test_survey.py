"""What is odd is said, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saccade.data.passes.survey import oddities, survey
from saccade.data.synthetic import SyntheticConfig
from tests.fixtures.toy import Toy, ToyConfig

SOUND = ToyConfig(lengths=(20, 17, 30))


def test_a_sound_data_set_is_described() -> None:
    episodes = SyntheticConfig(episodes=5, length=20).build()
    found = survey(episodes, sample=2)
    assert found.looked_at == [0, 4]
    assert oddities(episodes, found) == []
    view = found.views["front"]
    assert dict(view.sizes) == {(32, 32): 2}
    assert view.strip is not None
    assert torch.equal(
        view.strip, episodes.read(0, np.array([0, 2, 5, 8, 10, 13, 16, 19]))["video"][:, 0]
    )
    assert found.state.count == 40
    assert found.interval == 0
    assert survey(episodes, 0).state.count == 100


def test_times_and_outcomes_are_counted() -> None:
    episodes = SOUND.build()
    found = survey(episodes)
    gaps = np.concatenate([np.diff(episodes.timestamps(i)) for i in range(3)])
    assert found.interval == pytest.approx(np.median(gaps))
    assert found.jitter == pytest.approx(np.abs(gaps - np.median(gaps)).max())
    assert found.outcomes == {"success": 2, "failure": 1}
    assert found.scenes == {"room 0": 2, "room 1": 1}


class Odd(Toy):
    def numbers(self, episode, frames):
        state, action = super().numbers(episode, frames)
        state[:, 0] = 7.0
        action[:, 2] *= 90
        if episode == 1:
            action[:] = 0
        if episode == 2:
            state[0, 1] = np.nan
        return state, action

    def pixels(self, episode, camera, frames):
        video = super().pixels(episode, camera, frames).clone()
        video[frames == 0] = 3 if camera == "front" else 200
        return video

    def timestamps(self, episode):
        times = np.arange(self.lengths[episode]) / 10.0
        times[-1] = times[-2] if episode == 0 else times[-1]
        return times


def test_each_oddity_is_said() -> None:
    config = replace(SOUND, lengths=(20, 17, 30, 0, 4, 20), broken=((5, "", 1),))
    episodes = Odd(replace(config, without_wrist=(1,)))
    found = survey(episodes)
    assert found.views["left.wrist"].lacking == 1
    told = oddities(episodes, found)
    for expected in (
        "1 episode cannot be read (5); saccade data verify lists what is broken",
        "1 episode is empty (3)",
        "1 episode is under 16 frames (4)",
        "1 episode has times that do not increase (0)",
        "1 episode has no action but zero (1)",
        "1 episode has states or actions that are not finite (2)",
        "times say 10 Hz, the header 5 Hz",
        "state never changes in x",
    ):
        assert expected in told, expected
    assert any(line.startswith("a frame is 0.1 s off") for line in told)
    assert any(line.startswith("action gripper is from 0 to") for line in told)
    assert any(line.startswith("camera front: 4 of") and "black" in line for line in told)
    assert any(line.startswith("camera left.wrist: 3 of") and "constant" in line for line in told)
