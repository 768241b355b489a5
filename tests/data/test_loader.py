import os
import signal
import time
from itertools import islice
from multiprocessing import active_children
from typing import Any

import numpy as np
import pytest
import torch

from saccade.data.loader import Loader, fixed_batches
from saccade.data.synthetic import Synthetic, SyntheticConfig
from saccade.data.synthetic_reach import ReachConfig
from saccade.data.transforms import Augment
from saccade.data.windows import ChunkWindow, PairWindow
from saccade.errors import ConfigError, DataError
from saccade.types import Clip

DATA = SyntheticConfig(episodes=5, length=8, image_size=16).build()  # 40 samples per epoch


def loader(**changes: object) -> Loader:
    settings = {"batch_size": 12, "seed": 3, **changes}
    return Loader(DATA, PairWindow(max_gap=3), "front", **settings)


def same(a: Clip, b: Clip) -> bool:
    tensors = ("video", "state", "action", "is_pad", "gap", "episode", "key")
    return all(torch.equal(a[name], b[name]) for name in tensors) and a["text"] == b["text"]


def test_workers_do_not_change_anything() -> None:
    alone = list(islice(loader(augment=Augment(jitter=0.3)).batches(0), 5))
    helped = list(islice(loader(augment=Augment(jitter=0.3), workers=2).batches(0), 5))
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


def test_every_sample_of_an_epoch_comes_once() -> None:
    rows = np.concatenate(list(islice(loader().rows(0), 10)))  # 120 rows are 3 epochs
    for epoch in range(3):
        own = rows[40 * epoch : 40 * epoch + 40]
        assert np.array_equal(own, PairWindow(max_gap=3).plan(DATA, 3, epoch))
    assert len(np.unique(rows[:, 3])) == 120


@pytest.mark.parametrize("step", [1, 3, 4, 7])
def test_resuming_is_starting_at_another_step(step: int) -> None:
    whole = list(islice(loader().rows(0), 9))
    resumed = list(islice(loader().rows(step), 9 - step))
    assert all(np.array_equal(a, b) for a, b in zip(whole[step:], resumed, strict=True))


def test_ranks_share_each_batch() -> None:
    whole = list(islice(loader().rows(0), 6))
    parts = [list(islice(loader(rank=rank, ranks=3).rows(0), 6)) for rank in range(3)]
    for step, batch in enumerate(whole):
        assert np.array_equal(batch, np.concatenate([part[step] for part in parts]))


def test_ranks_must_divide_the_batch() -> None:
    with pytest.raises(ConfigError, match="does not divide"):
        next(loader(ranks=5).batches(0))


def test_the_fixed_list_is_fixed() -> None:
    first = fixed_batches(DATA, PairWindow(), "front", samples=10, batch_size=4, seed=1)
    again = fixed_batches(DATA, PairWindow(), "front", samples=10, batch_size=4, seed=1)
    assert [len(clip["gap"]) for clip in first] == [4, 4, 2]
    assert all(same(a, b) for a, b in zip(first, again, strict=True))


def test_cameras_come_in_the_order_asked_for_and_vary_together() -> None:
    data = ReachConfig(episodes=4, length=6, image_size=16).build()
    window = ChunkWindow(chunk=2, every=1)
    batches = {
        names: next(Loader(data, window, names, 24, augment=Augment(margin=4)).batches(0))
        for names in ("agentview", ("agentview", "wrist"), ("wrist", "agentview"))
    }
    both = batches["agentview", "wrist"]["video"]
    assert both.shape == (24, 1, 2, 3, 12, 12)
    assert torch.equal(both.flip(2), batches["wrist", "agentview"]["video"])
    assert torch.equal(both[:, :, :1], batches["agentview"]["video"])
    plain = next(Loader(data, window, ("agentview", "wrist"), 24).batches(0))["video"]
    shifts = set()
    for one, whole in zip(both, plain, strict=True):
        found = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if torch.equal(one, whole[..., y : y + 12, x : x + 12])
        ]
        assert len(found) == 1, "one crop for both cameras"
        shifts |= set(found)
    assert len(shifts) > 5


def test_pictures_of_two_cameras_are_not_mirrored() -> None:
    data = ReachConfig(episodes=2, length=6).build()
    with pytest.raises(ConfigError, match=r"flip is 0\.5.*'agentview', 'wrist'"):
        next(
            Loader(
                data, PairWindow(max_gap=2), ("agentview", "wrist"), 2, augment=Augment(flip=0.5)
            ).batches(0)
        )


class Deadly(Synthetic):
    """Whoever reads a frame of this episode is sent a signal, or told of a fault (0)."""

    def __init__(self, episode: int, number: int) -> None:
        super().__init__(SyntheticConfig(episodes=5, length=8, image_size=16))
        self.episode, self.number = episode, number

    def pixels(self, episode: int, camera: str, frames: np.ndarray) -> torch.Tensor:
        if episode == self.episode:
            if not self.number:
                raise DataError("episode 2 is damaged; mend it")
            os.kill(os.getpid(), self.number)
        return super().pixels(episode, camera, frames)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGKILL, r"worker \d \(pid \d+\) was ended by SIGKILL while episodes \[.*2.*\]"),
        (signal.SIGSTOP, r"\(pid \d+, pid \d+\) gave no batch for 3 s while episodes \[.*2.*\]"),
        (0, r"^episode 2 is damaged; mend it$"),
    ],
)
def test_a_worker_that_is_gone_is_told_and_none_is_left(number: int, told: str) -> None:
    data = Deadly(2, number)
    settings: dict[str, Any] = {
        "batch_size": 4,
        "workers": 2,
        "timeout": 3.0 * (number == signal.SIGSTOP),
    }
    batches = Loader(data, PairWindow(max_gap=3), "front", **settings).batches(0)
    began = time.monotonic()
    with pytest.raises(DataError, match=told):
        list(islice(batches, 20))
    assert time.monotonic() - began < 20
    assert not active_children()


@pytest.mark.parametrize("prefetch", [1, 4])
def test_reading_further_ahead_changes_nothing(prefetch: int) -> None:
    alone = list(islice(loader().batches(0), 5))
    helped = list(islice(loader(workers=2, prefetch=prefetch).batches(0), 5))
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_another_sample_of_the_batch_stands_in_for_a_bad_one(workers: int) -> None:
    found = list[Any]()
    settings: dict[str, Any] = {"on_error": "skip", "most_bad": 0.5, "found_bad": found.append}
    window = PairWindow(max_gap=3)
    data = Loader(Deadly(2, 0), window, "front", 12, 3, workers=workers, **settings)
    clips = list(islice(data.batches(1), 4))
    for step, (clip, rows) in enumerate(zip(clips, data.rows(1), strict=False), start=2):
        bad = [i for i, row in enumerate(rows) if row[0] == 2]
        told = [each for each in found if each["step"] == step]
        assert [each["row"] for each in told] == rows[bad].tolist()
        assert all(each["error"] == "episode 2 is damaged; mend it" for each in told)
        for i, episode in enumerate(clip["episode"].tolist()):
            later = next(row for row in (*rows[i:], *rows[:i]) if row[0] != 2)
            assert episode == later[0] != 2
    assert len(found) > 4


def test_there_is_a_most_of_bad_samples() -> None:
    data = Loader(Deadly(2, 0), PairWindow(max_gap=3), "front", 12, 3, on_error="skip")
    with pytest.raises(DataError, match=r"could not be read, more than the 0.10% that may be; "):
        list(islice(data.batches(0), 4))


def test_a_batch_of_bad_samples_only_is_an_error() -> None:
    data = Loader(Deadly(2, 0), PairWindow(max_gap=3), "front", 1, 3, on_error="skip", most_bad=1.0)
    with pytest.raises(DataError, match=r"^episode 2 is damaged"):
        list(islice(data.batches(0), 40))
