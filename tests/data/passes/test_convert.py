"""What is converted reads back the same, whoever did it and however often it was stopped."""

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from saccade.config import Config
from saccade.data.episodes import Episodes
from saccade.data.lerobot import writer
from saccade.data.lerobot.reader import LeRobotConfig
from saccade.data.lerobot.tables import read_parquet
from saccade.data.passes.convert import Conversion, Outcome, convert
from saccade.data.passes.shards import Shard, locked
from saccade.data.synthetic import SyntheticConfig
from saccade.errors import BusyError, ConfigError, DataError, SpaceError
from tests.fixtures.toy import Toy, ToyConfig

TOY = ToyConfig()
EXACT = Conversion()


def run(source: Config[Episodes], out: Path, **options) -> Outcome:
    return convert(source, out, options.pop("conversion", EXACT), **options)


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def check_same(source: Episodes, converted: Episodes, names: dict[str, str]) -> None:
    """Every pixel, number, time and text; ``names`` maps the new cameras to the source's."""
    kept = [i for i, length in enumerate(source.lengths) if length and source.cameras_of(i)]
    assert converted.lengths == [source.lengths[i] for i in kept]
    assert converted.tasks == [source.tasks[i] for i in kept]
    assert converted.cameras == tuple(names)
    assert converted.state_names == source.state_names
    assert converted.action_names == source.action_names
    for new, old in enumerate(kept):
        frames = np.arange(source.lengths[old])
        given, found = source.read(old, frames, ()), converted.read(new, frames, ())
        assert torch.equal(given["state"], found["state"])
        assert torch.equal(given["action"], found["action"])
        np.testing.assert_allclose(converted.timestamps(new), source.timestamps(old), rtol=1e-7)
        about = source.about(old)
        for key in ("success", "scene", "source"):
            assert converted.about(new).get(key) == about.get(key)
        texts = (said.get("tasks") or [source.tasks[old]] for said in (about, converted.about(new)))
        assert next(texts) == next(texts)
        for name, camera in names.items():
            pictures = source.read(old, frames, (camera,))["video"]
            assert torch.equal(converted.read(new, frames, (name,))["video"], pictures)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy, converted in one go. Read only."""
    out = tmp_path_factory.mktemp("whole") / "toy"
    assert run(TOY, out) == Outcome(4, 4, {}, True)
    return out


def test_pictures_are_copied_video_is_lossless_and_nothing_is_lost(whole: Path) -> None:
    source, converted = TOY.build(), LeRobotConfig(root=whole).build()
    check_same(source, converted, {"front": "front", "left_wrist": "left.wrist"})
    assert converted.world_to_camera["left_wrist"].tolist() == np.eye(3)[[1, 2, 0]].tolist()
    info = json.loads((whole / "meta" / "info.json").read_text())
    kinds = {name: feature["dtype"] for name, feature in info["features"].items()}
    assert kinds["observation.images.front"] == "image"
    assert kinds["observation.images.left_wrist"] == "video"
    assert info["saccade"]["made_from"]["empty_episodes"] == 1
    stored = embedded(whole, "observation.images.front")
    assert stored[:7] == source.encoded(0, "front", np.arange(7))
    assert len(stored) == 61
    assert not (whole / ".staging").exists()


def embedded(root: Path, key: str) -> list[bytes]:
    (path,) = (root / "data").rglob("*.parquet")
    return [cell["bytes"] for cell in read_parquet(path, [key])[key].to_pylist()]


@pytest.mark.parametrize("name", ["lerobot_v3_tiny", "lerobot_v21_tiny", "synthetic"])
def test_video_and_drawn_frames_stay_what_they_were(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    drawn = SyntheticConfig(episodes=3, length=6)
    source = drawn if name == "synthetic" else LeRobotConfig(root=shared_data / name)
    run(source, tmp_path / "out")
    episodes = source.build()
    converted = LeRobotConfig(root=tmp_path / "out").build()
    check_same(episodes, converted, {camera: camera for camera in episodes.cameras})


def test_statistics_are_those_of_the_frames(whole: Path) -> None:
    found = json.loads((whole / "meta" / "stats.json").read_text())
    source = TOY.build()
    kept = [i for i, length in enumerate(source.lengths) if length]
    reads = [source.read(i, np.arange(source.lengths[i]), ("front",)) for i in kept]
    state = np.concatenate([frames["state"].numpy() for frames in reads]).astype(np.float64)
    np.testing.assert_allclose(found["observation.state"]["std"], state.std(0), rtol=1e-12)
    q01 = np.quantile(state, 0.01, axis=0)
    np.testing.assert_allclose(found["observation.state"]["q01"], q01, rtol=1e-12)
    video = np.concatenate([frames["video"].numpy() for frames in reads])[:, 0] / 255
    mean = np.ravel(found["observation.images.front"]["mean"])
    np.testing.assert_allclose(mean, video.mean((0, 2, 3)), rtol=1e-12)
    lengths = np.array([source.lengths[i] for i in kept])
    frame = np.concatenate([np.arange(length) for length in lengths])
    expected = {
        "frame_index": frame,
        "timestamp": (frame / 5).astype(np.float32).astype(float),
        "episode_index": np.repeat(np.arange(4), lengths),
        "index": np.arange(61),
        "task_index": np.repeat([0, 1, 3, 4], lengths),  # 2 is the other text of episode 2
    }
    for name, values in expected.items():
        for statistic, value in {
            "mean": values.mean(),
            "std": values.std(),
            "max": values.max(),
            "q99": np.quantile(values, 0.99),
        }.items():
            assert found[name][statistic] == pytest.approx([value]), (name, statistic)


def test_shards_in_any_order_give_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match="lacks 4 of 4 episodes"):
        run(TOY, out, merge=True)
    assert run(TOY, out, shard=Shard(2, 3)) == Outcome(1, 4, {}, False)
    with pytest.raises(DataError, match=r"run shards 0/3, 1/3 first"):
        run(TOY, out, merge=True)
    run(TOY, out, shard=Shard(0, 3))
    run(TOY, out, shard=Shard(0, 3))  # again does nothing
    run(TOY, out, shard=Shard(1, 3))
    with pytest.raises(DataError, match="is missing"):
        LeRobotConfig(root=out).build()
    assert run(TOY, out, merge=True) == Outcome(4, 4, {}, True)
    assert contents(out) == contents(whole)
    assert run(TOY, out, merge=True) == Outcome(4, 4, {}, True)
    assert run(TOY, out, shard=Shard(0, 3)).finished
    assert contents(out) == contents(whole)


def test_processes_give_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    run(TOY, tmp_path / "out", jobs=2)
    assert contents(tmp_path / "out") == contents(whole)


def in_child(work: Callable[[], object]) -> int | None:
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize("call", range(0, 40, 4))
def test_a_kill_at_any_write_is_mended(whole: Path, tmp_path: Path, call: int) -> None:
    """The process dies at one of the points where something is made to last."""
    out, calls = tmp_path / "out", iter(range(1000))
    real = os.fsync

    def fatal(descriptor: int) -> None:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        real(descriptor)

    def work() -> None:
        os.fsync = fatal
        run(TOY, out)

    assert in_child(work) == -signal.SIGKILL
    before = {path: path.stat().st_ino for path in (out / ".staging").glob("episode-*")}
    told: list[str] = []
    run(TOY, out, say=told.append)
    assert contents(out) == contents(whole)
    resuming = [f"resuming: {len(before)} of 4 episodes done"] if before else []
    assert [line for line in told if line.startswith("resuming")] == resuming


def test_what_is_staged_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    run(TOY, out, shard=Shard(0, 2))  # episodes 0 and 3
    staged = []
    real = writer.LeRobotWriter.write_episode

    def watched(self, index: int, *args, **options) -> None:
        staged.append(index)
        real(self, index, *args, **options)

    monkeypatch.setattr(writer.LeRobotWriter, "write_episode", watched)
    run(TOY, out)
    assert staged == [2, 4]


def test_a_full_disk_is_said_and_a_rerun_goes_on(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real, calls = tmp_path / "out", writer.write_rows, iter(range(100))

    def full(table, path: Path) -> None:
        if next(calls) == 2:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(table, path)

    monkeypatch.setattr(writer, "write_rows", full)
    with pytest.raises(SpaceError, match="free some space and rerun"):
        run(TOY, out)
    assert sorted(path.name for path in (out / ".staging").glob("*episode*")) == [
        "episode-000000",
        "episode-000002",
    ]
    run(TOY, out)
    assert contents(out) == contents(whole)


def test_another_source_or_another_way_is_refused(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(TOY, out, shard=Shard(0, 2))
    for source, conversion in (
        (replace(TOY, seed=1), EXACT),
        (TOY, Conversion(pixels="small")),
        (TOY, Conversion(cameras=("front",))),
    ):
        with pytest.raises(ConfigError, match="staged with other settings"):
            run(source, out, conversion=conversion)
        with pytest.raises(ConfigError, match="holds another data set"):
            run(source, whole, conversion=conversion)
    (tmp_path / "mine" / "data").mkdir(parents=True)
    with pytest.raises(ConfigError, match="holds something else"):
        run(TOY, tmp_path / "mine")


def test_a_source_that_changes_meanwhile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = iter([TOY, replace(TOY, seed=1)])
    monkeypatch.setattr(ToyConfig, "build", lambda _: Toy(next(builds)))
    with pytest.raises(DataError, match="changed while it was converted"):
        run(TOY, tmp_path / "out")
    assert not (tmp_path / "out" / "meta").exists()


def test_the_source_is_not_written_to(lerobot: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(lerobot, tmp_path / "data"))
    before = sorted(copied.rglob("*"))
    for out in (copied, copied / "new", tmp_path / "x" / ".." / "data" / "new"):
        with pytest.raises(ConfigError, match=r"lies in the data set .* itself; choose"):
            run(LeRobotConfig(root=copied), out)
    assert sorted(copied.rglob("*")) == before


def test_two_at_once_do_not_meet(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with locked(out / ".staging" / "lock"), pytest.raises(BusyError):
        run(TOY, out)
    run(TOY, out, shard=Shard(0, 2))
    with locked(out / ".staging" / "lock", shared=True):  # a shard is under way
        run(TOY, out, shard=Shard(1, 2))
        with pytest.raises(BusyError):
            run(TOY, out, merge=True)
    run(TOY, out, merge=True)


def test_broken_episodes_end_the_conversion_or_are_listed(tmp_path: Path) -> None:
    broken = replace(TOY, broken=((3, "front", 2),))
    with pytest.raises(DataError, match="part-3, frame 2 is broken"):
        run(broken, tmp_path / "a")
    with pytest.raises(DataError, match=r"1 of 4 episodes are broken, more than the 10\.00%"):
        run(broken, tmp_path / "a", on_error="skip", most_skipped=0.1)
    outcome = run(broken, tmp_path / "a", on_error="skip", most_skipped=0.25)
    assert outcome == Outcome(3, 4, {3: "part-3, frame 2 is broken; download it again"}, True)
    assert json.loads((tmp_path / "a" / "meta" / "left_out.json").read_text()) == {
        "3": "part-3, frame 2 is broken; download it again"
    }
    assert LeRobotConfig(root=tmp_path / "a").build().lengths == [7, 40, 9]
    assert run(broken, tmp_path / "a").left_out == outcome.left_out


def test_a_merge_needs_leave_for_what_shards_skipped(tmp_path: Path) -> None:
    broken, out = replace(TOY, broken=((0, "", 2),)), tmp_path / "a"
    for index in (0, 1):
        run(broken, out, shard=Shard(index, 2), on_error="skip", most_skipped=0.5)
    with pytest.raises(DataError, match="episode 0: part-0, frame 2 is broken"):
        run(broken, out, merge=True)
    run(TOY, out, shard=Shard(0, 2))  # mended: no longer left out
    assert run(TOY, out, merge=True) == Outcome(4, 4, {}, True)


def test_cameras_are_those_that_every_episode_has(tmp_path: Path) -> None:
    some = replace(TOY, without_wrist=(2, 4))
    run(some, tmp_path / "a")
    assert LeRobotConfig(root=tmp_path / "a").build().cameras == ("front",)
    wrist = Conversion(cameras=("left.wrist",))
    with pytest.raises(DataError, match=r"episode 2 has no cameras \['left.wrist'\]"):
        run(some, tmp_path / "b", conversion=wrist)
    run(some, tmp_path / "b", conversion=wrist, on_error="skip", most_skipped=0.5)
    assert LeRobotConfig(root=tmp_path / "b").build().lengths == [7, 5]
    with pytest.raises(DataError, match=r"no cameras \['top'\]"):
        run(TOY, tmp_path / "c", conversion=Conversion(cameras=("top",)))


def test_small_is_close_and_square(tmp_path: Path) -> None:
    run(TOY, tmp_path / "a", conversion=Conversion(pixels="small", size=16))
    info = json.loads((tmp_path / "a" / "meta" / "info.json").read_text())
    assert info["features"]["observation.images.front"]["dtype"] == "video"
    source = SyntheticConfig(episodes=2, length=6, image_size=32)
    run(source, tmp_path / "b", conversion=Conversion(pixels="small", size=16))
    found = LeRobotConfig(root=tmp_path / "b").build().read(1, np.arange(6))["video"]
    assert found.shape == (6, 1, 3, 16, 16)
    given = source.build().read(1, np.arange(6))["video"][:, 0]
    near = torch.nn.functional.avg_pool2d(given.float(), 2)
    assert (found[:, 0].float() - near).abs().mean() < 8


def test_the_plan_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    run(replace(TOY, without_wrist=(2, 4)), tmp_path / "a", say=told.append)
    assert told == [
        f"4 episodes, 61 frames -> {tmp_path / 'a'}",
        "  camera front: 24 x 32, pictures as stored",
        "  left out: camera left.wrist, lacking in 2 episodes",
        "  left out: 1 episode without frames",
    ]


def test_nothing_to_convert_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no episode has frames"):
        run(replace(TOY, lengths=(0, 0)), tmp_path / "a")
    with pytest.raises(DataError, match="part-0, frame 0 is broken"):
        run(replace(TOY, lengths=(3,), broken=((0, "front", 0),)), tmp_path / "a")
    shutil.rmtree(tmp_path / "a", ignore_errors=True)
