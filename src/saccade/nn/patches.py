"""Pictures as rows of patches, and patches with their brightness and contrast taken out."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def patchify(image: Float[Tensor, "b c h w"], patch: int) -> Float[Tensor, "b n p"]:
    """Cut an image into square patches, row by row."""
    return rearrange(image, "b c (i y) (j x) -> b (i j) (y x c)", y=patch, x=patch)


def unpatchify(patches: Float[Tensor, "b n p"], patch: int) -> Float[Tensor, "b c h w"]:
    """Invert ``patchify`` for a square image."""
    side = round(patches.shape[1] ** 0.5)
    return rearrange(patches, "b (i j) (y x c) -> b c (i y) (j x)", i=side, y=patch, x=patch)


def normalise_patches(patches: Float[Tensor, "b n p"], floor: float) -> Float[Tensor, "b n p"]:
    """Give each patch mean 0 and standard deviation 1 (He et al., 2022, section 4.1).

    ``floor`` is added to the standard deviation, in units of full scale: patches that are flatter
    than it keep a small contrast, so sensor noise is not blown up.
    """
    return (patches - patches.mean(-1, keepdim=True)) / contrast(patches, floor)


def contrast(patches: Float[Tensor, "b n p"], floor: float) -> Float[Tensor, "b n 1"]:
    """Return what ``normalise_patches`` divides by."""
    return patches.std(-1, keepdim=True) + floor
