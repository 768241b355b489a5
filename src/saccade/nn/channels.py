"""What two pathways of the eye would see of a pair of frames.

    motion M = clamp([dL, dR, dG, dB], -1, 1),  d = later - now       (how much changed, signed)
    form   P = [gx, gy, R, G, B] of *now*,      g = Sobel(z(L)) / max |g|

``L`` is BT.709 luminance and ``z`` its z-score over the image, clamped to +-3. M keeps absolute
scale, because the size of a change is information; P's gradients do not depend on gain or
offset, because illumination is not. P never sees the later frame: that would leak the target.
Following the public description of action-agnostic-visual-rl (``spec/two_stream.md`` section 1).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

LUMINANCE = (0.2126, 0.7152, 0.0722)
Border = Literal["zeros", "replicate"]


def luminance(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    """Weigh the colours as the eye does (BT.709); fixed, because learned weights were unstable."""
    weight = image.new_tensor(LUMINANCE).view(3, 1, 1)
    return (image * weight).sum(1, keepdim=True)


def motion(
    now: Float[Tensor, "b 3 h w"], later: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, "b 4 h w"]:
    """Return the signed change of luminance, red, green and blue."""
    change = later - now
    return torch.cat([luminance(change), change], dim=1).clamp(-1, 1)


def form(image: Float[Tensor, "b 3 h w"], border: Border) -> Float[Tensor, "b 5 h w"]:
    """Return horizontal and vertical edges, the strongest of length 1, and the colours.

    ``border="zeros"`` is the published operator; it draws a frame around the picture, whose
    strength often sets the normalisation. ``"replicate"`` does not.
    """
    light = luminance(image)
    std, mean = torch.std_mean(light, dim=(2, 3), keepdim=True)
    z = ((light - mean) / (std + 1e-6)).clamp(-3, 3)
    edges = sobel(z, border)
    strength = edges.square().sum(1, keepdim=True).sqrt().amax((2, 3), keepdim=True)
    return torch.cat([edges / strength.clamp(min=1e-6), image], dim=1)


def sobel(image: Float[Tensor, "b 1 h w"], border: Border) -> Float[Tensor, "b 2 h w"]:
    """Return the 3x3 Sobel derivatives along x and along y."""
    mode = "constant" if border == "zeros" else "replicate"
    x = F.pad(image, (1, 1, 1, 1), mode=mode)
    across, down = x[..., 2:] - x[..., :-2], x[..., 2:, :] - x[..., :-2, :]
    gx = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    gy = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    return torch.cat([gx, gy], dim=1)
