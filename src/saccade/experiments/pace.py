"""How long a training will take, from a few measured steps."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from saccade.data.loader import fixed_batches
from saccade.data.synthetic import SyntheticConfig
from saccade.experiments.training import Training
from saccade.train.distributed import device_of
from saccade.train.evaluate import autocast, move
from saccade.train.optim import adamw


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
    clip = move(clip, device)
    objective = training.build().to(device).train()
    optimizer = adamw(
        objective, settings.lr, settings.weight_decay, settings.betas, settings.optimizer
    )
    times = []
    with computing_with(threads):
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
    return min(times[1:]) / count


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """Use so many threads, and afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
