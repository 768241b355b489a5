"""The condition that compares encoders: what it sees, in which order of time, and what it saves."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from saccade.config import to_dict
from saccade.data.windows import ChunkWindow
from saccade.errors import ConfigError, DataError
from saccade.models.policies.mixture import MixtureHeadConfig
from saccade.models.policies.policy import ImitationPolicyConfig
from saccade.models.policies.visual import SENSES, Sense, VisualCondition, VisualConditionConfig
from saccade.models.pretrained import PretrainedConfig
from saccade.models.vit import ViTConfig
from saccade.types import Observation, Policy
from tests.models.policies.helpers import EYES, VISUAL, batch, policy_of, shown

HISTORY = 3
SEEN = ChunkWindow(history=HISTORY, chunk=1)


def built(config: VisualConditionConfig = VISUAL) -> VisualCondition:
    torch.manual_seed(0)
    condition = config.build()
    condition.set_statistics(torch.full((4,), 0.5), torch.full((4,), 0.25))
    return condition.eval()


def observation() -> Observation:
    return shown(batch(4, SEEN), HISTORY)


@pytest.mark.parametrize("summary", ["attention", "keypoints", "pool"])
def test_every_summary_sees_pictures_and_learns(
    summary: Literal["attention", "keypoints", "pool"],
) -> None:
    condition, seen = built(replace(VISUAL, summary=summary)), observation()
    z = condition(seen).z
    assert z.shape == (4, condition.dim)
    for view in range(2):
        video = seen["video"].clone()
        video[:, -1, view] = 255 - video[:, -1, view]
        assert not torch.allclose(condition({**seen, "video": video}).z, z, atol=1e-4)
    z.square().sum().backward()
    learned = {n for n, p in condition.named_parameters() if p.requires_grad}
    grads = {n: condition.get_parameter(n).grad for n in learned}
    assert not {n for n, grad in grads.items() if grad is None or not grad.any()}
    assert not any(name.startswith("encoder.") for name in learned)


def test_moments_are_blind_to_later_ones() -> None:
    condition, seen = built(), observation()
    every = condition.every(seen)
    video, state = seen["video"].clone(), seen["state"].clone()
    video[:, 2] = 255 - video[:, 2]
    state[:, 2] += 1
    other = condition.every({**seen, "video": video, "state": state})
    torch.testing.assert_close(other[:, :2], every[:, :2])
    assert not torch.allclose(other[:, 2], every[:, 2], atol=1e-3)
    torch.testing.assert_close(condition(seen).z, every[:, -1])
    earlier = seen["video"].clone()
    earlier[:, 0] = 255 - earlier[:, 0]
    assert not torch.allclose(condition({**seen, "video": earlier}).z, every[:, -1], atol=1e-4)


def test_state_and_instruction_matter() -> None:
    condition, seen = built(), observation()
    z = condition(seen).z
    told: Observation = {**seen, "text": ["something else"] * 4}
    assert not torch.allclose(condition(told).z, z, atol=1e-4)
    felt: Observation = {**seen, "state": seen["state"] + 0.1}
    assert not torch.allclose(condition(felt).z, z, atol=1e-4)


@pytest.mark.parametrize("sense", SENSES)
def test_a_sense_can_be_taken_away(sense: Sense) -> None:
    condition, seen = built(replace(VISUAL, without=(sense,))), observation()
    z = condition(seen).z
    changed: dict[str, Observation] = {
        "vision": {**seen, "video": 255 - seen["video"]},
        "state": {**seen, "state": seen["state"] + 1},
        "language": {**seen, "text": ["something else"] * 4},
    }
    for name, other in changed.items():
        assert torch.allclose(condition(other).z, z, atol=1e-5) == (name == sense)


def test_an_encoder_of_clips_is_shown_one_frame_as_often_as_it_needs() -> None:
    pairs = ViTConfig(image_size=32, num_frames=2, patch=8, dim=24, depth=1, heads=2)
    condition, seen = built(replace(VISUAL, encoder=pairs, summary="pool")), observation()
    frames = seen["video"][:, 0, 0]
    expected = condition.encoder.pool(condition.encoder(frames[:, None].expand(-1, 2, -1, -1, -1)))
    torch.testing.assert_close(condition.look(seen["video"][:, :, 0])[:, 0, 0], expected)
    assert condition.preprocessing.num_frames == 1


def test_an_encoder_can_be_trained_too() -> None:
    condition = built(replace(VISUAL, frozen=False))
    condition(observation()).z.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in condition.encoder.parameters())
    assert condition.frozen == ("language",)


def test_behaviour_cloning_learns_from_every_moment_and_is_saved_whole(tmp_path: Path) -> None:
    """LIBERO's policy: a mixture after each moment, over an encoder that some run has trained."""
    EYES.build().save_pretrained(tmp_path / "encoder", EYES)
    config = ImitationPolicyConfig(
        condition=replace(VISUAL, encoder=PretrainedConfig(folder=tmp_path / "encoder")),
        head=MixtureHeadConfig(width=32),
        chunk=1,
        history=HISTORY,
        actions="recorded",
        supervise="every",
    )
    policy = policy_of(config)
    assert policy.condition.kept_elsewhere
    clip = batch(4, replace(SEEN, past_actions=True))
    condition, target = policy.told(policy.observe(clip)), policy.target(clip)
    assert condition.z.shape == (12, 32)
    assert target.action.shape == (12, 1, 7)
    inside = policy.normalise(clip["action"])
    for moment in range(HISTORY):
        assert torch.equal(target.action.view(4, HISTORY, 1, 7)[:, moment, 0], inside[:, moment])
    assert len(target.key.unique()) == 12
    assert set(policy.losses(clip)) == {"action_loss"}
    with pytest.raises(ConfigError, match="since the oldest moment"):
        policy.losses(batch(4, SEEN))
    with pytest.raises(ConfigError, match="give state_mean"):
        policy.set_statistics(torch.zeros(7), torch.ones(7))
    policy.save_pretrained(tmp_path / "policy", config)
    assert str(tmp_path) not in str(to_dict(policy.config))
    (tmp_path / "encoder" / "model.safetensors").unlink()
    loaded = Policy.from_pretrained(tmp_path / "policy")
    acts = [
        p.eval().act(policy.observe(clip), torch.Generator().manual_seed(0))
        for p in (policy, loaded)
    ]
    assert torch.equal(*acts)


def test_faults(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="every sense"):
        replace(VISUAL, without=SENSES).build()
    with pytest.raises(ConfigError, match="multiple of heads"):
        replace(VISUAL, heads=5).build()
    EYES.build().save_pretrained(tmp_path, EYES)
    loaded = replace(VISUAL, encoder=PretrainedConfig(folder=tmp_path), frozen=False)
    with pytest.raises(ConfigError, match="the ViT can learn nothing: set its trainable"):
        loaded.build()
    replace(loaded, encoder=PretrainedConfig(folder=tmp_path, trainable=True)).build()
    seen = observation()
    with pytest.raises(DataError, match="choose its cameras"):
        built(replace(VISUAL, cameras=1, without=()))(seen)
