import torch

from saccade.nn.patches import normalise_patches, patchify, unpatchify


def test_patches_come_row_by_row_and_go_back() -> None:
    image = torch.arange(2 * 3 * 8 * 8.0).view(2, 3, 8, 8)
    patches = patchify(image, 4)
    torch.testing.assert_close(patches[:, 1].view(2, 4, 4, 3), image[:, :, :4, 4:].movedim(1, -1))
    torch.testing.assert_close(unpatchify(patches, 4), image)


def test_normalised_patches_have_mean_0_and_deviation_1() -> None:
    patches = normalise_patches(torch.rand(2, 5, 48), floor=1e-6)
    torch.testing.assert_close(patches.mean(-1), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(patches.std(-1), torch.ones(2, 5))


def test_the_floor_keeps_sensor_noise_small() -> None:
    torch.manual_seed(0)
    noise = 0.5 + 0.002 * torch.randn(1, 4, 300)
    assert normalise_patches(noise, floor=0.02).std() < 0.15
    assert normalise_patches(noise, floor=1e-6).std() > 0.9
