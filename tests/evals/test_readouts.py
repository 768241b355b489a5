import numpy as np
import pytest
import torch

from saccade.evals import ridge
from saccade.evals.readouts import Attentive, Readout, fitter
from saccade.evals.ridge import PENALTIES, Ridge, Scale


def linear_data(
    rows: int, features: int = 6, noise: float = 0.0, seed: int = 0
) -> tuple[torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, features)) * np.arange(1, features + 1) + 7
    weight = np.arange(2.0 * features).reshape(features, 2)
    return torch.from_numpy(x), x @ weight + 3 + noise * rng.normal(size=(rows, 2))


@pytest.mark.parametrize(("rows", "features"), [(40, 6), (12, 30)])
def test_ridge_solves_the_normal_equations_in_both_forms(rows: int, features: int) -> None:
    x, y = linear_data(rows, features, noise=1.0)
    fitted, penalty = Ridge(x), 0.3
    assert fitted.dual == (features > rows)
    z = (x - x.mean(0)) / x.std(0, correction=0)
    centred = torch.from_numpy(y - y.mean(0))
    gram = z.T @ z / rows + penalty * torch.eye(features)
    expected = torch.linalg.solve(gram, z.T @ centred / rows)
    penalties = torch.tensor([1e-3, penalty], dtype=torch.float64)
    torch.testing.assert_close(fitted.weights(torch.from_numpy(y), penalties)[1], expected)


def test_ridge_reads_a_linear_target_exactly_and_chooses_the_smallest_penalty() -> None:
    x, y = linear_data(200)
    fit = Ridge(x[:100]).fit(y[:100], x[100:150], y[100:150])
    np.testing.assert_allclose(fit.predict(x[150:]), y[150:], atol=1e-3)
    assert fit.penalty == PENALTIES[0]


def test_ridge_of_noise_chooses_a_large_penalty_on_the_select_split() -> None:
    x, _ = linear_data(60, 40)
    y = np.random.default_rng(1).normal(size=(60, 1))
    fit = Ridge(x[:30]).fit(y[:30], x[30:], y[30:])
    assert fit.penalty is not None
    assert fit.penalty > 1


@pytest.mark.parametrize(("decay", "mean", "penalty"), [(1, 100, 0), (4, 0.3, 0), (4, 0.3, 6)])
def test_float32_features_are_guessed_from_as_exactly_as_is_said(
    decay: int, mean: float, penalty: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, rows, features = np.random.default_rng(0), 3000, 64
    turn = np.linalg.qr(rng.normal(size=(features, features)))[0]
    x = rng.normal(size=(rows, features)) * np.logspace(0, -decay, features) @ turn + mean
    x = torch.from_numpy(x).float()
    y = x.double().numpy() @ rng.normal(size=(features, 2)) + 0.5 * rng.normal(size=(rows, 2))
    monkeypatch.setattr(ridge, "PENALTIES", PENALTIES[penalty : penalty + 1])
    exact, quick = (Ridge(kind).fit(y, x[:50], y[:50]) for kind in (x.double(), x))
    guess, wanted = quick.predict(x), exact.predict(x)
    apart = np.linalg.norm(guess - wanted) / np.linalg.norm(wanted - wanted.mean(0))
    assert apart < (2e-4 if decay == 4 and penalty == 0 else 1e-5)


def test_the_correlations_of_many_features_are_whole_and_those_of_float64() -> None:
    x = torch.randn(2500, 300) @ torch.randn(300, 300) + 5  # panels and blocks that are not full
    scale, found = ridge._moments(x)
    torch.testing.assert_close(found, torch.corrcoef(x.double().T), rtol=0, atol=2e-6)
    torch.testing.assert_close(scale.mean, x.double().mean(0), rtol=0, atol=1e-5)


def test_dead_features_change_nothing_even_if_they_come_alive_later() -> None:
    x, y = linear_data(60)
    dead = torch.cat([x, torch.full((60, 2), 1e6)], dim=1)
    alive = dead.clone()
    alive[40:, 6:] = torch.randn(20, 2)
    plain = Ridge(x[:30]).fit(y[:30], x[30:40], y[30:40]).predict(x[40:])
    guarded = Ridge(dead[:30]).fit(y[:30], dead[30:40], y[30:40]).predict(alive[40:])
    np.testing.assert_allclose(guarded, plain, atol=1e-9)


def test_features_without_information_give_the_training_mean() -> None:
    _, y = linear_data(30)
    zeros = torch.zeros(30, 3)
    for kind in ("linear", "mlp"):
        guess = fitter(kind, zeros[:20], 0)(y[:20], zeros[20:], y[20:]).predict(zeros[20:])
        assert np.ptp(guess, axis=0).max() < 1e-9
    guess = fitter("linear", zeros[:20], 0)(y[:20], zeros[20:], y[20:]).predict(zeros[20:])
    np.testing.assert_allclose(guess[0], y[:20].mean(0))


def test_the_scale_is_measured_over_tokens_too() -> None:
    tokens = torch.tensor([[[0.0], [2.0]], [[4.0], [6.0]]])
    scale = Scale.of(tokens)
    assert scale.mean.item() == 3
    assert scale(tokens).std(correction=0).item() == pytest.approx(1)


def test_the_mlp_learns_what_no_line_can() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, (600, 2))
    y, x = np.abs(x).sum(1, keepdims=True), torch.from_numpy(x)
    errors = {}
    for kind in ("linear", "mlp"):
        fit = fitter(kind, x[:400], 0)(y[:400], x[400:500], y[400:500])
        errors[kind] = np.square(fit.predict(x[500:]) - y[500:]).mean()
    assert errors["mlp"] < 0.1 * errors["linear"]


def test_attention_finds_the_one_token_that_tells() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(600, 9, 4)).astype(np.float32)
    here = rng.integers(0, 9, 600)
    tokens[..., 3] = 0
    tokens[np.arange(600), here, 3] = 4  # the mark that says which token to read
    y = tokens[np.arange(600), here, :1].astype(np.float64)
    x, errors = torch.from_numpy(tokens), {}
    both: list[tuple[Readout, torch.Tensor]] = [("linear", x.mean(1)), ("attentive", x)]
    for kind, features in both:
        fit = fitter(kind, features[:400], 0)(y[:400], features[400:500], y[400:500])
        errors[kind] = np.square(fit.predict(features[500:]) - y[500:]).mean()
    assert errors["attentive"] < 0.3 * errors["linear"]


def test_attention_starts_as_the_mean() -> None:
    tokens, network = torch.randn(2, 5, 3), Attentive(3, 1)
    torch.testing.assert_close(network(tokens), network.head(tokens.mean(1)))


@pytest.mark.parametrize("kind", ["mlp", "attentive"])
def test_networks_depend_on_their_seed_and_on_nothing_else(kind: Readout) -> None:
    x, y = linear_data(40, noise=1.0)
    x = x[:, None].expand(-1, 3, -1) if kind == "attentive" else x

    def guess(seed: int) -> np.ndarray:
        torch.rand(1)  # the global generator's state must not matter
        return fitter(kind, x[:20], seed)(y[:20], x[20:30], y[20:30]).predict(x[30:])

    before = torch.get_rng_state()
    np.testing.assert_array_equal(guess(0), guess(0))
    assert np.abs(guess(0) - guess(1)).max() > 0
    torch.set_rng_state(before)


def test_the_epoch_that_is_best_on_select_is_kept() -> None:
    rng = np.random.default_rng(0)
    x, y = torch.from_numpy(rng.normal(size=(120, 20))), rng.normal(size=(120, 1))  # only noise
    guess = fitter("mlp", x[:60], 0)(y[:60], x[60:], y[60:]).predict(x[60:])
    assert np.square(guess - y[60:]).mean() < 1.25 * y[60:].var()
