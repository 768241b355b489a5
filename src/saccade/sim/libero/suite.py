"""LIBERO's suites of tasks."""

import difflib
from pathlib import Path

from saccade.errors import ConfigError
from saccade.scenes import Suite, Task
from saccade.sim.libero import package
from saccade.sim.libero.assets import find_assets, standins
from saccade.sim.libero.initial_states import load_initial_states
from saccade.sim.libero.scene import LiberoScene

AUTHENTIC = ((3, 3, 0), (3, 3, 2))  # the first and last mujoco whose pictures are LIBERO's


class LiberoSuite(Suite):
    """One of LIBERO's suites, its tasks in the order of the benchmark.

    Args:
        name: one of ``package.SUITES``.
        assets: folder or archive of meshes and textures; see ``assets.py`` for where else they
            are looked for.

    Raises:
        ConfigError: no such suite, or LIBERO is not installed.
        DataError: the assets or a file of the package are missing or damaged.
    """

    def __init__(self, name: str, assets: Path | None = None) -> None:
        self.name, self.tasks = name, tasks_of(name)
        self.assets = find_assets(assets)
        self.remark = _remark(package.versions()["mujoco"], standins(self.assets))

    def open(self, task: Task) -> LiberoScene:
        """Load a task, in seconds."""
        if task not in self.tasks:
            raise ConfigError(
                f"{task.name!r} is no task of {self.name}; take one of its {len(self.tasks)} tasks"
            )
        return LiberoScene(task, self.assets)

    def versions(self) -> dict[str, str]:
        """Return the versions of mujoco, robosuite and hf-libero, and the OpenGL that draws."""
        return package.versions()


def tasks_of(suite: str) -> tuple[Task, ...]:
    """Return the tasks of a suite; its assets are not needed.

    Raises:
        ConfigError: no such suite, or LIBERO is not installed.
        DataError: a file of the package is missing or damaged.
    """
    if suite not in package.SUITES:
        near = difflib.get_close_matches(suite, package.SUITES) or package.SUITES
        raise ConfigError(f"LIBERO has no suite {suite!r}; it has {', '.join(near)}")
    return tuple(
        Task(
            suite=suite,
            name=name,
            instruction=package.instruction(package.bddl_path(suite, name)),
            initial_states=len(load_initial_states(package.initial_states_path(suite, name))),
        )
        for name in package.task_names(suite)
    )


def _remark(mujoco: str, substitutes: int) -> str:
    """Say what keeps pictures from being LIBERO's own."""
    parts = []
    if substitutes:
        parts.append(
            f"{substitutes} files of the assets are substitutes: pictures are not authentic LIBERO"
        )
    first, last = AUTHENTIC
    if not first <= tuple(int(part) for part in mujoco.split(".")[:3]) <= last:
        parts.append(
            f"mujoco {mujoco} draws other pictures than 3.3.0 to 3.3.2 do, such as darker floors"
        )
    return "; ".join(parts)
