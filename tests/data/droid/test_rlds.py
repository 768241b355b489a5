"""DROID in our units and senses, with the values of its files."""

import json
from pathlib import Path

import numpy as np
import pytest

from saccade.config import from_dict, to_dict
from saccade.data.droid.rlds import DroidConfig
from saccade.data.files.folder import Folder
from saccade.errors import DataError
from saccade.geometry import euler_xyz_to_matrix
from tests.contracts import check_reader
from tests.fixtures.rlds import droid_episode, droid_features, write_droid, write_rlds

LENGTHS = (24, 31, 28)
WHERE = "steps/observation/"
ASKED = "steps/action_dict/"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_droid(tmp_path_factory.mktemp("rlds") / "droid_100", LENGTHS)


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_droid(tmp_path_factory.mktemp("rlds") / "droid", LENGTHS, more=True)


def stored(number: int) -> dict[str, np.ndarray]:
    made = droid_episode(number, LENGTHS[number], 4, 4, more=False)
    return {k: v.astype(np.float32) for k, v in made.items() if isinstance(v, np.ndarray)}


def test_poses_and_commands_by_default(root: Path) -> None:
    episodes = DroidConfig(root=root).build()
    assert episodes.fps == 15
    assert episodes.cameras == ("exterior_1", "exterior_2", "wrist")
    assert episodes.lengths == [24, 31, 28]
    assert episodes.state_names == ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
    assert episodes.action_names == episodes.state_names
    frames = np.array([5, 0])
    state, action = episodes.numbers(1, frames)
    values = stored(1)
    np.testing.assert_array_equal(state[:, :6], values[f"{WHERE}cartesian_position"][frames])
    np.testing.assert_array_equal(action[:, :6], values[f"{ASKED}cartesian_position"][frames])
    closed = values[f"{WHERE}gripper_position"][frames, 0]
    np.testing.assert_allclose(state[:, 6], 1 - closed, atol=1e-7)
    asked = values[f"{ASKED}gripper_position"][frames, 0]
    np.testing.assert_allclose(action[:, 6], 1 - asked, atol=1e-7)


def test_joints(root: Path) -> None:
    episodes = DroidConfig(root=root, state="joint", action="joint").build()
    assert episodes.state_names == (*(f"joint_{i}" for i in range(1, 8)), "gripper")
    state, action = episodes.numbers(0, np.arange(24))
    np.testing.assert_array_equal(state[:, :7], stored(0)[f"{WHERE}joint_position"])
    np.testing.assert_array_equal(action[:, :7], stored(0)[f"{ASKED}joint_position"])


def test_velocities_are_steps(root: Path) -> None:
    """Within limits a command is the step to the pose that is asked for: 0.075 m and 0.15 rad."""
    episodes = DroidConfig(root=root, action="cartesian_velocity").build()
    _, action = episodes.numbers(0, np.arange(24))
    velocity = stored(0)[f"{ASKED}cartesian_velocity"]
    assert np.linalg.norm(velocity[:, :3], axis=1).max() < 1
    np.testing.assert_allclose(action[:, :3], velocity[:, :3] * 0.075, rtol=1e-5)
    _, action = DroidConfig(root=root, action="joint_velocity").build().numbers(0, np.arange(24))
    velocity = stored(0)[f"{ASKED}joint_velocity"]
    assert np.abs(velocity).max() < 1
    np.testing.assert_allclose(action[:, :7], velocity * 0.2, rtol=1e-5)


def test_measured_deltas_lead_to_the_next_frame(root: Path) -> None:
    episodes = DroidConfig(root=root, action="delta").build()
    state, action = (x.astype(np.float64) for x in episodes.numbers(2, np.arange(28)))
    np.testing.assert_allclose(state[:-1, :3] + action[:-1, :3], state[1:, :3], atol=1e-6)
    before, after = (euler_xyz_to_matrix(state[part, 3:6]) for part in (slice(-1), slice(1, None)))
    turned = euler_xyz_to_matrix(action[:-1, 3:6]) @ before
    np.testing.assert_allclose(turned, after, atol=1e-6)
    np.testing.assert_allclose(state[:-1, 6] + action[:-1, 6], state[1:, 6], atol=1e-6)
    assert not action[-1].any()


def test_outcomes_and_words(root: Path) -> None:
    episodes = DroidConfig(root=root).build()
    assert [episodes.about(i)["success"] for i in range(3)] == [True, False, True]
    assert episodes.tasks[1] == "put block 1 into the bowl"
    assert episodes.about(1)["tasks"] == ["put block 1 into the bowl", "move block 1"]
    assert episodes.about(2)["source"].endswith(
        "r2d2_faceblur-train.tfrecord-00001-of-00002, record 0"
    )
    assert "scene" not in episodes.about(0)
    assert DroidConfig(root=root, outcome="success").build().lengths == [24, 28]
    failures = DroidConfig(root=root, outcome="failure").build()
    assert failures.tasks == ["put block 1 into the bowl"]
    folder = "gs://data/r2d2/TINY/failure/2023-07-02/Sat_Jul_1"
    assert failures.key(0) == f"{folder}/recordings/MP4--{folder}/trajectory.h5"


def test_cameras_by_either_name(root: Path) -> None:
    episodes = DroidConfig(root=root, cameras=("wrist_image_left", "exterior_2")).build()
    assert episodes.cameras == ("wrist", "exterior_2")
    with pytest.raises(DataError, match=r"has no cameras \['left'\]; it has \['exterior_1'"):
        DroidConfig(root=root, cameras=("left",)).build()


def test_the_wrist_can_be_turned(root: Path) -> None:
    as_stored, turned = (DroidConfig(root=root, turn_wrist=t).build() for t in (False, True))
    frames = np.array([7, 2])
    upright = as_stored.pixels(0, "wrist", frames).flip(2, 3)
    assert turned.pixels(0, "wrist", frames).equal(upright)
    assert turned.encoded(0, "wrist", frames) is None
    other = as_stored.pixels(0, "exterior_1", frames)
    assert turned.pixels(0, "exterior_1", frames).equal(other)
    assert as_stored.fingerprint != turned.fingerprint


def test_the_newer_release_has_scenes_and_cameras(newer: Path) -> None:
    episodes = DroidConfig(root=newer).build()
    assert [episodes.about(i)["scene"] for i in range(3)] == ["ILIAD/0", "ILIAD/0", "ILIAD/1"]
    poses = episodes.camera_poses(1, "exterior_1")
    assert poses is not None
    assert poses.shape == (31, 4, 4)
    np.testing.assert_allclose(poses[0, :3, 3], [0.3, 0.4, 0.5], atol=1e-6)
    np.testing.assert_allclose(poses[9, :3, :3], euler_xyz_to_matrix(np.array([-2.0, 0, -2])))
    assert episodes.camera_poses(1, "exterior_2") is None  # all zero: not measured
    assert episodes.camera_poses(1, "wrist") is None
    check_reader(episodes)


def with_pauses(root: Path, still: dict[int, slice]) -> Path:
    """Write DROID in which commanded joint velocities stay the same in some steps."""
    shards = []
    for number, length in enumerate((40, 36)):
        episode = droid_episode(number, length, 16, 24, more=False)
        velocity = np.zeros((length, 7))
        velocity[:, 0] = np.arange(length) % 2
        if number in still:
            velocity[still[number]] = 0.25
        shards.append([episode | {f"{ASKED}joint_velocity": velocity}])
    return write_rlds(root, "r2d2_faceblur", droid_features(16, 24, False), {"train": shards})


def test_pauses_are_dropped(tmp_path: Path) -> None:
    """Steps 17 to 25 repeat step 16: nine idle ones; of both sides the last ten are cut."""
    root = with_pauses(tmp_path / "droid", {0: slice(16, 26)})
    whole = DroidConfig(root=root).build()
    parts = DroidConfig(root=root, idle="drop").build()
    assert parts.lengths == [7, 26]  # 26 to 39 are fourteen steps: too few to keep
    assert parts.about(0)["source"].endswith("record 0, steps 0 to 6")
    assert parts.tasks == whole.tasks
    frames = np.array([0, 25, 3])
    for part, all_ in zip(parts.numbers(1, frames), whole.numbers(1, frames), strict=True):
        np.testing.assert_array_equal(part, all_)
    assert parts.pixels(1, "wrist", frames).equal(whole.pixels(1, "wrist", frames))
    check_reader(parts)


def test_what_stands_still_throughout_leaves_nothing(tmp_path: Path) -> None:
    root = with_pauses(tmp_path / "droid", {0: slice(None), 1: slice(None)})
    with pytest.raises(DataError, match="has no episodes with outcome=all and idle=drop"):
        DroidConfig(root=root, idle="drop").build()


def test_what_tfds_wrote(shared_data: Path) -> None:
    told = json.loads((shared_data / "droid_tiny" / "expected.json").read_text())
    expected = told["splits"]["train"]["episodes"]
    episodes = DroidConfig(root=shared_data / "droid_tiny").build()
    for i, episode in enumerate(expected):
        assert episodes.lengths[i] == episode["num_steps"]
        assert episodes.about(i)["success"] == (
            "/success/" in episode["episode_metadata"]["file_path"]
        )
        texts = [t for key in sorted(episode["text"]) for t in episode["text"][key] if t]
        assert episodes.about(i)["tasks"] == list(dict.fromkeys(texts))
    values = expected[0]["low_dim"]["action"]["values"]
    _, action = episodes.numbers(0, np.arange(20))
    np.testing.assert_allclose(action[:, :6], np.array(values)[:, :6], rtol=1e-6)
    np.testing.assert_allclose(action[:, 6], 1 - np.array(values)[:, 6], atol=1e-6)


def test_episodes_of_none_three_and_one_step(shared_data: Path) -> None:
    episodes = DroidConfig(root=shared_data / "droid_edge").build()
    assert episodes.lengths == [0, 3, 1]
    check_reader(episodes)
    delta = DroidConfig(root=shared_data / "droid_edge", action="delta").build()
    assert not delta.numbers(2, np.array([0]))[1].any()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("truncated", r"record 2 at byte 177887 needs \d+ bytes"),
        ("bad_length", "record . at byte .* has a length .* fails its checksum"),
        ("bitflip_in_last_record", "record 2 at byte 177887 fails its checksum"),
    ],
)
def test_broken_files(shared_data: Path, tmp_path: Path, name: str, reason: str) -> None:
    source = shared_data / "droid_edge"
    shard = "r2d2_faceblur-train.tfrecord-00000-of-00001"
    for file in ("features.json", "dataset_info.json"):
        (tmp_path / file).write_bytes((source / "1.0.0" / file).read_bytes())
    (tmp_path / shard).write_bytes((source / "broken" / f"{name}.tfrecord").read_bytes())
    with pytest.raises(DataError, match=f"{shard}: {reason}"):
        DroidConfig(root=tmp_path).build().read(2, np.array([0]))
    if name == "bad_length":  # of the first record: nothing can be found behind it
        with pytest.raises(DataError, match="3 of 3 records are broken"):
            DroidConfig(root=tmp_path, on_error="skip", most_skipped=0.9).build()
        return
    kept = DroidConfig(root=tmp_path, on_error="skip", most_skipped=0.9).build()
    assert kept.lengths == [0, 3]
    (lost,) = kept.records.skipped
    assert lost == f"{shard}, record 2"
    for episode, length in enumerate(kept.lengths):
        kept.read(episode, np.arange(length))


def test_recognition(root: Path, newer: Path, shared_data: Path) -> None:
    for folder in (root, newer, newer / "1.0.1", shared_data / "droid_tiny"):
        assert DroidConfig.recognises(Folder(folder))
    assert not DroidConfig.recognises(Folder(shared_data / "bridge_tiny"))
    assert not DroidConfig.recognises(Folder(shared_data))
    with pytest.raises(DataError, match="so it is another data set"):
        DroidConfig(root=shared_data / "bridge_tiny").build()


def test_another_width_is_another_data_set(tmp_path: Path) -> None:
    root = write_droid(tmp_path / "droid", (5, 4), (16, 24))
    path = root / "1.0.0/features.json"
    features = path.read_text()
    for key, width in (("joint_velocity", 7), ("cartesian_position", 6)):
        at = features.index('"7"' if width == 7 else '"6"', features.index(f'"{key}"'))
        path.write_text(features[:at] + '"4"' + features[at + 3 :])
        with pytest.raises(DataError, match=rf"\[4\] as steps/.*{key}, expected {width} numbers"):
            DroidConfig(root=root).build()
    path.write_text(features)
    twice = DroidConfig(root=root, cameras=("wrist", "wrist_image_left")).build()
    assert twice.cameras == ("wrist",)


def test_a_recording_without_a_name_has_no_key(tmp_path: Path) -> None:
    root = write_droid(tmp_path / "droid", (5, 4), (16, 24))
    path = root / "1.0.0/features.json"
    path.write_text(path.read_text().replace('"recording_folderpath"', '"folder"'))
    episodes = DroidConfig(root=root).build()
    with pytest.raises(DataError, match=r"record 0 at byte .* has no 'recording_folderpath'"):
        episodes.key(0)


def test_a_config_survives_json(root: Path) -> None:
    config = DroidConfig(root=str(root), action="delta", cameras=("wrist",))
    assert from_dict(to_dict(config)) == config
