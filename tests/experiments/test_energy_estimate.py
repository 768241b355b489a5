from dataclasses import replace
from pathlib import Path

import pytest

from saccade.data.synthetic import SyntheticConfig
from saccade.errors import CheckpointError
from saccade.experiments.energy import EnergyStudy
from saccade.experiments.energy_estimate import estimate
from saccade.experiments.energy_grids import GridsConfig
from saccade.experiments.moments import MomentsConfig, load_world_model
from saccade.experiments.source import SourceConfig
from tests.fixtures.world_models import write_world_model


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> EnergyStudy:
    folder = tmp_path_factory.mktemp("estimate")
    return EnergyStudy(
        model=write_world_model(folder),
        adapters=(folder / "step_000100",),
        source=SourceConfig(episodes=SyntheticConfig()),
        moments=MomentsConfig(episodes=3, per_episode=2),
        grids=GridsConfig(slices=(), sweep_steps=0, widen=(1.0,)),
    )


def test_it_counts_what_would_be_computed(study: EnergyStudy) -> None:
    told = "\n".join(estimate(study))
    weights = sum(p.numel() for p in load_world_model(study.model, "cpu").parameters())
    assert f"models: 2 (the base, {weights:,} parameters; adapters: step_000100)" in told
    assert "data: 12 episodes in all, part 'test', 'square' crop, one step each 0.1 s" in told
    assert "main grid: x,y,z ±0.075/0.075/0.075 (125 actions)" in told
    each = 126 + 2 + 2 * 128
    assert f"moments: at most 6; {each} imagined actions at each, {12 * each:,} in all" in told
    assert "memory: at most 2 GB" in told


def test_without_a_count_it_says_so(study: EnergyStudy) -> None:
    every = replace(study, moments=MomentsConfig(per_episode=0))
    assert any(line.startswith("moments: all there are; 384") for line in estimate(every))


def test_what_is_absent_is_said_without_computing(study: EnergyStudy, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"11\.7 GB"):
        estimate(replace(study, model=tmp_path))
    with pytest.raises(CheckpointError, match=r"holds no saccade\.json"):
        estimate(replace(study, adapters=(tmp_path,)))
