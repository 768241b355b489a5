"""Floors that look but do not learn: classical descriptors of a clip, cell by cell.

    raw pixels         every frame, small
    pixel difference   the last frame minus the first, small, with its sign
    HOG                histograms of oriented gradients of the first and the last frame
    flow histogram     where things move between successive frames: optical flow, by direction

Each maps ``k`` frames to ``g x g`` cells (the tokens of a dense probe; their mean or all of them in
a row for a pooled one), needs no weights and gives the same numbers every time. Image axes are x
right and y down. Gradients and flow are of the luminance or the strongest colour, as the papers do.

HOG: Dalal and Triggs, 2005, https://doi.org/10.1109/CVPR.2005.177.
DIS optical flow: Kroeger et al., 2016, https://arxiv.org/abs/1603.03590.
"""

import math

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from saccade.errors import DataError

CELLS = 8  # along each side
SMALLEST = 16  # pixels along a side: two for each cell
BINS = 8  # orientations
CLIP, DARK = 0.2, 0.01  # of HOG's blocks: see _normalised
FLOW_SIDE = 32  # DIS needs pyramid levels to see motion of a few pixels


def raw_pixels(video: UInt8[Tensor, "b k 3 h w"], cells: int = CELLS) -> Float[Tensor, "b g g d"]:
    """Return the mean colours of every cell's four quarters in each frame, in [0, 1]."""
    _check(video, cells)
    return _quarters(video, cells)


def pixel_difference(
    video: UInt8[Tensor, "b k 3 h w"], cells: int = CELLS
) -> Float[Tensor, "b g g d"]:
    """Return how the colours of every cell's four quarters changed from first to last frame."""
    _check(video, cells)
    return _quarters(video[:, -1:], cells) - _quarters(video[:, :1], cells)


def hog(video: UInt8[Tensor, "b k 3 h w"], cells: int = CELLS) -> Float[Tensor, "b g g d"]:
    """Describe the edges of the first and the last frame: 8 unsigned orientations in each cell.

    Bin ``i`` is centred on gradients at ``i / 8`` of a half turn; 0 is a gradient along x, which
    an upright edge has. A cell's histogram comes four times: normalised by each block of 2 x 2
    cells that it lies in (L2-Hys), where cells past the border count as empty.
    """
    _check(video, cells)
    ends = rearrange(video[:, [0, -1]], "b k c h w -> (b k) c h w").float()
    smooth = F.pad(ends, (1, 1, 1, 1), mode="replicate")
    dx = smooth[..., 1:-1, 2:] - smooth[..., 1:-1, :-2]
    dy = smooth[..., 2:, 1:-1] - smooth[..., :-2, 1:-1]
    dx, dy = _strongest(dx, dy)  # of whole levels, so that brighter light changes nothing at all
    found = _normalised(_by_orientation(dx / 255, dy / 255, cells, math.pi))
    return rearrange(found, "(b k) d i j -> b i j (k d)", k=2)


def flow_histogram(
    video: UInt8[Tensor, "b k 3 h w"], cells: int = CELLS
) -> Float[Tensor, "b g g d"]:
    """Describe the motion between successive frames: 8 directions, mean dx, mean dy in each cell.

    Direction ``i`` is ``i / 8`` of a turn from x to y: 0 right, 2 down. A histogram holds the mean
    length of the flow (pixels) that points its way, so its sum is the mean speed.
    """
    _check(video, cells)
    first, second = (
        rearrange(part, "b k ... -> (b k) ...") for part in (video[:, :-1], video[:, 1:])
    )
    flow = dis_flow(first, second)
    directions = _by_orientation(flow[:, 0], flow[:, 1], cells, 2 * math.pi)
    found = torch.cat([directions, cell_flow(flow, cells)], 1)
    return rearrange(found, "(b k) d i j -> b i j (k d)", b=len(video))


def dis_flow(
    first: UInt8[Tensor, "b 3 h w"], second: UInt8[Tensor, "b 3 h w"]
) -> Float[Tensor, "b 2 h w"]:
    """Return where each pixel of the first frame went, in pixels: dense inverse search.

    OpenCV's medium preset, on one thread. Frames of less than 32 pixels are enlarged for it.
    """
    import cv2

    size = tuple(first.shape[-2:])
    larger = math.ceil(FLOW_SIDE / min(size))
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        found = []
        for pair in zip(first, second, strict=True):
            grey = [
                cv2.cvtColor(
                    np.ascontiguousarray(frame.permute(1, 2, 0).cpu().numpy()), cv2.COLOR_RGB2GRAY
                )
                for frame in pair
            ]
            if larger > 1:
                grey = [
                    cv2.resize(g, None, fx=larger, fy=larger, interpolation=cv2.INTER_LINEAR)
                    for g in grey
                ]
            flow = search.calc(*grey, None)  # pyright: ignore[reportCallIssue, reportArgumentType]
            found.append(torch.from_numpy(flow).permute(2, 0, 1))
    finally:
        cv2.setNumThreads(threads)
    if not found:
        return torch.zeros(0, 2, *size, device=first.device)
    return (F.avg_pool2d(torch.stack(found), larger) / larger).to(first.device)


def cell_flow(
    flow: Float[Tensor, "b 2 h w"], cells: int, visible: Bool[Tensor, "b h w"] | None = None
) -> Float[Tensor, "b 2 g g"]:
    """Average the flow of each cell over its visible pixels; NaN where none is visible."""
    if visible is None:
        return F.adaptive_avg_pool2d(flow, cells)
    seen = visible[:, None]
    total = F.adaptive_avg_pool2d(flow.where(seen, 0), cells)  # hidden flow may not be finite
    return total / F.adaptive_avg_pool2d(seen.to(flow.dtype), cells)  # 0 / 0 is NaN


def _check(video: UInt8[Tensor, "b k 3 h w"], cells: int) -> None:
    frames, (height, width) = video.shape[1], video.shape[-2:]
    least = max(SMALLEST, 2 * cells)
    if frames < 2 or min(height, width) < least:
        raise DataError(
            f"a clip of {frames} frame(s) of {height} x {width} pixels is too little for {cells} x "
            f"{cells} cells of a descriptor; give at least 2 frames of {least} x {least} pixels"
        )


def _quarters(video: UInt8[Tensor, "b k 3 h w"], cells: int) -> Float[Tensor, "b g g d"]:
    """Average every quarter of every cell, in [0, 1]."""
    small = F.adaptive_avg_pool2d(video.flatten(0, 1) / 255, 2 * cells)
    return rearrange(small, "(b k) c (i y) (j x) -> b i j (k c y x)", b=len(video), y=2, x=2)


def _strongest(
    dx: Float[Tensor, "b 3 h w"], dy: Float[Tensor, "b 3 h w"]
) -> tuple[Float[Tensor, "b h w"], Float[Tensor, "b h w"]]:
    """Take each pixel's gradient in the colour where it is longest (argmax is ten times slower)."""
    length = dx.square() + dy.square()
    best, right, down = length[:, 0], dx[:, 0], dy[:, 0]
    for colour in (1, 2):
        longer = length[:, colour] > best
        best = torch.where(longer, length[:, colour], best)
        right = torch.where(longer, dx[:, colour], right)
        down = torch.where(longer, dy[:, colour], down)
    return right, down


def _by_orientation(
    dx: Float[Tensor, "b h w"], dy: Float[Tensor, "b h w"], cells: int, turn: float
) -> Float[Tensor, "b 8 g g"]:
    """Average the lengths of vectors in each cell, shared between the two nearest orientations.

    Orientations repeat after ``turn``: half a turn where the sign does not count.
    """
    length = torch.hypot(dx, dy)
    place = torch.remainder(torch.atan2(dy, dx) * (BINS / turn), BINS)
    bins = []
    for i in range(BINS):  # one after the other: all at once would take eight times the memory
        apart = (place - i).abs()
        near = 1 - torch.minimum(apart, BINS - apart)
        bins.append(F.adaptive_avg_pool2d(length * near.clamp_min(0), cells))
    return torch.stack(bins, 1)


def _normalised(cells: Float[Tensor, "b 8 g g"]) -> Float[Tensor, "b 32 g g"]:
    """Normalise each cell's histogram by the four blocks of 2 x 2 cells around it (L2-Hys).

    A block gets length 1, no entry above 0.2, and length 1 again: one strong edge must not hide
    the others. The noise of a flat wall is no edge, so a block whose contrast is a hundredth of
    full scale counts 0.7, and ever less below.
    """
    side = cells.shape[-1]
    wide = F.pad(cells, (1, 1, 1, 1))
    corners = [(y, x) for y in (0, 1) for x in (0, 1)]
    block = torch.stack([wide[..., y : y + side + 1, x : x + side + 1] for y, x in corners], 1)
    contrast = torch.linalg.vector_norm(block, dim=(1, 2), keepdim=True)
    block = (block / contrast.clamp_min(1e-12)).clamp_max(CLIP)
    block = F.normalize(block.flatten(1, 2), dim=1).view_as(block)
    block = block * contrast / torch.hypot(contrast, torch.full_like(contrast, DARK))
    own = [
        block[:, i, :, 1 - y : 1 - y + side, 1 - x : 1 - x + side]
        for i, (y, x) in enumerate(corners)
    ]
    return torch.cat(own, 1)
