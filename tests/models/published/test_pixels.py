"""Frames cut as transformers' own processors cut them, with Pillow, for every contract we name.

Greatest difference in grey levels, of pictures of pure noise (the worst case):

    contract                            processor of transformers     smaller  enlarged
    dinov2, vc1 (256, bicubic)          BitImageProcessorPil          1        2
    clip (224, bicubic)                 CLIPImageProcessorPil         1        2
    siglip (bicubic), siglip2           SiglipImageProcessorPil       1        2, 1
    mae (bicubic), ijepa (bilinear)     ViTImageProcessorPil          1        2, 1
    videomae (224, bilinear)            VideoMAEImageProcessorPil     1        1
    vjepa2 (292), r3m (256, bilinear)   BitImageProcessorPil          1        1
    dinov3 (bilinear, floats)           none has Pillow; see below    1.0      1.0

Fewer than 2 numbers in 100 differ at all. Pillow shrank rows before columns until version 13, and
so does torch; since then it takes columns first where a picture loses much of its height. That
is another picture: of noise, stretched from tall to square, a quarter of the numbers differ, by up
to 22 levels where it is bicubic (a smooth scene: by 1). We keep the order of the trainings; the
tests ask Pillow for it.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from saccade.errors import CheckpointError, ConfigError
from saccade.models.published.catalogue import ENTRIES
from saccade.models.published.pixels import Pixels, cut, read_pixels, resize, resize_in_floats
from saccade.types import Encoder, Preprocessing

SHAPES = {"landscape": (240, 401), "portrait": (365, 252), "small": (90, 131), "exact": (224, 224)}
PROCESSORS: dict[str, Any] = {
    "dinov2-base": BitImageProcessorPil,
    "vc1-base": BitImageProcessorPil,
    "r3m-50": BitImageProcessorPil,
    "clip-vit-b32": CLIPImageProcessorPil,
    "siglip-base": SiglipImageProcessorPil,
    "siglip2-base": SiglipImageProcessorPil,
    "mae-base": ViTImageProcessorPil,
    "ijepa-vith14": ViTImageProcessorPil,
    "videomae-base": VideoMAEImageProcessorPil,
    "vjepa2-vitl": BitImageProcessorPil,
}
MEAN, STD = [0.48, 0.45, 0.4], [0.26, 0.25, 0.27]
PIXELS: dict[str, Any] = {"do_normalize": True, "image_mean": MEAN, "image_std": STD}
CROPPED = PIXELS | {"size": {"shortest_edge": 32}, "do_center_crop": True}


def pictures(shape: tuple[int, int], count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(256, (1, count, 3, *shape), dtype=torch.uint8, generator=generator)


def squares_of(name: str, video: Tensor, rows_first: bool = True) -> Tensor:
    """What transformers gives before it scales, as 8-bit integers."""
    processor = PROCESSORS[name](**ENTRIES[name].pixels, do_rescale=False, do_normalize=False)
    frames = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in video[0]]
    contract = read_pixels(dict(ENTRIES[name].pixels))
    if rows_first and contract.stretched:
        rows, filter = (contract.edge, video.shape[3]), ENTRIES[name].pixels["resample"]
        frames = [frame.resize(rows, filter) for frame in frames]
    found = processor(frames, return_tensors="pt")["pixel_values"]
    return (found if found.ndim == 5 else found[None]).to(torch.uint8)


@pytest.mark.parametrize("name", list(PROCESSORS))
@pytest.mark.parametrize("shape", list(SHAPES))
def test_frames_are_cut_as_by_transformers_with_pillow(name: str, shape: str) -> None:
    video = pictures(SHAPES[shape])
    contract = read_pixels(dict(ENTRIES[name].pixels))
    found, expected = cut(video, contract), squares_of(name, video)
    assert found.shape == expected.shape == (1, 2, 3, contract.size, contract.size)
    apart = (found.int() - expected.int()).abs()
    enlarged = min(SHAPES[shape]) < contract.edge and contract.filter == "bicubic"
    assert apart.max() <= (2 if enlarged else 1)
    assert (apart > 0).float().mean() < 0.02


def test_the_order_of_a_newer_pillow_changes_no_scene() -> None:
    y, x = torch.meshgrid(torch.arange(365), torch.arange(252), indexing="ij")
    scene = torch.stack((x / 2 + y / 3, 255 - x, 128 + 100 * torch.sin(y / 9)))
    video = scene.clamp(0, 255).to(torch.uint8)[None, None]
    contract = read_pixels(dict(ENTRIES["siglip-base"].pixels))
    expected = squares_of("siglip-base", video, rows_first=False)
    assert (cut(video, contract).int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("shape", list(SHAPES))
def test_dinov3_resizes_before_it_rounds(shape: str) -> None:
    """Its processor has no Pillow and computes in floats; we round to levels, twice."""
    video = pictures(SHAPES[shape])
    contract = read_pixels(dict(ENTRIES["dinov3-vitb16"].pixels))
    expected = F.interpolate(video[0].float(), (224, 224), mode="bilinear", antialias=True)
    assert (
        cut(video, contract)[0] - expected
    ).abs().max() <= 1.01  # half for rows, half for columns


@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(120, 75), (40, 64)])
def test_devices_without_a_kernel_for_integers(filter: Any, shape: tuple[int, int]) -> None:
    frames = pictures(shape)[0]
    exact, found = (way(frames, (56, 60), filter) for way in (resize, resize_in_floats))
    assert (exact.int() - found.int()).abs().max() <= 2
    assert ((exact.int() - found.int()).abs() > 0).float().mean() < 0.05


def test_a_square_of_the_right_size_is_left_alone() -> None:
    video = pictures((28, 28))
    contract = read_pixels(PIXELS | {"size": 28})
    assert torch.equal(cut(video, contract), video)


def test_encoders_that_cannot_cut_refuse() -> None:
    encoder = Encoder()
    encoder.preprocessing = Preprocessing(num_frames=1, image_size=28)
    assert encoder.edge == 0
    assert torch.equal(encoder.prepare(pictures((28, 28))), pictures((28, 28)))
    with pytest.raises(ConfigError, match="takes frames of 28 x 28 pixels, not 28 x 30"):
        encoder.prepare(pictures((28, 30)))


def test_where_the_centre_is() -> None:
    """The corner is rounded down: 3 pixels too many leave 1 above and 2 below."""
    video = pictures((28, 31))
    contract = read_pixels(PIXELS | {"size": 28, "do_center_crop": True, "crop_size": 28})
    assert torch.equal(cut(video, contract), video[..., 1:29])


def test_pixels_by_hand() -> None:
    mean, std = tuple(MEAN), tuple(STD)
    found = read_pixels(CROPPED | {"crop_size": 28, "resample": 3})
    assert found == Pixels(28, mean, std, 32, stretched=False, filter="bicubic")
    plain = read_pixels({"size": 224, "do_normalize": False}, "bicubic")
    assert plain == Pixels(224, (0, 0, 0), (1, 1, 1), 224, stretched=True, filter="bicubic")
    both = read_pixels(CROPPED | {"size": {"height": 32, "width": 32}, "crop_size": 28})
    assert both == Pixels(28, mean, std, 32, stretched=True, filter="bilinear")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (PIXELS | {"size": 28, "rescale_factor": 1 / 127.5}, "only 1/255"),
        (PIXELS | {"size": 28, "do_rescale": False}, "only 1/255"),
        ({"size": 28, "image_mean": MEAN}, "image_std None"),
        ({"size": 28, "image_mean": 0.5, "image_std": STD}, "image_mean 0.5"),
        ({"size": 28, "image_mean": MEAN, "image_std": [1, 0, 1]}, "above 0"),
        (PIXELS | {"size": {"height": 28, "width": 30}}, "not the side of a square"),
        (PIXELS | {"size": {"shortest_edge": 28}}, "crops no square"),
        (CROPPED | {"crop_size": 40}, "resizes to 32 and crops 40"),
        (PIXELS | {"do_resize": False}, "resizes to 0 and crops 0"),
        (PIXELS, "size None"),
        (PIXELS | {"size": 28, "resample": 1}, "resample 1"),
    ],
)
def test_pixels_that_nobody_can_know(said: dict[str, Any], told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        read_pixels(said)
