import io
from collections.abc import Callable
from pathlib import Path

import pytest

from saccade.commands.collect import Line, tell
from saccade.sim.crew import Progress, Summary, lock
from tests.conftest import Outcome

Saccade = Callable[..., Outcome]
SMALL = (
    *("collect", "metaworld", "--tasks", "reach", "--episodes", 2, "--size", 16),
    *("--supersample", 1, "--max-steps", 6, "--keep-failures"),
)


def test_a_collection_is_made_once(saccade: Saccade, quick_workers: None, tmp_path: Path) -> None:
    out = tmp_path / "data"
    first = saccade(*SMALL, "--out", out)
    assert (first.code, first.out) == (0, f"2 episodes, 12 frames in {out}\n")
    assert "episode 2/2" in first.err
    made = (out / "meta" / "info.json").stat().st_mtime_ns
    assert saccade(*SMALL, "--out", out) == first._replace(err="")
    assert (out / "meta" / "info.json").stat().st_mtime_ns == made
    other = saccade(*SMALL, "--out", out, "--seed", 1)
    assert other.code == 2
    assert "'seed': 0" in other.err
    assert saccade("data", "inspect", out).code == 0


def test_a_dry_run_writes_nothing(saccade: Saccade, tmp_path: Path) -> None:
    done = saccade(*SMALL, "--out", tmp_path / "data", "--dry-run")
    assert (done.code, done.out) == (0, "would collect 2 episodes of each of reach-v3\n")
    assert not (tmp_path / "data").exists()


def test_nothing_is_deleted_for_a_wrong_setting_or_under_a_process(
    saccade: Saccade, tmp_path: Path
) -> None:
    (tmp_path / "libero_object").mkdir()
    mine = (tmp_path / "collection.json", tmp_path / "libero_object" / "collection.json")
    for path in mine:
        path.write_text("{}")
    for simulator in ("metaworld", "libero"):
        words = ("collect", simulator, "--tasks", "reech", "--out", tmp_path, "--overwrite")
        done = saccade(*words)
        assert (done.code, "has no task 'reech" in done.err) == (2, True)
    with lock(tmp_path):
        busy = saccade(*SMALL, "--out", tmp_path, "--overwrite")
    assert (busy.code, "another process collects" in busy.err) == (8, True)
    assert all(path.exists() for path in mine)


def test_the_folders_of_others_are_not_deleted(saccade: Saccade, lerobot: Path) -> None:
    done = saccade(*SMALL, "--out", lerobot, "--overwrite")
    assert done.code == 2
    assert "has no collection.json, so saccade did not write it" in done.err
    assert (lerobot / "meta" / "info.json").exists()


@pytest.mark.parametrize("args", [(), ("robocasa",), ("--out", "x"), ("--help",)])
def test_the_simulator_is_named(saccade: Saccade, args: tuple[str, ...]) -> None:
    done = saccade("collect", *args)
    assert done.code == (0 if "--help" in args else 2)
    assert "saccade collect metaworld" in done.out
    assert "saccade collect libero" in done.out


@pytest.mark.parametrize("simulator", ["metaworld", "libero"])
def test_help_teaches_with_an_example(saccade: Saccade, simulator: str) -> None:
    done = saccade("collect", simulator, "--help")
    assert done.code == 0
    assert f"Example: saccade collect {simulator} --" in " ".join(done.out.replace("│", "").split())
    assert "--action-noise" in done.out


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that looks like LIBERO's assets, for what opens no scene."""
    for name in ("articulated_objects", "scenes", "stable_hope_objects", "textures"):
        (tmp_path / "assets" / name).mkdir(parents=True)
    monkeypatch.setenv("SACCADE_LIBERO_ASSETS", str(tmp_path / "assets"))


@pytest.mark.usefixtures("assets")
def test_a_dry_run_of_libero_says_what_and_where(saccade: Saccade, tmp_path: Path) -> None:
    out = tmp_path / "data"
    words = ("--tasks", 4, "--episodes", 3, "--initial-states", "20:30", "--out", out)
    done = saccade("collect", "libero", *words, "--dry-run")
    assert (done.code, done.out) == (
        0,
        "would collect 3 episodes of each of 1 tasks of libero_object, initial states 20:30, into "
        f"{out}/libero_object: pick_up_the_ketchup_and_place_it_in_the_basket\n",
    )
    assert not out.exists()
    wrong = saccade("collect", "libero", *words, "--size", 15)
    assert (wrong.code, wrong.err) == (
        2,
        "error[2]: size is 15; it must lie in 16 to 1024\n",
    )


@pytest.mark.usefixtures("assets")
def test_data_of_others_in_the_suites_folder_are_not_deleted(
    saccade: Saccade, tmp_path: Path
) -> None:
    official = tmp_path / "libero_object" / "pick_up_the_ketchup_demo.hdf5"
    official.parent.mkdir()
    official.write_bytes(b"theirs")
    for more in ((), ("--overwrite",)):
        done = saccade("collect", "libero", "--out", tmp_path, "--episodes", 1, *more)
        assert done.code == 2
        assert "libero_object" in done.err
    assert official.read_bytes() == b"theirs"


def test_episodes_that_were_given_up_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    tell(Summary(3, 60, ("push-v3 episode 1",), 2.0), "data")
    told = capsys.readouterr().out
    assert told.startswith("3 episodes, 60 frames in data\n")
    assert "failed every time: push-v3 episode 1" in told


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_progress_is_one_line_on_a_terminal_and_few_elsewhere(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO
) -> None:
    monkeypatch.setattr("sys.stderr", stream)
    for done in range(1, 26):
        Line()(Progress(done, 25, 90.0, 65.0))
    shown = stream.getvalue()
    assert "episode 25/25  90 frames/s  ETA 1:05\n" in shown
    assert shown.count("\n") == (1 if stream.isatty() else 3)
