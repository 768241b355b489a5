import sys
from pathlib import Path

import pytest

from saccade.commands.common import (
    command_line,
    load_recipe,
    recipes,
    replace_folder,
    with_data,
)
from saccade.data.lerobot.reader import LeRobotConfig
from saccade.errors import BusyError, ConfigError
from saccade.recipes import two_stream
from tests.conftest import held

MODULE = """
from saccade.experiments.training import Training
from saccade.recipes import two_stream

def mine() -> Training:
    return two_stream.debug()

def wrong():
    return 3
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of someone else's, on the path."""
    (tmp_path / "someones").mkdir()
    (tmp_path / "someones" / "ideas.py").write_text(MODULE)
    (tmp_path / "someones" / "broken.py").write_text("import not_installed_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    return "someones"


def test_a_recipe_is_found_by_name(plugin: str) -> None:
    assert load_recipe("two_stream:debug") == two_stream.debug()
    assert load_recipe(f"{plugin}.ideas:mine") == two_stream.debug()
    assert not any(plugin in name for name in recipes())


@pytest.mark.parametrize(
    "name",
    [
        "two_stream:nothing",
        "nothing:debug",
        "two_stream",
        "",
        ":",
        ".:x",
        "runs/a",
        "no.such:x",
    ],
)
def test_an_unknown_recipe_lists_those_there_are(name: str) -> None:
    with pytest.raises(ConfigError, match=r"no recipe.*two_stream:debug, .*video_mae:debug"):
        load_recipe(name)


def test_a_module_s_mistakes_are_not_hidden(plugin: str) -> None:
    with pytest.raises(ConfigError, match=r"ideas:wrong returns int, not a Training"):
        load_recipe(f"{plugin}.ideas:wrong")
    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
        load_recipe(f"{plugin}.broken:mine")
    assert f"{plugin}.broken" not in sys.modules


def test_recipes_tell_the_first_line_of_themselves() -> None:
    about = recipes()
    assert about["two_stream:debug"].startswith("Seconds on a laptop")
    assert not any(name.startswith(("sizes:", "demo:")) for name in about)
    assert "single_stream:ablated" not in about


def test_another_data_set_changes_nothing_else(lerobot: Path) -> None:
    training = two_stream.debug()
    assert with_data(training, None) == training
    changed = with_data(training, str(lerobot), (), ("push",), ("hall",))
    assert changed.source.episodes == LeRobotConfig(root=str(lerobot))
    assert changed.source.held_out_tasks == ("push",)
    assert changed.source.held_out_scenes == ("hall",)
    assert (changed.objective, changed.train) == (training.objective, training.train)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "train" / "a" / "seed-0").mkdir(parents=True)
    (folder / "train" / "a" / "seed-0" / "experiment.json").write_text("{}")
    return folder


def test_our_folders_may_be_replaced(run_dir: Path) -> None:
    replace_folder(run_dir, "train/*/*/experiment.json")
    assert not run_dir.exists()
    replace_folder(run_dir, "experiment.json")  # nothing there: nothing to do
    run_dir.mkdir()
    replace_folder(run_dir, "experiment.json")


@pytest.mark.parametrize("mark", ["experiment.json", "data/collection.json", "train/*/*.json"])
def test_the_folders_of_others_are_not_deleted(run_dir: Path, mark: str) -> None:
    (run_dir / "data").mkdir()
    with pytest.raises(ConfigError, match="saccade did not write it"):
        replace_folder(run_dir, mark)
    assert (run_dir / "train" / "a" / "seed-0" / "experiment.json").exists()


def test_a_folder_in_use_is_not_deleted(run_dir: Path) -> None:
    run = run_dir / "train" / "a" / "seed-0"
    with held(run), pytest.raises(BusyError):
        replace_folder(run_dir, "train")
    assert (run / "experiment.json").exists()


def test_the_command_can_be_typed_again() -> None:
    line = command_line(
        "compare", ["a:b", "--held-out-tasks", "open the door", "--data", "my data"]
    )
    assert line == "saccade compare a:b --held-out-tasks 'open the door' --data 'my data'"
