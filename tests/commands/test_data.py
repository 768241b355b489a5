import shutil
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Outcome

Saccade = Callable[..., Outcome]


def test_the_contents_are_told(saccade: Saccade, lerobot: Path) -> None:
    done = saccade("data", lerobot, "--verify")
    assert done.code == 0
    for told in (
        "12 episodes, 192 frames at 10 Hz (0.3 minutes)",
        "cameras: front",
        "state: x, y, z, gripper {'position': [0, 1, 2], 'gripper': [3]}",
        "camera orientation known: front",
        "read all 192 frames of 1 cameras",
    ):
        assert told in done.out, told
    rows = [line.split() for line in done.out.splitlines()]
    assert ["pull", "it", "6", "96"] in rows
    assert ["push", "it", "6", "96"] in rows


def test_verifying_finds_a_damaged_video(saccade: Saccade, lerobot: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(lerobot, tmp_path / "data"))
    (video,) = copied.rglob("*.mp4")
    raw = video.read_bytes()
    video.write_bytes(raw[: len(raw) // 2])
    done = saccade("data", copied, "--verify")
    assert done.code == 3
    assert str(video) in done.err
    assert "read all" not in done.out


def test_a_missing_data_set_is_named(saccade: Saccade, tmp_path: Path) -> None:
    done = saccade("data", tmp_path / "none")
    assert done.code == 3
    assert done.err.startswith(f"error[3]: {tmp_path / 'none'}")
