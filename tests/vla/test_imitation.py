from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from saccade.errors import CheckpointError, ConfigError
from saccade.models.four_bit import FourBitLinear
from saccade.models.lora import LoraConfig
from saccade.types import Policy
from saccade.vla.imitation import PretrainedVlaConfig, VlaImitation, VlaImitationConfig, kept
from saccade.vla.openvla import OpenVla
from saccade.vla.policy import OPENVLA_LORA, AdaptConfig
from saccade.vla.swap import SwapConfig, swap
from tests.vla.small import OURS, clip, policy
from tests.vla.test_swap import pictures

SMALL_LORA = AdaptConfig(lora=LoraConfig(**{**vars(OPENVLA_LORA), "rank": 2}))


def swapped(folder: Path, mode: str, encoder: Any = OURS) -> Path:
    found = policy(folder / "base")
    settings: dict = {"mode": mode, "encoder": encoder}
    swap(found, SwapConfig(**settings), lambda _: pictures())
    found.save_pretrained(folder / "policy", found.config)
    return folder / "policy"


def objective(folder: Path, **options: Any) -> VlaImitation:
    settings = {"adapt": SMALL_LORA, **options}
    return VlaImitationConfig(policy=PretrainedVlaConfig(folder=folder), **settings).build()


def steps(found: VlaImitation, count: int = 3, rate: float = 1e-2) -> None:
    learned = [p for p in found.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=rate, weight_decay=0)
    found.train()
    for step in range(count):
        loss, _ = found(clip(seed=step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.after_step(step + 1)


NEW = {
    "keep": set(),
    "replace": {"policy.eyes.projector"},
    "replace_one": {"policy.eyes.towers.0.adapter"},
    "add": {"policy.eyes.branch.map"},
}


@pytest.mark.parametrize("mode", list(NEW))
def test_gradients_reach_what_is_new_and_the_adapters_and_nothing_else(
    tmp_path: Path, mode: str
) -> None:
    found = objective(swapped(tmp_path, mode, None if mode == "keep" else OURS))
    found.train()
    loss, _ = found(clip())
    loss.backward()
    reached = {n for n, p in found.named_parameters() if p.grad is not None and p.grad.any()}
    new = {name for name in reached if ".lora_" not in name}
    assert {name.rpartition(".")[0].partition(".fc")[0] for name in new} == NEW[mode]
    adapters = {name for name in reached if ".lora_" in name}
    assert adapters
    assert all(name.startswith("policy.language.") for name in adapters)
    learned = {name for name, p in found.named_parameters() if p.requires_grad}
    assert {n.replace(".lora_A.", ".lora_B.") for n in learned if ".lora_" in n} == adapters


@pytest.mark.parametrize("mode", ["replace_one", "add"])
def test_what_is_frozen_has_the_same_hash_after_training(tmp_path: Path, mode: str) -> None:
    found = objective(swapped(tmp_path, mode))
    before, digests = found.frozen_digest(), found.policy.digests()
    steps(found)
    assert found.frozen_digest() == before
    after = found.policy.digests()
    for part in ("towers", "encoder", "projector", "language"):
        assert after[part] == digests[part], part
    assert (
        after["adapter" if mode == "replace_one" else "branch"]
        != (digests["adapter" if mode == "replace_one" else "branch"])
    )


def test_adapters_wait_until_what_is_new_has_found_its_place(tmp_path: Path) -> None:
    found = objective(swapped(tmp_path, "replace"), warm_up=2)
    adapters = {n: p.clone() for n, p in found.named_parameters() if ".lora_" in n}
    steps(found, 2)
    now = dict(found.named_parameters())
    assert all(now[name].equal(value) for name, value in adapters.items())
    projector = found.policy.eyes.projector.fc1.weight.clone()
    steps(found, 1)
    now = dict(found.named_parameters())
    assert any(not now[name].equal(value) for name, value in adapters.items())
    assert not found.policy.eyes.projector.fc1.weight.equal(projector)


def test_it_learns_a_batch_by_heart(tmp_path: Path) -> None:
    found = objective(swapped(tmp_path, "keep", None), learn="all", adapt=None)
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW([p for p in found.parameters() if p.requires_grad], lr=3e-3)
    sample = clip()
    found.eval()
    first, last, scores = 0.0, 0.0, {}
    for step in range(60):
        loss, scores = found(sample)
        first, last = (float(loss.detach()) if step == 0 else first), float(loss.detach())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert last < 0.2 * first
    assert scores["token_accuracy"] > 0.5


def test_a_fitted_adapter_starts_with_a_lower_loss_than_a_random_one(tmp_path: Path) -> None:
    found = objective(swapped(tmp_path, "keep", None), learn="all", adapt=None)
    optimizer = torch.optim.AdamW([p for p in found.parameters() if p.requires_grad], lr=3e-3)
    sample = clip(16)
    found.eval()
    for _ in range(80):
        loss, _ = found(sample)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    trained: Any = found.policy
    frames = trained.config.pixels.shown(sample["video"][:, :, 0])
    shown = [frames.repeat(2, 1, 1, 1, 1)] * 3
    with torch.no_grad():
        before = trained.losses(sample)["tokens"]
    swap(trained, SwapConfig(mode="replace_one", encoder=OURS), lambda _: shown)
    with torch.no_grad():
        fitted = trained.losses(sample)["tokens"]
        torch.manual_seed(0)
        trained.eyes.towers[0].adapter.reset_parameters()
        drawn = trained.losses(sample)["tokens"]
    assert drawn > before + 0.01
    assert fitted - before < 0.2 * (drawn - before)


def test_checkpoints_leave_out_what_the_folder_has(tmp_path: Path) -> None:
    found = objective(swapped(tmp_path, "add"))
    state = found.state_dict()
    assert "policy.language.model.embed_tokens.weight" not in state
    assert any(".lora_A." in name for name in state)
    assert "policy.eyes.branch.map.weight" in state
    again = objective(tmp_path / "policy")
    steps(found, 2)
    again.load_state_dict(found.state_dict())
    sample = clip()
    losses = [each.eval().forward(sample)[0] for each in (again, found)]
    assert losses[0].equal(losses[1])
    assert "language.model.embed_tokens" in kept(found.policy)


def test_the_exported_policy_has_its_adapters_added(tmp_path: Path) -> None:
    found = objective(swapped(tmp_path, "add"))
    found.policy.contract = policy(tmp_path / "other").contract
    steps(found)
    exports = found.save_exports(tmp_path / "run", "card", step=3)
    assert set(exports) == {"policy", "adapters"}
    again = Policy.from_pretrained(exports["policy"])
    assert isinstance(again, OpenVla)
    assert not any(".lora_" in name for name, _ in again.named_parameters())
    sample = clip()
    with torch.no_grad():
        wanted = again.wanted(sample)
        one = again.answers(sample, None, wanted)
        live: Any = found.policy.eval()
        two = live.answers(sample, None, wanted)
    assert (one - two).abs().max() < 1e-4 * two.abs().max()
    settings = (exports["adapters"] / "adapter_config.json").read_text()
    assert '"init_lora_weights": "gaussian"' in settings


def test_floors_notice_who_is_shown_and_told_something_else(tmp_path: Path) -> None:
    found = objective(swapped(tmp_path, "keep", None))
    baselines = found.baselines(clip())
    assert set(baselines) == {"mean_action", "other_observations", "other_instruction"}
    other = found.without_target(clip())
    assert not other["action"].equal(clip()["action"])
    seen, unseen = found.inputs(clip()), found.inputs(other)
    assert seen["asked"].equal(unseen["asked"])
    assert not seen["answer"].equal(unseen["answer"])


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    folder = swapped(tmp_path, "keep", None)
    with pytest.raises(ConfigError, match="nothing would be trained"):
        objective(folder, adapt=None)
    with pytest.raises(ConfigError, match="no branch to train"):
        objective(folder, learn=("branch",))
    with pytest.raises(ConfigError, match="cannot both learn and be adapted"):
        objective(folder, learn=("language",))
    with pytest.raises(CheckpointError):
        PretrainedVlaConfig(folder=tmp_path / "nowhere").build()


def test_adapters_in_every_part_that_has_linear_maps(tmp_path: Path) -> None:
    parts: Any = ("towers", "projector", "language")
    adapt = AdaptConfig(parts=parts, lora=SMALL_LORA.lora)
    found = objective(swapped(tmp_path, "keep", None), adapt=adapt)
    found.train()
    loss, _ = found(clip())
    loss.backward()
    second = {n: p.grad for n, p in found.named_parameters() if ".lora_B." in n}
    assert all(value is not None for value in second.values())  # none where nothing reads
    assert {name.split(".")[1] for name in second} == {"eyes", "language"}


@pytest.mark.parametrize("layers", ["new and adapters", "adapters"])
def test_a_language_model_in_four_bits_learns_and_is_saved_as_it_was_trained(
    tmp_path: Path, layers: str
) -> None:
    folder = swapped(tmp_path, "replace")
    before = PretrainedVlaConfig(folder=folder).build().digests()
    four = replace(SMALL_LORA, four_bit=True)
    found = objective(folder, adapt=four, learn="new" if layers != "adapters" else ())
    assert found.digests() == before  # of the parts as they were published
    frozen, wide = found.frozen_digest(), objective(folder).frozen_digest()
    assert frozen != wide
    maps = [m for m in found.policy.modules() if isinstance(m, FourBitLinear)]
    assert len(maps) == len(found.adapted) > 0
    steps(found)
    assert found.frozen_digest() == frozen
    found.eval()
    exports = found.save_exports(tmp_path / "out")
    again = Policy.from_pretrained(exports["policy"])
    assert isinstance(again, OpenVla)
    with torch.no_grad():
        one, two = found.policy.losses(clip()), again.losses(clip())
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-5)
    # a resumed run rounds to the same, and goes on from what a checkpoint holds
    state = found.state_dict()
    assert not [name for name in state if name.endswith((".scales", ".base_layer.weight"))]
    resumed = objective(folder, adapt=four, learn="new" if layers != "adapters" else ())
    resumed.load_state_dict(state)
    with torch.no_grad():
        assert resumed.eval().policy.losses(clip())["tokens"].equal(one["tokens"])
