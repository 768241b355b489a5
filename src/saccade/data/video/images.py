"""Pictures that are stored one by one, as JPEG or PNG.

A JPEG decodes to what libjpeg-turbo makes of it, which is what Pillow shows. What is grey becomes
RGB exactly; CMYK, transparency and more than 8 bits have no exact RGB and are refused. An
orientation in EXIF is ignored, as TensorFlow does: frames of a data set are stored as seen.
"""

from collections.abc import Callable, Sequence

import numpy as np
import simplejpeg
import torch
from jaxtyping import UInt8
from torch import Tensor

from saccade.errors import DataError

Data = bytes | memoryview

LARGEST = 1 << 25  # pixels: 8K; a header that says more would take gigabytes
JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
EXACT = ("rgb24", "gray", "monob", "pal8")  # pixel formats of PNG, by FFmpeg's names


def decode_image(data: Data, source: str) -> UInt8[Tensor, "3 h w"]:
    """Decode a JPEG or PNG; ``source`` says in errors where it came from.

    Raises:
        DataError: the bytes are no such picture, damaged, too large, or without an exact RGB.
    """
    return decode_images([data], lambda _: source)[0]


def decode_images(data: Sequence[Data], source: Callable[[int], str]) -> UInt8[Tensor, "t 3 h w"]:
    """Decode pictures of one size; in memory they are [t, h, w, 3].

    ``source(i)`` says in errors where picture ``i`` came from.

    Raises:
        DataError: as ``decode_image``, or the sizes differ.
    """
    if not data:
        return torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    out: UInt8[np.ndarray, "t h w 3"] | None = None
    for i, each in enumerate(data):
        try:
            if out is None:
                out = np.empty((len(data), *_size(each), 3), np.uint8)
            _decode_into(each, out[i])
        except ValueError as error:
            raise DataError(
                f"{source(i)} is not a readable image ({error!s:.120}); download it again"
            ) from error
    assert out is not None
    return torch.from_numpy(out).permute(0, 3, 1, 2)


def _size(data: Data) -> tuple[int, int]:
    """Return height and width as the header says."""
    if bytes(data[:8]) == PNG:
        if len(data) < 24:
            raise ValueError("its header is cut off")
        width, height = (int.from_bytes(data[at : at + 4]) for at in (16, 20))
    elif bytes(data[:2]) == JPEG:
        tall, wide, colours, _ = simplejpeg.decode_jpeg_header(data)
        height, width = int(tall), int(wide)
        if colours not in ("YCbCr", "RGB", "Gray"):
            raise ValueError(f"its colours are {colours}, which have no exact RGB")
    else:
        raise ValueError(f"it begins with {bytes(data[:8])!r}, which is neither JPEG nor PNG")
    if not 0 < height * width <= LARGEST:
        raise ValueError(f"it has {height} x {width} pixels, at most {LARGEST} are read")
    return height, width


def _decode_into(data: Data, out: UInt8[np.ndarray, "h w 3"]) -> None:
    size = _size(data)
    if size != out.shape[:2]:
        raise ValueError(f"its size is {size}, that of the first is {out.shape[:2]}")
    if bytes(data[:2]) == JPEG:
        simplejpeg.decode_jpeg(data, "RGB", buffer=out)
    else:
        out[:] = _png(bytes(data))


def _png(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Decode without a container, checking what there is to check."""
    import av  # a fifth of a second, which data sets of JPEGs need not wait for
    from av.error import FFmpegError
    from av.video.frame import VideoFrame

    decoder = av.CodecContext.create("png", "r")
    decoder.thread_count, decoder.options = 1, {"err_detect": "crccheck+explode"}
    try:
        frames = decoder.decode(av.Packet(data))
    except FFmpegError as error:
        raise ValueError(error.strerror) from error
    if len(frames) != 1:
        raise ValueError("it is cut off")
    (frame,) = frames
    if not isinstance(frame, VideoFrame) or frame.format.name not in EXACT:
        raise ValueError(f"its pixels are {frame.format.name}, which have no exact RGB")
    if frame.format.name == "pal8" and frame.to_ndarray(format="rgba")[..., 3].min() < 255:
        raise ValueError("its palette is transparent, which has no exact RGB")
    return frame.to_ndarray(format="rgb24")
