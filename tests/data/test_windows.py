from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chisquare

from saccade.data.synthetic import Synthetic, SyntheticConfig
from saccade.data.windows import (
    ChunkWindow,
    ClipWindow,
    GapLaw,
    PairWindow,
    TransitionWindow,
    Window,
    gap_probabilities,
    stack,
)
from saccade.errors import ConfigError, DataError

DATA = SyntheticConfig(episodes=6, length=20).build()
WINDOWS = [
    PairWindow(max_gap=5),
    ClipWindow(num_frames=4, stride=2),
    TransitionWindow(gap=3),
    ChunkWindow(history=3, chunk=6),
]


def row(start: int, gap: int, episode: int = 0) -> np.ndarray:
    return np.array([episode, start, gap, 7])


class Jittered(Synthetic):
    """A camera that records at 10 Hz, unevenly, and pauses for a second after frame 9."""

    def timestamps(self, episode: int) -> np.ndarray:
        even = np.arange(self.lengths[episode]) / 10
        return even + 0.02 * np.sin(np.arange(len(even))) + (np.arange(len(even)) > 9) * 1.0


def test_published_probabilities() -> None:
    exponential = [0.551, 0.248, 0.111, 0.050, 0.023, 0.010, 0.005, 0.002, 0.001, 0.000]
    np.testing.assert_allclose(gap_probabilities("exponential", 10, 0.8), exponential, atol=1e-3)
    np.testing.assert_allclose(gap_probabilities("linear", 3), [1 / 6, 2 / 6, 3 / 6])
    np.testing.assert_allclose(gap_probabilities("uniform", 4), [0.25] * 4)
    triangular = np.array([0.5, 1.0, 0.5, 0.01])
    np.testing.assert_allclose(gap_probabilities("triangular", 4), triangular / triangular.sum())


@pytest.mark.parametrize("law", ["exponential", "uniform", "linear", "triangular"])
def test_gaps_follow_the_law(law: GapLaw) -> None:
    window = PairWindow(max_gap=5, law=law, per_episode=500)
    drawn = Counter(window.plan(DATA, seed=0, epoch=0)[:, 2].tolist())
    expected = 3000 * gap_probabilities(law, 5, window.sample_decay)
    assert chisquare([drawn[k] for k in range(1, 6)], expected).pvalue > 0.01


@pytest.mark.parametrize("window", WINDOWS)
def test_a_plan_is_a_function_of_seed_and_epoch(window: Window) -> None:
    first = window.plan(DATA, seed=1, epoch=2)
    assert np.array_equal(first, window.plan(DATA, seed=1, epoch=2))
    assert not np.array_equal(first, window.plan(DATA, seed=1, epoch=3))
    assert not np.array_equal(first, window.plan(DATA, seed=2, epoch=2))
    assert len(np.unique(first[:, 3])) == len(first)
    assert Counter(first[:, 0].tolist()) == dict.fromkeys(range(6), 20)


@pytest.mark.parametrize("window", WINDOWS)
def test_every_window_stays_inside_its_episode(window: Window) -> None:
    for episode, start, gap, _ in window.plan(DATA, seed=0, epoch=0).tolist():
        frames = start + window.frame_steps(gap)
        assert frames.max() < DATA.lengths[episode]
        assert start >= 0


def test_starts_cover_all_positions_alike() -> None:
    starts = PairWindow(max_gap=1, per_episode=2000).plan(DATA, seed=0, epoch=0)[:, 1]
    assert chisquare(np.bincount(starts, minlength=19)).pvalue > 0.01


def test_short_episodes_fall_back_to_the_smallest_gap() -> None:
    short = SyntheticConfig(episodes=3, length=3).build()
    plan = PairWindow(max_gap=10, law="linear", per_episode=100).plan(short, seed=0, epoch=0)
    assert set(plan[:, 2]) == {1, 2}
    alone = SyntheticConfig(episodes=3, length=1).build()
    with pytest.raises(DataError, match="no episode is as long"):
        PairWindow().plan(alone, seed=0, epoch=0)


def test_a_pair_is_two_frames_and_the_commands_in_between() -> None:
    clip = PairWindow(max_gap=4).read(DATA, row(start=5, gap=3, episode=2))
    assert clip["state"].numpy().tolist() == DATA.state[2, [5, 8]].tolist()
    assert clip["action"].numpy().tolist() == DATA.action[2, 5:9].tolist()
    assert clip["gap"] == 3
    assert clip["key"] == 7
    assert clip["text"] == DATA.tasks[2]


def test_chunks_clamp_and_mark_what_is_past_the_end() -> None:
    clip = ChunkWindow(history=2, chunk=4).read(DATA, row(start=18, gap=0))
    assert clip["is_pad"].tolist() == [False, False, True, True]
    assert clip["action"].numpy().tolist() == DATA.action[0, [18, 19, 19, 19]].tolist()
    first = ChunkWindow(history=3).read(DATA, row(start=1, gap=0))
    assert first["state"].numpy().tolist() == DATA.state[0, [0, 0, 1]].tolist()


def test_seconds_are_resolved_by_timestamps() -> None:
    window = ClipWindow(num_frames=3, stride=1, step_seconds=0.4)
    frames, beyond = window.resolve(DATA, 0, 2, window.frame_steps(2))
    assert frames.tolist() == [2, 6, 10]
    assert not beyond.any()
    counts = window.starts(DATA, np.array([2])).counts
    assert counts.tolist() == [[12]] * 6  # 0.8 s are 8 frames of 10 Hz


def test_uneven_clocks_give_the_nearest_frame_and_holes_are_errors() -> None:
    uneven = Jittered(SyntheticConfig(episodes=1, length=20))
    window = ClipWindow(num_frames=3, stride=1, step_seconds=0.2)
    assert window.resolve(uneven, 0, 1, window.frame_steps(2))[0].tolist() == [1, 3, 5]
    with pytest.raises(DataError, match="hole"):
        window.resolve(uneven, 0, 8, window.frame_steps(2))


class Recorded(Synthetic):
    """A robot of 15 Hz whose frames are up to 8 ms late; episode 1 lost three frames in a row."""

    asked = 0

    def timestamps(self, episode: int) -> np.ndarray:
        self.asked += 1
        number = np.arange(self.lengths[episode])
        number = number + 3 * (number > 40) * (episode == 1)
        return number / 15 + 0.004 * (1 + np.sin(2.6 * np.arange(len(number))))


@pytest.mark.parametrize(
    "window",
    [
        ClipWindow(num_frames=5, step_seconds=0.25),
        ClipWindow(num_frames=5, step_seconds=0.25, every=4),
        PairWindow(max_gap=6, step_seconds=0.1, law="uniform"),
        ChunkWindow(history=3, chunk=9, step_seconds=0.25),
    ],
)
def test_a_late_clock_gives_the_nearest_frames_and_plans_avoid_holes(window: Window) -> None:
    data = Recorded(SyntheticConfig(episodes=2, length=90))
    data.fps = 15.0
    plan = window.plan(data, seed=0, epoch=0)
    assert data.asked == 2, "once per episode, however many gaps there are"
    for episode, start, gap, _ in plan.tolist():
        times = data.timestamps(episode)
        for steps in (window.frame_steps(gap), window.action_steps(gap)):
            frames, beyond = window.resolve(data, episode, start, steps)
            off = np.abs(times[start] + steps * window.step_seconds - times[:, None])
            assert (off[frames, np.arange(len(steps))] == off.min(0)).all()
            assert (off.min(0)[~beyond] <= 0.05).all()  # 0.75 of 1/15 s
    starts = set(plan[plan[:, 0] == 1, 1].tolist())
    assert min(starts) < 41 <= max(starts), "on both sides of the hole"


def test_what_reaches_into_a_hole_is_refused() -> None:
    data = Recorded(SyntheticConfig(episodes=2, length=90))
    data.fps = 15.0
    window = TransitionWindow(step_seconds=0.13)
    assert [1, 40] not in window.plan(data, 0, 0)[:, :2].tolist()
    with pytest.raises(DataError, match=r"episode 1 has a hole: .* 0\.130 s away from 2\.799 s"):
        window.read(data, row(start=40, gap=1, episode=1))


def test_where_holes_are_everywhere_there_is_no_plan() -> None:
    data = Recorded(SyntheticConfig(episodes=2, length=42))
    data.lengths = [0, 42]
    data.fps = 15.0
    with pytest.raises(DataError, match=r"\(14 steps of 0.25 s, without a hole\)"):
        ClipWindow(num_frames=14, step_seconds=0.25).plan(data, 0, 0)


def test_a_pair_needs_a_gap() -> None:
    with pytest.raises(ConfigError, match="max_gap is 0"):
        PairWindow(max_gap=0).plan(DATA, seed=0, epoch=0)


@pytest.mark.parametrize(
    ("lengths", "starts"),
    [
        ([40], [(0, 0), (0, 8), (0, 16), (0, 24)]),  # 24 + 16 = 40
        ([39], [(0, 0), (0, 8), (0, 16)]),
        ([16, 15, 0, 24], [(0, 0), (3, 0), (3, 8)]),
    ],
)
def test_half_of_a_clip_is_the_next_ones(lengths: list[int], starts: list[tuple[int, int]]) -> None:
    data = Synthetic(SyntheticConfig(episodes=len(lengths), length=40))
    data.lengths = lengths
    window = ClipWindow(num_frames=16, every=8)
    plan = window.plan(data, seed=0, epoch=0)
    assert sorted(map(tuple, plan[:, :2].tolist())) == starts
    assert set(plan[:, 2]) == {15}
    again = window.plan(data, seed=0, epoch=0)
    assert np.array_equal(plan, again)
    other = window.plan(data, seed=0, epoch=1)
    assert not np.array_equal(plan, other)
    assert sorted(map(tuple, other[:, :2].tolist())) == starts


def test_clips_at_every_nth_frame_are_shuffled() -> None:
    data = SyntheticConfig(episodes=20, length=40).build()
    plan = ClipWindow(num_frames=16, every=8).plan(data, seed=0, epoch=0)
    assert len(plan) == 80
    assert not (np.diff(plan[:, 0]) >= 0).all()
    seconds = ClipWindow(num_frames=4, stride=1, step_seconds=0.2, every=4)
    assert len(seconds.plan(data, 0, 0)) == 20 * 9  # at 10 Hz 34 starts fit


def test_every_and_per_episode_exclude_each_other() -> None:
    for window in (ClipWindow(every=8, per_episode=2), ClipWindow(every=-1)):
        with pytest.raises(ConfigError, match="set one of them"):
            window.plan(DATA, 0, 0)
    with pytest.raises(DataError, match=r"shortest window \(32 steps\).* has 20 frames"):
        ClipWindow(num_frames=32, every=8).plan(DATA, 0, 0)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("step_seconds", [0.0, 0.1])
def test_empty_episodes_give_no_samples(window: Window, step_seconds: float) -> None:
    data = Synthetic(SyntheticConfig(episodes=4, length=20))
    data.lengths = [0, 20, 0, 20]
    window = replace(window, step_seconds=step_seconds)
    plan = window.plan(data, 0, 0)
    assert set(plan[:, 0]) == {1, 3}
    assert all(window.read(data, row)["video"].shape[1] == 1 for row in plan)
    data.lengths = [0, 0, 0, 0]
    with pytest.raises(DataError, match="longest of 4 has 0 frames"):
        window.plan(data, 0, 0)


def test_stack_adds_an_axis() -> None:
    window = PairWindow(max_gap=4)
    batch = stack([window.read(DATA, row(start=i, gap=i + 1)) for i in range(3)])
    assert batch["video"].shape == (3, 2, 1, 3, 32, 32)
    assert batch["gap"].tolist() == [1, 2, 3]
    assert batch["text"] == [DATA.tasks[0]] * 3


def library(*lengths: int) -> Synthetic:
    data = Synthetic(SyntheticConfig(episodes=len(lengths), length=max(lengths)))
    data.lengths = list(lengths)
    return data


def test_every_start_of_a_whole_chunk_comes_once() -> None:
    """LIBERO-Object's 500 demonstrations of 74,507 steps give 74,507 - 500 * 9 = 70,007."""
    lengths = (20, 9, 10, 31, 0)
    data, window = library(*lengths), ChunkWindow(chunk=10, every=1, tail="drop")
    plan = window.plan(data, 0, 0)
    expected = [(e, t) for e, n in enumerate(lengths) for t in range(n - 9)]
    assert sorted(map(tuple, plan[:, :2].tolist())) == expected
    assert len(plan) == sum(n - 9 for n in lengths if n > 9)
    assert not any(window.read(data, row)["is_pad"].any() for row in plan)
    padded = replace(window, tail="pad")
    assert len(padded.plan(data, 0, 0)) == sum(lengths)
    marked = sum(int(padded.read(data, row)["is_pad"].sum()) for row in padded.plan(data, 0, 0))
    assert marked == sum(max(0, t + 10 - n) for n in lengths for t in range(n))
    with pytest.raises(DataError, match=r"shortest window \(10 steps\)"):
        window.plan(library(9, 8), 0, 0)


def test_dropped_tails_are_not_drawn_either_nor_by_time() -> None:
    window = ChunkWindow(chunk=5, tail="drop", per_episode=200)
    assert set(window.plan(library(8), 0, 0)[:, 1]) == {0, 1, 2, 3}
    window = ChunkWindow(chunk=3, tail="drop", step_seconds=0.2, every=1)  # two frames each
    assert sorted(window.plan(library(8), 0, 0)[:, 1]) == [0, 1, 2, 3]


def test_transitions_are_listed_too() -> None:
    plan = TransitionWindow(gap=2, every=1).plan(library(5, 2, 3), 0, 0)
    assert sorted(map(tuple, plan[:, :2].tolist())) == [(0, 0), (0, 1), (0, 2), (2, 0)]


def test_each_moment_of_a_history_can_have_its_commands() -> None:
    window = ChunkWindow(history=3, stride=2, chunk=4, past_actions=True)
    clip = window.read(DATA, row(start=9, gap=0, episode=1))
    assert clip["action"].numpy().tolist() == DATA.action[1, 5:13].tolist()
    for moment, frame in enumerate((5, 7, 9)):
        assert clip["state"][moment].tolist() == DATA.state[1, frame].tolist()
        own = clip["action"][2 * moment : 2 * moment + 4]
        assert own.tolist() == DATA.action[1, frame : frame + 4].tolist()
    early = window.read(DATA, row(start=1, gap=0))
    assert early["is_pad"].tolist() == [True] * 3 + [False] * 5
    assert len(ChunkWindow(history=3, chunk=4).action_steps(0)) == 4
