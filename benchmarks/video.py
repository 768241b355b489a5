"""Milliseconds per random pair and 16-frame clip of a 1080p video, against other decoders.

All give uint8 frames of 256 x 256 pixels, with one thread, from files that they keep open:

- ours: ``decode_frames`` and ``fit``, from the original file;
- PyAV as it is commonly used: seek to the keyframe, decode to the last frame wanted;
- with ``--peers FOLDER``: OpenCV and torchcodec, installed there on first use. They run in
  processes of their own. Where the system has no FFmpeg, torchcodec is given PyAV's.

Then ours from what ``saccade data cache`` makes of the file: a frame store, and short clips.
"""

import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
import torch
import tyro
from jaxtyping import UInt8
from timing import Work, emit, measure, ratio
from torch import Tensor
from torch.nn import functional as F

from saccade.data.cache.reader import CachedEpisodes
from saccade.data.transforms import fit
from saccade.data.video.codec import decode_frames, encode
from saccade.data.video.folder import VideoFolderConfig

FPS, SIZE, QUERIES = 30, 256, 4
PEERS = ("opencv-python-headless", "torchcodec==0.13.0")
Query = list[int]
Read = Callable[[Query], UInt8[Tensor, "t 3 256 256"]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time the reading of pairs (at most 30 frames apart) and of clips (16 frames in a row).

    Args:
        seconds: of the video that is made for the occasion, at 30 frames per second.
        height: of it; the width is 16/9 of that.
        bitrate: of it, in bits per second at 1080 lines; EgoDex has 5.4 million.
        gops: frames between keyframes, of one file each.
        peers: folder of the environment of OpenCV and torchcodec; empty leaves them out.
        repeats: rounds; each reader answers a few queries in each.
    """

    seconds: int = 12
    height: int = 1080
    bitrate: int = 5_400_000
    gops: tuple[int, ...] = (250, 30)
    peers: str = ""
    repeats: int = 7


def scene(options: Options) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Pan over a texture with coarse and fine grain, behind two moving discs, with noise."""
    rng = np.random.default_rng(0)
    height, width = options.height, options.height * 16 // 9 // 2 * 2
    small = (height // 2, width // 2)
    texture = torch.zeros(1, 3, small[0] + 64, small[1] + 64)
    for cell, strength in ((64, 60), (16, 25), (4, 12), (1, 5)):
        grain = [side // cell + 1 for side in texture.shape[2:]]
        noise = torch.from_numpy(rng.normal(0, strength, (1, 3, *grain))).float()
        texture += F.interpolate(noise, texture.shape[2:], mode="bilinear")
    y, x = np.mgrid[: small[0], : small[1]]
    for t in range(options.seconds * FPS):
        down, right = (int(32 + 30 * turn) for turn in (np.sin(t / 40), np.cos(t / 55)))
        frame = texture[:, :, down : down + small[0], right : right + small[1]] + 120
        for k in (1, 2):
            centre = (0.5 + 0.35 * np.sin(t / (14 * k) + k), 0.5 + 0.4 * np.cos(t / (19 * k) + k))
            disc = np.hypot(y - centre[0] * small[0], x - centre[1] * small[1]) < small[0] / 8
            frame[:, :, torch.from_numpy(disc)] = frame[:, :, torch.from_numpy(disc)] * 0.3 + 60 * k
        frame = frame + torch.from_numpy(rng.normal(0, 1.5, (1, 1, *small))).float()
        large = F.interpolate(frame, (height, width), mode="bicubic").clamp(0, 255)
        yield large[0].byte().permute(1, 2, 0).contiguous().numpy()


def write(path: Path, options: Options, gop: int) -> None:
    """Encode the scene as a camera would: H.264 with B-frames at a fixed rate of bits."""
    bits = options.bitrate * options.height**2 // 1080**2
    settings = {"preset": "fast", "b": str(bits), "g": str(gop)}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=settings)
        stream.width, stream.height = options.height * 16 // 9 // 2 * 2, options.height
        stream.pix_fmt = "yuv420p"
        for frame in scene(options):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())


def pyav(path: Path) -> Read:
    """Keep the file open; seek to the first frame's keyframe and decode on to the last frame."""
    container = av.open(str(path))
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    step = Fraction(1, FPS) / (stream.time_base or Fraction(1, FPS))

    def read(query: Query) -> Tensor:
        wanted, found = {round(k * step) for k in query}, []
        container.seek(min(wanted), stream=stream)
        for frame in container.decode(stream):
            if frame.pts in wanted:
                found.append(torch.from_numpy(frame.to_ndarray(format="rgb24")))
            if frame.pts is not None and frame.pts >= max(wanted):
                break
        return fit(torch.stack(found).permute(0, 3, 1, 2), SIZE)

    return read


class Peer:
    """OpenCV or torchcodec in a process of its own; ``problem`` says why it does not run."""

    def __init__(self, name: str, folder: Path, path: Path) -> None:
        script = Path(__file__).parent / "peers" / "video_peer.py"
        links = _ffmpeg_of_pyav(folder)
        self._process = subprocess.Popen(
            [folder / "bin" / "python", script, name, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"LD_LIBRARY_PATH": links if name == "torchcodec" else ""},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        ready = self._output.readline()
        self.problem = "" if ready else self._process.stderr.read().strip().splitlines()[-1]

    def ask(self, queries: list[Query]) -> dict[str, float]:
        """Have queries answered; return how long that took, and the first's mean grey level."""
        self._input.write(json.dumps(queries) + "\n")
        self._input.flush()
        return json.loads(self._output.readline())

    def close(self) -> None:
        """End the process."""
        self._input.close()
        self._process.wait()


def install(folder: Path) -> None:
    """Make the peers' environment: our torch and NumPy, and the peers' own packages."""
    if (folder / "bin" / "python").exists():
        return
    venv.create(folder, with_pip=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "ours.pth").write_text(str(Path(torch.__file__).parents[1]))
    command = [folder / "bin" / "python", "-m", "pip", "install", "-q", "--no-deps", *PEERS]
    subprocess.run(command, check=True, stdout=sys.stderr)


def _ffmpeg_of_pyav(folder: Path) -> str:
    """Link the FFmpeg inside PyAV under the names by which torchcodec looks for it."""
    bundled, links = Path(av.__file__).parents[1] / "av.libs", folder / "ffmpeg"
    links.mkdir(exist_ok=True)
    for library in bundled.glob("lib[as][vw]*-*.so.*"):
        name, version = library.name.split(".so.")
        link = links / f"{name.rsplit('-', 1)[0]}.so.{version.split('.')[0]}"
        link.unlink(missing_ok=True)
        link.symlink_to(library)
    return f"{links}:{bundled}"


def queries_of(kind: str, frames: int) -> list[Query]:
    """Draw the queries that every reader answers."""
    rng = np.random.default_rng(0)
    starts = rng.integers(0, frames - 31, QUERIES).tolist()
    if kind == "clip":
        return [list(range(start, start + 16)) for start in starts]
    return [[start, start + int(rng.integers(1, 31))] for start in starts]


def answer(read: Read, queries: list[Query]) -> Work:
    """Return work that answers all queries."""

    def work() -> int:
        for query in queries:
            read(query)
        return len(queries)

    return work


def compare(path: Path, kind: str, stores: dict[str, Read], options: Options) -> dict[str, Any]:
    """Return milliseconds per query of every reader, and how many times faster ours are."""
    queries = queries_of(kind, options.seconds * FPS)
    readers: dict[str, Read] = {
        "ours": lambda query: fit(decode_frames(path, np.array(query)), SIZE),
        "pyav": pyav(path),
    }
    shown = [readers["ours"](query) for query in queries]
    if not all(torch.equal(a, readers["pyav"](q)) for a, q in zip(shown, queries, strict=True)):
        raise AssertionError("we and PyAV do not read the same pixels")
    work = {name: answer(read, queries) for name, read in (readers | stores).items()}
    peers, problems = {}, {}
    for name in ("opencv", "torchcodec") if options.peers else ():
        peer = Peer(name, Path(options.peers).resolve(), path)
        if peer.problem:
            problems[name] = peer.problem
            continue
        off = abs(peer.ask(queries)["mean"] - float(shown[0].float().mean()))
        if off > 1.5:  # others scale and convert colours a little differently
            raise AssertionError(f"{name} reads other frames: they are {off:.1f} levels off")
        peers[name] = peer
        work[name] = lambda peer=peer: len(queries) * bool(peer.ask(queries))
    rates = measure(work, options.repeats)
    for peer in peers.values():
        peer.close()
    others = {name: ratio(rates["ours"], rates[name]) for name in ("pyav", *peers)}
    return {
        "ms": {name: 1000 / median(rate) for name, rate in rates.items()},
        "ours_times_faster_than": others,
        "stores_times_faster_than_pyav": {n: ratio(rates[n], rates["pyav"]) for n in stores},
        "not_run": problems,
    }


def make_stores(root: Path, options: Options) -> tuple[dict[str, Read], dict[str, float]]:
    """Make what is read instead of the original; return readers, and megabytes."""
    episodes = VideoFolderConfig(root=root / "videos").build()
    cached = CachedEpisodes(episodes, root / "cache", SIZE)
    (camera,) = cached.cameras
    clip = root / "clip.mp4"
    frames = (cached.pixels(0, camera, np.array([k]))[0] for k in range(cached.lengths[0]))
    encode(clip, (frame.permute(1, 2, 0).numpy() for frame in frames), FPS, fastdecode=True)
    readers: dict[str, Read] = {
        "frame_store": lambda query: cached.pixels(0, camera, np.array(query)),
        "clips": lambda query: decode_frames(clip, np.array(query)),
    }
    sizes = {"frame_store": cached.size_on_disk / 1e6, "clips": clip.stat().st_size / 1e6}
    return readers, sizes


def main(options: Options) -> None:
    torch.set_num_threads(1)
    if options.peers:
        install(Path(options.peers).resolve())
    for gop in options.gops:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "videos", f"gop{gop}.mp4")
            path.parent.mkdir()
            write(path, options, gop)
            stores, sizes = make_stores(Path(folder), options)
            found = {kind: compare(path, kind, stores, options) for kind in ("pair", "clip")}
            emit(
                {
                    "benchmark": "video",
                    "unit": "ms per query",
                    "gop": gop,
                    "height": options.height,
                    "megabytes": {"original": path.stat().st_size / 1e6, **sizes},
                    **found,
                }
            )


if __name__ == "__main__":
    main(tyro.cli(Options))
