import json
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from saccade.commands.common import load_recipe, recipes
from saccade.config import from_dict, to_dict
from saccade.experiments.training import Training, encoder_of, with_budget
from saccade.experiments.world_model import WorldModelTraining
from saccade.types import Encoder, Objective

EVERY = sorted(recipes())
NAMES = [name for name in EVERY if not name.startswith("world_model:")]  # that make an encoder
METHODS = {"single_stream", "two_stream", "video_mae"}


def presets() -> dict[str, dict[str, Training]]:
    """Sort recipes by what follows the colon, then by method."""
    found = defaultdict(dict)
    for name in NAMES:
        method, _, preset = name.partition(":")
        found[preset][method] = load_recipe(name)
    return found


def on_paper(name: str) -> Objective:
    """Build a recipe's networks without memory for their weights."""
    with torch.device("meta"):
        return load_recipe(name).objective.build()


def test_every_method_has_a_recipe() -> None:
    assert {name.partition(":")[0] for name in NAMES} == METHODS


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_builds_and_survives_json(name: str) -> None:
    training = load_recipe(name)
    assert from_dict(json.loads(json.dumps(to_dict(training)))) == training
    encoder = encoder_of(on_paper(name))
    assert training.image_size() == encoder.preprocessing.image_size
    frames = {len(training.window.frame_steps(int(gap))) for gap in training.window.gaps()[0]}
    assert frames == {encoder.preprocessing.num_frames}


def test_no_two_recipes_of_a_method_say_the_same_of_themselves() -> None:
    told = [(name.partition(":")[0], about) for name, about in recipes().items()]
    assert len(set(told)) == len(told)
    assert all(about.endswith(".") for _, about in told)


def test_the_documents_models_have_the_documents_sizes() -> None:
    two = encoder_of(on_paper("two_stream:original_base"))
    assert sum(p.numel() for p in two.parameters()) == 186_362_880
    single = on_paper("single_stream:original_base")
    assert sum(p.numel() for p in single.parameters() if p.requires_grad) == 90_217_507


@pytest.mark.parametrize("preset", [name for name, by in presets().items() if len(by) > 1])
def test_a_preset_gives_every_method_the_same_budget(preset: str) -> None:
    by_method = presets()[preset]
    assert by_method.keys() == METHODS
    first = by_method.pop("two_stream")
    for training in by_method.values():
        assert training.image_size() == first.image_size()
        for name in ("source", "window", "augment", "eval_samples", "train"):
            assert getattr(training, name) == getattr(first, name), name


@pytest.mark.parametrize("name", sorted(set(EVERY) - set(NAMES)))
def test_a_world_model_survives_json(name: str) -> None:
    training = load_recipe(name)
    assert isinstance(training, WorldModelTraining)
    assert from_dict(json.loads(json.dumps(to_dict(training)))) == training
    sizes = training.sizes(training.blank())
    assert sizes["trained_parameters"] > 0
    assert sizes["encoder_parameters"] > 0


@pytest.mark.parametrize("name", [name for name in NAMES if ":debug" in name])
def test_a_debug_recipe_trains(name: str, tmp_path: Path) -> None:
    training = with_budget(load_recipe(name), samples=8, seed=0)
    result = training.run(tmp_path)
    assert result["samples"] == 8
    trained = Encoder.from_pretrained(tmp_path / "encoder").state_dict()
    start = encoder_of(training.build()).state_dict()
    assert any(not torch.equal(value, start[key]) for key, value in trained.items())
