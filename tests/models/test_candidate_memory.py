"""What one candidate takes is bounded from above, by little, for any horizon and precision."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any

import pytest
import torch

from saccade.evals.energy import ImaginedEnergy
from saccade.models.world_model import ActionWorldModel, vjepa2_ac
from saccade.types import Context
from tests.models.test_world_model import CONFIG, PREDICTOR, VIT


def allocated(call: Callable[[], object]) -> int:
    """Return how many bytes were allocated at once, at most, while something ran."""
    call()  # the first call allocates what stays
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        call()
    assert profile.profiler is not None
    results: Any = profile.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate((event.nbytes() for event in events), initial=0))


@pytest.mark.parametrize(
    ("horizon", "frames", "dtype", "gradient"),
    [
        (1, 1, torch.float32, False),
        (3, 1, torch.float32, False),
        (3, 3, torch.bfloat16, False),
        (1, 1, torch.float32, True),
        (2, 3, torch.float32, True),
    ],
)
def test_a_candidate_takes_no_more_memory_than_is_said(
    horizon: int, frames: int, dtype: torch.dtype, gradient: bool
) -> None:
    """Measured, as the growth of the peak with the number of candidates."""
    predictor = replace(PREDICTOR, depth=3, mlp=128)
    model = replace(CONFIG, predictor=predictor).build().eval().to(dtype)
    features, state = torch.randn(frames, 16, 24), torch.rand(frames, 7)
    with torch.no_grad():
        context = model.look(features, state, torch.zeros(frames - 1, 7))

    def energies(count: int) -> None:
        actions = torch.zeros(count, horizon, 7, requires_grad=gradient)
        found = ImaginedEnergy(model, context, features[-1], memory=1e6)(actions)
        if gradient:
            torch.autograd.grad(found.sum(), actions)

    few, many = (allocated(partial(energies, count)) for count in (4, 12))
    measured = (many - few) / 8
    said = model.candidate_bytes(context, horizon, gradient)
    assert measured <= said <= 2 * measured


def test_memory_grows_with_the_keys_and_values_that_are_kept() -> None:
    model = vjepa2_ac_on_meta()
    context = Context(features=torch.zeros(1, 256, 1408), state=torch.zeros(1, 7))
    one, three = (model.candidate_bytes(context, horizon) for horizon in (1, 3))
    kept = 2 * 24 * 258 * 2 * 1024 * 4  # two earlier frames, in float32
    assert kept < three - one < 1.2 * kept
    assert 30e6 < one < 50e6


def vjepa2_ac_on_meta() -> ActionWorldModel:
    with torch.device("meta"):
        return vjepa2_ac(replace(VIT, dim=1408, heads=22)).build()
