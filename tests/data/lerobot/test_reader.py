"""We read what LeRobot wrote exactly as LeRobot reads it, and refuse what is damaged."""

import json
import pickle
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from saccade.config import from_dict, to_dict
from saccade.data.lerobot.reader import LeRobot, LeRobotConfig
from saccade.errors import DataError

NAMES = ("lerobot_v3_tiny", "lerobot_v21_tiny")


def change(path: Path, edit) -> None:
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def rewrite(path: Path, edit) -> None:
    pq.write_table(edit(pq.read_table(path)), path)


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture
def root(shared_data: Path, tmp_path: Path, name: str) -> Path:
    """A writable copy."""
    copy = tmp_path / name
    shutil.copytree(shared_data / name, copy, copy_function=shutil.copyfile)
    for folder in [copy, *(path for path in copy.rglob("*") if path.is_dir())]:
        folder.chmod(0o755)
    return copy


def data_file(root: Path) -> Path:
    return sorted((root / "data").rglob("*.parquet"))[0]


def video_file(root: Path) -> Path:
    return sorted((root / "videos").rglob("*.mp4"))[0]


def test_reads_what_lerobot_expects(shared_data: Path, name: str) -> None:
    data = LeRobotConfig(root=shared_data / name).build()
    expected = json.loads((shared_data / f"{name}.expected.json").read_text())
    starts = np.cumsum([0, *data.lengths])
    for item in expected["items"]:
        episode = int(np.searchsorted(starts, item["idx"], "right")) - 1
        now = item["idx"] - starts[episode]
        assert item["episode_index"]["value"] == episode
        assert item["frame_index"]["value"] == now
        assert item["task"] == data.tasks[episode]
        assert data.timestamps(episode)[now] == item["timestamp"]["value"]
        for key, value in item.items():
            if not isinstance(value, dict) or not key.startswith(("action", "observation")):
                continue
            offsets = np.array(expected["delta_timestamps"].get(key.removesuffix("_is_pad"), [0]))
            steps = now + np.round(offsets * data.fps).astype(int)
            frames = steps.clip(0, data.lengths[episode] - 1)
            if key.endswith("_is_pad"):
                assert value["value"] == (steps != frames).tolist()
            elif "images" in key:
                camera = key.removeprefix("observation.images.")
                video = data.read(episode, frames, (camera,))["video"][:, 0].float()
                assert list(video.shape[1:]) == value["shape"][-3:]
                means = torch.tensor(value["mean_per_frame_channel_255"])
                torch.testing.assert_close(video.mean((2, 3)), means, atol=0.5, rtol=0)
            else:
                kind = "state" if "state" in key else "action"
                assert data.read(episode, frames, ())[kind].tolist() == value["value"]


def test_describes_the_data_set(root: Path) -> None:
    config = LeRobotConfig(root=root)
    data = config.build()
    assert isinstance(data, LeRobot)
    assert from_dict(to_dict(config)) == config
    assert (data.fps, data.cameras, data.lengths) == (10.0, ("front", "wrist"), [25, 31, 18])
    assert (
        data.state_names == data.action_names == ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
    )
    assert [data.about(i) for i in range(3)] == [{}] * 3
    assert data.world_to_camera == {}


def test_reads_any_order_of_frames_and_cameras(root: Path) -> None:
    data = LeRobotConfig(root=root).build()
    every = data.read(1, np.arange(31))
    order = np.array([30, 2, 2, 17])
    some = pickle.loads(pickle.dumps(data)).read(1, order, ("wrist", "front"))
    assert torch.equal(some["video"], every["video"][order].flip(1))
    assert torch.equal(some["state"], every["state"][order])
    assert data.read(1, order, ())["video"].shape[:2] == (4, 0)
    assert data.read(1, np.array([], int))["video"].shape == (0, 2, 3, 96, 128)


def test_one_camera_needs_no_other_file(root: Path) -> None:
    whole = LeRobotConfig(root=root).build().fingerprint
    front = LeRobotConfig(root=root, cameras=("front",))
    assert front.build().fingerprint == whole
    shutil.rmtree(next((root / "videos").rglob("*wrist")))
    assert front.build().read(2, np.array([17]))["video"].shape == (1, 1, 3, 96, 128)
    with pytest.raises(DataError, match=r"wrist.*\.mp4 is missing"):
        LeRobotConfig(root=root).build()
    with pytest.raises(DataError, match="no cameras \\['side'\\]; it has"):
        LeRobotConfig(root=root, cameras=("side",)).build()


def test_unknown_keys_and_other_spellings_do_not_matter(root: Path) -> None:
    def edit(info: dict) -> None:
        features = info["features"]
        info |= {"fps": 10.0, "colour_of_the_table": "green"}
        features["observation.state"]["names"] = {"motors": list("abcdefg")}
        features["action"]["names"] = None
        depth = dict(features["observation.images.front"], info={"video.is_depth_map": True})
        features["observation.images.depth"] = depth

    change(root / "meta" / "info.json", edit)
    data = LeRobotConfig(root=root).build()
    assert data.state_names == tuple("abcdefg")
    assert data.action_names == tuple(f"action_{i}" for i in range(7))
    assert data.cameras == ("front", "wrist")


def test_reads_rotations_of_cameras(root: Path) -> None:
    turn = [[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    cameras = {"cameras": {"front": {"world_to_camera": turn}}}
    change(root / "meta" / "info.json", lambda info: info.update(saccade=cameras))
    data = LeRobotConfig(root=root).build()
    assert data.world_to_camera.keys() == {"front"}
    assert data.world_to_camera["front"].tolist() == turn


def test_reads_variable_lists_and_scalars(root: Path) -> None:
    """LeRobot's converter writes lists of any length; a feature of shape [1] is a scalar."""
    before = [LeRobotConfig(root=root).build().read(i, np.arange(5), ()) for i in range(3)]

    def edit(table: pa.Table) -> pa.Table:
        lists = pa.array(table["observation.state"].to_pylist(), pa.list_(pa.float32()))
        first = pa.array([row[0] for row in table["action"].to_pylist()], pa.float32())
        return table.set_column(0, "observation.state", lists).set_column(1, "action", first)

    for path in (root / "data").rglob("*.parquet"):
        rewrite(path, edit)
    change(root / "meta" / "info.json", lambda info: info["features"]["action"].update(shape=[1]))
    data = LeRobotConfig(root=root).build()
    for i, old in enumerate(before):
        new = data.read(i, np.arange(5), ())
        assert torch.equal(new["state"], old["state"])
        assert torch.equal(new["action"], old["action"][:, :1])


def test_reads_embedded_images_and_sets_without_state(root: Path) -> None:
    pictures = LeRobotConfig(root=root, cameras=("wrist",)).build()

    def edit(info: dict) -> None:
        info["features"]["observation.images.wrist"]["dtype"] = "image"
        del info["features"]["observation.state"]

    change(root / "meta" / "info.json", edit)
    for path in (root / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        rows = table.select(["episode_index", "frame_index"]).to_pylist()
        cells = [
            {"bytes": png(pictures, row["episode_index"], row["frame_index"]), "path": None}
            for row in rows
        ]
        pq.write_table(
            table.append_column("observation.images.wrist", pa.array(cells)), path, row_group_size=9
        )
    data = LeRobotConfig(root=root, cameras=("wrist",)).build()
    order = np.array([20, 0, 9, 8, 20])
    found = data.read(1, order)
    assert torch.equal(found["video"], pictures.read(1, order)["video"])
    assert found["state"].shape == (5, 0)
    assert data.state_names == ()


def png(data: LeRobot, episode: int, frame: int) -> bytes:
    picture = data.read(episode, np.array([frame]))["video"][0, 0].permute(1, 2, 0).numpy()
    codec = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt = picture.shape[1], picture.shape[0], "rgb24"
    codec.time_base = Fraction(1)
    packets = codec.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture)))
    return b"".join(bytes(packet) for packet in [*packets, *codec.encode()])


def test_a_template_that_escapes_is_refused_by_the_reader(root: Path) -> None:
    change(root / "meta" / "info.json", lambda info: info.update(data_path="../../x.parquet"))
    with pytest.raises(DataError, match="must stay inside the data set"):
        LeRobotConfig(root=root).build()


def test_names_damaged_files(root: Path) -> None:
    data = LeRobotConfig(root=root).build()
    for path in (data_file(root), video_file(root)):
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    with pytest.raises(DataError, match=rf"{data_file(root).name}.*cannot be read"):
        data.read(0, np.array([0]), ())
    assert LeRobotConfig(root=root).build().fingerprint != data.fingerprint
    shutil.rmtree(root / "data")
    with pytest.raises(DataError, match=r"\.parquet is missing"):
        LeRobotConfig(root=root).build()


def test_a_cut_video_is_an_error(root: Path) -> None:
    data = LeRobotConfig(root=root).build()
    path = video_file(root)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    last = 2 if "v3" in path.as_posix() else 0  # the episode at the end of that file
    with pytest.raises(DataError, match=r"front.*\.mp4"):
        data.read(last, np.arange(data.lengths[last]), ("front",))


def test_rows_and_metadata_must_agree(root: Path) -> None:
    rewrite(data_file(root), lambda table: table.slice(0, 20))
    with pytest.raises(DataError, match="has 20 rows of episode 0, its metadata say 25"):
        LeRobotConfig(root=root).build().read(0, np.array([0]), ())


def test_rows_must_be_in_order_and_finite(root: Path) -> None:
    path = data_file(root)
    table = pq.read_table(path)
    pq.write_table(table.take(pa.array([1, 0, *range(2, len(table))])), path)
    with pytest.raises(DataError, match="rows out of order or lost"):
        LeRobotConfig(root=root).build().read(0, np.array([0]), ())
    times = pa.array([float("nan"), *table["timestamp"].to_pylist()[1:]], pa.float32())
    pq.write_table(table.set_column(2, "timestamp", times), path)
    with pytest.raises(DataError, match="column timestamp"):
        LeRobotConfig(root=root).build().read(0, np.array([0]), ())


def test_metadata_that_contradict_themselves_are_refused(root: Path) -> None:
    info = root / "meta" / "info.json"
    change(info, lambda value: value.update(total_episodes=4))
    with pytest.raises(DataError, match=r"lists 3 episodes .* info.json says 4"):
        LeRobotConfig(root=root).build()
    change(info, lambda value: value.update(codebase_version="v1.6"))
    with pytest.raises(DataError, match=r"version 'v1.6', readable are v3.0"):
        LeRobotConfig(root=root).build()
    info.write_text(info.read_text()[:100])
    with pytest.raises(DataError, match=r"info.json is not JSON"):
        LeRobotConfig(root=root).build()
    info.unlink()
    with pytest.raises(DataError, match="give the folder of a finished LeRobot data set"):
        LeRobotConfig(root=root).build()


def test_several_episode_files_and_a_wrong_window(shared_data: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(shared_data / "lerobot_v3_tiny", root, copy_function=shutil.copyfile)
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        folder.chmod(0o755)
    expected = LeRobotConfig(root=root).build()
    first = root / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    table = pq.read_table(first)
    second = first.parent.parent / "chunk-001" / "file-000.parquet"
    second.parent.mkdir()
    pq.write_table(table.slice(0, 1), second)
    pq.write_table(table.slice(1), first)
    tasks = root / "meta" / "tasks.parquet"
    rewrite(tasks, lambda table: table.rename_columns(["task_index", "task"]))
    data = LeRobotConfig(root=root).build()
    assert (data.lengths, data.tasks) == (expected.lengths, expected.tasks)

    name = "videos/observation.images.front/to_timestamp"
    late = pa.array([2.4])
    rewrite(second, lambda t: t.set_column(t.column_names.index(name), name, late))
    with pytest.raises(DataError, match=r"25 frames but 2.4000 s"):
        LeRobotConfig(root=root).build()


@pytest.mark.parametrize("frames", [[-1], [0, 25]])
def test_frames_outside_an_episode_are_refused(shared_data: Path, frames: list[int]) -> None:
    data = LeRobotConfig(root=shared_data / "lerobot_v3_tiny").build()
    with pytest.raises(DataError, match="outside episode 0, which has 25"):
        data.read(0, np.array(frames), ())
    with pytest.raises(DataError, match=r"has no cameras \['side'\]; it has"):
        data.read(0, np.array([0]), ("side",))
