import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saccade.data.lerobot.reader import LeRobotConfig
from saccade.data.lerobot.writer import LeRobotWriter
from saccade.data.truth import flow
from saccade.errors import BusyError, ConfigError, DataError
from saccade.sim import collect as module
from saccade.sim import crew
from saccade.sim.collect import CollectConfig, Episode, Recorder, collect, record
from saccade.sim.crew import Job, Progress, Slot
from saccade.sim.metaworld import MetaWorld
from tests.sim.digests import content

pytestmark = pytest.mark.usefixtures("quick_workers")  # one test below spawns

SMALL: dict[str, Any] = {
    "tasks": ("reach", "push"),
    "episodes": 2,
    "size": 16,
    "supersample": 1,
    "max_steps": 12,
    "keep_failures": True,
}


@pytest.fixture(scope="module")
def whole(quick_workers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "data"
    collect(CollectConfig(out=root, **SMALL))
    return root


@pytest.fixture(scope="module")
def reach() -> Iterator[MetaWorld]:
    with MetaWorld("reach", size=16, supersample=1) as simulator:
        yield simulator


def test_the_data_set_opens_with_the_reader(whole: Path) -> None:
    data = LeRobotConfig(root=whole).build()
    assert data.fps == 80
    assert data.tasks == ["reach", "reach", "push", "push"]
    assert data.lengths == [12, 12, 12, 12]
    assert data.cameras == ("corner2",)
    assert data.state_names == data.action_names == ("x", "y", "z", "gripper")
    assert np.linalg.det(data.world_to_camera["corner2"]) == pytest.approx(1)
    recorded = json.loads((whole / "meta" / "info.json").read_text())["saccade"]["collection"]
    assert recorded["tasks"] == ["reach-v3", "push-v3"]
    assert recorded["sensor_noise"] == 2.0
    first = data.read(0, np.arange(12))
    assert (first["action"].abs() <= 1).all()
    assert first["video"].float().std() > 5


def test_the_number_of_workers_changes_no_byte(whole: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    summary = collect(CollectConfig(out=tmp_path, workers=2, **SMALL), seen.append)
    assert content(tmp_path) == content(whole)
    assert (summary.episodes, summary.frames, summary.given_up) == (4, 48, ())
    assert [(progress.done, progress.total) for progress in seen] == [(i, 4) for i in (1, 2, 3, 4)]
    assert seen[-1].seconds_left == 0


SCRIPT = """
from pathlib import Path
from saccade.sim.collect import CollectConfig, collect
if __name__ == "__main__":
    collect(CollectConfig(out=Path({out!r}), **{small!r}), lambda _: print("one", flush=True))
"""


def test_a_killed_collection_goes_on_and_leaves_no_orphans(whole: Path, tmp_path: Path) -> None:
    script, out = tmp_path / "script.py", tmp_path / "data"
    script.write_text(SCRIPT.format(out=str(out), small=SMALL))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"one\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGKILL)
    assert children
    patience = time.monotonic() + 10
    while any(running(pid) for pid in children):
        assert time.monotonic() < patience, "orphans"
        time.sleep(0.05)

    seen: list[Progress] = []
    collect(CollectConfig(out=out, **SMALL), seen.append)
    assert 1 <= len(seen) <= 3
    assert content(out) == content(whole)


def running(pid: str) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_finished_collection_is_kept_and_its_settings_are_guarded(whole: Path) -> None:
    before = content(whole)
    summary = collect(CollectConfig(out=whole, workers=3, **SMALL))
    assert (summary.episodes, summary.frames) == (4, 48)
    assert content(whole) == before
    with pytest.raises(ConfigError, match=r"begun with \{'seed': 0\}, not \{'seed': 1\}"):
        collect(CollectConfig(out=whole, seed=1, **SMALL))


def test_a_foreign_folder_and_a_busy_one_are_refused(tmp_path: Path) -> None:
    config = CollectConfig(out=tmp_path, **SMALL)
    (tmp_path / "meta").mkdir()
    with pytest.raises(ConfigError, match="holds another data set"):
        collect(config)
    with (tmp_path / ".collect.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="another process collects"):
            collect(config)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"episodes": 0}, "episodes is 0; it must lie in 1 to"),
        ({"max_steps": 501}, "max_steps is 501; it must lie in 1 to 500"),
        ({"sensor_noise": -1.0}, "sensor_noise is -1.0"),
        ({"size": 65}, "even number of pixels"),
        ({"tasks": ("reech",)}, "did|reach-v3"),
        ({"tasks": ()}, "must not be empty"),
        ({"cameras": ("front",)}, "no camera 'front'"),
        ({"truth": 17}, "truth is 17; it must lie in 8 to 16"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    config = replace(CollectConfig(out=tmp_path / "data", **SMALL), **wrong)
    with pytest.raises(ConfigError, match=message):
        collect(config)


def test_recording_ends_five_steps_after_success(reach: MetaWorld, tmp_path: Path) -> None:
    config = replace(CollectConfig(out=tmp_path, **SMALL), max_steps=100)
    episode = record(reach, config, (0, 1))
    reach.reset((0, 1))
    for _ in episode.action[:-6]:
        assert not reach.success
        reach.step(reach.expert())
    reach.step(reach.expert())
    assert reach.success
    assert episode.success
    assert episode.video["corner2"].shape == (len(episode.state), 16, 16, 3)


def test_stride_keeps_frames_with_the_action_executed_at_them(
    reach: MetaWorld, tmp_path: Path
) -> None:
    config = CollectConfig(out=tmp_path, action_noise=0.1, **SMALL)
    every = record(reach, config, (0, 1))
    third = record(reach, replace(config, stride=3), (0, 1))
    np.testing.assert_array_equal(third.state, every.state[::3])
    np.testing.assert_array_equal(third.action, every.action[::3])
    np.testing.assert_array_equal(third.video["corner2"], every.video["corner2"][::3])


def test_noise_is_added_to_pixels_and_to_the_action(reach: MetaWorld, tmp_path: Path) -> None:
    clean = CollectConfig(out=tmp_path, sensor_noise=0.0, **SMALL)
    still = record(reach, clean, (0, 1)).video["corner2"].astype(float)
    grainy = record(reach, replace(clean, sensor_noise=2.0), (0, 1)).video["corner2"]
    noise = (grainy - still)[(still > 10) & (still < 245)]
    assert noise.std() == pytest.approx(2.0, rel=0.05)
    assert noise.mean() == pytest.approx(0.0, abs=0.05)
    assert np.abs(np.diff(grainy.astype(float) - still, axis=0)).mean() > 1  # new in each frame

    shaken = record(reach, replace(clean, action_noise=0.5), (0, 1)).action
    calm = record(reach, clean, (0, 1)).action
    assert not np.array_equal(shaken[:, :3], calm[:, :3])
    np.testing.assert_array_equal(shaken[:, 3], calm[:, 3])  # never the grip


def test_failures_are_retried_with_other_goals_or_kept(
    reach: MetaWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CollectConfig(out=tmp_path, **SMALL), tasks=("reach-v3",), keep_failures=False)
    writer, slot, keys = module._open_writer(config), Slot("reach-v3", 1, 1), []
    recorder = Recorder(config, writer)
    recorder.simulator = reach

    def fail_until(attempts: int) -> None:
        def trial(simulator: MetaWorld, config: CollectConfig, key: tuple[int, ...]) -> Episode:
            keys.append(key)
            rows = np.zeros((3, 4), np.float32)
            video = {"corner2": np.zeros((3, 16, 16, 3), np.uint8)}
            return Episode(video, rows, rows, success=len(keys) >= attempts)

        keys.clear()
        monkeypatch.setattr(module, "record", trial)

    fail_until(4)
    assert recorder.store(slot) == 0
    assert len(keys) == len(set(keys)) == 3
    assert writer.staged() == set()
    fail_until(2)
    assert recorder.store(slot) == 3
    assert len(keys) == 2
    fail_until(9)
    recorder.config = replace(config, keep_failures=True)
    assert recorder.store(Slot("reach-v3", 0, 0)) == 3
    assert len(keys) == 1
    assert writer.staged() == {0, 1}


def test_episodes_that_were_given_up_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CollectConfig(out=tmp_path, **SMALL), tasks=("reach",), keep_failures=False)
    asked: list[list[Slot]] = []

    def outcomes(job: Job, slots: list[Slot], count: int) -> Iterator[tuple[Slot, int]]:
        asked.append(slots)
        yield from [(slot, 0) for slot in slots]

    monkeypatch.setattr(crew, "outcomes", outcomes)
    for _ in range(2):
        with pytest.raises(DataError, match="no expert succeeded within 12 steps in 2 episodes"):
            collect(config)
    assert asked == [[Slot("reach-v3", 0, 0), Slot("reach-v3", 1, 1)], []]
    assert json.loads((tmp_path / "collection.json").read_text())["given_up"] == [0, 1]


class Refusing(LeRobotWriter):
    def write_episode(self, *args: Any, **_: Any) -> None:
        raise DataError(f"no room for {args[0]}")


class Crashing(LeRobotWriter):
    def write_episode(self, *args: Any, **_: Any) -> None:
        os._exit(7)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Refusing, "reach-v3 episode 1 cannot be recorded: no room for 1"),
        (Crashing, "recorded reach-v3 episode 1 ended with exit code 7"),
    ],
)
def test_a_failing_worker_stops_the_collection(
    tmp_path: Path, kind: type[LeRobotWriter], message: str
) -> None:
    config = module.checked(CollectConfig(out=tmp_path, **SMALL))
    writer = module._open_writer(config)
    writer.__class__ = kind
    with pytest.raises(DataError, match=message):
        list(crew.outcomes(Recorder(config, writer), [Slot("reach-v3", 1, 1)], 1))


def test_a_worker_that_is_killed_before_it_begins_is_named(tmp_path: Path) -> None:
    config = module.checked(CollectConfig(out=tmp_path, **SMALL))
    worker = crew.Worker(Recorder(config, module._open_writer(config)))
    worker.process.kill()
    worker.give(Slot("push-v3", 0, 2))
    with pytest.raises(DataError, match="recorded push-v3 episode 0 ended with exit code -9"):
        worker.outcome()
    worker.stop()


def test_a_wandering_hand_goes_everywhere_and_is_kept_to_the_end(reach: MetaWorld) -> None:
    config = CollectConfig(
        out=Path(), **{**SMALL, "max_steps": 400, "stride": 8, "policy": "wander"}
    )
    episode = record(reach, config, (0, 0, 0, 0))
    assert len(episode.state) == 50  # success does not end it
    low, high = reach.workspace()
    assert (np.ptp(episode.state[:, :3], 0) > 0.3 * (high - low).clip(max=0.4)).all()
    moved = np.diff(episode.state[:, :3], axis=0)
    assert (abs(moved.mean(0)) < 0.5 * moved.std(0)).all()  # no direction is preferred
    assert set(np.unique(episode.action[:, 3])) == {0.0, 1.0}
    again = record(reach, config, (0, 0, 0, 0))
    assert np.array_equal(again.state, episode.state)
    expert = record(reach, replace(config, policy="expert"), (0, 0, 0, 0))
    assert not np.array_equal(expert.state[:10], episode.state[:10])


def test_the_truth_is_recorded_with_each_frame_and_changes_nothing_else(
    whole: Path, reach: MetaWorld, tmp_path: Path
) -> None:
    """Recorded by a worker, and once more in this process, the bytes are the same."""
    small: dict[str, Any] = SMALL | {"tasks": ("reach",), "truth": 12, "stride": 3}
    config = module.checked(CollectConfig(out=tmp_path / "one", **small))
    collect(config)
    again = replace(config, out=tmp_path / "two")
    recorder = Recorder(again, module._open_writer(again))
    recorder.simulator = reach
    for slot in crew.slots_of(again.tasks, again.episodes):
        assert recorder.store(slot) == 4
    recorder.writer.finish()
    one, two = content(config.out), content(again.out)
    assert {name: one[name] for name in two} == two
    assert sum(name.startswith("truth/corner2/episode-00000") for name in two) == 2

    data, plain = (LeRobotConfig(root=root).build() for root in (config.out, whole))
    assert plain.truth(0, "corner2") is None
    frames = np.arange(4)
    for episode in range(2):
        states = [d.read(episode, f, ())["state"] for d, f in ((data, frames), (plain, 3 * frames))]
        assert np.array_equal(states[0], states[1])
        truth = data.truth(episode, "corner2")
        assert truth is not None
        assert truth.depth.shape == (4, 12, 12)
        field, visible = flow(truth, 0, 3)
        still = (truth.poses[0] == truth.poses[3]).all((1, 2))[truth.body[0]]
        assert 0.5 < still.mean() < 0.95  # all but the arm
        assert np.abs(field[:, ~still]).max() > 0.2
        assert not field[:, still].any()
        assert visible.mean() > 0.8
    settings = json.loads((config.out / "meta" / "info.json").read_text())["saccade"]["collection"]
    assert settings["truth"] == 12
    assert "truth" not in (whole / "meta" / "info.json").read_text()


def test_a_collection_goes_on_only_with_the_truth_that_it_was_begun_with(
    whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"begun with \{'truth': None\}, not \{'truth': 8\}"):
        collect(CollectConfig(out=whole, truth=8, **SMALL))
    record = json.loads((whole / "collection.json").read_text())
    for known, expected in ((None, True), (8, False)):
        folder = tmp_path / str(known)
        folder.mkdir()
        settings = {name: value for name, value in record["settings"].items() if name != "truth"}
        settings |= {} if known is None else {"truth": known}  # None: older than the option
        (folder / "collection.json").write_text(json.dumps(record | {"settings": settings}))
        config = module.checked(CollectConfig(out=folder, **SMALL))
        if expected:
            crew.Record.open(folder, module._settings(config), foreign=False)
        else:
            with pytest.raises(ConfigError, match=r"begun with \{'truth': 8\}"):
                collect(config)


def test_a_given_up_episode_leaves_no_truth(reach: MetaWorld, tmp_path: Path) -> None:
    config = module.checked(
        replace(
            CollectConfig(out=tmp_path, **SMALL), tasks=("reach",), keep_failures=False, truth=8
        )
    )
    writer = module._open_writer(config)
    recorder = Recorder(config, writer)
    recorder.simulator = reach
    assert recorder.store(Slot("reach-v3", 0, 0)) == 0
    assert not list(tmp_path.rglob("*.safetensors"))
