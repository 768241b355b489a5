"""EgoDex is read as the paper says: joints in the camera's frame, part by part, never a guess."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from saccade.config import from_dict, to_dict
from saccade.data.egodex import reader as egodex
from saccade.data.egodex.files import JOINTS
from saccade.data.egodex.reader import EgoDex, EgoDexConfig, manifest
from saccade.data.episodes import state_groups
from saccade.data.files.folder import Folder
from saccade.data.video.codec import decode_frames, encode
from saccade.errors import DataError
from tests.contracts import check_reader
from tests.fixtures.egodex import (
    FOCAL,
    make_poses,
    make_texts,
    write_egodex,
    write_hdf5,
    write_pair,
)

ROOM = (54, 96)  # pixels, a twentieth of the official ones


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two parts of two tasks of three episodes. Read only."""
    return write_egodex(tmp_path_factory.mktemp("egodex"))


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """One episode of 6 frames, to be changed: the path of its HDF5 file."""
    write_pair(tmp_path / "test" / "fold_towel" / "0", "fold_towel", 0, 6, ROOM)
    return tmp_path / "test" / "fold_towel" / "0.hdf5"


def build(root: Path, **options) -> EgoDex:
    return EgoDexConfig(root=root, **options).build()


def change(path: Path, edit: Callable[[h5py.File], object]) -> None:
    """Put another file in its place: HDF5 does not change one that an old traceback still holds."""
    copy = path.with_suffix(".copy")
    shutil.copyfile(path, copy)
    with h5py.File(copy, "r+") as file:
        edit(file)
    copy.replace(path)


def replace(path: Path, key: str, value) -> None:
    def edit(file: h5py.File) -> None:
        del file[key]
        file[key] = value

    change(path, edit)


def test_holds_the_contract_of_readers(root: Path) -> None:
    check_reader(build(root, parts=("part1",)))


def test_lists_parts_tasks_and_numbers_in_order(root: Path) -> None:
    data = build(root)
    numbers = [f"{task}/{k}" for task in ("add_remove_lid", "fold_towel") for k in (0, 1, 10)]
    assert data.stems == [f"{part}/{one}" for part in ("part1", "part2") for one in numbers]
    assert data.lengths == list(range(24, 60, 3))
    assert (data.fps, data.cameras) == (30.0, ("head",))
    np.testing.assert_allclose(data.timestamps(0), np.arange(24) / 30)


def test_a_part_and_a_task_open_alone(root: Path) -> None:
    part, task = build(root / "part2"), build(root / "part2" / "fold_towel")
    assert part.stems[3] == "fold_towel/0"
    assert task.stems == ["0", "1", "10"]
    whole = build(root)
    for data, episode, same in ((part, 3, 9), (task, 1, 10)):
        about, expected = data.about(episode), whole.about(same)
        assert (about["part"], about["task"]) == ("part2", "fold_towel")
        assert about | {"source": ""} == expected | {"source": ""}
        ours, theirs = (d.read(e, np.arange(5)) for d, e in ((data, episode), (whole, same)))
        assert torch.equal(ours["video"], theirs["video"])
        assert torch.equal(ours["state"], theirs["state"])


def test_part1_touches_nothing_else(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Watched(Folder):
        def children(self, under: str = "") -> list[str]:
            seen.append(under)
            return super().children(under)

        def stamp(self, name: str) -> str:
            seen.append(name)
            return super().stamp(name)

        def path(self, name: str) -> Path:
            seen.append(name)
            return super().path(name)

    shutil.copytree(root / "part1", tmp_path / "part1")
    (tmp_path / "part2" / "fold_towel").mkdir(parents=True)
    (tmp_path / "part2" / "fold_towel" / "0.hdf5").write_text("broken")
    (tmp_path / "part2" / "fold_towel" / "0.mp4").write_text("broken")
    monkeypatch.setattr(egodex, "open_folder", Watched)
    data = build(tmp_path, parts=("part1",))
    data.read(5, np.array([3]))
    assert len(data.lengths) == 6
    assert seen
    assert [name for name in seen if not name.startswith("part1")] == []
    seen.clear()
    assert EgoDexConfig.recognises(Watched(tmp_path))
    assert seen == ["", "", "part1", "part1", "part1/add_remove_lid"]
    monkeypatch.undo()
    assert build(tmp_path, parts=("part1/", "part1")).stems == data.stems
    with pytest.raises(DataError, match=r"part2/fold_towel/0\.(hdf5|mp4)"):
        build(tmp_path)


def test_a_part_that_is_not_there_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"part3 is missing or empty.*part3\.zip"):
        build(root, parts=("part1", "part3"))
    with pytest.raises(DataError, match="has no pairs"):
        build(tmp_path)


def test_hands_are_seen_from_the_camera_of_the_same_frame(root: Path) -> None:
    data, poses = build(root), make_poses(2, 30)
    frames = np.array([0, 7, 29, 7])
    found = data.read(2, frames, ())
    assert data.state_names[:10] == (
        *(f"left_hand.{axis}" for axis in "xyz"),
        *(f"left_hand.r{cell}" for cell in ("11", "21", "31", "12", "22", "32")),
        "left_thumb_tip.x",
    )
    assert len(data.state_names) == len(data.action_names) == 48
    assert data.state_names[24] == "right_hand.x"
    assert data.state_names[-1] == "right_little_finger_tip.z"
    later = np.minimum(frames + 1, 29)
    for name, moved in (("state", frames), ("action", later)):
        for row, (t, u) in enumerate(zip(frames, moved, strict=True)):
            to_view = np.linalg.inv(poses["camera"][t])
            hand = to_view @ poses["rightHand"][u]
            tip = to_view @ poses["rightRingFingerTip"][u]
            vector = found[name][row].numpy()
            np.testing.assert_allclose(vector[24:27], hand[:3, 3], atol=1e-6)
            np.testing.assert_allclose(vector[27:30], hand[:3, 0], atol=1e-6)
            np.testing.assert_allclose(vector[30:33], hand[:3, 1], atol=1e-6)
            np.testing.assert_allclose(vector[42:45], tip[:3, 3], atol=1e-6)


def test_the_picture_shows_the_wrist_where_the_matrix_puts_it(root: Path) -> None:
    data = build(root)
    matrix = data.intrinsics(3, "head")
    np.testing.assert_allclose(np.diagonal(matrix), [FOCAL / 20, FOCAL / 20, 1], rtol=1e-6)
    frames = data.read(3, np.arange(0, 30, 6))
    for picture, state in zip(frames["video"][:, 0], frames["state"].numpy(), strict=True):
        x, y, z = matrix @ state[24:27]
        red, green, _ = picture[:, round(y / z), round(x / z)].tolist()
        assert green > 180
        assert red < 80


def test_the_world_and_the_wrists_alone_are_options(root: Path) -> None:
    data = build(root, state="wrists", frame="world")
    assert len(data.state_names) == 18
    assert {name: len(dims) for name, dims in state_groups(data.state_names).items()} == {
        "position": 6,
        "rotation": 12,
    }
    found, poses = data.read(0, np.array([4, 23]), ()), make_poses(0, 24)
    np.testing.assert_allclose(found["state"][:, :3], poses["leftHand"][[4, 23], :3, 3], atol=1e-6)
    np.testing.assert_allclose(found["action"][:, :3], poses["leftHand"][[5, 23], :3, 3], atol=1e-6)
    body = build(root, state="all")
    assert len(body.state_names) == 68 * 9
    assert body.state_names[0] == "hip.x"


def test_there_are_68_joints() -> None:
    assert len(set(JOINTS)) == len(JOINTS) == 68
    assert set(JOINTS) == set(make_poses(0, 1)) - {"camera"}


def test_any_joint_can_be_asked_for(root: Path) -> None:
    data, poses, frames = build(root), make_poses(1, 27), np.array([26, 0])
    to_view = np.linalg.inv(poses["camera"][frames])
    for joint in ("neck4", "leftForearm", "leftThumbKnuckle"):
        world = poses[joint][frames]
        found = data.transforms(1, joint, frames, "world")
        np.testing.assert_allclose(found, world, atol=1e-6)
        np.testing.assert_allclose(data.transforms(1, joint, frames), to_view @ world, atol=1e-6)
    np.testing.assert_allclose(data.camera_poses(1, "head"), poses["camera"], atol=1e-6)
    with pytest.raises(DataError, match="no joint 'tail'"):
        data.transforms(1, "tail", frames)
    with pytest.raises(DataError, match="outside episode"):
        data.transforms(1, "hip", np.array([27]))


def test_a_finger_is_as_sure_as_its_hand_allows(root: Path) -> None:
    data, frames = build(root), np.array([3, 20])

    def stored(joint: str) -> np.ndarray:
        with h5py.File(root / "part1/add_remove_lid/0.hdf5") as file:
            return np.asarray(file[f"confidences/{joint}"])[frames]

    def found(joint: str) -> np.ndarray:
        shares = data.confidences(0, joint, frames)
        assert shares is not None
        return shares

    hand, tip = stored("leftHand"), stored("leftRingFingerTip")
    assert np.ptp(hand) > 0.01
    np.testing.assert_allclose(found("leftHand"), hand)
    np.testing.assert_allclose(found("leftRingFingerTip"), hand * tip)
    np.testing.assert_allclose(found("leftArm"), stored("leftArm"))


def test_what_old_files_lack_is_said(root: Path) -> None:
    data = build(root)
    assert data.confidences(2, "leftHand", np.array([0])) is None
    assert (data.about(2)["confidences"], data.about(2)["intrinsics"]) == (False, "default")
    assert (data.about(1)["confidences"], data.about(1)["intrinsics"]) == (True, "stored")
    np.testing.assert_allclose(data.intrinsics(2, "head"), data.intrinsics(1, "head"), rtol=1e-7)


def test_texts_follow_the_direction_of_a_reversible_task(root: Path) -> None:
    data = build(root)
    assert data.tasks[:3] == ["Add remove lid.", "Undo add remove lid.", "Add remove lid."]
    assert data.tasks[3:6] == ["Fold towel."] * 3
    about = data.about(1)
    assert about["tasks"] == ["Undo add remove lid.", "Add remove lid."]
    assert about["source"] == "part1/add_remove_lid/1.hdf5"
    assert about["scene"] == "kitchen_1/session_0"
    assert about["verbs"] == ["add", "remove"]
    assert about["annotated"] is True
    assert "NC-ND" in about["licence"]


def test_the_manifest_counts_each_part(root: Path) -> None:
    sizes = [path.stat().st_size for path in (root / "part2").rglob("*.*")]
    found = manifest(build(root))
    assert list(found) == ["part1", "part2"]
    assert found["part2"] == {
        "episodes": 6,
        "tasks": 2,
        "frames": sum(range(42, 60, 3)),
        "hours": pytest.approx(297 / 30 / 3600),
        "bytes": sum(sizes),
        "left_out": 0,
    }


def test_files_without_their_mate_are_left_out_and_said(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "part1"
    shutil.copytree(root / "part1", copy)
    (copy / "fold_towel" / "0.mp4").unlink()
    (copy / "fold_towel" / "10.hdf5").unlink()
    with pytest.warns(UserWarning, match="2 files without their mate"):
        data = build(tmp_path)
    assert [stem for stem in data.stems if "towel" in stem] == ["part1/fold_towel/1"]
    assert data.skipped == {
        "part1/fold_towel/0.hdf5": "there is no part1/fold_towel/0.mp4",
        "part1/fold_towel/10.mp4": "there is no part1/fold_towel/10.hdf5",
    }
    assert manifest(data)["part1"]["left_out"] == 2


@pytest.mark.parametrize("rows", [5, 7])
def test_files_may_differ_by_one_frame(pair: Path, rows: int) -> None:
    poses = make_poses(0, rows)
    write_hdf5(pair, poses, make_texts("fold_towel", 0), old=False)
    data = build(pair.parents[2])
    assert data.lengths == [min(rows, 6)]
    assert (data.about(0)["rows"], data.about(0)["video_frames"]) == (rows, 6)
    last = data.lengths[0] - 1
    found = data.read(0, np.array([last]), ())["action"][0, :3]
    hand = np.linalg.inv(poses["camera"][last]) @ poses["leftHand"][min(last + 1, rows - 1)]
    np.testing.assert_allclose(found, hand[:3, 3], atol=1e-6)


@pytest.mark.parametrize("rows", [4, 8])
def test_files_that_differ_by_more_are_refused(pair: Path, rows: int) -> None:
    write_hdf5(pair, make_poses(0, rows), make_texts("fold_towel", 0), old=False)
    with pytest.raises(DataError, match=rf"0\.hdf5 has {rows} rows, its video 6 frames"):
        build(pair.parents[2])


def test_a_rate_other_than_30_is_said(pair: Path) -> None:
    video = decode_frames(pair.with_suffix(".mp4"), np.arange(6)).permute(0, 2, 3, 1).numpy()
    encode(pair.with_suffix(".mp4"), video, 25.0)
    assert build(pair.parents[2]).about(0)["video_fps"] == pytest.approx(25)


def test_damage_is_named_when_the_set_is_opened(pair: Path) -> None:
    whole = pair.read_bytes()
    for data in (b"", whole[: len(whole) // 2], b"not HDF5" * 1000):
        pair.write_bytes(data)
        with pytest.raises(DataError, match=r"0\.hdf5"):
            build(pair.parents[2])
    pair.write_bytes(whole)
    video = pair.with_suffix(".mp4")
    video.write_bytes(video.read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"0\.mp4"):
        build(pair.parents[2])


def test_joints_that_are_missing_or_misshapen_are_named(pair: Path) -> None:
    root = pair.parents[2]
    replace(pair, "transforms/leftArm", np.zeros((6, 3, 4), np.float32))
    with pytest.raises(DataError, match=r"0\.hdf5: transforms/leftArm has the shape \[6, 3, 4\]"):
        build(root).transforms(0, "leftArm", np.array([0]))
    hand = make_poses(0, 6)["leftHand"]
    for wrong in (hand[:5], hand.astype(np.int32), hand[:, :3]):
        replace(pair, "transforms/leftHand", wrong)
        with pytest.raises(DataError, match=r"0\.hdf5: transforms/leftHand has the shape"):
            build(root)
    replace(pair, "transforms/leftHand", hand)
    change(pair, lambda file: file.__delitem__("transforms/leftArm"))
    assert build(root).lengths == [6]
    with pytest.raises(
        DataError, match="lacks 1 joints of the state 'all', such as transforms/leftArm"
    ):
        build(root, state="all")
    with pytest.raises(DataError, match="leftArm"):
        build(root).transforms(0, "leftArm", np.array([0]))
    change(pair, lambda file: file.__delitem__("transforms/rightHand"))
    with pytest.raises(DataError, match=r"lacks 1 joints of .*transforms/rightHand"):
        build(root)
    change(pair, lambda file: file.__delitem__("transforms"))
    with pytest.raises(DataError, match=r"0\.hdf5.*transforms"):
        build(root)


@pytest.mark.parametrize("fault", ["nan", "scaled", "mirrored", "not affine", "zero"])
def test_poses_that_are_no_motion_are_refused(pair: Path, fault: str) -> None:
    poses = make_poses(0, 6)["leftHand"].astype(np.float32)
    bad = {
        "nan": np.full((4, 4), np.nan),
        "scaled": np.diag([1.1, 1.1, 1.1, 1]) @ poses[4],
        "mirrored": poses[4] @ np.diag([-1, 1, 1, 1]),
        "not affine": poses[4] + np.eye(4)[[3]].T @ np.ones((1, 4)),
        "zero": np.zeros((4, 4)),
    }
    poses[4] = bad[fault]
    replace(pair, "transforms/leftHand", poses)
    data = build(pair.parents[2])
    data.read(0, np.arange(3), ())
    with pytest.raises(DataError, match=r"0\.hdf5: transforms/leftHand is .* at frame 4"):
        data.read(0, np.arange(4), ())  # the action of frame 3


def test_confidences_and_intrinsics_are_checked(pair: Path) -> None:
    replace(pair, "confidences/leftHand", np.full(6, 1.5, np.float32))
    replace(pair, "camera/intrinsic", np.zeros((3, 3), np.float32))
    data = build(pair.parents[2])
    with pytest.raises(DataError, match=r"confidences/leftHand .* expected one from 0 to 1"):
        data.confidences(0, "leftThumbTip", np.array([0]))
    with pytest.raises(DataError, match="expected a camera matrix"):
        data.intrinsics(0, "head")


def test_broken_pairs_are_skipped_up_to_a_share(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "part1", tmp_path / "part1")
    (tmp_path / "part1" / "fold_towel" / "1.hdf5").write_bytes(b"x" * 100)
    short = tmp_path / "part1" / "fold_towel" / "0.hdf5"
    write_hdf5(short, make_poses(0, 9), make_texts("fold_towel", 0), old=False)
    data = build(tmp_path, on_error="skip", most_skipped=0.34)
    assert len(data.lengths) == 4
    assert list(data.skipped) == ["part1/fold_towel/1.hdf5", "part1/fold_towel/0.hdf5"]
    with pytest.raises(DataError, match="2 of 6 pairs are broken"):
        build(tmp_path, on_error="skip", most_skipped=0.3)


def test_recognises_pairs_and_nothing_else(root: Path, tmp_path: Path) -> None:
    for place in (root, root / "part1", root / "part1" / "fold_towel"):
        assert EgoDexConfig.recognises(Folder(place))
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "task_demo.hdf5").touch()
    (tmp_path / "suite" / "0.hdf5").touch()
    (tmp_path / "suite" / "1.mp4").touch()
    assert not EgoDexConfig.recognises(Folder(tmp_path))


def test_the_fingerprint_follows_files_and_options(root: Path) -> None:
    variants = [
        build(root),
        build(root, parts=("part1",)),
        build(root, frame="world"),
        build(root, state="wrists"),
    ]
    assert len({data.fingerprint for data in variants}) == 4
    assert build(root).fingerprint == variants[0].fingerprint


def test_has_one_camera_and_survives_json(root: Path) -> None:
    with pytest.raises(DataError, match="has no cameras"):
        build(root, cameras=("wrist",))
    config = EgoDexConfig(root=root, parts=("part1",), state="wrists", cameras=("head",))
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
