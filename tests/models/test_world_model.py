"""A world model over any encoder: features, memory, poses, both senses of the gripper, folders."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from saccade.config import Config, from_dict, to_dict
from saccade.errors import CheckpointError, ConfigError
from saccade.models.pretrained import PretrainedConfig
from saccade.models.streams import StreamsConfig
from saccade.models.vit import ViTConfig
from saccade.models.vjepa2.encoder import VJepa2Config
from saccade.models.vjepa2.predictor import ActionPredictorConfig
from saccade.models.world_model import (
    ActionWorldModel,
    ActionWorldModelConfig,
    PretrainedWorldModelConfig,
    fingerprint,
    vjepa2_ac,
)
from saccade.poses import NAMES
from saccade.types import Encoder
from tests.fixtures.vjepa2.predictor import CANDIDATES, CASES, inputs, stored, weights

VIT = ViTConfig(image_size=32, patch=8, dim=24, depth=1, heads=2)
PREDICTOR = ActionPredictorConfig(grid=(4, 4), feature_dim=24, dim=32, depth=2, heads=2, mlp=64)
CONFIG = ActionWorldModelConfig(encoder=VIT, predictor=PREDICTOR, step_seconds=0.25)
VJEPA = VJepa2Config(
    image_size=32, num_frames=4, patch=8, dim=24, depth=1, heads=2, mlp=48, frames="each"
)
ENCODERS: dict[str, ActionWorldModelConfig] = {
    "vit": CONFIG,
    "clips": replace(CONFIG, encoder=replace(VIT, num_frames=4)),
    "streams": replace(
        CONFIG,
        encoder=StreamsConfig(image_size=32, patch=8, dim=12, depth=3, heads=2),
    ),
    "pooled": replace(CONFIG, tokens="pooled", predictor=replace(PREDICTOR, grid=(1, 1))),
    "each": replace(CONFIG, encoder=VJEPA),
    "tubelets": replace(CONFIG, encoder=replace(VJEPA, frames="clip")),
}


def video(frames: int = 3, batch: int = 2) -> Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (batch, frames, 3, 32, 32), dtype=np.uint8))


def built(config: ActionWorldModelConfig = CONFIG) -> ActionWorldModel:
    torch.manual_seed(0)
    model = config.build().eval()
    model.predictor.load_state_dict(weights(model.predictor))
    return model


def over(case: str) -> ActionWorldModel:
    """Put an encoder of the right width under a predictor whose official outputs are stored."""
    predictor = CASES[case]
    encoder = replace(VIT, dim=predictor.feature_dim)
    return built(replace(CONFIG, encoder=encoder, predictor=predictor))


@pytest.mark.parametrize("name", ENCODERS)
def test_any_encoder(name: str) -> None:
    """Frames are encoded one by one, normalised, and without gradient."""
    model = built(ENCODERS[name])
    features = model.encode(video())
    n = model.config.predictor.grid[0] ** 2
    assert features.shape == (2, 3, n, model.config.predictor.feature_dim)
    assert not features.requires_grad
    torch.testing.assert_close(model.encode(video()[:, 1:2]), features[:, 1:2])
    zero, one = torch.zeros(2, 3, n), torch.ones(2, 3, n)
    torch.testing.assert_close(features.mean(-1), zero, rtol=0, atol=1e-5)
    torch.testing.assert_close(features.std(-1, correction=0), one, rtol=0, atol=1e-3)


def test_one_tubelet_for_each_frame_both_ways() -> None:
    torch.testing.assert_close(
        built(ENCODERS["each"]).encode(video()), built(ENCODERS["tubelets"]).encode(video())
    )


def test_the_epsilon_of_features_is_not_that_of_the_network() -> None:
    model, small = built(), torch.tensor([[1.0, -1.0]]) * 1e-3
    torch.testing.assert_close(model.normalise(small), small / (1e-6 + 1e-5) ** 0.5)
    plain = built(replace(CONFIG, normalise=False))
    assert torch.equal(plain.normalise(small), small)
    raw = plain.encoder(video()[:1, :1].expand(-1, 2, -1, -1, -1))
    torch.testing.assert_close(plain.encode(video())[0, 0], raw[0, 0])


@pytest.mark.parametrize("case", ["heads", "wide", "tall"])
def test_official_candidates(case: str) -> None:
    """Two steps ahead as the official notebook unrolls them, poses moved by SciPy."""
    model, given = over(case), inputs(CASES[case])
    context = model.look(given["features"][0, :1], given["state"][0, :1], torch.zeros(0, 7))
    found = model.imagine(context, given["candidates"]).detach()
    expected = torch.from_numpy(stored()[f"{case}/imagined"])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_official_energies(shared_data: Path) -> None:
    """The mean absolute distance from the goal of 27 actions."""
    official = np.load(shared_data / "vjepa2_ac" / "tiny_official_vjepa2ac.npz")
    predictor = ActionPredictorConfig(
        grid=(4, 4), feature_dim=128, dim=128, depth=2, heads=2, mlp=512
    )
    model = built(replace(CONFIG, encoder=replace(VIT, dim=128), predictor=predictor))
    loaded = {k[5:]: torch.from_numpy(v) for k, v in official.items() if k.startswith("pred/")}
    model.predictor.load_state_dict(loaded)
    features = torch.from_numpy(official["h"]).view(4, 16, 128)
    state = torch.from_numpy(official["states"])[0, :1].float()
    context = model.look(features[:1], state, torch.zeros(0, 7))
    imagined = model.imagine(context, torch.from_numpy(official["grid"]))[:, -1]
    energy = (imagined - features[1]).abs().mean((1, 2)).detach()
    torch.testing.assert_close(energy, torch.from_numpy(official["energy_l1"]), rtol=0, atol=1e-5)


def test_looking_at_more_frames_is_the_whole_forward_pass() -> None:
    model, given = over("wide"), inputs(CASES["wide"])
    features, state, action = (given[k][0, :3] for k in ("features", "state", "action"))
    candidates = given["candidates"][:, :1]
    found = model.imagine(model.look(features, state, action[:2]), candidates)
    batch = [part.repeat(CANDIDATES, *(1,) * part.ndim) for part in (features, action, state)]
    batch[1][:, 2] = candidates[:, 0]
    expected = model.predict(batch[0], batch[1], batch[2])[:, 2:]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_imagining_is_differentiable_in_every_action() -> None:
    model, given = over("wide"), inputs(CASES["wide"])
    context = model.look(given["features"][0, :1], given["state"][0, :1], torch.zeros(0, 7))
    action = given["candidates"].clone().requires_grad_()
    (slope,) = torch.autograd.grad(model.imagine(context, action)[:, -1].sum(), action)
    assert bool((slope != 0).any(2).all())
    assert bool(slope.isfinite().all())


def test_a_model_in_bfloat16_keeps_poses_exact() -> None:
    """It takes float32 states and actions, which bfloat16 would round to centimetres."""
    model, given = over("wide"), inputs(CASES["wide"])
    features, state = given["features"][0, :2], given["state"][0, :2]
    action = model.measured(state[:1], state[1:])
    exact = model.imagine(model.look(features, state, action), given["candidates"])
    model.to(torch.bfloat16)
    context = model.look(features.to(torch.bfloat16), state, action)
    found = model.imagine(context, given["candidates"])
    assert found.dtype == torch.bfloat16
    assert (found.float() - exact).abs().mean() < 0.05
    assert model.moved(state, given["action"][0, :2]).dtype == torch.float32


def test_states_are_composed_or_held() -> None:
    state = torch.tensor([[0.1, 0.2, 0.3, 0.0, 0.0, 0.0, 0.9]])
    action = torch.tensor([[0.1, 0.0, 0.0, 0.0, 0.0, 0.5, 0.5]])
    expected = torch.tensor([[0.2, 0.2, 0.3, 0.0, 0.0, 0.5, 1.0]])
    torch.testing.assert_close(built().moved(state, action), expected)
    held = built(replace(CONFIG, states="held"))
    assert torch.equal(held.moved(state, action), state)


def test_actions_along_some_axes_of_the_state() -> None:
    """Such as those of Meta-World, with an object in the state that no action moves."""
    config = replace(
        CONFIG,
        state_names=("gripper", "x", "y", "z", "object.x"),
        action_names=("x", "y", "z", "gripper"),
        predictor=replace(PREDICTOR, state_size=5, action_size=4),
    )
    model = built(config)
    state = torch.tensor([[0.5, 0.1, 0.2, 0.3, 7.0]])
    action = torch.tensor([[0.01, 0.02, 0.03, 0.25]])
    after = torch.tensor([[0.75, 0.11, 0.22, 0.33, 7.0]])
    torch.testing.assert_close(model.moved(state, action), after)
    torch.testing.assert_close(model.measured(state, after), action)


def test_both_senses_of_the_gripper() -> None:
    """Data are 1 when open; V-JEPA 2-AC is 1 when closed."""
    state = torch.tensor([[[0.1, 0.2, 0.3, 0.0, 0.0, 0.0, 1.0], [0.1, 0.2, 0.3, 0, 0, 0, 0.25]]])
    closed, opened = built(), built(replace(CONFIG, gripper="open_is_1"))
    meant = closed.sense(state, "state")
    assert meant[0, :, 6].tolist() == [0.0, 0.75]
    action = closed.measured(meant[:, 0], meant[:, 1])
    assert action[0, 6].item() == pytest.approx(0.75)
    torch.testing.assert_close(
        closed.sense(action, "action"), opened.measured(state[:, 0], state[:, 1])
    )
    assert torch.equal(closed.sense(meant, "state"), state)
    assert torch.equal(opened.sense(state, "state"), state)


def test_a_folder_gives_the_same_model(tmp_path: Path) -> None:
    model = built()
    model.save_pretrained(tmp_path / "model", "a card")
    shutil.move(tmp_path / "model", tmp_path / "moved")
    loaded = PretrainedWorldModelConfig(folder=tmp_path / "moved").build()
    assert not loaded.training
    assert loaded.config == CONFIG
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert from_dict(to_dict(CONFIG)) == CONFIG


def test_an_encoder_kept_elsewhere(tmp_path: Path) -> None:
    model = built()
    model.encoder.save_pretrained(tmp_path / "encoder", VIT)
    reference = replace(CONFIG, encoder=PretrainedConfig(folder=tmp_path / "encoder"))
    named = ActionWorldModel(reference, model.encoder, model.predictor)
    named.save_pretrained(tmp_path / "light")
    assert not (tmp_path / "light" / "encoder").exists()
    features = ActionWorldModel.from_pretrained(tmp_path / "light").encode(video())
    assert torch.equal(features, model.encode(video()))
    named.save_pretrained(tmp_path / "whole", with_encoder=True)
    shutil.rmtree(tmp_path / "encoder")
    features = ActionWorldModel.from_pretrained(tmp_path / "whole").encode(video())
    assert torch.equal(features, model.encode(video()))
    with pytest.raises(CheckpointError):
        ActionWorldModel.from_pretrained(tmp_path / "light")
    given = ActionWorldModel.from_pretrained(tmp_path / "light", model.encoder)
    assert torch.equal(given.encode(video()), features)


@pytest.mark.parametrize("config", [VIT, VJEPA])
def test_a_predictor_refuses_another_encoder(config: Config[Encoder], tmp_path: Path) -> None:
    model = built(replace(CONFIG, encoder=config))
    model.save_pretrained(tmp_path)
    torch.manual_seed(1)
    other = config.build().eval()
    with pytest.raises(CheckpointError, match=r"features of another .* apart"):
        ActionWorldModel.from_pretrained(tmp_path, other)
    half = config.build()
    half.load_state_dict(model.encoder.state_dict())
    half.to(torch.bfloat16)
    if config == VJEPA:
        ActionWorldModel.from_pretrained(tmp_path, half)  # the same but for rounding


def test_a_fingerprint_is_reproducible_and_finite() -> None:
    encoder = built().encoder
    found = fingerprint(encoder)
    assert found == fingerprint(encoder)
    assert len(found) == 64
    assert all(np.isfinite(found))
    assert json.dumps(found, allow_nan=False)


def test_a_folder_that_holds_something_else(tmp_path: Path) -> None:
    built().encoder.save_pretrained(tmp_path, VIT)
    with pytest.raises(CheckpointError, match="holds a ViT, not a world model"):
        ActionWorldModel.from_pretrained(tmp_path)


def test_the_encoder_is_frozen_whatever_happens() -> None:
    model = built().train()
    assert model.predictor.training
    assert not model.encoder.training
    trained = {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"predictor"}


def test_data_of_another_kind_are_refused() -> None:
    model = built()
    model.check_data(0.26, "ac")
    with pytest.raises(ConfigError, match=r"lasts 0\.0666667 s.*steps of 0\.25 s"):
        model.check_data(1 / 15, "ac")
    with pytest.raises(ConfigError, match=r"cropped by 'square'.*'ac'"):
        model.check_data(0.25, "square")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"state_names": NAMES[:3]}, "3 and 7 names.*7 and 7 axes"),
        ({"action_names": ("u", *NAMES[1:])}, r"\['u'\].*held"),
        ({"step_seconds": 0.0}, "takes time"),
        ({"tokens": "pooled"}, "1 x 1"),
        ({"predictor": replace(PREDICTOR, use_extrinsics=True)}, "extrinsics"),
    ],
)
def test_configs_that_contradict_themselves(changes: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        replace(CONFIG, **changes).build()  # pyright: ignore[reportArgumentType]


def test_what_does_not_fit() -> None:
    model = built(replace(CONFIG, predictor=replace(PREDICTOR, grid=(2, 4))))
    with pytest.raises(ConfigError, match=r"16 features of width 24.*grid of 2 x 4"):
        model.encode(video())
    model, features = built(), torch.zeros(2, 16, 24)
    with pytest.raises(ConfigError, match=r"looked at 2 frames.*2 states and 2 actions"):
        model.look(features, torch.zeros(2, 7), torch.zeros(2, 7))


@pytest.mark.parametrize(
    ("states", "actions", "told"),
    [
        ((2, 7), (2, 7), "looked at 3 frames .* not 2 states and 2 actions"),
        ((3, 7), (3, 7), "not 3 states and 3 actions"),
        ((3, 7), (2, 6), r"actions of shape \(2, 6\).* built for \(2, 7\)"),
        ((3, 6), (2, 7), r"states of shape \(2, 6\).* built for \(2, 7\)"),
    ],
)
def test_looking_takes_a_state_for_each_frame_and_an_action_between(
    states: tuple[int, int], actions: tuple[int, int], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        built().look(torch.zeros(3, 16, 24), torch.zeros(states), torch.zeros(actions))


@pytest.mark.parametrize(
    ("actions", "told"),
    [((4, 1, 6), r"actions of shape \(1, 6\).* built for \(1, 7\)"), ((4, 0, 7), "at least one")],
)
def test_candidates_of_other_axes_or_of_no_action(actions: tuple[int, int, int], told: str) -> None:
    model = built()
    context = model.look(torch.zeros(1, 16, 24), torch.zeros(1, 7), torch.zeros(0, 7))
    with pytest.raises(ConfigError, match=told):
        model.imagine(context, torch.zeros(actions))


@pytest.mark.parametrize(
    ("actions", "states", "told"),
    [
        ((2, 2, 7), (2, 3, 7), r"actions of shape \(2, 7\)"),
        ((2, 4, 7), (2, 3, 7), r"actions of shape \(4, 7\)"),
        ((2, 3, 6), (2, 3, 7), r"actions of shape \(3, 6\)"),
        ((2, 3, 7), (2, 2, 7), r"states of shape \(2, 7\)"),
    ],
)
def test_predicting_takes_an_action_and_a_state_for_each_frame(
    actions: tuple[int, int, int], states: tuple[int, int, int], told: str
) -> None:
    with pytest.raises(ConfigError, match=rf"{told}; for 3 frames .* built for \(3, 7\)"):
        built().predict(torch.zeros(2, 3, 16, 24), torch.zeros(actions), torch.zeros(states))


def test_another_number_of_heads_fits_strictly_and_is_refused(tmp_path: Path) -> None:
    """As ViT-g of 22 heads, whose weights load into 16 without a word."""
    model = built(replace(CONFIG, encoder=VJEPA))
    for value in model.encoder.parameters():
        value.mul_(5)  # as far from linear as trained weights are
    model.save_pretrained(tmp_path)
    other = replace(VJEPA, heads=4).build().eval()
    other.load_state_dict(model.encoder.state_dict(), strict=True)
    with pytest.raises(CheckpointError, match=r"features of another VJepa2: .* apart"):
        ActionWorldModel.from_pretrained(tmp_path, other)
    file = tmp_path / "encoder" / "config.json"
    file.write_text(file.read_text().replace('"heads": 2', '"heads": 4'))
    with pytest.raises(CheckpointError, match=r"its config\.json \(heads, rope\) or weights were"):
        ActionWorldModel.from_pretrained(tmp_path)


def test_the_published_model_fits_together() -> None:
    giant = VJepa2Config(dim=1408, depth=1, heads=22, mlp=6144, frames="each")
    with torch.device("meta"):
        model = vjepa2_ac(giant).build()
    assert model.config.predictor.grid == (16, 16)
    assert model.config.gripper == "closed_is_1"
    assert model.action_names == NAMES
    assert model.step_seconds == 0.25
