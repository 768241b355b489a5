"""NumPy trajectories are read as they are, grippers turned, and nothing is guessed unsaid."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saccade.config import from_dict, to_dict
from saccade.data import npz, open_episodes
from saccade.data.npz import Npz, NpzConfig
from saccade.errors import ConfigError, DataError
from saccade.models.vit import ViTConfig
from saccade.models.vjepa2.predictor import ActionPredictorConfig
from saccade.models.world_model import ActionWorldModelConfig
from saccade.poses import NAMES
from tests.contracts import check_reader


def arrays(trajectories: int = 3, frames: int = 5, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "observations": rng.integers(0, 256, (trajectories, frames, 12, 16, 3), dtype=np.uint8),
        "states": rng.random((trajectories, frames, 7), dtype=np.float32),
    }


def written(path: Path, **changes: Any) -> Path:
    content = {name: v for name, v in (arrays() | changes).items() if v is not None}
    np.savez_compressed(path, **content)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "arm.npz")


def build(root: Path, **options: Any) -> Npz:
    return NpzConfig(root=root, **options).build()


def test_holds_the_contract_of_readers(file: Path) -> None:
    check_reader(build(file))


def test_frames_and_states_are_those_of_the_file(file: Path) -> None:
    data, expected = build(file, fps=15.0, gripper="open_is_1"), arrays()
    assert (data.lengths, data.fps, data.tasks) == ([5, 5, 5], 15, ["", "", ""])
    assert (data.state_names, data.action_names, data.cameras) == (NAMES, (), ("camera",))
    for episode in range(3):
        read = data.read(episode, np.arange(5))
        pictures = torch.from_numpy(expected["observations"][episode]).permute(0, 3, 1, 2)
        assert torch.equal(read["video"][:, 0], pictures)
        assert torch.equal(read["state"], torch.from_numpy(expected["states"][episode]))
        assert read["action"].shape == (5, 0)
    assert data.timestamps(0)[1] == pytest.approx(1 / 15)


def test_a_gripper_that_is_1_when_closed_is_turned_and_no_other_axis(file: Path) -> None:
    closed = build(file).numbers(0, np.arange(5))[0]
    opened = build(file, gripper="open_is_1").numbers(0, np.arange(5))[0]
    np.testing.assert_array_equal(closed[:, 6], 1 - opened[:, 6])
    np.testing.assert_array_equal(closed[:, :6], opened[:, :6])
    names = ("gripper", *NAMES[:6])
    first = build(file, names=names).numbers(0, np.arange(5))[0]
    np.testing.assert_array_equal(first[:, 0], 1 - opened[:, 0])


def test_what_no_file_says_is_told(file: Path) -> None:
    about = build(file, fps=5.0).about(1)
    assert about["source"] == "arm.npz: trajectory 1"
    assert "fps=5" in about["fps_from"]
    assert "closed_is_1" in about["gripper_from"]
    assert about["not_read"] == []


def test_the_official_example(shared_data: Path) -> None:
    file = shared_data / "vjepa2_ac" / "franka_example_traj.npz"
    data = open_episodes(file)
    assert isinstance(data, Npz)
    assert (data.lengths, data.fps) == ([2], 4.0)
    read = data.read(0, np.arange(2))
    assert read["video"].shape == (2, 1, 3, 256, 256)
    assert read["video"].float().mean() == pytest.approx(130.5, abs=0.1)
    position = [0.5804, -0.0020, 0.2476]
    assert read["state"][0, :3].tolist() == pytest.approx(position, abs=1e-4)
    assert read["state"][:, 6].tolist() == pytest.approx([0.003, 0.003], abs=1e-4)  # closed
    predictor = ActionPredictorConfig(grid=(2, 2), feature_dim=24, dim=24, depth=1, heads=2)
    encoder = ViTConfig(image_size=16, patch=8, dim=24, depth=1, heads=2)
    model = ActionWorldModelConfig(encoder=encoder, predictor=predictor, step_seconds=0.25).build()
    stored = torch.from_numpy(np.load(file)["states"][0])
    torch.testing.assert_close(model.sense(read["state"], "state"), stored)  # there and back


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    for number in (10, 2):
        written(tmp_path / f"{number}.npz", **arrays(1, number, seed=number))
    data = open_episodes(tmp_path)
    assert isinstance(data, Npz)
    assert data.lengths == [2, 10]
    for episode, number in ((1, 10), (0, 2), (1, 10)):
        pictures = torch.from_numpy(arrays(1, number, seed=number)["observations"][0])
        found = data.pixels(episode, "camera", np.arange(number))
        assert torch.equal(found, pictures.permute(0, 3, 1, 2))


def test_few_files_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        written(tmp_path / f"{number}.npz")
    data = build(tmp_path)
    for episode in range(len(data.lengths)):
        data.pixels(episode, "camera", np.arange(1))
    assert len(data.__dict__["_pictures"]) == npz.KEPT
    assert not pickle.loads(pickle.dumps(data)).__dict__["_pictures"]


def test_fingerprints_tell_content_and_options_apart(file: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    same = written(tmp_path / "b" / "arm.npz")
    assert build(same).fingerprint == build(file).fingerprint
    other = arrays()["observations"]
    other[0, 0, 0, 0, 0] ^= 1
    found = {
        build(file).fingerprint,
        build(file, fps=5.0).fingerprint,
        build(file, gripper="open_is_1").fingerprint,
        build(written(same, observations=other)).fingerprint,
    }
    assert len(found) == 4
    config = NpzConfig(root=str(file), fps=5.0)
    assert from_dict(to_dict(config)) == config


SHORT, LONG = np.zeros((3, 4, 7), np.float32), np.zeros((3, 6, 7), np.float32)
UNKNOWN = np.full((3, 5, 7), np.nan, np.float32)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"observations": None}, r"has no array 'observations'; it has \['states'\]"),
        ({"states": None}, "has no array 'states'"),
        ({"states": SHORT}, r"states are float32 \(3, 4, 7\), expected floats \(3, 5, 7\)"),
        ({"states": LONG[:, :5, :6]}, r"\(3, 5, 6\), expected floats \(3, 5, 7\).*give names="),
        ({"states": LONG[:, :5].astype(int)}, "states are int64"),
        ({"states": UNKNOWN}, "trajectory 0, frame 0 are .*expected finite"),
        ({"actions": SHORT[:, :3]}, r"actions have the shape \(3, 3, 7\), .* 3 traj.* of 5 frames"),
        ({"actions": LONG}, "not of one recording"),
        ({"observations": arrays()["observations"].astype(np.float32)}, "are float32 .* uint8"),
        ({"observations": arrays()["observations"][0]}, r"uint8 \(5, 12, 16, 3\), expected uint8"),
        ({"observations": arrays()["observations"][..., :2]}, "expected uint8"),
        ({"observations": np.zeros((3, 0, 8, 8, 3), np.uint8)}, "hold nothing"),
        ({"states": np.array([{}])}, "expected floats"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        build(written(tmp_path / "arm.npz", **changes))


@pytest.mark.parametrize("length", [4, 5])
def test_actions_are_not_read_and_this_is_told(tmp_path: Path, length: int) -> None:
    data = build(written(tmp_path / "arm.npz", actions=LONG[:, :length]))
    assert data.action_names == ()
    assert data.about(0)["not_read"] == ["actions"]


def test_pickled_arrays_are_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "arm.npz", **arrays(), extra=np.array([Path()], dtype=object))
    assert build(tmp_path / "arm.npz").about(0)["not_read"] == ["extra"]


def test_damaged_and_absent_files(file: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.npz does not exist; give the file or its folder"):
        open_episodes(tmp_path / "none.npz")
    with pytest.raises(DataError, match="holds no file"):
        build(tmp_path.parent)
    content = bytearray(file.read_bytes())
    content[200:400] = bytes(200)  # within the pictures
    file.write_bytes(content)
    data = build(file)
    with pytest.raises(DataError, match=r"cannot be read .*download it again"):
        data.pixels(0, "camera", np.arange(5))
    file.write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"arm\.npz cannot be read"):
        build(file)


def test_options_that_cannot_be(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"fps is 0\.0; give the frames per second"):
        build(file, fps=0.0)
    with pytest.raises(DataError, match=r"no cameras \('left',\); it has 'camera'"):
        build(file, cameras=("left",))
    monkeypatch.setattr(npz, "LARGEST", 1000)
    with pytest.raises(DataError, match=r"of pictures, at most .* cut it into several"):
        build(file)
