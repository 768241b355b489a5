"""Find out whether this machine can do the work, and say how to mend what it cannot.

What may crash (native libraries, graphics drivers) runs in a process of its own, so that a crash
is a finding and not the end of the examination.
"""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from saccade.errors import ConfigError
from saccade.sim import graphics

ROOM = 2.0  # GB that a small collection and its training need
PATIENCE = 180  # seconds for one trial on a busy machine
LIBERO = ("hf-libero==0.1.4", "robosuite==1.4.0", "bddl==1.0.1")  # ask for what is not needed
EXTRAS = ("sim", "libero", "serve", "finetune", "log", "remote")
ASSETS = "SACCADE_LIBERO_ASSETS"
ABSENT = "installed; its assets are not on this machine, the first use fetches them"
GL_LIBRARIES = f"{graphics.LIBRARIES}; unset MUJOCO_GL"


@dataclass(frozen=True)
class Check:
    """One finding. ``mend`` is what to do when it is not ``ok``; optional things may be missing."""

    name: str
    ok: bool
    detail: str
    mend: str = ""
    required: bool = True


def examine() -> list[Check]:
    """Examine this machine; all is well when every required check is ``ok``."""
    reinstall = "pip install --force-reinstall saccade"
    trials = (
        ("torch", import_torch, reinstall),
        ("accelerator", find_accelerator, reinstall),
        ("video", film, "pip install --force-reinstall av"),
        ("rendering", render, GL_LIBRARIES),
    )
    with ThreadPoolExecutor() as pool:
        libero = pool.submit(_check_libero)
        tried = list(pool.map(lambda trial: _try(*trial), trials))
    packages = (_check_python(), _check_packages())
    return [*packages, *tried, libero.result(), _check_room(), _check_cache(), *_extras()]


def install_libero() -> list[str]:
    """Install what LIBERO needs, and LIBERO; return the names of what was installed.

    LIBERO's packages ask for others that replace torch and that it does not need, which no extra
    can leave out.

    Raises:
        ConfigError: pip cannot do it.
    """
    _, wrong = _installed("libero")
    absent = [name.split()[0] for name in wrong]
    needed = [line for line in _required("libero") if _name(line) in absent]
    if needed:
        _pip(needed)
    _pip(["--no-deps", *LIBERO])
    return [*needed, *LIBERO]


def _pip(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise ConfigError(
            f"pip could not install {' '.join(arguments)} ({lines[-1].strip():.200}); run: "
            f"{shlex.join(command)}"
        )


def import_torch() -> str:
    """Import torch; return its version and the number of threads it would use."""
    import torch

    return f"{torch.__version__}, {torch.get_num_threads()} threads"


def find_accelerator() -> str:
    """Name the accelerator that training would use."""
    import torch

    if not torch.cuda.is_available():
        return "none, training runs on the processor"
    properties = torch.cuda.get_device_properties(0)
    return (
        f"{torch.cuda.device_count()} x {properties.name}, {properties.total_memory / 1e9:.0f} GB"
    )


def film() -> str:
    """Write and read a short video; fail unless the pictures come back."""
    import numpy as np

    from saccade.data.video.codec import decode, encode

    frames = np.linspace(20, 220, 4).round().astype(np.uint8)[:, None, None, None]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grey.mp4"
        encode(path, np.broadcast_to(frames, (4, 64, 64, 3)).copy(), 10.0)
        back = decode(path, np.arange(4), 10.0).float().mean((1, 2, 3)).numpy()
    if np.abs(back - frames.ravel()).max() > 3:
        raise RuntimeError(f"grey levels {frames.ravel()} came back as {back.round(1)}")
    return "H.264 round trip"


def render() -> str:
    """Draw one frame of Meta-World; a blank one is an error."""
    from saccade.sim.metaworld import MetaWorld

    with MetaWorld("reach", size=64) as simulator:
        simulator.render("corner2")
    return f"one frame with MUJOCO_GL={os.environ['MUJOCO_GL']}"


def draw_libero() -> str:
    """Draw one frame of LIBERO, unless that would fetch assets; a blank one is an error."""
    from saccade.sim.libero.assets import local_assets
    from saccade.sim.libero.suite import LiberoSuite

    if local_assets() is None:
        return ABSENT
    suite = LiberoSuite("libero_object")
    with suite.open(suite.tasks[0]) as scene:
        scene.render("agentview", 64, 64)
    parts = [f"{name} {number}" for name, number in suite.versions().items()]
    return ", ".join([*parts, suite.remark] if suite.remark else parts)


def _check_libero() -> Check:
    """Try LIBERO where it is installed and has its assets, which may be fetched at first use."""
    if not all(find_spec(name) for name in ("mujoco", "libero", "robosuite", "bddl")):
        mend = "saccade doctor --install libero"
        return Check("libero", False, "not installed", mend, required=False)
    mend = f"set {ASSETS} to their folder or archive"
    tried = _try("libero", draw_libero, f"{mend}; {GL_LIBRARIES}")
    if tried.detail == ABSENT:
        return replace(tried, ok=False, required=False, mend=f"{mend} where there is no network")
    return tried


def _try(name: str, trial: Callable[[], str], mend: str) -> Check:
    """Run a function of this module in its own process."""
    if trial is render and not (find_spec("mujoco") and find_spec("metaworld")):
        return Check(name, False, "not installed", "pip install 'saccade[sim]'", required=False)
    code = f"from {__name__} import {trial.__name__}; print({trial.__name__}())"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        return Check(name, False, f"no answer within {PATIENCE} s", mend)
    if done.returncode < 0:
        return Check(name, False, f"crashed with signal {-done.returncode}", mend)
    ok = done.returncode == 0
    lines = (done.stdout if ok else done.stderr).strip().splitlines() or ["no message"]
    return Check(name, ok, lines[-1] if ok else re.sub(r"^[\w.]+: ", "", lines[-1]), mend)


def _check_python() -> Check:
    ok = sys.version_info >= (3, 11)
    return Check("python", ok, platform.python_version(), "install Python 3.11 or newer")


def _check_packages() -> Check:
    found, wrong = _installed(extra=None)
    mend = "pip install --upgrade saccade"
    return Check("packages", not wrong, ", ".join(wrong or found), mend)


def _extras() -> list[Check]:
    checks = []
    for extra in EXTRAS:
        found, wrong = _installed(extra)
        mend = f"pip install 'saccade[{extra}]'"
        detail = ", ".join(wrong or found)
        checks.append(Check(f"extra {extra}", not wrong, detail, mend, required=False))
    return checks


def _installed(extra: str | None) -> tuple[list[str], list[str]]:
    """Return the packages of an extra (``None``: of the core) in words: the good and the wrong."""
    found, wrong = [], []
    for line in _required(extra):
        name = _name(line)
        minimum = re.search(r">=\s*([\d.]+)", line)
        try:
            have = version(name)
        except PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        if minimum and _number(have) < _number(minimum[1]):
            wrong.append(f"{name} {have} is below {minimum[1]}")
        else:
            found.append(f"{name} {have}")
    return found, wrong


def _required(extra: str | None) -> list[str]:
    """Return what an extra (``None``: the core) asks pip for."""
    lines = []
    for line in requires("saccade") or []:
        marker = re.search(r"extra == ['\"](.+?)['\"]", line)
        if (marker[1] if marker else None) == extra:
            lines.append(line.split(";")[0].strip())
    return lines


def _name(line: str) -> str:
    return re.split(r"[\s<>=!~;\[]", line, maxsplit=1)[0]


def _number(text: str) -> tuple[int, ...]:
    """Turn the leading digits of a version into numbers: ``2.13.0+cpu`` into 2, 13, 0."""
    leading = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in leading[0].split(".")) if leading else ()


def _cache_folder() -> Path:
    return Path(os.environ.get("SACCADE_CACHE", "~/.cache/saccade")).expanduser()


def _check_room() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    detail = f"{free:.1f} GB free in {Path.cwd()}"
    return Check("disk", free >= ROOM, detail, f"free {ROOM:.0f} GB or work on another disk")


def _check_cache() -> Check:
    folder, mend = _cache_folder(), "set SACCADE_CACHE to a folder that you may write"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check("cache", False, f"{folder}: {error.strerror}", mend)
    return Check("cache", True, f"{folder} is writable", mend)
