"""Everything broken is found and located; nothing else is."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from saccade.data.lerobot.reader import LeRobotConfig
from saccade.data.passes.shards import Shard
from saccade.data.passes.verify import merge, verify
from saccade.errors import DataError
from tests.fixtures.toy import ToyConfig

WHOLE = ToyConfig()
BROKEN = replace(
    WHOLE, broken=((2, "front", 35), (2, "front", 36), (2, "left.wrist", 0), (4, "", 3))
)


def test_a_sound_data_set_has_no_faults(lerobot: Path) -> None:
    found = verify(LeRobotConfig(root=lerobot))
    assert found["faults"] == []
    assert (found["episodes"], found["frames"], found["cameras"]) == (12, 192, ["front"])


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_fault_is_located_and_does_not_hide_others(jobs: int) -> None:
    found = verify(BROKEN, jobs)
    told = [(f["episode"], f["camera"], f["frames"]) for f in found["faults"]]
    assert told == [
        (-1, "", []),  # what the reader left out
        (2, "front", [35, 36]),
        (2, "left.wrist", [0]),
        (4, "", []),
        (4, "front", [*range(9)]),
        (4, "left.wrist", [*range(9)]),
    ]
    assert "part-2, record 3: is broken" in found["faults"][0]["error"]
    assert "frame 35 is broken" in found["faults"][1]["error"]


def test_shards_find_the_same() -> None:
    parts = [verify(BROKEN, 1, Shard(i, 3)) for i in range(3)]
    assert merge(parts) == verify(BROKEN)
    other = verify(replace(BROKEN, seed=1), 1, Shard(2, 3))
    with pytest.raises(DataError, match="different data sets"):
        merge([*parts[:2], other])


def test_what_cannot_be_opened_is_a_fault(lerobot: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(lerobot, tmp_path / "data"))
    (video,) = copied.rglob("*.mp4")
    video.unlink()
    (fault,) = verify(LeRobotConfig(root=copied))["faults"]
    assert str(video) in fault["error"]


def test_a_damaged_video_is_found(lerobot: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(lerobot, tmp_path / "data"))
    (video,) = copied.rglob("*.mp4")
    raw = bytearray(video.read_bytes())
    middle = len(raw) // 2
    raw[middle : middle + 20_000] = bytes(20_000)
    video.write_bytes(raw)
    faults = verify(LeRobotConfig(root=copied))["faults"]
    assert faults
    assert {fault["camera"] for fault in faults} == {"front"}
    assert sum(len(fault["frames"]) for fault in faults) < 96
