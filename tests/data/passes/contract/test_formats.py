"""The check on data of every format, as they are and with a defect planted."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from saccade.data.episodes import Episodes, Subset
from saccade.data.formats import open_episodes
from saccade.data.passes.contract.check import check_ac
from saccade.data.passes.contract.findings import Finding
from tests.fixtures.bridge import write_bridge, write_bridge_raw
from tests.fixtures.droid_raw import write_droid_raw
from tests.fixtures.egodex import write_egodex
from tests.fixtures.libero import write_libero

Change = Callable[[np.ndarray], None]


class Changed(Subset):
    """A data set with a defect planted into its states and pictures."""

    def __init__(self, episodes: Episodes, change: Change, moves: bool = False) -> None:
        super().__init__(episodes, range(len(episodes.lengths)))
        self.change, self.moves = change, moves

    def numbers(self, episode, frames):
        state, action = super().numbers(episode, frames)
        state = state.copy()
        self.change(state)
        return state, action

    def pixels(self, episode, camera, frames):
        video = super().pixels(episode, camera, frames)
        if self.moves:
            for t, picture in zip(frames.tolist(), video, strict=True):
                picture.copy_(picture.roll((7 * t, 11 * t), (1, 2)))
        return video

    def views(self, episode, cameras, frames):
        return Episodes.views(self, episode, cameras, frames)


def findings(episodes: Episodes, **options) -> dict[str, Finding]:
    return {f.check: f for f in check_ac(episodes, **options).findings}


def fails(found: dict[str, Finding]) -> set[str]:
    return {check for check, finding in found.items() if finding.verdict == "fails"}


def degrees(state: np.ndarray) -> None:
    state[:, 3:6] = np.rad2deg(state[:, 3:6])


def millimetres(state: np.ndarray) -> None:
    state[:, :3] *= 1000


def turned_round(state: np.ndarray) -> None:
    state[:, 6] = 1 - state[:, 6]


def yaw_first(state: np.ndarray) -> None:
    state[:, 3:6] = state[:, [5, 4, 3]]


def roll_second(state: np.ndarray) -> None:
    state[:, 3:6] = state[:, [4, 3, 5]]


def nothing(state: np.ndarray) -> None:
    pass


def test_droid_breaks_no_rule(shared_data: Path) -> None:
    found = findings(open_episodes(shared_data / "droid_tiny"))
    assert fails(found) == set()
    assert found["recorded actions"].numbers["kind"] == "targets"
    assert found["camera"].numbers["used"] == "exterior_1"
    assert found["pictures, crops"].numbers["ac_crop"] == [0, 38, 180, 243]
    assert found["step duration"].numbers["median_s"] == pytest.approx(4 / 15)


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (degrees, "rotation unit"),
        (millimetres, "position unit"),
        (yaw_first, "Euler order"),
        (roll_second, "Euler order"),
    ],
)
def test_droid_with_a_defect_fails(shared_data: Path, change: Change, check: str) -> None:
    episodes = open_episodes(shared_data / "droid_tiny", action="cartesian_velocity")
    assert fails(findings(Changed(episodes, nothing))) == set()
    assert check in fails(findings(Changed(episodes, change)))


def test_droid_with_a_moving_camera_or_a_wrong_rate_fails(shared_data: Path) -> None:
    episodes = open_episodes(shared_data / "droid_tiny")
    assert fails(findings(Changed(episodes, nothing, moves=True))) == {"camera"}
    fast = Changed(episodes, nothing)
    fast.fps = 60.0  # what a container says; no recorded times contradict it
    assert fails(findings(fast)) >= {"windows"}


def test_droid_with_the_gripper_turned_round_fails(shared_data: Path) -> None:
    episodes = open_episodes(shared_data / "droid_tiny")
    sound = findings(episodes)["gripper sense"].numbers
    found = findings(Changed(episodes, turned_round))["gripper sense"]
    assert found.numbers["agree"] == pytest.approx(sound["agree_if_turned"], abs=0.02)
    assert found.numbers["agree_if_turned"] == pytest.approx(sound["agree"], abs=0.02)
    assert found.verdict == "fails"


def test_raw_droid_has_times_and_poses(tmp_path: Path) -> None:
    found = findings(open_episodes(write_droid_raw(tmp_path)))
    assert found["frame rate"].verdict == "ok"
    # the fixture's pictures move, though the poses of its cameras do not: nothing is decided
    assert found["camera"].verdict == "not decidable"
    assert fails(found) == set()


@pytest.mark.parametrize("write", [write_bridge, write_bridge_raw])
def test_bridge_needs_a_step_of_its_own(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    episodes = open_episodes(write(tmp_path))
    found = findings(episodes)
    assert found["step duration"].verdict == "fails"
    assert "--step-seconds 0.2" in found["step duration"].mend
    assert "step duration" not in fails(findings(episodes, step_seconds=0.2))
    assert found["rotation unit"].verdict == "warning"  # the fixture's yaw goes beyond pi
    assert "rotation unit" in fails(findings(Changed(episodes, degrees)))
    assert "position unit" in fails(findings(Changed(episodes, millimetres)))


def test_libero_and_egodex_have_no_such_states(tmp_path: Path) -> None:
    libero = findings(open_episodes(write_libero(tmp_path / "libero", size=64)))
    assert libero["state axes"].verdict == "fails"
    assert "rotation vector" in libero["state axes"].found
    assert libero["recorded actions"].numbers["metres_per_unit"] == pytest.approx([0.03] * 3)
    egodex = findings(open_episodes(write_egodex(tmp_path / "egodex")))
    assert "several x, y, z" in egodex["state axes"].found


def test_lerobot_is_judged_by_its_numbers(shared_data: Path) -> None:
    found = findings(open_episodes(shared_data / "lerobot_v3_tiny"))
    assert found["frame rate"].verdict == "ok"
    assert fails(found) == {"camera"}  # its pictures move in both cameras
    episodes = Changed(open_episodes(shared_data / "lerobot_v3_tiny"), millimetres)
    assert "position unit" in fails(findings(episodes))
