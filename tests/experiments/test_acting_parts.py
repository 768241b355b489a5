"""What the command line puts in the place of a recipe's encoder or language."""

from pathlib import Path

import pytest
import torch

from saccade.errors import CheckpointError, ConfigError
from saccade.experiments.acting_parts import with_encoder, with_language
from saccade.models.language import HashLanguage, TableLanguage, write_table
from saccade.models.vit import ViTConfig
from saccade.objectives.imitation import Imitation
from saccade.objectives.temporal_jepa import TemporalJepa
from saccade.recipes import statevla, video_mae
from saccade.types import Observation
from tests.models.published.test_vision import written


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A run folder with the encoder of single frames that behaviour cloning begins with."""
    config = ViTConfig(image_size=32, num_frames=1, tubelet=1, patch=8, dim=32, depth=1, heads=2)
    config.build().save_pretrained(tmp_path / "run" / "encoder", config)
    return tmp_path / "run"


def test_any_policy_sees_with_what_a_run_exported(exported: Path) -> None:
    for folder in (exported, exported / "encoder"):
        objective = with_encoder(statevla.bc_debug(), folder).build()
        assert isinstance(objective, Imitation)
        assert objective.policy.condition.frozen == ("language",)  # the encoder learns on


def test_phase_2_wants_a_phase_1_export(exported: Path, tmp_path: Path) -> None:
    for folder, told in ((exported / "encoder", "not the state encoder"), (tmp_path, "no")):
        with pytest.raises(CheckpointError, match=told):
            with_encoder(statevla.phase2_debug(), folder).build()
    with pytest.raises(ConfigError, match="trains no policy"):
        with_encoder(video_mae.debug(), exported)


def test_phase_1_sees_with_a_frozen_encoder_in_place_of_patches(exported: Path) -> None:
    """The one that a run exported, or a published one, which nobody trains."""
    published = exported / "siglip"
    written(published, "siglip")
    for folder, kind in ((exported, "ViT"), (published, "PublishedVision")):
        objective = with_encoder(statevla.phase1_debug(), folder).build()
        assert isinstance(objective, TemporalJepa)
        seeing = objective.encoder.vision
        assert seeing is not None
        assert type(seeing).__name__ == kind
        assert not any(p.requires_grad for p in seeing.parameters())
        side = objective.reads().image_size
        views = torch.randint(256, (2, 1, 2, 3, side, side), dtype=torch.uint8)
        seen = Observation(video=views, state=torch.randn(2, 1, 4), text=["go", "stop"])
        assert objective.encoder(seen).shape == (2, 32)
    cloning = statevla.bc_debug()
    with pytest.raises(ConfigError, match="stays frozen; set"):
        with_encoder(cloning, published)


def test_instructions_become_vectors_of_a_table(tmp_path: Path) -> None:
    table = tmp_path / "table.safetensors"
    write_table(table, {"open it": torch.arange(5.0)})
    for recipe in (statevla.phase1_debug, statevla.phase2_debug, statevla.bc_debug):
        modules = list(with_language(recipe(), table).build().modules())
        assert any(isinstance(m, TableLanguage) and "open it" in m.rows for m in modules)
        assert not any(isinstance(m, HashLanguage) for m in modules)
    with pytest.raises(ConfigError, match="PretrainedStateEncoderConfig understands what it was"):
        with_language(statevla.phase2(), table)
    with pytest.raises(ConfigError, match="reads no language"):
        with_language(video_mae.debug(), table)
