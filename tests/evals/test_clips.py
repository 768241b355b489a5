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


UNEVEN = SyntheticConfig(episodes=1, length=9).build()
UNEVEN.lengths = [20 + i % 9 for i in range(50)] + [3]  # numbers are all that is asked of it


def starts(gap: int, most: int) -> set[tuple[int, int]]:
    clips = enumerate_clips(UNEVEN, (0, gap), 2, most)
    listed = list(zip(clips.episode.tolist(), clips.start.tolist(), strict=True))
    assert listed == sorted(set(listed))
    return set(listed)


@pytest.mark.parametrize("gap", [1, 5, 10])
@pytest.mark.parametrize("most", [1, 30, 50, 120, 10_000])
def test_thinning_takes_as_much_of_one_episode_as_of_another(gap: int, most: int) -> None:
    every, few = starts(gap, 0), starts(gap, most)
    assert few <= every
    assert len(few) == min(most, len(every))
    counts = np.bincount([e for e, _ in few], minlength=51)
    reached = np.bincount([e for e, _ in every], minlength=51)
    level = counts.max()
    assert (counts >= np.minimum(reached, level - 1)).all()  # one clip more or less


def test_thinned_clips_lie_anywhere_in_their_episodes() -> None:
    first = np.array([start for _, start in starts(1, 50)])  # one of each
    assert np.histogram(first, (0, 5, 10, 15, 20))[0].min() >= 8
    for each, apart in ((2, 6), (3, 4)):  # in steps; neighbours on the grid are 2 apart
        some = [sorted(s for e, s in starts(1, 50 * each + 1) if e == one) for one in range(50)]
        assert min(min(np.diff(found)) for found in some) == apart


def test_gaps_and_probes_of_fewer_clips_share_first_frames() -> None:
    for most in (30, 50, 120):
        for short, long in ((1, 5), (5, 10), (1, 10)):
            assert starts(short, most) & starts(long, 0) <= starts(long, most)
        assert starts(5, most // 6) <= starts(5, most // 2) <= starts(5, most)


@pytest.mark.parametrize("batch", [1, 2, 64])
@pytest.mark.parametrize("shown", [(0, 4), (4, 0), (0, 0), (1, 3, 0, 4)])
def test_video_holds_the_frames_in_the_order_shown(batch: int, shown: tuple[int, ...]) -> None:
    clips = CLIPS.shown(*shown)
    chunks = list(read_video(EPISODES, clips, "front", batch))
    assert {len(chunk) for chunk in chunks[:-1]} <= {batch}
    assert len(chunks[-1]) <= batch
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
