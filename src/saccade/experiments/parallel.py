"""Several trainings at once, each in a process of its own.

A small network gains little from a second thread, but two networks gain all of a second core;
and a process of its own has a peak memory of its own.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from saccade.errors import OutOfMemory, SaccadeError, Stopped, is_out_of_memory
from saccade.experiments.source import Report
from saccade.experiments.training import Training
from saccade.processes import die_with_parent
from saccade.train.log import Screen


def default_jobs() -> int:
    """Return how many trainings fit: one per core, or one in all where there is a GPU."""
    return 1 if torch.cuda.is_available() else len(os.sched_getaffinity(0))


def train_all(
    trainings: Mapping[str, tuple[Training, Path]], jobs: int, report: Report = lambda _: None
) -> None:
    """Run every training, at most ``jobs`` at a time; resume those that have begun.

    Raises:
        SaccadeError: a training failed, with its exit code; the others have saved and stopped.
    """
    waiting, running = list(trainings), dict[int, tuple[str, SpawnProcess]]()
    context = multiprocessing.get_context("spawn")
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    with stopped_by_sigterm():
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    label = waiting.pop(0)
                    report(
                        f"training {label} ({len(trainings) - len(waiting)} of {len(trainings)})"
                    )
                    process = context.Process(
                        target=_train, args=(label, *trainings[label], threads)
                    )
                    process.start()
                    running[process.sentinel] = label, process
                for sentinel in wait(list(running)):
                    assert isinstance(sentinel, int)
                    _check(*running.pop(sentinel))
        finally:
            _stop([process for _, process in running.values()])


def _check(label: str, process: SpawnProcess) -> None:
    process.join()
    if process.exitcode:
        if process.exitcode == OutOfMemory.exit_code:
            raise OutOfMemory(f"{label} ran out of memory; give fewer --jobs, or smaller batches")
        error = SaccadeError(f"{label} ended with exit code {process.exitcode}; see above")
        error.exit_code = max(process.exitcode, 1)
        raise error


def _stop(processes: Sequence[SpawnProcess]) -> None:
    """Let trainings finish their step and save, then end."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that children are told too."""

    def stop(number: int, frame: object) -> None:
        raise Stopped("SIGTERM: every run has saved; run the same command again to go on", 75)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _train(label: str, training: Training, folder: Path, threads: int) -> None:
    """Be the process of one training."""
    os.setpgrp()  # Ctrl-C is for the parent, which tells us once; a second signal would not save
    die_with_parent()
    torch.set_num_threads(threads)
    screen = Screen(sys.stderr, label=label)
    try:
        training.run(folder, resume="auto", progress=screen)
    except SaccadeError as error:
        sys.stderr.write(f"{label}: {error}\n")
        sys.exit(error.exit_code)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        sys.stderr.write(f"{label}: out of memory\n")
        sys.exit(OutOfMemory.exit_code)
