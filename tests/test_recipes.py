import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from saccade.checkpoint import write_atomic
from saccade.commands.common import load_recipe, recipes
from saccade.config import from_dict, to_dict
from saccade.errors import CheckpointError
from saccade.experiments import memory
from saccade.experiments.acting import ActingTraining
from saccade.experiments.training import Training, encoder_of, with_budget
from saccade.experiments.world_model import WorldModelTraining
from saccade.models.vjepa2.encoder import vit_giant
from saccade.models.world_model import ActionWorldModel
from saccade.objectives.action_conditioned import ActionConditionedConfig
from saccade.recipes import vjepa2_ac
from saccade.train.optim import learning_rate
from saccade.types import Encoder, Objective

EVERY = sorted(recipes())
WORLDS = [name for name in EVERY if isinstance(load_recipe(name), WorldModelTraining)]
ACTORS = [name for name in EVERY if isinstance(load_recipe(name), ActingTraining)]
NAMES = [name for name in EVERY if name not in {*WORLDS, *ACTORS}]  # that make an encoder
FRESH = [name for name in WORLDS if name.endswith(":debug")]  # the others start from a file
SMALL = {"world_model:tiny", "world_model:libero_tiny", "world_model:tiny_lora"}
STAGES = {"lora_5k": 5_000, "lora_20k": 20_000, "lora": 100_000, "lora_100k": 100_000}
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


def survives_json(training: Training) -> bool:
    return from_dict(json.loads(json.dumps(to_dict(training)))) == training


@pytest.mark.parametrize("name", FRESH)
def test_a_world_model_survives_json(name: str) -> None:
    training = load_recipe(name)
    assert survives_json(training)
    sizes = training.sizes(training.blank())
    assert sizes["trained_parameters"] > 0
    assert sizes["encoder_parameters"] > 0


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where recipes look for the published model: its configs alone, without gigabytes."""
    encoder = vit_giant(num_frames=1)
    world = vjepa2_ac.vjepa2_ac(replace(encoder, frames="each"))
    folder = tmp_path / vjepa2_ac.BASE
    for place, record in (
        (folder, {"model": to_dict(world.predictor), "preprocessing": {"world_model": world}}),
        (folder / "encoder", {"model": to_dict(world.encoder), "preprocessing": {}}),
    ):
        write_atomic(place / "config.json", json.dumps(record, default=to_dict))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize("name", ["vjepa2_ac:lora", "vjepa2_ac:full", "vjepa2_ac:scratch"])
def test_a_recipe_over_the_published_model_has_its_size(name: str, base: Path) -> None:
    training = load_recipe(name)
    assert isinstance(training, WorldModelTraining)
    assert survives_json(training)
    objective = training.blank()
    assert objective.reads().image_size == 256
    sizes = training.sizes(objective)
    assert sizes["encoder_parameters"] == 1_012_173_952
    extrinsics = 6 * 1024 + 1024  # never used, so never trained
    whole = 305_220_992 - extrinsics
    assert sizes["trained_parameters"] == (6_291_456 if ":lora" in name else whole)
    assert objective.model.predictor.config.checkpoint_activations
    assert training.window.step_seconds == objective.model.step_seconds == 0.25
    assert memory.estimate(memory.describe(training)).total < 24e9


def test_the_stages_of_adapters_differ_in_budget_alone() -> None:
    steps = {name: load_recipe(f"vjepa2_ac:{name}").train.steps for name in STAGES}
    assert steps == STAGES
    trainings = [load_recipe(f"vjepa2_ac:{name}") for name in STAGES]
    assert len({replace(t.train, samples=1) for t in trainings}) == 1
    assert len({t.objective for t in trainings}) == len({t.window for t in trainings}) == 1
    published = {f"vjepa2_ac:{name}" for name in (*STAGES, "full", "scratch")}
    assert {*WORLDS} == {*FRESH, *published, *SMALL}
    assert trainings[0].train.batch_size // trainings[0].train.accumulate == 2


def test_the_published_schedule_is_that_of_the_official_code() -> None:
    config = vjepa2_ac.scratch().train
    options = {
        "start_lr": config.start_lr,
        "schedule": config.schedule,
        "cooldown": config.cooldown,
    }
    steps = (1, 4_500, 4_501, 90_000, 92_250, 94_500)
    rates = [
        learning_rate(n, config.steps, config.lr, config.warmup, config.min_lr, **options)
        for n in steps
    ]
    first = 7.5e-5 + (4.25e-4 - 7.5e-5) / 4_500
    assert rates == pytest.approx([first, 4.25e-4, 4.25e-4, 4.25e-4, 2.125e-4, 0.0])


def test_without_the_published_model_a_recipe_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for ask in (vjepa2_ac.lora().blank, vjepa2_ac.lora().build, vjepa2_ac.full().image_size):
        with pytest.raises(CheckpointError, match=r"vjepa2-ac-vitg\.pt \(11\.7 GB\)") as caught:
            ask()
        assert "dl.fbaipublicfiles.com/vjepa2" in str(caught.value)
        assert "export convert vjepa2-ac-vitg.pt --out models/vjepa2-ac-vitg" in str(caught.value)


@pytest.mark.parametrize("name", [name for name in NAMES if ":debug" in name])
def test_a_debug_recipe_trains(name: str, tmp_path: Path) -> None:
    training = with_budget(load_recipe(name), samples=8, seed=0)
    result = training.run(tmp_path)
    assert result["samples"] == 8
    trained = Encoder.from_pretrained(tmp_path / "encoder").state_dict()
    start = encoder_of(training.build()).state_dict()
    assert any(not torch.equal(value, start[key]) for key, value in trained.items())


def parts_of(name: str) -> tuple[WorldModelTraining, ActionConditionedConfig, Any]:
    """Return a recipe of a world model, its objective, and the config of its model."""
    training = load_recipe(name)
    assert isinstance(training, WorldModelTraining)
    assert isinstance(training.objective, ActionConditionedConfig)
    return training, training.objective, training.objective.model


def test_small_world_models_take_any_exported_encoder_and_are_adapted(tmp_path: Path) -> None:
    pretraining = load_recipe("two_stream:debug")
    encoder, config = next(iter(pretraining.build().exports().values()))
    encoder.save_pretrained(tmp_path / "encoder", config)
    source = load_recipe("world_model:debug").source
    tiny, objective, model = parts_of("world_model:tiny")
    model = replace(
        model, encoder=replace(model.encoder, folder=tmp_path / "encoder"), step_seconds=0.1
    )
    window = replace(tiny.window, step_seconds=0.1)
    tiny = replace(
        tiny,
        objective=replace(objective, model=model),
        source=source,
        window=window,
        eval_samples=8,
    )
    with_budget(tiny, samples=32, seed=0).run(tmp_path / "world")
    made = ActionWorldModel.from_pretrained(tmp_path / "world" / "world_model")
    assert made.config.predictor.feature_dim == encoder.embed_dim
    adapt, objective, model = parts_of("world_model:tiny_lora")
    model = replace(model, folder=tmp_path / "world" / "world_model")
    adapt = replace(
        adapt,
        objective=replace(objective, model=model),
        source=source,
        window=window,
        eval_samples=8,
    )
    result = with_budget(adapt, samples=32, seed=0).run(tmp_path / "adapted")
    assert result["exports"] == ["adapters"]
    libero = parts_of("world_model:libero_tiny")[2]
    assert libero.predictor.state_size == len(libero.state_names) == 7
