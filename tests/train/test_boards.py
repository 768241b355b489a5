import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from saccade.errors import ConfigError
from saccade.recipes import two_stream
from saccade.train import boards
from saccade.train.boards import Boards, Tracker, has_key
from saccade.train.log import Log
from tests.train import toy


def test_a_board_that_fails_is_told_once_and_metrics_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    log = Log(tmp_path, ("tensorboard",), told.append)
    board: Any = log.boards.open["tensorboard"]

    def fail(*args: object) -> None:
        raise OSError("no space")

    log.metrics({"step": 1, "loss": 0.5})
    monkeypatch.setattr(board.writer, "add_scalar", fail)
    for step in (2, 3):
        log.metrics({"step": step, "loss": 0.5})
    log.close()
    board.close()
    assert told == ["tensorboard stopped (no space); metrics.jsonl goes on"]
    records = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(record)["step"] for record in records] == [1, 2, 3]


OFFLINE = """
import sys
from pathlib import Path
from tests.train import toy
if __name__ == "__main__":
    toy.run(Path(sys.argv[1]), boards=("wandb", "tensorboard"), resume="auto")
"""


def test_a_run_without_a_key_is_kept_for_wandb_to_send_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an interpreter of its own: wandb starts a process and a thread for good."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    command = [sys.executable, "-c", OFFLINE, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    (kept,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"train/pixels" in kept.read_bytes()
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    toy.run(tmp_path / "alone")
    mine, alone = (tmp_path / name / "metrics.jsonl" for name in ("run", "alone"))
    assert mine.read_bytes() == alone.read_bytes()


class Stub:
    """What both packages have in common."""

    def __init__(self, broken: bool = False) -> None:
        self.broken, self.logged, self.given = broken, list[tuple[Any, int]](), dict[str, Any]()

    def init(self, **given: Any) -> "Stub":
        if self.broken:
            raise RuntimeError("api.wandb.ai is not reachable\nmore")
        self.given = given
        return self

    def Image(self, path: str) -> tuple[str, str]:  # noqa: N802 - as both call it
        return "image", path

    def log(self, record: Any, step: int) -> None:
        self.logged.append((record, step))

    def finish(self) -> None:
        self.logged.append(("finished", -1))


def test_pictures_are_shown_where_metrics_are(tmp_path: Path) -> None:
    """Every other step, as they lie in the run folder."""
    training = two_stream.debug()
    loop = replace(training.train, pictures_every=4, boards=("tensorboard",))
    replace(training, train=loop).run(tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"), {"images": 0}).Reload()
    tags = events.Tags()["images"]
    steps = [path.name for path in sorted((tmp_path / "pictures").glob("step-*"))]
    strips = {path.stem for path in (tmp_path / "pictures" / steps[0]).glob("*.png")}
    assert {tag.removeprefix("pictures/") for tag in tags} == strips
    for tag in tags:
        shown = events.Images(tag)
        assert [f"step-{one.step:08d}" for one in shown] == steps
        strip = tmp_path / "pictures" / steps[-1] / f"{tag.removeprefix('pictures/')}.png"
        there = imread(io.BytesIO(shown[-1].encoded_image_string))[..., :3]
        np.testing.assert_allclose(there, imread(strip)[..., :3], atol=1 / 255)


def test_trackio_is_asked_as_wandb_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", stub := Stub())
    (tmp_path / "experiment.json").write_text('{"seed": 3}')
    board = Tracker("trackio", tmp_path)
    board.write({"step": 5, "loss": 0.5})
    board.show({"prediction": tmp_path / "a.png"}, 5)
    board.close()
    assert stub.given == {
        "project": "saccade",
        "name": tmp_path.name,
        "config": {"seed": 3},
        "resume": "allow",
    }
    image = {"pictures/prediction": ("image", str(tmp_path / "a.png"))}
    assert stub.logged == [({"step": 5, "loss": 0.5}, 5), (image, 5), ("finished", -1)]


def test_a_board_that_cannot_begin_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", Stub(broken=True))
    told: list[str] = []
    found = Boards(("trackio",), tmp_path, told.append)
    found.write({"step": 1, "loss": 0.5})
    found.close()
    assert told == ["trackio stopped (api.wandb.ai is not reachable); metrics.jsonl goes on"]


def test_a_board_that_is_not_installed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ConfigError, match=r"trackio is not installed; pip install 'trackio' or"):
        Boards(("trackio",), tmp_path, print)


def test_a_key_is_looked_for_where_wandb_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not has_key()
    (tmp_path / ".netrc").write_text(f"machine {boards.HOST} login user password {'x' * 40}\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert has_key()
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert has_key()
