"""The state of a phase-1 encoder as a condition: frozen, closer looks, goals."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saccade.config import from_dict, to_dict
from saccade.data.windows import TransitionWindow
from saccade.errors import CheckpointError, ConfigError
from saccade.models.policies.conditions import StateConditionConfig
from saccade.models.state_encoder import PretrainedStateEncoderConfig
from tests.models.policies.helpers import (
    CHUNK,
    ENCODER,
    POLICY,
    STATE,
    batch,
    policy_of,
    shown,
)


def test_the_condition_is_the_state_of_the_encoder() -> None:
    condition, seen = STATE.build(), shown(batch(3))
    z = condition(seen).z
    assert z.shape == (3, condition.dim) == (3, 32)
    assert torch.equal(z, condition.encoder(seen))
    assert not z.requires_grad


def test_a_frozen_encoder_has_no_gradient_and_stays_in_evaluation_mode() -> None:
    frozen, free = STATE.build(), replace(STATE, frozen=False).build()
    for condition in (frozen, free):
        condition.train()
    assert not frozen.encoder.training
    assert not any(p.requires_grad for p in frozen.parameters())
    assert free.encoder.training
    assert free(shown(batch(3))).z.requires_grad
    assert frozen.frozen_digest() != free.frozen_digest(), "nothing of the other is frozen"


def test_a_digest_notices_any_weight() -> None:
    condition = STATE.build()
    before = condition.frozen_digest()
    assert condition.frozen_digest() == before
    with torch.no_grad():
        condition.encoder.tokeniser.cls[0, 0] += 1e-3
    assert condition.frozen_digest() != before


def test_tokens_are_all_that_the_encoder_has() -> None:
    condition, seen = replace(STATE, use="tokens").build(), shown(batch(3))
    found = condition(seen)
    assert found.tokens is not None
    assert found.tokens.shape == (3, 2 + 2 * 16 + 1, condition.token_dim)
    assert torch.equal(found.tokens, condition.encoder.tokens(seen))
    policy = policy_of(replace(POLICY, condition=replace(STATE, use="tokens")))
    assert policy.act(seen).shape == (3, CHUNK, 7)


def test_a_goal_is_the_state_of_a_later_frame() -> None:
    config = replace(POLICY, condition=replace(STATE, use="z_and_goal"), goal_weight=2.0)
    policy, clip = policy_of(config), batch(4, TransitionWindow(gap=CHUNK))
    assert policy.condition.dim == 64
    terms = policy.losses(clip)
    told = policy.condition(policy.observe(clip))
    target = policy.condition(policy.later(clip)).z[:, :32]
    assert told.goal is not None
    expected = 2 * (told.goal - target).square().mean()
    torch.testing.assert_close(terms["goal_loss"], expected)
    assert torch.equal(told.z[:, 32:], told.goal)
    learns = torch.autograd.grad(
        terms["goal_loss"], list(policy.condition.parameters())[-1:], retain_graph=True
    )
    assert learns[0].any()
    head = torch.autograd.grad(
        terms["pos_rot_loss"], list(policy.condition.parameters())[-1:], allow_unused=True
    )
    assert head == (None,), "the goal head learns to predict, not to please the policy"
    assert policy.floors(clip) > 0
    assert policy.act(policy.observe(clip)).shape == (4, CHUNK, 7)
    with pytest.raises(ConfigError, match="a later one"):
        policy.losses(batch(4))


def test_a_phase_1_folder_is_loaded_and_not_needed_afterwards(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = ENCODER.build().eval()
    encoder.save_pretrained(tmp_path / "state_encoder")
    config = StateConditionConfig(encoder=PretrainedStateEncoderConfig(folder=tmp_path))
    condition, seen = config.build(), shown(batch(2))
    assert condition.kept_elsewhere
    assert torch.equal(condition(seen).z, encoder(seen))
    assert str(tmp_path) not in str(to_dict(condition.config))
    again = from_dict(to_dict(condition.config)).build()
    again.load_state_dict(condition.state_dict())
    assert torch.equal(again(seen).z, encoder(seen))


def test_states_are_standardised_by_what_the_encoder_was_trained_with(tmp_path: Path) -> None:
    mean, std = torch.full((4,), 0.5), torch.full((4,), 0.25)
    fresh = StateConditionConfig(encoder=replace(ENCODER, standardise_state=True)).build()
    fresh.set_statistics(mean, std)
    assert torch.equal(fresh.encoder.state_mean, mean)
    fresh.encoder.save_pretrained(tmp_path)
    loaded = StateConditionConfig(encoder=PretrainedStateEncoderConfig(folder=tmp_path)).build()
    loaded.set_statistics(mean + 1, std + 1)
    assert torch.equal(loaded.encoder.state_mean, mean)


def test_a_loaded_encoder_can_be_trained_on(tmp_path: Path) -> None:
    ENCODER.build().save_pretrained(tmp_path)
    pretrained = PretrainedStateEncoderConfig(folder=tmp_path)
    condition = StateConditionConfig(encoder=pretrained, frozen=False).build().train()
    condition(shown(batch(3))).z.square().mul(torch.arange(32)).sum().backward()
    idle = [n for n, p in condition.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


def test_faults(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set frozen"):
        replace(STATE, use="z_and_goal", frozen=False).build()
    with pytest.raises(ConfigError, match="looks at the last moment only"):
        STATE.build().every(shown(batch(2)))
    policy = policy_of()
    policy.save_pretrained(tmp_path, policy.config)
    with pytest.raises(CheckpointError, match="ImitationPolicy, not the state encoder"):
        StateConditionConfig(encoder=PretrainedStateEncoderConfig(folder=tmp_path)).build()
