"""Angles worked out by hand, the two styles, and the precision of the angles."""

import math

import pytest
import torch
from torch import Tensor

from saccade.errors import ConfigError
from saccade.models.vjepa2.rope import Style, apply, axis_width, rotate, table, working_dtype

# heads of 14 channels: each axis turns 4, with the frequencies 1 and 1/100; 2 are left alone
CHANNELS = 14


def positions(*values: float) -> list[Tensor]:
    return [torch.tensor([value]) for value in values]


@pytest.mark.parametrize(
    ("channels", "width"), [(6, 2), (14, 4), (32, 10), (64, 20), (80, 26), (88, 28)]
)
def test_channels_of_an_axis(channels: int, width: int) -> None:
    assert axis_width(channels) == width


@pytest.mark.parametrize("channels", [2, 4, 7, 33])
def test_a_head_that_holds_no_three_axes_is_refused(channels: int) -> None:
    with pytest.raises(ConfigError, match=f"head of {channels} channels"):
        axis_width(channels)


def test_tiled_by_hand() -> None:
    """The two channels of a pair get different angles: 1 and 1/100 times the position."""
    x = torch.arange(1.0, CHANNELS + 1).view(1, CHANNELS)
    turned = rotate(x, positions(2.0, 0.0, 3.0), "tiled")[0].tolist()
    fast, slow = 2.0, 0.02
    expected = [
        1 * math.cos(fast) - 2 * math.sin(fast),
        2 * math.cos(slow) + 1 * math.sin(slow),
        3 * math.cos(fast) - 4 * math.sin(fast),
        4 * math.cos(slow) + 3 * math.sin(slow),
        *(5.0, 6.0, 7.0, 8.0),  # row 0
        9 * math.cos(3.0) - 10 * math.sin(3.0),
        10 * math.cos(0.03) + 9 * math.sin(0.03),
        11 * math.cos(3.0) - 12 * math.sin(3.0),
        12 * math.cos(0.03) + 11 * math.sin(0.03),
        *(13.0, 14.0),  # the rest
    ]
    assert turned == pytest.approx(expected, abs=1e-5)


def test_interleaved_by_hand() -> None:
    x = torch.arange(1.0, CHANNELS + 1).view(1, CHANNELS)
    turned = rotate(x, positions(2.0), "interleaved")[0].tolist()
    expected = [
        1 * math.cos(2.0) - 2 * math.sin(2.0),
        2 * math.cos(2.0) + 1 * math.sin(2.0),
        3 * math.cos(0.02) - 4 * math.sin(0.02),
        4 * math.cos(0.02) + 3 * math.sin(0.02),
        *(float(channel) for channel in range(5, CHANNELS + 1)),  # no row and no column given
    ]
    assert turned == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("style", "relative"), [("interleaved", True), ("tiled", False)])
def test_only_the_interleaved_style_is_a_rotation(style: Style, relative: bool) -> None:
    """Scores then depend on distances, and lengths stay; the 2.0 weights know the other one."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 64)
    near = [rotate(x, positions(*at), style) for x, at in ((q, (1.0, 2, 3)), (k, (4.0, 3, 1)))]
    far = [rotate(x, positions(*at), style) for x, at in ((q, (6.0, 9, 4)), (k, (9.0, 10, 2)))]
    score, moved = (float((a * b).sum()) for a, b in (near, far))
    assert (abs(score - moved) < 1e-4) == relative
    assert (abs(float(near[0].norm() - q.norm())) < 1e-4) == relative


def test_a_table_serves_any_batch_and_is_differentiable() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, CHANNELS, dtype=torch.float64, requires_grad=True)
    where = [torch.arange(5), torch.zeros(5), torch.arange(5) / 2]
    turn = table(where, CHANNELS, torch.float64)
    assert torch.autograd.gradcheck(lambda x: apply(x, turn), x)
    assert torch.equal(apply(x, turn)[1, 2], rotate(x[1, 2], where))


def test_bfloat16_rounds_the_angles_as_the_official_code_does() -> None:
    where = [torch.tensor([50])]
    exact = table(where, 64, torch.float32).cos[0, :20]
    rounded = table(where, 64, torch.bfloat16)
    assert rounded.cos.dtype == torch.bfloat16
    omega = (1.0 / 10000 ** (torch.arange(10, dtype=torch.bfloat16) / 10)).repeat(2)
    assert torch.equal(rounded.cos[0, :20], (50 * omega).cos())
    assert 0.02 < float((rounded.cos[0, :20].float() - exact).abs().max()) < 0.2
    measured = table([torch.tensor([50.0])], 64, torch.bfloat16)  # positions that are measured
    assert measured.cos.dtype == torch.float32
    x = torch.randn(1, 64, dtype=torch.bfloat16)
    assert apply(x, measured).dtype == torch.bfloat16


def test_on_the_meta_device() -> None:
    where = [torch.arange(6, device="meta")] * 3
    x = torch.randn(2, 6, CHANNELS, device="meta")
    assert rotate(x, where).shape == x.shape


def test_dtype_of_queries() -> None:
    x = torch.zeros(1)
    assert working_dtype(x) == torch.float32
    assert working_dtype(torch.zeros(1, device="meta", dtype=torch.bfloat16)) == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert working_dtype(x) == torch.bfloat16


@pytest.mark.parametrize("count", [0, 4])
def test_too_many_positions_or_none(count: int) -> None:
    with pytest.raises(ConfigError, match=f"{count} positions were given"):
        table(positions(*[1.0] * count), 64, torch.float32)
