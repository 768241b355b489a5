"""Terms and monitors worked out by hand, and the same over two ranks as over one."""

import math

import pytest
import torch

from saccade.nn.spread import effective_rank
from saccade.objectives.vicreg import (
    TINY_VARIANCE,
    gather,
    participation,
    vicreg,
)


def test_by_hand() -> None:
    """Variances 2 and 1/2, covariance 1 of two samples: they lie on a line."""
    z = torch.tensor([[1.0, 0.0], [-1.0, -1.0]])
    variance, covariance = vicreg(z)
    expected = (0 + 1 - math.sqrt(0.5 + TINY_VARIANCE)) / 2  # above 1 is as good as 1
    assert variance.item() == pytest.approx(expected, abs=1e-6)
    assert covariance.item() == pytest.approx((1 + 1) / 2)  # C_01^2 + C_10^2, over D = 2


def test_independent_unit_dimensions_cost_nothing() -> None:
    z = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]) * math.sqrt(3 / 4)
    variance, covariance = vicreg(z)
    assert variance.item() == covariance.item() == 0


def test_the_floor_of_the_covariance() -> None:
    """Of B samples with unit variances no covariance is below D / (B - 1) - 1."""
    torch.manual_seed(0)
    z = torch.randn(9, 32)
    z = (z - z.mean(0)) / z.std(0)
    _, covariance = vicreg(z)
    assert covariance.item() >= 32 / 8 - 1
    rows = torch.linalg.qr(torch.randn(32, 8)).Q  # as evenly spread as nine samples can be
    simplex = torch.linalg.qr(torch.cat([torch.ones(9, 1), torch.eye(9)[:, :8]], 1)).Q[:, 1:]
    even = simplex @ rows.T * math.sqrt(32)
    trace = even.var(0).sum()
    _, least = vicreg(even * (32 / trace).sqrt())
    variances = (even * (32 / trace).sqrt()).var(0)
    assert (least + variances.square().sum() / 32).item() == pytest.approx(32 / 8, rel=1e-4)


def test_a_constant_has_a_gradient_that_is_finite() -> None:
    z = torch.ones(4, 3, requires_grad=True)
    variance, covariance = vicreg(z)
    (variance + covariance).backward()
    assert variance.item() == pytest.approx(1 - math.sqrt(TINY_VARIANCE))
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_ranks_by_hand() -> None:
    """Two equal directions are two, one is one; unequal ones lie between."""
    circle = torch.linspace(0, 2 * math.pi, 17)[:16]
    points = torch.stack([circle.cos(), circle.sin(), torch.zeros(16)], 1)
    for rank in (participation, effective_rank):
        assert rank(points).item() == pytest.approx(2, abs=1e-3)
        assert rank(points[:, :1]).item() == pytest.approx(1, abs=1e-3)
    flat = points * torch.tensor([1.0, 0.5, 1.0])
    # variances 1 and 1/4; singular values 1 and 1/2
    assert participation(flat).item() == pytest.approx((5 / 4) ** 2 / (17 / 16), abs=1e-3)
    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert effective_rank(flat).item() == pytest.approx(math.exp(entropy), abs=1e-3)
    assert participation(points[:1].expand(5, -1)).item() == 0


def test_autocast_changes_no_statistic() -> None:
    torch.manual_seed(0)
    line = torch.linspace(-1, 1, 16)[:, None] * torch.randn(64) + 0.01 * torch.randn(16, 64)
    for found in (vicreg, participation, effective_rank):
        with torch.autocast("cpu", torch.bfloat16):
            half = found(line)
        assert half == found(line)


def test_alone_there_is_nothing_to_gather() -> None:
    z = torch.randn(3, 2)
    assert gather(z) is z
