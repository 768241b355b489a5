"""An estimate of time is a measurement, and leaves no trace."""

import time
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from saccade.experiments import pace
from saccade.experiments.pace import computing_with, cost, saved_bytes, seconds_per_sample
from saccade.objectives.video_mae import VideoMAE, VideoMAEConfig
from saccade.recipes import two_stream, video_mae
from saccade.types import Objective

NAP = 0.05


class Slow(VideoMAE):
    """Takes at least ``NAP`` seconds a step."""

    def forward(self, clip: Any) -> Any:
        time.sleep(NAP)
        return super().forward(clip)


@dataclass(frozen=True, kw_only=True)
class SlowConfig(VideoMAEConfig):
    """Builds it."""

    def build(self) -> VideoMAE:
        return Slow(self)


def test_a_slow_objective_is_measured_as_slow() -> None:
    quick = video_mae.debug()
    assert isinstance(quick.objective, VideoMAEConfig)
    fields = {name: getattr(quick.objective, name) for name in quick.objective.__dict__}
    slow = replace(quick, objective=SlowConfig(**fields))
    batch = quick.train.batch_size
    assert NAP / batch <= seconds_per_sample(slow, threads=1) < 20 * NAP / batch
    assert seconds_per_sample(quick, threads=1) > 0


def test_long_gaps_find_frames_in_the_toy_world() -> None:
    training = two_stream.debug()
    window = replace(training.window, max_gap=40)  # pyright: ignore
    assert seconds_per_sample(replace(training, window=window), threads=1, steps=1) > 0


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with computing_with(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_memory_is_counted_and_time_is_measured() -> None:
    training = two_stream.debug()
    found = cost(training)
    objective = training.build()
    learned = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    every = sum(p.nbytes for p in objective.parameters())
    every += sum(b.nbytes for b in objective.buffers())
    assert found.held == every + (4 + 8) * learned  # gradients, two moments
    assert found.samples == training.train.batch_size
    assert found.seconds is not None
    assert found.seconds > 0
    said = found.told(training)
    assert "samples/s" in said
    assert f"{training.train.samples:,}" in said


def test_activations_are_those_that_autograd_keeps() -> None:
    class Square(Objective):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(10, 10))

        def forward(self, clip: Any) -> Any:
            x = clip["video"] @ self.weight  # keeps the picture: 40 bytes a sample
            return (x * x).sum(), {}  # keeps x, once: 40 more

    for samples in (1, 3):
        clip: Any = {"video": torch.ones(samples, 10)}
        objective: Any = Square()
        assert saved_bytes(objective, clip, two_stream.debug()) == 80 * samples


def test_what_does_not_fit_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "free_bytes", lambda _: 1000)
    training = two_stream.debug()
    found = cost(training)
    assert found.seconds is None
    assert "more than there is: lower train.batch_size" in found.told(training)
