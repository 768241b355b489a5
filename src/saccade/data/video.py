"""Video files: write them so that random frames are cheap, read exactly the frames asked for.

A frame is found by its presentation time, never by counting, and a frame that is not there is an
error, never a neighbour.

Files that we write are H.264 in which every frame is a keyframe. Prediction between frames would
halve the size, but it deletes the sensor's noise: on a static background of 2 grey levels of
noise, 9 in 10 pixels then do not change at all between two frames, which makes motion an oracle.
A constant rate factor of 10 keeps that noise, 18 removes two thirds of it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import torch
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import Float64, Int, UInt8
from torch import Tensor

from saccade.errors import DataError, SpaceError

CODEC, PIXELS = "h264", "yuv420p"
OPTIONS = {"preset": "fast", "crf": "10", "g": "1"}
BT601, LIMITED = 5, 1  # colour matrix and range, so that no player has to guess
SLACK = 0.25  # of a frame interval: a time this far off still names one frame only


def encode(path: Path, frames: UInt8[np.ndarray, "t h w 3"], fps: float) -> None:
    """Write frames as H.264; the same frames give the same bytes.

    Raises:
        DataError: no frames, or an odd height or width, which 4:2:0 colour cannot hold.
        SpaceError: the disk is full.
    """
    count, height, width, _ = frames.shape
    if not count or height % 2 or width % 2:
        raise DataError(f"{path} cannot hold {count} frames of {height} x {width}; use even sizes")
    with _failures(path), av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=_rate(fps), options=OPTIONS)
        stream.width, stream.height, stream.pix_fmt = width, height, PIXELS
        stream.codec_context.colorspace, stream.codec_context.color_range = BT601, LIMITED
        stream.codec_context.thread_count = 1  # threads change the bytes
        for frame in frames:
            picture = VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    path.chmod(0o644)


def decode(
    path: Path, frames: Int[np.ndarray, " t"], fps: float, from_timestamp: float = 0.0
) -> UInt8[Tensor, "t 3 h w"]:
    """Read frames, which may repeat, in any order.

    Frame ``k`` is the one shown at ``from_timestamp + k / fps`` seconds.

    Raises:
        DataError: the file is missing or damaged, or has no frame at one of the times.
    """
    distinct, positions = np.unique(frames, return_inverse=True)
    with _failures(path), av.open(str(path), "r") as container:
        stream = _stream(container)
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"err_detect": "explode"}
        seconds = from_timestamp + distinct / fps
        pictures = list(_pictures(container, stream, seconds, SLACK / fps))
        if not pictures:
            return torch.empty(0, 3, stream.height, stream.width, dtype=torch.uint8)
    return torch.from_numpy(np.stack(pictures)[positions])


def concatenate(paths: Sequence[Path], out: Path) -> list[tuple[float, float]]:
    """Join files of ``encode`` without encoding again; return the seconds that each one spans.

    Raises:
        DataError: a file is damaged, or was not encoded like the first.
        SpaceError: the disk is full.
    """
    spans: list[tuple[float, float]] = []
    with _failures(out), av.open(str(out), "w", format="mp4") as joined:
        target, kind, end = None, None, 0
        for path in paths:
            with _failures(path), av.open(str(path), "r") as part:
                source = _stream(part)
                if target is None:
                    target, kind = joined.add_stream_from_template(source), _kind(source)
                if _kind(source) != kind:
                    raise DataError(f"{path} is not encoded like {paths[0]}; write both again")
                start = end
                for packet in part.demux(source):
                    if packet.pts is None or packet.dts is None:  # marks the end of the file
                        continue
                    end = max(end, start + packet.pts + (packet.duration or 0))
                    packet.pts, packet.dts = start + packet.pts, start + packet.dts
                    packet.stream = target
                    joined.mux(packet)
                spans.append((float(start * _base(source)), float(end * _base(source))))
    out.chmod(0o644)
    return spans


def decode_image(data: bytes, source: str) -> UInt8[Tensor, "3 h w"]:
    """Decode an embedded PNG or JPEG; ``source`` says in errors where it came from.

    Raises:
        DataError: the bytes are not an image.
    """
    try:
        with av.open(BytesIO(data), "r") as container:
            return torch.from_numpy(_rgb(next(container.decode(video=0))))
    except (FFmpegError, StopIteration, IndexError) as error:
        raise DataError(f"{source} is not a readable image ({error}); download it again") from error


def _pictures(
    container: InputContainer,
    stream: VideoStream,
    seconds: Float64[np.ndarray, " t"],
    slack: float,
) -> Iterator[UInt8[np.ndarray, "3 h w"]]:
    """Yield the frames at ascending times, skipping ahead only where that saves decoding."""
    decoder, frame, found = iter(()), None, ""
    for time in seconds:
        wanted = round(time / _base(stream))
        ahead = frame is None or _keyframe(stream, wanted) > (frame.pts or 0)
        # A frame of an open group may need pictures before its keyframe: then from the beginning.
        for start in (wanted, 0) if ahead else (None,):
            try:
                if start is not None:
                    container.seek(start, stream=stream)
                    decoder = container.decode(stream)
                    frame = next(decoder, None)
                while frame is not None and frame.time < time - slack:
                    frame = next(decoder, None)
                found = f"{frame.time:.4f} s" if frame else "the end"
            except FFmpegError as error:
                frame, found = None, str(error)
            if frame is not None and frame.time <= time + slack:
                break
        else:
            raise DataError(
                f"{container.name} has no intact frame at {time:.4f} s, but {found}; "
                "download or write it again"
            )
        yield _rgb(frame)


def _stream(container: InputContainer) -> VideoStream:
    if not container.streams.video:
        raise DataError(f"{container.name} has no video stream; download or write it again")
    return container.streams.video[0]


def _keyframe(stream: VideoStream, wanted: int) -> int:
    """Return the time of the last keyframe before ``wanted``; -1 where the file has no index."""
    entry = stream.index_entries.search_timestamp(wanted, backward=True)
    return stream.index_entries[entry].timestamp if entry >= 0 else -1


def _rgb(frame: VideoFrame) -> UInt8[np.ndarray, "3 h w"]:
    return np.ascontiguousarray(frame.to_ndarray(format="rgb24").transpose(2, 0, 1))


def _kind(stream: VideoStream) -> tuple[Fraction, bytes | None]:
    return _base(stream), stream.codec_context.extradata


def _base(stream: VideoStream) -> Fraction:
    return stream.time_base or Fraction(1, 90_000)


def _rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1001)  # 29.97 is 30000/1001


@contextmanager
def _failures(path: Path) -> Iterator[None]:
    """Turn errors of FFmpeg into ours, with the file's name."""
    try:
        yield
    except FFmpegError as error:
        if error.errno in (ENOSPC, EDQUOT):
            raise SpaceError(f"no room for {path}; free some space and rerun") from error
        raise DataError(f"{path} cannot be read or written as video ({error})") from error
