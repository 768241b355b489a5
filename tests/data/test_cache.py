"""A cache gives the reader's frames, decodes each once, and survives a kill."""

import multiprocessing
import os
import pickle
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from saccade.data import cache
from saccade.data.cache import CachedEpisodes, fit
from saccade.data.episodes import Subset
from saccade.data.lerobot import LeRobotConfig
from saccade.data.synthetic import Synthetic, SyntheticConfig
from saccade.errors import DataError, SpaceError


class Counted(Synthetic):
    """Two cameras, and a count of the pictures that were drawn; optionally fatal."""

    cameras = ("front", "back")
    deadly = -1

    def __init__(self, config: SyntheticConfig) -> None:
        super().__init__(config)
        self.drawn = 0

    def read(self, episode, frames, cameras=None):
        names = self.cameras if cameras is None else cameras
        self.drawn += len(frames) * len(names)
        if self.drawn == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        found = super().read(episode, frames, names)
        for view, name in enumerate(names):
            if name == "back":
                found["video"][:, view] = 255 - found["video"][:, view]
        return found


@pytest.fixture
def reader() -> Counted:
    return Counted(SyntheticConfig(episodes=4, length=5))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*.u8"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_frames_are_the_readers(reader: Counted, tmp_path: Path) -> None:
    cached = CachedEpisodes(reader, tmp_path, size=32)
    order = np.array([4, 0, 0, 3])
    for names in (None, ("back",), ("back", "front")):
        expected = reader.read(2, order, names)
        reader.drawn = 0
        found = pickle.loads(pickle.dumps(cached)).read(2, order, names)
        assert reader.drawn == 0
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert cached.read(2, order, ())["video"].shape[:2] == (4, 0)
    assert np.array_equal(cached.timestamps(1), reader.timestamps(1))
    assert Subset(cached, [1]).tasks == [reader.tasks[1]]


def test_each_frame_is_decoded_once(reader: Counted, tmp_path: Path) -> None:
    steps = []
    CachedEpisodes(reader, tmp_path, 32, progress=lambda *step: steps.append(step))
    assert reader.drawn == 2 * 4 * 5
    assert steps == [(5 * i, 40) for i in range(1, 9)] + [(40, 40)]
    CachedEpisodes(reader, tmp_path, 32, progress=lambda *_: pytest.fail("nothing is left"))
    assert reader.drawn == 40


def test_only_the_chosen_cameras_are_decoded(reader: Counted, tmp_path: Path) -> None:
    cached = CachedEpisodes(reader, tmp_path, 32, cameras=("back",))
    assert reader.drawn == 4 * 5
    assert cached.cameras == ("back",)
    expected = reader.read(3, np.array([2]), ("back",))["video"]
    assert torch.equal(cached.read(3, np.array([2]))["video"], expected)
    CachedEpisodes(reader, tmp_path, 32)  # finds the camera that is there
    assert reader.drawn == 20 + 1 + 20


def test_the_key_is_data_set_camera_and_size(reader: Counted, tmp_path: Path) -> None:
    one = CachedEpisodes(reader, tmp_path, 32)
    smaller = CachedEpisodes(reader, tmp_path, 16)
    other = CachedEpisodes(Counted(SyntheticConfig(episodes=4, length=5, seed=1)), tmp_path, 32)
    assert len(list(tmp_path.iterdir())) == 6
    assert len({one.fingerprint, smaller.fingerprint, other.fingerprint}) == 3
    assert smaller.read(0, np.array([1]))["video"].shape == (1, 2, 3, 16, 16)


@pytest.mark.parametrize("deadly", [5, 15, 25, 40])
def test_a_killed_build_goes_on(reader: Counted, tmp_path: Path, deadly: int) -> None:
    CachedEpisodes(reader, tmp_path / "whole", 32)
    killed = Counted(reader.config)
    killed.deadly = deadly
    work = multiprocessing.get_context("fork").Process(
        target=CachedEpisodes, args=(killed, tmp_path / "killed", 32)
    )
    work.start()
    work.join()
    assert work.exitcode == -signal.SIGKILL
    again = Counted(reader.config)
    CachedEpisodes(again, tmp_path / "killed", 32)
    assert again.drawn == 40 - (deadly - 5)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize("name", ["frames.u8", "done.u8"])
@pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: raw + b"\1", None])
def test_a_file_of_the_wrong_size_is_rebuilt(reader: Counted, tmp_path: Path, name, change) -> None:
    CachedEpisodes(reader, tmp_path, 32)
    whole = contents(tmp_path)
    path = next(tmp_path.rglob(name))
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    CachedEpisodes(reader, tmp_path, 32)
    assert contents(tmp_path) == whole
    assert reader.drawn == 40 + 20


def test_two_processes_build_once(tmp_path: Path, reader: Counted) -> None:
    """The second waits, then finds everything done."""
    context = multiprocessing.get_context("fork")
    decoded = context.Queue()

    def work() -> None:
        own = Counted(reader.config)
        CachedEpisodes(own, tmp_path, 32)
        decoded.put(own.drawn)

    processes = [context.Process(target=work) for _ in range(3)]
    for process in processes:
        process.start()
    total = sum(decoded.get(timeout=20) for _ in processes)
    for process in processes:
        process.join()
    assert total == 40


def test_space_is_checked_before(
    reader: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=40 * 3 * 32 * 32 - 1)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SpaceError, match="frame cache needs"):
        CachedEpisodes(reader, tmp_path, 32)
    assert not list(tmp_path.iterdir())


def test_wrong_requests_are_refused(reader: Counted, tmp_path: Path) -> None:
    cached = CachedEpisodes(reader, tmp_path, 32)
    for frames in ([5], [-1]):  # would be frames of the neighbouring episode
        with pytest.raises(DataError, match="outside episode 1"):
            cached.read(1, np.array(frames))
    with pytest.raises(DataError, match=r"\['side'\] are not cached"):
        cached.read(0, np.array([0]), ("side",))


def test_caches_video(shared_data: Path, tmp_path: Path) -> None:
    data = LeRobotConfig(root=shared_data / "lerobot_v3_tiny", cameras=("wrist",)).build()
    cached = CachedEpisodes(data, tmp_path, 48)
    for episode, length in enumerate(data.lengths):
        frames = np.arange(length)
        expected = fit(data.read(episode, frames)["video"][:, 0], 48)
        assert torch.equal(cached.read(episode, frames)["video"][:, 0], expected)


def test_fit_keeps_the_aspect_and_does_not_alias() -> None:
    video = torch.randint(0, 256, (2, 3, 90, 160), dtype=torch.uint8)
    square = video[..., 35:125].float()
    exact = F.interpolate(square, (32, 32), mode="bilinear", antialias=True)
    found = fit(video, 32)
    assert (found.float() - exact).abs().max() <= 1
    assert torch.equal(fit(video, 90), video[..., 35:125])
    stripes = torch.tensor([0, 255], dtype=torch.uint8).repeat(32).expand(1, 3, 64, 64)
    inner = fit(stripes, 16)[..., 1:-1].float()
    assert (inner - 127.5).abs().max() < 2
    assert fit(video[..., :8, :8], 32).shape == (2, 3, 32, 32)
