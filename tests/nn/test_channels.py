import pytest
import torch

from saccade.nn.channels import Border, form, luminance, motion, sobel


@pytest.fixture
def frames() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.rand(2, 3, 24, 24), torch.rand(2, 3, 24, 24)


def test_shapes_at_224() -> None:
    image = torch.rand(1, 3, 224, 224)
    assert motion(image, image).shape == (1, 4, 224, 224)
    assert form(image, "zeros").shape == (1, 5, 224, 224)


def test_identical_frames_have_no_motion_at_all(frames: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert motion(frames[0], frames[0]).eq(0).all()


def test_swapping_frames_flips_the_sign(frames: tuple[torch.Tensor, torch.Tensor]) -> None:
    now, later = frames
    torch.testing.assert_close(motion(now, later), -motion(later, now))


def test_a_brightness_step_is_seen_as_it_is() -> None:
    now = torch.full((1, 3, 8, 8), 0.25)
    torch.testing.assert_close(motion(now, now + 0.5), torch.full((1, 4, 8, 8), 0.5))


def test_luminance_is_bt709() -> None:
    red, green, blue = torch.eye(3).view(3, 3, 1, 1)
    assert luminance(red[None]).item() == pytest.approx(0.2126)
    assert luminance(green[None]).item() == pytest.approx(0.7152)
    assert luminance(blue[None]).item() == pytest.approx(0.0722)


@pytest.mark.parametrize("border", ["zeros", "replicate"])
def test_the_strongest_edge_has_length_one(
    border: Border, frames: tuple[torch.Tensor, ...]
) -> None:
    edges = form(frames[0], border)[:, :2]
    strength = edges.square().sum(1).sqrt().amax((1, 2))
    torch.testing.assert_close(strength, torch.ones(2))
    torch.testing.assert_close(form(frames[0], border)[:, 2:], frames[0])


def test_edges_ignore_gain_and_offset_of_light(frames: tuple[torch.Tensor, ...]) -> None:
    image = frames[0]
    edges = form(image, "zeros")[:, :2]
    torch.testing.assert_close(form(0.4 * image + 0.3, "zeros")[:, :2], edges, rtol=0, atol=1e-4)


@pytest.mark.parametrize("border", ["zeros", "replicate"])
def test_a_constant_image_is_finite_and_has_no_edges(border: Border) -> None:
    channels = form(torch.full((1, 3, 8, 8), 0.7), border)
    assert channels.isfinite().all()
    assert channels[:, :2].abs().max() < 1e-3


def test_sobel_of_a_ramp_by_hand() -> None:
    ramp = torch.arange(5.0).expand(1, 1, 5, 5)  # grows by one per column
    gx, gy = sobel(ramp, "replicate")[0]
    assert gx[2].tolist() == [4, 8, 8, 8, 4]
    assert gy.eq(0).all()


def test_zero_padding_draws_a_frame_and_replication_does_not() -> None:
    flat = torch.ones(1, 1, 6, 6)
    assert sobel(flat, "zeros")[0, 0, :, 0].abs().min() > 0
    assert sobel(flat, "replicate").eq(0).all()
