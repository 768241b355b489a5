"""What is read of a data set, and which frames are one step apart."""

import numpy as np
import pytest

from saccade.data.passes.contract.findings import columns_of, gather, listed, named, nearest
from saccade.errors import ConfigError, DataError
from tests.fixtures.arm import ArmConfig
from tests.fixtures.toy import Toy, ToyConfig


def test_axes_are_found_by_the_last_part_of_their_names() -> None:
    names = ("left.X", "left.y", "gripper")
    assert columns_of(names, ("y", "x")) == [1, 0]
    assert columns_of(names, ("z",)) is None
    assert columns_of((*names, "right.x"), ("x",)) is None


def test_frames_one_step_apart_are_found_by_time() -> None:
    sample = gather(ArmConfig(recorded_times=False, episodes=1, length=10).build(), 0.25)
    (recording,) = sample.recordings
    # 15 Hz: 3.75 frames, so the fourth one after; the last start is at 9 - 3.75 + 0.5
    assert recording.before.tolist() == [0, 1, 2, 3, 4, 5]
    assert recording.after.tolist() == [4, 5, 6, 7, 8, 9]
    assert sample.size == {"episodes": 1, "frames": 10}
    assert nearest(np.array([0.0, 1.0, 5.0]), np.array([0.4, 0.6, 2.9, 3.1])).tolist() == [
        0,
        1,
        1,
        2,
    ]


def test_episodes_are_spread_evenly() -> None:
    sample = gather(ArmConfig(episodes=7).build(), 0.25, sample=3)
    assert [r.episode for r in sample.recordings] == [0, 3, 6]
    assert len(gather(ArmConfig(episodes=7).build(), 0.25, sample=0).recordings) == 7


class Odd(Toy):
    def numbers(self, episode, frames):
        state, action = super().numbers(episode, frames)
        state[0, 0] = np.nan if episode == 0 else state[0, 0]
        return state, action

    def timestamps(self, episode):
        times = super().timestamps(episode)
        return times[::-1].copy() if episode == 2 else times


def test_what_cannot_be_used_is_named_and_left_out() -> None:
    sample = gather(Odd(ToyConfig(broken=((4, "", 1),))), 0.25)
    assert [r.episode for r in sample.recordings] == [3]
    assert (sample.invalid, sample.backwards, list(sample.unreadable)) == ([0], [2], [4])
    assert "frame 1 is broken" in sample.unreadable[4]


def test_senseless_questions_are_refused() -> None:
    episodes = ArmConfig(episodes=1).build()
    for span in (0.0, -1.0, float("nan"), 60.0):
        with pytest.raises(ConfigError, match="expected above 0 and under 60 s"):
            gather(episodes, span)
    with pytest.raises(ConfigError, match="sample is -1"):
        gather(episodes, 0.25, -1)
    with pytest.raises(DataError, match="none of 2 episodes has frames"):
        gather(ToyConfig(lengths=(0, 0)).build(), 0.25)


def test_many_are_named_by_the_first() -> None:
    assert named([3, 1]) == "3, 1"
    assert named(dict.fromkeys(range(9), "")) == "0, 1, 2, 3, 4 ..."
    assert listed(()) == "none"
    assert listed(["a", "b", "c"], most=2) == "a, b ... (3 in all)"
