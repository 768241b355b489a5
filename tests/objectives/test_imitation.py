"""Imitation: what is frozen stays, floors tell blindness, and looking and listening are learned."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saccade.checkpoint import load_weights
from saccade.data.windows import TransitionWindow
from saccade.errors import CheckpointError
from saccade.models.policies.conditions import StateConditionConfig
from saccade.models.policies.flow import FlowHeadConfig
from saccade.models.policies.mixture import MixtureHeadConfig, RegressionHeadConfig
from saccade.models.policies.policy import ImitationPolicyConfig
from saccade.models.state_encoder import PretrainedStateEncoderConfig
from saccade.objectives.imitation import Imitation, ImitationConfig, other_texts
from saccade.train import alarms
from saccade.train.optim import adamw
from saccade.types import Clip, Observation, Policy
from tests.contracts import check_objective
from tests.models.policies.helpers import (
    CHUNK,
    CONTRACT,
    ENCODER,
    POLICY,
    STATE,
    VISUAL,
    batch,
    set_statistics,
    shown,
)
from tests.objectives.helpers import moved_inputs

PLAIN = replace(POLICY, condition=VISUAL, head=RegressionHeadConfig(width=32))
CLONING = replace(
    POLICY, condition=VISUAL, head=MixtureHeadConfig(width=32, smallest_std=0.1), actions="recorded"
)


def built(config: ImitationPolicyConfig = POLICY, seed: int = 0) -> Imitation:
    torch.manual_seed(seed)
    objective = ImitationConfig(policy=config).build()
    set_statistics(objective.policy)
    objective.policy.contract = CONTRACT
    return objective


def trained(config: ImitationPolicyConfig, clips: Sequence[Clip], steps: int) -> Imitation:
    objective = built(config)
    optimizer = adamw(objective, 3e-3, 0.0, (0.9, 0.95))
    for group in optimizer.param_groups:
        group["lr"] = 3e-3
    for step in range(steps):
        clip = clips[step % len(clips)]
        loss, _ = objective({**clip, "key": clip["key"] + step})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(step + 1)
    return objective


@pytest.mark.parametrize(("config", "steps"), [(POLICY, 12), (PLAIN, 12), (CLONING, 20)])
def test_it_is_an_objective(config: ImitationPolicyConfig, steps: int) -> None:
    check_objective(built(config), batch(4), steps)


def test_only_a_flow_is_shown_its_target() -> None:
    clip = batch(6)
    hidden = built().without_target(clip)
    assert torch.equal(hidden["action"][..., 6], 1 - clip["action"][..., 6])
    assert moved_inputs(built(), clip) == {"noised"}
    assert moved_inputs(built(CLONING), clip) == set()


def test_the_frame_of_a_goal_is_a_target() -> None:
    config = replace(POLICY, condition=replace(STATE, use="z_and_goal"))
    objective, clip = built(config), batch(4, TransitionWindow(gap=CHUNK))
    hidden = objective.without_target(clip)
    assert torch.equal(hidden["video"][:, :1], clip["video"][:, :1])
    assert torch.equal(hidden["video"][:, 1], 255 - clip["video"][:, 1])
    assert torch.equal(hidden["state"][:, 0], clip["state"][:, 0])
    assert (hidden["state"][:, 1] != clip["state"][:, 1]).any()
    inputs, blind = objective.inputs(clip), objective.inputs(hidden)
    assert torch.equal(inputs["condition"], blind["condition"])
    assert not alarms.leak(objective, clip)


def test_no_module_is_dead_and_each_term_is_named() -> None:
    objective, clip = built(), batch(6)
    found, norms = alarms.dead_gradients(objective, clip, "error")
    assert not found
    assert {name.split("/")[-1] for name in norms} == {"pos_rot_loss", "gripper_loss"}
    loss, scalars = objective(clip)
    torch.testing.assert_close(loss.detach(), scalars["pos_rot_loss"] + scalars["gripper_loss"])


def test_the_encoder_is_the_same_before_and_after() -> None:
    before = built()
    after = trained(POLICY, [batch(6)], steps=3)
    after.train()
    assert before.frozen_digest() == after.frozen_digest()
    assert all(p.grad is None for p in after.policy.condition.parameters())
    assert not after.policy.condition.get_submodule("encoder").training
    head = torch.cat([p.flatten() for p in after.policy.head.parameters()])
    assert not torch.equal(head, torch.cat([p.flatten() for p in before.policy.head.parameters()]))


def test_looking_and_listening_are_learned() -> None:
    """A loss that is no higher with others' observations is what a blind policy has.

    Here the place of the hand decides about x, and the instruction about y.
    """
    config = replace(
        POLICY,
        condition=replace(VISUAL, without=("vision",)),
        head=FlowHeadConfig(backbone="transformer", dim=32, depth=1, heads=2),
    )
    clip = batch(32)
    text = clip["text"]
    clip["action"][..., 0] = 3 * (clip["state"][:, :, 0] - 0.5)
    clip["action"][..., 1] = torch.tensor([-1.0 if "red" in each else 1.0 for each in text])[
        :, None
    ]
    objective = trained(config, [clip], steps=60).eval()
    with torch.no_grad():
        loss, floors = objective(clip)[0], objective.baselines(clip)
    assert loss < 0.8 * floors["mean_action"]
    assert floors["other_observations"] > 1.2 * loss
    assert floors["other_instruction"] > 1.2 * loss
    seen = shown(clip)
    told: Observation = {**seen, "text": other_texts(seen["text"])}
    right, wrong = (
        objective.policy.act(each, torch.Generator().manual_seed(0)) for each in (seen, told)
    )
    agree = (right[..., 1] * clip["action"][..., 1] > 0).float().mean()
    contrary = (wrong[..., 1] * clip["action"][..., 1] < 0).float().mean()
    assert agree > 0.9
    assert contrary > 0.9


def test_a_blind_policy_cannot_tell_whose_observation_it_is_shown() -> None:
    objective, clip = built(), batch(6)
    with torch.no_grad():
        for name in ("condition.weight", "condition.bias"):
            objective.policy.head.get_parameter(f"velocity.{name}").zero_()
    terms = objective.policy.losses(clip)
    others: Observation = {**shown(clip), "video": clip["video"].roll(1, 0)}
    assert objective.policy.losses(clip, others)["pos_rot_loss"] == terms["pos_rot_loss"]


def test_floors_are_positive_and_without_gradient_through_seeing() -> None:
    objective, clip = built(), batch(6)
    floors = objective.baselines(clip)
    assert list(floors) == ["mean_action", "other_observations", "other_instruction"]
    assert all(value.isfinite() and value > 0 for value in floors.values())
    alone = objective.baselines(batch(1))
    assert alone["other_observations"] == objective(batch(1))[0]


def test_others_are_told_something_else() -> None:
    assert other_texts(["a", "b", "a", "c"]) == ["b", "c", "b", "a"]
    assert other_texts(["a", "a"]) == ["a", "a"]


def test_a_policy_is_what_outlives_training(tmp_path: Path) -> None:
    objective, seen = built().eval(), shown(batch(3))
    assert objective.reads().image_size == 32
    assert objective.exports() == {}
    assert objective.save_exports(tmp_path, "card", 7) == {"policy": tmp_path / "policy"}
    loaded = Policy.from_pretrained(tmp_path / "policy")
    acts = [p.act(seen, torch.Generator().manual_seed(0)) for p in (objective.policy, loaded)]
    assert torch.equal(*acts)


def test_a_checkpoint_leaves_to_the_folder_what_it_has(tmp_path: Path) -> None:
    for seed, name in ((0, "phase1"), (1, "other")):
        torch.manual_seed(seed)
        ENCODER.build().save_pretrained(tmp_path / name)
    pretrained = PretrainedStateEncoderConfig(folder=tmp_path / "phase1")
    config = replace(POLICY, condition=StateConditionConfig(encoder=pretrained))
    first = built(config)
    state = first.state_dict()
    assert not any(".encoder." in name for name in state)
    assert any(".encoder." in name for name in built().state_dict()), "a fresh one is nowhere else"

    second = built(config, seed=9)
    load_weights(second, {name: value.clone() for name, value in state.items()}, "a checkpoint")
    clip = batch(3)
    assert torch.equal(second(clip)[0], first(clip)[0])

    (tmp_path / "phase1" / "model.safetensors").write_bytes(
        (tmp_path / "other" / "model.safetensors").read_bytes()
    )
    with pytest.raises(CheckpointError, match="folder that they were loaded from has changed"):
        load_weights(built(config), state, "a checkpoint")
