"""Bridge V2 as NumPy files: the same as the raw recordings, or a clear error."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saccade.data.bridge import npy as bridge_numpy
from saccade.data.bridge.npy import BridgeNumpy, BridgeNumpyConfig
from saccade.data.bridge.raw import BridgeRawConfig
from saccade.data.files.folder import Folder
from saccade.errors import DataError
from tests.contracts import check_reader
from tests.fixtures.bridge import numbers, pictures, write_bridge_numpy, write_bridge_raw

FILES = (
    "bridge_data_v2/tiny_kitchen/put_in_pot/00/train/out.npy",
    "rss/toykitchen2/set_table/00/val/out.npy",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bridge_numpy(tmp_path_factory.mktemp("bridge_numpy"))


def opened(root: Path, **options: Any) -> BridgeNumpy:
    return BridgeNumpyConfig(root=root, **options).build()


def changed(tmp_path: Path, how: Callable[[dict[str, Any]], object]) -> Path:
    """Write the data set with a change of the first trajectory."""
    root = write_bridge_numpy(tmp_path / "changed")
    path = root / FILES[0]
    with path.open("rb") as file:  # our own file: Python's pickle will do
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        trajectories = pickle.load(file)
    how(trajectories[0])
    np.save(path, trajectories, allow_pickle=True)
    return root


def test_it_is_a_reader(root: Path) -> None:
    check_reader(opened(root))


def test_what_there_is(root: Path) -> None:
    episodes = opened(root)
    assert BridgeNumpyConfig.recognises(Folder(root))
    assert BridgeNumpyConfig.recognises(Folder((root / FILES[1]).parent))
    assert not BridgeRawConfig.recognises(Folder(root))
    assert episodes.lengths == [24, 30, 26], "a frame is left out that no action follows"
    assert episodes.tasks == ["put the corn in the pot", "", "close the drawer"]
    assert [len(episodes.cameras_of(i)) for i in range(3)] == [3, 1, 2]
    assert episodes.about(1) == {
        "source": f"{FILES[0]}, trajectory 1",
        "tasks": [],
        "scene": "bridge_data_v2/tiny_kitchen",
        "split": "train",
    }
    assert episodes.about(2)["split"] == "val"


def test_the_same_as_raw(root: Path, tmp_path: Path) -> None:
    raw = BridgeRawConfig(root=write_bridge_raw(tmp_path)).build()
    ours = opened(root)
    for episode, length in enumerate(ours.lengths):
        frames = np.arange(length)
        for found, expected in zip(
            ours.numbers(episode, frames), raw.numbers(episode, frames), strict=True
        ):
            np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(
            ours.timestamps(episode), raw.timestamps(episode)[:length], atol=1e-6
        )
    assert raw.tasks == ours.tasks


def test_relabelled_to_the_last_frame(root: Path) -> None:
    state, commanded, _ = numbers(0, 25)
    _, action = opened(root, action="relabelled").numbers(0, np.arange(24))
    np.testing.assert_allclose(action[:, :6], np.diff(state[:, :6], axis=0), atol=1e-6)
    np.testing.assert_array_equal(action[:, 6], commanded[:, 6].astype(np.float32))


def test_pictures(root: Path) -> None:
    video = opened(root).pixels(2, "image_1", np.array([3, 0]))
    expected = pictures(2, 1, 28)[[4, 1], :, 8:56]  # the first frame was left out
    np.testing.assert_array_equal(video.permute(0, 2, 3, 1).numpy(), expected)


def test_pictures_are_not_copied_when_a_file_is_loaded(root: Path) -> None:
    picture = bridge_numpy.load(Folder(root), FILES[0])[0]["observations"][0]["images0"]
    assert not picture.flags.owndata
    assert not picture.flags.writeable


def remove(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda t: t.pop(key)


BROKEN: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (remove("actions"), "trajectory 0 is no dict with lists observations"),
    (lambda t: t["actions"].pop(), r"trajectory 0 has \[24, 24, 23\] observations"),
    (lambda t: t["observations"].__setitem__(3, None), "expected dicts"),
    (lambda t: t["observations"][3].pop("state"), "trajectory 0, state holds no vectors"),
    (lambda t: t["actions"].__setitem__(3, np.zeros(6)), "trajectory 0, actions holds no vectors"),
    (lambda t: t["observations"][3].update(images1=None), r"images1 has shapes .*expected one"),
    (
        lambda t: t["observations"][3].update(images1=np.zeros((48, 48, 3))),
        r"images1 has shapes .*float64",
    ),
    (lambda t: t.update(language=[3]), r"language is \[3\], expected texts"),
    (
        lambda t: t["observations"][3].update(time_stamp=np.nan),
        r"time_stamp has the shape \[24, 1\]",
    ),
]


@pytest.mark.parametrize(("how", "message"), BROKEN)
def test_broken(tmp_path: Path, how: Callable[[dict[str, Any]], object], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        opened(changed(tmp_path, how))
    assert FILES[0] in str(caught.value)


def test_a_clock_that_runs_back_can_be_left_aside(tmp_path: Path) -> None:
    root = changed(tmp_path, lambda t: t["observations"][3].update(time_stamp=0.0))
    with pytest.raises(DataError, match="frame 3 is no later than frame 2; give clock=even"):
        opened(root)
    np.testing.assert_allclose(opened(root, clock="even").timestamps(0), np.arange(24) / 5)
    with pytest.raises(DataError, match="1 of 3 trajectories are broken"):
        opened(root, on_error="skip")
    kept = opened(root, on_error="skip", most_skipped=0.4)
    assert kept.lengths == [30, 26]
    assert list(kept.skipped) == [f"{FILES[0]}, trajectory 0"]
    assert kept.about(0)["source"] == f"{FILES[0]}, trajectory 1"
    assert kept.timestamps(0).shape == (30,)


def test_a_split_without_a_trajectory(tmp_path: Path) -> None:
    root = write_bridge_numpy(tmp_path / "bridge")
    np.save(root / FILES[1], [])  # as float64, for want of a trajectory
    assert opened(root).lengths == [24, 30]
    np.save(root / FILES[0], [])
    with pytest.raises(DataError, match="has no trajectory"):
        opened(root)


def test_hostile_and_damaged_files(tmp_path: Path) -> None:
    root = write_bridge_numpy(tmp_path / "bridge")
    path, marker = root / FILES[0], tmp_path / "marker"
    whole = path.read_bytes()
    start = whole.index(b"\x80")
    evil = f"cposix\nsystem\n(S'touch {marker}'\ntR.".encode()
    for data, message in (
        (whole[:start] + evil, r"is refused: .*'posix\.system'"),
        (whole[:-1000], "is no whole pickle"),
        (whole[: start - 50], "is no NumPy file"),
        (b"", "cannot be read"),
        (
            whole[:start].replace(b"(2,)", b"(3,)") + whole[start:],
            r"holds no array of shape \(3,\)",
        ),
    ):
        path.write_bytes(data)
        with pytest.raises(DataError, match=message):
            opened(root)
        with pytest.raises(DataError, match="1 of 2 files are broken"):
            opened(root, on_error="skip")
        assert opened(root, on_error="skip", most_skipped=0.5).lengths == [26]
    assert not marker.exists()
    np.save(path, np.zeros(3))
    with pytest.raises(DataError, match="trajectory 0 is no dict"):
        opened(root)


def test_what_it_keeps_is_bounded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_numpy, "KEPT", 1)
    episodes = opened(root)
    for episode in (0, 2, 1):
        episodes.numbers(episode, np.array([0]))
    assert list(episodes._kept) == [FILES[0]]


def test_no_files(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    assert not BridgeNumpyConfig.recognises(Folder(tmp_path))
    with pytest.raises(DataError, match=r"has no out\.npy below it"):
        opened(tmp_path)


def test_cameras(root: Path) -> None:
    assert opened(root, cameras=("image_2",)).cameras_of(1) == ()
    with pytest.raises(DataError, match=r"no cameras \['front'\]"):
        opened(root, cameras=("front",))
