import math

import pytest
import torch

from saccade.nn.spread import effective_rank, feature_norms, spread


def test_effective_rank_counts_directions() -> None:
    line = torch.arange(6.0)[:, None] * torch.tensor([1.0, -2.0, 0.5]) + 4
    assert effective_rank(line.double()).item() == pytest.approx(1)
    cross = torch.cat([torch.eye(3), -torch.eye(3)]).double()  # equal along three axes
    assert effective_rank(cross + 9).item() == pytest.approx(3)
    assert effective_rank(torch.full((4, 3), 0.5).double()).item() == pytest.approx(1)


def test_effective_rank_of_unequal_axes_by_hand() -> None:
    z = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # values 3 : 1
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(z).item() == pytest.approx(math.exp(entropy))


def test_spread_by_hand() -> None:
    found = spread(torch.tensor([[3.0, 4.0], [4.0, 3.0], [-3.0, -4.0]]))
    assert found["cosine"] == pytest.approx((0.96 - 1 - 0.96) / 3)
    assert found["std"] == pytest.approx(math.sqrt(1 - (16 / 9 + 1) / 2 / 12.5))
    assert 1 < found["effective_rank"] < 2


def test_spread_of_a_square_by_hand() -> None:
    square = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    found = spread(square)
    assert found["std"] == pytest.approx(1)
    assert found["effective_rank"] == pytest.approx(2)
    assert found["cosine"] == pytest.approx(-1 / 3)  # 2 of 6 pairs are opposite, 4 orthogonal
    same = spread(torch.ones(4, 3))
    assert (same["std"], same["cosine"]) == (0.0, pytest.approx(1))


def test_spread_does_not_depend_on_scale_and_sees_a_collapse() -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 5) + 1
    assert spread(1000 * x) == pytest.approx(spread(x))
    near = spread(torch.ones(40, 5) + 1e-6 * x.double())
    assert near["std"] < 1e-5
    assert near["cosine"] == pytest.approx(1)


def test_norms_by_hand() -> None:
    found = feature_norms(torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 10.0]]))
    assert found["norm"] == pytest.approx(5)
    assert found["norm_std"] == pytest.approx(math.sqrt(50 / 3))
    deviations = [math.sqrt(2), math.sqrt((16 + 100) / 3 - (14 / 3) ** 2)]
    assert found["feature_std"] == pytest.approx(sum(deviations) / 2)
