"""What is written is read back as it was recorded; a kill loses what was in progress, no more."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from saccade.data.libero.files import CAMERAS
from saccade.data.libero.reader import LiberoConfig
from saccade.data.libero.writer import Demonstration, LiberoWriter, count, finished
from saccade.errors import DataError

MILK, SOUP = "pick_up_the_milk", "pick_up_the_soup"
ABOUT = {"problem_info": '{"language_instruction": "pick up the milk"}', "tag": "libero-v1"}


def make(rows: int = 20, seed: int = 0) -> Demonstration:
    """Record an arm that turns by 0.02 rad in each step."""
    rng = np.random.default_rng(seed)
    joints = rng.normal(size=7) + 0.02 * np.arange(rows)[:, None] * np.ones(7)
    actions = rng.uniform(-1, 1, (rows, 7)).astype(np.float32).astype(float)
    actions[:, 6] = np.where(np.arange(rows) < rows // 2, -1, 1)
    return Demonstration(
        pictures={
            camera: rng.integers(0, 256, (rows, 8, 12, 3), dtype=np.uint8) for camera in CAMERAS
        },
        hand=rng.normal(size=(rows, 6)),
        joints=joints,
        fingers=np.stack([np.linspace(0.04, 0, rows), -np.linspace(0.04, 0, rows)], 1),
        states=np.concatenate([np.arange(rows)[:, None] / 20, joints, np.ones((rows, 9))], 1),
        actions=actions,
        model="<mujoco/>",
        about={"initial_state": 10 + seed},
    )


def write(root: Path, *demos: tuple[int, str, Demonstration]) -> LiberoWriter:
    writer = LiberoWriter(root)
    for index, task, demo in demos:
        writer.write_episode(index, task, ABOUT, demo)
    return writer


def test_what_is_read_is_what_was_recorded(tmp_path: Path) -> None:
    root = tmp_path / "libero_object"
    demos = [make(20, 0), make(23, 1), make(31, 2)]
    writer = write(root, (4, MILK, demos[1]), (0, MILK, demos[0]), (9, SOUP, demos[2]))
    assert writer.staged() == {0, 4, 9}
    assert not finished(root)
    writer.finish()
    assert finished(root)
    assert count(root) == (3, 74)
    data = LiberoConfig(root=tmp_path, orientation="upright").build()
    assert data.lengths == [20, 23, 31]
    assert data.tasks == ["pick up the milk"] * 3
    for episode, demo in enumerate(demos):
        frames = np.arange(len(demo.actions))
        assert data.about(episode)["alignment"] == "before"
        seen = data.read(episode, frames)
        for view, camera in enumerate(data.cameras):
            video = seen["video"][:, view].permute(0, 2, 3, 1).numpy()
            np.testing.assert_array_equal(video, demo.pictures[camera])
        state, action = data.numbers(episode, frames)
        np.testing.assert_array_equal(state[:, :6], demo.hand.astype(np.float32))
        np.testing.assert_array_equal(action[:, :6], demo.actions[:, :6].astype(np.float32))
        assert set(action[: len(frames) // 2, 6]) == {1}
        assert set(action[len(frames) // 2 :, 6]) == {0}


def test_the_layout_is_the_official_one(tmp_path: Path) -> None:
    demo = make()
    write(tmp_path, (0, MILK, demo)).finish()
    with h5py.File(tmp_path / f"{MILK}_demo.hdf5") as file:
        data: Any = file["data"]
        assert (data.attrs["num_demos"], data.attrs["total"]) == (1, 20)
        assert data.attrs["tag"] == "libero-v1"
        stored = data["demo_0"]
        assert stored.attrs["num_samples"] == 20
        assert stored.attrs["model_file"] == "<mujoco/>"
        assert stored.attrs["initial_state"] == 10
        np.testing.assert_array_equal(stored.attrs["init_state"], demo.states[0])
        kinds = {key: (stored[key].shape, stored[key].dtype.str) for key in named(stored)}
        assert kinds == {
            **{f"obs/{key}": ((20, 8, 12, 3), "|u1") for key in CAMERAS.values()},
            "obs/ee_states": ((20, 6), "<f8"),
            "obs/ee_pos": ((20, 3), "<f8"),
            "obs/ee_ori": ((20, 3), "<f8"),
            "obs/joint_states": ((20, 7), "<f8"),
            "obs/gripper_states": ((20, 2), "<f8"),
            "actions": ((20, 7), "<f8"),
            "states": ((20, 17), "<f8"),
            "robot_states": ((20, 9), "<f8"),
            "rewards": ((20,), "|u1"),
            "dones": ((20,), "|u1"),
        }
        picture = stored["obs/agentview_rgb"]
        assert picture.chunks is None
        np.testing.assert_array_equal(picture[3], demo.pictures["agentview"][3, ::-1])
        assert stored["dones"][:].tolist() == [0] * 19 + [1]
        turn = 2 * np.arccos(stored["robot_states"][:, 8])
        np.testing.assert_allclose(turn, np.linalg.norm(demo.hand[:, 3:], axis=1), atol=1e-6)
        axis = stored["robot_states"][:, 5:8] / np.sin(turn / 2)[:, None]
        np.testing.assert_allclose(axis * turn[:, None], demo.hand[:, 3:], atol=1e-6)


def named(group: h5py.Group) -> list[str]:
    found: list[str] = []
    group.visititems(
        lambda name, each: found.append(name) if isinstance(each, h5py.Dataset) else None
    )
    return found


def test_a_kill_loses_what_was_in_progress_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = write(tmp_path, (0, MILK, make()), (1, SOUP, make(seed=1)))

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for name in ("h5py.Group.create_dataset", "saccade.data.libero.writer.scan"):
        with monkeypatch.context() as patch:
            patch.setattr(name, stop)
            with pytest.raises(KeyboardInterrupt):
                writer.write_episode(2, MILK, ABOUT, make(seed=2))
    assert writer.staged() == {0, 1}
    # While files are published, and when they are but the staging is not gone.
    for name in ("h5py.Group.copy", "saccade.data.libero.writer.shutil.rmtree"):
        with monkeypatch.context() as patch:
            patch.setattr(name, stop)
            with pytest.raises(KeyboardInterrupt):
                writer.finish()
        assert not finished(tmp_path)
        assert not list(tmp_path.rglob("*.tmp"))
    (tmp_path / f".{MILK}_demo-1.tmp").touch()  # as a finish leaves it that is killed outright
    pickle.loads(pickle.dumps(writer)).finish()
    assert not list(tmp_path.glob(".*.tmp"))
    assert finished(tmp_path)
    assert count(tmp_path) == (2, 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pictures": {"agentview": make().pictures["agentview"]}}, "expected equally many"),
        ({"states": np.full((20, 17), np.nan)}, r"\['states'\] are not finite"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    writer = LiberoWriter(tmp_path)
    with pytest.raises(DataError, match=message):
        writer.write_episode(0, MILK, ABOUT, replace(make(), **change))
    assert writer.staged() == set()


def test_a_number_is_given_once_and_nothing_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no staged demonstrations"):
        LiberoWriter(tmp_path).finish()
    writer = write(tmp_path, (0, MILK, make()))
    with pytest.raises(DataError, match="is staged already"):
        writer.write_episode(0, MILK, ABOUT, make())
