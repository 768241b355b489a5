import numpy as np
import pytest
import torch

from saccade.data.episodes import Subset
from saccade.data.perturbed import Perturbed
from saccade.data.synthetic import SyntheticConfig
from saccade.errors import ConfigError, DataError
from saccade.evals.clips import enumerate_clips, read_video, rooted

EPISODES = SyntheticConfig(episodes=3, length=9).build()
CLIPS = enumerate_clips(EPISODES, (0, 4), stride=2)


def test_clips_stay_inside_their_episode_and_keep_the_stride() -> None:
    assert CLIPS.start.tolist() == [0, 2, 4] * 3  # 4 + 4 is the last frame, 8
    assert CLIPS.episode.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert CLIPS.gap == CLIPS.shown(4, 0).gap == 4


def test_a_gap_longer_than_every_episode_is_an_error() -> None:
    with pytest.raises(DataError, match=r"gap of 9 steps \(the longest has 9 frames\)"):
        enumerate_clips(EPISODES, (0, 9), 1)


@pytest.mark.parametrize(("offsets", "stride"), [((0, 0), 1), ((0, -1), 1), ((0, 4), 0)])
def test_offsets_that_cannot_be_are_refused(offsets: tuple[int, ...], stride: int) -> None:
    with pytest.raises(ConfigError, match="a gap is at least 1"):
        enumerate_clips(EPISODES, offsets, stride)


def test_thinning_is_even_and_keeps_both_ends() -> None:
    few = enumerate_clips(EPISODES, (0, 4), 2, most=4)
    assert list(zip(few.episode.tolist(), few.start.tolist(), strict=True)) == [
        (0, 0), (0, 4), (1, 4), (2, 4),
    ]  # fmt: skip
    assert len(enumerate_clips(EPISODES, (0, 4), 2, most=100).start) == 9


@pytest.mark.parametrize("batch", [1, 2, 64])
@pytest.mark.parametrize("shown", [(0, 4), (4, 0), (0, 0), (1, 3, 0, 4)])
def test_video_holds_the_frames_in_the_order_shown(batch: int, shown: tuple[int, ...]) -> None:
    clips = CLIPS.shown(*shown)
    chunks = list(read_video(EPISODES, clips, "front", batch))
    assert max(map(len, chunks)) <= batch
    video = torch.cat(chunks)
    for i in (0, 4, 8):
        frames = clips.start[i] + np.array(shown)
        expected = EPISODES.read(int(clips.episode[i]), frames)["video"][:, 0]
        assert torch.equal(video[i], expected)


def test_subsets_are_seen_through_and_perturbed_pictures_are_not() -> None:
    inner = Subset(Subset(EPISODES, [2, 0]), [1])
    whole, keep = rooted(inner)
    assert whole is EPISODES
    assert keep.tolist() == [0]
    noisy = Perturbed(inner, "noise", 3.0)
    assert rooted(noisy)[0] is noisy
    assert rooted(Subset(noisy, [0]))[0] is noisy
