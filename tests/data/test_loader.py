from itertools import islice

import numpy as np
import pytest
import torch

from saccade.data.loader import Loader, fixed_batches
from saccade.data.synthetic import SyntheticConfig
from saccade.data.synthetic_reach import ReachConfig
from saccade.data.transforms import Augment
from saccade.data.windows import ChunkWindow, PairWindow
from saccade.errors import ConfigError
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
