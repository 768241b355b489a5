"""Video files: write them so that random frames are cheap, read exactly the frames asked for.

A frame is found by its presentation time, never by counting packets, and a frame that is not
there is an error, never a neighbour. See ``film`` for how.

Files that we write are H.264 in which every frame is a keyframe. Prediction between frames would
halve the size, but it deletes the sensor's noise: on a static background of 2 grey levels of
noise, 9 in 10 pixels then do not change at all between two frames, which makes motion an oracle.
A constant rate factor of 10 keeps that noise, 18 removes two thirds of it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from math import ceil, floor
from pathlib import Path

import av
import numpy as np
import torch
from av.video.frame import VideoFrame
from jaxtyping import Int, UInt8
from torch import Tensor

from saccade.data.video.film import Film, Span, failures, film
from saccade.errors import DataError

CODEC, PIXELS = "h264", "yuv420p"
OPTIONS = {"preset": "fast"}
BT601, LIMITED = 5, 1  # colour matrix and range, so that no player has to guess
SLACK = 0.25  # of a frame interval: a time this far off still names one frame only


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What is in a video file.

    Args:
        frames: how many are shown; an edit list may hide some that are stored.
        height: of a stored frame, in pixels (a display matrix may turn it by 90 degrees).
        width: of a stored frame, in pixels.
        codec: FFmpeg's name, such as h264, hevc, av1, vp9.
        fps: what the header says, which need not be when the frames were taken; 0 if nothing.
    """

    frames: int
    height: int
    width: int
    codec: str
    fps: float


def video_info(path: Path) -> VideoInfo:
    """Describe a video file without decoding a frame.

    An MP4 is described from its index alone, which is compared with the size of the file; of
    other containers every packet is read.

    Raises:
        DataError: the file is missing, cut off or damaged, or has no video stream, no frame or
            two frames with one time.
    """
    with film(path) as lent:
        found = VideoInfo(
            frames=lent.count(),
            height=lent.stream.height,
            width=lent.stream.width,
            codec=lent.codec.codec.canonical_name,
            fps=float(lent.stream.average_rate or 0),
        )
    if not found.frames:
        raise DataError(f"{path} holds no frame; download or write it again")
    return found


def decode_frames(path: Path, frames: Int[np.ndarray, " t"]) -> UInt8[Tensor, "t 3 h w"]:
    """Read frames by their number in the order in which they are shown, whatever the frame rate.

    They may repeat and come in any order, upright and in RGB. The memory is ``[t, h, w, 3]``.

    Raises:
        DataError: the file is missing or damaged, or has no such frame.
    """
    distinct, positions = np.unique(frames, return_inverse=True)
    with film(path) as lent:
        times = lent.pts()
        if len(distinct) and not 0 <= distinct[0] <= distinct[-1] < len(times):
            raise DataError(
                f"{path} has {len(times)} frames, asked for are {distinct[0]} to {distinct[-1]}; "
                "read within the episode"
            )
        names = [f"{k} (pts {times[k]})" for k in distinct]
        return _stack(lent, [(int(times[k]), int(times[k])) for k in distinct], names, positions)


def decode(
    path: Path, frames: Int[np.ndarray, " t"], fps: float, from_timestamp: float = 0.0
) -> UInt8[Tensor, "t 3 h w"]:
    """Read frames by their time: frame ``k`` is shown at ``from_timestamp + k / fps`` seconds.

    They may repeat and come in any order, upright and in RGB. The memory is ``[t, h, w, 3]``.

    Raises:
        DataError: the file is missing or damaged, or has no frame at one of the times.
    """
    distinct, positions = np.unique(frames, return_inverse=True)
    seconds, slack = from_timestamp + distinct / fps, SLACK / fps
    with film(path) as lent:
        spans = [
            (ceil((time - slack) / lent.base), floor((time + slack) / lent.base))
            for time in seconds.tolist()
        ]
        return _stack(lent, spans, [f"at {time:.4f} s" for time in seconds], positions)


def encode(
    path: Path,
    frames: Iterable[UInt8[np.ndarray, "h w 3"]],
    fps: float,
    *,
    gop: int = 1,
    crf: int = 10,
    fastdecode: bool = False,
    exact: bool = False,
) -> None:
    """Write frames as H.264 in MP4; the same frames give the same bytes.

    Args:
        path: where to write.
        frames: pictures of one size, as an array or one after another.
        fps: frames per second.
        gop: frames from one keyframe to the next; more than one is smaller and slower to seek,
            and deletes the sensor's noise.
        crf: constant rate factor: 0 is lossless but for the colours' resolution, 51 the worst.
        fastdecode: leave out what is slow to decode: 1.5 times as fast, a sixth larger.
        exact: keep every bit of the RGB picture: ``decode`` returns what was written.

    Raises:
        DataError: no frames, or frames of several sizes, or an odd height or width, which 4:2:0
            colour cannot hold.
        SpaceError: the disk is full.
    """
    pictures = iter(frames)
    first = next(pictures, None)
    height, width = (0, 0) if first is None else first.shape[:2]
    if first is None or (not exact and (height % 2 or width % 2)):
        held = "no frames" if first is None else f"frames of {height} x {width}"
        raise DataError(f"{path} cannot hold {held}; use even sizes")
    options = OPTIONS | {"g": str(gop)} | ({"qp": "0"} if exact else {"crf": str(crf)})
    if fastdecode:
        options["tune"] = "fastdecode"
    with failures(path), av.open(f"file:{path}", "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264rgb" if exact else "libx264", rate=_rate(fps), options=options
        )
        stream.width, stream.height = width, height
        stream.pix_fmt = "rgb24" if exact else PIXELS
        if not exact:
            stream.codec_context.colorspace, stream.codec_context.color_range = BT601, LIMITED
        stream.codec_context.thread_count = 1  # threads change the bytes
        for frame in chain([first], pictures):
            if frame.shape[:2] != (height, width):
                raise DataError(f"{path} cannot hold {frame.shape} beside {first.shape}")
            picture = VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    path.chmod(0o644)


def concatenate(paths: Sequence[Path], out: Path) -> list[tuple[float, float]]:
    """Join files of ``encode`` without encoding again; return the seconds that each one spans.

    Raises:
        DataError: a file is damaged, or was not encoded like the first.
        SpaceError: the disk is full.
    """
    spans: list[tuple[float, float]] = []
    with failures(out), av.open(f"file:{out}", "w", format="mp4") as joined:
        target, kind, end = None, None, 0
        for path in paths:
            with film(path) as part:
                kind_here = part.base, part.codec.extradata
                if target is None:
                    target, kind = joined.add_stream_from_template(part.stream), kind_here
                if kind_here != kind:
                    raise DataError(f"{path} is not encoded like {paths[0]}; write both again")
                start = end
                for packet in part.packets():
                    if packet.pts is None or packet.dts is None:
                        raise DataError(f"{path} has frames without a time; write it again")
                    end = max(end, start + packet.pts + (packet.duration or 0))
                    packet.pts, packet.dts = start + packet.pts, start + packet.dts
                    packet.stream = target
                    joined.mux(packet)
                spans.append((float(start * part.base), float(end * part.base)))
    out.chmod(0o644)
    return spans


def _stack(
    lent: Film, spans: list[Span], names: list[str], positions: Int[np.ndarray, " t"]
) -> UInt8[Tensor, "t 3 h w"]:
    """Decode distinct frames and put each wherever it was asked for."""
    video = np.empty((len(positions), lent.stream.height, lent.stream.width, 3), np.uint8)
    for number, picture in enumerate(lent.pictures(spans, names)):
        if not number:
            video = np.empty((len(positions), *picture.shape), np.uint8)
        if picture.shape != video.shape[1:]:
            raise DataError(
                f"{lent.path} changes its size from {video.shape[1:3]} to {picture.shape[:2]} "
                f"at frame {names[number]}; write it again"
            )
        video[positions == number] = picture
    return torch.from_numpy(video).permute(0, 3, 1, 2)


def _rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1001)  # 29.97 is 30000/1001
