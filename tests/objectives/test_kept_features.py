"""A clip with kept features is trained on like one with pixels (see test_action_conditioned.py)."""

from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor

from saccade.errors import ConfigError
from saccade.objectives.action_conditioned import ActionConditioned
from saccade.types import Clip
from tests.objectives.helpers import clip_batch, moved_inputs
from tests.objectives.test_action_conditioned import TINY, built


def with_features(objective: ActionConditioned, clip: Clip) -> Clip:
    """Return the clip with features in place of its pixels."""
    kept = objective.model.encode(clip["video"][:, :, 0])
    return {**clip, "video": clip["video"][:, :, :0], "features": kept}


def features_of(clip: Clip) -> Tensor:
    return cast(dict[str, Tensor], clip)["features"]


def test_a_clip_with_features_needs_no_pixels() -> None:
    objective, clip = built(), clip_batch(4)
    kept = with_features(objective, clip)
    for one, other in zip(objective(kept)[1].values(), objective(clip)[1].values(), strict=True):
        assert torch.equal(one, other)
    for name, value in objective.baselines(clip).items():
        assert torch.equal(objective.baselines(kept)[name], value)
    half: Clip = {**kept, "features": features_of(kept).bfloat16()}
    assert objective.sample(half).features.dtype == torch.float32
    recorded = built(replace(TINY, actions="recorded"))
    assert torch.equal(recorded.sample(kept).action, recorded.sample(clip).action)


def test_without_target_replaces_the_last_features() -> None:
    objective = built()
    kept = with_features(objective, clip_batch(4))
    blind = objective.without_target(kept)
    changed = (features_of(blind) != features_of(kept)).flatten(2).any(2)
    assert torch.equal(changed, torch.tensor([[False, False, False, True]]).expand(4, -1))
    assert objective(blind)[0] != objective(kept)[0]
    assert moved_inputs(objective, kept) == set()


def test_features_of_another_shape_are_refused() -> None:
    objective = built()
    kept = with_features(objective, clip_batch(4))
    wrong: Clip = {**kept, "features": features_of(kept)[..., :20]}
    with pytest.raises(ConfigError, match="16 features of width 20 for a frame"):
        objective(wrong)
