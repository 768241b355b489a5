"""A world model is trained like anything else, and refuses data that it does not understand."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saccade.data.windows import ClipWindow
from saccade.errors import CheckpointError, ConfigError
from saccade.experiments.training import with_budget
from saccade.experiments.world_model import WorldModelTraining
from saccade.models.lora import LoraConfig, load_lora
from saccade.models.pretrained import PretrainedConfig
from saccade.models.world_model import (
    ActionWorldModel,
    ActionWorldModelConfig,
    PretrainedWorldModelConfig,
)
from saccade.objectives.action_conditioned import ActionConditionedConfig
from saccade.recipes import vjepa2_ac
from saccade.recipes.world_model import debug

SHORT = with_budget(debug(), samples=32, seed=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    debug().run(folder)
    return folder


def test_training_leaves_a_world_model_and_says_what_copying_and_shuffling_cost(
    trained: Path,
) -> None:
    result = json.loads((trained / "result.json").read_text())
    scores = result["scores"]
    assert result["baseline"] == "copy"
    assert scores.keys() >= {"eval/loss", "eval/copy", "eval/shuffled_actions"}
    assert result["exports"] == ["world_model"]
    first = json.loads((trained / "metrics.jsonl").read_text().splitlines()[0])
    assert first["step"] == 0  # what the model could do before
    assert first["eval/loss"] > scores["eval/loss"]
    model = ActionWorldModel.from_pretrained(trained / "world_model")
    assert (model.step_seconds, model.config.crop) == (0.1, "square")
    assert "One step lasts 0.1 s" in (trained / "world_model" / "README.md").read_text()


def test_a_stopped_training_goes_on_to_the_same_numbers(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    for step in (tmp_path / "checkpoints").iterdir():
        if step.name.lstrip("step-0") != "10":
            shutil.rmtree(step)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
    shutil.rmtree(tmp_path / "world_model")
    debug().run(tmp_path, resume=True)
    names = ("metrics.jsonl", "world_model/model.safetensors")
    assert all((tmp_path / n).read_bytes() == (trained / n).read_bytes() for n in names)


def test_adapters_are_trained_on_a_trained_model(trained: Path, tmp_path: Path) -> None:
    base = PretrainedWorldModelConfig(folder=trained / "world_model")
    objective = ActionConditionedConfig(model=base, lora=LoraConfig(rank=2))
    training = replace(SHORT, objective=objective)
    result = training.run(tmp_path)
    assert result["trained_parameters"] == 2 * 2 * (48 + 144 + 48 + 48 + 48 + 96 + 96 + 48)
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    last = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    assert first["eval/loss"] == pytest.approx(last["eval/loss"])  # fresh adapters change nothing
    model = base.build()
    load_lora(tmp_path / "adapters", model.predictor)
    assert not (tmp_path / "world_model").exists()


@pytest.mark.parametrize(
    ("training", "told"),
    [
        (replace(SHORT, window=ClipWindow(num_frames=4, stride=3)), "a step of the data lasts 0.3"),
        (replace(SHORT, window=ClipWindow(num_frames=4, step_seconds=0.2)), "data lasts 0.2 s"),
        (replace(SHORT, source=replace(SHORT.source, crop="centre")), "cropped by 'centre'"),
    ],
)
def test_data_that_break_the_contract_are_refused(
    training: WorldModelTraining, told: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=told):
        training.run(tmp_path)


def test_states_of_other_axes_are_refused(tmp_path: Path) -> None:
    axes = ("x", "y", "z", "grip")
    objective = SHORT.objective
    assert isinstance(objective, ActionConditionedConfig)
    model = replace(objective.model, state_names=axes, action_names=axes)
    with pytest.raises(ConfigError, match=r"states of the data are \['x', 'y', 'z', 'gripper'\]"):
        replace(SHORT, objective=replace(objective, model=model)).run(tmp_path)


def test_the_same_seed_starts_from_the_same_weights() -> None:
    one, other = SHORT.build().state_dict(), SHORT.build().state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_adapters_with_every_option_go_on_to_the_same_bytes(tmp_path: Path) -> None:
    training = vjepa2_ac.debug()  # 8-bit moments, wsd, bfloat16, accumulation, checkpointing
    folders = tmp_path / "whole", tmp_path / "stopped"
    training.run(folders[0])
    shutil.copytree(*folders)
    steps = sorted((folders[1] / "checkpoints").iterdir())
    assert [step.name[-1:] for step in steps] == ["3", "6"]
    shutil.rmtree(steps[-1])
    (folders[1] / "adapters" / "adapter_model.safetensors").unlink()
    training.run(folders[1], resume=True)
    for name in ("metrics.jsonl", "adapters/adapter_model.safetensors"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
    lines = [json.loads(line) for line in (folders[0] / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 3, 6]  # the baseline first
    assert lines[-1]["lr"] == pytest.approx(training.train.lr * training.train.min_lr)
    assert lines[-1]["eval/loss"] < lines[0]["eval/loss"]


def test_networks_on_paper_have_the_sizes_of_those_that_are_trained(trained: Path) -> None:
    folder = trained / "world_model"
    models = (
        PretrainedWorldModelConfig(folder=folder),
        replace(
            PretrainedWorldModelConfig(folder=folder).plain(),
            encoder=PretrainedConfig(folder=folder / "encoder"),
        ),
    )
    for model in models:
        objective = ActionConditionedConfig(model=model, lora=LoraConfig(rank=2))
        training = replace(SHORT, objective=objective)
        paper = training.blank()
        assert all(value.is_meta for value in paper.parameters())
        real = training.build()
        assert training.sizes(paper) == training.sizes(real)
        assert training.image_size() == real.reads().image_size


def test_a_base_without_weights_is_described_and_not_trained(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(trained / "world_model", folder)
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    config = PretrainedWorldModelConfig(folder=folder)
    training = replace(SHORT, objective=ActionConditionedConfig(model=config))
    assert training.sizes(training.blank())["trained_parameters"] > 0
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        training.run(tmp_path / "run")


def test_a_base_is_loaded_in_the_asked_precision(trained: Path, tmp_path: Path) -> None:
    objective = vjepa2_ac.debug().objective
    assert isinstance(objective, ActionConditionedConfig)
    shape = objective.model
    assert isinstance(shape, ActionWorldModelConfig)
    shape = replace(shape, predictor=replace(shape.predictor, checkpoint_activations=False))
    folder = tmp_path / "base"
    shape.build().save_pretrained(folder)
    config = PretrainedWorldModelConfig(
        folder=folder, encoder_precision="bfloat16", checkpoint_activations=True
    )
    model, plain = config.build(), PretrainedWorldModelConfig(folder=folder).build()
    assert {p.dtype for p in model.encoder.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.predictor.parameters()} == {torch.float32}
    assert model.predictor.config.checkpoint_activations
    assert not model.config.predictor.checkpoint_activations  # what is exported is as before
    assert not plain.predictor.config.checkpoint_activations
    video = torch.randint(0, 256, (1, 2, 3, 32, 32), dtype=torch.uint8)
    apart = (model.encode(video) - plain.encode(video)).square().mean().sqrt()
    assert 0 < apart < 0.05
    with pytest.raises(ConfigError, match="a ViT takes no weights in bfloat16"):
        replace(config, folder=trained / "world_model").build()
