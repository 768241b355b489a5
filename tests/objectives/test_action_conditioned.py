"""The losses are the official ones, compare each prediction with the next frame, and need both."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.data.windows import ClipWindow, PairWindow, TransitionWindow
from saccade.errors import ConfigError
from saccade.models.lora import LoraConfig
from saccade.models.vit import ViTConfig
from saccade.models.vjepa2.predictor import ActionPredictorConfig
from saccade.models.world_model import (
    ActionWorldModelConfig,
)
from saccade.objectives.action_conditioned import (
    ActionConditioned,
    ActionConditionedConfig,
    Sample,
    between_frames,
    distance,
    rollout,
)
from saccade.types import Clip
from tests.contracts import check_objective
from tests.fixtures.vjepa2.predictor import CASES, EXPONENT, ROLLOUT, inputs, stored, weights
from tests.objectives.helpers import batch, clip_batch, moved_inputs

AXES = ("x", "y", "z", "gripper")
VIT = ViTConfig(image_size=32, patch=8, dim=24, depth=1, heads=2)
PREDICTOR = ActionPredictorConfig(
    grid=(4, 4),
    feature_dim=24,
    dim=32,
    depth=2,
    heads=2,
    mlp=64,
    state_size=4,
    action_size=4,
)
WORLD = ActionWorldModelConfig(
    encoder=VIT,
    predictor=PREDICTOR,
    step_seconds=0.1,
    crop="square",
    gripper="open_is_1",
    state_names=AXES,
    action_names=AXES,
)
TINY = ActionConditionedConfig(model=WORLD)
LORA = LoraConfig(rank=4)


def built(config: ActionConditionedConfig = TINY) -> ActionConditioned:
    torch.manual_seed(0)
    return config.build()


def over(case: str, **options: object) -> tuple[ActionConditioned, Sample]:
    """Train a predictor whose official outputs are stored."""
    predictor = CASES[case]
    poses = ActionWorldModelConfig(
        encoder=replace(VIT, dim=predictor.feature_dim), predictor=predictor, step_seconds=0.25
    )
    objective = built(replace(ActionConditionedConfig(model=poses), **options))
    objective.model.predictor.load_state_dict(weights(objective.model.predictor))
    given = inputs(predictor)
    return objective, Sample(given["features"], given["action"][:, :-1], given["state"])


@pytest.fixture(scope="module")
def tiny(shared_data: Path) -> tuple[ActionConditioned, Sample, dict[str, np.ndarray]]:
    """Read the weights, features and losses that the official modules gave."""
    official = dict(np.load(shared_data / "vjepa2_ac" / "tiny_official_vjepa2ac.npz"))
    predictor = ActionPredictorConfig(
        grid=(4, 4), feature_dim=128, dim=128, depth=2, heads=2, mlp=512
    )
    poses = ActionWorldModelConfig(
        encoder=replace(VIT, dim=128), predictor=predictor, step_seconds=0.25
    )
    objective = built(ActionConditionedConfig(model=poses))
    loaded = {k[5:]: torch.from_numpy(v) for k, v in official.items() if k.startswith("pred/")}
    objective.model.predictor.load_state_dict(loaded)
    state = torch.from_numpy(official["states"])
    action = objective.model.measured(state[:, :-1], state[:, 1:]).float()
    features = torch.from_numpy(official["h"]).view(1, 4, 16, 128)
    return objective, Sample(features, action, state.float()), official


def same(found: Tensor, expected: np.ndarray | float) -> None:
    assert found.item() == pytest.approx(float(expected), abs=1e-5)


def test_contract() -> None:
    check_objective(built(), clip_batch(4))


@pytest.mark.parametrize(
    "options",
    [
        {"actions": "recorded"},
        {"auto_steps": 3, "rollout_states": "composed", "truncate": True, "exponent": 2.0},
        {"rollout_weight": 0.0},
    ],
)
def test_contract_with_other_options(options: dict[str, object]) -> None:
    check_objective(built(replace(TINY, **options)), clip_batch(4))


def test_no_target_is_an_input() -> None:
    assert moved_inputs(built(), clip_batch(4)) == set()


def test_official_losses(
    tiny: tuple[ActionConditioned, Sample, dict[str, np.ndarray]],
) -> None:
    objective, sample, official = tiny
    terms = objective.terms_from_features(*sample)
    assert list(terms) == ["teacher_forcing", "rollout"]
    same(terms["teacher_forcing"], official["loss_tf"])
    same(terms["rollout"], official["loss_ar_fixed"])


def test_the_released_defect_is_not_ours(
    tiny: tuple[ActionConditioned, Sample, dict[str, np.ndarray]],
) -> None:
    """Negative control: the second slot held the prediction of frame 3, compared with frame 2."""
    objective, (features, action, state), official = tiny
    model = objective.model
    forced = model.predict(features[:, :-1], action, state[:, :-1])
    context = torch.cat([features[:, :1], forced[:, 1:2]], 1)
    following = model.predict(context, action[:, :2], state[:, :2])[:, -1:]
    defect = distance(torch.cat([forced[:, 1:2], following], 1), features[:, 1:3], 1.0)
    same(defect, official["loss_ar_released_bug"])
    ours = objective.terms_from_features(features, action, state)["rollout"]
    assert abs(ours.item() - defect.item()) > 1e-3


@pytest.mark.parametrize("case", ["heads", "wide", "tall"])
def test_longer_rollouts_with_another_exponent(case: str) -> None:
    objective, sample = over(case, auto_steps=ROLLOUT, exponent=EXPONENT)
    terms = objective.terms_from_features(*sample)
    same(terms["teacher_forcing"], stored()[f"{case}/teacher"])
    same(terms["rollout"], stored()[f"{case}/rollout"])


def test_weights_and_one_step() -> None:
    """One step of rollout is the first prediction of teacher forcing."""
    objective, sample = over("wide", auto_steps=1, rollout_weight=0.5, teacher_weight=2.0)
    terms = objective.terms_from_features(*sample)
    features, action, state = sample
    forced = objective.model.predict(features[:, :-1], action, state[:, :-1])
    same(terms["teacher_forcing"], 2 * (forced - features[:, 1:]).abs().mean().item())
    same(terms["rollout"], 0.5 * (forced[:, 0] - features[:, 1]).abs().mean().item())
    alone = over("wide", rollout_weight=0.0)[0].terms_from_features(*sample)
    assert list(alone) == ["teacher_forcing"]


def test_distance_by_hand() -> None:
    predicted, target = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    assert distance(predicted, target, 1.0).item() == 1.5
    assert distance(predicted, target, 2.0).item() == 1.25


def test_truncation_stops_the_gradient_and_nothing_else() -> None:
    objective, sample = over("wide")
    slopes, losses = [], []
    for truncate in (False, True):
        first = sample.features[:, 1].clone().requires_grad_()
        unrolled = rollout(objective.model, sample, first, 2, truncate=truncate)
        (slope,) = torch.autograd.grad(unrolled[:, 1].square().sum(), first)
        slopes.append(slope)
        losses.append(unrolled)
    assert torch.equal(losses[0], losses[1])
    assert slopes[0].any()
    assert not slopes[1].any()


def test_composed_states_are_those_that_the_actions_lead_to() -> None:
    """With measured actions both are the same, as long as no Euler angle is ambiguous."""
    objective, (features, _, state) = over("wide")
    state = state * torch.tensor([1.0, 1, 1, 0.3, 0.3, 0.3, 1])
    model = objective.model
    action = model.measured(state[:, :-1], state[:, 1:])
    sample, first = Sample(features, action, state), features[:, 1]
    measured, composed = (rollout(model, sample, first, 3, composed=c) for c in (False, True))
    torch.testing.assert_close(measured, composed, rtol=0, atol=1e-4)
    other = sample._replace(action=action * 0.5)
    assert not torch.allclose(
        rollout(model, other, first, 3), rollout(model, other, first, 3, composed=True)
    )


def test_unshifted_loss_learns_to_ignore_the_action() -> None:
    """Negative control: a predictor that copies its input is perfect by it, and poor by ours."""
    objective, clip = built(), clip_batch(4)
    features = objective.sample(clip).features
    copied = features[:, :-1]
    assert distance(copied, features[:, :-1], 1.0) == 0
    ours = objective.baselines(clip)["copy"]
    follow = distance(copied, features[:, 1:], 1.0)
    unroll = distance(features[:, :1].expand(-1, 2, -1, -1), features[:, 1:3], 1.0)
    assert follow > 0.01
    torch.testing.assert_close(ours, follow + unroll)


def test_cached_features_give_the_same_loss() -> None:
    objective, clip = built(), clip_batch(4)
    features = objective.model.encode(clip["video"][:, :, 0]).clone()
    state = objective.state(clip)
    terms = objective.terms_from_features(features, objective.action(clip, state), state)
    for name, value in objective.terms(clip).items():
        assert torch.equal(value, terms[name])


def test_measured_actions_are_differences_of_states() -> None:
    clip = clip_batch(4)
    objective = built()
    expected = clip["state"].diff(dim=1)
    torch.testing.assert_close(objective.action(clip, objective.state(clip)), expected)
    closed = built(replace(TINY, model=replace(WORLD, gripper="closed_is_1")))
    found = closed.action(clip, closed.state(clip))
    torch.testing.assert_close(found, expected * torch.tensor([1.0, 1, 1, -1]))
    torch.testing.assert_close(closed.state(clip)[..., 3], 1 - clip["state"][..., 3])


def test_recorded_commands_are_summed_between_frames() -> None:
    clip = clip_batch(4)
    torch.testing.assert_close(between_frames(clip), clip["action"][:, :3])
    pair = batch(TransitionWindow(gap=3))
    torch.testing.assert_close(between_frames(pair), pair["action"].sum(1, keepdim=True))
    video, commands = pair["video"][:, [0, 0, 1]], torch.arange(32.0).view(4, 4, 2)
    made: Clip = {**pair, "video": video, "action": commands, "gap": torch.full((4,), 4)}
    expected = torch.tensor([[0.0 + 2, 1 + 3], [4 + 6, 5 + 7]])
    assert torch.equal(between_frames(made)[0], expected)


@pytest.mark.parametrize("window", [ClipWindow(num_frames=4, stride=2), PairWindow(max_gap=3)])
def test_commands_that_are_not_there(window: ClipWindow | PairWindow) -> None:
    with pytest.raises(ConfigError, match="takes all of them"):
        between_frames(batch(window))


def test_shuffled_actions_are_those_of_the_next_sample() -> None:
    objective, clip = built(), clip_batch(4)
    features, action, state = objective.sample(clip)
    others = torch.cat([action[-1:], action[:-1]])
    expected = sum(objective.terms_from_features(features, others, state).values())
    torch.testing.assert_close(objective.shuffled(clip), expected)
    one = batch(ClipWindow(num_frames=4), size=1)
    assert objective.shuffled(one) != objective(one)[0]
    control = built(replace(TINY, actions="shuffled"))  # learns from nothing else
    assert torch.equal(control(clip)[0], objective.shuffled(clip))
    with pytest.raises(ConfigError, match="other samples"):
        control(one)


def test_training_makes_the_actions_matter() -> None:
    """Each action switches the light on or off: only who reads it knows what comes next."""
    predictor = replace(PREDICTOR, grid=(2, 1))
    world = replace(WORLD, predictor=predictor)
    objective = built(replace(TINY, model=world, rollout_weight=0.0))
    generator = torch.Generator().manual_seed(0)
    looks = F.layer_norm(torch.randn(2, 2, 24, generator=generator), (24,))

    def moves(count: int) -> Sample:
        light = torch.randint(0, 2, (count, 4), generator=generator)
        action = torch.zeros(count, 3, 4)
        action[..., 0] = light[:, 1:] - 0.5
        return Sample(looks[light], action, torch.zeros(count, 4, 4))

    def loss(sample: Sample) -> Tensor:
        return torch.stack(list(objective.terms_from_features(*sample).values())).sum()

    adam = torch.optim.Adam(objective.model.predictor.parameters(), lr=5e-3)
    for _ in range(60):
        adam.zero_grad()
        loss(moves(64)).backward()
        adam.step()
    held_out = moves(256)
    mixed = held_out._replace(action=held_out.action.roll(1, 0))
    copy = distance(held_out.features[:, :-1], held_out.features[:, 1:], 1.0)
    assert loss(held_out) < 0.5 * copy
    assert loss(mixed) > 1.5 * loss(held_out)


def test_the_encoder_is_not_trained_and_not_exported() -> None:
    objective = built().train()
    assert objective.exports() == {}
    assert not objective.model.encoder.training
    named = [name for name, p in objective.named_parameters() if p.requires_grad]
    assert all(name.startswith("model.predictor.") for name in named)


def test_features_in_half_precision_under_autocast() -> None:
    objective, sample = over("wide")
    exact = objective.terms_from_features(*sample)
    with torch.autocast("cpu", torch.bfloat16):
        terms = objective.terms_from_features(sample.features.bfloat16(), *sample[1:])
    for name, value in terms.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(exact[name].item(), rel=0.01)


@pytest.mark.parametrize(
    ("options", "frames", "told"),
    [
        ({"auto_steps": 4}, 4, "4 steps needs as many actions, the clip has 3"),
        ({}, 2, "2 steps needs as many actions, the clip has 1"),
    ],
)
def test_clips_that_are_too_short(options: dict[str, int], frames: int, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        built(replace(TINY, **options))(clip_batch(frames))


def test_options_that_cannot_be() -> None:
    for wrong in ({"auto_steps": 0}, {"exponent": 0.0}):
        with pytest.raises(ConfigError, match="positive"):
            replace(TINY, **wrong).build()
    commands = replace(WORLD, action_names=("a", "b", "c", "d"), states="held")
    with pytest.raises(ConfigError, match="recorded actions and measured states"):
        replace(TINY, model=commands).build()
    replace(TINY, model=commands, actions="recorded").build()
    one, short = batch(ClipWindow(num_frames=2), size=1), built(replace(TINY, auto_steps=1))
    with pytest.raises(ConfigError, match="one action cannot be shuffled"):
        short.shuffled(one)


def test_states_of_another_data_set_are_refused() -> None:
    clip = clip_batch(4)
    wrong: Clip = {**clip, "state": clip["state"][..., :3]}
    with pytest.raises(ConfigError, match="3 axes, but 4 names"):
        built()(wrong)


@pytest.mark.parametrize(
    ("actions", "states", "told"),
    [
        (2, 4, r"actions of shape \(2, 4\); for 3 frames"),
        (4, 4, r"actions of shape \(4, 4\); for 3 frames"),
        (3, 3, r"states of shape \(2, 4\); for 3 frames"),
    ],
)
def test_actions_and_states_of_another_length_are_refused(
    actions: int, states: int, told: str
) -> None:
    features = torch.zeros(2, 4, 16, 24)
    with pytest.raises(ConfigError, match=told):
        built().terms_from_features(features, torch.zeros(2, actions, 4), torch.zeros(2, states, 4))


def test_a_clip_with_too_few_states_is_refused() -> None:
    clip = clip_batch(4)
    with pytest.raises(ConfigError, match=r"actions of shape \(2, 4\); for 3 frames"):
        built()({**clip, "state": clip["state"][:, :3]})


def test_the_loss_with_others_actions_is_told_beside_the_copy() -> None:
    objective, clip = built(), clip_batch(4)
    found = objective.baselines(clip)
    assert list(found) == ["copy", "shuffled_actions"]
    assert torch.equal(found["shuffled_actions"], objective.shuffled(clip))
