"""The package's shape: imports point downwards, and importing it is cheap."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"av", "matplotlib", "metaworld", "mujoco", "transformers"}
IMPORT = """
import json, sys, time
import {module}
print(json.dumps([time.process_time(), sorted({{name.split(".")[0] for name in sys.modules}})]))
"""


def test_imports_point_downwards() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", ["saccade", "saccade.cli"])
def test_an_import_is_quick_and_light(module: str) -> None:
    if find_spec(module) is None:
        pytest.skip(f"{module} is not written yet")
    command = [sys.executable, "-c", IMPORT.format(module=module)]
    runs = [json.loads(subprocess.check_output(command, text=True)) for _ in range(2)]
    assert not HEAVY & set(runs[0][1])
    assert min(seconds for seconds, _ in runs) < 2  # CPU time: the machine may be busy


def test_the_bare_package_needs_no_torch() -> None:
    command = [sys.executable, "-c", IMPORT.format(module="saccade")]
    assert "torch" not in json.loads(subprocess.check_output(command, text=True))[1]
