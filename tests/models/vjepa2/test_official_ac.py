"""The official file of V-JEPA 2-AC becomes a world model that computes what its parts do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saccade.errors import CheckpointError
from saccade.models.vjepa2.encoder import VJepa2Config
from saccade.models.vjepa2.official_ac import convert_ac, load_ac
from saccade.models.vjepa2.predictor import ActionPredictorConfig
from saccade.models.world_model import ActionWorldModel, ActionWorldModelConfig

EYES = VJepa2Config(
    image_size=32, num_frames=1, patch=8, dim=28, depth=2, heads=2, mlp=52, frames="each"
)
PREDICTOR = ActionPredictorConfig(grid=(4, 4), feature_dim=28, dim=36, depth=3, heads=2, mlp=80)
WORLD = ActionWorldModelConfig(encoder=EYES, predictor=PREDICTOR, step_seconds=0.25)
OPTIONS: dict[str, Any] = {
    "heads": 2,
    "image_size": 32,
    "predictor_heads": 2,
    "dtype": torch.float32,
}


def built() -> ActionWorldModel:
    torch.manual_seed(0)
    return WORLD.build().eval()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Write what the official training writes."""
    model = built()
    eyes = {f"module.{name}": value for name, value in model.encoder.state_dict().items()}
    predictor = {f"module.{name}": value for name, value in model.predictor.state_dict().items()}
    parts = {"encoder": eyes, "target_encoder": eyes, "predictor": predictor}
    torch.save({**parts, "opt": {"state": {}}, "scaler": None, "epoch": 315}, tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt"


def imagined(model: ActionWorldModel) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    video = torch.randint(256, (1, 2, 3, 32, 32), dtype=torch.uint8, generator=generator)
    state, action = (torch.rand(rows, 7, generator=generator) for rows in (2, 3))
    context = model.look(model.encode(video)[0], state, action[:1])
    return model.imagine(context, action[1:, None])


def test_loaded_and_converted_it_imagines_the_same(file: Path, tmp_path: Path) -> None:
    expected = imagined(built())
    assert torch.equal(imagined(load_ac(file, **OPTIONS)), expected)
    convert_ac(file, tmp_path / "model", step_seconds=1.0, **OPTIONS)
    model = ActionWorldModel.from_pretrained(tmp_path / "model")
    assert torch.equal(imagined(model), expected)
    assert model.step_seconds == 1.0
    assert (model.config.crop, model.config.gripper) == ("ac", "closed_is_1")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "parts `target_encoder` and `predictor`" in card


def test_in_bfloat16_it_is_near(file: Path) -> None:
    model = load_ac(file, **{**OPTIONS, "dtype": torch.bfloat16})
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(imagined(model).float(), imagined(built()), rtol=0, atol=0.1)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (("predictor_proj.bias", None), "1 missing: predictor_proj.bias"),
        (("predictor_norm.weight", torch.ones(5)), "1 of another shape: predictor_norm.weight"),
        (("other.weight", torch.ones(5)), "1 left over: other.weight"),
        (("predictor_embed.weight", None), "no action-conditioned predictor: .*predictor_embed"),
    ],
)
def test_every_tensor_is_accounted_for(
    file: Path, spoil: tuple[str, Tensor | None], told: str
) -> None:
    content = torch.load(file, weights_only=True)
    name, value = spoil
    content["predictor"].pop(f"module.{name}", None)
    if value is not None:
        content["predictor"][f"module.{name}"] = value
    torch.save(content, file)
    with pytest.raises(CheckpointError, match=told):
        load_ac(file, **OPTIONS)


def test_heads_that_nobody_knows_must_be_given(file: Path) -> None:
    options = {name: value for name, value in OPTIONS.items() if name != "predictor_heads"}
    with pytest.raises(CheckpointError, match=r"is 36 wide, .* give predictor_heads"):
        load_ac(file, **options)


def test_an_absent_file_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"11\.7 GB.*curl -L -o .*vjepa2-ac-vitg\.pt"):
        load_ac(tmp_path / "vjepa2-ac-vitg.pt")


def test_a_predictor_of_other_features_is_refused(file: Path) -> None:
    content = torch.load(file, weights_only=True)
    other = replace(WORLD, predictor=replace(PREDICTOR, feature_dim=20)).predictor.build()
    content["predictor"] = other.state_dict()
    torch.save(content, file)
    with pytest.raises(CheckpointError, match=r"features 20 wide, .* are 28 wide"):
        load_ac(file, **OPTIONS)
