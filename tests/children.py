"""Child processes that start at once: forked from a server that has imported what takes seconds.

Each is a process of its own, as fresh as a new interpreter as far as our code can tell: no
module of ours holds state that the imports alone did not make. What must be shown of a new
interpreter itself (the cost of importing, another environment) still starts one.
"""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkProcess, ForkServerProcess, SpawnProcess
from pathlib import Path
from typing import Any, NamedTuple

import torch

CHILDREN = multiprocessing.get_context("forkserver")
PRELOAD = [
    "tests.contracts",
    "tests.train.toy",
    "torch._dynamo",  # which the first optimizer imports
    "saccade.data.formats",
    "saccade.commands.compare",
    "saccade.commands.ablate",
    "saccade.sim.metaworld",
]


class Done(NamedTuple):
    """What a process left."""

    returncode: int
    stdout: str
    stderr: str


class Child:
    """A process with its own group, whose output comes into files of ``folder``."""

    def __init__(
        self,
        folder: Path,
        work: Callable[..., object],
        *args: Any,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        given = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        self.process: ForkServerProcess = CHILDREN.Process(
            target=_enter, args=(folder, given, os.getcwd(), work, args)
        )
        self.process.start()

    @property
    def pid(self) -> int:
        """The process, and its group."""
        assert self.process.pid is not None
        return self.process.pid

    def wait(self, timeout: float = 120) -> Done:
        """Wait for its end."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"still runs after {timeout} s"
        out, err = ((self.folder / f"{name}.txt").read_text() for name in ("stdout", "stderr"))
        return Done(self.process.exitcode, out, err)


def _enter(
    folder: Path,
    env: dict[str, str],
    cwd: str,
    work: Callable[..., object],
    args: Sequence[Any],
) -> None:
    """Become what a shell would have started: group, environment, folder and streams."""
    os.setsid()
    os.environ.clear()  # the server keeps the environment in which it was started
    os.environ.update(env)
    os.chdir(cwd)
    torch.set_num_threads(1)
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(folder / f"{name}.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        os.dup2(file, number)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    try:
        code = work(*args)
    finally:
        sys.stdout.flush()
    sys.exit(code if isinstance(code, int) else 0)


def command(*args: str) -> int:
    """Run the command line; the processes that it spawns are forked, for they import nothing."""
    from saccade import cli

    SpawnProcess._Popen = staticmethod(ForkProcess._Popen)  # pyright: ignore
    return cli.main(list(args))


def script(path: Path, *args: str) -> None:
    """Run a file as ``python PATH ARGS`` does."""
    sys.argv = [str(path), *args]
    sys.path.insert(0, str(path.parent))
    runpy.run_path(str(path), run_name="__main__")


def execute(code: str) -> None:
    """Run code as ``python -c CODE`` does."""
    exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
