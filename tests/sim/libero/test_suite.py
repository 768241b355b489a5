import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from saccade.errors import ConfigError
from saccade.sim.libero import package, suite
from saccade.sim.libero.suite import LiberoSuite, _remark


def test_tasks_are_the_benchmark_s_in_its_order(libero_assets: Path) -> None:
    found = pickle.loads(pickle.dumps(LiberoSuite("libero_10", libero_assets)))
    assert [task.name for task in found.tasks] == list(package.task_names("libero_10"))
    first = found.tasks[0]
    assert first.name == (
        "LIVING_ROOM_SCENE2_put_both_the_alphabet_soup_and_the_tomato_sauce_in_the_basket"
    )
    assert first.instruction == "put both the alphabet soup and the tomato sauce in the basket"
    assert {task.initial_states for task in found.tasks} == {50}
    assert len(LiberoSuite("libero_90", libero_assets).tasks) == 90
    assert found.versions().keys() == {"mujoco", "robosuite", "hf-libero", "gl"}
    assert "15 files of the assets are substitutes" in found.remark
    with pytest.raises(ConfigError, match="'fly' is no task of libero_10"):
        found.open(replace(first, name="fly"))


def test_an_unknown_suite_gets_a_hint(libero_assets: Path) -> None:
    with pytest.raises(ConfigError, match=r"no suite 'libero_objects'; it has libero_object"):
        LiberoSuite("libero_objects", libero_assets)


def test_pictures_that_are_not_libero_s_are_remarked() -> None:
    assert suite.AUTHENTIC == ((3, 3, 0), (3, 3, 2))
    assert _remark("3.3.0", 0) == _remark("3.3.2", 0) == ""
    assert "mujoco 3.3.3 draws other pictures" in _remark("3.3.3", 0)
    assert _remark("3.2.7", 2).startswith("2 files of the assets are substitutes")
