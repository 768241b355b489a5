import os
from pathlib import Path

import pytest

from saccade.data.libero.files import normalised
from saccade.errors import ConfigError, DataError
from saccade.sim.libero import package


def test_a_config_of_the_user_s_own_is_kept(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(tmp_path))
    (tmp_path / "config.yaml").write_text("mine")
    package._answer_questions(package.root())
    assert (tmp_path / "config.yaml").read_text() == "mine"
    monkeypatch.delenv("LIBERO_CONFIG_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".libero").mkdir()
    (tmp_path / ".libero" / "config.yaml").touch()
    package._answer_questions(package.root())
    assert "LIBERO_CONFIG_PATH" not in os.environ


def test_instructions_are_those_of_the_demonstrations() -> None:
    """Files of demonstrations hold what LIBERO's own parser says, and the reader normalises it."""
    parser = package._import("libero.libero.envs.bddl_utils")
    count = 0
    for suite in package.SUITES:
        for task in package.task_names(suite):
            path = package.bddl_path(suite, task)
            stored = parser.get_problem_info(str(path))["language_instruction"]
            assert package.instruction(path) == normalised(stored) != ""
            count += 1
    assert count == 130


def test_a_task_without_words_is_refused(tmp_path: Path) -> None:
    (tmp_path / "task.bddl").write_text("(define (problem Task) ; (:language no)\n)")
    with pytest.raises(DataError, match=r"has no \(:language"):
        package.instruction(tmp_path / "task.bddl")
    with pytest.raises(DataError, match="cannot be read"):
        package.instruction(tmp_path / "none.bddl")


def test_without_the_packages_the_command_that_installs_them_is_named(monkeypatch) -> None:
    monkeypatch.setattr(package, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"hf-libero, robosuite, bddl.*doctor --install libero"):
        package.root()
