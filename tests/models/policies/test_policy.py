"""A whole policy: units in and out, which commands it learns, and what it is when loaded again."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saccade.data.windows import ChunkWindow
from saccade.errors import CheckpointError, ConfigError
from saccade.models.language import HashLanguageConfig
from saccade.models.policies.conditions import StateConditionConfig
from saccade.models.policies.flow import FlowHeadConfig
from saccade.models.policies.mixture import MixtureHeadConfig
from saccade.models.policies.policy import ImitationPolicy, ImitationPolicyConfig
from saccade.models.state_encoder import PretrainedStateEncoderConfig, StateEncoderConfig
from saccade.types import Policy
from tests.models.policies.helpers import (
    CHUNK,
    CONTRACT,
    ENCODER,
    MEAN,
    POLICY,
    STD,
    batch,
    policy_of,
    shown,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_policy_of_the_documents_has_their_sizes() -> None:
    """2,529,809 in phase 2 and 14,862,097 in all, with the target encoder and the temporal
    predictor of phase 1."""
    encoder = StateEncoderConfig(language=HashLanguageConfig())
    policy = ImitationPolicyConfig(condition=StateConditionConfig(encoder=encoder)).build()
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    assert trained == 2_529_809
    target, predictor = 5_256_960, 1_056_512
    total = sum(p.numel() for p in policy.parameters()) + target + predictor
    assert total == 14_862_097


def test_units_lead_back() -> None:
    policy, action = policy_of(), batch(6)["action"]
    inside = policy.normalise(action)
    torch.testing.assert_close(policy.denormalise(inside), action)
    torch.testing.assert_close(inside[..., :6], (action[..., :6] - MEAN[:6]) / STD[:6])


def test_a_gripper_is_open_at_1_outside_and_at_minus_1_inside() -> None:
    policy = policy_of()
    action = torch.zeros(2, 7)
    action[0, 6] = 1.0
    assert policy.normalise(action)[:, 6].tolist() == [-1.0, 1.0]
    inside = torch.zeros(2, 7)
    inside[:, 6] = torch.tensor([-1.0, 1.0])
    assert policy.denormalise(inside)[:, 6].tolist() == [1.0, 0.0]


def test_a_sure_classifier_closes_the_gripper() -> None:
    policy, seen = policy_of(), shown(batch(3))
    assert policy.head.gripper is not None
    bias = policy.head.gripper.get_parameter("4.bias")
    for logit, expected in ((100.0, 0.0), (-100.0, 1.0)):
        with torch.no_grad():
            bias.fill_(logit)
        assert (policy.act(seen)[..., 6] == expected).all()


def test_commands_are_in_the_units_of_the_data_and_not_clipped() -> None:
    policy, seen = policy_of(), shown(batch(3))
    before = policy.act(seen, seeded())
    policy.set_statistics(MEAN + 10, STD)
    torch.testing.assert_close(policy.act(seen, seeded())[..., :6], before[..., :6] + 10)
    assert before.shape == (3, CHUNK, 7)


def test_commands_are_a_function_of_the_generator() -> None:
    policy, seen = policy_of(), shown(batch(3))
    first = policy.act(seen, seeded())
    torch.manual_seed(5)
    assert torch.equal(policy.act(seen, seeded()), first)
    assert not torch.equal(policy.act(seen, seeded(1))[..., :6], first[..., :6])


def test_recorded_actions_stay_as_they_are() -> None:
    head = MixtureHeadConfig(width=16)
    policy, action = policy_of(replace(POLICY, head=head, actions="recorded")), batch(3)["action"]
    assert torch.equal(policy.normalise(action)[..., :6], action[..., :6])
    assert torch.equal(policy.normalise(action)[..., 6], 1 - 2 * action[..., 6])
    assert policy.act(shown(batch(3))).shape == (3, CHUNK, 7)
    with pytest.raises(ConfigError, match="cannot reach standardised"):
        replace(POLICY, head=head).build()
    replace(POLICY, head=replace(head, squash=False)).build()


def test_the_last_moment_learns_the_last_commands() -> None:
    window = ChunkWindow(history=3, stride=2, chunk=CHUNK, past_actions=True)
    clip = batch(4, window)
    assert clip["action"].shape[1] == 4 + CHUNK
    policy = policy_of(replace(POLICY, history=3))
    target = policy.target(clip)
    assert torch.equal(target.action, policy.normalise(clip["action"][:, 4:]))
    assert torch.equal(target.is_pad, clip["is_pad"][:, 4:])


def test_the_mask_of_the_clip_reaches_the_loss() -> None:
    policy, clip = policy_of(), batch(4)
    clip["is_pad"][:] = False
    clip["is_pad"][:, 1:] = True
    before = policy.losses(clip)
    clip["action"][:, 1:] = 0.5
    after = policy.losses(clip)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value)


def test_a_saved_policy_needs_no_phase_1_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ENCODER.build().save_pretrained(tmp_path / "phase1" / "state_encoder")
    pretrained = PretrainedStateEncoderConfig(folder=tmp_path / "phase1")
    config = replace(POLICY, condition=StateConditionConfig(encoder=pretrained))
    policy, seen = policy_of(config).eval(), shown(batch(3))
    policy.save_pretrained(tmp_path / "policy", config, "a card")
    shutil.rmtree(tmp_path / "phase1")
    loaded = Policy.from_pretrained(tmp_path / "policy")
    assert isinstance(loaded, ImitationPolicy)
    assert loaded.contract == CONTRACT
    assert torch.equal(loaded.act(seen, seeded()), policy.act(seen, seeded()))
    assert str(tmp_path) not in (tmp_path / "policy" / "config.json").read_text()


def test_a_policy_of_another_size_is_not_loaded(tmp_path: Path) -> None:
    policy = policy_of()
    policy.save_pretrained(tmp_path, policy.config)
    text = (tmp_path / "config.json").read_text()
    wider = text.replace('"steps": 4', '"steps": 5').replace('"depth": 2', '"depth": 1')
    (tmp_path / "config.json").write_text(wider)
    with pytest.raises(CheckpointError, match="left over"):
        Policy.from_pretrained(tmp_path)


def test_a_policy_without_statistics_or_contract_says_so(tmp_path: Path) -> None:
    policy = POLICY.build()
    for ask in (lambda: policy.losses(batch(2)), lambda: policy.act(shown(batch(2)))):
        with pytest.raises(ConfigError, match="call set_statistics"):
            ask()
    policy.set_statistics(MEAN, STD)
    assert set(policy.losses(batch(2))) == {"pos_rot_loss", "gripper_loss"}
    with pytest.raises(ConfigError, match="no contract"):
        policy.save_pretrained(tmp_path, policy.config)


def test_a_constant_axis_is_not_divided_by_nothing() -> None:
    policy = policy_of()
    policy.set_statistics(MEAN, torch.zeros(7))
    constant = MEAN.expand(2, 7)
    assert torch.equal(policy.normalise(constant)[..., :6], torch.zeros(2, 6))


def test_a_wrong_clip_is_refused() -> None:
    policy, clip = policy_of(), batch(2)
    with pytest.raises(ConfigError, match="3 commands"):
        policy.losses({**clip, "action": clip["action"][:, :3], "is_pad": clip["is_pad"][:, :3]})
    with pytest.raises(ConfigError, match="6 commands"):
        policy.losses(batch(2, ChunkWindow(chunk=6)))
    with pytest.raises(ConfigError, match="axes"):
        policy.losses({**clip, "action": clip["action"][..., :4]})
    with pytest.raises(ConfigError, match="2 moments"):
        policy.losses(batch(2, ChunkWindow(history=2, chunk=CHUNK)))
    with pytest.raises(ConfigError, match="statistics are of 4"):
        policy.set_statistics(MEAN[:4], STD[:4])


@pytest.mark.parametrize("field", ["chunk", "history"])
def test_a_policy_that_says_nothing_is_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=f"{field} (is )?0"):
        replace(POLICY, **{field: 0}).build()


def test_heads_of_other_samplers_survive_json(tmp_path: Path) -> None:
    head = FlowHeadConfig(backbone="unet1d", dim=16, depth=2, sampler="heun", steps=3)
    policy = policy_of(replace(POLICY, head=head))
    policy.save_pretrained(tmp_path, policy.config)
    loaded = Policy.from_pretrained(tmp_path)
    seen = shown(batch(2))
    assert torch.equal(loaded.act(seen, seeded()), policy.eval().act(seen, seeded()))
