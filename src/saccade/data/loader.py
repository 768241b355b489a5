"""Batches in an order that depends on the seed and the epoch alone.

The samples of all epochs form one endless list; step ``i`` takes rows ``i B .. (i + 1) B`` of it
and rank ``r`` of ``w`` its ``r``-th share. Workers, ranks and restarts therefore never change
which sample comes when, and resuming is starting at another step.

A worker that dies or hangs ends the iteration with one sentence, and none is left behind. So does
a sample that cannot be read; or another one of its batch stands in for it, always the same.
"""

import os
import resource
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.process import BaseProcess
from threading import Timer
from typing import Any, NamedTuple, cast, overload

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from saccade import sabotage
from saccade.data.episodes import Episodes
from saccade.data.files.faults import OnError
from saccade.data.packing import Packed, packed
from saccade.data.transforms import Augment, CentreCrop
from saccade.data.windows import Plan, Window, stack
from saccade.errors import ConfigError, DataError, SaccadeError
from saccade.processes import forkserver
from saccade.types import Clip

SHOWN = 20  # episodes that an error names


@dataclass(frozen=True)
class Loader:
    """Endless batches of windows.

    Args:
        episodes: what to read; wrap it in ``CachedEpisodes`` so that no video is decoded here.
        window: which frames make a sample.
        cameras: the cameras to read, in this order; or the name of the one.
        batch_size: samples of one step, over all ranks.
        seed: decides order, gaps, starts, masks and augmentation.
        workers: processes that read ahead; 0 reads in this one.
        prefetch: batches that each worker reads ahead.
        timeout: seconds to wait for a batch of the workers; 0 waits for ever.
        augment: what to vary.
        rank: this process's number.
        ranks: how many processes share each batch.
        on_error: ``raise`` ends at a sample that cannot be read; ``skip`` puts the next good one of
            its batch (this rank's part) in its place.
        most_bad: share of the samples that may be replaced so: of an epoch, or of all read.
        found_bad: is told of each: step, episode, row of the plan, error.
    """

    episodes: Episodes
    window: Window
    cameras: str | tuple[str, ...]
    batch_size: int
    seed: int = 0
    workers: int = 0
    prefetch: int = 2
    timeout: float = 0.0
    augment: Augment = field(default_factory=Augment)
    rank: int = 0
    ranks: int = 1
    on_error: OnError = "raise"
    most_bad: float = 0.001
    found_bad: Callable[[Mapping[str, Any]], None] = lambda _: None

    @property
    def samples_per_epoch(self) -> int:
        """How many samples one pass over the data has."""
        return len(self.window.plan(self.episodes, self.seed, epoch=0))

    def batches(self, first_step: int) -> Iterator[Clip]:
        """Yield this rank's part of every batch from ``first_step`` (0-based) on, for ever.

        Workers begin to read at once, not only when the first batch is asked for.

        Raises:
            ConfigError: the batch does not divide by the ranks.
            DataError: a batch could not be read, or the worker that read it died or hangs, or more
                samples were bad than may be.
        """
        if self.batch_size % self.ranks:
            raise ConfigError(f"batch_size {self.batch_size} does not divide by {self.ranks} ranks")
        if self.workers:
            _allow_files()
        batches = self._batches(first_step)
        next(batches)
        return cast(Iterator[Clip], batches)

    def _batches(self, first_step: int) -> Iterator[Clip | None]:
        """Start the workers and yield nothing; then the batches."""
        order = _Batches(self, first_step)
        source: Any = iter(
            DataLoader(
                _Told(
                    Samples(self.episodes, self.window, self.cameras, self.augment), self.on_error
                ),
                sampler=order,
                batch_size=None,
                collate_fn=_to_send if self.workers else _as_it_is,
                num_workers=self.workers,
                prefetch_factor=self.prefetch if self.workers else None,
                pin_memory=torch.cuda.is_available(),
                multiprocessing_context=forkserver() if self.workers else None,
            )
        )
        workers = _Workers(getattr(source, "_workers", []), self.timeout)
        bad = 0
        try:
            yield None
            for step in count(first_step):
                found = workers.watch(source, order.asked)
                order.asked.popleft()
                if isinstance(found, SaccadeError):
                    raise found
                for each in found.bad:
                    self.found_bad({"step": step + 1, **each})
                bad += len(found.bad)
                seen = (step + 1 - first_step) * self.batch_size
                if found.bad and bad > self.most_bad * max(seen, self.samples_per_epoch):
                    raise DataError(
                        f"{bad} samples could not be read, more than the {self.most_bad:.2%} that "
                        f"may be; the last is of episode {found.bad[-1]['episode']}: "
                        f"{found.bad[-1]['error']}"
                    )
                yield found.clip.open() if isinstance(found.clip, Packed) else found.clip
        finally:
            del source  # torch asks the workers to end, and waits a few seconds for each
            workers.end()

    def rows(self, first_step: int) -> Iterator[Plan]:
        """Yield the rows that ``batches`` reads."""
        share = self.batch_size // self.ranks
        per_epoch = self.samples_per_epoch
        plans: dict[int, Plan] = {}
        step = first_step
        while True:
            position = step * self.batch_size + self.rank * share + np.arange(share)
            epochs, places = np.divmod(position, per_epoch)
            plans = {
                e: plans[e] if e in plans else self.window.plan(self.episodes, self.seed, e)
                for e in sorted(set(epochs.tolist()))
            }
            yield np.stack([plans[e][i] for e, i in zip(epochs.tolist(), places, strict=True)])
            step += 1


def fixed_batches(
    episodes: Episodes,
    window: Window,
    cameras: str | tuple[str, ...],
    samples: int,
    batch_size: int,
    seed: int,
    margin: int = 0,
) -> "FixedBatches":
    """Fix a list of samples (fixed gaps, starts and masks) to judge every model on.

    The list is the start of an epoch's plan, so that all episodes have the same chance. Batches
    are read when they are asked for, each time anew; ``list`` keeps them in memory.
    """
    plan = window.plan(episodes, seed, epoch=0)[:samples]
    data = Samples(episodes, window, cameras, CentreCrop(margin=margin))
    return FixedBatches(data, [plan[i : i + batch_size] for i in range(0, len(plan), batch_size)])


class Samples(Dataset[Clip]):
    """Read whole batches, given rows of a plan. Picklable, so that workers can have a copy.

    Raises:
        ConfigError: pictures of several cameras would be mirrored, and labels as only one sees
            them.
    """

    def __init__(
        self,
        episodes: Episodes,
        window: Window,
        cameras: str | tuple[str, ...],
        augment: Augment | CentreCrop,
    ) -> None:
        self.episodes, self.window, self.augment = episodes, window, augment
        self.cameras = (cameras,) if isinstance(cameras, str) else cameras
        if len(self.cameras) > 1 and isinstance(augment, Augment) and augment.flip:
            raise ConfigError(
                f"flip is {augment.flip:g}, and what is left differs between the cameras "
                f"{list(self.cameras)}; set flip to 0, or use one camera"
            )

    def __getitem__(self, rows: Plan) -> Clip:
        clips = (self.window.read(self.episodes, row, self.cameras) for row in rows)
        return stack([self.augment(clip, self.episodes, self.cameras[0]) for clip in clips])


class _Given(NamedTuple):
    """A batch, and what is in the place of others in it."""

    clip: Clip | Packed
    bad: list[dict[str, Any]]


class _Told(Dataset["_Given | SaccadeError"]):
    """Hand errors over as values: torch would wrap a worker's in its whole traceback."""

    def __init__(self, samples: Samples, on_error: OnError) -> None:
        self.samples, self.on_error = samples, on_error

    def __getitem__(self, rows: Plan) -> _Given | SaccadeError:
        try:
            sabotage.at("read")
            return _Given(self.samples[rows], [])
        except SaccadeError as error:
            if self.on_error == "raise" or not isinstance(error, DataError):
                return error
            return self._without_bad(rows, error)

    def _without_bad(self, rows: Plan, error: DataError) -> _Given | SaccadeError:
        """Read each sample for itself, to know which are bad; the others stand in for them."""
        told: dict[int, str] = {}
        for i in range(len(rows)):
            try:
                self.samples[rows[i : i + 1]]
            except DataError as found:
                told[i] = str(found)
        good = [i for i in range(len(rows)) if i not in told]
        if not good:
            return error
        kept = rows.copy()
        for i in told:
            kept[i] = rows[next((j for j in good if j > i), good[0])]
        bad = [
            {"episode": int(rows[i][0]), "row": rows[i].tolist(), "error": told[i]} for i in told
        ]
        return _Given(self.samples[kept], bad)


class FixedBatches(Sequence[Clip]):
    """Batches of given rows of a plan; the last may be smaller."""

    def __init__(self, samples: Samples, rows: Sequence[np.ndarray]) -> None:
        self.samples, self.rows = samples, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Clip: ...

    @overload
    def __getitem__(self, index: slice) -> "FixedBatches": ...

    def __getitem__(self, index: int | slice) -> "Clip | FixedBatches":
        if isinstance(index, slice):
            return FixedBatches(self.samples, self.rows[index])
        return self.samples[self.rows[index]]


class _Batches(torch.utils.data.Sampler[Plan]):
    """The sampler that torch's loader wants: an item is a whole batch."""

    def __init__(self, loader: Loader, first_step: int) -> None:
        self.loader, self.first_step = loader, first_step
        self.asked: deque[Plan] = deque()  # and not yet given

    def __iter__(self) -> Iterator[Plan]:
        for rows in self.loader.rows(self.first_step):
            self.asked.append(rows)
            yield rows


def _to_send(given: Any) -> Any:
    """Pack a batch for its way out of a worker; an error goes as it is."""
    if isinstance(given, _Given) and not isinstance(given.clip, Packed):
        return _Given(packed(given.clip), given.bad)
    return given


def _as_it_is(given: Any) -> Any:
    """Leave a batch alone, which torch would search for arrays to convert."""
    return given


def _allow_files() -> None:
    """Take as many file handles as this process may: each batch of a worker needs one."""
    few, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if few < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class _Workers:
    """The processes that read, and what to say when one is gone.

    torch notices a dead worker within five seconds, but waits for ever for one that hangs, and so
    does Python at its end: one that was stopped takes no polite signal. Hence the SIGKILL.
    """

    def __init__(self, processes: Sequence[BaseProcess], timeout: float) -> None:
        self.processes, self.timeout = processes, timeout
        self.late = False

    def watch(self, source: Iterator[Any], asked: Sequence[Plan]) -> Any:
        """Return the batch of the first rows asked for, or an error that a worker met.

        Raises:
            DataError: a worker is gone, or gave nothing for too long.
        """
        timer = Timer(self.timeout, self._give_up) if self.timeout and self.processes else None
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            return next(source)
        except (RuntimeError, OSError) as error:  # how torch tells that a worker is gone
            if not self.processes:
                raise
            mend = (
                "look at them with `saccade data verify`, or use fewer --train.workers where "
                "memory is short"
            )
            if "open files" in str(error):
                mend = "allow more open files (ulimit -n 4096), or use fewer --train.workers"
            raise DataError(f"{self._told(error, asked)}; {mend}") from error
        finally:
            if timer is not None:
                timer.cancel()

    def end(self) -> None:
        """End what is left."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                if process.pid is not None and process.is_alive():
                    os.kill(process.pid, signal.SIGKILL)

    def _give_up(self) -> None:
        self.late = True
        self.end()

    def _told(self, error: Exception, asked: Sequence[Plan]) -> str:
        dead = [
            f"worker {i} (pid {process.pid}) was ended by {_cause(process.exitcode)}"
            for i, process in enumerate(self.processes)
            if not process.is_alive()
        ]
        pids = ", ".join(f"pid {process.pid}" for process in self.processes)
        first = str(error).partition(". ")[0]
        what = " and ".join(dead) or f"the workers ({pids}) failed ({first})"
        if self.late:
            what = f"the workers ({pids}) gave no batch for {self.timeout:g} s"
        episodes = sorted({int(row[0]) for rows in asked for row in rows})
        more = f" and {len(episodes) - SHOWN} more" if len(episodes) > SHOWN else ""
        return f"{what} while episodes {episodes[:SHOWN]}{more} were read"


def _cause(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
