import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.errors import DataError
from saccade.evals.descriptors import (
    cell_flow,
    dis_flow,
    flow_histogram,
    hog,
    pixel_difference,
    raw_pixels,
)

DESCRIPTORS = {
    "raw pixels": raw_pixels,
    "pixel difference": pixel_difference,
    "HOG": hog,
    "flow histogram": flow_histogram,
}
LENGTHS = {"raw pixels": 12, "pixel difference": 12, "HOG": 64, "flow histogram": 10}


def texture(height: int, width: int, seed: int = 0) -> Tensor:
    """Blurred noise: a picture that flow can be followed in."""
    noise = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))
    smooth = F.avg_pool2d(F.avg_pool2d(noise, 3, 1, 1), 3, 1, 1)
    low, high = smooth.amin(), smooth.amax()
    return ((smooth - low) / (high - low) * 255).round().to(torch.uint8)[0]


def shifted(right: int, down: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Cut two frames from one texture, whose content moves by whole pixels."""
    wide = texture(height + 20, width + 20, seed)
    first = wide[:, 10 : 10 + height, 10 : 10 + width]
    second = wide[:, 10 - down : 10 - down + height, 10 - right : 10 - right + width]
    return first, second


def ramp(right: int, down: int, size: int = 32) -> Tensor:
    """Draw a picture that grows by so many grey levels per pixel."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    level = right * x + down * y
    return (level - level.min()).to(torch.uint8).expand(1, 2, 3, size, size)


@pytest.mark.parametrize("name", DESCRIPTORS)
@pytest.mark.parametrize(("frames", "height", "width"), [(2, 16, 16), (3, 33, 47), (2, 96, 40)])
def test_every_descriptor_gives_cells_of_its_length(
    name: str, frames: int, height: int, width: int
) -> None:
    video = torch.stack([texture(height, width, seed) for seed in range(2 * frames)])
    video = video.unflatten(0, (2, frames))
    found = DESCRIPTORS[name](video)
    times = {"raw pixels": frames, "flow histogram": frames - 1}.get(name, 1)
    assert found.shape == (2, 8, 8, LENGTHS[name] * times)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert torch.equal(found, DESCRIPTORS[name](video))
    torch.testing.assert_close(found[1:], DESCRIPTORS[name](video[1:]))  # no clip sees another


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_cells_lie_where_they_are_drawn(name: str) -> None:
    first, second = shifted(3, -2, 64, 64)
    video = torch.stack([first, second])[None]
    quarter = (..., slice(0, 32), slice(0, 32))
    video[quarter] = 128  # nothing to see, nothing moves: top left
    found = DESCRIPTORS[name](video)[0]
    flat = found[:2, :2]  # the border of the quarter is an edge, and flow bleeds over it
    if name == "raw pixels":
        torch.testing.assert_close(flat, torch.full_like(flat, 128 / 255))
    else:
        assert flat.abs().max() < 0.1 * found[5:, 5:].abs().max()
    assert (found[5:, 5:] - flat.mean((0, 1))).abs().amax(-1).min() > 0.1


def test_raw_pixels_by_hand() -> None:
    video = torch.randint(0, 256, (2, 2, 3, 16, 16), dtype=torch.uint8)
    found = raw_pixels(video).unflatten(-1, (2, 3, 2, 2))
    assert found[1, 5, 2, 1, 2, 0, 1] == video[1, 1, 2, 10, 5] / 255  # a quarter is one pixel here
    halves = raw_pixels(video, cells=4).unflatten(-1, (2, 3, 2, 2))
    mean = video[0, 0, 1, 4:6, 14:16].float().mean() / 255
    torch.testing.assert_close(halves[0, 1, 3, 0, 1, 0, 1], mean)


def test_pixel_difference_is_last_minus_first() -> None:
    video = torch.randint(0, 256, (1, 3, 3, 24, 24), dtype=torch.uint8)
    ends = raw_pixels(video).unflatten(-1, (3, -1))
    torch.testing.assert_close(pixel_difference(video), ends[..., 2, :] - ends[..., 0, :])
    torch.testing.assert_close(pixel_difference(video.flip(1)), -pixel_difference(video))


def test_identical_frames_have_no_change_and_no_flow_at_all() -> None:
    video = texture(40, 56).expand(1, 3, 3, 40, 56)
    assert pixel_difference(video).eq(0).all()
    assert flow_histogram(video).eq(0).all()


@pytest.mark.parametrize(
    ("right", "down", "bin_"), [(4, 0, 0), (-4, 0, 0), (3, 3, 2), (0, 4, 4), (0, -4, 4), (3, -3, 6)]
)
def test_a_ramp_has_one_unsigned_orientation(right: int, down: int, bin_: int) -> None:
    inner = hog(ramp(right, down))[0, 2:-2, 2:-2].unflatten(-1, (2, 4, 8))
    # four equal cells share a block of length 1, and its contrast is far above a hundredth
    size = 2 * 2 * math.hypot(right, down) / 255
    expected = torch.full_like(inner[..., 0], 0.5 / math.hypot(1, 0.01 / size))
    torch.testing.assert_close(inner[..., bin_], expected)
    others = [i for i in range(8) if i != bin_]
    assert inner[..., others].abs().max() < 1e-5


def test_between_two_orientations_both_count() -> None:
    inner = hog(ramp(6, 1))[0, 2:-2, 2:-2].unflatten(-1, (2, 4, 8))  # 9.46 degrees: 0.42 of a bin
    m, share = 2 * math.hypot(6, 1) / 255, math.atan2(1, 6) / math.pi * 8
    own = [m * (1 - share), m * share]
    size = 2 * math.hypot(*own)
    clipped = [min(0.2, each / size) for each in own]
    assert clipped[0] == 0.2  # half of it and more would be one orientation's
    length = 2 * math.hypot(*clipped) * math.hypot(1, 0.01 / size)
    expected = torch.tensor([each / length for each in clipped]).expand(*inner.shape[:-1], 2)
    torch.testing.assert_close(inner[..., :2], expected, atol=1e-4, rtol=1e-4)


def hog_by_definition(frame: np.ndarray, cells: int) -> np.ndarray:
    """Count pixel by pixel and block by block."""
    colours, size, _ = frame.shape
    wide, side = np.pad(frame / 255.0, ((0, 0), (1, 1), (1, 1)), "edge"), size // cells
    votes = np.zeros((cells + 2, cells + 2, 8))  # with the empty cells past the border
    for y, x in np.ndindex(size, size):
        slopes = [
            (wide[c, y + 1, x + 2] - wide[c, y + 1, x], wide[c, y + 2, x + 1] - wide[c, y, x + 1])
            for c in range(colours)
        ]
        dx, dy = max(slopes, key=lambda slope: np.round(np.hypot(*slope), 9))
        low, share = divmod(np.arctan2(dy, dx) / np.pi * 8, 1)
        for bin_, part in ((int(low) % 8, 1 - share), (int(low + 1) % 8, share)):
            votes[1 + y // side, 1 + x // side, bin_] += np.hypot(dx, dy) * part / side**2
    found = np.zeros((cells, cells, 4, 8))
    for i, j in np.ndindex(cells, cells):
        for corner, (y, x) in enumerate(np.ndindex(2, 2)):  # where in its block the cell lies
            block = votes[1 + i - y : 3 + i - y, 1 + j - x : 3 + j - x]
            length = np.linalg.norm(block)
            clipped = np.minimum(block / length, 0.2)
            clipped /= np.linalg.norm(clipped)
            found[i, j, corner] = clipped[y, x] * length / np.hypot(length, 0.01)
    return found.reshape(cells, cells, -1)


def test_hog_equals_its_definition_and_looks_at_both_ends() -> None:
    video = torch.stack([texture(16, 16, seed) for seed in range(3)])
    found = hog(video[None], cells=4)[0].numpy()
    ends = [hog_by_definition(video[k].numpy(), 4) for k in (0, 2)]
    np.testing.assert_allclose(found, np.concatenate(ends, -1), atol=1e-5)


def test_hog_is_the_same_in_other_light() -> None:
    frame = (texture(64, 64) // 2).expand(1, 2, 3, 64, 64)
    seen = hog(frame)
    assert torch.equal(hog(frame + 60), seen)
    torch.testing.assert_close(hog(255 - frame), seen)  # edges have no sign
    assert (hog(frame * 2) - seen).abs().max() < 0.01


def test_the_noise_of_a_flat_wall_is_no_edge() -> None:
    generator = torch.Generator().manual_seed(0)
    wall = torch.randint(127, 129, (1, 2, 3, 64, 64), generator=generator).to(torch.uint8)
    assert hog(wall).max() < 0.25 * hog(ramp(4, 0)).max()
    assert hog(torch.full_like(wall, 90)).eq(0).all()


def test_an_edge_of_one_colour_counts_as_one_of_all() -> None:
    grey = ramp(4, 0)
    red = grey.clone()
    red[:, :, 1:] = 200
    torch.testing.assert_close(hog(red), hog(grey))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80), (28, 40), (20, 20)])
def test_dis_follows_a_shift(height: int, width: int) -> None:
    first, second = shifted(3, -2, height, width)
    flow = dis_flow(first[None], second[None])
    assert flow.shape == (1, 2, height, width)
    inner = flow[0, :, height // 4 : -height // 4, width // 4 : -width // 4]
    assert (inner - torch.tensor([3.0, -2.0])[:, None, None]).abs().max() < 0.2


def test_dis_leaves_the_threads_of_opencv_as_they_were() -> None:
    import cv2

    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(2)
        dis_flow(*(frame[None] for frame in shifted(1, 0, 32, 32)))
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


def test_no_frames_have_no_flow() -> None:
    empty = torch.zeros(0, 3, 32, 40, dtype=torch.uint8)
    assert dis_flow(empty, empty).shape == (0, 2, 32, 40)


@pytest.mark.parametrize(
    ("right", "down", "bin_"), [(3, 0, 0), (3, 3, 1), (0, 3, 2), (-3, 0, 4), (0, -3, 6), (3, -3, 7)]
)
def test_the_histogram_peaks_where_things_go(right: int, down: int, bin_: int) -> None:
    video = torch.stack(shifted(right, down, 64, 64))[None]
    inner = flow_histogram(video)[0, 2:-2, 2:-2]
    assert inner[..., :8].argmax(-1).eq(bin_).all()
    speed = torch.full_like(inner[..., bin_], math.hypot(right, down))
    torch.testing.assert_close(inner[..., bin_], speed, atol=0.3, rtol=0)
    torch.testing.assert_close(inner[..., :8].sum(-1), speed, atol=0.2, rtol=0)
    moved = torch.tensor([right, down]).float().expand(4, 4, 2)
    torch.testing.assert_close(inner[..., 8:], moved, atol=0.2, rtol=0)


def test_flow_between_successive_frames_in_their_order() -> None:
    first, second = shifted(3, 0, 64, 64)
    video = torch.stack([first, second, second, first])[None]
    moved = flow_histogram(video).unflatten(-1, (3, 10))[0, 2:-2, 2:-2, :, 8].mean((0, 1))
    torch.testing.assert_close(moved, torch.tensor([3.0, 0.0, -3.0]), atol=0.05, rtol=0)


def test_cell_flow_by_hand() -> None:
    flow = torch.arange(32.0).view(1, 2, 4, 4)
    torch.testing.assert_close(cell_flow(flow, 2)[0, 0], torch.tensor([[2.5, 4.5], [10.5, 12.5]]))
    visible = torch.ones(1, 4, 4, dtype=torch.bool)
    visible[0, 0, 0] = False  # of 0, 1, 4, 5
    visible[0, 2:, 2:] = False
    flow[0, :, 0, 0] = torch.nan  # what is hidden need not be known
    found = cell_flow(flow, 2, visible)[0]
    torch.testing.assert_close(found[0, 0], torch.tensor([10 / 3, 4.5]))
    torch.testing.assert_close(found[1, 0], torch.tensor([16 + 10 / 3, 20.5]))
    assert found[:, 1, 1].isnan().all()
    assert found[:, 1, 0].isfinite().all()


@pytest.mark.parametrize("name", DESCRIPTORS)
@pytest.mark.parametrize("shape", [(1, 1, 3, 64, 64), (1, 2, 3, 64, 12)])
def test_too_little_to_describe_is_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"at least 2 frames of 16 x 16 pixels"):
        DESCRIPTORS[name](torch.zeros(shape, dtype=torch.uint8))


def test_more_cells_need_more_pixels() -> None:
    with pytest.raises(DataError, match="at least 2 frames of 28 x 28"):
        raw_pixels(torch.zeros(1, 2, 3, 24, 24, dtype=torch.uint8), cells=14)
