"""Processes that train together: joining them, and deciding as one.

torchrun starts one process per device and names it by RANK, WORLD_SIZE and LOCAL_RANK; without
them there is one process. Gradients travel over nccl or gloo (``layout.py``). Decisions (a signal
came, a loss is not finite, a batch could not be read) travel over a second, gloo group: every rank
learns of them in the same step, and none waits for a GPU. A rank that is lost ends the others: at
once where its process died, else after a time.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from saccade.errors import ConfigError, SaccadeError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int
    world: int
    device: torch.device
    control: dist.ProcessGroup | None = None  # for decisions; None when alone
    timeout: float = 600.0  # seconds that another rank may take
    writing: dist.ProcessGroup | None = None  # for what goes on beside training

    @property
    def beside(self) -> "Ranks":
        """Return the same ranks for a thread beside training: its messages do not meet others."""
        return replace(self, control=self.writing)

    def agree(self, *flags: int) -> list[int]:
        """Return the largest value of each flag over all ranks."""
        values = torch.tensor(flags, dtype=torch.int64)
        if self.world > 1:
            with self.hearing():
                dist.all_reduce(values, dist.ReduceOp.MAX, group=self.control)
        return values.tolist()

    def gather(self, value: T) -> list[T]:
        """Return the value of every rank, in order, on every rank."""
        values: list[Any] = [value] * self.world
        if self.world > 1:
            with self.hearing():
                dist.all_gather_object(values, value, group=self.control)
        return values

    @contextmanager
    def hearing(self) -> Iterator[None]:
        """Say in one sentence that another rank is lost.

        Raises:
            SaccadeError: it died, or took too long.
        """
        try:
            yield
        except RuntimeError as error:
            if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            raise SaccadeError(
                f"rank {self.rank} of {self.world} lost another one, which died or took more than "
                f"{self.timeout:g} s ({str(error).splitlines()[0]}); see what that one says, and "
                "resume"
            ) from error

    def together(self, work: Callable[[], T]) -> T:
        """Do work on every rank; where it fails on one, all raise, and none waits for ever."""
        error, value = None, None
        try:
            value = work()
        except SaccadeError as caught:
            error = caught
        if self.agree(error is not None)[0]:
            told = self.gather(None if error is None else (type(error), str(error)))
            if error is not None:
                raise error
            rank, (kind, message) = next((i, t) for i, t in enumerate(told) if t is not None)
            raise kind(f"rank {rank} failed: {message}")
        return value  # pyright: ignore[reportReturnType]

    def on_main(self, work: Callable[[], T]) -> T:
        """Do work on rank 0 alone and give every rank its result, or its error."""
        value = self.together(work) if self.rank == 0 else self.together(lambda: None)
        return self.gather(value)[0]  # pyright: ignore[reportReturnType]


def rank_and_world() -> tuple[int, int]:
    """Return this process's number and how many there are, as torchrun tells them."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def device_of(device: str) -> torch.device:
    """Return this rank's device; ``device`` is ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ConfigError: ``cuda`` was asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but torch sees no GPU; use --train.device cpu or auto")
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def join(device: str, timeout: float = 600.0) -> Iterator[Ranks]:
    """Meet the other ranks; ``device`` is ``auto``, ``cpu`` or ``cuda``.

    A process group that is already open is used and left open, so several runs can share one.
    ``timeout`` is how many seconds another rank may take.

    Raises:
        ConfigError: ``cuda`` was asked for and there is none.
    """
    rank, world = rank_and_world()
    place = device_of(device)
    cuda = place.type == "cuda"
    if cuda:
        torch.cuda.set_device(place)
    if world == 1:
        yield Ranks(rank, world, place)
        return
    ours, patience = not dist.is_initialized(), timedelta(seconds=timeout)
    if ours:
        dist.init_process_group(
            "nccl" if cuda else "gloo", rank=rank, world_size=world, timeout=patience
        )
    try:
        groups = [dist.new_group(backend="gloo", timeout=patience) for _ in range(2)]
        control, writing = (g for g in groups if isinstance(g, dist.ProcessGroup))  # all are in
        yield Ranks(rank, world, place, control, timeout, writing)
    finally:
        if ours:
            dist.destroy_process_group()
