"""LIBERO's package, imported without its questions, its noise and its traces.

The first import of ``libero`` asks on the terminal where data should lie, unless a file answers;
robosuite warns about a file that nobody has, and logs to one in ``/tmp`` that may be another
user's.
"""

import contextlib
import io
import json
import os
import re
import sys
import types
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from saccade.checkpoint import write_atomic
from saccade.data.files.index import cache_folder
from saccade.data.libero.files import normalised
from saccade.errors import ConfigError, DataError
from saccade.sim import graphics

graphics.choose()  # before mujoco is imported, by whatever comes first
SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")
PACKAGES = {"libero": "hf-libero", "robosuite": "robosuite", "bddl": "bddl"}
DRAWN = (  # what MuJoCo draws a scene from
    "xpos", "xquat", "xmat", "xipos", "ximat", "geom_xpos", "geom_xmat", "site_xpos", "site_xmat",
    "cam_xpos", "cam_xmat", "light_xpos", "light_xdir",
)  # fmt: skip
LANGUAGE = re.compile(r"\(\s*:language\s+([^()]*)\)")


def root() -> Path:
    """Return the folder of the installed package, which is not imported.

    Raises:
        ConfigError: LIBERO is not installed.
    """
    absent = [PACKAGES[name] for name in PACKAGES if find_spec(name) is None]
    if absent:
        raise ConfigError(
            f"LIBERO needs {', '.join(absent)}, which this Python lacks; run: "
            "saccade doctor --install libero"
        )
    spec = find_spec("libero")
    assert spec is not None
    return Path(next(iter(spec.submodule_search_locations or []))) / "libero"


def versions() -> dict[str, str]:
    """Return the versions of what pictures and physics depend on.

    Raises:
        ConfigError: LIBERO is not installed.
    """
    try:
        found = {name: version(name) for name in ("mujoco", "robosuite", "hf-libero")}
    except PackageNotFoundError as error:
        raise ConfigError(
            f"LIBERO needs {error.name}, which this Python lacks; run: "
            "saccade doctor --install libero"
        ) from error
    return found | {"gl": graphics.choose()}


def task_names(suite: str) -> tuple[str, ...]:
    """Return the names of a suite's tasks in the order of the benchmark."""
    benchmark = _import("libero.libero.benchmark")
    with _silent():
        return tuple(benchmark.get_benchmark(suite)().get_task_names())


def bddl_path(suite: str, task: str) -> Path:
    """Return the file that describes a task."""
    return root() / "bddl_files" / suite / f"{task}.bddl"


def initial_states_path(suite: str, task: str) -> Path:
    """Return the file of a task's initial states."""
    return root() / "init_files" / suite / f"{task}.pruned_init"


def instruction(bddl: Path) -> str:
    """Read what a task tells the robot to do, as the reader of the demonstrations gives it.

    Raises:
        DataError: the file is missing, or does not say it.
    """
    try:
        text = re.sub(r";.*", "", bddl.read_text(encoding="utf-8")).lower()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{bddl} cannot be read ({error}); install hf-libero again") from error
    found = LANGUAGE.search(text)
    if not found:
        raise DataError(f"{bddl} has no (:language ...); install hf-libero again")
    return normalised(found[1])


def goals(bddl: Path) -> list[tuple[str, ...]]:
    """Return what a task wants: predicates in small letters, each with what it is about."""
    problem = _import("libero.libero.envs.bddl_utils").robosuite_parse_problem(str(bddl))
    return [(goal[0].lower(), *goal[1:]) for goal in problem["goal_state"]]


def control_environment(bddl: Path, assets: Path) -> Any:
    """Load a task: LIBERO's own environment, which draws nothing unless asked.

    It never ends an episode by itself. The assets are the process's: LIBERO keeps one folder.
    """
    _import("libero.libero")._assets_path_cache = str(assets)
    wrapper = _import("libero.libero.envs.env_wrapper")
    with _silent():
        return wrapper.ControlEnv(
            bddl_file_name=str(bddl),
            use_camera_obs=False,
            has_renderer=False,
            has_offscreen_renderer=True,
            ignore_done=True,
        )


def observed(env: Any) -> Any:
    """Return MuJoCo data that follow what an environment observes, for its pictures.

    LIBERO observes, and draws, up to 4 ms before the end of a step; these data stay at that moment.
    """
    sim = env.sim
    data = _import("mujoco").MjData(sim.model._model)
    observables = _import("robosuite.utils.observables")

    @observables.sensor(modality="moment")
    def moment(_: Any) -> float:
        for name in DRAWN:
            getattr(data, name)[:] = getattr(sim.data._data, name)
        return sim.data.time

    env.env._observables["moment"] = observables.Observable(
        name="moment", sensor=moment, sampling_rate=env.env.control_freq
    )
    return data


def rotation_vector(quaternion: Any) -> Any:
    """Turn a quaternion (x, y, z, w) into a rotation vector as LIBERO's files do."""
    return _import("robosuite.utils.transform_utils").quat2axisangle(quaternion)


def placement_error() -> type[Exception]:
    """Return what robosuite raises when an object finds no place."""
    return _import("robosuite.utils.errors").RandomizationError


def simulator_errors() -> tuple[type[Exception], ...]:
    """Return the errors of their own that robosuite and MuJoCo raise."""
    return placement_error(), _import("mujoco").FatalError


def download_assets() -> Path:
    """Fetch LIBERO's assets from the hub, where hf-libero puts them."""
    return Path(_import("libero.libero.utils.download_utils").download_assets_from_huggingface())


def _import(name: str) -> Any:
    """Import a module of LIBERO's or robosuite's."""
    if name not in sys.modules:
        folder = root()
        _answer_questions(folder)
        _silence_robosuite()
        with _silent():
            __import__(name)
    return sys.modules[name]


def _answer_questions(folder: Path) -> None:
    """Write the file that keeps the first import from asking, unless the user has one."""
    own = os.environ.get("LIBERO_CONFIG_PATH")
    if not own and Path("~/.libero/config.yaml").expanduser().exists():
        return
    place = Path(own) if own else cache_folder() / "libero"
    os.environ["LIBERO_CONFIG_PATH"] = str(place)
    path = place / "config.yaml"
    if path.exists():
        return
    parts = {
        "benchmark_root": str(folder),
        "bddl_files": str(folder / "bddl_files"),
        "init_states": str(folder / "init_files"),
        "datasets": str(folder.parent / "datasets"),
        "assets": str(folder / "assets"),
    }
    try:
        write_atomic(path, json.dumps(parts))  # which is YAML, too
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror}), which LIBERO needs; set SACCADE_CACHE "
            "to a folder that you may write"
        ) from error


def _silence_robosuite() -> None:
    """Give robosuite the settings that it misses, unless the user wrote such a file."""
    spec = find_spec("robosuite")
    assert spec is not None
    folder = Path(next(iter(spec.submodule_search_locations or [])))
    name = "robosuite.macros_private"
    if name not in sys.modules and not (folder / "macros_private.py").exists():
        settings: Any = types.ModuleType(name)
        settings.CONSOLE_LOGGING_LEVEL = "ERROR"
        settings.FILE_LOGGING_LEVEL = None
        sys.modules[name] = settings


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Hide what is printed and warned of; errors are raised and seen."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
