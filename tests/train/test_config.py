from dataclasses import replace

import pytest

from saccade.config import from_dict, to_dict
from saccade.errors import ConfigError
from saccade.train.config import TrainConfig


def test_steps_cover_the_budget_of_samples() -> None:
    assert TrainConfig(samples=100, batch_size=32).steps == 4


def test_all_mistakes_are_told_at_once() -> None:
    config = TrainConfig(batch_size=6, accumulate=3, lr=0.0, warmup=1.5, keep=0)
    with pytest.raises(ConfigError) as caught:
        config.require_workable(world=4)
    for word in ("keep", "lr", "warmup", "batch_size 6", "accumulate"):
        assert word in str(caught.value)


def test_a_rate_cannot_rise_and_fall_at_once() -> None:
    config = TrainConfig(schedule="wsd", warmup=0.6, cooldown=0.6, start_lr=2.0)
    with pytest.raises(ConfigError, match=r"start_lr must lie in \[0, 1\].*together"):
        config.require_workable(world=1)
    replace(config, schedule="cosine", start_lr=0.0).require_workable(world=1)


def test_a_resume_may_change_how_but_not_what_is_computed() -> None:
    config = TrainConfig()
    assert replace(config, workers=7, keep=9).fixed() == config.fixed()
    assert replace(config, lr=1.0).fixed() != config.fixed()


def test_it_survives_json() -> None:
    assert from_dict(to_dict(TrainConfig())) == TrainConfig()
