"""Kept features are the encoder's, each frame is encoded once, and a kill loses little."""

import multiprocessing
import os
import pickle
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from saccade.data.cache import build as cache_build
from saccade.data.cache import features as features_cache
from saccade.data.cache import store
from saccade.data.cache.features import FeaturedEpisodes, FeatureStore, Precision
from saccade.data.episodes import Subset
from saccade.data.loader import Loader, fixed_batches
from saccade.data.synthetic import SyntheticConfig
from saccade.data.windows import ClipWindow
from saccade.errors import DataError, NumericError, SpaceError

LENGTHS = [5, 0, 4, 6]
SHAPE = (4, 6)


class Encoder:
    """Four tokens of six numbers, a count of frames, and perhaps a sudden end."""

    def __init__(self, deadly: int = -1, scale: float = 1.0) -> None:
        self.frames, self.deadly, self.scale = 0, deadly, scale

    def __call__(self, video: Tensor) -> Tensor:
        self.frames += len(video)
        if self.frames == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        corners = video.float()[:, :, ::16, ::16].flatten(2).mT  # [b, 4, 3]
        return torch.cat([corners, corners.sin()], -1) * self.scale


@pytest.fixture
def world():
    episodes = SyntheticConfig(episodes=4, length=6).build()
    episodes.lengths = LENGTHS
    return episodes


@pytest.fixture(autouse=True)
def _every_frame_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_build, "SETTLE", -1.0)
    monkeypatch.setattr(features_cache, "BATCH", 2)


def kept(folder: Path, precision: Precision = "float32") -> FeatureStore:
    return FeatureStore(folder, LENGTHS, SHAPE, precision)


def test_features_are_the_encoders(world, tmp_path: Path) -> None:
    made = kept(tmp_path / "a")
    made.complete(world, "front", [0, 2, 3], Encoder())
    order = np.array([3, 0, 0, 2])
    for episode in (0, 2, 3):
        expected = Encoder()(world.read(episode, order)["video"][:, 0])
        assert torch.equal(made.read(episode, order), expected)
        assert torch.equal(pickle.loads(pickle.dumps(made)).read(episode, order), expected)


@pytest.mark.parametrize(("precision", "error"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_half_the_space_and_the_nearest_numbers(
    world, tmp_path: Path, precision: Precision, error: float
) -> None:
    exact, half = kept(tmp_path / "a"), kept(tmp_path / "b", precision)
    for made in (exact, half):
        made.complete(world, "front", [3], Encoder())
    found, expected = (made.read(3, np.arange(6)) for made in (half, exact))
    assert found.dtype == getattr(torch, precision)
    torch.testing.assert_close(found.float(), expected, rtol=error, atol=0)
    assert half.store.row_bytes == exact.store.row_bytes // 2


def test_only_what_is_missing_is_encoded(world, tmp_path: Path) -> None:
    encoder, told = Encoder(), []
    kept(tmp_path / "a").complete(world, "front", [2], encoder, told.append)
    assert encoder.frames == 4
    again = kept(tmp_path / "a")
    assert again.missing([0, 2]) == [0, 1, 2, 3, 4]
    again.complete(world, "front", [0, 1, 2], encoder, told.append)
    assert encoder.frames == 4 + 5
    kept(tmp_path / "a").complete(world, "front", [0, 2], encoder, told.append)
    assert encoder.frames == 4 + 5
    assert [text.partition(" will take")[0] for text in told] == [
        "features of 4 frames",
        "features of 5 frames",
    ]
    assert "(float32, 0.096 kB each)" in told[0]


@pytest.mark.parametrize("deadly", [2, 6, 14])
def test_a_killed_build_goes_on(world, tmp_path: Path, deadly: int) -> None:
    members = [0, 2, 3]
    kept(tmp_path / "whole").complete(world, "front", members, Encoder())
    work = multiprocessing.get_context("fork").Process(
        target=kept(tmp_path / "killed").complete, args=(world, "front", members, Encoder(deadly))
    )
    work.start()
    work.join()
    assert work.exitcode == -signal.SIGKILL
    encoder, again = Encoder(), kept(tmp_path / "killed")
    again.complete(world, "front", members, encoder)
    assert encoder.frames == 15 - (deadly - 2)
    for name in ("rows.bin", "done.u64"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_two_processes_encode_once(world, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    counts = context.Queue()

    def work() -> None:
        encoder = Encoder()
        kept(tmp_path / "a").complete(world, "front", [0, 2, 3], encoder)
        counts.put(encoder.frames)

    processes = [context.Process(target=work) for _ in range(3)]
    for process in processes:
        process.start()
    total = sum(counts.get(timeout=20) for _ in processes)
    for process in processes:
        process.join()
    assert total == 15


def test_a_changed_byte_is_an_error_that_names_the_frame(world, tmp_path: Path) -> None:
    kept(tmp_path / "a").complete(world, "front", [0, 2], Encoder())
    path = tmp_path / "a" / "rows.bin"
    raw = bytearray(path.read_bytes())
    raw[(5 + 2) * 96 + 50] ^= 1  # frame 2 of episode 2; episode 1 is empty
    path.write_bytes(raw)
    damaged = kept(tmp_path / "a")
    damaged.read(2, np.array([0, 1, 3]))
    with pytest.raises(DataError, match=r"frame 2 of episode 2 in .*rows\.bin have not the check"):
        damaged.read(2, np.array([1, 2]))


def test_a_file_that_was_cut_is_built_again(world, tmp_path: Path) -> None:
    kept(tmp_path / "a").complete(world, "front", [2], Encoder())
    path, encoder = tmp_path / "a" / "rows.bin", Encoder()
    os.truncate(path, path.stat().st_size - 1)
    again = kept(tmp_path / "a")
    again.complete(world, "front", [2], encoder)
    assert encoder.frames == 4
    again.read(2, np.arange(4))


def test_space_is_checked_before(world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, usage = Encoder(), shutil.disk_usage(tmp_path)._replace(free=4 * 96 - 1)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SpaceError, match=r"feature cache needs .* a precision of half"):
        kept(tmp_path / "a").complete(world, "front", [2], encoder)
    kept(tmp_path / "b", "float16").complete(world, "front", [2], encoder)  # half of it fits
    assert encoder.frames == 4


def test_features_that_are_not_finite_are_refused(world, tmp_path: Path) -> None:
    huge = Encoder(scale=1e4)
    kept(tmp_path / "a", "bfloat16").complete(world, "front", [2], huge)
    with pytest.raises(NumericError, match=r"frame 0 of episode 2 are not finite in float16"):
        kept(tmp_path / "b", "float16").complete(world, "front", [2], huge)
    with pytest.raises(NumericError, match="in float32"):
        kept(tmp_path / "c").complete(world, "front", [2], Encoder(scale=float("nan")))


def test_samples_have_features_and_no_pixels(world, tmp_path: Path) -> None:
    made, window = kept(tmp_path / "a"), ClipWindow(num_frames=3)
    made.complete(world, "front", [0, 3], Encoder())
    plain = Subset(world, [0, 3])
    episodes = Subset(FeaturedEpisodes(world, [0, 3], made), [0, 1])
    world.pixels = lambda *_: pytest.fail("a pixel was read")
    for rank in range(2):
        batch = next(Loader(episodes, window, "front", 4, rank=rank, ranks=2).batches(3))
        rows = next(Loader(plain, window, "front", 4, rank=rank, ranks=2).rows(3))
        assert batch["video"].shape[:3] == (2, 3, 0)
        for sample, (episode, start, _, key) in zip(batch.get("features", ()), rows, strict=True):
            frames = np.arange(start, start + 3)
            assert torch.equal(sample, made.read([0, 3][episode], frames))
            assert key in batch["key"]
        assert "features" in batch


def test_fixed_batches_are_read_when_asked_for(world, tmp_path: Path) -> None:
    made = kept(tmp_path / "a")
    made.complete(world, "front", [0, 3], Encoder())
    episodes = FeaturedEpisodes(world, [0, 3], made)
    batches = fixed_batches(episodes, ClipWindow(num_frames=3), "front", 10, 4, seed=0)
    assert [len(clip["gap"]) for clip in batches] == [4, 4, 2]
    assert torch.equal(batches[1::2][0]["key"], batches[1]["key"])
    assert torch.equal(batches[2]["key"], list(batches)[2]["key"])


def test_rounded_features_are_other_data(world, tmp_path: Path) -> None:
    exact, half = kept(tmp_path / "a"), kept(tmp_path / "b", "float16")
    assert FeaturedEpisodes(world, [0], exact).fingerprint == Subset(world, [0]).fingerprint
    assert FeaturedEpisodes(world, [0], half).fingerprint.endswith("~float16")
