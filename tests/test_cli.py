import errno
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import tyro

from saccade import __version__, cli
from saccade.commands.common import load_recipe
from saccade.errors import DataError
from tests import children
from tests.children import Child
from tests.conftest import Outcome, held, wait_for_lines

Saccade = Callable[..., Outcome]

LONGER = shlex.split(
    "--train.samples 60 --train.batch-size 2 --train.eval-every 15 --train.save-every 30"
)


def train(out: Path, *options: str) -> list[str]:
    return ["train", "two_stream:debug", "--out", str(out), *options]


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_command_line_is_there_at_once() -> None:
    code = "import sys, saccade.cli; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"torch", "numpy", "mujoco", "matplotlib", "tyro"} & set(loaded)


def test_help_and_version(saccade: Saccade) -> None:
    usage = saccade("--help")
    assert usage.code == 0
    assert saccade("-h") == usage
    assert saccade() == usage._replace(code=2)
    for verb in cli.VERBS:
        assert re.search(rf"^  {verb} ", usage.out, re.MULTILINE), verb
    assert saccade("--version") == Outcome(0, f"saccade {__version__}\n", "")


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_teaches_with_an_example(saccade: Saccade, verb: str) -> None:
    done = saccade(verb, "--help")
    assert done.code == 0
    assert f"Example: saccade {verb}" in done.out


MODES = {
    "collect": ("Command", "LiberoCommand"),
    "plan": ("Offline", "Reach", "Calibrate"),
    "export": ("Lora", "Convert"),
    "evaluate": ("Rollouts", "Offline", "Compare", "Power"),
    "runs": ("List", "Verify", "Keep", "Prune"),
    "vla": ("Swap",),
}
COMMANDS = [
    (verb, name)
    for verb in cli.VERBS
    if verb != "data"  # has verbs of its own
    for name in MODES.get(verb, ("Command",))
]


@pytest.mark.parametrize(("verb", "name"), COMMANDS)
def test_every_example_can_be_typed(
    saccade: Saccade,
    verb: str,
    name: str,
    lerobot: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/metaworld").symlink_to(lerobot)
    command = getattr(importlib.import_module(f"saccade.commands.{verb}"), name)
    found = re.findall(r"Example: saccade (.*?)\n\n", f"{command.__doc__}\n\n", re.DOTALL)
    assert found
    for words in map(shlex.split, found):
        assert words.pop(0) == verb
        if verb == "train":
            assert saccade(verb, *words, "--dry-run").code == 0
            continue
        made = partial(command, training=load_recipe(words[0])) if verb == "sweep" else command
        first = {"collect", "sweep", *MODES}  # takes a word before the options, or several
        while verb in first and not words[0].startswith("-") and "/" not in words[0]:
            if words[0].endswith(".pt"):
                break
            words.pop(0)
        tyro.cli(made, args=words)


def test_an_unknown_verb_lists_those_there_are(saccade: Saccade) -> None:
    done = saccade("trian")
    assert (done.code, done.out) == (2, "")
    assert done.err == f"error[2]: there is no verb 'trian'; the verbs are {', '.join(cli.VERBS)}\n"


def test_an_unknown_recipe_lists_those_there_are(saccade: Saccade, tmp_path: Path) -> None:
    done = saccade("train", "two_stream:tiny", "--out", tmp_path / "run")
    assert done.code == 2
    assert done.err.startswith("error[2]: there is no recipe 'two_stream:tiny'; ours are ")
    assert "two_stream:strong_tiny" in done.err
    assert not (tmp_path / "run").exists()


def test_an_error_is_one_sentence_and_a_traceback_when_asked_for(
    saccade: Saccade, tmp_path: Path
) -> None:
    command = train(tmp_path / "run", "--data", str(tmp_path / "none"))
    done = saccade(*command)
    assert (done.code, done.out) == (3, "")
    assert re.fullmatch(r"error\[3\]: .*none is no folder \(nothing is there\); .*\n", done.err)
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match="is no folder"):
        saccade("--debug", *command)
    with pytest.raises(DataError, match="is no folder"):
        saccade(*command, "--debug")


def test_a_busy_folder_has_its_own_code(saccade: Saccade, tmp_path: Path) -> None:
    with held(tmp_path):
        done = saccade(*train(tmp_path))
    assert done.code == 8
    assert done.err.splitlines()[-1].startswith(f"error[8]: {tmp_path} is in use by ")


def test_a_file_in_place_of_a_folder_is_named(saccade: Saccade, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = saccade(*train(tmp_path / "file"))
    assert done.code == 2
    assert f"{tmp_path / 'file'}: File exists; give a place" in done.err


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 7, "out of memory; ask for less"),
        (RuntimeError("CUDA out of memory. Tried"), 7, "out of memory; ask for less"),
        (RuntimeError("CPUAllocator: can't allocate memory"), 7, "out of memory; ask for less"),
        (ModuleNotFoundError("No", name="mujoco"), 2, "mujoco is not installed; `saccade doctor`"),
        (OSError(errno.EROFS, "Read-only file system", "/a"), 2, "/a: Read-only file system; give"),
        (OSError(errno.EISDIR, "Is a directory", "/a"), 2, "/a: Is a directory; give a place"),
        (OSError(errno.ENOSPC, "No space left", "/a"), 5, "/a: No space left; free some space"),
    ],
)
def test_what_happens_to_a_process_has_a_code(
    saccade: Saccade, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, told: str
) -> None:
    def fails(args: list[str]) -> int:
        raise error

    monkeypatch.setattr("saccade.commands.report.main", fails)
    done = saccade("report")
    assert done.code == code
    assert done.err.startswith(f"error[{code}]: {told}")


@pytest.mark.parametrize(("verb", "mend"), [("train", "--train.accumulate"), ("vla", "--dtype")])
def test_a_want_of_memory_says_which_option_mends_it(
    saccade: Saccade, monkeypatch: pytest.MonkeyPatch, verb: str, mend: str
) -> None:
    def fails(args: list[str]) -> int:
        return len(torch.empty(2**60, dtype=torch.uint8))  # torch's own error

    monkeypatch.setattr(f"saccade.commands.{verb}.main", fails)
    done = saccade(verb, "x")
    assert done.code == 7
    assert len(done.err.strip().splitlines()) == 1
    assert mend in done.err


def test_a_mistake_of_the_program_is_not_dressed_up(
    saccade: Saccade, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(args: list[str]) -> int:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("saccade.commands.report.main", fails)
    with pytest.raises(RuntimeError, match="shapes"):
        saccade("report")


def as_torchrun(*args: str) -> None:
    """Do what ``torchrun --standalone --nproc-per-node 2`` does, with forked processes."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=str(os.getpid()),
        start_method="fork",
    )
    codes = elastic_launch(config, cli.main)(list(args))
    assert codes == {0: 0, 1: 0}


def test_two_processes_train_as_one(debug_run: Path, tmp_path: Path) -> None:
    done = Child(tmp_path, as_torchrun, *train(tmp_path / "run")).wait()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("held-out loss") == 1  # one rank speaks
    ours, alone = metrics(tmp_path / "run"), metrics(debug_run)
    assert [line.keys() for line in ours] == [line.keys() for line in alone]
    for mine, other in zip(ours, alone, strict=True):
        assert mine == pytest.approx(other, rel=1e-4)


def test_a_run_that_was_told_to_stop_is_resumed_without_a_trace(
    saccade: Saccade, tmp_path: Path
) -> None:
    stopped, whole = (train(tmp_path / name, *LONGER) for name in ("stopped", "whole"))
    child = Child(tmp_path, children.command, *stopped)
    wait_for_lines(tmp_path / "stopped" / "metrics.jsonl", 5)
    os.kill(child.pid, signal.SIGTERM)
    code, _, told = child.wait()
    assert code == 75, told
    assert re.search(r"^error\[75\]: SIGTERM came; \d+ of 30 steps are done", told, re.MULTILINE)
    assert not (tmp_path / "stopped" / "result.json").exists()
    assert saccade(*stopped, "--resume").code == 0
    assert saccade(*whole).code == 0
    for name in ("metrics.jsonl", "encoder/model.safetensors", "experiment.json"):
        first, second = ((tmp_path / run / name).read_bytes() for run in ("stopped", "whole"))
        assert first == second, name
