"""A cache gives the reader's frames, decodes each once, and survives a kill."""

import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from saccade.data.cache import build as cache_build
from saccade.data.cache import store
from saccade.data.cache.reader import CachedEpisodes
from saccade.data.episodes import Subset
from saccade.data.lerobot.reader import LeRobotConfig
from saccade.data.loader import Loader
from saccade.data.synthetic import Synthetic, SyntheticConfig
from saccade.data.transforms import Framing, fit, shortest_edge_crop
from saccade.data.windows import ClipWindow
from saccade.errors import DataError, SpaceError


class Counted(Synthetic):
    """Two cameras, and a count of the pictures that were drawn; optionally fatal."""

    cameras = ("front", "back")
    deadly = -1

    def __init__(self, config: SyntheticConfig) -> None:
        super().__init__(config)
        self.drawn = 0

    def pixels(self, episode, camera, frames):
        self.drawn += len(frames)
        if self.drawn == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        found = super().pixels(episode, camera, frames)
        return 255 - found if camera == "back" else found


class Patchy(Synthetic):
    """Episode 1 is empty, 2 has no camera ``back``, frame 3 of ``front`` in 3 is broken."""

    cameras = ("front", "back")

    def __init__(self) -> None:
        super().__init__(SyntheticConfig(episodes=6, length=5))
        self.lengths = [5, 0, 5, 5, 4, 5]

    def cameras_of(self, episode):
        return ("front",) if episode == 2 else self.cameras

    def pixels(self, episode, camera, frames):
        if (episode, camera) == (3, "front") and 3 in frames:
            raise DataError("frame 3 of episode 3 is torn")
        return super().pixels(episode, camera, frames)


class Deadly(Synthetic):
    """Kills the process that decodes episode 2, until a file says that it need not."""

    def __init__(self, config: SyntheticConfig, file: Path) -> None:
        super().__init__(config)
        self.file = file

    def pixels(self, episode, camera, frames):
        if episode == 2 and not self.file.exists():
            self.file.touch()
            time.sleep(0.5)  # let the other process get on
            os.kill(os.getpid(), signal.SIGKILL)
        return super().pixels(episode, camera, frames)


class Slow(Synthetic):
    """Takes a while."""

    def pixels(self, episode, camera, frames):
        time.sleep(0.05)
        return super().pixels(episode, camera, frames)


@pytest.fixture
def reader() -> Counted:
    return Counted(SyntheticConfig(episodes=4, length=5))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*.u*"))
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
    assert steps == [(5 * i, 40) for i in range(9)]
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
def test_a_killed_build_goes_on(
    reader: Counted, tmp_path: Path, deadly: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_build, "SETTLE", -1.0)  # bring every episode to the disk at once
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


@pytest.mark.parametrize("name", ["frames.u8", "done.u64"])
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
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SpaceError, match="frame cache needs"):
        CachedEpisodes(reader, tmp_path, 32)
    assert not list(tmp_path.iterdir())


def test_wrong_requests_are_refused(reader: Counted, tmp_path: Path) -> None:
    cached = CachedEpisodes(reader, tmp_path, 32)
    for frames in ([5], [-1]):  # would be frames of the neighbouring episode
        with pytest.raises(DataError, match="outside episode 1"):
            cached.read(1, np.array(frames))
    with pytest.raises(DataError, match=r"no cameras \['side'\]"):
        cached.read(0, np.array([0]), ("side",))


def test_caches_video(shared_data: Path, tmp_path: Path) -> None:
    data = LeRobotConfig(root=shared_data / "lerobot_v3_tiny", cameras=("wrist",)).build()
    cached = CachedEpisodes(data, tmp_path, 48)
    for episode, length in enumerate(data.lengths):
        frames = np.arange(length)
        expected = fit(data.read(episode, frames)["video"][:, 0], 48)
        assert torch.equal(cached.read(episode, frames)["video"][:, 0], expected)


def test_workers_write_the_same_bytes(tmp_path: Path) -> None:
    data = SyntheticConfig(episodes=5, length=4).build()
    CachedEpisodes(data, tmp_path / "alone", 24)
    CachedEpisodes(data, tmp_path / "many", 24, workers=2)
    assert contents(tmp_path / "many") == contents(tmp_path / "alone")


def test_a_killed_worker_is_an_error_and_the_rest_is_kept(tmp_path: Path) -> None:
    config = SyntheticConfig(episodes=6, length=4)
    data = Deadly(config, tmp_path / "killed once")
    with pytest.raises(DataError, match=r"frames\.u8 was killed.* run again to go on"):
        CachedEpisodes(data, tmp_path / "killed", 24, workers=2)
    CachedEpisodes(data, tmp_path / "killed", 24)
    CachedEpisodes(data, tmp_path / "whole", 24)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_killed_parent_leaves_no_worker_and_a_cache_that_can_go_on(tmp_path: Path) -> None:
    script = tmp_path / "build.py"
    script.write_text(
        "from pathlib import Path\n"
        "from saccade.data.cache import build as cache_build\n"
        "from saccade.data.cache.reader import CachedEpisodes\n"
        "from saccade.data.synthetic import SyntheticConfig\n"
        "from tests.data.cache.test_reader import Slow\n"
        "if __name__ == '__main__':\n"
        "    cache_build.SETTLE = -1.0\n"
        "    data = Slow(SyntheticConfig(episodes=40, length=3))\n"
        f"    CachedEpisodes(data, Path({str(tmp_path / 'killed')!r}), 24, workers=2)\n"
    )
    root = Path(__file__).parents[3]
    building = subprocess.Popen(
        [sys.executable, script], env=os.environ | {"PYTHONPATH": str(root)}, start_new_session=True
    )

    def marked() -> int:
        marks = next(tmp_path.rglob("done.u64"), None)
        return 0 if marks is None else int(np.count_nonzero(np.fromfile(marks, "<u8")))

    deadline = time.monotonic() + 30
    while marked() < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    building.kill()
    building.wait()
    assert 5 <= marked() < 40
    data = Slow(SyntheticConfig(episodes=40, length=3))
    CachedEpisodes(data, tmp_path / "killed", 24)  # does not wait for the dead one's lock
    CachedEpisodes(SyntheticConfig(episodes=40, length=3).build(), tmp_path / "whole", 24)
    assert sorted(contents(tmp_path / "killed").values()) == sorted(
        contents(tmp_path / "whole").values()
    )
    alive = ""
    while time.monotonic() < deadline:  # the session's id is the dead parent's
        alive = subprocess.run(
            ["ps", "-o", "pid=,stat=", "-s", str(building.pid)], capture_output=True, text=True
        ).stdout
        if not [line for line in alive.splitlines() if "Z" not in line]:
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"processes outlived their parent: {alive}")


def test_what_is_missing_or_broken_is_left_out(tmp_path: Path) -> None:
    data = Patchy()
    with pytest.raises(DataError, match="frame 3 of episode 3 is torn"):
        CachedEpisodes(data, tmp_path, 32)
    with pytest.raises(DataError, match="1 of 6 episodes are broken, more than"):
        CachedEpisodes(data, tmp_path, 32, on_error="skip")
    cached = CachedEpisodes(data, tmp_path, 32, on_error="skip", most_skipped=0.2)
    assert cached.skipped == {"episode 3, camera front": "frame 3 of episode 3 is torn"}
    seen = [cached.cameras_of(i) for i in range(6)]
    both = ("front", "back")
    assert seen == [both, both, ("front",), ("back",), both, both]
    with pytest.raises(DataError, match=r"no cameras \['front'\]"):
        cached.read(3, np.array([0]), ("front",))
    for episode in (0, 2, 4):
        order = np.arange(data.lengths[episode])[::-1].copy()
        expected = data.read(episode, order, ("front",))["video"]
        assert torch.equal(cached.read(episode, order, ("front",))["video"], expected)
    whole = Subset(cached, [i for i in range(6) if "front" in cached.cameras_of(i)])
    batch = next(Loader(whole, ClipWindow(num_frames=2, every=1), "front", 4).batches(0))
    assert batch["video"].shape == (4, 2, 1, 3, 32, 32)


def test_nothing_can_be_cached(tmp_path: Path) -> None:
    data = SyntheticConfig(episodes=2, length=5).build()
    data.lengths = [0, 0]
    cached = CachedEpisodes(data, tmp_path, 32)
    assert cached.read(1, np.arange(0))["video"].shape == (0, 1, 3, 32, 32)
    CachedEpisodes(data, tmp_path, 32, progress=lambda *_: pytest.fail("nothing is left"))


def test_a_changed_byte_is_an_error(reader: Counted, tmp_path: Path) -> None:
    cached = CachedEpisodes(reader, tmp_path, 32)
    cached.verify()
    path = cached.folders["back"] / "frames.u8"
    raw = bytearray(path.read_bytes())
    raw[2 * 5 * 3 * 32 * 32 + 100] ^= 1  # in episode 2
    path.write_bytes(raw)
    again = CachedEpisodes(reader, tmp_path, 32)
    again.read(1, np.array([4]))
    again.read(2, np.array([0]), ("front",))
    for use in (lambda: again.read(2, np.array([4]), ("back",)), again.verify):
        with pytest.raises(DataError, match=r"episode 2 in .*frames\.u8 have not the checksum"):
            use()
    shutil.rmtree(cached.folders["back"])
    CachedEpisodes(reader, tmp_path, 32).verify()


def test_an_edge_can_be_cropped(tmp_path: Path) -> None:
    data = SyntheticConfig(episodes=2, length=5, image_size=48).build()
    cached = CachedEpisodes(data, tmp_path, Framing(size=32, edge=40))
    expected = shortest_edge_crop(data.pixels(1, "front", np.arange(5)), 40, 32)
    assert torch.equal(cached.pixels(1, "front", np.arange(5)), expected)
    plain = CachedEpisodes(data, tmp_path, 32)
    assert plain.fingerprint != cached.fingerprint
    assert plain.folders != cached.folders
    assert cached.size_on_disk >= 2 * 5 * 3 * 32 * 32


@pytest.mark.parametrize("framing", [Framing(size=32), Framing(size=32, edge=40)])
def test_a_camera_matrix_follows_its_pixels(tmp_path: Path, framing: Framing) -> None:
    """A bright spot of the picture stays where the matrix projects it."""

    class Spot(Synthetic):
        def pixels(self, episode, camera, frames):
            video = torch.zeros(len(frames), 3, 90, 160, dtype=torch.uint8)
            video[..., 39:46, 69:76] = 255  # its middle is at x = 72, y = 42
            return video

        def intrinsics(self, episode, camera):
            return np.array([[100.0, 0, 72], [0, 100, 42], [0, 0, 1]])

    cached = CachedEpisodes(Spot(SyntheticConfig(episodes=1, length=2)), tmp_path, framing)
    picture = cached.pixels(0, "front", np.array([0]))[0, 0].double()
    place = torch.arange(32.0, dtype=torch.double)
    x, y = ((picture.sum(axis) * place).sum() / picture.sum() for axis in (0, 1))
    matrix = cached.intrinsics(0, "front")
    assert matrix is not None
    np.testing.assert_allclose(matrix[:2, 2], [x, y], atol=0.1)
    assert matrix[0, 0] == pytest.approx(100 * (framing.edge or 32) / 90, rel=0.01)
