"""Tables are loaded in parts, few at a time, and nothing that is lost or odd in them passes."""

import shutil
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from saccade.data.files.folder import Folder
from saccade.data.lerobot import reader as lerobot
from saccade.data.lerobot import tables as lerobot_files
from saccade.data.lerobot.reader import LeRobotConfig
from saccade.data.video.images import decode_image
from saccade.errors import DataError
from tests.contracts import check_reader
from tests.fixtures.lerobot import LENGTHS, TASKS, jpeg, numbers, write_lerobot

EPISODE = "data/chunk-000/episode_000001.parquet"
WRIST = "observation.images.wrist"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_lerobot(tmp_path / "set", storage="image")


def rewrite(path: Path, edit) -> None:
    pq.write_table(edit(pq.read_table(path)), path)


@pytest.mark.parametrize("storage", ["video", "image"])
def test_keeps_the_contract(tmp_path: Path, storage: Literal["video", "image"]) -> None:
    data = LeRobotConfig(root=write_lerobot(tmp_path, storage=storage)).build()
    check_reader(data)
    assert (data.cameras, data.lengths) == (("top", "wrist"), list(LENGTHS))
    assert data.tasks == list(TASKS)
    assert data.about(0) == {}
    assert data.about(2) == {"tasks": ["push the plate", "pick up the cube"]}
    for episode, length in enumerate(LENGTHS):
        rows = numbers(episode, length, 0)
        found = data.read(episode, np.arange(length), ())
        assert found["state"].tolist() == rows["observation.state"].to_pylist()
        assert found["action"].tolist() == rows["action"].to_pylist()
        assert data.timestamps(episode).tolist() == rows["timestamp"].to_pylist()


def test_gives_stored_pictures_as_they_are(root: Path, tmp_path: Path) -> None:
    data, frames = LeRobotConfig(root=root).build(), np.array([7, 0, 7])
    assert data.encoded(1, "wrist", frames) == [jpeg(1, t, 1) for t in frames]
    seen = data.pixels(1, "wrist", frames)
    assert torch.equal(seen[1], decode_image(jpeg(1, 0, 1), ""))
    video = LeRobotConfig(root=write_lerobot(tmp_path / "video")).build()
    assert video.encoded(1, "wrist", frames) is None


def test_an_empty_episode_stays_in_the_list(tmp_path: Path) -> None:
    data = LeRobotConfig(root=write_lerobot(tmp_path, (25, 0, 24), "image")).build()
    assert data.lengths == [25, 0, 24]
    nothing = data.read(1, np.arange(0))
    assert (nothing["state"].shape, nothing["action"].shape) == ((0, 8), (0, 7))
    assert (nothing["video"].shape[:2], len(data.timestamps(1))) == ((0, 2), 0)
    with pytest.raises(DataError, match="outside episode 1, which has 0"):
        data.read(1, np.array([0]), ())


def packed(root: Path, groups: int) -> Path:
    """Pack two episodes into one file that has row groups of so many rows."""
    for name in ("a", "b"):
        shutil.copytree(root, root.with_name(name))
    out = root.with_name("a")
    tables = [pq.read_table(root / f"data/chunk-000/episode_00000{i}.parquet") for i in (0, 1)]
    whole = pa.concat_tables(tables)
    for i in (0, 1):
        path = out / f"data/chunk-000/episode_00000{i}.parquet"
        pq.write_table(whole, path, row_group_size=groups)
    return out


@pytest.mark.parametrize("groups", [1000, 24, 10, 1])
def test_row_groups_may_fall_anywhere(root: Path, groups: int) -> None:
    here, there = (LeRobotConfig(root=path).build() for path in (root, packed(root, groups)))
    for episode in (1, 0):
        for frames in (np.arange(LENGTHS[episode]), np.array([23, 9, 10, 0])):
            one, two = here.read(episode, frames), there.read(episode, frames)
            assert all(torch.equal(one[key], two[key]) for key in ("video", "state", "action"))


def test_loads_only_the_row_groups_of_the_episode(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = LeRobotConfig(root=packed(root, 5)).build()
    read: list[tuple] = []
    real = lerobot_files._read

    def spy(file, groups, columns, label):
        read.append((groups, columns))
        return real(file, groups, columns, label)

    monkeypatch.setattr(lerobot_files, "_read", spy)
    data.read(1, np.array([3]), ())
    assert read == [
        (None, ["episode_index", "frame_index"]),
        (list(range(4, 11)), ["timestamp", "observation.state", "action"]),
    ]
    data.read(1, np.array([9, 30]), ())
    assert len(read) == 2
    data.read(1, np.array([9]), ("wrist",))
    assert read[2:] == [([6], [WRIST])]


def test_memory_and_open_files_are_bounded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lerobot_files, "IN_MEMORY", 2**16)
    monkeypatch.setattr(lerobot_files, "OPEN_FILES", 2)
    data = LeRobotConfig(root=root).build()
    for episode in [0, 1, 2, 0, 2, 1] * 2:
        data.read(episode, np.array([20, 3]))
        tables = data._tables
        assert tables is not None
        assert len(tables._open) <= 2
        assert sum(tables._bytes.values()) <= 2**16 or len(tables._loaded) == 1
        assert tables._bytes.keys() == tables._loaded.keys()


def test_many_files_are_not_looked_for_when_opened(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lerobot, "CHECKED", 2)
    looked: list[str] = []
    real = Folder.__contains__

    def spy(self: Folder, name: str) -> bool:
        looked.append(name)
        return real(self, name)

    monkeypatch.setattr(Folder, "__contains__", spy)
    (root / EPISODE).unlink()
    data = LeRobotConfig(root=root).build()
    assert not [name for name in looked if name.startswith("data")]
    with pytest.raises(DataError, match=r"episode_000001\.parquet cannot be read"):
        data.read(1, np.array([0]), ())
    assert len(data.read(2, np.array([0]), ())["state"]) == 1


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: t.drop_columns([WRIST]), "has no columns .*observation.images.wrist"),
        (lambda t: t.drop_columns(["action"]), r"has no columns \['action'\]"),
        (lambda t: t.drop_columns(["frame_index"]), r"has no columns \['frame_index'\]"),
        (lambda t: t.slice(1), "rows out of order or lost"),
        (lambda t: t.slice(0, 30), "has 30 rows of episode 1, its metadata say 31"),
        (lambda t: t.take(list(range(31)) * 2), "rows out of order or lost"),
        (
            lambda t: t.set_column(0, "observation.state", pa.array(["x"] * 31)),
            "column observation.state is string, expected numbers",
        ),
        (
            lambda t: t.set_column(0, "observation.state", pa.array([[1.0] * 7] * 31)),
            "column observation.state: 217 numbers .* in 31 rows of 8",
        ),
        (
            lambda t: t.set_column(0, "observation.state", pa.array([None] + [[1.0] * 8] * 30)),
            "column observation.state: 240 numbers",
        ),
        (
            lambda t: t.set_column(
                t.column_names.index(WRIST), WRIST, pa.array([{"bytes": None, "path": "x"}] * 31)
            ),
            "row 0, observation.images.wrist: there is no picture in it",
        ),
        (
            lambda t: t.set_column(t.column_names.index(WRIST), WRIST, pa.array([b"x"] * 31)),
            "column observation.images.wrist is binary, expected struct",
        ),
        (
            lambda t: t.set_column(
                t.column_names.index(WRIST), WRIST, pa.array([{"bytes": b"x", "path": "x"}] * 31)
            ),
            "episode 1, frame 0, observation.images.wrist is not a readable image",
        ),
    ],
)
def test_tables_that_lack_something_are_refused(root: Path, edit, words: str) -> None:
    rewrite(root / EPISODE, edit)
    data = LeRobotConfig(root=root).build()
    with pytest.raises(DataError, match=rf"episode_000001\.parquet.*{words}"):
        data.read(1, np.array([0]))
    assert len(data.read(0, np.array([0]))["video"]) == 1


def test_damage_is_found(root: Path) -> None:
    path = root / EPISODE
    whole = path.read_bytes()
    rewrite(path, lambda table: table)
    pq.write_table(pq.read_table(path), path, write_page_checksum=True, compression="none")
    data = bytearray(path.read_bytes())
    spot = data.index(jpeg(1, 5, 1)) + 50
    data[spot] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"episode_000001\.parquet cannot be read"):
        LeRobotConfig(root=root).build().read(1, np.array([5]), ("wrist",))
    for cut in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"episode_000001\.parquet cannot be read"):
            LeRobotConfig(root=root).build().read(1, np.array([5]), ("wrist",))


def test_what_arrow_says_of_damage_is_one_sentence(root: Path) -> None:
    path = root / EPISODE
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for damaged in (
        whole.replace(b"frame_index", b"\xecrame_index"),  # no UTF-8
        whole[:footer] + b"\xff" * 8 + whole[footer + 8 :],
    ):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"episode_000001\.parquet cannot be read") as caught:
            LeRobotConfig(root=root).build().read(1, np.array([5]), ())
        assert "\n" not in str(caught.value)


def test_a_video_that_is_shorter_than_its_rows_is_an_error(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path)
    videos = root / "videos/chunk-000/observation.images.top"
    shutil.copyfile(videos / "episode_000000.mp4", videos / "episode_000001.mp4")
    data = LeRobotConfig(root=root).build()
    assert len(data.read(1, np.array([23]), ("top",))["video"]) == 1
    with pytest.raises(DataError, match=r"observation.images.top/episode_000001\.mp4"):
        data.read(1, np.array([24]), ("top",))


def test_what_is_kept_of_an_episode_is_small(tmp_path: Path) -> None:
    """100,000 episodes: lists and arrays, no object of its own for each."""
    root = write_lerobot(tmp_path, storage="image")
    info = (root / "meta/info.json").read_text()
    count = 20_000
    (root / "meta/info.json").write_text(
        info.replace('"total_episodes": 3', f'"total_episodes": {count}')
    )
    line = '{{"episode_index": {}, "tasks": ["open the drawer"], "length": 24}}\n'
    (root / "meta/episodes.jsonl").write_text("".join(line.format(i) for i in range(count)))
    data = LeRobotConfig(root=root).build()
    assert len(data.lengths) == count
    assert len({id(task) for task in data.tasks}) == 1
    assert data._layout.about == {}
    held = [data._layout.index, *data._layout.places.values(), *data._layout.starts.values()]
    size = sum(array.nbytes for array in held) + sys.getsizeof(data.lengths)
    assert size < 100 * count
