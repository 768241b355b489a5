"""Bridge V2 as RLDS: every value of what TFDS wrote, and what is left out or relabelled of it."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saccade.data.bridge.conventions import binary
from saccade.data.bridge.rlds import CAMERAS, Bridge, BridgeConfig
from saccade.data.files.folder import Folder
from saccade.data.rlds.generic import RldsConfig
from saccade.errors import DataError
from tests.contracts import check_reader
from tests.fixtures.bridge import RECORDINGS, numbers, write_bridge
from tests.fixtures.rlds import EDGES, edges, image, jpegs, tensor, text, write_rlds


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bridge(tmp_path_factory.mktemp("bridge"))


@pytest.fixture(scope="module")
def tiny(shared_data: Path) -> Path:
    return shared_data / "bridge_tiny"


@pytest.fixture(scope="module")
def expected(tiny: Path) -> list[dict[str, Any]]:
    splits = json.loads((tiny / "expected.json").read_text())["splits"]
    return [{**e, "split": name} for name in splits for e in splits[name]["episodes"]]


def opened(root: Path, **options: Any) -> Bridge:
    return BridgeConfig(root=root, **options).build()


def everything(episodes: Bridge, episode: int) -> tuple[np.ndarray, np.ndarray]:
    return episodes.numbers(episode, np.arange(episodes.lengths[episode]))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_it_is_a_reader(root: Path) -> None:
    check_reader(opened(root))


def test_tfds_wrote_it_and_it_is_a_reader(tiny: Path) -> None:
    check_reader(opened(tiny))


def test_every_value_that_tfds_wrote(tiny: Path, expected: list[dict[str, Any]]) -> None:
    """Through the records: what the file holds, key by key."""
    records = opened(tiny).records
    assert len(records) == len(expected) == 3
    for record, one in enumerate(expected):
        assert records.steps[record] == one["num_steps"]
        for key, about in one["low_dim"].items():
            found = records.numbers(record, f"steps/{key}")
            assert found.dtype == np.dtype(about["stored_as"])
            assert list(found.shape) == about["shape"]
            stored = found.astype(f"<{found.dtype.str[1:]}").tobytes()
            assert digest(stored) == about["sha256_le"], key
            if "values" in about:
                np.testing.assert_array_equal(found, np.array(about["values"], found.dtype))
        for key, texts in one["text"].items():
            assert list(dict.fromkeys(records.texts(record, f"steps/{key}"))) == texts
        known = records.metadata(record)
        assert {k: type(v)(known[k]) for k, v in one["episode_metadata"].items()} == (
            one["episode_metadata"]
        )


def test_every_picture_that_tfds_wrote(tiny: Path, expected: list[dict[str, Any]]) -> None:
    episodes = opened(tiny, first="keep")
    for episode, one in enumerate(expected):
        for camera, about in one["images"].items():
            frames = np.arange(episodes.lengths[episode])
            stored = episodes.encoded(episode, camera, frames)
            assert stored is not None
            assert sum(map(len, stored)) == about["jpeg_bytes_total"]
            assert digest(b"".join(stored)) == about["sha256_all_jpeg_concat"]
            for place in ("first", "middle", "last"):
                shown = about[place]
                step = np.array([shown["step"]])
                assert digest(stored[shown["step"]]) == shown["jpeg_sha256"]
                picture = episodes.pixels(episode, camera, step)[0]
                assert [picture.shape[2], picture.shape[1]] == shown["size_wh"]
                mean = picture.double().mean((1, 2)).numpy()
                np.testing.assert_allclose(mean, shown["pil_mean_rgb"], atol=0.5)
                rgb = picture.permute(1, 2, 0).contiguous().numpy().tobytes()
                assert digest(rgb) == shown["pil_rgb_sha256"]


def test_our_view_of_what_tfds_wrote(tiny: Path, expected: list[dict[str, Any]]) -> None:
    """Without the void first step; the one-camera episode has one camera."""
    episodes = opened(tiny)
    assert episodes.lengths == [30, 23, 27]
    assert episodes.tasks == ["", "put the corn in the pot", "close the drawer"]
    assert [episodes.cameras_of(i) for i in range(3)] == [CAMERAS[:1], CAMERAS[:3], CAMERAS[:3]]
    for episode, one in enumerate(expected):
        low = one["low_dim"]
        state, action = everything(episodes, episode)
        np.testing.assert_array_equal(state, np.array(low["observation/state"]["values"], "f4")[1:])
        np.testing.assert_array_equal(action, np.array(low["action"]["values"], "f4")[1:])
        about = episodes.about(episode)
        assert about["file_path"] == one["episode_metadata"]["file_path"]
        assert about["episode_id"] == one["episode_metadata"]["episode_id"]
        assert about["split"] == one["split"]
        assert about["scene"] == "bridge_data_v2/tiny_kitchen"
        has = [one["episode_metadata"][f"has_image_{k}"] for k in range(4)]
        assert [name in episodes.cameras_of(episode) for name in CAMERAS] == has


def test_flags_that_lie(root: Path) -> None:
    """The public builder set has_image_k to false everywhere; pictures tell."""
    episodes = opened(root)
    assert not any(episodes.records.metadata(0)[f"has_image_{k}"] for k in range(4))
    assert [len(episodes.cameras_of(i)) for i in range(3)] == [3, 1, 2]
    assert opened(root, cameras=("image_2", "image_0")).cameras_of(1) == ("image_0",)
    with pytest.raises(DataError, match=r"episode 1 has no cameras \['image_1'\]"):
        episodes.read(1, np.array([0]), ("image_1",))


def test_the_first_step(root: Path) -> None:
    state, commanded, _ = numbers(0, 25)
    kept = opened(root, first="keep")
    assert kept.lengths == [25, 31, 28]
    np.testing.assert_array_equal(everything(kept, 0)[1][0], [0, 0, 0, 0, 0, 0, 1])
    dropped = opened(root)
    assert dropped.lengths == [24, 30, 27]
    found, action = everything(dropped, 0)
    np.testing.assert_array_equal(found, state[1:].astype(np.float32))
    np.testing.assert_array_equal(action, commanded.astype(np.float32))
    pictures = [
        kept.encoded(0, "image_0", np.array([1])),
        dropped.encoded(0, "image_0", np.array([0])),
    ]
    assert pictures[0] == pictures[1]
    assert kept.pixels(0, "image_0", np.array([1])).equal(
        dropped.pixels(0, "image_0", np.array([0]))
    )


def test_relabelled_drops_the_last_step(root: Path) -> None:
    state, commanded, _ = numbers(1, 31)
    episodes = opened(root, action="relabelled")
    assert episodes.lengths == [23, 29, 26]
    found, action = everything(episodes, 1)
    state = state.astype(np.float32)
    np.testing.assert_array_equal(found, state[1:-1])
    np.testing.assert_array_equal(action[:, :6], state[2:, :6] - state[1:-1, :6])
    np.testing.assert_array_equal(action[:, 6], commanded[:-1, 6].astype(np.float32))
    assert opened(root, action="relabelled", first="keep").lengths == [24, 30, 27]


def test_the_gripper_in_two_states(root: Path) -> None:
    """As in OpenVLA, it is made binary before the last step is dropped."""
    _, commanded, _ = numbers(1, 31)
    gripper = commanded[:, 6].astype(np.float32)
    assert 0.05 < gripper[10] < 0.95
    for action, end in (("commanded", 30), ("relabelled", 29)):
        episodes = opened(root, gripper="binary", action=action)
        np.testing.assert_array_equal(everything(episodes, 1)[1][:, 6], binary(gripper)[:end])
    assert set(binary(gripper)) == {0.0, 1.0}


def test_options_change_the_fingerprint(root: Path) -> None:
    kinds = ({}, {"first": "keep"}, {"action": "relabelled"}, {"gripper": "binary"})
    assert len({opened(root, **options).fingerprint for options in kinds}) == 4


def test_splits(root: Path) -> None:
    episodes = opened(root, splits=("val",))
    assert episodes.tasks == ["close the drawer"]
    assert episodes.about(0) == {
        "source": "1.0.0/bridge_dataset-val.tfrecord-00000-of-00001, record 0",
        "tasks": ["close the drawer"],
        "split": "val",
        "scene": "rss/toykitchen2",
        "file_path": "/nfs/kun2/numpy_256/rss/toykitchen2/set_table/00/val/out.npy",
        "episode_id": 0,
    }
    with pytest.raises(DataError, match=r"no splits \['test'\]"):
        opened(root, splits=("test",))
    with pytest.raises(DataError, match=r"no cameras \['wrist'\]"):
        opened(root, cameras=("wrist",))


def features(*names: str) -> dict[str, Any]:
    return {
        "episode_metadata/file_path": text(),
        **{f"steps/observation/{name}": image(16, 16) for name in names},
        "steps/observation/state": tensor("float32", 7),
        "steps/action": tensor("float32", 7),
        "steps/language_instruction": text(),
        **EDGES,
    }


def episode(length: int, *videos: list[bytes]) -> dict[str, Any]:
    return {
        "episode_metadata/file_path": [b"out.npy"],
        **{f"steps/observation/image_{k}": video for k, video in enumerate(videos)},
        "steps/observation/state": np.zeros((length, 7), np.float32),
        "steps/action": np.zeros((length, 7), np.float32),
        "steps/language_instruction": [b""] * length,
        **edges(length),
    }


def test_what_counts_as_black(tmp_path: Path) -> None:
    """A still picture is not black, nor is one that is only dark; a dark room ends black."""

    def grey(*values: int) -> list[bytes]:
        return jpegs(np.stack([np.full((16, 16, 3), value, np.uint8) for value in values]))

    videos = grey(0, 0, 0), grey(90, 90, 90), grey(1, 1, 1), grey(3, 0, 0)
    still = episode(3, *videos)
    empty = episode(0, [], [], [], [])
    write_rlds(tmp_path, "bridge_dataset", features(*CAMERAS), {"train": [[still, empty]]})
    episodes = opened(tmp_path)
    assert episodes.cameras_of(0) == ("image_1", "image_3")
    assert episodes.lengths == [2, 0]
    check_reader(episodes)
    assert "scene" not in episodes.about(0)
    for options in ({"action": "relabelled"}, {"gripper": "binary"}, {"first": "keep"}):
        assert everything(opened(tmp_path, **options), 1)[1].shape == (0, 7)


def test_what_is_not_bridge(root: Path, tiny: Path, tmp_path: Path) -> None:
    assert BridgeConfig.recognises(Folder(root))
    assert BridgeConfig.recognises(Folder(tiny / "1.0.0"))
    renamed = Path(shutil.copytree(root, tmp_path / "bridge_orig"))
    assert BridgeConfig.recognises(Folder(renamed))
    older = write_rlds(  # OXE's bridge/0.1.0
        tmp_path / "bridge",
        "bridge",
        {
            "steps/observation/image": image(16, 16),
            "steps/observation/state": tensor("float32", 7),
            "steps/observation/natural_language_instruction": text(),
            "steps/action/world_vector": tensor("float32", 3),
            "steps/action/rotation_delta": tensor("float32", 3),
            "steps/action/open_gripper": tensor("bool"),
            **EDGES,
        },
        {"train": [[]]},
        version="0.1.0",
    )
    assert not BridgeConfig.recognises(Folder(older))
    assert RldsConfig.recognises(Folder(older))
    with pytest.raises(DataError, match="so it is another data set; read it as rlds"):
        opened(older)
    (tmp_path / "empty").mkdir()
    assert not BridgeConfig.recognises(Folder(tmp_path / "empty"))


def test_a_damaged_record(root: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    path = copy / "1.0.0" / "bridge_dataset-train.tfrecord-00000-of-00002"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"00000-of-00002: record 0 .*crc32c"):
        everything(opened(copy), 0)
    episodes = opened(copy, on_error="skip", most_skipped=0.4)
    assert episodes.lengths == [30, 27]
    assert [r.frames for r in RECORDINGS[1:]] == [31, 28]
