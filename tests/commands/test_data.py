"""Every verb of ``saccade data`` on small data sets, sound and broken."""

import importlib
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import tyro

from saccade.commands.data import VERBS
from saccade.commands.data.split import parsed
from saccade.data.lerobot.reader import LeRobotConfig
from saccade.data.splits import load_split
from saccade.errors import ConfigError
from tests.conftest import Outcome

Saccade = Callable[..., Outcome]


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def cut(lerobot: Path, tmp_path: Path) -> Path:
    """A data set whose video is cut in the middle."""
    copied = Path(shutil.copytree(lerobot, tmp_path / "cut"))
    (video,) = copied.rglob("*.mp4")
    raw = video.read_bytes()
    video.write_bytes(raw[: len(raw) // 2])
    return copied


def test_help_teaches_every_verb(saccade: Saccade) -> None:
    done = saccade("data", "--help")
    assert done.code == 0
    for verb in VERBS:
        assert f"\n  {verb} " in done.out
    assert saccade("data").code == 2
    wrong = saccade("data", "data/metaworld")
    assert wrong.code == 2
    assert "saccade data inspect data/metaworld" in wrong.err


@pytest.mark.parametrize("verb", ["inspect", "verify", "stats", "convert", "split", "cache"])
def test_each_verb_teaches_and_names_what_is_missing(
    saccade: Saccade, tmp_path: Path, verb: str
) -> None:
    taught = saccade("data", verb, "--help")
    assert taught.code == 0
    assert f"Example: saccade data {verb}" in " ".join(taught.out.split())
    out = (tmp_path / "out",) if verb == "convert" else ()
    for root, told in ((tmp_path / "none", "is no folder"), (tmp_path, "no data set that we know")):
        done = saccade("data", verb, root, *out)
        assert done.code == 3
        assert done.err.startswith(f"error[3]: {root}")
        assert told in done.err


@pytest.mark.parametrize("verb", VERBS)
def test_every_example_can_be_typed(verb: str) -> None:
    command = importlib.import_module(f"saccade.commands.data.{verb.replace('-', '_')}").Command
    found = re.search(r"Example: saccade (.*?)\n\n", command.__doc__, re.DOTALL)
    assert found is not None
    words = shlex.split(found[1])
    assert words[:2] == ["data", verb]
    tyro.cli(command, args=words[2:])


def test_formats_lists_readers_and_options(saccade: Saccade) -> None:
    done = saccade("data", "formats")
    assert done.code == 0
    assert "lerobot: LeRobot v3.0" in done.out
    assert "cameras=  (names)" in done.out
    assert "meta/info.json" in saccade("data", "formats", "lerobot").out
    assert saccade("data", "formats", "betamax").code == 2


def test_inspect_tells_what_is_in_it_and_draws_strips(
    saccade: Saccade, lerobot: Path, tmp_path: Path
) -> None:
    done = saccade("data", "inspect", lerobot, "--out", tmp_path / "pictures")
    assert done.code == 0, done.err
    for told in (
        f"{lerobot}: lerobot",
        "12 episodes of 16 to 16 frames, 192 frames, 0.01 hours",
        "rate: 10 Hz by header, 10 Hz by timestamps (median; worst jitter 0.0 ms)",
        "camera front: 32 x 32",
        "camera orientation known: front",
        "state (12 of 12 episodes)",
    ):
        assert told in done.out, told
    rows = [line.split() for line in done.out.splitlines()]
    assert ["pull", "it", "6", "96"] in rows
    assert ["push", "it", "6", "96"] in rows
    (picture,) = (tmp_path / "pictures").iterdir()
    assert f"picture: {picture} (episode 0)" in done.out
    with av.open(str(picture)) as container:
        strip = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert strip.shape == (32, 8 * 32 + 7 * 4, 3)
    frame = LeRobotConfig(root=lerobot).build().read(0, np.array([15]))["video"][0, 0]
    assert np.array_equal(strip[:, -32:], frame.permute(1, 2, 0).numpy())


def test_inspect_keeps_the_pictures_of_cameras_apart(
    saccade: Saccade, lerobot: Path, tmp_path: Path
) -> None:
    """Keys of pictures may differ before a slash alone."""
    copied = Path(shutil.copytree(lerobot, tmp_path / "data"))
    info = copied / "meta" / "info.json"
    old, new = "observation.images.front", "observation.images.a/front"
    info.write_text(info.read_text().replace(old, new))
    (copied / "videos" / new).parent.mkdir()
    (copied / "videos" / old).rename(copied / "videos" / new)
    for path in (copied / "meta" / "episodes").rglob("*.parquet"):
        table = pq.read_table(path)
        renamed = [name.replace(old, new) for name in table.column_names]
        pq.write_table(table.rename_columns(renamed), path)
    done = saccade("data", "inspect", copied, "--out", tmp_path / "pictures")
    assert done.code == 0, done.err
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["a%2Ffront.png"]


def test_inspect_leaves_the_data_set_alone(saccade: Saccade, lerobot: Path, cache: Path) -> None:
    before = contents(lerobot)
    assert saccade("data", "inspect", lerobot, "--sample", 2).code == 0
    assert contents(lerobot) == before
    assert (cache / "inspect" / lerobot.name / "front.png").is_file()


def test_inspect_says_what_it_could_not_read(saccade: Saccade, cut: Path) -> None:
    done = saccade("data", "inspect", cut)
    assert done.code == 0
    assert "odd: 12 episodes cannot be read" in done.out


def test_verify_reads_everything(saccade: Saccade, lerobot: Path, tmp_path: Path) -> None:
    done = saccade("data", "verify", lerobot, "--jobs", 1)
    assert done.code == 0
    assert "read 12 episodes, 192 frames (cameras: front)\nnothing is broken" in done.out
    report = tmp_path / "report.json"
    for shard in ("0/2", "1/2"):
        saccade("data", "verify", lerobot, "--jobs", 1, "--shard", shard, "--report", report)
    assert not report.exists()
    assert saccade("data", "verify", lerobot, "--merge", "--report", report).code == 0
    found = json.loads(report.read_text())
    assert (found["episodes"], found["frames"], found["faults"]) == (12, 192, [])
    assert saccade("data", "verify", lerobot, "--shard", "0/2").code == 2


def test_verify_lists_what_is_broken(saccade: Saccade, cut: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = saccade("data", "verify", cut, "--jobs", 1, "--report", report)
    assert done.code == 1
    assert "12 faults" in done.out
    faults = json.loads(report.read_text())["faults"]
    assert [fault["episode"] for fault in faults] == list(range(12))
    assert all(fault["camera"] == "front" and ".mp4" in fault["error"] for fault in faults)


def test_verify_compares_checksums(saccade: Saccade, lerobot: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(lerobot, tmp_path / "data"))
    sums, report = tmp_path / "sums", tmp_path / "report.json"
    verify = ("data", "verify", copied, "--jobs", 1, "--checksums", sums)
    written = saccade(*verify)
    assert written.code == 0, written.err
    assert f"checksums: {sums} (" in written.out
    assert "written, for the next time)" in written.out
    assert len(sums.read_text().splitlines()) == sum(path.is_file() for path in copied.rglob("*"))
    compared = saccade(*verify)
    assert compared.code == 0
    assert "; compared)\nnothing is broken" in compared.out
    (copied / "meta" / "note.txt").touch()
    changed = saccade(*verify, "--report", report)
    assert changed.code == 1
    assert f"broken: data set: meta/note.txt is new, {sums} does not name it" in changed.out
    found = json.loads(report.read_text())
    assert [fault["episode"] for fault in found["faults"]] == [-1]
    assert found["checksums"]["written"] is False


def test_verify_takes_checksums_by_shards(saccade: Saccade, lerobot: Path, tmp_path: Path) -> None:
    one, two, report = tmp_path / "one", tmp_path / "two", tmp_path / "report.json"
    verify = ("data", "verify", lerobot, "--jobs", 1)
    assert saccade(*verify, "--checksums", one).code == 0
    sharded = (*verify, "--report", report)
    assert saccade(*sharded, "--shard", "0/2").code == 0
    assert saccade(*sharded, "--shard", "1/2", "--checksums", two).code == 0
    lacking = saccade(*sharded, "--merge", "--checksums", two)
    assert (lacking.code, two.exists()) == (3, False)
    assert "1 of 2 shards ran without --checksums" in lacking.err
    assert saccade(*sharded, "--shard", "0/2", "--checksums", two).code == 0
    nowhere = saccade(*sharded, "--merge")
    assert nowhere.code == 2
    assert "give --checksums FILE to --merge, too" in nowhere.err
    for _ in range(2):
        assert saccade(*sharded, "--merge", "--checksums", two).code == 0
        assert two.read_bytes() == one.read_bytes()
    assert "files" not in json.loads(report.read_text())


@pytest.mark.parametrize(
    "words",
    ["verify --report", "verify --checksums", "stats --out", "split --out", "inspect --out"],
)
def test_a_place_that_cannot_be_written_is_named_before_the_work(
    saccade: Saccade, lerobot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    verb, option = words.split()
    places = [tmp_path / "file" / "new"] + [tmp_path] * (verb != "inspect")
    (tmp_path / "file").touch()
    monkeypatch.setattr(LeRobotConfig, "build", lambda config: pytest.fail("the work began"))
    for place in places:
        done = saccade("data", verb, lerobot, option, place)
        assert done.code == 2
        assert f"error[2]: {place}" in done.err
        assert "cannot be written; give a file in a folder" in done.err


def test_stats_are_the_same_by_shards(saccade: Saccade, lerobot: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    done = saccade("data", "stats", lerobot, "--out", one, "--jobs", 1)
    assert done.code == 0
    assert "192 frames of 12 episodes; quantiles are exact" in done.out
    for shard in ("1/2", "0/2"):
        saccade("data", "stats", lerobot, "--out", two, "--jobs", 1, "--shard", shard)
        missing = saccade("data", "stats", lerobot, "--out", two, "--merge")
        assert (missing.code == 3) == (shard == "1/2")
    assert two.read_bytes() == one.read_bytes()
    found = json.loads(one.read_text())
    episodes = LeRobotConfig(root=lerobot).build()
    state = np.concatenate([episodes.read(i, np.arange(16), ())["state"] for i in range(12)])
    np.testing.assert_allclose(found["observation.state"]["mean"], state.mean(0, np.float64))


def test_a_split_is_saved_and_counted(saccade: Saccade, lerobot: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "split.json", tmp_path / "stats.json"
    done = saccade(
        "data", "split", lerobot, "--by", "task", "--shares", "a=0.5", "b=0.5", "--out", path
    )
    assert done.code == 0
    assert "a: 6 episodes, 96 frames, 1 task\n" in done.out
    parts = load_split(path, LeRobotConfig(root=lerobot).build())
    assert set(parts["a"].tasks).isdisjoint(parts["b"].tasks)
    done = saccade(
        "data", "stats", lerobot, "--split", path, "--part", "a", "--out", out, "--jobs", 1
    )
    assert done.code == 0, done.err
    assert json.loads(out.read_text())["saccade"]["frames"] == 96
    assert saccade("data", "stats", lerobot, "--split", path, "--part", "c").code == 2
    assert saccade("data", "split", lerobot, "--by", "scene", "--out", path).code == 3


def test_shares_are_read() -> None:
    assert parsed(["a=1", "b=2.5"]) == {"a": 1.0, "b": 2.5}
    for wrong in ("a", "a=", "=1", "a=0", "a=-1", "a=nan", "a=inf"):
        with pytest.raises(ConfigError, match="name=number"):
            parsed([wrong])
    with pytest.raises(ConfigError, match="name=number"):
        parsed(["a=1", "a=2"])


def test_convert_by_shards(saccade: Saccade, lerobot: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    told = saccade("data", "convert", lerobot, "--to", "lerobot", one, "--jobs", 1)
    assert told.code == 0, told.err
    assert f"12 episodes in {one}" in told.out
    assert "camera front: 32 x 32, video" in told.err
    for shard in ("1/2", "0/2"):
        staged = saccade("data", "convert", lerobot, two, "--jobs", 1, "--shard", shard)
        assert staged.code == 0
    assert "12 of 12 episodes are staged" in staged.out
    for _ in range(2):
        assert saccade("data", "convert", lerobot, two, "--merge").code == 0
        assert contents(two) == contents(one)
    given, found = (LeRobotConfig(root=root).build() for root in (lerobot, one))
    for i in range(12):
        pair = [episodes.read(i, np.arange(16)) for episodes in (given, found)]
        for name in ("video", "state", "action"):
            assert torch.equal(pair[0][name], pair[1][name])
    assert saccade("data", "convert", lerobot, two, "--shard", "2/2").code == 2
    assert saccade("data", "convert", lerobot, two, "--shard", "0/2", "--merge").code == 2
    assert saccade("data", "convert", two, one).code == 2  # holds another data set


def test_convert_says_what_it_would_do(saccade: Saccade, lerobot: Path, tmp_path: Path) -> None:
    done = saccade("data", "convert", lerobot, tmp_path / "out", "--dry-run")
    assert done.code == 0
    assert "12 episodes, 192 frames" in done.out
    assert not (tmp_path / "out").exists()


def test_convert_of_broken_data_fails(saccade: Saccade, cut: Path, tmp_path: Path) -> None:
    done = saccade("data", "convert", cut, tmp_path / "out", "--jobs", 1)
    assert done.code == 3
    assert ".mp4" in done.err
    assert not (tmp_path / "out" / "meta").exists()


def test_cache_is_what_training_looks_for(saccade: Saccade, lerobot: Path, tmp_path: Path) -> None:
    done = saccade("data", "cache", lerobot, "--size", 16, "--folder", tmp_path, "--jobs", 1)
    assert done.code == 0, done.err
    assert "front: 192 frames of 16 x 16" in done.out
    assert "frames/s" in done.out
    (store,) = tmp_path.glob("*/frames.u8")
    assert store.stat().st_size == 192 * 3 * 16 * 16
    assert saccade("data", "cache", lerobot, "--camera", "back").code == 3
    clips = saccade(
        "data", "cache", lerobot, "--size", 16, "--clips", tmp_path / "clips", "--jobs", 1
    )
    assert clips.code == 0, clips.err
    read = LeRobotConfig(root=tmp_path / "clips").build().read(0, np.arange(2))
    assert read["video"].shape == (2, 1, 3, 16, 16)


@pytest.mark.parametrize(
    "words",
    [
        "inspect {data} --sample 0",
        "inspect {data} --tasks -1",
        "split {data} --seed -1",
        "stats {data} --most-skipped nan",
        "convert {data} {out} --size 5000",
        "convert {data} {data}/new --dry-run",
        "cache {data} --edge 9000",
        "cache {data} --size 8",
    ],
)
def test_a_wrong_setting_is_a_sentence(
    saccade: Saccade, lerobot: Path, tmp_path: Path, words: str
) -> None:
    done = saccade("data", *words.format(data=lerobot, out=tmp_path / "out").split())
    assert done.code == 2
    assert done.err.startswith("error[2]: ")
    assert done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
