"""Rates, steps and windows, by numbers worked out by hand."""

import numpy as np
import pytest

from saccade.data.passes.contract.findings import Sample, gather
from saccade.data.passes.contract.rates import check_rates, rate, step, windows
from tests.fixtures.arm import Arm, ArmConfig, Untimed


class Timed(Arm):
    """Frames at times that a test gives."""

    at = np.zeros(0)

    def timestamps(self, episode: int) -> np.ndarray:
        return self.at[: self.lengths[episode]]


def timed(times: np.ndarray, fps: float, span: float = 0.25) -> Sample:
    episodes = Timed(ArmConfig(episodes=2, length=len(times)))
    episodes.at, episodes.fps = times, float(fps)
    return gather(episodes, span)


def test_windows_are_counted() -> None:
    sample = gather(ArmConfig(recorded_times=False).build(), 0.25)
    # 80 frames at 15 Hz: 8 frames span 26.25 intervals and 16 span 56.25; half a frame may lack
    assert windows(sample).numbers == {
        "8": {"windows": 6 * 54, "episodes": 6},
        "16": {"windows": 6 * 24, "episodes": 6},
    }
    assert windows(sample).verdict == "ok"


@pytest.mark.parametrize(("length", "verdict"), [(26, "fails"), (27, "warning"), (57, "ok")])
def test_short_episodes_give_no_windows(length: int, verdict: str) -> None:
    sample = gather(ArmConfig(recorded_times=False, length=length).build(), 0.25)
    assert windows(sample).verdict == verdict


def test_episodes_that_are_mostly_too_short_are_told() -> None:
    episodes = ArmConfig(recorded_times=False).build()
    episodes.lengths = [80, 20, 20, 20, 20, 80]
    found = windows(gather(episodes, 0.25))
    assert (found.verdict, "most episodes" in found.mend) == ("warning", True)


def test_steps_are_those_of_the_frames() -> None:
    found = step(timed(np.arange(100) / 15, 15))
    # frames 0, 4, 8 (7.5), 11, 15, 19, 23 (22.5), 26: four intervals or three
    assert found.numbers["median_s"] == pytest.approx(4 / 15)
    assert found.numbers["min_s"] == pytest.approx(3 / 15)
    assert found.numbers["max_s"] == pytest.approx(4 / 15)
    assert (found.verdict, found.numbers["uneven"]) == ("ok", 0)


@pytest.mark.parametrize(
    ("hertz", "span", "verdict", "mend"),
    [
        (5, 0.2, "ok", ""),
        (5, 0.25, "fails", "--step-seconds 0.2"),
        (5, 0.4, "ok", ""),
        (15, 1.0, "ok", ""),
        (10, 0.25, "ok", ""),
        (3, 0.25, "fails", "--step-seconds 0.333"),
    ],
)
def test_rates_that_do_not_divide_are_told(
    hertz: float, span: float, verdict: str, mend: str
) -> None:
    found = step(timed(np.arange(200) / hertz, hertz, span))
    assert (found.verdict, mend in found.mend) == (verdict, True), found


@pytest.mark.parametrize(("fps", "verdict"), [(15, "ok"), (16, "warning"), (60, "fails")])
def test_headers_are_compared_with_times(fps: float, verdict: str) -> None:
    found = rate(timed(np.arange(100) / 15, fps))
    assert found.verdict == verdict
    assert found.numbers["hz"] == pytest.approx(15)


def test_holes_and_jitter_are_told() -> None:
    times = np.arange(100) / 10
    times[50:] += 3
    holed = rate(timed(times, 10))
    assert (holed.verdict, holed.numbers["holes"]) == ("warning", 2)  # one in each episode
    assert holed.numbers["longest_s"] == pytest.approx(3.1)
    late = np.arange(100) / 10 + 0.04 * (np.arange(100) % 2)
    jittered = rate(timed(late, 10))
    assert jittered.verdict == "warning"
    assert jittered.numbers["jitter_s"] >= 0.04 - 1e-9


def test_times_that_are_only_counted_decide_nothing() -> None:
    found = rate(gather(ArmConfig(recorded_times=False).build(), 0.25))
    assert (found.verdict, "15 Hz by header" in found.found) == ("not decidable", True)


@pytest.mark.parametrize("times", [2, 4])
def test_repeated_frames_show_a_slower_rate(times: int) -> None:
    episodes = Untimed(ArmConfig(episodes=2))
    repeat = np.arange(80) // times
    episodes.tables = [(state[repeat], action) for state, action in episodes.tables]
    found = rate(gather(episodes, 0.25))
    assert (found.verdict, found.numbers["repeated"]) == ("fails", times)
    assert f"{15 / times:.4g} Hz" in found.found


def test_a_robot_that_rests_does_not_repeat() -> None:
    episodes = Untimed(ArmConfig(episodes=2))
    rest = np.minimum(np.arange(80), 40)
    episodes.tables = [(state[rest], action[rest]) for state, action in episodes.tables]
    assert rate(gather(episodes, 0.25)).verdict == "not decidable"  # no times, but no fault


def test_without_recordings_nothing_is_decided() -> None:
    sample = Sample(ArmConfig(episodes=1).build(), 0.25)
    assert {f.verdict for f in check_rates(sample)} == {"not decidable"}
