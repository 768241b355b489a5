"""One open video file: its frames by presentation time, each the exact one or an error.

A decoder gives whatever it can make of a stream: it drops what it cannot decode, hides damage, and
after a seek starts where it likes. So every frame is asked for by its presentation time (pts, in
units of the stream's time base), and a frame with another time is never taken for it. Pictures
come upright: the display matrix of the container, by which a phone says how it was held, is
applied.

What FFmpeg can see of damage is an error. Flipped bits that still make a valid stream it cannot
see (most in HEVC and VP9, which carry no checksums): only a checksum of the file finds those.

A few files stay open in each process, with their decoders where they stopped, so that the next
request need not open the file, and one that lies ahead in the same group need not start again.
"""

import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EDQUOT, ENOSPC
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import Int64, UInt8

from saccade.errors import DataError, SpaceError

OPEN_FILES = 8  # per process, each with its decoder
# A playlist or a script that calls itself a video must not make us open other files.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
ONLY_FILES = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
STRICT = {"err_detect": "explode", "max_pixels": str(2**26)}  # 8192 x 8192
EBML, SEGMENT = 0x1A45DFA3, 0x18538067  # the two outermost elements of Matroska and WebM

Span = tuple[int, int]  # the first and the last time by which one frame is known
Shown = tuple[int, VideoFrame]  # when, and what


class Film:
    """An open video file.

    Raises:
        DataError: the file is missing or damaged, or holds no video.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with failures(path):  # "file:" since a path may have a colon, as the dates in DROID's do
            self.container = av.open(
                f"file:{path}", "r", options=ONLY_FILES, metadata_errors="replace"
            )
        streams = self.container.streams.video
        if not streams or not streams[0].codec_context:
            self.container.close()
            lack = "codec that FFmpeg knows" if streams else "video stream"
            raise DataError(f"{path} has no {lack}; download it again, or write it as H.264")
        self.stream: VideoStream = streams[0]
        self.codec = self.stream.codec_context
        self.codec.thread_count, self.codec.options = 1, STRICT
        with failures(path):
            self.codec.open()  # before ``skip_frame`` is set, which dav1d reads only now
        self.base = self.stream.time_base or Fraction(1, 90_000)
        self._reformatter = VideoReformatter()
        self._pts: Int64[np.ndarray, " n"] | None = None
        self._frames: Iterator[VideoFrame] = iter(())
        self._last: Shown | None = None  # the latest that the decoder gave; None: seek first
        self._landed = self._delay = 0  # of the latest seek: time of its keyframe, shown - decoded
        self._packet = self._sent = 0  # times of packets: the latest, the highest since that seek
        self._target: Span = (0, 0)

    def close(self) -> None:
        """Free the decoder and close the file."""
        self._frames, self._last = iter(()), None
        self.container.close()

    def packets(self) -> Iterator[Packet]:
        """Yield the packets of the whole file, in the order in which they are stored."""
        self._last = None
        with failures(self.path):
            self.container.seek(self._beginning(), stream=self.stream)
            yield from (packet for packet in self.container.demux(self.stream) if packet.size)

    def pts(self) -> Int64[np.ndarray, " n"]:
        """Return the times of all frames that are shown, ascending. Reads the file, once.

        Raises:
            DataError: the file is cut off, or two frames have one time.
        """
        if self._pts is None:
            avi = self.container.format.name == "avi"  # its index is at its end, lost when cut
            expected = self.stream.frames if avi else len(self.stream.index_entries)
            packets = list(self.packets())
            times = [self._time(packet) for packet in packets if not packet.is_discard]
            if len(packets) < expected or any(packet.is_corrupt for packet in packets):
                raise self._cut(f"{len(packets)} of {expected} frames are whole")
            if ends := _segment_end(self.path):
                raise self._cut(f"it should have {ends} bytes")
            self._pts = np.unique(np.array(times, np.int64))
            if len(self._pts) < len(times):
                raise DataError(
                    f"{self.path} shows {len(times)} frames at {len(self._pts)} different times, "
                    "so they cannot be told apart; write it again"
                )
        return self._pts

    def count(self) -> int:
        """Count the frames that are shown, from the index where the container has a whole one.

        Raises:
            DataError: the file is cut off.
        """
        entries = self.stream.index_entries
        if not 0 < self.stream.frames == len(entries):
            return len(self.pts())
        size, end = self.path.stat().st_size, 0
        shown = 0
        for entry in entries:
            end, shown = max(end, entry.pos + entry.size), shown + (not entry.is_discard)
        if end > size:
            raise self._cut(f"it should have {end} bytes")
        return shown

    def pictures(self, spans: list[Span], names: list[str]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """Yield the frames at some times, which ascend; ``names`` are for messages.

        Raises:
            DataError: a frame is not there, or it or one that it is predicted from is damaged.
        """
        for span, name in zip(spans, names, strict=True):
            self._target = span
            yield self._upright(self._find(name))

    def _find(self, name: str) -> VideoFrame:
        """Decode the target. A packet that fails wherever decoding started is damaged."""
        failed, found = None, "the end"
        for start in self._starts():
            try:
                shown = self._reach(start)
            except FFmpegError as error:
                self._last, found = None, str(error)
                if failed == self._packet:
                    break
                failed = self._packet
            else:
                if shown is not None and shown[0] <= self._target[1] and not shown[1].is_corrupt:
                    return shown[1]
                found = f"{float(shown[0] * self.base):.4f} s" if shown else "the end"
        raise DataError(
            f"{self.path} has no intact frame {name}, but {found}; download or write it again"
        )

    def _starts(self) -> Iterator[int | None]:
        """Yield where decoding may start: None, here; then further and further back.

        A frame may need pictures from before the keyframe that the container offers for it.
        """
        last, beginning = self._target[1], self._beginning()
        key = self._keyframe(last - self._delay) + self._delay
        if self._last is not None and self._last[0] <= last and key <= self._sent:
            yield None
        for _ in range(2):
            if last > beginning:
                yield last
                last = self._landed - self._delay - 1
        yield beginning

    def _reach(self, start: int | None) -> Shown | None:
        """Decode to the first frame that is not before the target; None where the file ends."""
        if start is not None:
            self.container.seek(start, stream=self.stream)
            self._frames, self._last, self._landed = self._decode(start), None, start
        while self._last is None or self._last[0] < self._target[0]:
            frame = next(self._frames, None)
            if frame is None:
                self._last = None
                break
            self._last = self._time(frame), frame
        return self._last

    def _decode(self, start: int) -> Iterator[VideoFrame]:
        """Decode from here on; before the target only what others are predicted from."""
        for number, packet in enumerate(self.container.demux(self.stream)):
            if packet.size:
                time = self._time(packet)
                if not number:
                    self._sent = self._landed = time
                    self._delay = time - (time if packet.dts is None else packet.dts)
                    if time > self._target[1] and start > self._beginning():
                        return  # too late
                self._packet, self._sent = time, max(self._sent, time)
                self.codec.skip_frame = "NONREF" if time < self._target[0] else "DEFAULT"
            yield from packet.decode()

    def _upright(self, frame: VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
        """Convert to RGB, a view of it, as the display matrix says.

        A pixel (x, y) is shown at (a x + c y, b x + d y), plus a shift.
        """
        rgb = self._reformatter.reformat(frame, format="rgb24", threads=1)
        plane = rgb.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        picture = rows[: rgb.height, : rgb.width * 3].reshape(rgb.height, rgb.width, 3)
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return picture
        numbers = np.frombuffer(memoryview(matrix), np.int32)[[0, 1, 3, 4]]
        (a, b, c, d), rest = (numbers // 2**16).tolist(), numbers % 2**16
        if rest.any() or sorted(map(abs, (a, b, c, d))) != [0, 0, 1, 1] or abs(a) != abs(d):
            raise DataError(
                f"{self.path} is to be shown turned by {frame.rotation} degrees or resized, which "
                "is not a quarter turn; write it upright"
            )
        shown = picture if a else picture.transpose(1, 0, 2)
        return shown[:: b + d, :: a + c]

    def _keyframe(self, time: int) -> int:
        """Return when the last keyframe not after a time is decoded, as far as is known."""
        entry = self.stream.index_entries.search_timestamp(time, backward=True)
        return self.stream.index_entries[entry].timestamp if entry >= 0 else self._beginning()

    def _beginning(self) -> int:
        """Return a time from which nothing is left out; an edit list puts frames before 0."""
        entries = self.stream.index_entries
        return min(0, self.stream.start_time or 0, entries[0].timestamp if len(entries) else 0)

    def _time(self, item: Packet | VideoFrame) -> int:
        if item.pts is None:
            raise DataError(f"{self.path} has frames without a time; write it again as MP4")
        return item.pts

    def _cut(self, found: str) -> DataError:
        size = self.path.stat().st_size
        return DataError(f"{self.path} is cut off at {size} bytes ({found}); download it again")


_FILMS: OrderedDict[tuple[str, int, int], Film] = OrderedDict()
os.register_at_fork(after_in_child=_FILMS.clear)  # a child would move the parent's file position


@contextmanager
def film(path: Path) -> Iterator[Film]:
    """Lend a film to one thread: one that this process holds open, or a new one.

    Raises:
        DataError: the file is missing or damaged, or holds no video.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); download it again") from error
    key = (str(path), stat.st_size, stat.st_mtime_ns)
    lent = _FILMS.pop(key, None) or Film(path)
    try:
        with failures(path):
            yield lent
    except BaseException:
        lent.close()  # whatever state its decoder is in
        raise
    _FILMS[key] = lent
    while len(_FILMS) > OPEN_FILES:
        with suppress(KeyError):  # another thread took the last
            _FILMS.popitem(last=False)[1].close()


@contextmanager
def failures(path: Path) -> Iterator[None]:
    """Turn errors of FFmpeg into ours, with the file's name."""
    try:
        yield
    except FFmpegError as error:
        if error.errno in (ENOSPC, EDQUOT):
            raise SpaceError(f"no room for {path}; free some space and rerun") from error
        raise DataError(f"{path} cannot be read or written as video ({error})") from error


def _segment_end(path: Path) -> int:
    """Return how long a Matroska file says it is, where that is longer than it is; else 0.

    FFmpeg reads a cut one to its end without an error. An element is an identifier, a size of
    1 to 8 bytes whose leading zeros say how many, and that many bytes (RFC 8794).
    """
    with path.open("rb") as file:
        end = 0
        for identifier in (EBML, SEGMENT):
            file.seek(end)
            head = file.read(12)
            if int.from_bytes(head[:4], "big") != identifier or len(head) < 5 or not head[4]:
                return 0
            width = 9 - head[4].bit_length()
            size = int.from_bytes(head[4 : 4 + width], "big") & (2 ** (7 * width) - 1)
            end += 4 + width + size
        unknown = size == 2 ** (7 * width) - 1
        return 0 if unknown or end <= path.stat().st_size else end
