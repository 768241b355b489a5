"""What we write has the columns, types and keys of what LeRobot 0.4.4 writes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from saccade.data.lerobot import assemble as lerobot_assemble
from saccade.data.lerobot.reader import LeRobot, LeRobotConfig
from saccade.data.lerobot.writer import LeRobotWriter

FILES = (
    "data/chunk-000/file-000.parquet",
    "meta/episodes/chunk-000/file-000.parquet",
    "meta/tasks.parquet",
)


@pytest.fixture(scope="module")
def theirs(shared_data: Path) -> Path:
    return shared_data / "lerobot_v3_tiny"


@pytest.fixture(scope="module")
def ours(theirs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same data set, written by us."""
    root = tmp_path_factory.mktemp("written") / "ours"
    rewrite(LeRobotConfig(root=theirs).build(), root)
    return root


def rewrite(data: LeRobot, root: Path) -> None:
    names = data.state_names, data.action_names
    writer = LeRobotWriter(root, data.fps, "widowx", *names, dict.fromkeys(data.cameras, (96, 128)))
    for i, length in enumerate(data.lengths):
        found = data.read(i, np.arange(length))
        video = found["video"].permute(1, 0, 3, 4, 2).numpy()
        state, action = found["state"].numpy(), found["action"].numpy()
        views = dict(zip(data.cameras, video, strict=True))
        writer.write_episode(i, views, state, action, data.tasks[i], success=True)
    writer.finish()


def shape(value: Any) -> Any:
    """Keep keys and types of a JSON value."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return type(value).__name__


@pytest.mark.parametrize("name", FILES)
def test_columns_and_types_are_theirs(ours: Path, theirs: Path, name: str) -> None:
    found, expected = (
        {field.name: str(field.type) for field in pq.read_schema(root / name)}
        for root in (ours, theirs)
    )
    for ours_alone, kind in (("success", "bool"), ("scene", "string"), ("source", "string")):
        assert found.pop(ours_alone, kind) == kind
    assert found == expected


def test_info_is_theirs(ours: Path, theirs: Path) -> None:
    found, expected = (json.loads((r / "meta" / "info.json").read_text()) for r in (ours, theirs))
    assert found.pop("saccade") == {}
    for info in (found, expected):
        for feature in info["features"].values():
            if "info" in feature:
                del feature["info"]["video.codec"]
    assert found == expected
    assert list(found) == list(expected)


def test_numbers_are_theirs(ours: Path, theirs: Path) -> None:
    tables = [pq.read_table(root / FILES[0]) for root in (ours, theirs)]
    assert tables[0].to_pylist() == tables[1].to_pylist()
    groups = [pq.read_metadata(root / FILES[0]).num_row_groups for root in (ours, theirs)]
    assert groups[0] == groups[1] == 3
    rows, expected = (pq.read_table(root / FILES[1]).to_pylist() for root in (ours, theirs))
    for found, other in zip(rows, expected, strict=True):
        for key, value in other.items():
            if not key.startswith("stats/"):
                same = pytest.approx(value) if isinstance(value, float) else value
                assert found[key] == same, key


def test_tasks_are_the_index_of_a_pandas_table(ours: Path, theirs: Path) -> None:
    tables = [pq.read_table(root / FILES[2]) for root in (ours, theirs)]
    assert tables[0].to_pylist() == tables[1].to_pylist()
    metadata = [json.loads((table.schema.metadata or {})[b"pandas"]) for table in tables]
    assert metadata[0]["index_columns"] == metadata[1]["index_columns"]
    assert metadata[0].keys() <= metadata[1].keys()


def test_statistics_are_theirs_but_true(ours: Path, theirs: Path) -> None:
    found, expected = (json.loads((r / "meta" / "stats.json").read_text()) for r in (ours, theirs))
    assert shape(found) == shape(expected)
    data = LeRobotConfig(root=ours).build()
    for feature in ("observation.state", "action", "timestamp", "frame_index"):
        for name in ("min", "max", "mean", "std", "count"):
            value = expected[feature][name]
            np.testing.assert_allclose(found[feature][name], value, rtol=1e-4, atol=1e-9)
    assert np.isclose(found["index"]["q01"][0], 0.73)  # theirs averages episodes: 24.1
    front = found["observation.images.front"]
    original = LeRobotConfig(root=theirs).build()
    parts = [
        original.read(i, np.arange(n), ("front",))["video"] for i, n in enumerate(data.lengths)
    ]
    pixels = np.concatenate([part.numpy() for part in parts])[:, 0] / 255
    np.testing.assert_allclose(np.ravel(front["std"]), pixels.std((0, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(np.ravel(front["mean"]), pixels.mean((0, 2, 3)), rtol=1e-9)


def test_files_roll_at_their_limit(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lerobot_assemble, "DATA_MB", 0)
    monkeypatch.setattr(lerobot_assemble, "VIDEO_MB", 0)
    monkeypatch.setattr(lerobot_assemble, "CHUNK", 2)
    data = LeRobotConfig(root=theirs).build()
    rewrite(data, tmp_path / "many")
    names = ["chunk-000/file-000", "chunk-000/file-001", "chunk-001/file-000"]
    for folder, end in (("data", "parquet"), ("videos/observation.images.front", "mp4")):
        files = sorted((tmp_path / "many" / folder).rglob(f"*.{end}"))
        expected = [tmp_path / "many" / folder / f"{name}.{end}" for name in names]
        assert files == expected
    again = LeRobotConfig(root=tmp_path / "many").build()
    for i, length in enumerate(data.lengths):
        old, new = data.read(i, np.arange(length)), again.read(i, np.arange(length))
        assert np.array_equal(old["state"], new["state"])
        assert (old["video"].float() - new["video"].float()).abs().mean() < 2
