import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from saccade.commands.common import load_recipe
from saccade.config import to_dict
from saccade.errors import ConfigError
from saccade.recipes import two_stream
from tests.conftest import Outcome

Saccade = Callable[..., Outcome]
DEBUG = two_stream.debug()


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_recipe_and_changes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mine.{suffix}"
    changes = {
        "recipe": "two_stream:debug",
        "train": {"lr": 1, "betas": [0.8, 0.9]},
        "window": {"max_gap": 2},
    }
    path.write_text(
        json.dumps(changes)
        if suffix == "json"
        else "recipe: two_stream:debug\ntrain:\n  lr: 1\n  betas: [0.8, 0.9]\nwindow: {max_gap: 2}"
    )
    expected = replace(
        DEBUG,
        train=replace(DEBUG.train, lr=1.0, betas=(0.8, 0.9)),
        window=replace(DEBUG.window, max_gap=2),
    )
    assert load_recipe(str(path)) == expected


def test_the_record_of_a_run_is_a_recipe(saccade: Saccade, tmp_path: Path, debug_run: Path) -> None:
    assert load_recipe(str(debug_run / "experiment.json")) == DEBUG
    done = saccade("train", debug_run / "experiment.json", "--out", tmp_path / "again")
    assert done.code == 0
    mine, its = (run / "metrics.jsonl" for run in (tmp_path / "again", debug_run))
    assert mine.read_bytes() == its.read_bytes()


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "base.json"
    wrong = {
        "recipe": "two_stream:debug",
        "train": {"batchsize": 3, "lr": "fast", "compile": 1, "samples": 1.5},
        "window": 3,
        "betas": 1,
    }
    path.write_text(json.dumps(wrong))
    with pytest.raises(ConfigError) as caught:
        load_recipe(str(path))
    told = str(caught.value).splitlines()
    assert told[0] == f"{path} cannot be used:"
    assert told[1] == "  unknown key train.batchsize; did you mean train.batch_size?"
    assert told[2] == "  train.lr is 'fast', expected a number, like 0.0003"
    assert told[3] == "  train.compile is 1, expected true or false, like False"
    assert told[4].startswith("  train.samples is 1.5, expected a whole number")
    assert told[5].startswith("  window is 3, expected a table")
    assert told[6].startswith("  unknown key betas; there are ")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", "", "cannot be read"),
        ("a.json", "[]", "is empty, or no table"),
        ("a.yaml", "", "is empty, or no table"),
        ("a.json", '{"recipe": "a", "recipe": "b"}', "recipe is there twice"),
        ("a.yaml", "recipe: a\nrecipe: b\n", "recipe is there twice"),
        ("a.yaml", "recipe: !!python/object/apply:os.system [touch /tmp/x]\n", "cannot be read"),
        ("a.yaml", "recipe: [\n", "cannot be read"),
        ("a.json", "{}", "names no recipe; begin it with recipe: NAME"),
        ("a.json", '{"recipe": "nobody:knows"}', "there is no recipe 'nobody:knows'"),
        ("a.json", json.dumps(to_dict(DEBUG.train)), "describes TrainConfig, not a training"),
        ("a.json", "[" * 100_000, "cannot be read"),
    ],
)
def test_what_is_no_file_of_settings(tmp_path: Path, name: str, content: str, told: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ConfigError, match=told):
        load_recipe(str(path))


def test_a_file_that_is_not_there_is_named_and_nothing_is_written(
    saccade: Saccade, tmp_path: Path
) -> None:
    done = saccade("train", tmp_path / "none.yaml", "--out", tmp_path / "run")
    assert done.code == 2
    assert done.err.strip() == f"error[2]: there is no file {tmp_path / 'none.yaml'}"
    assert not (tmp_path / "run").exists()
