"""Collecting in the real simulator, with trials cut short; whole ones are what experts test."""

import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from saccade.data.lerobot.reader import LeRobotConfig
from saccade.data.libero.reader import LiberoConfig
from saccade.errors import ConfigError, DataError
from saccade.sim import collect_libero as module
from saccade.sim import crew
from saccade.sim.collect_libero import (
    IDLE,
    SETTLE,
    LiberoCollectConfig,
    Recorder,
    Trial,
    checked,
    collect_libero,
    record,
    to_libero,
)
from saccade.sim.crew import Job, Progress, Slot, slots_of
from saccade.sim.libero.scene import LiberoScene
from saccade.sim.libero.suite import LiberoSuite, tasks_of
from tests.sim.digests import content

ROWS = 12
SOUP = "pick_up_the_alphabet_soup_and_place_it_in_the_basket"


def settings(out: Path, **options: Any) -> LiberoCollectConfig:
    small: dict[str, Any] = {"tasks": (SOUP,), "episodes": 2, "size": 16, "max_steps": ROWS}
    return LiberoCollectConfig(out=out, **small | options)


@pytest.fixture(scope="module")
def trial(soup: LiberoScene) -> Trial:
    return record(soup, settings(Path()), 10, (0, 0))


def test_a_trial_is_what_replaying_its_actions_shows(soup: LiberoScene, trial: Trial) -> None:
    assert len(trial.actions) == ROWS
    assert not trial.success
    soup.reset(10, 0)
    for _ in range(SETTLE):
        soup.step(IDLE)
    for row, action in enumerate(trial.actions):
        np.testing.assert_array_equal(soup.sim_state(), trial.states[row])
        seen = soup.state()
        assert {name: column[row] for name, column in trial.numbers.items()}.items() <= seen.items()
        if row in (0, ROWS - 1):
            for camera, pictures in trial.pictures.items():
                np.testing.assert_array_equal(soup.render(camera, 16, 16), pictures[row])
        soup.step(action)


def stage(
    soup: LiberoScene, suite: LiberoSuite, trial: Trial, config: LiberoCollectConfig
) -> Recorder:
    recorder = Recorder(config, suite)
    (slot, *_) = slots_of(config.tasks, config.episodes)
    recorder._stage(slot, soup, trial, {"initial_state": 10, "attempt": 0})
    recorder.writer.finish()
    return recorder


def test_hdf5_is_read_back_as_it_was_recorded(
    soup: LiberoScene, suite: LiberoSuite, trial: Trial, tmp_path: Path
) -> None:
    config = settings(tmp_path)
    stage(soup, suite, trial, config)
    data = LiberoConfig(root=tmp_path).build()
    assert data.about(0)["alignment"] == "before"
    assert data.tasks == [soup.task.instruction]
    seen = data.read(0, np.arange(ROWS))
    for view, camera in enumerate(data.cameras):
        pictures = seen["video"][:, view].permute(0, 2, 3, 1).numpy()
        np.testing.assert_array_equal(pictures, trial.pictures[camera])
    np.testing.assert_array_equal(seen["action"].numpy(), trial.actions)
    for column, name in enumerate(data.state_names[:6]):
        np.testing.assert_array_equal(seen["state"][:, column], trial.numbers[name])
    with h5py.File(tmp_path / "libero_object" / f"{SOUP}_demo.hdf5") as file:
        attributes: Any = file["data"].attrs
        assert attributes["env_name"] == "Libero_Floor_Manipulation"
        assert json.loads(attributes["env_args"])["env_kwargs"]["control_freq"] == 20
        made = json.loads(attributes["collection"])
        assert made["initial_states"] == "10:50"
        assert made["versions"]["mujoco"] == suite.versions()["mujoco"]
        assert made["remark"] == suite.remark
        assert attributes["bddl_file_content"].startswith("(define")
        demo: Any = file["data/demo_0"]
        assert demo.attrs["model_file"].startswith("<mujoco")
        np.testing.assert_array_equal(demo["states"][:], trial.states)
        np.testing.assert_array_equal(demo["actions"][:], to_libero(trial.actions))
        assert demo["actions"][0, 6] == -1  # open


def test_lerobot_holds_the_same_numbers(
    soup: LiberoScene, suite: LiberoSuite, trial: Trial, tmp_path: Path
) -> None:
    config = settings(tmp_path, format="lerobot")
    stage(soup, suite, trial, config)
    data = LeRobotConfig(root=tmp_path / "libero_object").build()
    assert data.state_names == module.STATE
    seen = data.read(0, np.arange(ROWS))
    np.testing.assert_array_equal(seen["action"].numpy(), trial.actions)
    np.testing.assert_allclose(seen["state"], trial.columns(module.STATE), rtol=1e-6)
    assert data.tasks == [soup.task.instruction]
    with pytest.raises(ConfigError, match="holds another data set"):  # it has no record
        collect_libero(replace(config, assets=suite.assets))


def test_initial_states_go_in_turn_and_failures_are_tried_with_other_noise(
    suite: LiberoSuite,
    soup: LiberoScene,
    trial: Trial,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[tuple[int, tuple[int, ...]]] = []

    def attempt(
        scene: LiberoScene, config: LiberoCollectConfig, initial_state: int, key: tuple[int, ...]
    ) -> Trial:
        tried.append((initial_state, key))
        return replace(trial, success=initial_state != 12 and key[-1] == 1)

    monkeypatch.setattr(module, "record", attempt)
    recorder = Recorder(settings(tmp_path, initial_states="11:13", episodes=3), suite)
    recorder._scene = soup
    stored = [recorder.store(slot) for slot in slots_of((SOUP,), 3)]
    assert stored == [ROWS, 0, ROWS]
    assert [state for state, _ in tried] == [11, 11, 12, 12, 12, 11, 11]
    assert len({key for _, key in tried}) == 7
    assert recorder.writer.staged() == {0, 2}
    recorder.writer.finish()
    with h5py.File(tmp_path / "libero_object" / f"{SOUP}_demo.hdf5") as file:
        found = [dict(file[f"data/demo_{i}"].attrs) for i in (0, 1)]
    assert [(each["initial_state"], each["attempt"]) for each in found] == [(11, 1), (11, 1)]


class Content(Recorder):
    """Is content with trials that are cut short."""

    def store(self, slot: Slot) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "record", lambda *given: replace(record(*given), success=True))
            return super().store(slot)


def kill(_: Progress) -> None:
    for worker in multiprocessing.active_children():
        worker.kill()


def test_a_worker_gives_the_same_files_and_a_kill_loses_nothing(
    suite: LiberoSuite,
    soup: LiberoScene,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Nor does LIBERO ask or print anything in a new process, or write to its user's home."""

    def here(job: Job, slots: list[Slot], count: int) -> Iterator[tuple[Slot, int]]:
        """Record in this process, with a scene that others have used."""
        assert isinstance(job, Recorder)
        job._scene = soup
        yield from [(slot, job.store(slot)) for slot in slots]

    config = settings(tmp_path / "killed", assets=suite.assets, max_steps=2)
    whole = replace(config, out=tmp_path / "whole", workers=2)
    monkeypatch.setattr(module, "Recorder", Content)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LIBERO_CONFIG_PATH")
    with pytest.raises(DataError, match=r"ended with exit code -9"):
        collect_libero(config, kill)
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "cache" / "libero" / "config.yaml").exists()
    assert not (tmp_path / "home" / ".libero").exists()
    assert not list(config.folder.glob("*.hdf5"))
    kept = content(config.folder / ".staging")
    assert len(kept) == 1
    monkeypatch.setattr(crew, "outcomes", here)
    told = list[Progress]()
    summary = collect_libero(config, told.append)
    assert len(told) == 1
    assert (summary.episodes, summary.frames, summary.given_up) == (2, 4, ())
    collect_libero(whole)
    assert content(config.folder) == content(whole.folder)
    assert collect_libero(whole, told.append).episodes == 2  # again: nothing is done
    assert len(told) == 1
    with pytest.raises(ConfigError, match=r"begun with .*'seed': 0.*'seed': 1"):
        collect_libero(replace(whole, seed=1))


def test_an_expert_that_never_succeeds_and_other_versions_are_errors(
    suite: LiberoSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tmp_path, assets=suite.assets)
    monkeypatch.setattr(crew, "outcomes", lambda job, slots, count: [(slots[0], 0)])
    with pytest.raises(KeyboardInterrupt):
        collect_libero(config, interrupt)
    monkeypatch.setattr(LiberoSuite, "versions", lambda _: {"mujoco": "9"})
    with pytest.raises(ConfigError, match=r"begun with .*mujoco.*here is {'mujoco': '9'"):
        collect_libero(config)
    monkeypatch.undo()
    monkeypatch.setattr(crew, "outcomes", lambda job, slots, count: [(slot, 0) for slot in slots])
    with pytest.raises(DataError, match=f"never succeeded within {ROWS} steps in 2 episodes"):
        collect_libero(config)


def interrupt(_: Progress) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tasks": ("10",)}, "libero_object has no task '10'; it has 0 to 9"),
        ({"initial_states": "40:51"}, "libero_object has 50, up to 0:50"),
        ({"initial_states": "5:5"}, "give FIRST:END, for example 10:50"),
        ({"initial_states": "0-9"}, "give FIRST:END"),
        ({"action_noise": 2.0}, "action_noise is 2.0; it must lie in 0 to 1"),
        ({"max_steps": 5000}, "max_steps is 5000"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"size": 33}, "even number"),
    ],
)
def test_wrong_settings_are_named(suite: LiberoSuite, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        checked(settings(Path(), **wrong), suite.tasks)


def test_tasks_are_named_by_number_or_name_or_all(suite: LiberoSuite) -> None:
    names = tuple(task.name for task in suite.tasks)
    assert checked(settings(Path(), tasks=("2", names[2], "0")), suite.tasks).tasks == (
        names[2],
        names[0],
    )
    assert checked(settings(Path(), tasks=()), suite.tasks).tasks == names
    limits = [settings(Path(), max_steps=None, suite=name).limit for name in module.LIMITS]
    assert limits == [280, 280, 300, 520, 400]


def test_a_task_for_which_the_expert_has_no_skill_is_refused_at_once() -> None:
    config = settings(Path(), suite="libero_10", tasks=())
    with pytest.raises(ConfigError, match=r"no skill for \(close microwave_1\) of task 9, KITCHEN"):
        checked(config, tasks_of("libero_10"))
