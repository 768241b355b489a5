"""Parity is with transformers' own PI0ForConditionalGeneration, with the same weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from saccade.checkpoint import load_weights, write_atomic, write_weights
from saccade.errors import CheckpointError, ConfigError
from saccade.models.vit import ViTConfig
from saccade.types import Clip, Contract, Policy
from saccade.vla.imitation import PretrainedVlaConfig, VlaImitationConfig
from saccade.vla.pi0 import Pi0
from saccade.vla.policy import OPENVLA_LORA, AdaptConfig
from saccade.vla.prompts import unpack
from saccade.vla.published_pi0 import (
    OURS,
    SMALL_ROWS,
    PublishedPi0Config,
    SmallPi0Config,
    ours,
)
from saccade.vla.swap import SwapConfig, swap
from tests.vla.test_swap import pictures

SIDE = 28
SMALL = SmallPi0Config(
    texts=("open the drawer", "close the door"),
    dim=32,
    depth=2,
    patch=14,
    image_size=SIDE,
    chunk=5,
    cameras=2,
)
ENCODER = ViTConfig(image_size=32, num_frames=2, tubelet=2, patch=8, dim=24, depth=1, heads=2)
CONTRACT = Contract(
    cameras=("front", "wrist"),
    frame_size=(SIDE, SIDE),
    image_size=SIDE,
    state_names=("x", "y", "z", "gripper"),
    action_names=("x", "y", "z", "rx", "ry", "rz", "gripper"),
    fps=20.0,
    chunk=5,
)


def network(seed: int = 0) -> Any:
    from transformers.models.pi0.modeling_pi0 import PI0ForConditionalGeneration

    torch.manual_seed(seed)
    return PI0ForConditionalGeneration(SMALL.settings()).eval()


def filled(whole: Any) -> Pi0:
    found = SMALL.build()
    own = {k: v for k, v in found.state_dict().items() if k.startswith(OURS)}
    load_weights(found, own | ours(whole.state_dict()), "transformers", assign=True)
    return known(found)


def known(found: Pi0) -> Pi0:
    found.actions.set(torch.full((7,), 0.1), torch.full((7,), 2.0))
    found.states.set(torch.zeros(4), torch.ones(4))
    found.contract = CONTRACT
    return found.eval()


def clip(samples: int = 3, seed: int = 0, history: int = 1) -> Clip:
    g = torch.Generator().manual_seed(seed)
    shape = (samples, history, 2, 3, SIDE, SIDE)
    texts = ["open the drawer", "close the door and then go home", "shut it"]
    return Clip(
        video=torch.randint(0, 256, shape, generator=g, dtype=torch.uint8),
        state=torch.randn(samples, history, 4, generator=g),
        action=torch.randn(samples, 5, 7, generator=g),
        is_pad=torch.zeros(samples, 5, dtype=torch.bool),
        gap=torch.zeros(samples, dtype=torch.int64),
        episode=torch.arange(samples),
        key=torch.arange(samples) + seed,
        text=[texts[i % 3] for i in range(samples)],
    )


def asked(found: Pi0, sample: Clip) -> dict[str, Any]:
    """Put a sample into the words of transformers' network."""
    ids, real = found.prompts.batch(list(sample["text"]), "right", torch.device("cpu"))
    count = len(ids)
    pictures = torch.full((count, 2 * 4), SMALL_ROWS)
    told = torch.ones(count, 2 * 4, dtype=torch.int64)
    return {
        "state": F.pad(sample["state"][:, -1], (0, 28)),
        "input_ids": torch.cat([pictures, ids], 1),
        "attention_mask": torch.cat([told, real.long()], 1),
        "pixel_values": (sample["video"][:, -1].float() / 255 - 0.5) / 0.5,
        "pixel_attention_mask": torch.ones(count, 2, dtype=torch.bool),
    }


def test_the_velocity_is_transformers() -> None:
    whole = network()
    found, sample = filled(whole), clip()
    x, level = torch.randn(3, 5, 32), torch.tensor([0.1, 0.5, 0.9])
    seen = found.observe(sample)
    with torch.no_grad():
        expected = whole(noise=x, timestep=level, **asked(found, sample)).logits
        prefix = found.look(seen, None)
        once = found.velocity(x, level, seen, prefix)
        again = found.velocity(x, level, seen, prefix)
    assert (once - expected).abs().max() <= 1e-6
    assert again.equal(once)  # what was said before is forgotten


def test_the_commands_are_transformers() -> None:
    whole = network()
    found, sample = filled(whole), clip()
    noise = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        expected = whole.sample_actions(noise=noise, **asked(found, sample))[..., :7]
        commands = found.act(found.observe(sample), torch.Generator().manual_seed(7))
    assert (commands - (expected * 2.0 + 0.1)).abs().max() <= 1e-5


def test_the_loss_is_that_of_the_velocity_on_the_axes_that_there_are() -> None:
    whole = network()
    found, sample = filled(whole), clip()
    sample["is_pad"][0, 3:] = True
    x, level, velocity = found.path(sample)
    action = F.pad((sample["action"] - 0.1) / 2.0, (0, 25))
    assert (x - level[:, None, None] * velocity - action).abs().max() < 1e-5
    with torch.no_grad():
        told = whole(noise=x, timestep=level, **asked(found, sample)).logits
        errors = (told - velocity)[..., :7].square()[~sample["is_pad"]]
        by_hand = errors.sum().item() / (3 * 5 * 7)  # what is past the end counts as no error
        assert found.losses(sample)["flow"].item() == pytest.approx(by_hand, rel=1e-5)


def test_levels_are_near_noise_more_often_as_beta_says() -> None:
    found = known(SMALL.build())
    many = clip(2000)
    level = found.path(many)[1]
    assert level.min() >= 0.001
    assert level.max() <= 1.0
    assert level.mean().item() == pytest.approx(0.6 * 0.999 + 0.001, abs=0.02)  # 1.5 / 2.5


def test_every_tensor_of_a_published_folder_is_used(tmp_path: Path) -> None:
    whole = network()
    weights = {k: v.contiguous() for k, v in whole.state_dict().items()}
    write_weights(tmp_path, weights)
    write_atomic(tmp_path / "config.json", SMALL.settings().to_json_string(use_diff=False))
    write_atomic(tmp_path / "tokenizer.json", unpack(SMALL.described().prompts.tokenizer))
    found = PublishedPi0Config(folder=tmp_path, state_size=4).build()
    same = filled(whole)
    assert found.digests() == same.digests()
    assert found.config.pixels.crop == "pad"
    sample = clip()
    known(found)
    with torch.no_grad():
        g = [torch.Generator().manual_seed(1) for _ in range(2)]
        one = found.act(found.observe(sample), g[0])
        assert one.equal(same.act(same.observe(sample), g[1]))
    name = "model.dit.layers.1.mlp.up_proj.weight"
    write_weights(tmp_path, {k: v for k, v in weights.items() if k != name})
    with pytest.raises(CheckpointError, match="up_proj"):
        PublishedPi0Config(folder=tmp_path, state_size=4).build()


@pytest.mark.parametrize("mode", ["replace", "replace_one", "add"])
def test_its_eyes_are_exchanged(tmp_path: Path, mode: Any) -> None:
    found = known(SMALL.build())
    before, sample = found.digests(), clip()
    with torch.no_grad():
        first = found.act(found.observe(sample), torch.Generator().manual_seed(1))
    fit = swap(found, SwapConfig(mode=mode, encoder=ENCODER), lambda _: pictures())
    after = found.digests()
    assert (after["language"], after["head"]) == (before["language"], before["head"])
    assert (fit is None) == (mode != "replace_one")
    found.save_pretrained(tmp_path / "policy", found.config)
    again = Policy.from_pretrained(tmp_path / "policy")
    assert isinstance(again, Pi0)
    with torch.no_grad():
        g = [torch.Generator().manual_seed(1) for _ in range(2)]
        one, two = (p.act(p.observe(sample), g[i]) for i, p in enumerate((found, again)))
    assert one.equal(two)
    assert one.equal(first) == (mode == "add")


def test_gradients_reach_what_is_new_and_the_adapters(tmp_path: Path) -> None:
    found = known(SMALL.build())
    swap(found, SwapConfig(mode="replace", encoder=ENCODER))
    found.save_pretrained(tmp_path, found.config)
    parts: Any = ("language", "head")
    adapt = AdaptConfig(parts=parts, lora=replace(OPENVLA_LORA, rank=2))
    objective = VlaImitationConfig(policy=PretrainedVlaConfig(folder=tmp_path), adapt=adapt).build()
    digest = objective.frozen_digest()
    objective.train()
    loss, _ = objective(clip())
    loss.backward()
    reached = {n for n, p in objective.named_parameters() if p.grad is not None and p.grad.any()}
    learned = {n for n, p in objective.named_parameters() if p.requires_grad}
    new = {name for name in learned if ".lora_" not in name}
    assert {name.rpartition(".")[0] for name in new} == {"policy.eyes.projector.fc1"}
    second = {name for name in learned if ".lora_B." in name}
    assert second | new == reached
    assert objective.frozen_digest() == digest


def test_what_does_not_fit_is_refused() -> None:
    config = SMALL.described()
    for change, match in (
        ({"chunk": 9}, "the network answers 5"),
        ({"state_size": 40}, "at most 32 and 32"),
        ({"history": 2}, "nothing looks at more than 1"),
        ({"steps": 0}, "each is at least 1"),
    ):
        settings: Any = change
        with pytest.raises(ConfigError, match=match):
            replace(config, **settings).build()
    found = SMALL.build()
    with pytest.raises(ConfigError, match="fine-tune it first"):
        found.losses(clip())
    known(found)
    sample = clip()
    with pytest.raises(ConfigError, match="3 commands"):
        found.path({**sample, "action": torch.zeros(3, 3, 7)})
    one = {**found.observe(sample), "video": sample["video"][:, :, :1]}
    with pytest.raises(ConfigError, match="2 cameras, not 1"):
        found.look(one, None)  # type: ignore[arg-type]
