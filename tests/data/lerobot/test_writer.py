"""A data set is whole or unfinished, whatever was killed; finishing again gives the same bytes."""

import multiprocessing
import os
import pickle
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from saccade.data.lerobot import assemble as lerobot_assemble
from saccade.data.lerobot import writer
from saccade.data.lerobot.reader import LeRobotConfig
from saccade.data.lerobot.writer import LeRobotWriter
from saccade.data.truth import SceneTruth
from saccade.errors import ConfigError, DataError, SpaceError

LENGTHS = {7: 6, 2: 9, 4: 5}


def start(root: Path, **changes) -> LeRobotWriter:
    settings = {
        "fps": 10.0,
        "robot": "sawyer",
        "state_names": ("x", "y", "gripper"),
        "action_names": ("x", "y"),
        "cameras": {"corner2": (32, 48), "top": (16, 16)},
        "extra": {"cameras": {"top": {"world_to_camera": np.eye(3).tolist()}}},
    }
    return LeRobotWriter(root, **(settings | changes))


def episode(index: int) -> dict:
    rng, count = np.random.default_rng(index), LENGTHS.get(index, 4)
    grey = np.full((count, 1, 1, 1), 20 * index) + 3 * np.arange(count)[:, None, None, None]
    sizes = {"corner2": (32, 48), "top": (16, 16)}
    return {
        "video": {k: np.tile(grey, (1, *v, 3)).astype(np.uint8) for k, v in sizes.items()},
        "state": rng.normal(size=(count, 3)).astype(np.float32),
        "action": rng.normal(size=(count, 2)).astype(np.float32),
        "task": f"task {index % 4}",
        "success": {7: True, 2: False, 4: None}[index],
    }


def stage(root: Path, indices=tuple(LENGTHS)) -> LeRobotWriter:
    staging = start(root)
    for index in indices:
        staging.write_episode(index, **episode(index))
    return staging


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def in_child(work: Callable[[], None]) -> int | None:
    """Run in a forked process; return its exit code."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    return process.exitcode


def kill_at(module, name: str, call: int) -> None:
    """Make the ``call``-th call of a function the process's last deed."""
    real, calls = getattr(module, name), iter(range(1000))

    def fatal(*args, **kwargs):
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(module, name, fatal)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    stage(tmp_path / "whole").finish()
    return tmp_path / "whole"


def test_what_is_written_is_read(finished: Path) -> None:
    data = LeRobotConfig(root=finished).build()
    order = sorted(LENGTHS)  # gaps close
    assert data.lengths == [LENGTHS[index] for index in order]
    assert data.tasks == ["task 2", "task 0", "task 3"]
    assert [data.about(i).get("success") for i in range(3)] == [False, None, True]
    assert (data.fps, data.cameras) == (10.0, ("corner2", "top"))
    assert (data.state_names, data.action_names) == (("x", "y", "gripper"), ("x", "y"))
    assert data.world_to_camera["top"].tolist() == np.eye(3).tolist()
    for number, index in enumerate(order):
        given, frames = episode(index), np.arange(LENGTHS[index])
        np.testing.assert_allclose(data.timestamps(number), frames / 10, rtol=1e-6)
        for camera in data.cameras:
            found = data.read(number, frames, (camera,))
            assert np.array_equal(found["state"], given["state"])
            assert np.array_equal(found["action"], given["action"])
            video = torch.from_numpy(given["video"][camera]).permute(0, 3, 1, 2)
            assert (found["video"][:, 0].float() - video).abs().max() <= 2
    with pytest.raises(DataError, match="differ in size"):
        data.read(0, np.array([0]))


def test_order_of_staging_does_not_matter(finished: Path, tmp_path: Path) -> None:
    other = stage(tmp_path / "other", sorted(LENGTHS))
    assert other.staged() == LENGTHS.keys()
    pickle.loads(pickle.dumps(other)).finish()
    assert contents(tmp_path / "other") == contents(finished)


def test_one_dimension_no_camera_and_no_action(tmp_path: Path) -> None:
    """LeRobot keeps a feature of one number as a plain column."""
    staging = start(tmp_path / "a", state_names=("x",), action_names=(), cameras={})
    state = np.arange(4, dtype=np.float32)[:, None]
    staging.write_episode(0, {}, state, np.zeros((4, 0), np.float32), "wait")
    staging.finish()
    data = LeRobotConfig(root=tmp_path / "a").build()
    found = data.read(0, np.array([3, 1]))
    assert found["state"].tolist() == [[3.0], [1.0]]
    assert found["action"].shape == (2, 0)
    assert found["video"].shape[:2] == (2, 0)


def test_a_finished_or_foreign_folder_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--overwrite"):
        start(finished)
    (tmp_path / "mine" / "data").mkdir(parents=True)
    with pytest.raises(ConfigError, match="--overwrite"):
        start(tmp_path / "mine")
    with pytest.raises(DataError, match="no staged episodes"):
        start(tmp_path / "empty").finish()


def test_staged_episodes_must_agree(tmp_path: Path) -> None:
    stage(tmp_path / "a", [2])
    assert start(tmp_path / "a", extra={"run": 2}).staged() == {2}
    with pytest.raises(ConfigError, match="staged with other settings"):
        start(tmp_path / "a", fps=20.0)
    with pytest.raises(ConfigError, match=r"camera names \['a/b'\]"):
        start(tmp_path / "b", cameras={"a/b": (16, 16)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": np.zeros((5, 4), np.float32)}, r"expected .*\(5, 3\)"),
        ({"action": np.zeros((5, 3), np.float32)}, r"expected .*\(5, 2\)"),
        ({"video": {}}, "expected .*corner2"),
        ({"state": np.full((5, 3), np.nan, np.float32)}, "not finite"),
    ],
)
def test_episodes_that_do_not_fit_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    staging = start(tmp_path / "a")
    with pytest.raises(DataError, match=message):
        staging.write_episode(4, **(episode(4) | changes))
    assert staging.staged() == set()


def test_an_episode_is_staged_once(tmp_path: Path) -> None:
    staging = stage(tmp_path / "a", [2])
    with pytest.raises(DataError, match="episode 2 is staged already"):
        staging.write_episode(2, **episode(2))


def test_several_processes_stage(finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "other"
    staging = start(root)
    for index in LENGTHS:
        assert in_child(lambda index=index: staging.write_episode(index, **episode(index))) == 0
    staging.finish()
    assert contents(root) == contents(finished)


def test_a_kill_while_staging_leaves_no_half_episode(finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "other"
    stage(root, [2])

    def work(call: int) -> None:
        kill_at(writer, "encode", call)
        start(root).write_episode(4, **episode(4))

    for call in (0, 1):  # before the first and the second camera
        assert in_child(lambda call=call: work(call)) == -signal.SIGKILL
        assert start(root).staged() == {2}
    stage(root, [4, 7]).finish()
    assert contents(root) == contents(finished)


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        (lerobot_assemble, "concatenate", 0),
        (lerobot_assemble, "concatenate", 1),
        (lerobot_assemble, "write_atomic", 1),  # info.json
        (writer, "verify", 0),
        (writer.shutil, "rmtree", 1),  # before data is published
        (writer.shutil, "rmtree", 2),  # before videos
        (writer.shutil, "rmtree", 3),  # before meta
    ],
)
def test_a_kill_while_finishing_is_mended(finished: Path, tmp_path: Path, module, name, call):
    root = tmp_path / "other"
    staging = stage(root)

    def work() -> None:
        kill_at(module, name, call)
        staging.finish()

    assert in_child(work) == -signal.SIGKILL
    with pytest.raises(DataError, match="give the folder of a finished"):
        LeRobotConfig(root=root).build()
    start(root).finish()
    assert contents(root) == contents(finished)


def test_a_kill_before_tidying_up_is_mended(finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "other"
    staging = stage(root)

    def work() -> None:
        kill_at(writer.shutil, "rmtree", 5)
        staging.finish()

    assert in_child(work) == -signal.SIGKILL
    assert (root / ".staging").is_dir()
    assert LeRobotConfig(root=root).build().lengths == [9, 5, 6]
    staging.finish()
    assert contents(root) == contents(finished)
    staging.finish()


def test_a_damaged_staging_is_not_published(tmp_path: Path) -> None:
    root = tmp_path / "a"
    staging = stage(root)
    path = root / ".staging" / "episode-000004" / "top.mp4"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"top\.mp4"):
        staging.finish()
    assert not (root / "meta").exists()
    path.write_bytes(whole)
    staging.finish()


def test_a_full_disk_is_our_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "encode", full)
    with pytest.raises(SpaceError, match="no room for"):
        stage(tmp_path / "a", [2])
    assert start(tmp_path / "a").staged() == set()
    shutil.rmtree(tmp_path / "a")


def known(index: int, length: int | None = None) -> SceneTruth:
    """Return what a simulator would know of ``episode(index)``."""
    rng, count = np.random.default_rng(index), LENGTHS[index] if length is None else length
    eye = np.tile(np.eye(4), (count, 1, 1))
    return SceneTruth(
        depth=rng.integers(1, 9, (count, 4, 6)).astype(np.float32),  # whole: float16 has them
        body=rng.integers(0, 3, (count, 4, 6)).astype(np.uint16),
        poses=np.tile(eye[:, None], (1, 3, 1, 1)).astype(np.float32),
        camera=eye,
        intrinsics=np.diag([5.0, 5.0, 1.0]),
    )


def stage_known(root: Path, indices=tuple(LENGTHS)) -> LeRobotWriter:
    staging = start(root)
    for index in indices:
        staging.write_episode(index, **episode(index), truth={"corner2": known(index)})
    return staging


def test_what_a_simulator_knows_lies_beside_the_videos(finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "known"
    stage_known(root).finish()
    names = [f"truth/corner2/episode-00000{number}.safetensors" for number in range(3)]
    plain = contents(finished)
    assert contents(root).keys() == plain.keys() | set(names)
    assert all(contents(root)[name] == data for name, data in plain.items())
    assert not list(root.glob(".*"))
    data, other = (LeRobotConfig(root=folder).build() for folder in (root, finished))
    assert data.fingerprint == other.fingerprint  # pixels and labels are the same
    for number, index in enumerate(sorted(LENGTHS)):
        found = pickle.loads(pickle.dumps(data)).truth(number, "corner2")
        assert found is not None
        assert np.array_equal(found.depth, known(index).depth)
        assert np.array_equal(found.body, known(index).body)
        assert data.truth(number, "top") is None
        assert other.truth(number, "corner2") is None

    again = tmp_path / "again"
    stage_known(again, sorted(LENGTHS))
    assert in_child(lambda: (kill_at(writer.shutil, "copyfile", 1), start(again).finish())[0]) == -9
    start(again).finish()
    assert contents(again) == contents(root)


def test_truth_of_other_frames_or_cameras_is_refused(tmp_path: Path) -> None:
    staging = start(tmp_path / "a")
    for wrong in ({"corner2": known(2, 8)}, {"front": known(2)}):
        with pytest.raises(DataError, match=r"'truth': \{'(corner2': 8|front': 9)\}"):
            staging.write_episode(2, **episode(2), truth=wrong)
    assert staging.staged() == set()


def test_truth_that_was_lost_or_exchanged_is_named(tmp_path: Path) -> None:
    root = tmp_path / "a"
    stage_known(root).finish()
    data, folder = LeRobotConfig(root=root).build(), root / "truth" / "corner2"
    shutil.copyfile(folder / "episode-000000.safetensors", folder / "episode-000001.safetensors")
    with pytest.raises(DataError, match=r"000001.safetensors has 9 frames, but the episode 5"):
        data.truth(1, "corner2")
    (folder / "episode-000000.safetensors").unlink()
    with pytest.raises(DataError, match=r"corner2/episode-000000.safetensors cannot be read"):
        data.truth(0, "corner2")
