"""Raw DROID reads as h5py and FFmpeg read it, row by row, and what is broken is named."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
import torch

from saccade.config import from_dict, to_dict
from saccade.data.droid.raw import DroidRaw, DroidRawConfig, official_stride, write_csv
from saccade.data.droid.raw_index import WIDTHS
from saccade.data.files.folder import Folder
from saccade.data.windows import ClipWindow
from saccade.errors import ConfigError, DataError
from saccade.geometry import euler_xyz_to_matrix
from tests.contracts import check_reader
from tests.fixtures.droid_raw import (
    EPISODES,
    EXT1,
    EXT2,
    WRIST,
    scene,
    uuid,
    write_droid_raw,
    write_video,
)

FIRST, SECOND, THIRD = (folder for folder, _, _ in EPISODES)
LENGTHS = [30, 25, 33]  # the videos of the second are one frame short


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    return write_droid_raw(tmp_path_factory.mktemp("droid") / "droid_raw")


@pytest.fixture
def root(original: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(original, tmp_path / "droid_raw"))


def load(root: Path, **options) -> DroidRaw:
    return DroidRawConfig(root=root, **options).build()


def table(root: Path, folder: str, key: str) -> np.ndarray:
    with h5py.File(root / folder / "trajectory.h5") as file:
        return column(file, key)[()]


def poses_of(data: DroidRaw, episode: int, camera: str) -> np.ndarray:
    poses = data.camera_poses(episode, camera)
    assert poses is not None
    return poses


def matrix_of(data: DroidRaw, episode: int, camera: str) -> np.ndarray:
    matrix = data.intrinsics(episode, camera)
    assert matrix is not None
    return matrix


def column(file: h5py.File, key: str) -> h5py.Dataset:
    found = file[key]
    assert isinstance(found, h5py.Dataset)
    return found


def change_numbers(root: Path, edit: Callable[[h5py.File], None], folder: str = FIRST) -> None:
    with h5py.File(root / folder / "trajectory.h5", "r+") as file:
        edit(file)


def change_metadata(root: Path, folder: str = FIRST, **values) -> Path:
    [path] = (root / folder).glob("metadata_*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return path


def frames_of(path: Path) -> np.ndarray:
    with av.open(f"file:{path}") as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_it_holds_what_every_reader_must(original: Path) -> None:
    data = load(original)
    assert data.lengths == LENGTHS
    assert data.tasks == [task for _, _, task in EPISODES]
    assert data.cameras == ("left", "right", "wrist")
    assert data.fps == 15
    check_reader(data)


def test_with_other_options_and_an_empty_episode_too(root: Path) -> None:
    def empty(file: h5py.File) -> None:
        def shrink(_: str, item: h5py.Dataset | h5py.Group) -> None:
            if isinstance(item, h5py.Dataset):
                item.resize(0, axis=0)

        file.visititems(shrink)

    change_numbers(root, empty, THIRD)
    options = {"cameras": ("ext2",), "state": "joint", "action": "delta", "clock": "header"}
    data = load(root, **options)
    assert data.lengths == [30, 25, 0]
    assert data.about(2)["success"] is False
    check_reader(data)
    assert load(root).timestamps(2).shape == (0,)
    config = DroidRawConfig(root=root, **options)
    assert from_dict(to_dict(config)) == config


@pytest.mark.parametrize("under", ["AUTOLab", "AUTOLab/success", FIRST.rpartition("/")[0], FIRST])
def test_any_level_may_be_the_root(original: Path, under: str) -> None:
    assert DroidRawConfig.recognises(Folder(original / under))
    data = load(original / under)
    assert data.lengths == (LENGTHS[:1] if under == FIRST else LENGTHS[:2])
    assert data.read(0, np.array([29]))["video"].shape == (1, 3, 3, 64, 96)
    assert data.about(0)["success"] is True


def test_other_folders_are_not_taken_for_it(tmp_path: Path, shared_data: Path) -> None:
    (tmp_path / "trajectory.h5").write_bytes(b"")  # ManiSkill has this name too
    for other in (tmp_path, shared_data / "lerobot_v3_tiny", shared_data / "droid_tiny"):
        assert not DroidRawConfig.recognises(Folder(other))


@pytest.mark.parametrize(
    ("camera", "serials"),
    [
        ("left", (EXT1, EXT2)),
        ("right", (EXT2, EXT1)),
        ("wrist", (WRIST, WRIST)),
        ("exterior_1", (EXT1, EXT1)),
        ("ext2", (EXT2, EXT2)),
    ],
)
def test_frame_i_of_a_camera_is_row_i_of_its_left_lens(
    original: Path, camera: str, serials: tuple[str, str]
) -> None:
    data = load(original, cameras=(camera,))
    for episode, serial in enumerate(serials):
        expected = frames_of(original / EPISODES[episode][0] / f"recordings/MP4/{serial}.mp4")
        order = np.array([24, 0, 7, 8, 7])
        video = data.read(episode, order)["video"][:, 0].permute(0, 2, 3, 1)
        np.testing.assert_array_equal(video.numpy(), expected[order])


def test_the_wrist_may_be_turned_with_its_pose_and_matrix(original: Path) -> None:
    plain, turned = load(original), load(original, turn_wrist=True)
    assert plain.fingerprint != turned.fingerprint
    frames = np.arange(4)
    before, after = plain.read(1, frames)["video"], turned.read(1, frames)["video"]
    assert torch.equal(after[:, :2], before[:, :2])
    assert torch.equal(after[:, 2], before[:, 2].flip(2, 3))

    point = np.array([0.1, 0.05, 1.0])  # as the camera sees it; turned, it sees (-0.1, -0.05, 1)
    poses = poses_of(plain, 1, "wrist"), poses_of(turned, 1, "wrist")
    seen = [*point, 1], [*(-point[:2]), 1, 1]
    np.testing.assert_allclose(poses[0] @ seen[0], poses[1] @ seen[1])
    pixels = [matrix_of(plain, 1, "wrist") @ point, matrix_of(turned, 1, "wrist") @ seen[1][:3]]
    np.testing.assert_allclose(pixels[0][:2] + pixels[1][:2], [95, 63])


def test_states_are_measured_and_an_open_gripper_is_1(original: Path) -> None:
    robot = "observation/robot_state"
    closed = table(original, SECOND, f"{robot}/gripper_position")
    assert closed[0] == 0
    for state, key in (("cartesian", "cartesian_position"), ("joint", "joint_positions")):
        data = load(original, state=state)
        values = data.read(1, np.arange(25), ())["state"].numpy()
        expected = np.c_[table(original, SECOND, f"{robot}/{key}"), 1 - closed][:25]
        np.testing.assert_array_equal(values, expected.astype(np.float32))
        assert data.state_names[-1] == "gripper"
        assert len(data.state_names) == values.shape[1]


def test_actions_are_commands_in_metres_and_radians(original: Path) -> None:
    def actions(kind: str) -> np.ndarray:
        return load(original, action=kind).read(2, np.arange(33), ())["action"].numpy()

    opened = 1 - table(original, THIRD, "action/gripper_position")
    for kind in ("cartesian", "joint"):
        expected = np.c_[table(original, THIRD, f"action/{kind}_position"), opened]
        np.testing.assert_array_equal(actions(kind), expected.astype(np.float32))
    velocity = table(original, THIRD, "action/cartesian_velocity")
    step = actions("cartesian_velocity")
    row = np.linalg.norm(velocity[:, :3], axis=1).argmin()  # shorter than 1
    np.testing.assert_allclose(step[row, :3], 0.075 * velocity[row, :3], rtol=1e-6)
    assert np.linalg.norm(step[:, :3], axis=1).max() <= 0.075 * 1.000001
    np.testing.assert_array_equal(step[:, 6], opened.astype(np.float32))
    joints = table(original, THIRD, "action/joint_velocity")
    shortened = joints / np.maximum(np.abs(joints).max(1, keepdims=True), 1)
    np.testing.assert_allclose(actions("joint_velocity")[:, :7], 0.2 * shortened, rtol=1e-6)


def test_the_delta_leads_from_each_pose_to_the_next(original: Path) -> None:
    data = load(original, action="delta")
    frames = data.read(1, np.arange(25), ())
    state, action = frames["state"].double().numpy(), frames["action"].double().numpy()
    np.testing.assert_allclose(state[1:, :3], state[:-1, :3] + action[:-1, :3], atol=1e-6)
    turn = euler_xyz_to_matrix(action[:-1, 3:6]) @ euler_xyz_to_matrix(state[:-1, 3:6])
    np.testing.assert_allclose(turn, euler_xyz_to_matrix(state[1:, 3:6]), atol=1e-6)
    np.testing.assert_allclose(action[:-1, 6], np.diff(state[:, 6]), atol=1e-6)
    pose = table(original, SECOND, "observation/robot_state/cartesian_position")
    last = pose[25, :3] - pose[24, :3]  # row 25 has no frame, but was measured
    np.testing.assert_allclose(action[-1, :3], last, atol=1e-7)
    whole = data.read(0, np.array([29]), ())["action"]
    assert not whole.any(), "no row follows the last"


def test_time_is_when_the_first_camera_received_its_frames(original: Path) -> None:
    for cameras, serial in (((), EXT2), (("wrist",), WRIST)):
        stamps = table(original, SECOND, f"observation/timestamp/cameras/{serial}_frame_received")
        times = load(original, cameras=cameras).timestamps(1)
        np.testing.assert_allclose(times, (stamps[:25] - stamps[0]) / 1000, atol=1e-12)
    assert abs(times[-1] - 24 / 15) < 0.01


def test_the_header_clock_repeats_the_published_stride(original: Path) -> None:
    data = load(original, clock="header")
    assert data.fps == data.about(0)["header_fps"] == 60
    np.testing.assert_allclose(data.timestamps(0), np.arange(30) / 60)
    assert official_stride(60) == 15
    assert [official_stride(rate) for rate in (15, 29.97, 59.94, 61)] == [4, 8, 15, 16]
    assert data.fingerprint != load(original).fingerprint


def test_headers_that_differ_are_no_clock(root: Path) -> None:
    path = root / SECOND / f"recordings/MP4/{EXT1}.mp4"
    write_video(path, scene(25, 96, seed=1), rate=30)
    assert load(root).fps == 15
    with pytest.raises(DataError, match=r"\[30.0, 60.0\] frames/s.* clock=recorded"):
        load(root, clock="header")


def test_cameras_are_placed_in_the_robot_base_frame(original: Path) -> None:
    data = load(original)
    poses = poses_of(data, 1, "left")
    key = f"observation/camera_extrinsics/{EXT2}_left"
    rows = table(original, SECOND, key)[:25]
    assert (rows[:, 1] > 0).all(), "left is where y is larger"
    np.testing.assert_allclose(poses[:, :3, 3], rows[:, :3])
    np.testing.assert_allclose(poses[:, :3, :3], euler_xyz_to_matrix(rows[:, 3:]))
    np.testing.assert_array_equal(poses[:, 3], np.tile([0, 0, 0, 1], (25, 1)))
    assert np.ptp(poses_of(data, 1, "wrist")[:, 1, 3]) > 0.2, "the wrist moves"
    np.testing.assert_array_equal(matrix_of(data, 1, "left")[0], [72, 0, 47.5])
    assert data.intrinsics(0, "left") is None, "old files have none"


def test_what_is_known_of_an_episode(original: Path) -> None:
    data = load(original)
    first = data.about(0)
    assert first["success"] is True
    assert first["scene"] == "Sutardja Dai Hall/5129495234"
    assert first["source"] == f"{FIRST}/trajectory.h5"
    assert first["tasks"] == ["Put the marker in the pot"]
    assert first["uuid"] == uuid(0)
    assert "dropped_frames" not in first
    second = data.about(1)
    assert second["success"] is True, "null in the metadata: the folder says it"
    assert second["dropped_frames"] == 1
    assert "scene" not in second, "-1 is no scene"
    assert data.about(2)["success"] is False


def test_annotations_come_before_the_collectors_task(original: Path, tmp_path: Path) -> None:
    elsewhere = shutil.copy(original / "annotations.json", tmp_path / "texts.json")
    for name in ("annotations.json", str(elsewhere)):
        data = load(original, annotations=name)
        assert data.tasks == ["Place the pen in the pot", *(task for _, _, task in EPISODES[1:])]
        assert data.about(0)["tasks"] == ["Place the pen in the pot", "Put the marker in the pot"]
    assert data.fingerprint != load(original).fingerprint
    (tmp_path / "texts.json").write_text('{"an uuid": ["a text"]}')
    with pytest.raises(DataError, match=r"'an uuid' has .*, expected an object with language_in"):
        load(original, annotations=str(elsewhere))


def test_numbers_are_read_without_videos(original: Path) -> None:
    data = load(original)
    assert data.cameras_of(2) == ()
    assert data.read(2, np.array([32]))["video"].shape[1] == 0
    assert data.timestamps(2)[-1] > 2, "the cameras' times are there all the same"
    assert data.camera_poses(2, "left") is None
    with pytest.raises(DataError, match=r"episode 2 has no cameras \['left'\]; it has \[\]"):
        data.read(2, np.array([0]), ("left",))


def test_a_camera_that_only_some_episodes_have(root: Path) -> None:
    (root / FIRST / f"recordings/MP4/{WRIST}.mp4").unlink()
    data = load(root)
    assert [data.cameras_of(i) for i in range(2)] == [data.cameras[:2], data.cameras]
    (root / SECOND / f"recordings/MP4/{WRIST}.mp4").unlink()
    assert load(root).cameras_of(1) == data.cameras[:2], "an index of before says nothing of now"
    with pytest.raises(DataError, match=r"no videos of \['wrist'\]: none of its 3 episodes"):
        load(root, cameras=("left", "wrist"))
    with pytest.raises(ConfigError, match=r"no cameras \['front'\]; it has left, right"):
        load(root, cameras=("front",))


def test_sides_follow_from_the_extrinsics_where_paths_are_missing(root: Path) -> None:
    for folder in (FIRST, SECOND):
        paths = [f"{key}_mp4_path" for key in ("left", "right", "ext1", "ext2", "wrist")]
        change_metadata(root, folder, **dict.fromkeys(paths))
    before, after = load(root.parent / "droid_raw"), load(root)
    assert [before.cameras_of(i) for i in range(3)] == [after.cameras_of(i) for i in range(3)]
    assert poses_of(after, 0, "left")[0, 1, 3] == 0.5
    assert poses_of(after, 1, "left")[0, 1, 3] == 0.5


def test_sides_are_never_guessed(root: Path) -> None:
    change_metadata(root, left_mp4_path=None, right_mp4_path=None)
    change_metadata(root, ext2_cam_extrinsics=[0, -1, 0, 0, 0, 0])
    for side, cameras in (
        (1, ("left", "right", "wrist")),
        (np.nan, ("wrist",)),
        (10**400, ("wrist",)),
    ):
        change_metadata(root, ext1_cam_extrinsics=[0, side, 0, 0, 0, 0])
        assert load(root).cameras_of(0) == cameras, "JSON has whole numbers too"


def test_a_link_to_a_folder_above_is_not_followed(root: Path) -> None:
    (root / "TRI" / "loop").symlink_to(root, target_is_directory=True)
    assert load(root).lengths == LENGTHS


def test_only_the_file_name_of_a_path_in_the_metadata_counts(root: Path) -> None:
    change_metadata(root, left_mp4_path=f"../../../../etc/{EXT2}-stereo.mp4")
    video = load(root).read(0, np.array([3]), ("left",))["video"][0, 0]
    expected = frames_of(root / FIRST / f"recordings/MP4/{EXT2}.mp4")[3]
    np.testing.assert_array_equal(video.permute(1, 2, 0).numpy(), expected)
    change_metadata(root, left_mp4_path="/etc/passwd")
    assert load(root).cameras_of(0) == ("right", "wrist")


@pytest.mark.parametrize(("outcome", "lengths"), [("success", LENGTHS[:2]), ("failure", [33])])
def test_outcomes_may_be_chosen(original: Path, outcome: str, lengths: list[int]) -> None:
    assert load(original, outcome=outcome).lengths == lengths
    if outcome == "failure":
        with pytest.raises(DataError, match="has no episodes of failure in raw DROID's layout"):
            load(original / "AUTOLab", outcome=outcome)


def test_a_list_chooses_episodes_and_their_order(original: Path, tmp_path: Path) -> None:
    csv = tmp_path / "list.csv"
    csv.write_text(f"\ufeff{original / SECOND} 0\r\n\r\n{FIRST},some label\r\n")
    data = load(original, csv=str(csv))
    assert data.lengths == [25, 30]
    assert data.about(0)["source"] == f"{SECOND}/trajectory.h5"
    csv.write_text(f"{original / FIRST}\n")
    assert load(original / "TRI", csv=str(csv)).lengths == [30], "a full path may lie elsewhere"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{FIRST}\nAUTOLab/success/gone 1\n", "line 2 names 'AUTOLab/success/gone', where there"),
        (f"{FIRST}\n\n./{FIRST}\n", "line 3 names the folder of line 1 again"),
        ("AUTOLab\n", "line 1 names 'AUTOLab', where there is no trajectory.h5"),
        (",\n", "line 1 names ''"),
        ("", "has no episodes"),
    ],
)
def test_a_wrong_list_is_refused_by_line(
    original: Path, tmp_path: Path, text: str, message: str
) -> None:
    csv = tmp_path / "list.csv"
    csv.write_text(text)
    with pytest.raises(DataError, match=message):
        load(original, csv=str(csv))


def test_a_list_that_is_missing_or_no_text_is_refused(original: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.csv cannot be read"):
        load(original, csv=str(tmp_path / "gone.csv"))
    (tmp_path / "list.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"list\.csv is no text in UTF-8"):
        load(original, csv=str(tmp_path / "list.csv"))


def test_the_list_that_is_written_reads_back(original: Path, tmp_path: Path) -> None:
    out = tmp_path / "droid.csv"
    assert write_csv(original, out) == 2, "the third has no video"
    assert out.read_text() == f"{original / FIRST}\n{original / SECOND}\n"
    assert load(original, csv=str(out)).lengths == LENGTHS[:2]
    assert write_csv(original, out, shortest=26) == 1
    with pytest.raises(DataError, match="with the camera 'left' and 31 frames"):
        write_csv(original, out, outcome="success", shortest=31)
    assert out.read_text() == f"{original / FIRST}\n", "a failure leaves the old list alone"


def test_full_paths_and_a_relative_root_name_the_same_episodes(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full.csv").write_text(f"{original / FIRST}\n")
    (tmp_path / "short.csv").write_text(f"{FIRST}\n")
    monkeypatch.chdir(original.parent)
    full = load(Path(original.name), csv=str(tmp_path / "full.csv"))
    short = load(original, csv=str(tmp_path / "short.csv"))
    assert full.fingerprint == short.fingerprint
    assert write_csv(original.name, tmp_path / "again.csv") == 2
    assert (tmp_path / "again.csv").read_text().startswith(f"{original / FIRST}\n")


def test_paths_with_spaces_survive_the_list(original: Path, tmp_path: Path) -> None:
    root = shutil.copytree(original / FIRST, tmp_path / "my data" / "one, two")
    write_csv(root, tmp_path / "droid.csv")
    assert (tmp_path / "droid.csv").read_text() == f'"{root}"\n'
    assert load(tmp_path, csv=str(tmp_path / "droid.csv")).lengths == [30]


def test_paths_with_commas_survive_the_list(original: Path, tmp_path: Path) -> None:
    root = shutil.copytree(original / FIRST, tmp_path / "one,two;three")
    write_csv(root, tmp_path / "droid.csv")
    assert load(tmp_path, csv=str(tmp_path / "droid.csv")).lengths == [30]


def cut(path: Path, share: float) -> None:
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * share))


def drop(key: str) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        del file[key]

    return edit


def put(key: str, value: np.ndarray) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        del file[key]
        file[key] = value

    return edit


def killed_writer(root: Path) -> None:
    path = root / FIRST / "trajectory.h5"
    code = f"""
import h5py, numpy, os
file = h5py.File({str(path)!r}, "w")
for key in {list(WIDTHS)}:
    file.create_dataset(key, data=numpy.zeros((30, 7)), maxshape=(None, 7))
os._exit(9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)


POSE = "observation/robot_state/cartesian_position"
FAULTS = {
    "a cut h5": (lambda root: cut(root / FIRST / "trajectory.h5", 0.6), r"trajectory\.h5"),
    "an empty h5": (lambda root: cut(root / FIRST / "trajectory.h5", 0), r"trajectory\.h5"),
    "an h5 whose writer was killed": (killed_writer, r"trajectory\.h5 .* download it again"),
    "no pose": (
        lambda root: change_numbers(root, drop(POSE)),
        rf"trajectory\.h5 has no {POSE}; read another state",
    ),
    "no command": (
        lambda root: change_numbers(root, drop("action")),
        r"has no action/cartesian_position, action/gripper_position; .*action=delta",
    ),
    "a wide pose": (
        lambda root: change_numbers(root, put(POSE, np.zeros((30, 7)))),
        r"cartesian_position has the shape \(30, 7\), expected \(30, 6\)",
    ),
    "fewer commands": (
        lambda root: change_numbers(root, put("action/joint_position", np.zeros((29, 7)))),
        r"action/joint_position has the shape \(29, 7\), expected \(30, 7\)",
    ),
    "another layout": (
        lambda root: change_numbers(root, lambda file: file.clear()),
        r"trajectory\.h5 has none of observation/robot_state",
    ),
    "no h5": (
        lambda root: (root / FIRST / "trajectory.h5").unlink(),
        r"2023 has no trajectory\.h5",
    ),
    "no metadata": (
        lambda root: next((root / FIRST).glob("metadata*")).unlink(),
        r"2023 has 0 metadata files, expected one",
    ),
    "broken metadata": (
        lambda root: cut(change_metadata(root), 0.5),
        r"metadata_.*json is not JSON",
    ),
    "metadata that are a list": (
        lambda root: change_metadata(root).write_text("[]"),
        r"metadata_.*json holds a JSON list, expected an object",
    ),
    "metadata nested too deep": (
        lambda root: change_metadata(root).write_text("[" * 100_000),
        r"metadata_.*json is not JSON",
    ),
    "a success of another kind": (
        lambda root: change_metadata(root, success="yes"),
        r"metadata_.*json: 'success' is 'yes', expected bool",
    ),
    "a cut video": (
        lambda root: cut(root / FIRST / f"recordings/MP4/{EXT1}.mp4", 0.6),
        rf"{EXT1}\.mp4",
    ),
    "a video two frames short": (
        lambda root: write_video(root / FIRST / f"recordings/MP4/{EXT1}.mp4", scene(28, 96, 0)),
        rf"{EXT1}\.mp4 has 28 frames and trajectory\.h5 beside it 30 rows, expected as many",
    ),
    "a video one frame longer": (
        lambda root: write_video(root / FIRST / f"recordings/MP4/{EXT1}.mp4", scene(31, 96, 0)),
        rf"{EXT1}\.mp4 has 31 frames and trajectory\.h5 beside it 30 rows, expected as many",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_episode_is_named_or_skipped_and_listed(root: Path, name: str) -> None:
    break_it, message = FAULTS[name]
    break_it(root)
    with pytest.raises(DataError, match=message):
        load(root)
    with pytest.raises(DataError, match=r"1 of \d \w+ are broken, more than the 1.00%"):
        load(root, on_error="skip")
    data = load(root, on_error="skip", most_skipped=0.5)
    assert data.lengths == LENGTHS[1:]
    assert data.about(0)["source"] == f"{SECOND}/trajectory.h5"
    assert len(data.skipped) == 1
    [(where, _)] = data.skipped.items()
    assert FIRST in where


def test_actions_may_be_missing_where_they_are_not_read(root: Path) -> None:
    change_numbers(root, drop("action"))
    assert write_csv(root, root / "list.csv") == 2
    assert load(root, action="delta").lengths == LENGTHS


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_none_is_found_when_read(root: Path, value: float) -> None:
    def edit(file: h5py.File) -> None:
        column(file, POSE)[17, 2] = value

    change_numbers(root, edit)
    data = load(root)
    with pytest.raises(DataError, match=rf"{POSE} is not finite in row 17 \(1 rows are not\)"):
        data.read(0, np.array([0]), ())
    data.read(1, np.array([0]), ())


def test_time_that_stands_still_is_found(root: Path) -> None:
    def edit(file: h5py.File) -> None:
        stamps = column(file, f"observation/timestamp/cameras/{EXT1}_frame_received")
        stamps[9] = stamps[8]

    change_numbers(root, edit)
    with pytest.raises(DataError, match=rf"{EXT1}_frame_received does not increase in row 9"):
        load(root).timestamps(0)


def test_a_clock_that_is_no_clock_is_found_or_its_episode_skipped(root: Path) -> None:
    key = f"observation/timestamp/cameras/{EXT1}_frame_received"
    still = table(root, FIRST, key)
    still[9] = still[8]
    for value, message in (
        (still, rf"{EXT1}_frame_received does not increase in row 9"),
        (np.full(30, np.nan), rf"{EXT1}_frame_received has no finite time in each of 30 rows"),
        (np.arange(29), rf"{EXT1}_frame_received has no finite time in each of 30 rows"),
    ):
        change_numbers(root, put(key, value))
        with pytest.raises(DataError, match=message + ".*on_error=skip"):
            load(root).timestamps(0)
        kept = load(root, on_error="skip", most_skipped=0.5)
        assert kept.lengths == LENGTHS[1:]
        [(where, why)] = kept.skipped.items()
        assert where == FIRST
        assert "_frame_received" in why
        for other in ({"clock": "header"}, {"cameras": ("wrist",)}):
            assert load(root, on_error="skip", **other).lengths == LENGTHS, "it is not asked for"


def test_planning_opens_no_file(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load(original)
    monkeypatch.setattr("saccade.data.droid.raw.Hdf5Files", None)
    plan = ClipWindow(num_frames=4, step_seconds=0.25, every=2).plan(data, 0, 0)
    assert set(plan[:, 0]) == {0, 1, 2}
    few = pickle.dumps(data._entries[2].clock)
    assert len(few) < 400, "33 times take as much in memory as ten numbers do"


def test_without_recorded_times_frames_are_a_fifteenth_apart(root: Path) -> None:
    change_numbers(root, drop("observation/timestamp"))
    np.testing.assert_allclose(load(root).timestamps(0), np.arange(30) / 15)


def test_a_video_that_was_damaged_later_is_an_error_when_read(root: Path) -> None:
    data = load(root)
    path = root / FIRST / f"recordings/MP4/{EXT1}.mp4"
    with path.open("r+b") as file:
        file.seek(2000)
        file.write(bytes(3000))
    with pytest.raises(DataError, match=rf"{EXT1}\.mp4"):
        data.read(0, np.arange(30), ("left",))


def test_the_fingerprint_follows_content_not_time(root: Path, original: Path) -> None:
    data = load(root)
    assert data.fingerprint == load(original).fingerprint
    os.utime(root / FIRST / "trajectory.h5", (0, 0))
    assert load(root).fingerprint == data.fingerprint
    write_video(root / FIRST / f"recordings/MP4/{EXT1}.mp4", scene(30, 96, seed=77))
    assert load(root).fingerprint != data.fingerprint
    assert load(original, cameras=("left",)).fingerprint != data.fingerprint


def test_memory_does_not_grow_with_the_episodes_read(
    original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saccade.data.droid.raw.KEPT", 2)
    data = load(original)
    for episode in (0, 1, 2, 0, 1, 2):
        data.read(episode, np.array([1]), ())
        assert len(data._memory) <= 2
