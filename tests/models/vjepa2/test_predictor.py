"""The predictor computes what the official one does, sees no later frame, and remembers."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from saccade.errors import ConfigError
from saccade.models.vjepa2.predictor import (
    ActionPredictor,
    ActionPredictorConfig,
    Seen,
    causal_mask,
)
from tests.fixtures.vjepa2.predictor import CASES, inputs, stored, weights

OFFICIAL = stored()
SMALL = CASES["wide"]


def filled(config: ActionPredictorConfig) -> ActionPredictor:
    predictor = config.build()
    predictor.load_state_dict(weights(predictor))
    return predictor.eval()


def given(config: ActionPredictorConfig, frames: int = 4) -> list[Tensor]:
    drawn = inputs(config)
    names = ["features", "action", "state", *(["extrinsics"] if config.use_extrinsics else [])]
    return [drawn[name][:, :frames] for name in names]


def close(found: Tensor, expected: np.ndarray | Tensor, tolerance: float = 1e-5) -> None:
    expected = torch.as_tensor(expected)
    torch.testing.assert_close(found.detach(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_official_forward(case: str) -> None:
    """Other heads, grids that are not square, and camera extrinsics."""
    close(filled(CASES[case])(*given(CASES[case])), OFFICIAL[f"{case}/forward"])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_prefix_gives_the_same(case: str, frames: int) -> None:
    predicted = filled(CASES[case])(*given(CASES[case], frames))
    close(predicted, OFFICIAL[f"{case}/forward"][:, :frames])


@pytest.mark.parametrize("case", CASES)
def test_official_autocast(case: str) -> None:
    """In bfloat16, as far from the official bfloat16 as that is from float32, or nearer."""
    with torch.autocast("cpu", torch.bfloat16):
        predicted = filled(CASES[case])(*given(CASES[case])).float()
    exact, theirs = (torch.from_numpy(OFFICIAL[f"{case}/{kind}"]) for kind in ("forward", "bf16"))
    rounding = (theirs - exact).abs().mean()
    assert 0 < (predicted.detach() - theirs).abs().mean() < rounding
    assert (predicted.detach() - exact).abs().mean() < 1.5 * rounding


def test_all_of_it_in_bfloat16() -> None:
    """The official code raises here: its queries become float32, its values stay."""
    predictor = filled(SMALL).to(torch.bfloat16)
    x = [part.to(torch.bfloat16) for part in given(SMALL)]
    predicted = predictor(*x)
    assert predicted.dtype == torch.bfloat16
    theirs, exact = (torch.from_numpy(OFFICIAL[f"wide/{kind}"]) for kind in ("bf16", "forward"))
    rounding = (theirs - exact).abs().mean()
    assert (predicted.detach().float() - exact).abs().mean() < 3 * rounding
    following, seen = predictor.step(None, x[0][:, 0], x[1][:, 0], x[2][:, 0])
    assert seen is not None
    assert following.dtype == seen.blocks[0][0][0].dtype == torch.bfloat16


def test_the_shared_numbers(shared_data: Path) -> None:
    official = np.load(shared_data / "vjepa2_ac" / "tiny_official_vjepa2ac.npz")
    config = ActionPredictorConfig(grid=(4, 4), feature_dim=128, dim=128, depth=2, heads=2, mlp=512)
    predictor = config.build()
    loaded = {k[5:]: torch.from_numpy(v) for k, v in official.items() if k.startswith("pred/")}
    predictor.load_state_dict(loaded, strict=True)
    features, state = torch.from_numpy(official["h"]), torch.from_numpy(official["states"])
    action = torch.from_numpy(official["actions_from_diffs"]).float()
    predicted = predictor(features.view(1, 4, 16, 128)[:, :3], action, state[:, :3].float())
    close(predicted.flatten(1, 2), official["pred_raw_T3"])


def test_published_size() -> None:
    with torch.device("meta"):
        predictor = ActionPredictorConfig().build()
    assert sum(p.numel() for p in predictor.parameters()) == 305_220_992
    shapes = {name: tuple(value.shape) for name, value in predictor.state_dict().items()}
    assert len(shapes) == 300
    assert shapes["predictor_embed.weight"] == (1024, 1408)
    assert shapes["extrinsics_encoder.weight"] == (1024, 6)
    assert shapes["predictor_blocks.23.attn.qkv.weight"] == (3072, 1024)
    assert shapes["predictor_blocks.0.mlp.fc1.bias"] == (4096,)
    assert shapes["predictor_proj.bias"] == (1408,)


def test_fresh_weights() -> None:
    """Deviation 0.02, less where a deep block adds to the residual; biases are zero."""
    torch.manual_seed(0)
    predictor = replace(SMALL, dim=192, mlp=768, depth=2).build()
    named = predictor.state_dict()
    for name, depth in (("0.attn.qkv", 0.5), ("0.attn.proj", 1), ("1.mlp.fc2", 2)):
        found = named[f"predictor_blocks.{name}.weight"].std().item()
        assert found == pytest.approx(0.02 / (2 * depth) ** 0.5, rel=0.03)
    assert not any(value.any() for name, value in named.items() if name.endswith("bias"))


@pytest.mark.parametrize("frame", [1, 2, 3])
def test_no_frame_sees_a_later_one(frame: int) -> None:
    """Exactly: whatever comes later, the same bits."""
    predictor, before = filled(SMALL), given(SMALL)
    after = [part.clone() for part in before]
    for part in after:
        part[:, frame:] = 1e3
    first, second = predictor(*before), predictor(*after)
    assert torch.equal(first[:, :frame], second[:, :frame])
    assert not torch.allclose(first[:, frame:], second[:, frame:])


def test_the_mask() -> None:
    expected = [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    found = causal_mask(2, 2, torch.device("cpu"))
    assert torch.equal(found, torch.tensor(expected, dtype=torch.bool))


@pytest.mark.parametrize("case", CASES)
def test_steps_from_memory_equal_the_whole(case: str) -> None:
    predictor, x = filled(CASES[case]), given(CASES[case])
    whole = predictor(*x)
    seen: Seen | None = predictor.remember(*(part[:, :2] for part in x))
    for t in (2, 3):
        parts = [part[:, t] for part in x]
        found, seen = predictor.step(seen, parts[0], parts[1], parts[2], *parts[3:], keep=t < 3)
        close(found, whole[:, t])
    assert seen is None


def test_candidates_share_what_was_seen() -> None:
    """One context, one newest frame, many actions: as if each had been run by itself."""
    predictor, x = filled(SMALL), [part[:1] for part in given(SMALL, 3)]
    actions = inputs(SMALL)["candidates"][:, 0]
    many = len(actions)
    seen = predictor.remember(*(part[:, :2] for part in x))
    assert {pair[0].shape[0] for block in seen.blocks for pair in block} == {1}
    state = x[2][:, 2].expand(many, -1)
    found, longer = predictor.step(seen, x[0][:, 2], actions, state)
    whole = [part.repeat(many, 1, *(1,) * (part.ndim - 2)) for part in x]
    whole[1][:, 2] = actions
    close(found, predictor(*whole)[:, 2])
    assert longer is not None
    assert longer.frames == 3
    assert [pair[0].shape[0] for pair in longer.blocks[1]] == [1, many]


def test_gradients_through_memory_are_those_of_the_whole() -> None:
    predictor, x = filled(SMALL), given(SMALL, 2)
    slopes = []
    for cached in (True, False):
        action = x[1].clone().requires_grad_()
        if cached:
            seen = predictor.remember(x[0][:, :1], action[:, :1], x[2][:, :1])
            last, _ = predictor.step(seen, x[0][:, 1], action[:, 1], x[2][:, 1])
        else:
            last = predictor(x[0], action, x[2])[:, 1]
        slopes.append(torch.autograd.grad(last.square().sum(), action)[0])
    assert bool((slopes[0] != 0).all())
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-4, atol=1e-5)


def test_computing_activations_again_changes_nothing() -> None:
    x, gradients = given(SMALL), list[Mapping[str, Tensor]]()
    for again in (False, True):
        predictor = filled(replace(SMALL, checkpoint_activations=again))
        predictor(*x).square().sum().backward()
        gradients.append({n: p.grad for n, p in predictor.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert not any("extrinsics" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_what_does_not_fit() -> None:
    predictor, (features, action, state) = filled(SMALL), given(SMALL)
    with pytest.raises(ConfigError, match=r"actions of shape \(4, 6\).*built for \(4, 7\)"):
        predictor(features, action[..., :6], state)
    with pytest.raises(ConfigError, match=r"actions of shape \(3, 7\).*built for \(4, 7\)"):
        predictor(features, action[:, :3], state)
    with pytest.raises(ConfigError, match=r"features of shape \(4, 14, 24\).*3 x 5 patches"):
        predictor(features[:, :, :14], action, state)
    with pytest.raises(ConfigError, match="was given camera extrinsics"):
        predictor(features, action, state, action[..., :6])
    with pytest.raises(ConfigError, match="lacks camera extrinsics"):
        filled(CASES["camera"]).step(None, features[:, 0], action[:, 0], state[:, 0])
    with pytest.raises(ConfigError, match="at least 6"):
        replace(SMALL, heads=16).build()
    with pytest.raises(ConfigError, match="whole number"):
        replace(SMALL, heads=5).build()


def test_checkpointing_leaves_one_block_s_activations_to_keep() -> None:
    def held(again: bool) -> int:
        """Count what the network's output keeps alive beside weights and inputs."""
        predictor = filled(replace(SMALL, depth=8, checkpoint_activations=again))
        tensors: dict[int, int] = {}

        def keep(value: Tensor) -> Tensor:
            tensors[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            return value

        own = {p.untyped_storage().data_ptr() for p in predictor.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            predictor(*given(SMALL)).sum()
        return sum(size for place, size in tensors.items() if place not in own)

    assert held(True) < 0.25 * held(False)
