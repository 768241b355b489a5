"""An estimate of time is a measurement, and leaves no trace."""

import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from saccade.experiments.pace import computing_with, seconds_per_sample
from saccade.objectives.video_mae import VideoMAE, VideoMAEConfig
from saccade.recipes import two_stream, video_mae

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
