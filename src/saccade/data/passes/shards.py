"""Work on many episodes: dealt to machines by ``--shard i/n``, and on each to processes."""

import fcntl
import json
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

import torch

from saccade.checkpoint import write_atomic
from saccade.errors import BusyError, ConfigError, DataError, SaccadeError
from saccade.processes import die_with_parent, forkserver

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Every ``count``-th item from ``index`` on; together the shards have each item once."""

    index: int = 0
    count: int = 1

    @staticmethod
    def parse(text: str) -> "Shard":
        """Read ``i/n``, where ``i`` counts from 0, as the array jobs of SLURM and Kubernetes do.

        Raises:
            ConfigError: it is something else.
        """
        found = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
        if not found or not int(found[1]) < int(found[2]):
            raise ConfigError(f"shard is {text!r}, expected i/n with i from 0 to n - 1, like 0/16")
        return Shard(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"

    def of(self, items: Sequence[T]) -> list[T]:
        """Return what falls to this shard."""
        return list(items[self.index :: self.count])


def cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0))


def parallel(
    work: Callable[[int], T],
    items: Sequence[int],
    jobs: int,
    name: Callable[[int], str] = "episode {}".format,
) -> Iterator[tuple[int, T | DataError]]:
    """Yield each item with what ``work`` makes of it, or why it cannot, in order of completion.

    ``name`` says what an item is called in an error. With several ``jobs``, work is pickled to
    processes that are started afresh: a script that calls this needs ``if __name__ ==
    "__main__":``.

    Raises:
        DataError: a process died; it names the item.
        SaccadeError: any error of ``work`` but a ``DataError``.
    """
    jobs = min(jobs, len(items))
    if jobs <= 1:
        for item in items:
            yield item, _attempt(work, item)
        return
    left, workers = iter(items), [_Worker(work) for _ in range(jobs)]
    try:
        busy = {worker.pipe: worker for worker in workers if worker.give(next(left, None))}
        while busy:
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                yield worker.outcome(name)
                if not worker.give(next(left, None)):
                    del busy[worker.pipe]
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that works on one item at a time."""

    def __init__(self, work: Callable[[int], Any]) -> None:
        context = forkserver()
        self.pipe, far_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(work, far_end), daemon=True)
        self.process.start()
        far_end.close()  # so that the death of the process ends our pipe
        self.item: int | None = None

    def give(self, item: int | None) -> bool:
        """Send the next item, if there is one; that the process died is for ``outcome`` to find."""
        self.item = item
        if item is not None:
            with suppress(BrokenPipeError):
                self.pipe.send(item)
        return item is not None

    def outcome(self, name: Callable[[int], str]) -> tuple[int, Any]:
        """Return the item and what became of it."""
        assert self.item is not None
        try:
            found = self.pipe.recv()
        except (ConnectionResetError, EOFError) as error:
            self.process.join()
            raise DataError(
                f"the process that worked on {name(self.item)} ended with exit code "
                f"{self.process.exitcode}; its message is above (-9: out of memory? lower --jobs)"
            ) from error
        if isinstance(found, SaccadeError) and not isinstance(found, DataError):
            raise found
        return self.item, found

    def stop(self) -> None:
        """End the process, at once."""
        self.process.terminate()
        self.process.join()
        self.pipe.close()


def _serve(work: Callable[[int], Any], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    die_with_parent()
    torch.set_num_threads(1)  # there are as many processes as cores
    with suppress(EOFError):
        while True:
            try:
                found = _attempt(work, pipe.recv())
            except SaccadeError as error:
                found = error
            pipe.send(found)


def _attempt(work: Callable[[int], T], item: int) -> T | DataError:
    try:
        return work(item)
    except DataError as error:
        return error


@contextmanager
def locked(path: Path, shared: bool = False) -> Iterator[None]:
    """Hold a lock file; the system frees it when a process dies.

    Raises:
        BusyError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(f"another process works in {path.parent}; wait for it") from error
        yield


def save_part(out: Path, shard: Shard, value: Any) -> Path:
    """Keep what one shard found, beside what all of them will make."""
    path = _parts(out) / f"{shard}.json"
    write_atomic(path, json.dumps(value))
    return path


def load_parts(out: Path) -> list[Any]:
    """Load what every shard found; they may be merged again and again.

    Raises:
        DataError: a shard has not finished, or they were not cut into equally many.
    """
    folder = _parts(out)
    found = {path.stem: path for path in folder.glob("*-of-*.json")}
    counts = {int(name.split("-of-")[1]) for name in found}
    if len(counts) != 1:
        if not counts:
            raise DataError(f"{folder} holds no shards; run every --shard i/n first")
        raise DataError(
            f"{folder} holds shards of divisions into {sorted(counts)}, expected one; delete those "
            "of the others, or all of them and run every --shard i/n again"
        )
    (count,) = counts
    shards = [Shard(index, count) for index in range(count)]
    missing = [f"{shard.index}/{shard.count}" for shard in shards if str(shard) not in found]
    if missing:
        raise DataError(f"{folder} lacks the shards {', '.join(missing)}; run these first")
    try:
        return [json.loads(found[str(shard)].read_text()) for shard in shards]
    except ValueError as error:
        raise DataError(f"{folder} is damaged ({error}); delete it and run the shards") from error


def _parts(out: Path) -> Path:
    return out.with_name(f"{out.name}.parts")
