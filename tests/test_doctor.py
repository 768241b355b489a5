import shutil
import threading
from collections import namedtuple
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from saccade import doctor
from saccade.doctor import Check, examine
from saccade.errors import ConfigError
from saccade.sim.libero import assets
from tests.children import Child, Done, execute
from tests.sim.libero.conftest import ARCHIVE, unpacked


def found(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


TURN = threading.Lock()  # children of one process must not be waited for by several threads


def in_a_child(command: list[str], **_: object) -> Done:
    """Run ``python -c CODE`` in a process that need not import what takes seconds."""
    with TURN, TemporaryDirectory() as folder:
        return Child(Path(folder), execute, command[2]).wait(doctor.PATIENCE)


def test_a_good_machine_passes_every_required_check(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "cache"))
    if ARCHIVE.exists():
        monkeypatch.setenv("SACCADE_LIBERO_ASSETS", str(unpacked()))
    monkeypatch.setattr(doctor.subprocess, "run", in_a_child)
    checks = found(examine())
    assert [check for check in checks.values() if check.required and not check.ok] == []
    assert checks["libero"].ok == ARCHIVE.exists()
    if checks["libero"].ok:
        assert "robosuite 1.4.0" in checks["libero"].detail
        assert "are substitutes" in checks["libero"].detail
    assert checks["torch"].detail.startswith("2.")
    assert checks["video"].detail == "H.264 round trip"
    assert "MUJOCO_GL=" in checks["rendering"].detail
    for extra in ("sim", "log", "remote"):
        assert not checks[f"extra {extra}"].required
    assert "s3fs" in checks["extra remote"].detail


def test_broken_graphics_are_found_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    check = doctor._try("rendering", doctor.render, doctor.GL_LIBRARIES)
    assert not check.ok
    assert check.required
    assert check.detail.startswith("MUJOCO_GL=nonsense does not load")
    assert "libosmesa6" in check.mend


def test_without_the_simulator_rendering_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    check = doctor._try("rendering", doctor.render, "")
    assert (check.ok, check.required) == (False, False)
    assert check.mend == "pip install 'saccade[sim]'"


def test_a_crash_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    run = doctor.subprocess.run
    monkeypatch.setattr(
        doctor.subprocess, "run", lambda args, **more: run([*args[:2], crash], **more)
    )
    check = doctor._try("torch", doctor.import_torch, "reinstall")
    assert check == Check("torch", False, "crashed with signal 11", "reinstall")


def test_libero_may_be_missing_but_not_broken(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(doctor.ASSETS, str(tmp_path))
    check = doctor._check_libero()
    assert (check.ok, check.required) == (False, True)
    assert check.detail.startswith(f"{tmp_path} holds no LIBERO assets")
    assert check.mend.startswith(f"set {assets.VARIABLE} to their folder or archive; apt-get")
    monkeypatch.delenv(doctor.ASSETS)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "_try", lambda name, trial, mend: Check(name, True, trial(), mend))
    check = doctor._check_libero()
    assert (check.ok, check.required) == (False, False)
    assert "the first use fetches them" in check.detail
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    check = doctor._check_libero()
    assert (check.ok, check.required) == (False, False)
    assert check.mend == "saccade doctor --install libero"


def test_libero_is_installed_without_what_it_asks_for(saccade, tmp_path: Path, monkeypatch) -> None:
    """The interpreter is one that writes down what it is asked."""
    python, asked = tmp_path / "python", tmp_path / "asked"
    python.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    python.chmod(0o755)
    lines = ["av>=15", "numba>=0.61 ; extra == 'libero'", "absent>=1.5; extra == 'libero'"]
    monkeypatch.setattr(doctor, "requires", lambda name: lines)
    monkeypatch.setattr("saccade.commands.doctor.examine", list)
    monkeypatch.setattr(doctor.sys, "executable", str(python))
    outcome = saccade("doctor", "--install", "libero")
    assert outcome.code == 0
    assert "installed absent>=1.5, hf-libero==0.1.4" in outcome.out
    assert asked.read_text().splitlines() == [
        "-m pip install --quiet absent>=1.5",
        "-m pip install --quiet --no-deps hf-libero==0.1.4 robosuite==1.4.0 bddl==1.0.1",
    ]
    python.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    with pytest.raises(ConfigError, match=r"could not install absent>=1.5 \(no network\); run: "):
        doctor.install_libero()


def test_a_full_disk_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12, 1_900_000_000))
    check = doctor._check_room()
    assert not check.ok
    assert check.detail.startswith("1.9 GB free")


def test_an_unwritable_cache_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "file" / "cache"))
    check = doctor._check_cache()
    assert not check.ok
    assert str(tmp_path) in check.detail
    assert "SACCADE_CACHE" in check.mend


def test_packages_are_compared_with_what_the_core_and_each_extra_ask_for(monkeypatch) -> None:
    lines = ["av>=15", "torch>=2.10", "absent>=1", 'old<4,>=3.1.1; extra == "sim"']
    lines.append("s3fs; extra == 'remote'")
    have = {"av": "18.1.0", "torch": "2.9.1+cpu", "old": "3.1"}

    def version(name: str) -> str:
        if name not in have:
            raise doctor.PackageNotFoundError(name)
        return have[name]

    monkeypatch.setattr(doctor, "requires", lambda name: lines)
    monkeypatch.setattr(doctor, "version", version)
    assert doctor._installed(None) == (
        ["av 18.1.0"],
        ["torch 2.9.1+cpu is below 2.10", "absent is missing"],
    )
    assert doctor._installed("sim") == ([], ["old 3.1 is below 3.1.1"])
    assert doctor._installed("remote") == ([], ["s3fs is missing"])
    remote = next(check for check in doctor._extras() if check.name == "extra remote")
    assert (remote.ok, remote.required) == (False, False)
    assert remote.mend == "pip install 'saccade[remote]'"
    assert not doctor._check_packages().ok
