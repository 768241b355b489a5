"""A training does not care what its frames come from: only ``--data`` changes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from saccade.config import from_dict
from tests.conftest import Outcome
from tests.fixtures.bridge import write_bridge, write_bridge_raw
from tests.fixtures.egodex import write_egodex
from tests.fixtures.libero import write_libero
from tests.fixtures.rlds import write_droid
from tests.fixtures.video_folder import write_video_folder

WRITERS = {
    "droid": write_droid,
    "bridge": write_bridge,
    "egodex": write_egodex,
    "libero": write_libero,
    "bridge_raw": write_bridge_raw,
    "videos": write_video_folder,
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_training_runs_on_every_format(
    name: str, tmp_path: Path, saccade: Callable[..., Outcome]
) -> None:
    root = WRITERS[name](tmp_path / "data")
    out = tmp_path / "run"
    done = saccade("train", "two_stream:debug", "--data", root, "--out", out)
    assert done.code == 0, done.err
    saved = json.loads((out / "experiment.json").read_text())
    assert from_dict(saved["source"]["episodes"]).format == name
    assert (out / "encoder" / "model.safetensors").is_file()


def test_options_reach_the_reader(tmp_path: Path, saccade: Callable[..., Outcome]) -> None:
    root, out = write_droid(tmp_path / "data"), tmp_path / "run"
    options = ("--data", root, "--data-options", "state=joint", "cameras=wrist")
    done = saccade("train", "two_stream:debug", *options, "--out", out)
    assert done.code == 0, done.err
    reader = json.loads((out / "experiment.json").read_text())["source"]["episodes"]
    assert (reader["state"], reader["cameras"]) == ("joint", ["wrist"])
    wrong = saccade("train", "two_stream:debug", *options[:3], "joint", "--out", out)
    assert (wrong.code, "name=value" in wrong.err) == (2, True)
