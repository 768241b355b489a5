import math

import pytest
import torch
from torch import Tensor

from saccade.errors import CheckpointError
from saccade.nn.mamba import DT, Mamba, MambaStack, load_mamba
from saccade.train.optim import decayed


def stack(hidden: int = 0) -> MambaStack:
    torch.manual_seed(0)
    return MambaStack(32, 2, state=8, hidden=hidden)


def test_sizes_are_those_of_the_paper() -> None:
    """By hand, for 256 wide: 512 inside, rank 16, state 16, kernel 4."""
    inside = 256 * 1024 + 512 * 5 + 512 * 48 + 16 * 512 + 512 + 512 * 16 + 512 + 512 * 256
    assert sum(p.numel() for p in Mamba(256).parameters()) == inside
    assert inside + 256 == 438_016
    assert sum(p.numel() for p in MambaStack(256, 12).parameters()) == 12 * 438_016 + 256


def test_fresh_steps_are_log_uniform() -> None:
    torch.manual_seed(0)
    mixer = Mamba(1024)
    dt = torch.nn.functional.softplus(mixer.dt_proj.bias.detach().double()).log10()
    assert math.log10(DT[0]) - 1e-4 < dt.min() < -2.9
    assert -1.1 < dt.max() < math.log10(DT[1]) + 1e-4
    assert abs(float(dt.mean()) + 2) < 0.05
    assert abs(float(dt.var()) - 4 / 12) < 0.03  # of a uniform law over two decades
    weight = mixer.dt_proj.weight.detach()
    assert 0.99 * 64**-0.5 < weight.abs().max() <= 64**-0.5


def test_states_are_not_decayed() -> None:
    """Neither ``A_log`` nor ``D``, nor any bias."""
    layers = {"in_proj", "conv1d", "x_proj", "dt_proj", "out_proj"}
    assert decayed(Mamba(16)) == {f"{name}.weight" for name in layers}


@pytest.mark.parametrize("hidden", [0, 24])
def test_step_by_step_is_the_parallel_form(hidden: int) -> None:
    model, tokens = stack(hidden), torch.randn(3, 21, 32)
    expected, caches, found = model(tokens), model.start(3), []
    for token in tokens.unbind(1):
        out, caches = model.step(token, caches)
        found.append(out)
    torch.testing.assert_close(torch.stack(found, 1), expected, rtol=1e-5, atol=1e-5)


def test_a_token_sees_itself_and_those_before_it() -> None:
    model, tokens = stack(), torch.randn(1, 12, 32, requires_grad=True)
    (grad,) = torch.autograd.grad(model(tokens)[0, 7].sum(), tokens)
    reach = grad[0].abs().amax(-1)
    assert (reach[:8] > 0).all()
    assert (reach[8:] == 0).all()


def test_bfloat16_is_near_float32() -> None:
    model, tokens = stack(), torch.randn(2, 40, 32)
    exact = model(tokens)
    small, caches = stack().bfloat16(), stack().bfloat16().start(2)
    for token, expected in zip(tokens.bfloat16().unbind(1), exact.unbind(1), strict=True):
        found, caches = small.step(token, caches)
        assert (found.float() - expected).abs().max() < 0.05
    assert caches[0].h.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        half = model(tokens)
    apart = float((half.float() - exact).detach().square().mean().sqrt())
    assert 1e-5 < apart < 0.02  # values near 1, eight bits each
    half.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def theirs(rows: int = 11):
    """A small random model of transformers, whose plain scan is a loop over time."""
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(
        hidden_size=32,
        state_size=8,
        num_hidden_layers=2,
        vocab_size=rows,
        use_cache=False,
        tie_word_embeddings=False,
    )
    model = MambaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)  # no fresh one stays at 0 or 1
    return model


@pytest.mark.parametrize("named", ["backbone.", ""])
def test_published_weights_compute_the_same(named: str) -> None:
    reference = theirs()
    weights = reference.state_dict()
    if not named:
        weights = reference.backbone.state_dict()
    ours, tokens = load_mamba(weights, "theirs"), torch.randn(2, 13, 32)
    expected, found = reference.backbone(inputs_embeds=tokens).last_hidden_state, ours(tokens)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    away = torch.randn_like(found)
    (expected * away).sum().backward()
    (found * away).sum().backward()
    gradients = dict(ours.named_parameters())
    for name, weight in reference.backbone.named_parameters():
        if weight.grad is not None:
            scale = float(weight.grad.abs().max())
            found, near = gradients.pop(name).grad, 1e-5 * max(scale, 1)
            torch.testing.assert_close(found, weight.grad, rtol=1e-5, atol=near)
    assert not gradients


def test_mamba_ssm_names_with_an_mlp_are_ours() -> None:
    model = stack(hidden=24)
    weights = {f"backbone.{name}": value for name, value in model.state_dict().items()}
    words = {"backbone.embedding.weight": torch.ones(5, 32), "lm_head.weight": torch.ones(5, 32)}
    again, tokens = load_mamba(weights | words, "mamba-ssm"), torch.randn(1, 5, 32)
    assert torch.equal(again(tokens), model(tokens))


def without(name: str) -> dict[str, Tensor]:
    return {key: value for key, value in stack().state_dict().items() if key != name}


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        (without("layers.1.mixer.D"), r"1 missing: layers\.1\.mixer\.D"),
        (without("") | {"layers.0.mixer.in_proj.bias": torch.ones(128)}, "1 left over: .*bias"),
        (without("") | {"layers.999999999.norm.weight": torch.ones(32)}, "left over: .*999999999"),
        (without("") | {"layers.0.mixer.D": torch.ones(3)}, r"1 of another shape: .*mixer\.D"),
        (without("norm_f.weight"), r"no Mamba \('norm_f\.weight'\)"),
        (without("") | {"norm_f.weight": torch.tensor(1.0)}, "no Mamba"),
        ({}, "no Mamba"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: dict[str, Tensor], told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        load_mamba(weights, "FILE")
