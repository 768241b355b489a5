"""A world model is asked only about data that it understands."""

from dataclasses import replace

import pytest

from saccade.data.episodes import Episodes
from saccade.data.synthetic import SyntheticConfig
from saccade.errors import ConfigError
from saccade.experiments.moments import MomentsConfig, recorded, require_fit
from saccade.experiments.source import SourceConfig
from saccade.models.world_model import ActionWorldModelConfig
from saccade.objectives.action_conditioned import ActionConditionedConfig
from saccade.recipes.world_model import debug

OBJECTIVE = debug().objective
assert isinstance(OBJECTIVE, ActionConditionedConfig)
WORLD = OBJECTIVE.model
assert isinstance(WORLD, ActionWorldModelConfig)
DATA = SyntheticConfig(length=8)


def at(fps: float) -> Episodes:
    data = DATA.build()
    data.fps = fps
    return data


@pytest.mark.parametrize("fps", [10.0, 9.5, 15.0, 60.0])
def test_data_as_fast_as_the_model_or_faster_will_do(fps: float) -> None:
    require_fit(WORLD.build(), at(fps), "square")


@pytest.mark.parametrize("fps", [1.0, 5.0, 9.0])
def test_frames_too_far_apart_are_refused(fps: float) -> None:
    told = rf"are {1 / fps:g} s apart, a step of the model lasts 0\.1 s; use data of at least 10 "
    with pytest.raises(ConfigError, match=told):
        require_fit(WORLD.build(), at(fps), "square")


def test_another_crop_or_other_axes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"cropped by 'ac'; the model was trained on 'square'"):
        require_fit(WORLD.build(), DATA.build(), "ac")
    axes = ("x", "y", "z", "grip")
    other = replace(WORLD, state_names=axes, action_names=axes).build()
    with pytest.raises(ConfigError, match=r"states of the data are \['x', 'y', 'z', 'gripper'\]"):
        require_fit(other, DATA.build(), "square")


def test_moments_are_not_drawn_from_data_that_are_too_slow() -> None:
    slow = replace(WORLD, step_seconds=0.05).build().eval()
    source = SourceConfig(episodes=DATA)
    with pytest.raises(ConfigError, match=r"0\.1 s apart, a step of the model lasts 0\.05 s"):
        recorded(slow, source, MomentsConfig(part="all"))
