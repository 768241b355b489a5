"""What a training will cost, from a few steps that are made for it and thrown away."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from saccade.data.loader import fixed_batches
from saccade.data.synthetic import SyntheticConfig
from saccade.experiments.source import Report
from saccade.experiments.training import Training
from saccade.report.text import duration
from saccade.train.distributed import device_of, rank_and_world
from saccade.train.evaluate import autocast, move
from saccade.train.optim import adamw, moment_bytes
from saccade.types import Clip, Objective

FEW = 2  # samples that the bytes of one are told from


class Cost(NamedTuple):
    """What a training takes on this machine."""

    held: int  # bytes of weights, gradients and moments
    saved: int  # bytes that the backward pass needs of one sample
    samples: int  # that a device computes at once
    free: int  # bytes that the device has to give
    seconds: float | None  # of one sample; None: it was not tried, for want of memory

    @property
    def total(self) -> int:
        """Return the bytes of a step."""
        return self.held + self.samples * self.saved

    def told(self, training: Training) -> str:
        """Say it in a sentence or two."""
        settings = training.train
        found = (
            f"a step holds about {self.total / 1e9:.2f} GB: weights, gradients and moments "
            f"{self.held / 1e9:.2f}, activations of {self.samples} samples {self.saved / 1e6:.1f} "
            f"MB each; {self.free / 1e9:.1f} GB are free"
        )
        if self.seconds is None:
            return (
                f"{found}. That is more than there is: lower train.batch_size, raise "
                "train.accumulate, or set train.checkpoint_activations"
            )
        world = rank_and_world()[1]
        left = self.seconds * settings.samples / world
        return (
            f"{found}. {1 / self.seconds:,.0f} samples/s, so {duration(left)} for "
            f"{settings.samples:,}, without reading and evaluations"
        )


def cost(training: Training, report: Report = lambda _: None) -> Cost:
    """Measure memory with one and two samples of the data, and the time of a step if it fits.

    Frames are decoded for that alone; nothing is written.

    Raises:
        ConfigError: data and networks do not go together.
        DataError: data are missing or damaged.
    """
    settings, device = training.train, device_of(training.train.device)
    samples = max(1, settings.batch_size // settings.accumulate // rank_and_world()[1])
    source = replace(training.source, decode="always")
    objective = training.build()
    parts = source.open(objective.reads().image_size + training.augment.margin, report)
    training.check(objective, parts)
    training.prepare(objective, parts, lambda _: None)
    objective = objective.to(device).train()
    few = max(1, min(FEW, samples))
    (clip,) = fixed_batches(parts.train, training.window, parts.cameras, few, few, seed=0)
    clip = move(clip, device)
    every = list(objective.parameters())
    learned = [p for p in every if p.requires_grad]
    buffers = sum(b.nbytes for b in objective.buffers())
    held = sum(p.nbytes for p in every) + buffers + sum(p.nbytes for p in learned)
    held += sum(moment_bytes(p.numel(), settings.optimizer) for p in learned)
    sizes = [saved_bytes(objective, first(clip, n), training) for n in range(1, few + 1)]
    saved = sizes[-1] - sizes[0] if few > 1 else sizes[0]
    free = free_bytes(device)
    found = Cost(held, max(saved, 0), samples, free, None)
    if found.total > free:
        return found
    (clip,) = fixed_batches(parts.train, training.window, parts.cameras, samples, samples, seed=0)
    count = len(clip["text"])
    return found._replace(seconds=step_seconds(training, objective, move(clip, device)) / count)


def first(clip: Clip, count: int) -> Clip:
    """Return the first samples of a batch."""
    return Clip(**{name: value[:count] for name, value in clip.items()})  # type: ignore[typeddict-item]


def saved_bytes(objective: Objective, clip: Clip, training: Training) -> int:
    """Add up what autograd keeps of one forward pass, without the weights."""
    own = {p.untyped_storage().data_ptr() for p in objective.parameters()}
    kept: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    device = next(objective.parameters()).device
    watching = torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value)
    with watching, autocast(training.train.precision, device):
        loss, _ = objective(clip)
    del loss
    return sum(kept.values())


def free_bytes(device: torch.device) -> int:
    """Return how much memory a device, or this machine, has to give."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/meminfo has no MemAvailable")


def seconds_per_sample(training: Training, threads: int, steps: int = 3) -> float:
    """Time a few steps on frames of a toy world, after one that warms up.

    Reading real data is not in it, nor are evaluations.
    """
    settings, device = training.train, device_of(training.train.device)
    count = max(1, settings.batch_size // settings.accumulate)
    reach = max(training.window.reach(int(gap)) for gap in training.window.gaps()[0])
    size = training.image_size()
    world = SyntheticConfig(episodes=1, length=max(reach + 2, count), image_size=size).build()
    (clip,) = fixed_batches(world, training.window, world.cameras, count, count, seed=0)
    objective = training.build().to(device).train()
    with computing_with(threads):
        return step_seconds(training, objective, move(clip, device), steps) / count


def step_seconds(training: Training, objective: Objective, clip: Clip, steps: int = 3) -> float:
    """Time steps on one batch, after one that warms up; return the shortest."""
    settings = training.train
    device = next(objective.parameters()).device
    optimizer = adamw(
        objective, settings.lr, settings.weight_decay, settings.betas, settings.optimizer
    )
    times = []
    for _ in range(steps + 1):
        began = time.perf_counter()
        with autocast(settings.precision, device):
            loss, _ = objective(clip)
        loss.backward()
        nn.utils.clip_grad_norm_(objective.parameters(), settings.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for the device
        times.append(time.perf_counter() - began)
    return min(times[1:])


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """Use so many threads, and afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
