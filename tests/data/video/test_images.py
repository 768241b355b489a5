"""What is stored is what is shown, or an error: no grey levels of someone's guess."""

import io

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from saccade.data.video import images
from saccade.data.video.images import decode_image, decode_images
from saccade.errors import DataError

RGB = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
SMOOTH = np.kron(RGB[:3, :4], np.ones((8, 8, 1))).astype(np.uint8)


def stored(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def shown(video: torch.Tensor) -> np.ndarray:
    return video.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_png_is_exact(mode: str) -> None:
    picture = Image.fromarray(RGB).convert(mode)
    expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(shown(decode_image(stored(picture), "x")), expected)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_is_what_pillow_shows(mode: str) -> None:
    data = stored(Image.fromarray(SMOOTH).convert(mode), "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(shown(decode_image(data, "x")) - expected).max() <= 1  # decoders round apart


def test_an_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees
    data = stored(Image.fromarray(SMOOTH), "JPEG", exif=exif)
    assert decode_image(data, "x").shape == (3, 24, 32)


@pytest.mark.parametrize(
    "picture",
    [
        stored(Image.fromarray(RGB).convert("RGBA")),
        stored(Image.fromarray(RGB).convert("LA")),
        stored(Image.fromarray(RGB).quantize(9), transparency=2),
        stored(Image.fromarray(np.arange(768, dtype=np.uint16).reshape(24, 32))),
        stored(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
    ],
    ids=["rgba", "grey and alpha", "transparent palette", "16 bit", "cmyk"],
)
def test_what_has_no_exact_rgb_is_refused(picture: bytes) -> None:
    with pytest.raises(DataError, match=r"row 3 is not a readable image \(.*no exact RGB"):
        decode_image(picture, "row 3")


def test_damage_is_found() -> None:
    jpeg = simplejpeg.encode_jpeg(SMOOTH, 95, "RGB", "420")
    png = stored(Image.fromarray(RGB))
    for data in (jpeg, png):
        for end in (0, 1, 9, 20, len(data) // 2, len(data) - 6):
            with pytest.raises(DataError, match="is not a readable image"):
                decode_image(data[:end], "a cut")
    for place in range(8, len(png), 31):
        broken = bytearray(png)
        broken[place] ^= 16
        with pytest.raises(DataError):
            decode_image(bytes(broken), "a flip")
    for data in (b"GIF89a" + bytes(99), b"not an image", bytes(1000), b"\xff\xd8\xff" + bytes(99)):
        with pytest.raises(DataError, match="row 3 is not a readable image"):
            decode_image(data, "row 3")


def test_a_bomb_is_refused_by_its_header() -> None:
    jpeg = bytearray(simplejpeg.encode_jpeg(SMOOTH, 95, "RGB", "420"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = (60_000).to_bytes(2) * 2
    png = bytearray(stored(Image.fromarray(RGB)))
    png[16:24] = (10**6).to_bytes(4) * 2
    for data in (jpeg, png):
        with pytest.raises(DataError, match=f"at most {images.LARGEST} are read"):
            decode_image(bytes(data), "a bomb")


def test_many_are_decoded_into_one_array() -> None:
    pictures = [np.roll(SMOOTH, i, 0) for i in range(3)]
    data = [simplejpeg.encode_jpeg(picture, 95, "RGB", "420") for picture in pictures]
    video = decode_images([memoryview(each) for each in data], lambda i: f"frame {i}")
    assert video.permute(0, 2, 3, 1).is_contiguous()
    for one, all_ in zip(data, video, strict=True):
        assert torch.equal(decode_image(one, "x"), all_)
    assert decode_images([], lambda i: "none").shape[:2] == (0, 3)


def test_frames_of_two_sizes_are_no_video() -> None:
    sizes = (SMOOTH, SMOOTH[:16], SMOOTH.swapaxes(0, 1).copy(), np.tile(SMOOTH, (2, 1, 1)))
    jpegs = [simplejpeg.encode_jpeg(picture, 95, "RGB", "420") for picture in sizes]
    for other in jpegs[1:]:
        with pytest.raises(DataError, match=r"frame 1 .*that of the first is \(24, 32\)"):
            decode_images([jpegs[0], other], lambda i: f"frame {i}")
