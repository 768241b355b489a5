from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saccade.data.synthetic import SyntheticConfig
from saccade.data.synthetic_reach import ReachConfig
from saccade.deploy.runner import LocalActor
from saccade.errors import ConfigError, DataError
from saccade.experiments.source import SourceConfig
from saccade.experiments.vla import Exchange, VlaTraining, shown, with_policy
from saccade.models.vit import ViTConfig
from saccade.recipes import two_stream, vla
from saccade.types import Observation, Policy
from saccade.vla.loading import SmallOpenVlaConfig
from saccade.vla.openvla import OpenVla
from saccade.vla.swap import SwapConfig

REACH = SourceConfig(episodes=ReachConfig(episodes=20), camera="agentview", shares=(0.8, 0.2, 0.0))
BASE = SmallOpenVlaConfig(texts=("go to the red square",), dim=32, depth=1, patch=8, image_size=32)
OURS = ViTConfig(image_size=32, num_frames=2, tubelet=2, patch=8, dim=24, depth=1, heads=2)


def exchanged(folder: Path, mode: str = "keep", source: SourceConfig = REACH, **options: Any):
    settings: dict = {"mode": mode, "encoder": None if mode == "keep" else OURS, **options}
    policy, fit = Exchange(base=BASE, swap=SwapConfig(**settings), source=source, pictures=60).run()
    policy.save_pretrained(folder / "policy", policy.config)
    return policy, fit


def tuned(folder: Path, swapped: Path, demos: float = 0.5) -> VlaTraining:
    found: Any = with_policy(vla.debug(), swapped)
    source = replace(REACH, demos=demos, cache=str(folder / "cache"))
    return replace(found, source=source)


@pytest.mark.parametrize("mode", ["keep", "replace", "replace_one", "add"])
def test_a_model_is_swapped_tuned_saved_loaded_and_acts(tmp_path: Path, mode: str) -> None:
    history: Any = {} if mode == "keep" else {"frames": "history"}
    _, fit = exchanged(tmp_path, mode, **history)
    assert (fit is None) == (mode != "replace_one")
    training = tuned(tmp_path, tmp_path)
    objective = replace(training.objective, learn="all", adapt=None)  # type: ignore[type-var]
    training = replace(training, objective=objective)
    result = training.run(tmp_path / "run")
    assert {"eval/token_accuracy", "eval/action_error"} <= result["scores"].keys()
    assert not [alarm for alarm in result["alarms"] if alarm["severity"] == "error"]
    again = Policy.from_pretrained(tmp_path / "run" / "policy")
    assert isinstance(again, OpenVla)
    moments = 1 if mode == "keep" else 2
    assert (again.contract.history, again.contract.chunk) == (moments, 1)
    assert again.contract.frame_size == (32, 32)
    assert again.appearance().keys() == {"agentview"}
    seen = Observation(
        video=torch.zeros(1, moments, 1, 3, 32, 32, dtype=torch.uint8),
        state=torch.zeros(1, moments, 4),
        text=["go to the blue square"],
    )
    commands = LocalActor(again).act(seen, (0,))
    assert commands.shape == (1, 7)
    assert abs(commands).max() <= 1.5


def test_the_range_of_actions_is_that_of_the_training_part(tmp_path: Path) -> None:
    policy, _ = exchanged(tmp_path)
    assert isinstance(policy, OpenVla)
    data = REACH.open(32).train
    rows = [data.numbers(e, np.arange(n))[1][:, 0] for e, n in enumerate(data.lengths)]
    x = torch.from_numpy(np.concatenate(rows))
    assert policy.bounds.low[0].item() == pytest.approx(x.quantile(0.01).item(), abs=0.02)
    assert policy.bounds.high[0].item() == pytest.approx(x.quantile(0.99).item(), abs=0.02)
    assert policy.bounds.constant.tolist() == [0, 0, 1, 1, 1, 1, 0]  # z and the wrist never move
    assert policy.bounds.scaled.tolist() == [1, 1, 1, 1, 1, 1, 0]  # the gripper is as it is


def test_a_share_of_the_demonstrations_is_whole_seeded_and_of_every_task() -> None:
    def learned(demos: float, seed: int = 0) -> set[int]:
        source = replace(REACH, demos=demos, split_seed=seed)
        return set(source.open(32).train.keep)

    whole = learned(1.0)
    assert len(whole) == 16
    half, quarter = learned(0.5), learned(0.25)
    assert quarter < half < whole
    assert len(half) == 8
    assert half == learned(0.5)
    tasks = REACH.open(32).whole.tasks
    for some, each in ((half, 4), (quarter, 2), (learned(0.01), 1)):
        counts = [sum(tasks[i] == task for i in some) for task in sorted(set(tasks))]
        assert counts == [each, each]
    held_out = set(REACH.open(32).select.keep)
    assert set(replace(REACH, demos=0.5).open(32).select.keep) == held_out
    for wrong in (0.0, 1.5):
        with pytest.raises(ConfigError, match="demos is"):
            replace(REACH, demos=wrong).open(32)


def test_data_that_do_not_fit_are_refused_in_one_line(tmp_path: Path) -> None:
    exchanged(tmp_path, "replace", frames="history", stride=2)
    training = tuned(tmp_path, tmp_path)
    wide = replace(training, window=replace(training.window, stride=3))
    with pytest.raises(ConfigError, match=r"history of 2, 3 apart.*takes 2, 2 apart"):
        wide.run(tmp_path / "wide")
    cameras = replace(training.source, camera="", cameras=("agentview", "wrist"))
    with pytest.raises(ConfigError, match="1 cameras, the data give 2"):
        replace(training, source=cameras).run(tmp_path / "cameras")
    other = replace(training.source, episodes=SyntheticConfig(image_size=32), camera="")
    with pytest.raises(ConfigError, match="the policy commands x, y, z"):
        replace(training, source=other).run(tmp_path / "other")
    with pytest.raises(DataError, match="too few"):
        Exchange(
            base=BASE,
            swap=SwapConfig(mode="replace_one", encoder=OURS),
            source=REACH,
            pictures=2,
        ).run()
    with pytest.raises(ConfigError, match="fine-tunes no vision-language"):
        with_policy(two_stream.debug(), tmp_path)


def test_other_robots_have_other_axes(tmp_path: Path) -> None:
    world = SourceConfig(episodes=SyntheticConfig(image_size=32, episodes=10))
    names = world.episodes.build().action_names
    policy, _ = exchanged(tmp_path, source=world)
    assert policy.config.action_names == names
    again = Policy.from_pretrained(tmp_path / "policy")
    assert isinstance(again, OpenVla)
    assert len(again.bounds.low) == len(names) != 7


def test_adapters_are_fitted_on_moments_as_the_policy_will_see_them() -> None:
    """An encoder of motion gives other features of a still than of the history."""
    parts, policy = REACH.open(32), BASE.build()
    (batch,) = shown(policy, parts, 6, frames=2, stride=3)
    assert batch.shape == (6, 2, 3, 32, 32)
    lengths = parts.train.lengths
    every = [(e, i) for e, n in enumerate(lengths) for i in range(n)]
    camera = parts.cameras[:1]
    frames = {
        at: policy.config.pixels.shown(
            parts.train.read(at[0], np.array([at[1]]), camera)["video"][None, :, 0]
        )[0, 0]
        for at in every
    }
    for before, now in batch:
        (place,) = [at for at in every if frames[at].equal(now)]
        assert before.equal(frames[place[0], max(place[1] - 3, 0)])
