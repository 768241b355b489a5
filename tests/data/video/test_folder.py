"""Any folder of videos is read frame by frame, with the times and the texts that it has."""

import json
import pickle
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from saccade.config import from_dict, to_dict
from saccade.data.files.folder import Folder
from saccade.data.video.folder import VideoFolder, VideoFolderConfig
from saccade.errors import DataError
from tests.contracts import check_reader
from tests.fixtures.video_folder import LABELS, write_video, write_video_folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    return write_video_folder(tmp_path_factory.mktemp("videos") / "ssv2", videos=3)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two short videos in two folders, to be damaged."""
    write_video(tmp_path / "wave" / "a.mp4", 5, 10)
    write_video(tmp_path / "nod" / "b.mp4", 6, 10, seed=1)
    return tmp_path


def build(root: Path, **options) -> VideoFolder:
    return VideoFolderConfig(root=root, **options).build()


def decoded(path: Path) -> torch.Tensor:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def test_holds_the_contract_of_readers(root: Path) -> None:
    check_reader(build(root, labels="labels.json"))


def test_reads_every_frame_in_natural_order(root: Path) -> None:
    data = build(root)
    assert data.names == ["videos/8.webm", "videos/9.webm", "videos/10.webm"]
    assert data.lengths == [24, 28, 32]
    assert data.fps == pytest.approx(12, rel=1e-3)
    assert (data.state_names, data.action_names, data.cameras) == ((), (), ("video",))
    for episode, name in enumerate(data.names):
        video = data.read(episode, np.arange(data.lengths[episode]))["video"][:, 0]
        assert torch.equal(video, decoded(root / name))
    assert data.about(1) == {"source": "videos/9.webm", "fps": pytest.approx(12, rel=1e-3)}


def test_the_folder_of_a_video_is_its_task_where_there_are_no_labels(small: Path) -> None:
    write_video(small / "c.mov", 3, 10)
    data = build(small)
    assert list(zip(data.names, data.tasks, strict=True)) == [
        ("c.mov", ""),
        ("nod/b.mp4", "nod"),
        ("wave/a.mp4", "wave"),
    ]


def test_labels_choose_the_videos_and_name_them(root: Path, tmp_path: Path) -> None:
    assert build(root, labels="labels.json").tasks == list(LABELS[:3])
    some = tmp_path / "val.json"
    some.write_text(json.dumps([{"id": "10", "template": "Lifting [something]"}, {"id": 8}]))
    data = build(root, labels=str(some))
    assert data.names == ["videos/10.webm", "videos/8.webm"]
    assert data.tasks == ["Lifting [something]", ""]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'name,label\nwave/a.mp4,"up, down"\nb,nod'),
        ("a.csv", "wave/a.mp4;up, down\nb.mp4;nod\n"),
        ("a.txt", "wave/a up, down\n\nb nod\n"),
        ("a.tsv", "\ufeffid\tlabel\na\tup, down\nnod/b.mp4\tnod"),
    ],
)
def test_labels_come_in_lines_too(small: Path, name: str, text: str) -> None:
    (small / name).write_text(text)
    data = build(small, labels=name)
    assert data.names == ["wave/a.mp4", "nod/b.mp4"]
    assert data.tasks == ["up, down", "nod"]


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("l.json", "{", "no JSON"),
        ("l.json", '{"Holding [something]": "12"}', "entry 0 .* expected {id, label}"),
        ("l.json", '[{"id": "a"}, 7]', "entry 1 is 7|entry 1 is {}"),
        ("l.json", "[]", "lists no video"),
        ("l.csv", "", "lists no video"),
        ("l.csv", 'a,"open\nb,nod', "no line of a table"),
        ("l.csv", "a,up\nz,nod", "lists 'z', of which there is no video"),
        ("l.csv", "a,up\nwave/a.mp4,nod", "twice"),
        ("l.csv", "c,up", "there are 2 videos"),
    ],
)
def test_refuses_labels_that_do_not_fit(small: Path, name: str, text: str, found: str) -> None:
    for place in ("x", "y"):
        write_video(small / place / "c.mp4", 2, 10)
    (small / name).write_text(text)
    with pytest.raises(DataError, match=found):
        build(small, labels=name)


def test_names_labels_that_are_not_there(small: Path) -> None:
    with pytest.raises(DataError, match=r"no file of labels none\.csv"):
        build(small, labels="none.csv")
    (small / "l.csv").write_bytes(b"a,\xff")
    with pytest.raises(DataError, match="no UTF-8"):
        build(small, labels="l.csv")


def test_missing_videos_are_skipped_up_to_a_share(small: Path) -> None:
    (small / "l.csv").write_text("a,up\nb,nod\nz,lost\n")
    data = build(small, labels="l.csv", on_error="skip", most_skipped=0.34)
    assert data.tasks == ["up", "nod"]
    assert list(data.skipped) == ["z"]
    with pytest.raises(DataError, match="1 of 3 videos are broken"):
        build(small, labels="l.csv", on_error="skip", most_skipped=0.33)


def test_broken_videos_are_errors_or_skipped(small: Path) -> None:
    whole = (small / "nod/b.mp4").read_bytes()
    (small / "nod/b.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"b\.mp4"):
        build(small)
    data = build(small, on_error="skip", most_skipped=0.5)
    assert data.names == ["wave/a.mp4"]
    assert list(data.skipped) == ["nod/b.mp4"]
    (small / "nod/b.mp4").write_bytes(whole)
    assert build(small).names == ["nod/b.mp4", "wave/a.mp4"], "the index must see the change"


def test_times_are_those_at_which_frames_are_shown(tmp_path: Path) -> None:
    ticks = [0, 1, 2, 6, 7, 20]
    write_video(tmp_path / "a.mkv", 6, 10, ticks=ticks)
    write_video(tmp_path / "b.mp4", 11, 25)
    write_video(tmp_path / "c.mp4", 1, 25)
    data = build(tmp_path)
    np.testing.assert_allclose(data.timestamps(0), np.array(ticks) / 10, atol=1e-3)
    np.testing.assert_allclose(data.timestamps(1), np.arange(11) / 25, atol=1e-9)
    assert data.timestamps(2).tolist() == [0.0]
    assert data.rates == [pytest.approx(2.5), pytest.approx(25), 0]
    assert data.fps == pytest.approx((2.5 + 25) / 2)


def test_a_start_that_is_not_zero_does_not_count(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", 4, 10, ticks=[5, 6, 7, 9])
    np.testing.assert_allclose(build(tmp_path).timestamps(0), [0, 0.1, 0.2, 0.4], atol=1e-9)


def test_recognises_folders_with_videos_alone(root: Path, tmp_path: Path) -> None:
    assert VideoFolderConfig.recognises(Folder(root))
    assert VideoFolderConfig.recognises(Folder(root / "videos"))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("no video")
    assert not VideoFolderConfig.recognises(Folder(tmp_path))
    with pytest.raises(DataError, match="holds no video"):
        build(tmp_path)
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (deep / "x.MP4").touch()
    assert VideoFolderConfig.recognises(Folder(tmp_path))


def test_the_fingerprint_follows_content_and_labels(small: Path) -> None:
    before = build(small).fingerprint
    assert build(small).fingerprint == before
    (small / "l.csv").write_text("b,nodding\na,waving\n")
    labelled = build(small, labels="l.csv").fingerprint
    write_video(small / "wave" / "a.mp4", 5, 10, seed=3)
    assert len({before, labelled, build(small).fingerprint}) == 3


def test_has_one_camera_and_survives_json(root: Path) -> None:
    with pytest.raises(DataError, match="has no cameras"):
        build(root, cameras=("front",))
    config = VideoFolderConfig(root=root, labels="labels.json", cameras=("video",))
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    assert len(pickle.dumps(config.build())) < 10_000
